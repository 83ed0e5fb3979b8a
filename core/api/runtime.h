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
    struct tn_runtime *next; /* of those left behind */
};

/* Who watches the ops of every step, see exec/bind.h. */
struct runtime_tap {
    int32_t (*fn)(void *arg, const tn_launch *l, bool after, tn_err *err);
    void *arg;
};

/* tn_open with a watcher; NULL: none. */
int32_t runtime_open(const tn_open_options *o, const struct runtime_tap *tap, tn_runtime **out,
                     tn_err *err);

/* A configuration file (or NULL) and settings that win over it, checked. All errors of the file go into one
 * tn_err: the first with its place, the number of others in the message. */
int32_t runtime_load_conf(const char *path, const tn_kv *settings, uint32_t n, struct conf **out,
                          tn_err *err);

#endif
