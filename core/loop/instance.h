/* SPDX-License-Identifier: Apache-2.0 */
/* An engine made ready to run: what its ranks share. Plugins found, engine mapped, limits settled, and each rank of this
 * process opened on its device (rank.h). The step loop runs it; `tenon plugin explain` looks at it without loading
 * anything. */
#ifndef CORE_LOOP_INSTANCE_H
#define CORE_LOOP_INSTANCE_H

#include "conf/conf.h"
#include "engine/engine.h"
#include "engine/meta.h"
#include "plugin/registry.h"
#include "tenon/kernels.h"

struct rank;
struct crew;

struct instance_options {
    const struct conf *conf; /* outlives the instance */
    struct registry *registry;
    struct ledger *ledger;
    const char *engine;
    bool dry; /* choose kernels only */
    int32_t (*tap)(void *arg, const tn_launch *l, bool after, tn_err *err); /* bind.h; or NULL */
    void *tap_arg;
    int (*progress)(void *arg, uint64_t done, uint64_t total);
    void *arg;
};

struct instance {
    struct instance_options o;
    const struct registry_view *view;
    struct engine *engine;
    struct engine_meta meta;
    const tn_device_api *api; /* of the kind of device that all ranks run on */
    void *device_instance;
    struct registry_sets sets;
    struct crew *crew; /* drives the ranks */
    struct rank *
        *ranks; /* those of this process; rank 0 of the run has the logits and the tokens */
    uint32_t n_ranks;
    /* Limits in force: the configuration's where it names them, else the engine's. */
    uint32_t vocab, max_seq_len, max_input_len, max_output_len, max_batch_size, max_num_tokens;
    uint32_t max_logits, block_tokens, n_pages;
};

/* After an error *out is NULL, but for a rank that does not come back: then it is what instance_close will refuse to close. */
int32_t instance_open(const struct instance_options *o, struct instance **out, tn_err *err);

/* NULL is allowed. False if a rank did not come back from a plugin: the instance stays as it is, and so must all that it stands
 * on (configuration, registry, ledger), for the rank still uses them. */
bool instance_close(struct instance *in);

/* Opens the registry that a configuration describes. */
int32_t instance_registry(const struct conf *conf, struct ledger *ledger, struct registry **out,
                          tn_err *err);

#endif
