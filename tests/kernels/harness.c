/* SPDX-License-Identifier: Apache-2.0 */
/* The small host of the kernel tests; see harness.h. One thread. */
#include "remote.h"

#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#define GUARD 256 /* bytes watched behind every buffer */
#define POISON 0xff

bool harness_slow(void)
{
#if defined(__SANITIZE_ADDRESS__)
    return true;
#else
    return getenv("GPU_SMALL") != NULL;
#endif
}

/* -- The host table ------------------------------------------------------------------------------ */

struct tn_thread {
    pthread_t thread;
    void (*fn)(void *);
    void *arg;
};

static void host_log(tn_host_ctx *ctx, uint32_t level, const char *msg)
{
    (void)ctx;
    (void)level;
    fprintf(stderr, "plugin: %s\n", msg);
}

static void *host_alloc(tn_host_ctx *ctx, uint64_t bytes, uint64_t align)
{
    void *p = NULL;

    if (posix_memalign(&p, align < sizeof(void *) ? sizeof(void *) : align, bytes ? bytes : 1))
        return NULL;
    memset(p, 0, bytes);
    ((struct plug *)ctx)->allocations++;
    return p;
}

static void host_free(tn_host_ctx *ctx, void *ptr)
{
    if (ptr)
        ((struct plug *)ctx)->allocations--;
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

    (void)name;
    (void)cpu;
    t->fn = fn;
    t->arg = arg;
    if (pthread_create(&t->thread, NULL, run_thread, t)) {
        free(t);
        return tn_err_set(err, TN_E_NOMEM, "no thread");
    }
    ((struct plug *)ctx)->threads++;
    *out = t;
    return TN_OK;
}

static void host_join(tn_host_ctx *ctx, tn_thread *thread)
{
    pthread_join(thread->thread, NULL);
    free(thread);
    ((struct plug *)ctx)->threads--;
}

static uint64_t host_now(tn_host_ctx *ctx)
{
    struct timespec t;

    (void)ctx;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* -- Plugins ------------------------------------------------------------------------------------- */

/* Where plugins are: as built, unless the machine that runs the test has them elsewhere. */
static const char *plugin_dir(void)
{
    const char *dir = getenv("TENON_TEST_PLUGINS");

    return dir ? dir : PLUGIN_DIR;
}

/* Linux's names of the features of cpu.h, from /proc/cpuinfo, which knows what the kernel saves. */
uint64_t machine_cpu(void)
{
    static const struct {
        const char *flag;
        uint64_t bit;
    } names[] = {
        {" sse4_2 ", TN_CPU(SSE42)},
        {" avx ", TN_CPU(AVX)},
        {" avx2 ", TN_CPU(AVX2)},
        {" fma ", TN_CPU(FMA)},
        {" f16c ", TN_CPU(F16C)},
        {" bmi2 ", TN_CPU(BMI2)},
        {" avx512f ", TN_CPU(AVX512F)},
        {" avx512bw ", TN_CPU(AVX512BW)},
        {" avx512dq ", TN_CPU(AVX512DQ)},
        {" avx512vl ", TN_CPU(AVX512VL)},
        {" avx512_vnni ", TN_CPU(AVX512VNNI)},
        {" avx512_bf16 ", TN_CPU(AVX512BF16)},
        {" avx_vnni ", TN_CPU(AVXVNNI)},
    };
    static char line[8192];
    const char *mask = getenv("KERNELS_CPU_MASK");
    uint64_t cpu = 0;
    FILE *f = fopen("/proc/cpuinfo", "r");

    while (f && fgets(line, sizeof line - 2, f)) {
        if (strncmp(line, "flags", 5) != 0)
            continue;
        line[strcspn(line, "\n")] = ' ';
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
            cpu |= strstr(line, names[i].flag) ? names[i].bit : 0;
        break;
    }
    if (f)
        fclose(f);
    return mask ? cpu & strtoull(mask, NULL, 16) : cpu;
}

bool can_run_here(const tn_variant *v)
{
    return (v->cpu[0] & ~machine_cpu()) == 0 && v->cpu[1] == 0;
}

bool plug_exists(const char *name)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s.so", plugin_dir(), name);
    return access(path, F_OK) == 0;
}

/* Maps the plugin and makes an instance; finds its interfaces. */
static void plug_open(struct plug *p, const char *name, const tn_kv *config, uint32_t n_config)
{
    char path[512];
    tn_err err = TN_ERR_INIT;
    const tn_plugin *(*query)(const tn_host *, uint32_t);

    memset(p, 0, sizeof *p);
    p->host = (tn_host){.h = TN_HDR(tn_host),
                        .cpu = {machine_cpu(), 0},
                        .n_cpus = 2,
                        .ctx = (tn_host_ctx *)p,
                        .log = host_log,
                        .alloc = host_alloc,
                        .free = host_free,
                        .thread_spawn = host_spawn,
                        .thread_join = host_join,
                        .now_ns = host_now};
    snprintf(path, sizeof path, "%s/%s.so", plugin_dir(), name);
    p->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    ck_assert_msg(p->handle != NULL, "%s", dlerror());
    *(void **)&query = dlsym(p->handle, TN_PLUGIN_SYMBOL);
    ck_assert_msg(query != NULL, "%s has no entry symbol", path);
    p->plugin = query(&p->host, TN_ABI_MINOR);
    ck_assert_ptr_nonnull(p->plugin);
    if (p->plugin->init)
        ck_assert_ok(p->plugin->init(&p->host, config, n_config, &p->instance, &err), &err);
    for (uint32_t i = 0; i < p->plugin->n_ifaces; i++) {
        if (strcmp(p->plugin->ifaces[i].id, TN_IFACE_KERNELS) == 0)
            p->set = p->plugin->ifaces[i].vtbl;
        if (strcmp(p->plugin->ifaces[i].id, TN_IFACE_DEVICE) == 0)
            p->devices = p->plugin->ifaces[i].vtbl;
    }
}

static void plug_attach(struct plug *p)
{
    tn_err err = TN_ERR_INIT;

    if (p->set && p->set->attach)
        ck_assert_ok(p->set->attach(p->instance, p->devices, p->device, &err), &err);
}

void plug_load(struct plug *p, const char *name, const char *threads)
{
    tn_kv config = {"threads", threads};

    plug_load_with(p, name, &config, threads ? 1 : 0);
}

void plug_load_with(struct plug *p, const char *name, const tn_kv *config, uint32_t n_config)
{
    tn_device_info info = {.h = TN_HDR(tn_device_info)};
    tn_err err = TN_ERR_INIT;

    plug_open(p, name, config, n_config);
    if (p->devices) {
        ck_assert_ok(p->devices->open(p->instance, 0, 0, 1, &p->device, &err), &err);
        ck_assert_ok(p->devices->info(p->instance, 0, &info, &err), &err);
        p->remote = !(info.flags & TN_DEVICE_HOST_MEMORY);
    }
    if (p->remote)
        ck_assert_ok(p->devices->stream_new(p->device, &p->stream, &err), &err);
    plug_attach(p);
}

void plug_load_on(struct plug *p, const char *name, const struct plug *owner)
{
    plug_open(p, name, NULL, 0);
    ck_assert_msg(!p->devices, "%s has a device of its own", name);
    p->devices = owner->devices;
    p->device = owner->device;
    p->stream = owner->stream;
    p->remote = owner->remote;
    p->borrows = true;
    plug_attach(p);
}

void plug_unload(struct plug *p)
{
    if (p->set && p->set->detach)
        p->set->detach(p->instance, p->device);
    if (p->remote && !p->borrows)
        p->devices->stream_free(p->device, p->stream);
    if (p->devices && !p->borrows)
        p->devices->close(p->device);
    if (p->plugin->fini)
        p->plugin->fini(p->instance);
    ck_assert_msg(p->allocations == 0, "%s kept %d blocks", p->plugin->name, p->allocations);
    ck_assert_msg(p->threads == 0, "%s kept %d threads", p->plugin->name, p->threads);
    dlclose(p->handle);
}

const tn_variant *plug_variant(const struct plug *p, const char *name)
{
    for (uint32_t i = 0; i < p->set->n_variants; i++)
        if (strcmp(p->set->variants[i]->name, name) == 0)
            return p->set->variants[i];
    for (uint32_t i = 0; i < p->set->n_variants; i++)
        if (strcmp(p->set->variants[i]->op, name) == 0)
            return p->set->variants[i];
    ck_abort_msg("%s has no variant %s", p->plugin->name, name);
    return NULL;
}

/* -- Random data --------------------------------------------------------------------------------- */

/* SplitMix64 (Steele et al. 2014). */
uint64_t random_u64(struct random *r)
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

float random_float(struct random *r, float low, float high)
{
    return low + (high - low) * (float)(random_u64(r) >> 40) * 0x1p-24f;
}

uint32_t random_below(struct random *r, uint32_t n)
{
    return (uint32_t)(random_u64(r) % n);
}

/* -- Ops ----------------------------------------------------------------------------------------- */

void kit_init(struct kit *k, uint64_t seed)
{
    memset(k, 0, sizeof *k);
    k->random.state = seed;
}

void kit_free(struct kit *k)
{
    for (size_t i = 0; i < k->n_owned; i++)
        free(k->owned[i]);
    free(k->owned);
    memset(k, 0, sizeof *k);
}

void *kit_alloc(struct kit *k, size_t bytes)
{
    void *p = NULL;

    k->owned = realloc(k->owned, (k->n_owned + 1) * sizeof *k->owned);
    expect(k->owned != NULL && posix_memalign(&p, 64, bytes ? bytes : 1) == 0, "out of memory");
    memset(p, 0, bytes);
    k->owned[k->n_owned++] = p;
    return p;
}

tn_value *kit_value(struct kit *k, uint32_t kind, uint32_t dtype, uint64_t width)
{
    tn_value *v = kit_alloc(k, sizeof *v);

    expect(k->n_values < MAX_VALUES, "too many values in one kit");
    *v = (tn_value){
        TN_HDR(tn_value), kind, kind == TN_VALUE_KV ? 0 : dtype, kind == TN_VALUE_KV ? 0 : width, 0,
        k->n_values++};
    return v;
}

static void store(void *p, uint32_t dtype, uint64_t i, float f)
{
    switch (dtype) {
    case TN_DT_F16: ((uint16_t *)p)[i] = tn_f32_to_f16(f); break;
    case TN_DT_BF16: ((uint16_t *)p)[i] = tn_f32_to_bf16(f); break;
    case TN_DT_I8: ((int8_t *)p)[i] = (int8_t)f; break;
    case TN_DT_F8E4M3: ((uint8_t *)p)[i] = tn_f32_to_f8e4m3(f); break;
    case TN_DT_I4: {
        uint8_t *pair = (uint8_t *)p + i / 2, q = (uint8_t)((int)f & 15);
        *pair = (uint8_t)(i % 2 ? (*pair & 15) | q << 4 : (*pair & 240) | q);
        break;
    }
    default: ((float *)p)[i] = f; break;
    }
}

static float load(const void *p, uint32_t dtype, uint64_t i)
{
    switch (dtype) {
    case TN_DT_F16: return tn_f16_to_f32(((const uint16_t *)p)[i]);
    case TN_DT_BF16: return tn_bf16_to_f32(((const uint16_t *)p)[i]);
    case TN_DT_I32: return (float)((const int32_t *)p)[i];
    case TN_DT_I8: return (float)((const int8_t *)p)[i];
    case TN_DT_I4: {
        uint32_t nibble = (uint32_t)((const uint8_t *)p)[i / 2] >> (i % 2 * 4) & 15u;
        return (float)(int32_t)(nibble ^ 8u) - 8.0f;
    }
    case TN_DT_F8E4M3: return tn_f8e4m3_to_f32(((const uint8_t *)p)[i]);
    default: return ((const float *)p)[i];
    }
}

tn_weight *kit_weight(struct kit *k, uint32_t dtype, uint64_t rows, uint64_t cols, float limit,
                      uint64_t gap)
{
    uint64_t inner = ((cols ? cols : 1) * tn_dtype_bits(dtype) + 7) / 8;
    uint64_t stride = cols ? inner + gap : inner;
    unsigned char *data = kit_alloc(k, rows * stride);
    tn_weight *w = kit_alloc(k, sizeof *w);

    memset(data, POISON, rows * stride);
    for (uint64_t r = 0; r < rows; r++)
        for (uint64_t c = 0; c < (cols ? cols : 1); c++)
            store(data + r * stride, dtype, c, random_float(&k->random, -limit, limit));
    *w = (tn_weight){.h = TN_HDR(tn_weight), .name = "w", .dtype = dtype, .n_dims = cols ? 2 : 1};
    w->dims[0] = rows;
    w->dims[1] = cols;
    w->stride0 = stride;
    w->data = data;
    return w;
}

tn_weight *kit_stack(struct kit *k, uint32_t dtype, uint64_t n, uint64_t rows, uint64_t cols,
                     float limit)
{
    tn_weight *w = kit_weight(k, dtype, n, rows * cols, limit, 0);

    w->n_dims = 3;
    w->dims[1] = rows;
    w->dims[2] = cols;
    return w;
}

tn_op *kit_op(struct kit *k, const char *name)
{
    /* Arrays of their largest size, right behind the op; the pointers to them are const in tn_op. */
    struct {
        tn_op op;
        const tn_value *in[TN_OP_MAX_VALUES], *out[TN_OP_MAX_VALUES];
        const tn_weight *weights[TN_OP_MAX_VALUES * TN_OP_MAX_MEMBERS];
        tn_attr attrs[16];
        const tn_op *members[TN_OP_MAX_MEMBERS];
    } *all = kit_alloc(k, sizeof *all);

    all->op = (tn_op){.h = TN_HDR(tn_op),
                      .name = name,
                      .in = all->in,
                      .out = all->out,
                      .weights = all->weights,
                      .attrs = all->attrs,
                      .members = all->members};
    return &all->op;
}

void op_in(tn_op *op, const tn_value *v)
{
    ((const tn_value **)op->in)[op->n_in++] = v;
}

void op_out(tn_op *op, const tn_value *v)
{
    ((const tn_value **)op->out)[op->n_out++] = v;
}

void op_weight(tn_op *op, const tn_weight *w)
{
    ((const tn_weight **)op->weights)[op->n_weights++] = w;
}

void op_int(tn_op *op, const char *name, int64_t value)
{
    ((tn_attr *)op->attrs)[op->n_attrs++] = (tn_attr)TN_ATTR_INT(name, value);
}

void op_real(tn_op *op, const char *name, double value)
{
    ((tn_attr *)op->attrs)[op->n_attrs++] = (tn_attr)TN_ATTR_REAL(name, value);
}

void op_text(tn_op *op, const char *name, const char *value)
{
    ((tn_attr *)op->attrs)[op->n_attrs++] = (tn_attr)TN_ATTR_TEXT(name, value);
}

/* -- Batches ------------------------------------------------------------------------------------- */

static tn_batch *new_batch(struct kit *k, uint32_t n_seqs, uint32_t n_rows, uint32_t max_blocks)
{
    tn_batch *b = kit_alloc(k, sizeof *b);
    tn_batch_arrays *a = kit_alloc(k, sizeof *a);

    *a = (tn_batch_arrays){
        .h = TN_HDR(tn_batch_arrays),
        .tokens = kit_alloc(k, n_rows * sizeof(int32_t)),
        .positions = kit_alloc(k, n_rows * sizeof(int32_t)),
        .row_seq = kit_alloc(k, n_rows * sizeof(int32_t)),
        .row_slot = kit_alloc(k, n_rows * sizeof(int64_t)),
        .first_row = kit_alloc(k, (n_seqs + 1) * sizeof(int32_t)),
        .context = kit_alloc(k, n_seqs * sizeof(int32_t)),
        .prompt_len = kit_alloc(k, n_seqs * sizeof(int32_t)),
        .block_table = kit_alloc(k, (uint64_t)n_seqs * max_blocks * sizeof(int32_t)),
        .logits_row = kit_alloc(k, n_rows * sizeof(int32_t)),
        .sample = kit_alloc(k, n_rows * sizeof(tn_sample_row)),
        .sampled = kit_alloc(k, n_rows * sizeof(int32_t)),
        .logprob = kit_alloc(k, n_rows * sizeof(float)),
    };
    *b = (tn_batch){.h = TN_HDR(tn_batch),
                    .n_rows = n_rows,
                    .n_seqs = n_seqs,
                    .max_blocks = max_blocks,
                    .host = a,
                    .dev = a};
    return b;
}

/* Fills in what follows from first_row, context and block_table. */
static void derive(tn_batch *b)
{
    const tn_batch_arrays *a = b->host;

    for (uint32_t s = 0; s < b->n_seqs; s++) {
        uint32_t n = (uint32_t)(a->first_row[s + 1] - a->first_row[s]);
        b->max_rows_per_seq = n > b->max_rows_per_seq ? n : b->max_rows_per_seq;
        if ((uint32_t)a->context[s] > b->max_context)
            b->max_context = (uint32_t)a->context[s];
        for (uint32_t i = 0; i < n; i++) {
            uint32_t t = (uint32_t)a->first_row[s] + i;
            uint32_t pos = (uint32_t)a->context[s] - n + i;
            int64_t block = a->block_table[s * b->max_blocks + pos / b->block_tokens];
            ((int32_t *)a->positions)[t] = (int32_t)pos;
            ((int32_t *)a->row_seq)[t] = (int32_t)s;
            ((int64_t *)a->row_slot)[t] = block * b->block_tokens + pos % b->block_tokens;
        }
    }
}

uint32_t batch_blocks(const tn_batch *b)
{
    int32_t most = 0;

    for (uint32_t i = 0; i < b->n_seqs * b->max_blocks; i++)
        most = b->host->block_table[i] > most ? b->host->block_table[i] : most;
    return (uint32_t)most + 1;
}

tn_batch *kit_batch(struct kit *k, uint32_t n_seqs, const uint32_t *rows, const uint32_t *context,
                    uint32_t block_tokens, uint32_t vocab, bool all_logits)
{
    uint32_t n_rows = 0, max_blocks = 1, n_blocks = 0;
    tn_batch *b;
    int32_t *order;

    for (uint32_t s = 0; s < n_seqs; s++) {
        uint32_t n = (context[s] + block_tokens - 1) / block_tokens;
        n_rows += rows[s];
        n_blocks += n;
        max_blocks = n > max_blocks ? n : max_blocks;
    }
    b = new_batch(k, n_seqs, n_rows, max_blocks);
    b->block_tokens = block_tokens;
    order = kit_alloc(k, n_blocks * sizeof *order);
    for (uint32_t i = 0; i < n_blocks; i++) { /* a random permutation */
        uint32_t j = random_below(&k->random, i + 1);
        order[i] = order[j];
        order[j] = (int32_t)i;
    }
    for (uint32_t s = 0; s < n_seqs; s++) {
        int32_t *table = (int32_t *)b->host->block_table + s * max_blocks;
        for (uint32_t i = 0; i < max_blocks; i++)
            table[i] = i * block_tokens < context[s] ? *order++ : TN_NO_BLOCK;
        ((int32_t *)b->host->first_row)[s + 1] = b->host->first_row[s] + (int32_t)rows[s];
        ((int32_t *)b->host->context)[s] = (int32_t)context[s];
        ((int32_t *)b->host->prompt_len)[s] = (int32_t)(context[s] / 2);
        for (uint32_t i = 0; i < rows[s]; i++)
            if (all_logits || i + 1 == rows[s])
                ((int32_t *)b->host->logits_row)[b->n_logits++] =
                    b->host->first_row[s] + (int32_t)i;
    }
    for (uint32_t t = 0; t < n_rows; t++)
        ((int32_t *)b->host->tokens)[t] = (int32_t)random_below(&k->random, vocab);
    derive(b);
    return b;
}

uint32_t slice_row(const tn_batch *whole, uint32_t seq, uint32_t first)
{
    return (uint32_t)whole->host->first_row[seq] + first;
}

tn_batch *kit_slice(struct kit *k, const tn_batch *whole, uint32_t seq, uint32_t first, uint32_t n)
{
    tn_batch *b = new_batch(k, 1, n, whole->max_blocks);
    uint32_t row = slice_row(whole, seq, first);

    b->block_tokens = whole->block_tokens;
    ((int32_t *)b->host->first_row)[1] = (int32_t)n;
    ((int32_t *)b->host->context)[0] = whole->host->positions[row + n - 1] + 1;
    ((int32_t *)b->host->prompt_len)[0] = whole->host->prompt_len[seq];
    memcpy((int32_t *)b->host->block_table, whole->host->block_table + seq * whole->max_blocks,
           whole->max_blocks * sizeof(int32_t));
    memcpy((int32_t *)b->host->tokens, whole->host->tokens + row, n * sizeof(int32_t));
    for (uint32_t i = 0; i < n; i++)
        ((int32_t *)b->host->logits_row)[i] = (int32_t)i;
    b->n_logits = n;
    derive(b);
    return b;
}

uint64_t kv_bytes(const tn_kv_layer *kv)
{
    return (uint64_t)kv->n_blocks * kv->block_bytes;
}

/* Gives a cache of 8 bits its scales: another for each head, about `scale`. */
static void scale_kv(struct kit *k, tn_kv_layer *kv, float scale)
{
    uint64_t width = (uint64_t)kv->n_kv_heads * kv->head_dim;
    float *scales = kit_alloc(k, 2 * kv->n_kv_heads * sizeof *scales);
    float *center = kit_alloc(k, width * sizeof *center);

    for (uint32_t i = 0; i < 2 * kv->n_kv_heads; i++)
        scales[i] = random_float(&k->random, 0.5f * scale, 1.5f * scale);
    kv->k_scale = scales;
    kv->v_scale = scales + kv->n_kv_heads;
    for (uint64_t i = 0; i < width; i++)
        center[i] = random_float(&k->random, -1.0f, 1.0f);
    kv->k_center = kv->dtype == TN_DT_F8E4M3 ? center : NULL;
}

void kit_feedback(struct kit *k, tn_kv_layer *kv, bool settles)
{
    uint64_t n = (uint64_t)kv->n_kv_heads * kv->head_dim * kv->head_dim;
    float *table = kit_alloc(k, 2 * n * sizeof *table);

    for (uint64_t i = 0; i < 2 * n; i++)
        table[i] = random_float(&k->random, -0.5f, 0.5f);
    for (uint64_t i = 0; i < 2 * n && !settles; i++)
        if (i % kv->head_dim == i / kv->head_dim % kv->head_dim)
            table[i] = 0.0f;
    kv->k_feedback = table;
    kv->v_feedback = table + n;
}

tn_kv_layer *kit_kv(struct kit *k, const tn_batch *b, uint32_t heads, uint32_t dim, uint32_t dtype)
{
    tn_kv_layer *kv = kit_alloc(k, sizeof *kv);
    uint64_t half = (uint64_t)heads * b->block_tokens * dim; /* elements of a page's keys */
    float limit = dtype == TN_DT_I8 ? 127.99f : dtype == TN_DT_F8E4M3 ? 448.0f : 2.0f;

    *kv = (tn_kv_layer){.h = TN_HDR(tn_kv_layer),
                        .n_kv_heads = heads,
                        .head_dim = dim,
                        .block_tokens = b->block_tokens,
                        .dtype = dtype,
                        .n_blocks = batch_blocks(b),
                        .block_bytes = 2 * half * tn_dtype_bits(dtype) / 8 + 64};
    kv->base = kit_alloc(k, kv_bytes(kv));
    memset(kv->base, POISON, kv_bytes(kv)); /* NaN in every float dtype */
    for (uint32_t s = 0; s < b->n_seqs; s++)
        for (uint32_t pos = 0; pos < (uint32_t)b->host->context[s]; pos++) {
            uint64_t page =
                (uint64_t)b->host->block_table[s * b->max_blocks + pos / b->block_tokens];
            for (uint64_t h = 0; h < 2 * heads; h++)
                for (uint64_t i = 0; i < dim; i++)
                    store((char *)kv->base + page * kv->block_bytes, dtype,
                          (h * b->block_tokens + pos % b->block_tokens) * dim + i,
                          random_float(&k->random, -limit, limit) *
                              (dtype == TN_DT_F8E4M3 ? 1.0f / (float)(1u << i % 16) : 1.0f));
        }
    if (tn_dtype_bits(dtype) == 8)
        scale_kv(k, kv, 2.0f / limit);
    return kv;
}

tn_kv_layer *kit_kv_copy(struct kit *k, const tn_kv_layer *kv)
{
    tn_kv_layer *copy = kit_alloc(k, sizeof *copy);

    *copy = *kv;
    copy->base = kit_alloc(k, kv_bytes(kv));
    memcpy(copy->base, kv->base, kv_bytes(kv));
    return copy;
}

/* -- Running ------------------------------------------------------------------------------------- */

uint64_t value_rows(const tn_value *v, const tn_batch *b)
{
    return v->kind == TN_VALUE_LOGITS ? b->n_logits : v->kind == TN_VALUE_ROWS ? b->n_rows : 0;
}

uint64_t value_bytes(const tn_value *v, const tn_batch *b)
{
    return value_rows(v, b) * v->width * tn_dtype_bits(v->dtype) / 8;
}

float value_at(const tn_value *v, const void *data, uint64_t i)
{
    return load(data, v->dtype, i);
}

void value_put(const tn_value *v, void *data, uint64_t i, float x)
{
    store(data, v->dtype, i, x);
}

void env_fill(struct kit *k, struct env *e, const tn_value *v, const tn_batch *b, float limit,
              uint32_t coarse)
{
    uint64_t n = value_rows(v, b) * v->width;

    if (v->kind == TN_VALUE_KV)
        return;
    e->data[v->id] = kit_alloc(k, value_bytes(v, b));
    for (uint64_t i = 0; i < n; i++) {
        float f = random_float(&k->random, -limit, limit);
        f = coarse == TN_DT_BF16 ? tn_bf16_to_f32(tn_f32_to_bf16(f)) : f;
        store(e->data[v->id], v->dtype, i, f);
    }
}

static void *guarded(struct kit *k, uint64_t bytes)
{
    void *p = kit_alloc(k, bytes + GUARD);

    memset(p, POISON, bytes + GUARD);
    return p;
}

static void check_guard(const void *p, uint64_t bytes, const tn_variant *v, const char *what)
{
    for (uint64_t i = 0; i < GUARD; i++)
        expect(((const unsigned char *)p)[bytes + i] == POISON, "%s: wrote %llu bytes past its %s",
               v->name, (unsigned long long)i + 1, what);
}

/* Packed weights of `op`, or NULL. */
static void *pack(struct kit *k, const struct plug *p, const tn_variant *v, const tn_op *op)
{
    tn_err err = TN_ERR_INIT;
    uint64_t bytes = 0;
    void *packed;

    if (!v->pack_layout)
        return NULL;
    ck_assert_ok(v->pack_size(p->instance, op, &bytes, &err), &err);
    packed = guarded(k, bytes);
    ck_assert_ok(v->pack(p->instance, op, packed, NULL, &err), &err);
    check_guard(packed, bytes, v, "packed weights");
    return packed;
}

void run_variant(struct kit *k, const struct plug *p, const tn_variant *v, const tn_op *op,
                 const tn_batch *b, struct env *e)
{
    const void *in[TN_OP_MAX_VALUES] = {0};
    const void *weights[TN_OP_MAX_VALUES * TN_OP_MAX_MEMBERS] = {0};
    void *out[TN_OP_MAX_VALUES] = {0};
    tn_err err = TN_ERR_INIT;
    uint64_t work = 0;
    tn_comm_parts parts = {TN_HDR(tn_comm_parts), e->n_parts ? e->part : in,
                           e->n_parts ? e->n_parts : 1, 0, e->each};
    tn_launch l = {.h = TN_HDR(tn_launch), .op = op, .batch = b, .in = in, .out = out};

    l.feed = e->feed;
    l.parts = v->flags & TN_VARIANT_PARTS ? &parts : NULL;
    if (v->can_run)
        ck_assert_ok(v->can_run(p->instance, op, &err), &err);
    ck_assert_msg(!v->cost_ns || !isnan(v->cost_ns(p->instance, op, b->n_rows)),
                  "%s: cost that is no number", v->name);
    if (p->remote) {
        run_remote(k, p, v, op, b, e);
        return;
    }
    for (uint32_t i = 0; i < op->n_in; i++)
        in[i] = op->in[i]->kind == TN_VALUE_KV ? NULL : e->data[op->in[i]->id];
    for (uint32_t i = 0; i < op->n_out; i++)
        if (op->out[i]->kind != TN_VALUE_KV)
            out[i] = e->data[op->out[i]->id] = guarded(k, value_bytes(op->out[i], b));
    for (uint32_t i = 0; i < op->n_weights; i++)
        weights[i] = op->weights[i]->data;
    l.packed = pack(k, p, v, op);
    l.weights = v->pack_layout ? NULL : weights;
    if (v->workspace)
        ck_assert_ok(
            v->workspace(p->instance, op, b->n_rows, b->n_seqs, b->max_context, &work, &err), &err);
    l.workspace = guarded(k, work);
    l.kv = v->kv_dtypes ? e->kv : NULL;
    l.device = p->device;
    l.tp_size = 1;
    l.state = v->state_bytes ? memset(guarded(k, v->state_bytes), 0, v->state_bytes) : NULL;
    for (int i = 0; i < (v->state_bytes ? STATE_LAUNCHES : 1); i++)
        ck_assert_ok(v->launch(p->instance, &l, &err), &err);
    if (l.state)
        check_guard(l.state, v->state_bytes, v, "state");
    check_guard(l.workspace, work, v, "workspace");
    for (uint32_t i = 0; i < op->n_out; i++)
        if (out[i])
            check_guard(out[i], value_bytes(op->out[i], b), v, "output");
}

void run_reference(struct kit *k, const struct plug *reference, const tn_op *op, const tn_batch *b,
                   struct env *e)
{
    if (!op->n_members)
        run_variant(k, reference, plug_variant(reference, op->name), op, b, e);
    for (uint32_t i = 0; i < op->n_members; i++)
        run_reference(k, reference, op->members[i], b, e);
}

void expect_close(const tn_variant *v, const tn_op *op, const tn_batch *b, const struct env *got,
                  const struct env *want, double absolute, double relative)
{
    for (uint32_t o = 0; o < op->n_out; o++) {
        const tn_value *out = op->out[o];
        for (uint64_t i = 0; i < value_rows(out, b) * out->width; i++) {
            double x = (double)value_at(out, got->data[out->id], i);
            double y = (double)value_at(out, want->data[out->id], i);
            expect((isnan(x) && isnan(y)) || x == y || fabs(x - y) <= absolute + relative * fabs(y),
                   "%s: output %u, row %llu, column %llu is %.9g, not %.9g", v->name, o,
                   (unsigned long long)(i / out->width), (unsigned long long)(i % out->width), x,
                   y);
        }
    }
}

bool same_row(const tn_value *v, const void *a, uint64_t row, const void *b, uint64_t other)
{
    uint64_t bytes = v->width * tn_dtype_bits(v->dtype) / 8;

    return memcmp((const char *)a + row * bytes, (const char *)b + other * bytes, bytes) == 0;
}
