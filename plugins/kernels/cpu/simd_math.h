/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Elementary functions on vectors, in terms of simd_avx2.h or simd_avx512.h, whichever was included.
 *
 * Range reduction and polynomials after Cephes (Moshier 1992); errors are against libm, measured over the
 * stated range. Every lane is computed alike, so a result does not depend on its neighbours.
 */
#ifndef CPU_SIMD_MATH_H
#define CPU_SIMD_MATH_H

#include <math.h>

/* exp(x), 0.7 ulp; exactly 0 for x < -104 and -inf, inf above 88.8, NaN for NaN. */
static inline vf v_exp(vf x)
{
    x = v_max(v_set1(-110.0f), v_min(v_set1(100.0f), x)); /* NaN passes: it stands second */
    vf n = v_round(v_mul(x, v_set1(1.44269504f)));        /* log2(e) */
    vf r = v_fnma(n, v_set1(0.693359375f), x);            /* ln 2, high part: n * it is exact */
    r = v_fma(n, v_set1(2.12194440e-4f), r);
    vf p = v_set1(1.37513e-3f);
    p = v_fma(p, r, v_set1(8.36895e-3f));
    p = v_fma(p, r, v_set1(4.166954e-2f));
    p = v_fma(p, r, v_set1(1.6666518e-1f));
    p = v_fma(p, r, v_set1(4.9999989e-1f));
    p = v_fma(p, v_mul(r, r), r);
    return v_ldexp(v_add(p, v_set1(1.0f)), n);
}

/* tanh(x), 2 ulp: an odd polynomial near 0, elsewhere 1 - 2 / (exp(2x) + 1). */
static inline vf v_tanh(vf x)
{
    vf a = v_abs(x), z = v_mul(x, x);
    vf p = v_set1(-5.70498872745e-3f);
    p = v_fma(p, z, v_set1(2.06390887954e-2f));
    p = v_fma(p, z, v_set1(-5.37397155531e-2f));
    p = v_fma(p, z, v_set1(1.33314422036e-1f));
    p = v_fma(p, z, v_set1(-3.33332819422e-1f));
    p = v_fma(v_mul(p, z), x, x);
    vf e = v_exp(v_add(a, a));
    vf far = v_sub(v_set1(1.0f), v_div(v_set1(2.0f), v_add(e, v_set1(1.0f))));
    return v_select(v_lt(a, v_set1(0.625f)), p, v_copysign(far, x));
}

/* erf(x), absolute error 2e-7: Abramowitz and Stegun, formula 7.1.26. */
static inline vf v_erf(vf x)
{
    vf a = v_abs(x);
    vf t = v_div(v_set1(1.0f), v_fma(v_set1(0.3275911f), a, v_set1(1.0f)));
    vf p = v_set1(1.061405429f);
    p = v_fma(p, t, v_set1(-1.453152027f));
    p = v_fma(p, t, v_set1(1.421413741f));
    p = v_fma(p, t, v_set1(-0.284496736f));
    p = v_fma(p, t, v_set1(0.254829592f));
    p = v_mul(v_mul(p, t), v_exp(v_sub(v_zero(), v_mul(a, a))));
    return v_copysign(v_sub(v_set1(1.0f), p), x);
}

static inline vf v_silu(vf x)
{
    return v_div(x, v_add(v_set1(1.0f), v_exp(v_sub(v_zero(), x))));
}

static inline vf v_gelu(vf x)
{
    vf half = v_mul(v_set1(0.5f), x);

    return v_mul(half, v_add(v_set1(1.0f), v_erf(v_mul(x, v_set1(0.707106781f)))));
}

static inline vf v_gelu_tanh(vf x)
{
    vf half = v_mul(v_set1(0.5f), x);
    vf cube = v_mul(v_mul(v_mul(v_set1(0.044715f), x), x), x);

    return v_mul(half, v_add(v_set1(1.0f), v_tanh(v_mul(v_set1(0.797884561f), v_add(x, cube)))));
}

/* cap * tanh(x / cap). */
static inline vf v_softcap(vf x, float cap)
{
    return v_mul(v_set1(cap), v_tanh(v_div(x, v_set1(cap))));
}

/* Largest |x| that v_sincos takes. */
#define V_SINCOS_MAX 1e6f

/* sin(x) and cos(x) for |x| <= V_SINCOS_MAX, absolute error 1e-7. x - n * (pi/2's high part) is exact. */
static inline void v_sincos(vf x, vf *sin_x, vf *cos_x)
{
    vf n = v_round(v_mul(x, v_set1(0.636619772f))); /* 2 / pi */
    vf r = v_fma(n, v_set1(4.37113883e-8f), v_fnma(n, v_set1(1.57079637f), x));
    vf z = v_mul(r, r);
    vf s = v_set1(-1.9515295891e-4f);
    s = v_fma(s, z, v_set1(8.3321608736e-3f));
    s = v_fma(s, z, v_set1(-1.6666654611e-1f));
    s = v_fma(v_mul(s, z), r, r);
    vf c = v_set1(2.443315711809948e-5f);
    c = v_fma(c, z, v_set1(-1.388731625493765e-3f));
    c = v_fma(c, z, v_set1(4.166664568298827e-2f));
    c = v_fma(v_mul(c, z), z, v_fma(v_set1(-0.5f), z, v_set1(1.0f)));
    /* The quadrant n mod 4 as -2..1: odd ones swap sine and cosine, signs follow. */
    vf q = v_fnma(v_set1(4.0f), v_round(v_mul(n, v_set1(0.25f))), n);
    vf odd = v_abs(v_fnma(v_set1(2.0f), v_round(v_mul(q, v_set1(0.5f))), q));
    vm swap = v_lt(v_set1(0.5f), odd);
    vf one = v_set1(1.0f);
    /* sin is negative in quadrants 2 and 3 (here +-2 and -1), cos in 1 and 2 (here +-2 and 1). */
    vm two = v_lt(v_set1(1.5f), v_abs(q));
    vf sin_sign =
        v_select(two, v_set1(-1.0f), v_select(v_lt(q, v_set1(-0.5f)), v_set1(-1.0f), one));
    vf cos_sign = v_select(two, v_set1(-1.0f), v_select(v_lt(v_set1(0.5f), q), v_set1(-1.0f), one));
    *sin_x = v_mul(sin_sign, v_select(swap, c, s));
    *cos_x = v_mul(cos_sign, v_select(swap, s, c));
}

#endif
