/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sharing the items of a job among the workers of a device.
 *
 * Items are handed out in runs that shrink towards the end, so that a worker held up by another process
 * costs little, and consecutive items (which lie together in memory) mostly go to one worker. Which worker
 * does an item never changes a result.
 */
#ifndef CPU_SHARE_H
#define CPU_SHARE_H

#include "cpu.h"

/* Computes items [first, last); `worker` < n_workers names the scratch that is its own. */
typedef void (*share_fn)(void *arg, uint32_t first, uint32_t last, uint32_t worker);

/* Runs `fn` over items [0, n) on the workers of `l`'s device, or on the caller alone if the whole is
 * too short for that: `ns` is about how long it takes one worker. */
void share_items(const struct cpu_instance *in, const tn_launch *l, share_fn fn, void *arg,
                 uint32_t n, double ns);

/* Likewise on a given device; NULL: on the caller. */
void share_on(const struct cpu_instance *in, tn_device *device, share_fn fn, void *arg, uint32_t n,
              double ns);

/* Most workers that a launch may have: what workspaces are sized for. */
uint32_t share_workers(const struct cpu_instance *in);

#endif
