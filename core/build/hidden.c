/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The matrices stay in the engine's dtype where it is mapped; eight rows at a time are widened by the thread that multiplies with
 * them. An element is one thread's whole sum, so that results do not hang on how many there are.
 */
#include "build/hidden.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "base/mem.h"
#include "build/convert.h"
#include "build/products.h"
#include "tenon/dtype.h"
#include "tenon/ops.h"

#define LANES PRODUCTS_LANES

/* -- Activations --------------------------------------------------------------------------------------- */

static float silu(float x)
{
    return x / (1.0f + expf(-x));
}

static float gelu(float x)
{
    return 0.5f * x * (1.0f + erff(x * 0.70710678f));
}

static float gelu_tanh(float x)
{
    return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
}

static float relu(float x)
{
    return x > 0.0f ? x : 0.0f;
}

static float relu2(float x)
{
    return relu(x) * relu(x);
}

hidden_function hidden_activation(const char *name)
{
    static const struct {
        const char *name;
        hidden_function f;
    } table[] = {{TN_OP_SILU, silu},
                 {TN_OP_GELU, gelu},
                 {TN_OP_GELU_TANH, gelu_tanh},
                 {TN_OP_RELU, relu},
                 {TN_OP_RELU2, relu2}};

    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].name, name) == 0)
            return table[i].f;
    return NULL;
}

/* -- Products ------------------------------------------------------------------------------------------ */

struct multiplying {
    const struct hidden_expert *e;
    products_fn multiply;
    const float *x; /* [n_panels][width][LANES] rows, 0 beyond n_rows */
    uint64_t n_rows, n_panels, n_tasks;
    float *out;
    atomic_uint_fast64_t next;
};

/* panel[k][i] = rows[i][k]; lanes from n on are 0. */
static void turn_rows(const float *rows, uint64_t n, uint64_t width, float *panel)
{
    for (uint64_t i = 0; i < LANES; i++)
        for (uint64_t k = 0; k < width; k++)
            panel[k * LANES + i] = i < n ? rows[i * width + k] : 0.0f;
}

static void widen_rows(const void *matrix, uint32_t dtype, uint64_t row, uint64_t n, uint64_t width,
                       float *scratch, float *panel)
{
    size_t size = tn_dtype_bits(dtype) / 8;

    convert_elements((const uint8_t *)matrix + (size_t)(row * width) * size, dtype, scratch,
                     TN_DT_F32, (size_t)(n * width));
    turn_rows(scratch, n, width, panel);
}

/* LANES columns of the output; `scratch` has room for three panels. */
static void multiply_rows(struct multiplying *m, uint64_t row, float *scratch)
{
    const struct hidden_expert *e = m->e;
    uint64_t panel = e->width * LANES, n = e->inner - row < LANES ? e->inner - row : LANES;
    float *gate = scratch + panel, *up = gate + panel;
    _Alignas(32) float g[LANES * LANES], u[LANES * LANES];

    widen_rows(e->gate, e->gate_dtype, row, n, e->width, scratch, gate);
    widen_rows(e->up, e->up_dtype, row, n, e->width, scratch, up);
    for (uint64_t p = 0; p < m->n_panels; p++) {
        m->multiply(gate, m->x + p * panel, e->width, g);
        m->multiply(up, m->x + p * panel, e->width, u);
        for (uint64_t j = 0; j < LANES && p * LANES + j < m->n_rows; j++)
            for (uint64_t i = 0; i < n; i++)
                m->out[(p * LANES + j) * e->inner + row + i] =
                    e->act(g[i * LANES + j]) * u[i * LANES + j];
    }
}

static void *work(void *arg)
{
    struct multiplying *m = arg;
    float *scratch = mem_aligned((size_t)m->e->width * 3 * LANES * sizeof *scratch, 64);
    uint64_t i;

    while (scratch && (i = atomic_fetch_add(&m->next, 1)) < m->n_tasks)
        multiply_rows(m, i * LANES, scratch);
    mem_free(scratch);
    return NULL;
}

int32_t hidden_rows(const struct hidden_expert *e, const float *x, uint64_t n_rows, float *out,
                    tn_err *err)
{
    uint64_t n_panels = (n_rows + LANES - 1) / LANES, panel = e->width * LANES;
    float *panels = mem_aligned((size_t)(n_panels * panel) * sizeof *panels, 64);
    struct multiplying m = {.e = e,
                            .multiply = products_choose(),
                            .x = panels,
                            .n_rows = n_rows,
                            .n_panels = n_panels,
                            .n_tasks = (e->inner + LANES - 1) / LANES,
                            .out = out};

    if (!panels)
        return err_nomem(err, "rows of experts");
    for (uint64_t p = 0; p < n_panels; p++) {
        uint64_t left = n_rows - p * LANES;
        turn_rows(x + p * panel, left < LANES ? left : LANES, e->width, panels + p * panel);
    }
    products_share(work, &m, 4.0 * (double)n_rows * (double)e->inner * (double)e->width);
    mem_free(panels);
    /* A thread without memory leaves its tasks to the others. */
    return atomic_load(&m.next) < m.n_tasks ? err_nomem(err, "rows of experts") : TN_OK;
}
