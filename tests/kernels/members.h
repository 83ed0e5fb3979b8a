/* SPDX-License-Identifier: Apache-2.0 */
/* A kernel for any composition, in host memory: its members one after another, each by a kernel of its own. */
#ifndef TESTS_KERNELS_MEMBERS_H
#define TESTS_KERNELS_MEMBERS_H

#include "tenon/kernels.h"

/* Runs the op `l->op`, a member, in host memory. */
typedef int32_t (*member_fn)(void *arg, const tn_launch *l, tn_err *err);

/* Runs the members of `l->op` in order; values between them are kept in memory of the heap. The workspace is enough for each,
 * one at a time. Any thread. The first error ends it. */
int32_t members_run(const tn_launch *l, member_fn run, void *arg, tn_err *err);

#endif
