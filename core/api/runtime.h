/* SPDX-License-Identifier: Apache-2.0 */
/* What tenon.h hides: the parts of a runtime. */
#ifndef CORE_API_RUNTIME_H
#define CORE_API_RUNTIME_H

#include "base/ledger.h"
#include "loop/loop.h"
#include "tenon.h"

struct tn_runtime {
    struct conf *conf;
    struct ledger *ledger;
    struct registry *registry;
    struct instance *instance;
    struct loop *loop;
};

/* A configuration file (or NULL) and settings that win over it, checked. All errors of the file go into one
 * tn_err: the first with its place, the number of others in the message. */
int32_t runtime_load_conf(const char *path, const tn_kv *settings, uint32_t n, struct conf **out,
                          tn_err *err);

#endif
