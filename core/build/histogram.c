/* SPDX-License-Identifier: Apache-2.0 */
/* The upper bits of a float32 are its logarithm, cut to an eighth of an octave: they number the buckets. */
#include "build/histogram.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "tenon/float.h"

#define SHIFT 20 /* of the bits of a float: three of its mantissa stay */

/* Where channels meet: finer steps, over every quotient that can be. */
#define FINE 32 /* per octave */
#define OCTAVES 512

static int32_t level_of(float a)
{
    return (int32_t)(tn_f32_bits(a) >> SHIFT);
}

/* Moves counts down so that `level` has a bucket; what falls below the lowest stays in it. */
static void raise_base(struct histogram *h, int32_t level)
{
    int32_t base = (level | 7) - (HISTOGRAM_BUCKETS - 1), by = base - h->base;

    for (uint64_t k = 0; k < h->n_channels; k++) {
        uint32_t *c = h->counts + k * HISTOGRAM_BUCKETS;
        uint64_t low = 0;
        for (int32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
            uint32_t n = c[i];
            c[i] = 0;
            if (i <= by)
                low += n;
            else
                c[i - by] = n;
        }
        c[0] = low > UINT32_MAX ? UINT32_MAX : (uint32_t)low;
    }
    h->base = base;
}

void histogram_take(struct histogram *h, const float *row, float most)
{
    int32_t top = level_of(most);

    if (top - h->base >= HISTOGRAM_BUCKETS)
        raise_base(h, top);
    for (uint64_t k = 0; k < h->n_channels; k++) {
        int32_t i = level_of(fabsf(row[k])) - h->base;
        uint32_t *c = &h->counts[k * HISTOGRAM_BUCKETS + (uint64_t)(i > 0 ? i : 0)];
        *c += *c < UINT32_MAX;
    }
}

/* The smallest float of a level; negative levels are below all floats. */
static double edge_of(int32_t level)
{
    return level > 0 ? (double)tn_bits_f32((uint32_t)level << SHIFT) : 0.0;
}

static double fine_index(double value)
{
    double at = (log2(value) + OCTAVES / 2.0) * FINE;

    return fmin(fmax(at, 0.0), OCTAVES * FINE - 1.0);
}

/* Spreads a bucket's count evenly over the fine steps that it covers. The lowest counts as its upper edge. */
static void spread(const struct histogram *h, int32_t bucket, double count, double by, double *fine)
{
    double high = fine_index(edge_of(h->base + bucket + 1) / by);
    double low = bucket ? fine_index(edge_of(h->base + bucket) / by) : high;
    uint64_t first = (uint64_t)low, last = (uint64_t)high;

    for (uint64_t i = first; i <= last; i++)
        fine[i] += count / (double)(last - first + 1);
}

int32_t histogram_percentile(const struct histogram *h, const float *divide, double part,
                             float *out, tn_err *err)
{
    double *fine = mem_zarray((size_t)OCTAVES * FINE, sizeof *fine);
    double all = 0.0, above = 0.0;
    size_t i = (size_t)OCTAVES * FINE;

    if (!fine)
        return err_nomem(err, "a percentile");
    for (uint64_t k = 0; k < h->n_channels; k++)
        for (int32_t b = 0; b < HISTOGRAM_BUCKETS; b++) {
            double count = (double)h->counts[k * HISTOGRAM_BUCKETS + (uint64_t)b];
            if (count > 0.0)
                spread(h, b, count, divide ? (double)divide[k] : 1.0, fine);
            all += count;
        }
    while (i > 0 && above <= all * (1.0 - part))
        above += fine[--i];
    *out = all > 0.0 ? (float)exp2(((double)i + 0.5) / FINE - OCTAVES / 2.0) : 0.0f;
    mem_free(fine);
    return TN_OK;
}
