/* SPDX-License-Identifier: Apache-2.0 */
/* What a test asks of the false libnccl.so.2, which it opens with dlopen beside the plugin. */
#ifndef TESTS_COMM_SHIM_NCCL_H
#define TESTS_COMM_SHIM_NCCL_H

struct shim_api {
    /* Back to the start: nothing fails, counts are 0, the version is 2.28.9. */
    void (*reset)(void);
    /* The `nth` call (1: the next) of the function `name` returns `result`. */
    void (*arrange)(const char *name, int nth, int result);
    /* From now on all communicators report `result` in the background; 0: all is well. */
    void (*strike)(int result);
    void (*set_version)(int version);
    int (*calls)(const char *name); /* since the reset */
    int (*live)(void);              /* communicators that exist */
    int (*memory)(void);            /* blocks of its memory that exist */
    int (*windows)(
        void); /* windows that were neither taken back nor taken along by their communicator */
};

#endif
