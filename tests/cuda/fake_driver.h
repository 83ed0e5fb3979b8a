/* SPDX-License-Identifier: Apache-2.0 */
/* What a test asks of the false CUDA driver, which it opens with dlopen beside the plugin. */
#ifndef TESTS_CUDA_FAKE_DRIVER_H
#define TESTS_CUDA_FAKE_DRIVER_H

#include <cuda.h>

struct fake_launch {
    CUlaunchConfig config;
    CUlaunchAttribute attrs[8];
    void *first_param; /* params[0] */
};

struct fake_api {
    /* Back to the start: one device of capability 9.0, nothing fails, counts are 0. */
    void (*reset)(void);
    /* From now on the `nth` call (1: the next) of any function, or of `name` if not NULL, returns `code`. */
    void (*arrange)(const char *name, int nth, CUresult code);
    /* Calls since the reset: of `name`, or of all that count towards `nth` above (NULL). */
    int (*calls)(const char *name);
    /* Blocks, streams, events, graphs, libraries and contexts that exist. */
    int (*live)(void);
    void (*set_devices)(int n);
    void (*set_capability)(int major, int minor);
    void (*set_version)(int version);
    void (*set_free)(size_t bytes); /* device memory left */
    const struct fake_launch *(*last_launch)(void);
    int (*executed)(void); /* kernels run, in replays too */
};

#endif
