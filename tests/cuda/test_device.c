/* SPDX-License-Identifier: Apache-2.0 */
/* The device "cuda" over a false driver: what it says of devices, memory, order, capture, images, launches; what it
 * says when there is no driver or a call fails; and that nothing is left behind. */
#include <dlfcn.h>
#include <pthread.h>

#include "check_util.h"
#include "cuda/fake_driver.h"
#include "tenon/device.h"
#include "tenon/dtype.h"
#include "tenon/plugin.h"

static struct {
    tn_host host;
    int blocks; /* that the plugin holds */
    char log[512];
    void *plugin_file, *driver_file;
    const tn_plugin *plugin;
    const tn_device_api *api;
    const struct fake_api *fake;
    void *instance;
    tn_device *device;
    tn_err err;
} t;

static const tn_kv driver_key = {"driver", FAKE_DRIVER};

static void host_log(tn_host_ctx *ctx, uint32_t level, const char *msg)
{
    (void)ctx;
    (void)level;
    snprintf(t.log, sizeof t.log, "%s", msg);
}

static void *host_alloc(tn_host_ctx *ctx, uint64_t bytes, uint64_t align)
{
    (void)ctx;
    (void)align;
    t.blocks++;
    return calloc(1, bytes);
}

static void host_free(tn_host_ctx *ctx, void *p)
{
    (void)ctx;
    t.blocks -= p != NULL;
    free(p);
}

static void load(void)
{
    const tn_plugin *(*query)(const tn_host *, uint32_t);

    memset(&t, 0, sizeof t);
    t.err = (tn_err)TN_ERR_INIT;
    t.host = (tn_host){
        .h = TN_HDR(tn_host), .n_cpus = 1, .log = host_log, .alloc = host_alloc, .free = host_free};
    t.driver_file = dlopen(FAKE_DRIVER, RTLD_NOW | RTLD_LOCAL);
    ck_assert_msg(t.driver_file != NULL, "%s", dlerror());
    t.fake = dlsym(t.driver_file, "fake_api");
    ck_assert_ptr_nonnull(t.fake);
    t.fake->reset();
    t.plugin_file = dlopen(CUDA_PLUGIN, RTLD_NOW | RTLD_LOCAL);
    ck_assert_msg(t.plugin_file != NULL, "%s", dlerror());
    *(void **)&query = dlsym(t.plugin_file, TN_PLUGIN_SYMBOL);
    t.plugin = query(&t.host, TN_ABI_MINOR);
    for (uint32_t i = 0; i < t.plugin->n_ifaces; i++)
        if (strcmp(t.plugin->ifaces[i].id, TN_IFACE_DEVICE) == 0)
            t.api = t.plugin->ifaces[i].vtbl;
    ck_assert_ptr_nonnull(t.api);
}

static void open_device(void)
{
    load();
    ck_assert_ok(t.plugin->init(&t.host, &driver_key, 1, &t.instance, &t.err), &t.err);
    ck_assert_ok(t.api->open(t.instance, 0, 0, 1, &t.device, &t.err), &t.err);
}

static void close_device(void)
{
    t.api->close(t.device);
    t.plugin->fini(t.instance);
    ck_assert_int_eq(t.fake->live(), 0);
    ck_assert_int_eq(t.blocks, 0);
}

/* -- Without a driver ------------------------------------------------------------------------------ */

static void expect_refusal(const tn_kv *kv, int32_t code, const char *text)
{
    void *instance = NULL;

    t.err = (tn_err)TN_ERR_INIT;
    ck_assert_int_eq(t.plugin->init(&t.host, kv, 1, &instance, &t.err), code);
    ck_assert_err_has(&t.err, text);
    ck_assert_ptr_null(instance);
    ck_assert_int_eq(t.blocks, 0);
}

START_TEST(without_a_driver_it_refuses_itself)
{
    const tn_kv none = {"driver", "/nonexistent/libcuda.so.1"}, other = {"driver", OTHER_LIBRARY};

    expect_refusal(&none, TN_E_UNSUPPORTED, "there is no CUDA driver: /nonexistent/libcuda.so.1");
    ck_assert_err_has(&t.err, "other devices work without");
    expect_refusal(&other, TN_E_UNSUPPORTED, "lacks cuInit");
}
END_TEST

START_TEST(a_driver_that_does_not_start_is_named)
{
    t.fake->set_devices(0);
    expect_refusal(&driver_key, TN_E_UNSUPPORTED, "no CUDA-capable device is detected");
    t.fake->set_devices(1);
    t.fake->set_version(11080);
    expect_refusal(&driver_key, TN_E_UNSUPPORTED, "made for CUDA 11.8");
}
END_TEST

START_TEST(settings_are_checked)
{
    const tn_kv unknown = {"drivers", "/x"}, relative = {"driver", "libcuda.so.1"};

    expect_refusal(&unknown, TN_E_CONFIG, "unknown key");
    expect_refusal(&relative, TN_E_CONFIG, "not an absolute path");
}
END_TEST

/* -- Facts ------------------------------------------------------------------------------------------ */

START_TEST(devices_are_described)
{
    tn_device_info info = {.h = TN_HDR(tn_device_info)};
    uint64_t left = 0, total = 0;
    uint32_t n = 0;

    t.fake->set_devices(2);
    ck_assert_ok(t.api->count(t.instance, &n, &t.err), &t.err);
    ck_assert_uint_eq(n, 2);
    ck_assert_ok(t.api->info(t.instance, 1, &info, &t.err), &t.err);
    ck_assert_str_eq(info.name, "False GPU");
    ck_assert_str_eq(info.uuid, "GPU-f1f2f3f4-f5f6-f7f8-f9fa-fbfcfdfeff00");
    ck_assert_int_eq(strncmp(info.driver, "CUDA 13.0", 9), 0);
    ck_assert_uint_eq(info.gpu.vendor, 0x10de);
    ck_assert_uint_eq(info.gpu.major * 10 + info.gpu.minor, 90);
    ck_assert_uint_eq(info.n_units, 132);
    ck_assert_uint_eq(info.numa_node, UINT32_MAX);
    ck_assert_uint_eq(info.flags, TN_DEVICE_STREAMS | TN_DEVICE_GRAPHS | TN_DEVICE_IMAGES);
    ck_assert_ok(t.api->mem_info(t.device, &left, &total, &t.err), &t.err);
    ck_assert(left == 1u << 29 && total == 1u << 30);
    ck_assert_int_eq(t.api->info(t.instance, 2, &info, &t.err), TN_E_RANGE);
    ck_assert_err_has(&t.err, "device 2 of 2");
}
END_TEST

START_TEST(activations_fit_the_weights_and_the_chip)
{
    tn_device *old = NULL;

    ck_assert_uint_eq(t.api->act_dtype(t.device, TN_DT_BF16), TN_DT_BF16);
    ck_assert_uint_eq(t.api->act_dtype(t.device, TN_DT_F16), TN_DT_F16);
    ck_assert_uint_eq(t.api->act_dtype(t.device, TN_DT_F32), TN_DT_F32);
    ck_assert_uint_eq(t.api->act_dtype(t.device, TN_DT_I8), TN_DT_BF16);
    t.fake->set_capability(7, 5);
    ck_assert_ok(t.api->open(t.instance, 0, 0, 1, &old, &t.err), &t.err);
    ck_assert_uint_eq(t.api->act_dtype(old, TN_DT_BF16), TN_DT_F16);
    t.api->close(old);
}
END_TEST

START_TEST(peers_are_enabled_once_and_not_twice)
{
    tn_device *peer = NULL;
    uint32_t yes = 0;

    t.fake->set_devices(2);
    ck_assert_ok(t.api->open(t.instance, 1, 0, 1, &peer, &t.err), &t.err);
    for (int i = 0; i < 2; i++) {
        yes = 0;
        ck_assert_ok(t.api->peer_access(t.device, peer, &yes, &t.err), &t.err);
        ck_assert_uint_eq(yes, 1);
    }
    ck_assert_ok(t.api->peer_access(t.device, t.device, &yes, &t.err), &t.err);
    ck_assert_uint_eq(yes, 1); /* the driver says no to this question */
    t.api->close(peer);
}
END_TEST

START_TEST(ways_between_devices_are_told_apart)
{
    static const struct {
        uint32_t a, b, access, atomics;
        const char *kind;
    } ways[] = {
        {0, 0, 1, 1, "self"}, {0, 1, 1, 1, "nvlink"}, {0, 2, 1, 0, "pcie"}, {3, 1, 0, 0, "pcie"}};

    tn_device_link beyond = {.h = TN_HDR(tn_device_link)};

    t.fake->set_devices(4);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        tn_device_link link = {.h = TN_HDR(tn_device_link)};
        ck_assert_ok(t.api->link(t.instance, ways[i].a, ways[i].b, &link, &t.err), &t.err);
        ck_assert_str_eq(link.kind, ways[i].kind);
        ck_assert_uint_eq(link.access, ways[i].access);
        ck_assert_uint_eq(link.atomics, ways[i].atomics);
    }
    ck_assert_int_eq(t.api->link(t.instance, 0, 4, &beyond, &t.err), TN_E_RANGE);
}
END_TEST

/* -- Sums and strided copies --------------------------------------------------------------------------- */

START_TEST(copies_of_few_bytes_are_one_launch)
{
    void *p = NULL, *pinned = NULL;
    tn_copy_piece pieces[TN_COPY_PIECES + 1] = {{0}};
    int before;

    ck_assert_ok(t.api->mem_alloc(t.device, 1 << 20, &p, &t.err), &t.err);
    ck_assert_ok(t.api->pinned_alloc(t.device, 1 << 20, &pinned, &t.err), &t.err);
    ck_assert_ok(t.api->copy_few(t.device, NULL, NULL, 0, &t.err), &t.err);
    before = t.fake->executed();
    pieces[1] = (tn_copy_piece){p, pinned, 17};
    ck_assert_ok(t.api->copy_few(t.device, NULL, pieces, 1, &t.err), &t.err);
    ck_assert_int_eq(t.fake->executed(), before); /* a piece of no bytes */
    ck_assert_ok(t.api->copy_few(t.device, NULL, pieces, 2, &t.err), &t.err);
    ck_assert_int_eq(t.fake->executed(), before + 1);
    ck_assert_uint_eq(t.fake->last_launch()->config.gridDimX, 1);
    ck_assert_uint_eq(t.fake->last_launch()->config.gridDimY, 1);
    pieces[0] = (tn_copy_piece){pinned, p, 16384};
    ck_assert_ok(t.api->copy_few(t.device, NULL, pieces, 2, &t.err), &t.err);
    ck_assert_uint_eq(t.fake->last_launch()->config.gridDimX, 4);
    ck_assert_uint_eq(t.fake->last_launch()->config.gridDimY, 2);
    pieces[0].bytes = 1 << 20;
    ck_assert_ok(t.api->copy_few(t.device, NULL, pieces, 1, &t.err), &t.err);
    ck_assert_uint_eq(t.fake->last_launch()->config.gridDimX, 16);
    ck_assert_int_eq(t.api->copy_few(t.device, NULL, pieces, TN_COPY_PIECES + 1, &t.err),
                     TN_E_RANGE);
    pieces[0].bytes = UINT64_C(1) << 32;
    ck_assert_int_eq(t.api->copy_few(t.device, NULL, pieces, 1, &t.err), TN_E_RANGE);
    t.api->pinned_free(t.device, pinned);
    t.api->mem_free(t.device, p);
}
END_TEST

START_TEST(a_sum_is_one_launch_that_fits_its_size)
{
    const void *src[TN_SUM_MAX + 1] = {NULL};
    void *p = NULL;
    int before;

    ck_assert_ok(t.api->mem_alloc(t.device, 4096, &p, &t.err), &t.err);
    for (int i = 0; i <= TN_SUM_MAX; i++)
        src[i] = p;
    ck_assert_ok(t.api->sum(t.device, NULL, NULL, src, 1, 0, TN_DT_BF16, &t.err), &t.err);
    before = t.fake->executed();
    ck_assert_ok(t.api->sum(t.device, NULL, p, src, 3, 1000, TN_DT_F32, &t.err), &t.err);
    ck_assert_int_eq(t.fake->executed(), before + 1);
    ck_assert_uint_eq(t.fake->last_launch()->config.gridDimX, 1);
    ck_assert_ok(t.api->sum(t.device, NULL, p, src, 64, 2049, TN_DT_I32, &t.err), &t.err);
    ck_assert_uint_eq(t.fake->last_launch()->config.gridDimX, 2);
    ck_assert_int_eq(t.api->sum(t.device, NULL, p, src, 65, 1, TN_DT_F32, &t.err), TN_E_RANGE);
    ck_assert_int_eq(t.api->sum(t.device, NULL, p, src, 0, 1, TN_DT_F32, &t.err), TN_E_RANGE);
    ck_assert_int_eq(t.api->sum(t.device, NULL, p, src, 1, 1, TN_DT_I4, &t.err), TN_E_UNSUPPORTED);
    t.api->mem_free(t.device, p);
}
END_TEST

START_TEST(rows_are_copied_apart)
{
    static const char rows[] = "abcdefgh";
    char *p = NULL, back[17] = "";
    void *block = NULL;

    ck_assert_ok(t.api->mem_alloc(t.device, 64, &block, &t.err), &t.err);
    p = block;
    ck_assert_ok(t.api->copy(t.device, NULL, p, rows, 8, TN_COPY_HOST_TO_DEVICE, &t.err), &t.err);
    ck_assert_ok(t.api->fill(t.device, NULL, p + 16, '.', 16, &t.err), &t.err);
    ck_assert_ok(t.api->copy_rows(t.device, NULL, p + 18, 4, p, 2, 2, 4, &t.err), &t.err);
    ck_assert_ok(t.api->copy(t.device, NULL, back, p + 16, 16, TN_COPY_DEVICE_TO_HOST, &t.err),
                 &t.err);
    ck_assert_str_eq(back, "..ab..cd..ef..gh");
    t.api->mem_free(t.device, block);
}
END_TEST

/* -- Memory ------------------------------------------------------------------------------------------ */

START_TEST(bytes_go_there_and_back)
{
    char in[64] = "to the device and back", out[64] = "";
    void *a = NULL, *b = NULL, *pinned = NULL;

    ck_assert_ok(t.api->mem_alloc(t.device, sizeof in, &a, &t.err), &t.err);
    ck_assert_ok(t.api->mem_alloc(t.device, 0, &b, &t.err), &t.err);
    t.api->mem_free(t.device, b);
    ck_assert_ok(t.api->mem_alloc(t.device, sizeof in, &b, &t.err), &t.err);
    ck_assert_ok(t.api->pinned_alloc(t.device, sizeof in, &pinned, &t.err), &t.err);
    memcpy(pinned, in, sizeof in);
    ck_assert_ok(t.api->copy(t.device, NULL, a, pinned, sizeof in, TN_COPY_HOST_TO_DEVICE, &t.err),
                 &t.err);
    ck_assert_ok(t.api->copy(t.device, NULL, b, a, sizeof in, TN_COPY_DEVICE_TO_DEVICE, &t.err),
                 &t.err);
    ck_assert_ok(t.api->fill(t.device, NULL, b, '*', 2, &t.err), &t.err);
    ck_assert_ok(t.api->copy(t.device, NULL, out, b, sizeof in, TN_COPY_DEVICE_TO_HOST, &t.err),
                 &t.err);
    ck_assert_str_eq(out, "** the device and back");
    ck_assert_int_eq(t.api->copy(t.device, NULL, out, b, 1, 4, &t.err), TN_E_INVALID);
    ck_assert_ok(t.api->copy(t.device, NULL, NULL, NULL, 0, TN_COPY_DEVICE_TO_HOST, &t.err),
                 &t.err);
    t.api->mem_free(t.device, a);
    t.api->mem_free(t.device, b);
    t.api->mem_free(t.device, NULL);
    t.api->pinned_free(t.device, pinned);
    t.api->pinned_free(t.device, NULL);
}
END_TEST

START_TEST(too_much_memory_is_an_error_with_sizes)
{
    void *p = (void *)1;

    ck_assert_int_eq(t.api->mem_alloc(t.device, 1u << 30, &p, &t.err), TN_E_NOSPACE);
    ck_assert_err_has(&t.err, "1073741824 bytes asked for, 536870912 of 1073741824 free");
    ck_assert_int_eq(t.err.native, CUDA_ERROR_OUT_OF_MEMORY);
    ck_assert_ptr_eq(p, (void *)1);
    t.fake->arrange("cuMemHostAlloc", 1, CUDA_ERROR_OUT_OF_MEMORY);
    ck_assert_int_eq(t.api->pinned_alloc(t.device, 64, &p, &t.err), TN_E_NOMEM);
    ck_assert_err_has(&t.err, "page-locking 64 bytes");
}
END_TEST

START_TEST(memory_left_at_the_end_is_told)
{
    tn_device *d = NULL;
    void *p = NULL;

    ck_assert_ok(t.api->open(t.instance, 0, 0, 1, &d, &t.err), &t.err);
    ck_assert_ok(t.api->mem_alloc(d, 64, &p, &t.err), &t.err);
    t.api->close(d);
    ck_assert_msg(strstr(t.log, "1 blocks of memory still in use") != NULL, "%s", t.log);
    t.api->mem_free(t.device, p);
}
END_TEST

static void *use_from_another_thread(void *arg)
{
    tn_err err = TN_ERR_INIT;
    void *p = NULL;

    *(int32_t *)arg = t.api->mem_alloc(t.device, 64, &p, &err);
    t.api->mem_free(t.device, p);
    return NULL;
}

/* A thread that has never seen the context must be given it. */
START_TEST(any_thread_may_call)
{
    int32_t rc = TN_E_INTERNAL;
    pthread_t other;

    ck_assert_int_eq(pthread_create(&other, NULL, use_from_another_thread, &rc), 0);
    pthread_join(other, NULL);
    ck_assert_int_eq(rc, TN_OK);
}
END_TEST

/* -- Order ------------------------------------------------------------------------------------------ */

START_TEST(events_are_points_in_streams)
{
    tn_stream *s = NULL;
    tn_event *from = NULL, *to = NULL;
    double ns = 0;

    ck_assert_ok(t.api->stream_new(t.device, &s, &t.err), &t.err);
    ck_assert_ok(t.api->event_new(t.device, &from, &t.err), &t.err);
    ck_assert_ok(t.api->event_new(t.device, &to, &t.err), &t.err);
    ck_assert_ok(t.api->event_record(t.device, from, s, &t.err), &t.err);
    ck_assert_ok(t.api->event_record(t.device, to, s, &t.err), &t.err);
    t.fake->arrange("cuEventQuery", 1, CUDA_ERROR_NOT_READY);
    ck_assert_int_eq(t.api->event_query(t.device, to, &t.err), TN_E_BUSY);
    ck_assert_ok(t.api->event_query(t.device, to, &t.err), &t.err);
    ck_assert_ok(t.api->event_sync(t.device, to, &t.err), &t.err);
    ck_assert_ok(t.api->event_elapsed_ns(t.device, from, to, &ns, &t.err), &t.err);
    ck_assert(ns > 1499999 && ns < 1500001);
    ck_assert_ok(t.api->stream_wait(t.device, s, to, &t.err), &t.err);
    ck_assert_ok(t.api->stream_sync(t.device, s, &t.err), &t.err);
    ck_assert_ptr_eq(t.api->native_stream(t.device, s), (void *)s);
    t.api->event_free(t.device, from);
    t.api->event_free(t.device, to);
    t.api->event_free(t.device, NULL);
    t.api->stream_free(t.device, s);
    t.api->stream_free(t.device, NULL);
}
END_TEST

/* Work that fails is told by whoever waits for it, with the driver's words and number. */
START_TEST(errors_of_work_surface_where_one_waits)
{
    tn_stream *s = NULL;

    ck_assert_ok(t.api->stream_new(t.device, &s, &t.err), &t.err);
    t.fake->arrange("cuStreamSynchronize", 1, CUDA_ERROR_ILLEGAL_ADDRESS);
    ck_assert_int_eq(t.api->stream_sync(t.device, s, &t.err), TN_E_DEVICE);
    ck_assert_int_eq(t.err.native, CUDA_ERROR_ILLEGAL_ADDRESS);
    ck_assert_err_has(&t.err, "waiting for a stream: it failed (CUDA_ERROR_SOME)");
    t.api->stream_free(t.device, s);
}
END_TEST

START_TEST(captured_work_runs_when_replayed)
{
    unsigned char data[4] = {0};
    tn_stream *s = NULL;
    tn_graph *g = NULL;
    void *p = NULL;

    ck_assert_ok(t.api->mem_alloc(t.device, 4, &p, &t.err), &t.err);
    ck_assert_ok(t.api->stream_new(t.device, &s, &t.err), &t.err);
    ck_assert_ok(t.api->fill(t.device, s, p, 1, 4, &t.err), &t.err);
    ck_assert_ok(t.api->capture_begin(t.device, s, &t.err), &t.err);
    ck_assert_ok(t.api->fill(t.device, s, p, 2, 4, &t.err), &t.err);
    ck_assert_ok(t.api->capture_end(t.device, s, &g, &t.err), &t.err);
    ck_assert_int_eq(t.fake->calls("cuGraphUpload"), 1); /* the first replay does not pay */
    ck_assert_ok(t.api->copy(t.device, s, data, p, 4, TN_COPY_DEVICE_TO_HOST, &t.err), &t.err);
    ck_assert_uint_eq(data[3], 1);
    ck_assert_ok(t.api->graph_launch(t.device, g, s, &t.err), &t.err);
    ck_assert_ok(t.api->copy(t.device, s, data, p, 4, TN_COPY_DEVICE_TO_HOST, &t.err), &t.err);
    ck_assert_uint_eq(data[3], 2);
    t.api->graph_free(t.device, g);
    t.api->graph_free(t.device, NULL);
    t.api->stream_free(t.device, s);
    t.api->mem_free(t.device, p);
}
END_TEST

START_TEST(allocating_in_a_capture_breaks_it_and_leaves_nothing)
{
    tn_stream *s = NULL;
    tn_graph *g = NULL;
    void *p = NULL;
    int live;

    ck_assert_ok(t.api->stream_new(t.device, &s, &t.err), &t.err);
    live = t.fake->live();
    ck_assert_ok(t.api->capture_begin(t.device, s, &t.err), &t.err);
    ck_assert_int_eq(t.api->mem_alloc(t.device, 64, &p, &t.err), TN_E_DEVICE);
    ck_assert_int_eq(t.api->capture_end(t.device, s, &g, &t.err), TN_E_DEVICE);
    ck_assert_err_has(&t.err, "ending a capture");
    ck_assert_ptr_null(g);
    ck_assert_int_eq(t.fake->live(), live);
    ck_assert_ok(t.api->capture_begin(t.device, s, &t.err), &t.err); /* the stream is usable */
    ck_assert_ok(t.api->capture_end(t.device, s, &g, &t.err), &t.err);
    t.api->graph_free(t.device, g);
    t.api->stream_free(t.device, s);
}
END_TEST

/* -- Code -------------------------------------------------------------------------------------------- */

START_TEST(kernels_are_made_ready_when_asked_for)
{
    tn_image *image = NULL;
    void *entry = NULL;

    ck_assert_ok(t.api->image_load(t.device, "ANY", 4, &image, &t.err), &t.err);
    ck_assert_ok(t.api->image_entry(t.device, image, "add", &entry, &t.err), &t.err);
    ck_assert_int_eq(t.fake->calls("cuKernelGetFunction"), 1);
    ck_assert_int_eq(t.api->image_entry(t.device, image, "sub", &entry, &t.err), TN_E_NOTFOUND);
    ck_assert_err_has(&t.err, "finding the kernel sub");
    t.api->image_unload(t.device, image);
    t.api->image_unload(t.device, NULL);
}
END_TEST

START_TEST(an_image_for_another_chip_is_refused_with_the_chip)
{
    tn_image *image = NULL;
    tn_device *old = NULL;

    t.fake->set_capability(8, 0);
    ck_assert_ok(t.api->open(t.instance, 0, 0, 1, &old, &t.err), &t.err);
    ck_assert_int_eq(t.api->image_load(old, "SM90", 5, &image, &t.err), TN_E_UNSUPPORTED);
    ck_assert_err_has(&t.err, "no code for compute capability 8.0");
    ck_assert_int_eq(t.api->image_load(old, "junk", 5, &image, &t.err), TN_E_UNSUPPORTED);
    t.api->close(old);
}
END_TEST

static int32_t launch_one(tn_device *d, tn_stream *s, uint32_t cluster, uint32_t shared,
                          uint32_t flags)
{
    static int parameter = 7;
    void *params[] = {&parameter};
    tn_kernel_launch k = {.h = TN_HDR(tn_kernel_launch),
                          .grid = {4, 2, 1},
                          .block = {256, 1, 1},
                          .cluster = {cluster, 0, 0},
                          .shared_bytes = shared,
                          .flags = flags,
                          .params = params};
    tn_image *image = NULL;
    int32_t rc;

    ck_assert_ok(t.api->image_load(d, "ANY", 4, &image, &t.err), &t.err);
    ck_assert_ok(t.api->image_entry(d, image, "add", &k.entry, &t.err), &t.err);
    rc = t.api->launch(d, s, &k, &t.err);
    t.api->image_unload(d, image);
    return rc;
}

START_TEST(launches_say_what_they_want)
{
    const struct fake_launch *l = t.fake->last_launch();

    ck_assert_ok(launch_one(t.device, NULL, 2, 200000, TN_LAUNCH_OVERLAP), &t.err);
    ck_assert_uint_eq(l->config.gridDimX * 10 + l->config.gridDimY, 42);
    ck_assert_uint_eq(l->config.blockDimX, 256);
    ck_assert_uint_eq(l->config.sharedMemBytes, 200000);
    ck_assert_int_eq(*(int *)l->first_param, 7);
    ck_assert_uint_eq(l->config.numAttrs, 2);
    ck_assert_int_eq(l->attrs[0].id, CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION);
    ck_assert_uint_eq(l->attrs[0].value.clusterDim.x, 2);
    ck_assert_uint_eq(l->attrs[0].value.clusterDim.y, 1);
    ck_assert_int_eq(l->attrs[1].id, CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION);
    ck_assert_ok(launch_one(t.device, NULL, 1, 0, 0), &t.err);
    ck_assert_uint_eq(l->config.numAttrs, 0);
    ck_assert_int_eq(t.fake->executed(), 2);
    ck_assert_int_eq(launch_one(t.device, NULL, 1, 232448, 0), TN_E_DEVICE); /* 1024 are fixed */
    ck_assert_err_has(&t.err, "4 x 2 x 1 blocks of 256 threads, 232448 bytes of shared memory");
}
END_TEST

START_TEST(older_chips_take_what_they_can)
{
    tn_device *old = NULL;

    t.fake->set_capability(8, 6);
    ck_assert_ok(t.api->open(t.instance, 0, 0, 1, &old, &t.err), &t.err);
    ck_assert_ok(launch_one(old, NULL, 0, 1024, TN_LAUNCH_OVERLAP), &t.err);
    ck_assert_uint_eq(t.fake->last_launch()->config.numAttrs, 0);
    ck_assert_int_eq(launch_one(old, NULL, 2, 0, 0), TN_E_UNSUPPORTED);
    ck_assert_err_has(&t.err, "8.6 knows no clusters");
    t.api->close(old);
}
END_TEST

START_TEST(the_driver_itself_can_be_reached)
{
    void *f = NULL;

    ck_assert_ok(t.api->native_symbol(t.device, "cuDeviceGetCount", &f, &t.err), &t.err);
    ck_assert_ptr_nonnull(f);
    ck_assert_int_eq(t.api->native_symbol(t.device, "cuNoSuchThing", &f, &t.err), TN_E_NOTFOUND);
    ck_assert_ptr_nonnull(t.api->native_context(t.device));
}
END_TEST

/* -- Every call may fail ------------------------------------------------------------------------------ */

/* Uses a device as a runtime does; stops at the first failure and undoes what was done. */
static int32_t whole_life(void)
{
    tn_device_info info = {.h = TN_HDR(tn_device_info)};
    tn_device *d = NULL;
    tn_stream *s = NULL;
    tn_event *e = NULL;
    tn_graph *g = NULL;
    tn_image *image = NULL;
    void *instance = NULL, *p = NULL, *pinned = NULL, *entry = NULL;
    tn_err *err = &t.err;
    int32_t rc, end;

    if ((rc = t.plugin->init(&t.host, &driver_key, 1, &instance, err)))
        return rc;
    if (!(rc = t.api->info(instance, 0, &info, err)) &&
        !(rc = t.api->open(instance, 0, 0, 1, &d, err)) &&
        !(rc = t.api->mem_alloc(d, 64, &p, err)) &&
        !(rc = t.api->pinned_alloc(d, 64, &pinned, err)) && !(rc = t.api->stream_new(d, &s, err)) &&
        !(rc = t.api->event_new(d, &e, err)) &&
        !(rc = t.api->copy(d, s, p, pinned, 64, TN_COPY_HOST_TO_DEVICE, err)) &&
        !(rc = t.api->image_load(d, "ANY", 4, &image, err)) &&
        !(rc = t.api->image_entry(d, image, "add", &entry, err)) &&
        !(rc = t.api->capture_begin(d, s, err))) {
        rc = t.api->fill(d, s, p, 0, 64, err);
        end = t.api->capture_end(d, s, &g, err);
        rc = rc ? rc : end;
    }
    if (!rc && !(rc = t.api->graph_launch(d, g, s, err)) &&
        !(rc = t.api->event_record(d, e, s, err)))
        rc = t.api->event_sync(d, e, err);
    t.fake->arrange(NULL, 0,
                    CUDA_SUCCESS); /* a context that fails while things are freed frees nothing */
    if (d) {
        t.api->graph_free(d, g);
        t.api->event_free(d, e);
        t.api->stream_free(d,
                           s); /* before the image: a capture that could not be ended ends here */
        t.api->image_unload(d, image);
        t.api->pinned_free(d, pinned);
        t.api->mem_free(d, p);
        t.api->close(d);
    }
    t.plugin->fini(instance);
    return rc;
}

START_TEST(every_failing_call_is_told_and_leaves_nothing_behind)
{
    int total;

    t.fake->reset();
    ck_assert_ok(whole_life(), &t.err);
    ck_assert_int_eq(t.fake->live() + t.blocks, 0);
    total = t.fake->calls(NULL);
    ck_assert_int_gt(total, 40);
    for (int nth = 1; nth <= total; nth++) {
        int32_t rc;
        t.fake->reset();
        t.err = (tn_err)TN_ERR_INIT;
        t.log[0] = '\0';
        t.fake->arrange(NULL, nth, CUDA_ERROR_UNKNOWN);
        rc = whole_life();
        /* What may fail unseen is the question for a NUMA node. */
        if (rc != TN_OK)
            ck_assert_msg(t.err.msg[0] && t.err.native == CUDA_ERROR_UNKNOWN, "call %d", nth);
        ck_assert_msg(t.blocks == 0 && t.fake->live() == 0,
                      "call %d leaves something: %d blocks, %d of the driver's; %s", nth, t.blocks,
                      t.fake->live(), t.err.msg);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cuda_device");
    TCase *bare = tcase_create("without a device"), *open = tcase_create("device");

    tcase_add_checked_fixture(bare, load, NULL);
    tcase_add_test(bare, without_a_driver_it_refuses_itself);
    tcase_add_test(bare, a_driver_that_does_not_start_is_named);
    tcase_add_test(bare, settings_are_checked);
    tcase_add_test(bare, every_failing_call_is_told_and_leaves_nothing_behind);
    suite_add_tcase(s, bare);
    tcase_add_checked_fixture(open, open_device, close_device);
    tcase_add_test(open, devices_are_described);
    tcase_add_test(open, activations_fit_the_weights_and_the_chip);
    tcase_add_test(open, peers_are_enabled_once_and_not_twice);
    tcase_add_test(open, ways_between_devices_are_told_apart);
    tcase_add_test(open, copies_of_few_bytes_are_one_launch);
    tcase_add_test(open, a_sum_is_one_launch_that_fits_its_size);
    tcase_add_test(open, rows_are_copied_apart);
    tcase_add_test(open, bytes_go_there_and_back);
    tcase_add_test(open, too_much_memory_is_an_error_with_sizes);
    tcase_add_test(open, memory_left_at_the_end_is_told);
    tcase_add_test(open, any_thread_may_call);
    tcase_add_test(open, events_are_points_in_streams);
    tcase_add_test(open, errors_of_work_surface_where_one_waits);
    tcase_add_test(open, captured_work_runs_when_replayed);
    tcase_add_test(open, allocating_in_a_capture_breaks_it_and_leaves_nothing);
    tcase_add_test(open, kernels_are_made_ready_when_asked_for);
    tcase_add_test(open, an_image_for_another_chip_is_refused_with_the_chip);
    tcase_add_test(open, launches_say_what_they_want);
    tcase_add_test(open, older_chips_take_what_they_can);
    tcase_add_test(open, the_driver_itself_can_be_reached);
    suite_add_tcase(s, open);
    return run_suite(s);
}
