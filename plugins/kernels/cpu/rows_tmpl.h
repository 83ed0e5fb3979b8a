/* SPDX-License-Identifier: Apache-2.0 */
/* The inner loops of struct isa that go along a row. Included once by isa_avx2.c and isa_avx512.c, after
 * simd_*.h, simd_math.h and simd_tail.h. Sums are taken per lane, then over lanes, always in one order. */

static CPU_INLINE vf map_vector(enum map_kind kind, vf a, vf b, float param)
{
    vf positive = v_max(v_zero(), a); /* NaN stays: it stands second */

    switch (kind) {
    case MAP_ADD: return v_add(a, b);
    case MAP_MUL: return v_mul(a, b);
    case MAP_SILU: return v_silu(a);
    case MAP_GELU: return v_gelu(a);
    case MAP_GELU_TANH: return v_gelu_tanh(a);
    case MAP_RELU: return positive;
    case MAP_RELU2: return v_mul(positive, positive);
    case MAP_SCALE: return v_mul(a, v_set1(param));
    case MAP_SOFTCAP: return v_softcap(a, param);
    case MAP_SILU_MUL: return v_mul(v_silu(a), b);
    case MAP_GELU_MUL: return v_mul(v_gelu(a), b);
    case MAP_GELU_TANH_MUL: return v_mul(v_gelu_tanh(a), b);
    }
    return a;
}

/* One loop per kind; the switch above is gone from each. */
#define MAP_LOOP(kind)                                                                             \
    case kind:                                                                                     \
        for (uint64_t i = 0; i < n; i += LANES)                                                    \
            v_store_some(                                                                          \
                y + i,                                                                             \
                map_vector(kind, v_load_some(a + i, n - i), v_load_some(b + i, n - i), param),     \
                n - i);                                                                            \
        break;

static void map(enum map_kind kind, float *y, const float *a, const float *b, uint64_t n,
                float param)
{
    if (!b)
        b = a;
    switch (kind) {
        MAP_LOOP(MAP_ADD)
        MAP_LOOP(MAP_MUL)
        MAP_LOOP(MAP_SILU)
        MAP_LOOP(MAP_GELU)
        MAP_LOOP(MAP_GELU_TANH)
        MAP_LOOP(MAP_RELU)
        MAP_LOOP(MAP_RELU2)
        MAP_LOOP(MAP_SCALE)
        MAP_LOOP(MAP_SOFTCAP)
        MAP_LOOP(MAP_SILU_MUL)
        MAP_LOOP(MAP_GELU_MUL)
        MAP_LOOP(MAP_GELU_TANH_MUL)
    }
}

static float dot(const float *a, const float *b, uint64_t n)
{
    vf s0 = v_zero(), s1 = v_zero(), s2 = v_zero(), s3 = v_zero();
    uint64_t i = 0;

    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        s0 = v_fma(v_load(a + i), v_load(b + i), s0);
        s1 = v_fma(v_load(a + i + LANES), v_load(b + i + LANES), s1);
        s2 = v_fma(v_load(a + i + 2 * LANES), v_load(b + i + 2 * LANES), s2);
        s3 = v_fma(v_load(a + i + 3 * LANES), v_load(b + i + 3 * LANES), s3);
    }
    for (; i < n; i += LANES)
        s0 = v_fma(v_load_some(a + i, n - i), v_load_some(b + i, n - i), s0);
    return v_sum(v_add(v_add(s0, s1), v_add(s2, s3)));
}

static void widen(float *y, const void *x, uint32_t dtype, uint64_t n, float factor)
{
    vf by = v_set1(factor);

    for (uint64_t i = 0; i < n; i += LANES)
        v_store_some(y + i, v_mul(by, v_widen_some(x, dtype, i, n - i)), n - i);
}

static void narrow(void *y, uint32_t dtype, const float *x, uint64_t n)
{
    for (uint64_t i = 0; i < n; i += LANES)
        v_narrow_some(y, dtype, i, v_load_some(x + i, n - i), n - i);
}

/* -- Norms --------------------------------------------------------------------------------------- */

static void rms_norm(const struct norm *p, float *y, const float *x, const float *addend,
                     float *sum)
{
    if (addend) {
        map(MAP_ADD, sum, x, addend, p->width, 0.0f);
        x = sum;
    }
    for (uint64_t first = 0; first < p->width; first += p->group) {
        uint64_t n = p->group;
        vf squares = v_zero(), offset = v_set1(p->offset);
        for (uint64_t i = 0; i < n; i += LANES) {
            vf v = v_load_some(x + first + i, n - i);
            squares = v_fma(v, v, squares);
        }
        vf scale = v_set1(1.0f / sqrtf(v_sum(squares) / (float)n + p->eps));
        for (uint64_t i = 0; i < n; i += LANES) {
            vf w = v_add(offset, v_widen_some(p->weight, p->weight_dtype, i, n - i));
            vf v = v_mul(v_load_some(x + first + i, n - i), scale);
            v_store_some(y + first + i, v_mul(v, w), n - i);
        }
    }
}

static void layer_norm(const struct norm *p, float *y, const float *x)
{
    uint64_t n = p->width;
    vf sum = v_zero(), squares = v_zero();

    for (uint64_t i = 0; i < n; i += LANES)
        sum = v_add(sum, v_load_some(x + i, n - i));
    vf mean = v_set1(v_sum(sum) / (float)n);
    for (uint64_t i = 0; i < n; i += LANES) {
        vf d = v_sub(v_load_some(x + i, n - i), mean);
        if (n - i < LANES)
            d = v_select(v_range(0, (uint32_t)(n - i)), d, v_zero());
        squares = v_fma(d, d, squares);
    }
    vf scale = v_set1(1.0f / sqrtf(v_sum(squares) / (float)n + p->eps));
    for (uint64_t i = 0; i < n; i += LANES) {
        vf v = v_mul(v_sub(v_load_some(x + i, n - i), mean), scale);
        v = v_mul(v, v_widen_some(p->weight, p->weight_dtype, i, n - i));
        if (p->bias)
            v = v_add(v, v_widen_some(p->bias, p->bias_dtype, i, n - i));
        v_store_some(y + i, v, n - i);
    }
}

/* -- Rotary embedding ------------------------------------------------------------------------------ */

static void rope_angles(float *cosine, float *sine, const float *freq, uint64_t half, float pos,
                        float mscale)
{
    for (uint64_t i = 0; i < half; i += LANES) {
        vf angle = v_mul(v_set1(pos), v_load_some(freq + i, half - i)), s, c;
        if (v_any(v_lt(v_set1(V_SINCOS_MAX), v_abs(angle)))) {
            for (uint64_t j = i; j < half && j < i + LANES; j++) {
                cosine[j] = mscale * cosf(pos * freq[j]);
                sine[j] = mscale * sinf(pos * freq[j]);
            }
            continue;
        }
        v_sincos(angle, &s, &c);
        v_store_some(cosine + i, v_mul(v_set1(mscale), c), half - i);
        v_store_some(sine + i, v_mul(v_set1(mscale), s), half - i);
    }
}

static void rope_head(float *y, const float *x, const float *cosine, const float *sine,
                      uint64_t half, uint64_t dim, int pairs)
{
    for (uint64_t j = 0; pairs && j < half; j++) {
        float a = x[2 * j], b = x[2 * j + 1];
        y[2 * j] = a * cosine[j] - b * sine[j];
        y[2 * j + 1] = b * cosine[j] + a * sine[j];
    }
    for (uint64_t j = 0; !pairs && j < half; j += LANES) {
        uint64_t left = half - j;
        vf a = v_load_some(x + j, left), b = v_load_some(x + j + half, left);
        vf c = v_load_some(cosine + j, left), s = v_load_some(sine + j, left);
        v_store_some(y + j, v_fnma(b, s, v_mul(a, c)), left);
        v_store_some(y + j + half, v_fma(a, s, v_mul(b, c)), left);
    }
    if (dim > 2 * half)
        memcpy(y + 2 * half, x + 2 * half, (dim - 2 * half) * sizeof *y);
}

/* y[two] = by times the sum of m runs x[two], each by its sign. */
static void add_signed(float *y, const float *x, uint64_t m, uint64_t two, uint32_t negative,
                       float by)
{
    for (uint64_t i = 0; i < two; i += LANES) {
        vf sum = v_zero();
        for (uint64_t c = 0; c < m; c++) {
            vf v = v_load_some(x + c * two + i, two - i);
            sum = negative >> c & 1 ? v_sub(sum, v) : v_add(sum, v);
        }
        v_store_some(y + i, v_mul(sum, v_set1(by)), two - i);
    }
}

/* The factor that is no power of two first, then butterflies of growing width; those that lie within a vector go one by one. */
static void hadamard(float *y, const float *x, uint64_t n, uint64_t order, const uint32_t *negative)
{
    uint64_t m = tn_hadamard_base((uint32_t)order), two = order / m;
    float by = 1.0f / sqrtf((float)order);

    for (uint64_t i = 0; i < n && m == 1; i++)
        y[i] = x[i] * by;
    for (uint64_t at = 0; at < n && m > 1; at += two)
        add_signed(y + at, x + at / order * order, m, two, negative[at % order / two], by);
    for (uint64_t h = 1; h < two; h *= 2)
        for (uint64_t run = 0; run < n; run += 2 * h) {
            float *a = y + run, *b = y + run + h;
            for (uint64_t i = 0; h >= LANES && i < h; i += LANES) {
                vf p = v_load(a + i), q = v_load(b + i);
                v_store(a + i, v_add(p, q));
                v_store(b + i, v_sub(p, q));
            }
            for (uint64_t i = 0; h < LANES && i < h; i++) {
                float p = a[i], q = b[i];
                a[i] = p + q;
                b[i] = p - q;
            }
        }
}

/* -- Sampling -------------------------------------------------------------------------------------- */

static float largest(const float *x, uint64_t n)
{
    vf most = v_set1(-INFINITY), bad = v_zero(), limit = v_set1(INFINITY);

    for (uint64_t i = 0; i < n; i += LANES) {
        vf v = n - i >= LANES ? v_load(x + i)
                              : v_select(v_range(0, (uint32_t)(n - i)), v_load_n(x + i, n - i),
                                         v_set1(-INFINITY));
        most = v_max(v, most);
        bad = v_select(v_lt(v, limit), bad, v_set1(1.0f)); /* NaN is not less either */
    }
    return v_largest(bad) > 0.0f ? NAN : v_largest(most);
}

static uint64_t find(const float *x, uint64_t n, float value)
{
    vf v = v_set1(value);
    uint64_t i = 0;

    while (i + LANES <= n && !v_any(v_eq(v_load(x + i), v)))
        i += LANES;
    while (i < n && x[i] != value)
        i++;
    return i;
}

/* Elements that are summed in float32 before they go to the double. */
#define EXP_SUM_RUN 1024

static double exp_sum(float *w, const float *x, uint64_t n, float from, float by)
{
    vf zero_at = v_set1(from), scale = v_set1(by);
    double total = 0.0;

    for (uint64_t first = 0; first < n; first += EXP_SUM_RUN) {
        uint64_t end = first + EXP_SUM_RUN < n ? first + EXP_SUM_RUN : n;
        vf sum = v_zero();
        for (uint64_t i = first; i < end; i += LANES) {
            vf e = v_exp(v_div(v_sub(v_load_some(x + i, end - i), zero_at), scale));
            if (end - i < LANES)
                e = v_select(v_range(0, (uint32_t)(end - i)), e, v_zero());
            sum = v_add(sum, e);
            if (w)
                v_store_some(w + i, e, end - i);
        }
        total += (double)v_sum(sum);
    }
    return total;
}

/* -- Attention ------------------------------------------------------------------------------------- */

static void blend(float *a, float by_a, const float *b, float by_b, uint64_t n)
{
    vf fa = v_set1(by_a), fb = v_set1(by_b);

    for (uint64_t i = 0; i < n; i += LANES) {
        vf v = v_fma(v_load_some(b + i, n - i), fb, v_mul(v_load_some(a + i, n - i), fa));
        v_store_some(a + i, v, n - i);
    }
}
