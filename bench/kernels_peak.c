/* SPDX-License-Identifier: Apache-2.0 */
/* Which loop measures which peak on this machine. Compiled for the baseline, so it may run anywhere. */
#include "kernels_peak.h"

#include <stddef.h>

static int avx512(enum peak p)
{
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw"))
        return 0;
    return p == PEAK_F32 || (p == PEAK_BF16 && __builtin_cpu_supports("avx512bf16")) ||
           (p == PEAK_INT8 && __builtin_cpu_supports("avx512vnni"));
}

const char *peak_name(enum peak p)
{
    static const char *const wide[PEAK_COUNT] = {"512-bit FMA", "VDPBF16PS", "VPDPBUSD"};
    static const char *const narrow[PEAK_COUNT] = {"256-bit FMA", "256-bit FMA", "VPMADDUBSW"};

    if (avx512(p))
        return wide[p];
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? narrow[p] : NULL;
}

double peak_flops(enum peak p)
{
    double lanes = p == PEAK_F32 ? 16.0 : p == PEAK_BF16 ? 32.0 : 64.0;

    return avx512(p) ? 2.0 * lanes * PEAK_CHAINS * PEAK_STEPS : peak_flops_avx2(p);
}

void peak_run(enum peak p)
{
    if (avx512(p))
        peak_run_avx512(p);
    else
        peak_run_avx2(p);
}

void peak_read_part(void *arg, uint32_t index, uint32_t count)
{
    if (avx512(PEAK_F32))
        peak_read_avx512(arg, index, count);
    else
        peak_read_avx2(arg, index, count);
}
