/* SPDX-License-Identifier: Apache-2.0 */
/* The device "cuda": what its files share. Handles of the ABI are the driver's own where one suffices: a tn_stream is a
 * CUstream, a tn_event a CUevent, an entry of an image a CUfunction. */
#ifndef PLUGINS_KERNELS_CUDA_DEVICE_H
#define PLUGINS_KERNELS_CUDA_DEVICE_H

#include <stdatomic.h>

#include "driver.h"
#include "set.h"
#include "tenon/device.h"

#define DEVICE_MEET_ENTRIES 9

/* An instance of the plugin. */
struct cuda_instance {
    const tn_host *host;
    struct driver driver;
    struct set_state set; /* the kernels, per device */
};

struct tn_device {
    const tn_host *host;
    const struct driver *driver;
    uint32_t index;
    CUdevice device;
    CUcontext context;   /* the primary one, retained */
    int major, minor;    /* compute capability */
    int shared_limit;    /* bytes of shared memory that a block may ask for */
    tn_image *sum_image; /* loaded by the first call of `sum`, on the thread of the rank */
    void *sum_entries[4];
    tn_image *meet_image; /* likewise, of meet_bytes */
    void *meet_entries[DEVICE_MEET_ENTRIES];
    tn_image *few_image; /* likewise, of copy_few */
    void *few_entry;
    atomic_uint_fast64_t n_blocks; /* allocated and not yet freed, pinned ones included */
};

/* Makes the device's context the calling thread's. To be called before any other call of the driver. */
int32_t device_enter(const tn_device *d, tn_err *err);

/* The functions of the interface, by the file that holds them. */
/* device.c */
extern const tn_device_api cuda_device_api;
/* device_memory.c */
int32_t device_mem_alloc(tn_device *d, uint64_t bytes, void **out, tn_err *err);
void device_mem_free(tn_device *d, void *ptr);
int32_t device_mem_info(tn_device *d, uint64_t *free_bytes, uint64_t *total_bytes, tn_err *err);
int32_t device_pinned_alloc(tn_device *d, uint64_t bytes, void **out, tn_err *err);
void device_pinned_free(tn_device *d, void *ptr);
int32_t device_copy(tn_device *d, tn_stream *s, void *dst, const void *src, uint64_t bytes,
                    uint32_t kind, tn_err *err);
int32_t device_fill(tn_device *d, tn_stream *s, void *dst, uint8_t byte, uint64_t bytes,
                    tn_err *err);
/* device_sum.c */
int32_t device_sum(tn_device *d, tn_stream *s, void *dst, const void *const *src, uint32_t n_src,
                   uint64_t count, uint32_t dtype, tn_err *err);
int32_t device_copy_rows(tn_device *d, tn_stream *s, void *dst, uint64_t dst_stride,
                         const void *src, uint64_t src_stride, uint64_t width, uint64_t rows,
                         tn_err *err);
/* device_few.c */
int32_t device_copy_few(tn_device *d, tn_stream *s, const tn_copy_piece *pieces, uint32_t n,
                        tn_err *err);
/* device_meet.c */
int32_t device_meet_bytes(tn_device *d, uint32_t n, uint64_t *bytes, tn_err *err);
int32_t device_meet_sum(tn_device *d, tn_stream *s, const tn_device_meet *m, void *dst,
                        const void *src, uint64_t count, uint32_t dtype, tn_err *err);
int32_t device_meet_gather(tn_device *d, tn_stream *s, const tn_device_meet *m, void *dst,
                           const void *src, uint64_t bytes, tn_err *err);
/* device_stream.c */
int32_t device_stream_new(tn_device *d, tn_stream **out, tn_err *err);
void device_stream_free(tn_device *d, tn_stream *s);
int32_t device_stream_sync(tn_device *d, tn_stream *s, tn_err *err);
int32_t device_stream_wait(tn_device *d, tn_stream *s, tn_event *e, tn_err *err);
int32_t device_event_new(tn_device *d, tn_event **out, tn_err *err);
void device_event_free(tn_device *d, tn_event *e);
int32_t device_event_record(tn_device *d, tn_event *e, tn_stream *s, tn_err *err);
int32_t device_event_query(tn_device *d, tn_event *e, tn_err *err);
int32_t device_event_sync(tn_device *d, tn_event *e, tn_err *err);
int32_t device_event_elapsed(tn_device *d, tn_event *from, tn_event *to, double *ns, tn_err *err);
int32_t device_capture_begin(tn_device *d, tn_stream *s, tn_err *err);
int32_t device_capture_end(tn_device *d, tn_stream *s, tn_graph **out, tn_err *err);
int32_t device_graph_launch(tn_device *d, tn_graph *g, tn_stream *s, tn_err *err);
void device_graph_free(tn_device *d, tn_graph *g);
/* device_image.c */
int32_t device_image_load(tn_device *d, const void *image, uint64_t bytes, tn_image **out,
                          tn_err *err);
int32_t device_image_entry(tn_device *d, tn_image *image, const char *name, void **out,
                           tn_err *err);
void device_image_unload(tn_device *d, tn_image *image);
int32_t device_launch(tn_device *d, tn_stream *s, const tn_kernel_launch *k, tn_err *err);
int32_t device_native_symbol(tn_device *d, const char *name, void **out, tn_err *err);
void *device_native_context(tn_device *d);
void *device_native_stream(tn_device *d, tn_stream *s);

#endif
