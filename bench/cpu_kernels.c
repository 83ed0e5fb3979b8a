/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Speed of plugins/kernels/cpu against what the machine can do, measured in the same run.
 *
 *     cpu_kernels [threads [SUBSTRING of variants | roof]]
 *
 * First the roof: bytes per second that one and all workers read, and multiply-adds per second of the
 * instructions that the kernels use. Then, for the shapes of a LLaMA of 1.1 billion parameters, one row (decode;
 * weights cycle through copies larger than any cache) and 512 rows (prefill), per dtype of weights; a
 * whole model's worth of bfloat16 layers in order; and attention. Data are random, never zeros. Each
 * number is the best of several runs: neighbours on a shared machine only ever make it slower.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels_peak.h"
#include "tenon/float.h"
#include "tenon/kernels.h"
#include "tenon/ops.h"
#include "tenon/plugin.h"

#define HIDDEN 2048
#define FFN 5632
#define HEADS 32
#define KV_HEADS 4
#define HEAD_DIM 64
#define VOCAB 32000
#define LAYERS 22
#define PREFILL 512

#define COLD_BYTES (160u << 20) /* of copies that are cycled through */
#define BUDGET_S 0.25           /* for repetitions of one measurement */

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what, const char *why)
{
    fprintf(stderr, "cpu_kernels: %s: %s\n", what, why);
    exit(1);
}

/* -- A minimal host -------------------------------------------------------------------------------- */

struct tn_thread {
    pthread_t thread;
    void (*fn)(void *);
    void *arg;
};

static void host_log(tn_host_ctx *ctx, uint32_t level, const char *msg)
{
    (void)ctx;
    (void)level;
    fprintf(stderr, "%s\n", msg);
}

static void *host_alloc(tn_host_ctx *ctx, uint64_t bytes, uint64_t align)
{
    void *p = NULL;

    (void)ctx;
    if (posix_memalign(&p, align < 64 ? 64 : align, bytes))
        return NULL;
    return memset(p, 0, bytes);
}

static void host_free(tn_host_ctx *ctx, void *ptr)
{
    (void)ctx;
    free(ptr);
}

static void *run_thread(void *arg)
{
    struct tn_thread *t = arg;

    t->fn(t->arg);
    return NULL;
}

static int32_t host_spawn(tn_host_ctx *ctx, const char *name, int32_t cpu, void (*fn)(void *),
                          void *arg, tn_thread **out, tn_err *err)
{
    tn_thread *t = malloc(sizeof *t);

    (void)ctx;
    (void)name;
    (void)cpu;
    if (!t)
        return tn_err_set(err, TN_E_NOMEM, "no memory");
    *t = (tn_thread){.fn = fn, .arg = arg};
    *out = t;
    return pthread_create(&t->thread, NULL, run_thread, t) ? TN_E_NOMEM : TN_OK;
}

static void host_join(tn_host_ctx *ctx, tn_thread *thread)
{
    (void)ctx;
    pthread_join(thread->thread, NULL);
    free(thread);
}

static uint64_t host_now(tn_host_ctx *ctx)
{
    (void)ctx;
    return (uint64_t)(now() * 1e9);
}

static tn_host host = {.h = TN_HDR(tn_host),
                       .log = host_log,
                       .alloc = host_alloc,
                       .free = host_free,
                       .thread_spawn = host_spawn,
                       .thread_join = host_join,
                       .now_ns = host_now};

static void *instance;
static const tn_kernel_set *set;
static const tn_device_api *api;
static tn_device *device;

static void *device_alloc(uint64_t bytes)
{
    void *p = NULL;
    tn_err err = TN_ERR_INIT;

    if (api->mem_alloc(device, bytes, &p, &err))
        die("memory", err.msg);
    return p;
}

static void open_plugin(const char *path, const char *threads)
{
    const tn_plugin *(*query)(const tn_host *, uint32_t);
    const tn_plugin *p;
    tn_err err = TN_ERR_INIT;
    tn_kv config = {"threads", threads};
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);

    if (!handle)
        die(path, dlerror());
    host.n_cpus = (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
    *(void **)&query = dlsym(handle, TN_PLUGIN_SYMBOL);
    p = query(&host, TN_ABI_MINOR);
    if (p->init(&host, &config, threads ? 1 : 0, &instance, &err))
        die(path, err.msg);
    for (uint32_t i = 0; i < p->n_ifaces; i++) {
        if (strcmp(p->ifaces[i].id, TN_IFACE_KERNELS) == 0)
            set = p->ifaces[i].vtbl;
        if (strcmp(p->ifaces[i].id, TN_IFACE_DEVICE) == 0)
            api = p->ifaces[i].vtbl;
    }
    if (api->open(instance, 0, 0, 1, &device, &err) || set->attach(instance, api, device, &err))
        die(path, err.msg);
}

/* A flag that __builtin_cpu_supports of clang 14 has no name for, as Linux tells it. */
static int cpuinfo_has(const char *flag)
{
    static char text[16384];
    FILE *f = text[0] ? NULL : fopen("/proc/cpuinfo", "r");

    if (f) {
        text[fread(text, 1, sizeof text - 1, f)] = '\0';
        fclose(f);
    }
    return strstr(text, flag) != NULL;
}

/* Whether this machine has the instructions that a variant needs. */
static int runs_here(const tn_variant *v)
{
    uint64_t have = 0;

    have |= __builtin_cpu_supports("avx") ? TN_CPU(AVX) : 0;
    have |= __builtin_cpu_supports("avx2") ? TN_CPU(AVX2) : 0;
    have |= __builtin_cpu_supports("fma") ? TN_CPU(FMA) : 0;
    have |= cpuinfo_has(" f16c ") ? TN_CPU(F16C) : 0;
    have |= __builtin_cpu_supports("bmi2") ? TN_CPU(BMI2) : 0;
    have |= __builtin_cpu_supports("avx512f") ? TN_CPU(AVX512F) : 0;
    have |= __builtin_cpu_supports("avx512bw") ? TN_CPU(AVX512BW) : 0;
    have |= __builtin_cpu_supports("avx512dq") ? TN_CPU(AVX512DQ) : 0;
    have |= __builtin_cpu_supports("avx512vl") ? TN_CPU(AVX512VL) : 0;
    have |= __builtin_cpu_supports("avx512vnni") ? TN_CPU(AVX512VNNI) : 0;
    have |= __builtin_cpu_supports("avx512bf16") ? TN_CPU(AVX512BF16) : 0;
    have |= cpuinfo_has(" avx_vnni ") ? TN_CPU(AVXVNNI) : 0;
    return (v->cpu[0] & ~have) == 0 && v->cpu[1] == 0;
}

static const tn_variant *find_variant(const char *name)
{
    for (uint32_t i = 0; i < set->n_variants; i++)
        if (strcmp(set->variants[i]->name, name) == 0)
            return set->variants[i];
    die(name, "no such variant");
    return NULL;
}

/* -- The roof -------------------------------------------------------------------------------------- */

static struct roof {
    double read_one, read_all; /* GB/s */
    double peak[PEAK_COUNT];   /* GFLOP/s of all workers; 0: not on this machine */
} roof;

static double best_of(double *best, double value)
{
    return *best = value > *best ? value : *best;
}

static void run_peak(void *arg, uint32_t index, uint32_t count)
{
    (void)index;
    (void)count;
    peak_run(*(const enum peak *)arg);
}

/* The best of many short measurements: short enough to fall between two turns of a neighbour. */
static void measure_roof(void)
{
    static struct peak_read whole = {.bytes = COLD_BYTES}, part = {.bytes = 32u << 20};
    uint32_t workers = api->n_workers(device);

    if (!whole.data) {
        uint32_t *fill = device_alloc(whole.bytes);
        for (uint64_t i = 0; i < whole.bytes / 4; i++)
            fill[i] = (uint32_t)(i * 2654435761u);
        whole.data = (const unsigned char *)fill;
    }
    for (uint64_t run = 0; run < 100; run++) {
        part.data = whole.data + run * part.bytes % whole.bytes;
        double t = now();
        if (run % 2)
            peak_read_part(&part, 0, 1);
        else
            api->parallel(device, peak_read_part, &part);
        best_of(run % 2 ? &roof.read_one : &roof.read_all, (double)part.bytes / (now() - t) * 1e-9);
        for (enum peak p = 0; p < PEAK_COUNT; p++) {
            if (!peak_name(p))
                continue;
            t = now();
            api->parallel(device, run_peak, &p);
            best_of(&roof.peak[p], peak_flops(p) * workers / (now() - t) * 1e-9);
        }
    }
}

static void print_roof(void)
{
    printf("workers %u; read %.1f GB/s by one, %.1f by all\n", api->n_workers(device),
           roof.read_one, roof.read_all);
    printf("peak GFLOP/s by all: float32 %.0f (%s), bfloat16 %.0f (%s), int8 %.0f (%s)\n\n",
           roof.peak[PEAK_F32], peak_name(PEAK_F32), roof.peak[PEAK_BF16], peak_name(PEAK_BF16),
           roof.peak[PEAK_INT8], peak_name(PEAK_INT8));
}

/* -- Ops ------------------------------------------------------------------------------------------- */

static uint32_t random_word(void)
{
    static uint64_t state = 1;

    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

static float random_float(void)
{
    return (float)random_word() * 0x1p-30f - 1.0f;
}

/* A value, weight or op that lives as long as the program. */
static tn_value *new_value(uint32_t kind, uint64_t width)
{
    static uint32_t id;
    tn_value *v = calloc(1, sizeof *v);

    *v = (tn_value){TN_HDR(tn_value), kind, TN_DT_F32, width, 0, id++};
    return v;
}

static tn_weight *new_weight(uint32_t dtype, uint64_t rows, uint64_t cols)
{
    uint64_t size = tn_dtype_bits(dtype) / 8, n = rows * (cols ? cols : 1);
    unsigned char *data = malloc(n * size);
    tn_weight *w = calloc(1, sizeof *w);

    for (uint64_t i = 0; i < n; i++) {
        float f = random_float() * 0.05f;
        switch (dtype) {
        case TN_DT_F32: ((float *)(void *)data)[i] = f; break;
        case TN_DT_F16: ((uint16_t *)(void *)data)[i] = tn_f32_to_f16(f); break;
        case TN_DT_BF16: ((uint16_t *)(void *)data)[i] = tn_f32_to_bf16(f); break;
        default: data[i] = (unsigned char)random_word(); break;
        }
    }
    *w = (tn_weight){TN_HDR(tn_weight), "w", dtype, cols ? 2 : 1, {rows, cols}, size, data};
    w->stride0 = size * (cols ? cols : 1);
    return w;
}

struct bench_op {
    tn_op op;
    const tn_value *in[3], *out[3];
    const tn_weight *weights[6];
    tn_attr attrs[8];
    const tn_op *members[4];
};

static struct bench_op *new_op(const char *name)
{
    struct bench_op *b = calloc(1, sizeof *b);

    b->op = (tn_op){.h = TN_HDR(tn_op),
                    .name = name,
                    .in = b->in,
                    .out = b->out,
                    .weights = b->weights,
                    .attrs = b->attrs,
                    .members = b->members};
    return b;
}

static struct bench_op *new_linear(const char *name, const tn_value *x, uint32_t dtype, uint64_t n)
{
    struct bench_op *b = new_op(name);

    b->in[b->op.n_in++] = x;
    b->out[b->op.n_out++] =
        new_value(strcmp(name, TN_OP_LOGITS) == 0 ? TN_VALUE_LOGITS : TN_VALUE_ROWS, n);
    b->weights[b->op.n_weights++] = new_weight(dtype, n, x->width);
    if (dtype == TN_DT_I8)
        b->weights[b->op.n_weights++] = new_weight(TN_DT_F32, n, 0);
    return b;
}

static void add_member(struct bench_op *b, const struct bench_op *m)
{
    b->members[b->op.n_members++] = &m->op;
    for (uint32_t i = 0; i < m->op.n_weights; i++)
        b->weights[b->op.n_weights++] = m->weights[i];
}

/* The products of a layer, and the head, as the fused ops that a LLaMA uses. */
enum product { QKV, OUT, GATE_UP, DOWN, HEAD, N_PRODUCTS };

static const struct {
    const char *label, *variant;
    uint64_t k, n; /* of all matrices together */
} products[N_PRODUCTS] = {
    [QKV] = {"q,k,v", "qkv", HIDDEN, HIDDEN + 2 * KV_HEADS *HEAD_DIM},
    [OUT] = {"out+add", "add_linear", HIDDEN, HIDDEN},
    [GATE_UP] = {"gate*up", "gate_silu", HIDDEN, 2 * FFN},
    [DOWN] = {"down+add", "add_linear", FFN, HIDDEN},
    [HEAD] = {"logits", "logits", HIDDEN, VOCAB},
};

static struct bench_op *product_op(enum product p, uint32_t dtype)
{
    const char *linear = dtype == TN_DT_I8 ? TN_OP_LINEAR_INT8 : TN_OP_LINEAR;
    const tn_value *x = new_value(TN_VALUE_ROWS, products[p].k);
    struct bench_op *b = new_op(products[p].variant);
    struct bench_op *m[3];

    if (p == HEAD)
        return new_linear(TN_OP_LOGITS, x, dtype, VOCAB);
    b->in[b->op.n_in++] = x;
    if (p == QKV) {
        for (int i = 0; i < 3; i++) {
            m[i] = new_linear(linear, x, dtype, i ? KV_HEADS * HEAD_DIM : HIDDEN);
            add_member(b, m[i]);
            b->out[b->op.n_out++] = m[i]->out[0];
        }
        return b;
    }
    for (int i = 0; i < (p == GATE_UP ? 2 : 1); i++)
        add_member(b, new_linear(linear, x, dtype, p == GATE_UP ? FFN : HIDDEN));
    while (b->op.n_members < (p == GATE_UP ? 4 : 2))
        add_member(b, new_op("member")); /* the rest of the composition has no say in the launch */
    b->out[b->op.n_out++] = new_value(TN_VALUE_ROWS, p == GATE_UP ? FFN : HIDDEN);
    if (p != GATE_UP)
        b->in[b->op.n_in++] = new_value(TN_VALUE_ROWS, HIDDEN);
    return b;
}

/* A variant bound to an op: what `run` needs, with several copies of the packed weights. */
struct bound {
    const tn_variant *v;
    const struct bench_op *op;
    void *packed[64];
    uint32_t n_packed, next;
    uint64_t packed_bytes;
    void *workspace;
    tn_kv_layer *kv;
    unsigned char *pages; /* n_pages copies of the cache, page_bytes each */
    uint64_t page_bytes;
    uint32_t n_pages;
    const void *in[3];
    void *out[3];
};

static void bind(struct bound *b, const tn_variant *v, const struct bench_op *op, uint32_t rows,
                 uint32_t context, uint32_t copies)
{
    tn_err err = TN_ERR_INIT;
    uint64_t work = 0;

    memset(b, 0, sizeof *b);
    b->v = v;
    b->op = op;
    if (v->pack_size && v->pack_size(instance, &op->op, &b->packed_bytes, &err))
        die(v->name, err.msg);
    for (uint32_t i = 0; b->packed_bytes && i < copies; i++) {
        b->packed[b->n_packed++] = device_alloc(b->packed_bytes);
        if (i)
            memcpy(b->packed[i], b->packed[0], b->packed_bytes);
        else
            v->pack(instance, &op->op, b->packed[0], NULL, &err);
    }
    if (v->workspace && v->workspace(instance, &op->op, rows, rows, context, &work, &err))
        die(v->name, err.msg);
    b->workspace = device_alloc(work + 64);
    for (uint32_t i = 0; i < op->op.n_in; i++) {
        float *x = device_alloc(rows * op->in[i]->width * sizeof *x + 64);
        for (uint64_t j = 0; j < rows * op->in[i]->width; j++)
            x[j] = random_float();
        b->in[i] = x;
    }
    for (uint32_t i = 0; i < op->op.n_out; i++)
        b->out[i] = device_alloc(rows * op->out[i]->width * sizeof(float) + 64);
}

static void unbind(struct bound *b)
{
    for (uint32_t i = 0; i < b->n_packed; i++)
        api->mem_free(device, b->packed[i]);
    for (uint32_t i = 0; i < 3; i++) {
        api->mem_free(device, (void *)b->in[i]);
        api->mem_free(device, b->out[i]);
    }
    api->mem_free(device, b->workspace);
}

static void run(struct bound *b, const tn_batch *batch)
{
    tn_err err = TN_ERR_INIT;
    tn_launch l = {.h = TN_HDR(tn_launch),
                   .op = &b->op->op,
                   .batch = batch,
                   .in = b->in,
                   .out = b->out,
                   .weights = (const void *const *)b->op->weights,
                   .kv = b->kv,
                   .workspace = b->workspace,
                   .device = device,
                   .tp_size = 1};

    if (b->n_packed)
        l.packed = b->packed[b->next++ % b->n_packed];
    if (b->v->launch(instance, &l, &err))
        die(b->v->name, err.msg);
}

/* A batch of one sequence whose last `rows` rows are computed, all of them wanting logits. */
static tn_batch *new_batch(uint32_t rows, uint32_t context, uint32_t block_tokens)
{
    tn_batch *b = calloc(1, sizeof *b);
    tn_batch_arrays *a = calloc(1, sizeof *a);
    int32_t *row = calloc(rows, 4 * sizeof *row), *ends = calloc(4, sizeof *ends);
    uint32_t n_blocks = (context + block_tokens - 1) / block_tokens;
    int32_t *table = calloc(n_blocks, sizeof *table);

    for (uint32_t i = 0; i < rows; i++) {
        row[i] = (int32_t)(context - rows + i); /* positions */
        row[rows + i] = (int32_t)i;             /* rows that want logits */
    }
    for (uint32_t i = 0; i < n_blocks; i++)
        table[i] = (int32_t)(i * 7919u % n_blocks); /* scattered */
    ends[1] = (int32_t)rows;
    ends[2] = (int32_t)context;
    *a = (tn_batch_arrays){.h = TN_HDR(tn_batch_arrays),
                           .positions = row,
                           .logits_row = row + rows,
                           .row_seq = row + 2 * rows,
                           .first_row = ends,
                           .context = ends + 2,
                           .prompt_len = ends + 2,
                           .block_table = table};
    *b = (tn_batch){.h = TN_HDR(tn_batch),
                    .n_rows = rows,
                    .n_seqs = 1,
                    .n_logits = rows,
                    .block_tokens = block_tokens,
                    .max_blocks = n_blocks,
                    .max_rows_per_seq = rows,
                    .max_context = context,
                    .host = a,
                    .dev = a};
    return b;
}

static void free_batch(tn_batch *b)
{
    tn_batch_arrays *a = (tn_batch_arrays *)b->host;

    free((void *)a->positions); /* the rows' arrays are one block, and so are the ends */
    free((void *)a->first_row);
    free((void *)a->block_table);
    free(a);
    free(b);
}

/* Seconds of the fastest of many runs, each on weights (or a cache) that no processor cache holds. */
static double time_of(struct bound *b, const tn_batch *batch)
{
    double best = 1e9, start = now();
    uint32_t n = 0;

    run(b, batch);
    while (n++ < 5 || now() - start < BUDGET_S) {
        if (b->n_pages)
            b->kv->base = b->pages + n % b->n_pages * b->page_bytes;
        double t = now();
        run(b, batch);
        t = now() - t;
        best = t < best ? t : best;
    }
    return best;
}

/* -- What is printed --------------------------------------------------------------------------------- */

static const struct {
    const char *suffix;
    uint32_t dtype;
    enum peak peak;
} kernels[] = {
    {"bf16.avx512bf16", TN_DT_BF16, PEAK_BF16}, {"f32.avx512", TN_DT_F32, PEAK_F32},
    {"f16.avx512", TN_DT_F16, PEAK_F32},        {"bf16.avx512", TN_DT_BF16, PEAK_F32},
    {"i8.avx512vnni", TN_DT_I8, PEAK_INT8},     {"f32.avx2", TN_DT_F32, PEAK_F32},
    {"bf16.avx2", TN_DT_BF16, PEAK_F32},        {"i8.avxvnni", TN_DT_I8, PEAK_INT8},
    {"i8.avx2", TN_DT_I8, PEAK_INT8},
};

/* The first of kernels[], the fastest, that this machine runs for that dtype. */
static const char *best_suffix(uint32_t dtype)
{
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) {
        char name[64];
        snprintf(name, sizeof name, "linear.%s", kernels[i].suffix);
        if (kernels[i].dtype == dtype && runs_here(find_variant(name)))
            return kernels[i].suffix;
    }
    die(tn_dtype_name(dtype), "no kernel for this machine");
    return NULL;
}

static void bench_product(const char *suffix, uint32_t dtype, enum peak peak, enum product p)
{
    static const uint32_t row_counts[] = {1, 8, PREFILL};
    const struct bench_op *op = product_op(p, dtype);
    char name[64];
    struct bound b;

    snprintf(name, sizeof name, "%s.%s", products[p].variant, suffix);
    printf("%-28s", name);
    for (int i = 0; i < 3; i++) {
        uint64_t matrix = products[p].k * products[p].n * tn_dtype_bits(dtype) / 8;
        uint32_t copies = (uint32_t)(COLD_BYTES / matrix) + 1;
        tn_batch *batch = new_batch(row_counts[i], row_counts[i], 16);
        bind(&b, find_variant(name), op, row_counts[i], 16, copies < 64 ? copies : 64);
        double t = time_of(&b, batch);
        double flops = 2.0 * (double)(products[p].k * products[p].n) * row_counts[i] / t * 1e-9;
        double bytes = (double)b.packed_bytes / t * 1e-9;
        if (row_counts[i] < PREFILL)
            printf(" | %3u: %5.1f GB/s %3.0f%%", row_counts[i], bytes, 100 * bytes / roof.read_all);
        else
            printf(" | %3u: %5.0f GFLOP/s %3.0f%%\n", row_counts[i], flops,
                   100 * flops / roof.peak[peak]);
        unbind(&b);
        free_batch(batch);
    }
    fflush(stdout);
}

/* All layers and the head of a model, one row, weights in bfloat16, every matrix of every layer its own. */
static void bench_model(void)
{
    static struct bound all[LAYERS * HEAD + 1];
    const struct bench_op *ops[N_PRODUCTS];
    tn_batch *one = new_batch(1, 1, 16);
    double best = 1e9, bytes = 0.0, fastest[N_PRODUCTS] = {0.0}, sum = 0.0;

    for (enum product p = 0; p < N_PRODUCTS; p++)
        ops[p] = product_op(p, TN_DT_BF16);
    for (int i = 0; i <= LAYERS * HEAD; i++) {
        enum product p = i < LAYERS * HEAD ? i % HEAD : HEAD;
        char name[64];
        snprintf(name, sizeof name, "%s.%s", products[p].variant, best_suffix(TN_DT_BF16));
        bind(&all[i], find_variant(name), ops[p], 1, 16, 1);
        bytes += (double)all[i].packed_bytes;
    }
    for (int round = 0; round < 20; round++) {
        double start = now(), t = start;
        for (int i = 0; i <= LAYERS * HEAD; i++) {
            double *f = &fastest[i < LAYERS * HEAD ? i % HEAD : HEAD];
            run(&all[i], one);
            double end = now();
            *f = *f == 0.0 || end - t < *f ? end - t : *f;
            t = end;
        }
        best = t - start < best ? t - start : best;
    }
    for (enum product p = 0; p < N_PRODUCTS; p++)
        sum += fastest[p] * (p == HEAD ? 1 : LAYERS);
    measure_roof();
    printf("\nall products of %d layers and the head, 1 row, %.2f GB of bfloat16:\n", LAYERS,
           bytes * 1e-9);
    printf("  the fastest pass: %.2f ms, %.1f GB/s, %.0f%% of read\n", best * 1e3,
           bytes / best * 1e-9, 100 * bytes / best * 1e-9 / roof.read_all);
    printf("  the fastest of each product: %.2f ms, %.1f GB/s, %.0f%% of read\n\n", sum * 1e3,
           bytes / sum * 1e-9, 100 * bytes / sum * 1e-9 / roof.read_all);
    free_batch(one);
}

static void bench_attention(const char *variant, uint32_t dtype, uint32_t rows, uint32_t context,
                            uint32_t kv_heads)
{
    struct bench_op *op = new_op(TN_OP_ATTENTION);
    tn_batch *batch = new_batch(rows, context, 16);
    const tn_attr attrs[] = {TN_ATTR_INT("n_heads", HEADS), TN_ATTR_INT("n_kv_heads", kv_heads),
                             TN_ATTR_INT("head_dim", HEAD_DIM), TN_ATTR_REAL("scale", 0.125)};
    uint64_t page = 2u * kv_heads * 16 * HEAD_DIM * tn_dtype_bits(dtype) / 8;
    tn_kv_layer kv = {.h = TN_HDR(tn_kv_layer),
                      .n_kv_heads = kv_heads,
                      .head_dim = HEAD_DIM,
                      .block_tokens = 16,
                      .dtype = dtype,
                      .n_blocks = batch->max_blocks,
                      .block_bytes = page};
    uint64_t bytes = page * batch->max_blocks;
    uint32_t copies = (uint32_t)(COLD_BYTES / bytes) + 1;
    unsigned char *pages = device_alloc(bytes * copies);
    double best, flops = 4.0 * rows * (context - rows / 2.0) * HEADS * HEAD_DIM;
    struct bound b;

    for (uint64_t i = 0; i < bytes * copies * 8 / tn_dtype_bits(dtype); i++) {
        float f = random_float();
        if (dtype == TN_DT_F32)
            ((float *)(void *)pages)[i] = f;
        else
            ((uint16_t *)(void *)pages)[i] = tn_f32_to_bf16(f);
    }
    memcpy(op->attrs, attrs, sizeof attrs);
    op->op.n_attrs = 4;
    op->in[op->op.n_in++] = new_value(TN_VALUE_ROWS, HEADS * HEAD_DIM);
    op->in[op->op.n_in++] = new_value(TN_VALUE_KV, 0);
    op->out[op->op.n_out++] = new_value(TN_VALUE_ROWS, HEADS * HEAD_DIM);
    bind(&b, find_variant(variant), op, rows, context, 1);
    b.kv = &kv;
    kv.base = b.pages = pages;
    b.page_bytes = bytes;
    b.n_pages = copies;
    best = time_of(&b, batch);
    printf("%s, %s cache, %u rows, context %u, %u kv heads: %.0f us, %.1f GB/s (%.0f%%), %.0f "
           "GFLOP/s\n",
           variant, tn_dtype_name(dtype), rows, context, kv_heads, best * 1e6,
           (double)bytes / best * 1e-9, 100 * (double)bytes / best * 1e-9 / roof.read_all,
           flops / best * 1e-9);
    unbind(&b);
    free_batch(batch);
    api->mem_free(device, pages);
}

static void nothing(void *arg, uint32_t index, uint32_t count)
{
    (void)arg;
    (void)index;
    (void)count;
}

static void bench_pool(void)
{
    double best = 1e9;

    for (int round = 0; round < 20; round++) {
        double t = now();
        for (int i = 0; i < 1000; i++)
            api->parallel(device, nothing, NULL);
        t = (now() - t) / 1000;
        best = t < best ? t : best;
    }
    printf("an empty parallel region: %.2f us\n\n", best * 1e6);
}

static void bench_products(const char *only)
{
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) {
        char name[64];
        snprintf(name, sizeof name, "linear.%s", kernels[i].suffix);
        if (!strstr(kernels[i].suffix, only) || !runs_here(find_variant(name)))
            continue;
        for (enum product p = 0; p < N_PRODUCTS; p++)
            if (p != HEAD || kernels[i].dtype != TN_DT_I8)
                bench_product(kernels[i].suffix, kernels[i].dtype, kernels[i].peak, p);
    }
}

static void bench_attentions(void)
{
    const char *v =
        runs_here(find_variant("attention.avx512")) ? "attention.avx512" : "attention.avx2";

    for (uint32_t kv_heads = KV_HEADS; kv_heads <= HEADS; kv_heads += HEADS - KV_HEADS) {
        bench_attention(v, TN_DT_BF16, 1, 2048, kv_heads);
        bench_attention(v, TN_DT_F32, 1, 2048, kv_heads);
        bench_attention(v, TN_DT_BF16, PREFILL, PREFILL, kv_heads);
    }
    printf("\n");
}

int main(int argc, char **argv)
{
    const char *only = argc > 2 ? argv[2] : "";

    if (!peak_name(PEAK_F32))
        die("this machine", "has neither AVX2 nor AVX-512");
    open_plugin(DEFAULT_PLUGIN, argc > 1 ? argv[1] : NULL);
    measure_roof();
    print_roof();
    if (strcmp(only, "roof") == 0)
        return 0;
    bench_pool();
    bench_products(only);
    if (strstr("model", only))
        bench_model();
    if (strstr("attention", only))
        bench_attentions();
    measure_roof();
    print_roof();
    return 0;
}
