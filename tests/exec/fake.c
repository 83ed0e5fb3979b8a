/* SPDX-License-Identifier: Apache-2.0 */
#include "exec/fake.h"

#include "base/mem.h"
#include "base/strbuf.h"
#include "check_util.h"
#include "engine/opset.h"
#include "tenon/ops.h"

#define MAX 64

static struct fake fakes[MAX];
static size_t n_fakes;
static tn_device_info info;

/* -- Functions of variants: one of each per slot, since cost_ns and can_run are not told the variant ------- */

static int32_t run(struct fake *f, tn_err *err)
{
    return f->refuse ? tn_err_set(err, TN_E_UNSUPPORTED, "%s", f->refuse) : TN_OK;
}

static uint64_t slice_bytes(const tn_weight *w)
{
    uint64_t n = 1;

    for (uint32_t i = 0; i < w->n_dims; i++)
        n *= w->dims[i];
    return n * tn_dtype_bits(w->dtype) / 8;
}

static uint64_t packed_bytes(const struct fake *f, const tn_op *op)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < op->n_weights; i++)
        n += slice_bytes(op->weights[i]);
    return f->pack_bytes ? f->pack_bytes : n;
}

/* The rows of all weights, one after another. */
static int32_t pack(struct fake *f, const tn_op *op, unsigned char *to, tn_err *err)
{
    if (f->pack_status != TN_OK)
        return tn_err_set(err, f->pack_status, "cannot pack");
    for (uint32_t i = 0; i < op->n_weights; i++) {
        const tn_weight *w = op->weights[i];
        uint64_t row = slice_bytes(w) / w->dims[0];
        ck_assert_ptr_nonnull(w->data);
        for (uint64_t r = 0; r < w->dims[0]; r++, to += row)
            memcpy(to, (const unsigned char *)w->data + r * w->stride0, row);
    }
    return TN_OK;
}

#define SLOT(i)                                                                                    \
    static int32_t can_run_##i(void *instance, const tn_op *op, tn_err *err)                       \
    {                                                                                              \
        (void)instance;                                                                            \
        (void)op;                                                                                  \
        return run(&fakes[i], err);                                                                \
    }                                                                                              \
    static double cost_##i(void *instance, const tn_op *op, uint32_t rows)                         \
    {                                                                                              \
        (void)instance;                                                                            \
        (void)op;                                                                                  \
        return fakes[i].fixed + fakes[i].per_row * rows;                                           \
    }                                                                                              \
    static int32_t pack_size_##i(void *instance, const tn_op *op, uint64_t *bytes, tn_err *err)    \
    {                                                                                              \
        (void)instance;                                                                            \
        (void)err;                                                                                 \
        *bytes = packed_bytes(&fakes[i], op);                                                      \
        return TN_OK;                                                                              \
    }                                                                                              \
    static int32_t pack_##i(void *instance, const tn_op *op, void *packed, tn_stream *stream,      \
                            tn_err *err)                                                           \
    {                                                                                              \
        (void)instance;                                                                            \
        (void)stream;                                                                              \
        return pack(&fakes[i], op, packed, err);                                                   \
    }                                                                                              \
    static int32_t workspace_##i(void *instance, const tn_op *op, uint32_t rows, uint32_t seqs,    \
                                 uint32_t context, uint64_t *bytes, tn_err *err)                   \
    {                                                                                              \
        (void)instance;                                                                            \
        (void)op;                                                                                  \
        (void)rows;                                                                                \
        (void)seqs;                                                                                \
        (void)context;                                                                             \
        (void)err;                                                                                 \
        *bytes = fakes[i].workspace;                                                               \
        return TN_OK;                                                                              \
    }                                                                                              \
    static int32_t launch_##i(void *instance, const tn_launch *l, tn_err *err)                     \
    {                                                                                              \
        (void)instance;                                                                            \
        (void)err;                                                                                 \
        fakes[i].launches++;                                                                       \
        fakes[i].last_rows =                                                                       \
            l->op->out[0]->kind == TN_VALUE_LOGITS ? l->batch->n_logits : l->batch->n_rows;        \
        fakes[i].last = l;                                                                         \
        return TN_OK;                                                                              \
    }

#define EACH10(X, a) X(a##0) X(a##1) X(a##2) X(a##3) X(a##4) X(a##5) X(a##6) X(a##7) X(a##8) X(a##9)
#define EACH(X)                                                                                    \
    X(0)                                                                                           \
    X(1)                                                                                           \
    X(2)                                                                                           \
    X(3)                                                                                           \
    X(4) X(5) X(6) X(7) X(8) X(9) EACH10(X, 1) EACH10(X, 2) EACH10(X, 3) EACH10(X, 4) EACH10(X, 5)
EACH(SLOT)

static const struct {
    int32_t (*can_run)(void *, const tn_op *, tn_err *);
    double (*cost_ns)(void *, const tn_op *, uint32_t);
    int32_t (*pack_size)(void *, const tn_op *, uint64_t *, tn_err *);
    int32_t (*pack)(void *, const tn_op *, void *, tn_stream *, tn_err *);
    int32_t (*workspace)(void *, const tn_op *, uint32_t, uint32_t, uint32_t, uint64_t *, tn_err *);
    int32_t (*launch)(void *, const tn_launch *, tn_err *);
} slots[] = {
#define ROW(i) {can_run_##i, cost_##i, pack_size_##i, pack_##i, workspace_##i, launch_##i},
    EACH(ROW)};

/* -- The set --------------------------------------------------------------------------------------------- */

void fake_reset(void)
{
    memset(fakes, 0, sizeof fakes);
    n_fakes = 0;
    fake_device = (struct fake_device){0};
    info = (tn_device_info){.h = TN_HDR(tn_device_info), .flags = TN_DEVICE_HOST_MEMORY};
}

static bool touches_cache(const char *op)
{
    return strcmp(op, TN_OP_KV_APPEND) == 0 || strcmp(op, TN_OP_ATTENTION) == 0;
}

struct fake *fake_add(const char *name, const char *op)
{
    struct fake *f = &fakes[n_fakes];

    ck_assert_uint_lt(n_fakes, sizeof slots / sizeof *slots);
    *f = (struct fake){.v = {.h = TN_HDR(tn_variant),
                             .name = name,
                             .op = op,
                             .act_dtypes = FAKE_FLOATS,
                             .weight_dtypes = FAKE_FLOATS,
                             .can_run = slots[n_fakes].can_run,
                             .cost_ns = slots[n_fakes].cost_ns,
                             .pack_size = slots[n_fakes].pack_size,
                             .pack = slots[n_fakes].pack,
                             .workspace = slots[n_fakes].workspace,
                             .launch = slots[n_fakes].launch},
                       .fixed = 100,
                       .per_row = 10};
    if (touches_cache(op)) {
        f->v.kv_dtypes = FAKE_FLOATS;
        f->v.kv_layout = TN_KV_LAYOUT_HND;
    }
    n_fakes++;
    return f;
}

void fake_basics(void)
{
    static char names[32][32];
    const char *op;

    for (size_t i = 0; (op = opset_name(i)) != NULL; i++) {
        snprintf(names[i], sizeof names[i], "%s.f", op);
        fake_add(names[i], op);
    }
}

size_t fake_count(void)
{
    return n_fakes;
}

static uint64_t block_bytes(const tn_kv_layer *l)
{
    return UINT64_C(2) * l->n_kv_heads * l->block_tokens * l->head_dim * tn_dtype_bits(l->dtype) /
           8;
}

static const tn_kv_layout hnd = {
    .h = TN_HDR(tn_kv_layout), .name = TN_KV_LAYOUT_HND, .block_bytes = block_bytes};
static const tn_kv_layout *const layouts[] = {&hnd};

const struct kernel_source *fake_source_of(const char *plugin, size_t first, size_t last)
{
    static struct kernel_source sources[4];
    static tn_kernel_set sets[4];
    static const tn_variant *variants[4][MAX];
    static size_t next;
    size_t k = next++ % 4;

    for (size_t i = first; i < last; i++)
        variants[k][i - first] = &fakes[i].v;
    sets[k] = (tn_kernel_set){.h = TN_HDR(tn_kernel_set),
                              .device = "fake",
                              .n_variants = (uint32_t)(last - first),
                              .n_kv_layouts = 1,
                              .variants = variants[k],
                              .kv_layouts = layouts};
    sources[k] = (struct kernel_source){plugin, &sets[k], NULL};
    return &sources[k];
}

const struct kernel_source *fake_source(void)
{
    return fake_source_of("fake", 0, n_fakes);
}

struct select_options fake_options(void)
{
    return (struct select_options){.sources = fake_source(),
                                   .n_sources = 1,
                                   .device = &info,
                                   .device_kind = "fake",
                                   .act_dtype = TN_DT_F32,
                                   .kv_dtype = TN_DT_F32,
                                   .max_rows = 64,
                                   .max_logits = 8,
                                   .fusion = true};
}

const char *fake_sequence(const struct selection *s, int32_t layer)
{
    static char text[4096];
    size_t n = 0;

    text[0] = '\0';
    for (size_t i = 0; i < s->n_ops; i++)
        if (layer == -2 || s->ops[i].op->op.layer == layer)
            n += (size_t)snprintf(text + n, sizeof text - n, "%s%s", n ? " " : "",
                                  s->ops[i].op->op.name);
    return text;
}

const struct selected *fake_selected(const struct selection *s, const char *op, int n)
{
    for (size_t i = 0; i < s->n_ops; i++)
        if (strcmp(s->ops[i].op->op.name, op) == 0 && n-- == 0)
            return &s->ops[i];
    return NULL;
}

/* -- The device -------------------------------------------------------------------------------------------- */

struct fake_device fake_device;

void fake_device_flags(uint32_t flags)
{
    info.flags = flags;
}

/* The size lies in front of each block, so that giving it back is counted. */
static int32_t device_alloc(tn_device *d, uint64_t bytes, void **out, tn_err *err)
{
    unsigned char *p;

    (void)d;
    if (fake_device.fail_alloc && --fake_device.fail_alloc == 0)
        return tn_err_set(err, TN_E_NOSPACE, "the fake device is full");
    p = mem_aligned((size_t)bytes + 256, 256);
    if (!p)
        return tn_err_set(err, TN_E_NOMEM, "no memory for the fake device");
    memcpy(p, &bytes, sizeof bytes);
    fake_device.bytes += bytes;
    fake_device.blocks++;
    *out = p + 256;
    return TN_OK;
}

static void device_free(tn_device *d, void *ptr)
{
    unsigned char *p = (unsigned char *)ptr - 256;
    uint64_t bytes;

    (void)d;
    memcpy(&bytes, p, sizeof bytes);
    fake_device.bytes -= bytes;
    fake_device.blocks--;
    mem_free(p);
}

static int32_t device_copy(tn_device *d, tn_stream *s, void *dst, const void *src, uint64_t bytes,
                           uint32_t kind, tn_err *err)
{
    (void)d;
    (void)s;
    (void)kind;
    (void)err;
    memcpy(dst, src, (size_t)bytes);
    fake_device.copies++;
    return TN_OK;
}

const tn_device_api fake_api = {.h = TN_HDR(tn_device_api),
                                .kind = "fake",
                                .mem_alloc = device_alloc,
                                .mem_free = device_free,
                                .copy = device_copy};
