/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Matrix products: what an op asks for, its packed weights, and the way through gemm.h. Any thread.
 *
 * Packed weights of an op: the panels of all its matrices; then per packed column a float32 bias (0 without
 * one); for int8 and e4m3 also a float32 scale and an int32 offset per column. Columns beyond a matrix are zeros. Panels of
 * int4 hold their scales themselves: gemm_int4_tmpl.h.
 */
#include "linear.h"

#include <string.h>

#include "check.h"
#include "share.h"
#include "tenon/ops.h"

/* Bytes per nanosecond that weights come from memory with, and the cost of a launch: priors for cost_ns. */
#define MEMORY_BYTES_PER_NS 35.0
#define LAUNCH_NS 1000.0

/* A block of packed rows and a panel should fit the L2 cache together; fewer rows than this per block would
 * read the weights from memory too often. */
#define BLOCK_BYTES (512u * 1024)
#define BLOCK_MIN_ROWS 224

#define ALIGN 64u

/* -- What an op asks for ------------------------------------------------------------------------- */

/* One matrix of an op and what belongs to it. */
struct matrix {
    const tn_weight *w;     /* [N, K] */
    const tn_weight *scale; /* int8, e4m3: [N]; int4: [N, K / group] */
    const tn_weight *zero;  /* int4: likewise, or NULL */
    const tn_weight *bias;  /* [N] or NULL */
};

struct product {
    uint32_t n_matrices;
    struct matrix matrices[GEMM_MAX_PARTS];
    uint64_t k, group, run; /* int4: k per scale, and per run of the kernel; else 0 */
    uint32_t n_panels;
    uint32_t first_panel[GEMM_MAX_PARTS];
    int gated;        /* a panel holds a vector of matrix 0 and the same columns of matrix 1 */
    uint64_t columns; /* packed ones */
};

/* Nonzero if the weights have a scale per column. */
static uint32_t is_scaled(const struct gemm_kernel *kernel)
{
    return kernel->weight_dtype == TN_DT_I8 || kernel->weight_dtype == TN_DT_F8E4M3;
}

/* Nonzero if the weights have a scale per column and group. */
static uint32_t is_grouped(const struct gemm_kernel *kernel)
{
    return kernel->weight_dtype == TN_DT_I4;
}

/* Weights of a linear that stand between its matrix and its bias. */
static uint32_t extras(const tn_op *m, const struct gemm_kernel *kernel)
{
    return is_grouped(kernel) ? 1 + (tn_op_int(m, "zero", 0) != 0) : is_scaled(kernel);
}

static uint64_t group_of(const tn_op *m, const struct gemm_kernel *kernel)
{
    int64_t group = is_grouped(kernel) ? tn_op_int(m, "group", 0) : 0;

    return group > 0 ? (uint64_t)group : 0;
}

/* Long groups are cut into equal pieces whose sums fit. */
static uint64_t run_of(uint64_t group)
{
    uint64_t pieces = (group + GEMM_MAX_RUN - 1) / GEMM_MAX_RUN;

    while (pieces && group % pieces)
        pieces++;
    return pieces ? group / pieces : 0;
}

static int is_gated(enum linear_form form)
{
    return form == FORM_GATE_SILU || form == FORM_GATE_GELU || form == FORM_GATE_GELU_TANH;
}

/* Finds the matrices of `op`. Members are in the order of the compositions in set.c. */
static void describe(const tn_op *op, enum linear_form form, const struct gemm_kernel *kernel,
                     struct product *p)
{
    uint32_t lanes = kernel->lanes;

    memset(p, 0, sizeof *p);
    p->gated = is_gated(form);
    p->n_matrices = form == FORM_QKV ? 3 : p->gated ? 2 : 1;
    for (uint32_t i = 0; i < p->n_matrices; i++) {
        const tn_op *m = op->n_members ? op->members[i] : op;
        struct matrix *x = &p->matrices[i];
        x->w = m->weights[0];
        x->scale = extras(m, kernel) ? m->weights[1] : NULL;
        x->zero = extras(m, kernel) > 1 ? m->weights[2] : NULL;
        x->bias = m->n_weights > 1 + extras(m, kernel) ? m->weights[1 + extras(m, kernel)] : NULL;
        p->group = group_of(m, kernel);
        p->first_panel[i] = p->n_panels;
        if (!p->gated)
            p->n_panels += (uint32_t)((x->w->dims[0] + 2 * lanes - 1) / (2 * lanes));
    }
    p->k = p->matrices[0].w->dims[1];
    p->run = run_of(p->group);
    if (p->gated)
        p->n_panels = (uint32_t)((p->matrices[0].w->dims[0] + lanes - 1) / lanes);
    p->columns = (uint64_t)p->n_panels * 2 * lanes;
}

static uint64_t panels_bytes(const struct product *p, const struct gemm_kernel *kernel)
{
    return p->n_panels * gemm_panel_bytes(kernel, p->k, p->run); /* a multiple of 64 */
}

/* Scales and zero points of int4. */
static int32_t check_groups(const tn_op *m, const tn_value *x, uint64_t width,
                            const struct gemm_kernel *kernel, tn_err *err)
{
    uint64_t group = group_of(m, kernel);

    if (group == 0 || x->width % group)
        return check_require(m, 0, "the input must consist of whole groups", err);
    for (uint32_t i = 1; i <= extras(m, kernel); i++) {
        const tn_weight *w = m->weights[i];
        if (w->dtype != (i == 1 ? TN_DT_F32 : TN_DT_I8) || w->n_dims != 2 || w->dims[0] != width ||
            w->dims[1] != x->width / group)
            return check_require(m, 0, "needs a scale (and zero point) per output and group", err);
    }
    return TN_OK;
}

static int32_t check_member(const tn_op *m, const tn_value *x, uint64_t width,
                            const struct gemm_kernel *kernel, tn_err *err)
{
    uint32_t scaled = extras(m, kernel);
    const tn_weight *w;

    if (!check_form(m, 1, 1, 1 + scaled, 2 + scaled))
        return check_require(m, 0, "needs one float32 input and output, a matrix, at most a bias",
                             err);
    w = m->weights[0];
    if (w->dtype != kernel->weight_dtype || w->n_dims != 2 || w->dims[0] != width ||
        w->dims[1] != x->width)
        return check_require(m, 0, "the matrix does not fit this variant", err);
    if (is_grouped(kernel) && check_groups(m, x, width, kernel, err) != TN_OK)
        return TN_E_UNSUPPORTED;
    if (is_scaled(kernel) &&
        (m->weights[1]->dtype != TN_DT_F32 || !check_vector(m->weights[1], width)))
        return check_require(m, 0, "needs one float32 scale per output", err);
    return check_require(m,
                         m->n_weights < 2 + scaled || check_vector(m->weights[1 + scaled], width),
                         "the bias does not fit", err);
}

static float act_scale(const tn_op *m)
{
    return (float)tn_op_real(m, "act_scale", 0.0);
}

int32_t linear_can_run(const tn_op *op, enum linear_form form, const struct gemm_kernel *kernel,
                       tn_err *err)
{
    static const struct {
        uint32_t n_in, n_out, n_members, n_matrices;
    } shapes[] = {
        [FORM_LINEAR] = {1, 1, 0, 1},    [FORM_LOGITS] = {1, 1, 0, 1},
        [FORM_QKV] = {1, 3, 3, 3},       [FORM_GATE_SILU] = {1, 1, 4, 2},
        [FORM_GATE_GELU] = {1, 1, 4, 2}, [FORM_GATE_GELU_TANH] = {1, 1, 4, 2},
        [FORM_ADD] = {2, 1, 2, 1},
    };
    int32_t rc = TN_OK;

    if (!check_form(op, shapes[form].n_in, shapes[form].n_out, 1, 4 * GEMM_MAX_PARTS) ||
        op->n_members != shapes[form].n_members)
        return check_require(op, 0, "not the form of this variant, or not float32", err);
    for (uint32_t i = 0; !rc && i < shapes[form].n_matrices; i++) {
        const tn_op *m = op->n_members ? op->members[i] : op;
        rc = check_member(m, op->in[0], op->out[form == FORM_QKV ? i : 0]->width, kernel, err);
        if (!rc && act_scale(m) != act_scale(op->n_members ? op->members[0] : op))
            rc = check_require(m, 0, "its matrices want x quantized in different steps", err);
        if (!rc && group_of(m, kernel) != group_of(op->n_members ? op->members[0] : op, kernel))
            rc = check_require(m, 0, "its matrices have different groups", err);
    }
    if (!rc && form == FORM_ADD)
        rc = check_require(op, op->in[1]->width == op->out[0]->width, "add's inputs differ", err);
    return rc;
}

double linear_cost_ns(const struct cpu_instance *in, const tn_op *op, enum linear_form form,
                      const struct gemm_kernel *kernel, uint32_t rows)
{
    struct product p;
    double bytes, flops;

    if (kernel->rounds && !in->settings.round_rows)
        return -1; /* only if pinned */
    describe(op, form, kernel, &p);
    bytes = (double)panels_bytes(&p, kernel);
    flops = 2.0 * (double)rows * (double)p.columns * (double)p.k;
    return LAUNCH_NS + bytes / MEMORY_BYTES_PER_NS + flops / (kernel->gflops * share_workers(in));
}

/* -- Packing --------------------------------------------------------------------------------------- */

uint64_t linear_pack_size(const tn_op *op, enum linear_form form, const struct gemm_kernel *kernel)
{
    struct product p;
    uint32_t vectors = is_scaled(kernel) ? 3 : 1; /* bias; scale, offset */

    describe(op, form, kernel, &p);
    return panels_bytes(&p, kernel) + p.columns * sizeof(float) * vectors;
}

/* Where a packed blob's parts begin. */
struct blob {
    unsigned char *panels;
    float *bias, *scale;
    int32_t *offset;
};

static struct blob blob_at(const void *packed, const struct product *p,
                           const struct gemm_kernel *kernel)
{
    struct blob b;

    b.panels = (unsigned char *)packed; /* `pack` writes it, `launch` only reads */
    b.bias = (float *)(b.panels + panels_bytes(p, kernel));
    b.scale = b.bias + p->columns;
    b.offset = (int32_t *)(b.scale + p->columns);
    return b;
}

struct packing {
    const struct product *p;
    const struct gemm_kernel *kernel;
    struct blob blob;
};

static float vector_at(const tn_weight *w, uint64_t i)
{
    switch (w->dtype) {
    case TN_DT_F16: return tn_f16_to_f32(((const uint16_t *)w->data)[i]);
    case TN_DT_BF16: return tn_bf16_to_f32(((const uint16_t *)w->data)[i]);
    default: return ((const float *)w->data)[i];
    }
}

/* Copies steps [first, last) of a row of K elements of `size` bytes to where its column lies: groups of
 * `group` bytes, `stride` bytes apart; the end of the last group is zero, row NULL is a row of zeros. */
static void pack_steps(unsigned char *to, uint64_t stride, const unsigned char *row, uint64_t bytes,
                       uint64_t first, uint64_t last, uint64_t group)
{
    for (uint64_t s = first; s < last; s++, to += stride) {
        uint64_t at = s * group;
        if (row && at + group <= bytes && group == 4) {
            memcpy(to, row + at, 4);
        } else if (row && at + group <= bytes && group == 2) {
            memcpy(to, row + at, 2);
        } else {
            memset(to, 0, group);
            if (row && at < bytes)
                memcpy(to, row + at, at + group <= bytes ? group : bytes - at);
        }
    }
}

/* What the sum of a column of e4m3 is multiplied by: kernels load 1/256 of each weight. A NaN, which they do not see,
 * is handed on by the scale. */
static float fp8_scale(const tn_weight *w, uint64_t n, float scale)
{
    const uint8_t *row = (const uint8_t *)w->data + n * w->stride0;

    for (uint64_t i = 0; i < w->dims[1]; i++)
        if ((row[i] & 0x7f) == 0x7f)
            return tn_f8e4m3_to_f32(row[i]);
    return 256.0f * scale;
}

static int32_t row_sum(const int8_t *row, uint64_t k)
{
    int32_t sum = 0;

    for (uint64_t i = 0; i < k; i++)
        sum += row[i];
    return sum;
}

/* The matrix that lane `lane` (< 2 * lanes) of a panel belongs to, and its column there. */
static const struct matrix *column_of(const struct product *p, const struct gemm_kernel *kernel,
                                      uint32_t panel, uint32_t lane, uint64_t *n)
{
    uint32_t i = 0;

    if (p->gated) {
        *n = (uint64_t)panel * kernel->lanes + lane % kernel->lanes;
        return &p->matrices[lane / kernel->lanes];
    }
    while (i + 1 < p->n_matrices && panel >= p->first_panel[i + 1])
        i++;
    *n = (uint64_t)(panel - p->first_panel[i]) * 2 * kernel->lanes + lane;
    return &p->matrices[i];
}

/* Element k of a row of int4, plus 8. */
static unsigned nibble_at(const unsigned char *row, uint64_t k)
{
    return ((unsigned)row[k / 2] >> (k % 2 * 4) & 15) ^ 8;
}

/* One column of a panel of int4; `row` NULL: of zeros. */
static void pack_column_int4(const struct packing *x, unsigned char *panel, uint32_t lane,
                             const struct matrix *m, uint64_t n)
{
    uint32_t lanes = x->kernel->lanes;
    uint64_t run = x->p->run, quads = gemm_run_steps(run) / 2;
    int there = n < m->w->dims[0];
    const unsigned char *row = there ? (const unsigned char *)m->w->data + n * m->w->stride0 : NULL;

    for (uint64_t first = 0; first < x->p->k; first += run) {
        uint64_t g = first / x->p->group;
        float scale = 0.0f;
        int32_t zero = 8;
        if (there)
            memcpy(&scale, (const char *)m->scale->data + n * m->scale->stride0 + 4 * g, 4);
        if (there && m->zero)
            zero += ((const int8_t *)m->zero->data)[n * m->zero->stride0 + g];
        memcpy(panel + 4 * lane, &scale, 4);
        memcpy(panel + 8 * lanes + 4 * lane, &zero, 4);
        panel += 16 * lanes;
        for (uint64_t s = 0; s < quads; s++, panel += 4 * lanes)
            for (uint32_t p = 0; p < 2; p++) {
                uint64_t low = 4 * s + p, high = low + 2;
                unsigned l = there && low < run ? nibble_at(row, first + low) : 0;
                unsigned h = there && high < run ? nibble_at(row, first + high) : 0;
                panel[2 * lane + p] = (unsigned char)(l | h << 4);
            }
    }
}

#define STEPS_AT_ONCE 64 /* of all columns of a panel: the target stays in the L1 cache */

static void pack_panel_steps(const struct packing *x, uint32_t panel, unsigned char *to)
{
    const struct gemm_kernel *kernel = x->kernel;
    uint64_t size = tn_dtype_bits(kernel->weight_dtype) / 8, group = size * kernel->depth;
    uint64_t steps = gemm_steps(kernel, x->p->k, 0), stride = 2 * kernel->lanes * group;

    for (uint64_t first = 0; first < steps; first += STEPS_AT_ONCE) {
        uint64_t last = first + STEPS_AT_ONCE < steps ? first + STEPS_AT_ONCE : steps;
        for (uint32_t lane = 0; lane < 2 * kernel->lanes; lane++) {
            uint64_t n;
            const tn_weight *w = column_of(x->p, kernel, panel, lane, &n)->w;
            const unsigned char *row =
                n < w->dims[0] ? (const unsigned char *)w->data + n * w->stride0 : NULL;
            pack_steps(to + first * stride + lane * group, stride, row, x->p->k * size, first, last,
                       group);
        }
    }
}

static void pack_panel(const struct packing *x, uint32_t panel)
{
    const struct gemm_kernel *kernel = x->kernel;
    unsigned char *to = x->blob.panels + panel * gemm_panel_bytes(kernel, x->p->k, x->p->run);

    if (!is_grouped(kernel))
        pack_panel_steps(x, panel, to);
    for (uint32_t lane = 0; lane < 2 * kernel->lanes; lane++) {
        uint64_t n, column = (uint64_t)panel * 2 * kernel->lanes + lane;
        const struct matrix *m = column_of(x->p, kernel, panel, lane, &n);
        int there = n < m->w->dims[0];
        x->blob.bias[column] = there && m->bias ? vector_at(m->bias, n) : 0.0f;
        if (is_grouped(kernel))
            pack_column_int4(x, to, lane, m, n);
        if (!is_scaled(kernel))
            continue;
        x->blob.scale[column] = there ? vector_at(m->scale, n) : 0.0f;
        if (there && kernel->weight_dtype == TN_DT_F8E4M3)
            x->blob.scale[column] = fp8_scale(m->w, n, x->blob.scale[column]);
        x->blob.offset[column] = 0;
        if (there && kernel->unsigned_rows)
            x->blob.offset[column] =
                -128 * row_sum((const int8_t *)m->w->data + n * m->w->stride0, x->p->k);
    }
}

static void pack_panels(void *arg, uint32_t first, uint32_t last, uint32_t worker)
{
    (void)worker;
    for (uint32_t panel = first; panel < last; panel++)
        pack_panel(arg, panel);
}

void linear_pack(const struct cpu_instance *in, const tn_op *op, enum linear_form form,
                 const struct gemm_kernel *kernel, void *packed)
{
    struct product p;
    struct packing x = {.p = &p, .kernel = kernel};

    describe(op, form, kernel, &p);
    x.blob = blob_at(packed, &p, kernel);
    share_on(in, in->attached[0], pack_panels, &x, p.n_panels, (double)panels_bytes(&p, kernel));
}

/* -- Launching ------------------------------------------------------------------------------------- */

uint64_t linear_workspace(const tn_op *op, const struct gemm_kernel *kernel, uint32_t max_rows)
{
    uint64_t k = op->in[0]->width;
    uint64_t run = run_of(group_of(op->n_members ? op->members[0] : op, kernel));
    uint64_t groups = gemm_steps(kernel, k, run), steps = run ? 2 * (k / run) : 2;

    return max_rows * (groups * kernel->group_bytes + steps * 4 + kernel->more_bytes) + 2 * ALIGN;
}

/* A run of gemm: items are run_panels panels of blocks of tiles. */
struct running {
    struct gemm g;
    uint32_t tiles, tiles_per_block, panel_runs;
};

static void pack_tiles(void *arg, uint32_t first, uint32_t last, uint32_t worker)
{
    const struct running *r = arg;

    (void)worker;
    r->g.kernel->pack_rows(&r->g, first, last);
}

static void run_items(void *arg, uint32_t first, uint32_t last, uint32_t worker)
{
    const struct running *r = arg;

    (void)worker;
    for (uint32_t item = first; item < last; item++) {
        uint32_t begin = item / r->panel_runs * r->tiles_per_block;
        uint32_t end = begin + r->tiles_per_block;
        uint32_t panel = item % r->panel_runs * r->g.run_panels;
        r->g.kernel->run(&r->g, panel, begin, end < r->tiles ? end : r->tiles);
    }
}

static enum gemm_finish finish_of(enum linear_form form)
{
    switch (form) {
    case FORM_LOGITS: return GEMM_LOGITS;
    case FORM_GATE_SILU: return GEMM_SILU;
    case FORM_GATE_GELU: return GEMM_GELU;
    case FORM_GATE_GELU_TANH: return GEMM_GELU_TANH;
    case FORM_ADD: return GEMM_ADD;
    default: return GEMM_STORE;
    }
}

static void set_up(const tn_launch *l, enum linear_form form, const struct gemm_kernel *kernel,
                   struct gemm *g)
{
    struct product p;
    struct blob b;

    describe(l->op, form, kernel, &p);
    b = blob_at(l->packed, &p, kernel);
    memset(g, 0, sizeof *g);
    g->kernel = kernel;
    g->n_rows = form == FORM_LOGITS ? l->batch->n_logits : l->batch->n_rows;
    g->k = p.k;
    g->run = p.run;
    g->x = l->in[0];
    g->x_row = form == FORM_LOGITS ? l->batch->dev->logits_row : NULL;
    g->a = (uint32_t *)(((uintptr_t)l->workspace + ALIGN - 1) / ALIGN * ALIGN);
    g->panels = b.panels;
    g->bias = b.bias;
    if (is_scaled(kernel))
        g->scale = b.scale;
    if (kernel->weight_dtype == TN_DT_I8) {
        g->a_step =
            (float *)(g->a + g->n_rows * gemm_steps(kernel, p.k, 0) * (kernel->group_bytes / 4));
        g->a_rest = (int32_t *)(g->a_step + g->n_rows);
        g->a_more = g->a_rest + g->n_rows;
        g->act_scale = act_scale(l->op->n_members ? l->op->members[0] : l->op);
        g->offset = b.offset;
    }
    if (is_grouped(kernel)) {
        g->run_step = (float *)(g->a + g->n_rows * gemm_steps(kernel, p.k, p.run));
        g->run_sum = (int32_t *)(g->run_step + g->n_rows * (p.k / p.run));
    }
    g->n_panels = p.n_panels;
    g->run_panels = g->n_rows > 1 && kernel->run_panels ? kernel->run_panels : 1;
    g->n_parts = p.gated ? 1 : p.n_matrices;
    for (uint32_t i = 0; i < g->n_parts; i++)
        g->parts[i] = (struct gemm_part){l->out[i], l->op->out[i]->width, p.first_panel[i]};
    g->finish = finish_of(form);
    g->addend = form == FORM_ADD ? l->in[1] : NULL;
    if (form == FORM_LOGITS) {
        g->factor = (float)tn_op_real(l->op, "scale", 1.0);
        g->softcap = (float)tn_op_real(l->op, "softcap", 0.0);
    }
}

void linear_launch(const struct cpu_instance *in, const tn_launch *l, enum linear_form form,
                   const struct gemm_kernel *kernel)
{
    struct running r;
    uint64_t row_bytes, block_rows;
    uint32_t blocks;
    double panel_ns;

    set_up(l, form, kernel, &r.g);
    if (r.g.n_rows == 0)
        return;
    row_bytes = gemm_steps(kernel, r.g.k, r.g.run) * kernel->group_bytes;
    block_rows = BLOCK_BYTES / row_bytes;
    if (block_rows < BLOCK_MIN_ROWS)
        block_rows = BLOCK_MIN_ROWS;
    r.tiles = gemm_tiles(&r.g);
    r.tiles_per_block = (uint32_t)(block_rows / kernel->tile_rows);
    blocks = (r.tiles + r.tiles_per_block - 1) / r.tiles_per_block;
    r.tiles_per_block = (r.tiles + blocks - 1) / blocks; /* no block is left with a few */
    blocks = (r.tiles + r.tiles_per_block - 1) / r.tiles_per_block;
    share_items(in, l, pack_tiles, &r, r.tiles, (double)(r.g.n_rows * r.g.k) * 0.3);
    panel_ns = (double)gemm_panel_bytes(kernel, r.g.k, r.g.run) / MEMORY_BYTES_PER_NS +
               4.0 * kernel->lanes * (double)(r.g.n_rows * r.g.k) / kernel->gflops;
    r.panel_runs = (r.g.n_panels + r.g.run_panels - 1) / r.g.run_panels;
    share_items(in, l, run_items, &r, r.panel_runs * blocks, panel_ns * r.g.n_panels);
}
