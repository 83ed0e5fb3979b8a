/* SPDX-License-Identifier: Apache-2.0 */
/* An engine made ready on one device: plugins found, device opened, plan bound, cache allocated. The step loop runs it;
 * `tenon plugin explain` looks at it without loading anything. */
#ifndef CORE_LOOP_INSTANCE_H
#define CORE_LOOP_INSTANCE_H

#include "conf/conf.h"
#include "engine/engine.h"
#include "engine/meta.h"
#include "exec/bind.h"
#include "plugin/registry.h"

struct instance_options {
    const struct conf *conf; /* outlives the instance */
    struct registry *registry;
    struct ledger *ledger;
    const char *engine;
    bool dry; /* choose kernels only */
    int (*progress)(void *arg, uint64_t done, uint64_t total);
    void *arg;
};

struct instance {
    struct instance_options o;
    const struct registry_view *view;
    struct engine *engine;
    struct engine_meta meta;
    struct registry_sets sets;
    struct kernel_source sources[REGISTRY_MAX_SETS];
    uint32_t n_attached; /* sets that were attached to the device */
    struct pin *pins;
    const tn_device_api *api;
    void *device_instance;
    tn_device *device;
    tn_device_info info;
    char place[48]; /* "cpu:0" */
    struct binding *binding;
    /* Limits in force: the configuration's where it names them, else the engine's. */
    uint32_t vocab, max_seq_len, max_input_len, max_output_len, max_batch_size, max_num_tokens;
    uint32_t max_logits, block_tokens, n_pages, act_dtype, kv_dtype;
};

int32_t instance_open(const struct instance_options *o, struct instance **out, tn_err *err);
void instance_close(struct instance *in); /* NULL is allowed */

/* Opens the registry that a configuration describes. */
int32_t instance_registry(const struct conf *conf, struct ledger *ledger, struct registry **out,
                          tn_err *err);

#endif
