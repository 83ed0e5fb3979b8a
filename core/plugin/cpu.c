/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPU features (Intel SDM vol. 2A, CPUID; vol. 1, 13.3 and 14.1: a feature is usable only if the operating
 * system has enabled the state it needs in XCR0). Any thread.
 */
#include "plugin/cpu.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "plugin/os.h"
#include "tenon/cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>

struct leaf {
    uint32_t eax, ebx, ecx, edx;
};

static struct leaf cpuid(uint32_t number, uint32_t sub)
{
    struct leaf l = {0, 0, 0, 0};

    __get_cpuid_count(number, sub, &l.eax, &l.ebx, &l.ecx, &l.edx);
    return l;
}

static uint64_t xcr0(void)
{
    uint32_t lo, hi;

    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

static uint64_t bit_if(uint32_t reg, unsigned bit, uint64_t feature)
{
    return (reg >> bit) & 1u ? feature : 0;
}

static uint64_t avx_features(const struct leaf *l1, const struct leaf *l7, const struct leaf *l71)
{
    return bit_if(l1->ecx, 28, TN_CPU(AVX)) | bit_if(l1->ecx, 12, TN_CPU(FMA)) |
           bit_if(l1->ecx, 29, TN_CPU(F16C)) | bit_if(l7->ebx, 5, TN_CPU(AVX2)) |
           bit_if(l71->eax, 4, TN_CPU(AVXVNNI));
}

static uint64_t avx512_features(const struct leaf *l7, const struct leaf *l71)
{
    return bit_if(l7->ebx, 16, TN_CPU(AVX512F)) | bit_if(l7->ebx, 30, TN_CPU(AVX512BW)) |
           bit_if(l7->ebx, 17, TN_CPU(AVX512DQ)) | bit_if(l7->ebx, 31, TN_CPU(AVX512VL)) |
           bit_if(l7->ecx, 11, TN_CPU(AVX512VNNI)) | bit_if(l7->edx, 23, TN_CPU(AVX512FP16)) |
           bit_if(l71->eax, 5, TN_CPU(AVX512BF16));
}

static uint64_t amx_features(const struct leaf *l7)
{
    return bit_if(l7->edx, 24, TN_CPU(AMXTILE)) | bit_if(l7->edx, 22, TN_CPU(AMXBF16)) |
           bit_if(l7->edx, 25, TN_CPU(AMXINT8));
}

void cpu_features(uint64_t out[2])
{
    enum { XMM_YMM = 0x6, ZMM = 0xe6, TILES = 0x60000 };
    struct leaf l1 = cpuid(1, 0), l7 = cpuid(7, 0), l71 = {0, 0, 0, 0};
    bool osxsave = (l1.ecx >> 27) & 1u;
    uint64_t state = osxsave ? xcr0() : 0;
    uint64_t f = bit_if(l1.ecx, 20, TN_CPU(SSE42)) | bit_if(l7.ebx, 8, TN_CPU(BMI2));

    if (l7.eax >= 1)
        l71 = cpuid(7, 1);
    if ((state & XMM_YMM) == XMM_YMM)
        f |= avx_features(&l1, &l7, &l71);
    if ((state & ZMM) == ZMM)
        f |= avx512_features(&l7, &l71);
    if ((state & TILES) == TILES && amx_features(&l7) != 0 && os_amx_granted())
        f |= amx_features(&l7);
    out[0] = f;
    out[1] = 0;
}

#else

void cpu_features(uint64_t out[2])
{
    out[0] = out[1] = 0;
}

#endif

static const char *bit_name(unsigned bit)
{
    switch (bit) {
#define CASE(name, number, text)                                                                   \
    case number: return text;
        TN_CPU_LIST(CASE)
#undef CASE
    default: return NULL;
    }
}

void cpu_feature_names(const uint64_t set[2], char *out, size_t size)
{
    size_t at = 0;

    out[0] = '\0';
    for (unsigned bit = 0; bit < 128; bit++) {
        const char *name = bit_name(bit);
        int n;
        if (!((set[bit / 64] >> (bit % 64)) & 1u))
            continue;
        if (name)
            n = snprintf(out + at, size - at, "%s%s", at > 0 ? ", " : "", name);
        else
            n = snprintf(out + at, size - at, "%sbit %u", at > 0 ? ", " : "", bit);
        if (n < 0 || (size_t)n >= size - at)
            return;
        at += (size_t)n;
    }
}
