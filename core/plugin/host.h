/* SPDX-License-Identifier: Apache-2.0 */
/* The host table (tenon/host.h) of one plugin instance, and what the plugin holds of the host's. */
#ifndef CORE_PLUGIN_HOST_H
#define CORE_PLUGIN_HOST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "tenon/host.h"

struct host;
struct ledger;

/* `name` is copied; `cpu` are the features to report. `ledger` may be NULL. */
int32_t host_new(const char *name, const uint64_t cpu[2], struct ledger *ledger, struct host **out,
                 tn_err *err);

/* What the plugin gets. It points into `h`. */
const tn_host *host_table(const struct host *h);

/* Bytes that the plugin has taken and not given back; threads it has started and not joined. */
uint64_t host_bytes(const struct host *h);
uint32_t host_threads(const struct host *h);

/*
 * Ends the instance's use of the host, after its `fini`. Memory that it left is logged and freed. If threads are still
 * running nothing is freed, since they may use the table at any time: false, and `h` leaks on purpose.
 * NULL is allowed.
 */
bool host_free(struct host *h);

#endif
