/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A fixed set of workers that run one function at a time, all together.
 *
 * Between two jobs of a step a worker spins, since waking a sleeping thread costs as much as a small
 * matrix product; after spin_us without work it sleeps, so that an idle server burns no CPU.
 */
#ifndef CPU_POOL_H
#define CPU_POOL_H

#include "cpu.h"

struct pool;

/* Starts threads, one less than this share of settings->threads (at least one worker): the caller of pool_run is the
 * remaining worker. With `pin`, shares are bound to CPUs side by side. */
int32_t pool_open(const tn_host *host, const struct cpu_settings *settings, uint32_t share,
                  uint32_t n_shares, struct pool **out, tn_err *err);

/* Stops and joins the threads. NULL is allowed. No pool_run is in progress. */
void pool_close(struct pool *p);

uint32_t pool_size(const struct pool *p);

/* Runs fn(arg, i, n) for all i < n at once and returns when all have. If the pool is at work already
 * (two rank threads share the device, or fn itself calls in), the caller does it alone: fn(arg, 0, 1). */
void pool_run(struct pool *p, tn_parallel_fn fn, void *arg);

#endif
