/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One plugin that offers every kind of interface and does nothing, and, by one macro each, all the ways in which
 * a plugin can be wrong. CMakeLists.txt builds it many times; the suites name the damage.
 *
 * "counters" in its configuration is the address of a struct plug_counters in the test; "fail" the number of the step
 * of init that is to fail.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "plug.h"
#include "tenon/comm.h"
#include "tenon/kernels.h"
#include "tenon/model.h"
#include "tenon/plugin.h"
#include "tenon/quant.h"
#include "tenon/quant_format.h"

#ifndef PLUG_NAME
#define PLUG_NAME "good"
#endif
#ifndef PLUG_VERSION
#define PLUG_VERSION "1.0.0"
#endif
#ifndef PLUG_KINDS
#define PLUG_KINDS (TN_KIND_MODEL | TN_KIND_QUANT | TN_KIND_COMM | TN_KIND_KERNELS | TN_KIND_DEVICE)
#endif

/* More designated initialisers of the note, which override those before. */
#if defined(PLUG_SWAP)
#define NOTE_EXTRA .swap_class = TN_CLASS_SWAP
#elif defined(PLUG_CPU)
#define NOTE_EXTRA .cpu = {UINT64_C(1) << 60, TN_CPU(SSE42)}
#elif defined(PLUG_MAJOR)
#define NOTE_EXTRA .abi_major = 2
#elif defined(PLUG_MINOR)
#define NOTE_EXTRA .abi_minor = 9, .abi_minor_min = 9
#elif defined(PLUG_BUILD)
#define NOTE_EXTRA .build = TN_BUILD_KIND ^ TN_BUILD_TSAN ^ TN_BUILD_ASAN
#elif defined(PLUG_BAD_NAME)
#define NOTE_EXTRA .name = "No Good"
#elif defined(PLUG_LONG_NAME)
#define NOTE_EXTRA .name = "a-name-of-thirty-two-characters."
#elif defined(PLUG_BAD_KINDS)
#define NOTE_EXTRA .kinds = 1u << 30
#elif defined(PLUG_NOTE_SIZE)
#define NOTE_EXTRA .size = 999
#elif defined(PLUG_RESERVED)
#define NOTE_EXTRA .reserved = {1}
#else
#define NOTE_EXTRA .reserved0 = 0
#endif

#ifndef PLUG_NO_NOTE
TN_PLUGIN_NOTE(.kinds = PLUG_KINDS, .name = PLUG_NAME, .vendor = "test", .version = PLUG_VERSION,
               NOTE_EXTRA);
#endif

#ifdef PLUG_SECOND_NOTE
__attribute__((used, section(".note.tenon"), aligned(4))) static const tn_elf_note second = {
    6, (uint32_t)sizeof(tn_note), TN_NOTE_TYPE, TN_NOTE_NAME, {.size = (uint32_t)sizeof(tn_note)}};
#endif

#ifdef PLUG_TRAP
/* What a start-up routine compiled for another CPU does. */
__attribute__((constructor)) static void trap(void)
{
    raise(SIGILL);
}
#endif

#ifdef PLUG_UNRESOLVED
extern int no_such_function_anywhere(void);
#endif

#ifdef PLUG_TLS
static __thread int per_thread = 7;
#endif

/* -- model.arch, quant.scheme ---------------------------------------------------------------------- */

static int32_t build(void *instance, const tn_config_api *capi, const tn_config *config,
                     const tn_plan_api *papi, tn_plan_builder *builder, tn_err *err)
{
    (void)instance, (void)capi, (void)config, (void)papi, (void)builder;
    return tn_err_set(err, TN_E_UNSUPPORTED, "a test plugin builds nothing");
}

static const char *const model_types[] = {PLUG_NAME "-model", "shared-model", NULL};

static const tn_model_arch model = {.h = TN_HDR(tn_model_arch),
                                    .model_types = model_types,
#ifndef PLUG_NULL_BUILD
                                    .build = build
#endif
};

static int32_t quant_plan(void *build, const tn_op *op, const tn_quant_stats *stats,
                          tn_quant_plan *out, tn_err *err)
{
    (void)build, (void)op, (void)stats, (void)out;
    return tn_err_set(err, TN_E_UNSUPPORTED, "no");
}

static int32_t quantize(void *build, const tn_op *op, const tn_quant_stats *stats, const float *w,
                        void *const *out, tn_err *err)
{
    (void)build, (void)op, (void)stats, (void)w, (void)out;
    return tn_err_set(err, TN_E_UNSUPPORTED, "no");
}

static const tn_quant_scheme quant = {.h = TN_HDR(tn_quant_scheme),
                                      .name = PLUG_NAME "-quant",
                                      .summary = "none",
#ifdef PLUG_QUANT_FLAGS
                                      .flags = 1u << 31,
#endif
                                      .fallback = "none",
                                      .plan = quant_plan,
                                      .quantize = quantize};

/* -- quant.format ------------------------------------------------------------------------------------ */

static int32_t format_open(void *instance, const tn_quant_source *source, void **build, tn_err *err)
{
    (void)instance, (void)source, (void)build;
    return tn_err_set(err, TN_E_UNSUPPORTED, "no");
}

static void format_close(void *instance, void *build)
{
    (void)instance, (void)build;
}

static int32_t describe(void *build, const char *module, uint64_t dims[2], tn_err *err)
{
    (void)build, (void)module, (void)dims, (void)err;
    return TN_E_NOTFOUND;
}

static uint32_t owns(void *build, const char *tensor)
{
    (void)build, (void)tensor;
    return TN_QUANT_OWNS_NOT;
}

static int32_t format_plan(void *build, const tn_quant_part *parts, uint32_t n_parts,
                           tn_quant_plan *out, tn_err *err)
{
    (void)build, (void)parts, (void)n_parts, (void)out;
    return tn_err_set(err, TN_E_UNSUPPORTED, "no");
}

static int32_t format_fill(void *build, const tn_quant_part *parts, uint32_t n_parts,
                           void *const *out, double *error, tn_err *err)
{
    (void)build, (void)parts, (void)n_parts, (void)out, (void)error;
    return tn_err_set(err, TN_E_UNSUPPORTED, "no");
}

static int32_t widen(void *build, const tn_quant_part *part, float *w, tn_err *err)
{
    (void)build, (void)part, (void)w;
    return tn_err_set(err, TN_E_UNSUPPORTED, "no");
}

static const char *const format_methods[] = {
#ifndef PLUG_NO_METHODS
    PLUG_NAME "-format",
#endif
    NULL};

static const tn_quant_format format = {.h = TN_HDR(tn_quant_format),
                                       .name = PLUG_NAME "-format",
                                       .summary = "none",
                                       .fallback = "none",
                                       .methods = format_methods,
                                       .open = format_open,
                                       .close = format_close,
#ifndef PLUG_NULL_DESCRIBE
                                       .describe = describe,
#endif
                                       .owns = owns,
                                       .plan = format_plan,
                                       .fill = format_fill,
                                       .widen = widen};

/* -- comm.backend ------------------------------------------------------------------------------------ */

static int32_t can_join(void *instance, uint32_t n_ranks, uint32_t n_local,
                        tn_device *const *devices, tn_err *err)
{
    (void)instance, (void)n_ranks, (void)n_local, (void)devices;
    return tn_err_set(err, TN_E_UNSUPPORTED, "no");
}

static int32_t make_id(void *instance, uint8_t id[TN_COMM_ID_BYTES], tn_err *err)
{
    (void)instance, (void)id;
    return tn_err_set(err, TN_E_UNSUPPORTED, "no");
}

static int32_t join(void *instance, const tn_comm_join *how, tn_comm_group **out, tn_err *err)
{
    (void)instance, (void)how, (void)out;
    return tn_err_set(err, TN_E_UNSUPPORTED, "no");
}

static void leave(tn_comm_group *g)
{
    (void)g;
}

static int32_t async_error(tn_comm_group *g, tn_err *err)
{
    (void)g, (void)err;
    return TN_OK;
}

static int32_t comm_link(tn_comm_group *g, uint32_t peer, tn_comm_link *out, tn_err *err)
{
    (void)g, (void)peer, (void)out;
    return tn_err_set(err, TN_E_UNSUPPORTED, "no");
}

static int32_t collective(tn_comm_group *g, const void *send, void *recv, uint64_t count,
                          uint32_t dtype, tn_stream *s, tn_err *err)
{
    (void)g, (void)send, (void)recv, (void)count, (void)dtype, (void)s;
    return tn_err_set(err, TN_E_UNSUPPORTED, "no");
}

static int32_t move(tn_comm_group *g, void *buf, uint64_t bytes, uint32_t peer, tn_stream *s,
                    tn_err *err)
{
    (void)g, (void)buf, (void)bytes, (void)peer, (void)s;
    return tn_err_set(err, TN_E_UNSUPPORTED, "no");
}

static int32_t comm_send(tn_comm_group *g, const void *buf, uint64_t bytes, uint32_t peer,
                         tn_stream *s, tn_err *err)
{
    (void)buf;
    return move(g, NULL, bytes, peer, s, err);
}

static int32_t barrier(tn_comm_group *g, tn_stream *s, tn_err *err)
{
    (void)g, (void)s, (void)err;
    return TN_OK;
}

static const tn_comm_backend comm = {.h = TN_HDR(tn_comm_backend),
                                     .name = PLUG_NAME "-comm",
                                     .flags = TN_COMM_HOST_MEMORY,
                                     .dtypes = TN_DT_BIT(TN_DT_F32),
                                     .can_join = can_join,
                                     .make_id = make_id,
                                     .join = join,
                                     .leave = leave,
#ifndef PLUG_NULL_ABORT
                                     .abort = leave,
#endif
                                     .async_error = async_error,
                                     .link = comm_link,
                                     .all_reduce = collective,
                                     .all_gather = collective,
                                     .reduce_scatter = collective,
                                     .broadcast = move,
                                     .send = comm_send,
                                     .recv = move,
                                     .barrier = barrier};

/* -- device -------------------------------------------------------------------------------------------- */

static int32_t dev_count(void *instance, uint32_t *n, tn_err *err)
{
    (void)instance, (void)err;
    *n = 0;
    return TN_OK;
}

static int32_t dev_info(void *instance, uint32_t index, tn_device_info *info, tn_err *err)
{
    (void)instance, (void)index, (void)info;
    return tn_err_set(err, TN_E_NOTFOUND, "no");
}

static int32_t dev_open(void *instance, uint32_t index, uint32_t share, uint32_t n_shares,
                        tn_device **out, tn_err *err)
{
    (void)instance, (void)index, (void)share, (void)n_shares, (void)out;
    return tn_err_set(err, TN_E_NOTFOUND, "no");
}

static void dev_close(tn_device *d)
{
    (void)d;
}

static uint32_t act_dtype(tn_device *d, uint32_t weight_dtype)
{
    (void)d, (void)weight_dtype;
    return TN_DT_F32;
}

static int32_t dev_alloc(tn_device *d, uint64_t bytes, void **out, tn_err *err)
{
    (void)d, (void)bytes, (void)out;
    return tn_err_set(err, TN_E_NOSPACE, "no");
}

static void dev_free(tn_device *d, void *ptr)
{
    (void)d, (void)ptr;
}

static int32_t mem_info(tn_device *d, uint64_t *free_bytes, uint64_t *total_bytes, tn_err *err)
{
    (void)d, (void)err;
    *free_bytes = *total_bytes = 0;
    return TN_OK;
}

static int32_t copy(tn_device *d, tn_stream *s, void *dst, const void *src, uint64_t bytes,
                    uint32_t kind, tn_err *err)
{
    (void)d, (void)s, (void)dst, (void)src, (void)bytes, (void)kind, (void)err;
    return TN_OK;
}

static int32_t fill(tn_device *d, tn_stream *s, void *dst, uint8_t byte, uint64_t bytes,
                    tn_err *err)
{
    (void)d, (void)s, (void)dst, (void)byte, (void)bytes, (void)err;
    return TN_OK;
}

static const tn_device_api device = {.h = TN_HDR(tn_device_api),
                                     .kind = PLUG_NAME "-device",
                                     .count = dev_count,
                                     .info = dev_info,
                                     .open = dev_open,
                                     .close = dev_close,
                                     .act_dtype = act_dtype,
                                     .mem_alloc = dev_alloc,
                                     .mem_free = dev_free,
                                     .mem_info = mem_info,
#ifndef PLUG_NULL_COPY
                                     .copy = copy,
#endif
#ifdef PLUG_HALF_PINNED
                                     .pinned_alloc = dev_alloc,
#endif
                                     .fill = fill};

/* -- kernel.set ------------------------------------------------------------------------------------------ */

static double cost(void *instance, const tn_op *op, uint32_t rows)
{
    (void)instance, (void)op;
    return rows;
}

static int32_t launch(void *instance, const tn_launch *l, tn_err *err)
{
    (void)instance, (void)l, (void)err;
    return TN_OK;
}

static const tn_range ranges[] = {{"rows", 1, 64, 1},
                                  {"in0.width", 64,
#ifdef PLUG_BAD_RANGE
                                   1,
#else
                                   4096,
#endif
                                   64}};

static const tn_variant first = {.h = TN_HDR(tn_variant),
                                 .name = "add.test",
                                 .op = "add",
                                 .act_dtypes = TN_DT_BIT(TN_DT_F32),
                                 .ranges = ranges,
                                 .n_ranges = 2,
                                 .cost_ns = cost,
                                 .launch = launch};

static const tn_variant second_variant = {.h = TN_HDR(tn_variant),
#ifdef PLUG_SAME_VARIANT
                                          .name = "add.test",
#else
    .name = "add_mul.test",
#endif
                                          .op = "test.add_mul",
#ifdef PLUG_EMPTY_EQUALS
                                          .equals = "",
#else
    .equals = "(a, b) -> (y): s = add(a, b); y = mul(s, b)",
#endif
#ifdef PLUG_VARIANT_FLAGS
                                          .flags = 1u << 20,
#endif
                                          .act_dtypes = TN_DT_BIT(TN_DT_F32),
#ifdef PLUG_HALF_KV
                                          .kv_layout = "hnd",
#endif
#ifdef PLUG_MUCH_STATE
                                          .state_bytes = UINT64_C(1) << 40,
#endif
#ifdef PLUG_HALF_PACK
                                          .pack_layout = "tiles",
#endif
                                          .cost_ns = cost,
#ifndef PLUG_NULL_LAUNCH
                                          .launch = launch
#endif
};

static const tn_variant *const variants[] = {&first, &second_variant};

static const tn_kernel_set kernels = {.h = TN_HDR(tn_kernel_set),
                                      .device = "cpu",
#ifdef PLUG_MANY_VARIANTS
                                      .n_variants = 0x7fffffff,
#else
                                      .n_variants = 2,
#endif
                                      .variants = variants};

/* -- The plugin -------------------------------------------------------------------------------------------- */

struct plug {
    const tn_host *host;
    struct plug_counters *counters;
    void *memory[3];
    tn_thread *thread;
};

static struct plug_counters none;

static const char *setting(const tn_kv *config, uint32_t n, const char *key, const char *absent)
{
    for (uint32_t i = 0; i < n; i++)
        if (strcmp(config[i].key, key) == 0)
            return config[i].value;
    return absent;
}

static void in_thread(void *arg)
{
    struct plug *p = arg;

    __atomic_add_fetch(&p->counters->threads, 1, __ATOMIC_SEQ_CST);
}

static void give_back(struct plug *p)
{
    const tn_host *host = p->host;

    if (p->thread)
        host->thread_join(host->ctx, p->thread);
    for (int i = 0; i < 3; i++)
        host->free(host->ctx, p->memory[i]);
    host->free(host->ctx, p);
}

static int32_t acquire(struct plug *p, int fail, tn_err *err)
{
    const tn_host *host = p->host;

    for (int i = 0; i < 3; i++) {
        p->memory[i] = fail == i + 1 ? NULL : host->alloc(host->ctx, 1000, 64);
        if (!p->memory[i])
            return tn_err_set(err, TN_E_NOMEM, "step %d failed", i + 1);
        p->counters->steps++;
    }
    if (fail == 4)
        return tn_err_set(err, TN_E_DEVICE, "step 4 failed");
    return host->thread_spawn(host->ctx, "plug-thread", 0, in_thread, p, &p->thread, err);
}

static int32_t init(const tn_host *host, const tn_kv *config, uint32_t n_config, void **instance,
                    tn_err *err)
{
    const char *counters = setting(config, n_config, "counters", NULL);
    int fail = atoi(setting(config, n_config, "fail", "0"));
    struct plug *p = host->alloc(host->ctx, sizeof *p, 8);
    int32_t rc;

    if (!p)
        return tn_err_set(err, TN_E_NOMEM, "no memory");
    p->host = host;
    p->counters =
        counters ? (struct plug_counters *)(uintptr_t)strtoull(counters, NULL, 16) : &none;
    p->counters->inits++;
#ifdef PLUG_OVERRUN
    memset(err, 'x', sizeof *err + 16);
#endif
#ifdef PLUG_WEIRD_STATUS
    give_back(p);
    return 17;
#endif
#ifdef PLUG_LEAK
    host->alloc(host->ctx, 12345, 4096);
#endif
#ifdef PLUG_SIGMASK
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
#endif
#ifdef PLUG_TLS
    per_thread++;
#endif
#ifdef PLUG_UNRESOLVED
    no_such_function_anywhere();
#endif
    rc = acquire(p, fail, err);
    if (rc != TN_OK) {
        give_back(p);
        return rc;
    }
    *instance = p;
    return TN_OK;
}

static int32_t quiesce(void *instance, uint64_t deadline_ns, tn_err *err)
{
    struct plug *p = instance;

    (void)deadline_ns, (void)err;
    p->counters->quiesces++;
    return TN_OK;
}

static void fini(void *instance)
{
    struct plug *p = instance;

    p->counters->finis++;
    p->counters->order = p->counters->order * 10 + (unsigned)(PLUG_NAME[0] - 'a');
    give_back(p);
}

static const tn_iface ifaces[] = {
    {TN_HDR(tn_iface), TN_IFACE_MODEL, &model},     {TN_HDR(tn_iface), TN_IFACE_QUANT, &quant},
    {TN_HDR(tn_iface), TN_IFACE_FORMAT, &format},   {TN_HDR(tn_iface), TN_IFACE_COMM, &comm},
    {TN_HDR(tn_iface), TN_IFACE_DEVICE, &device},
#ifndef PLUG_NO_KERNELS
    {TN_HDR(tn_iface), TN_IFACE_KERNELS, &kernels},
#endif
    {TN_HDR(tn_iface), "acme.unknown", &model},
};

static const tn_plugin plugin = {.h = TN_HDR(tn_plugin),
#ifdef PLUG_LYING_SIZE
                                 .h.size = 16,
#endif
#ifdef PLUG_OTHER_NAME
                                 .name = "other",
#else
                                 .name = PLUG_NAME,
#endif
                                 .vendor = "test",
                                 .version = PLUG_VERSION,
#ifdef PLUG_MANY_IFACES
                                 .n_ifaces = 0xffffffffu,
#else
                                 .n_ifaces = sizeof ifaces / sizeof *ifaces,
#endif
                                 .ifaces = ifaces,
                                 .init = init,
                                 .quiesce = quiesce,
#ifndef PLUG_NULL_FINI
                                 .fini = fini
#endif
};

#ifndef PLUG_NO_QUERY
const tn_plugin *tn_plugin_query_v1(const tn_host *host, uint32_t host_minor)
{
    (void)host, (void)host_minor;
#ifdef PLUG_DECLINES
    return NULL;
#endif
    return &plugin;
}
#else
TN_EXPORT const tn_plugin *tn_plugin_query_v0(void);
const tn_plugin *tn_plugin_query_v0(void)
{
    return &plugin;
}
#endif
