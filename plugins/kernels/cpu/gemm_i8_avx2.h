/* SPDX-License-Identifier: Apache-2.0 */
/*
 * linear.int8 with AVX2 alone. Included once by isa_avx2.c, after what gemm_tmpl.h needs and quantize_tmpl.h.
 *
 * VPMADDUBSW multiplies most bytes at once but wants one side unsigned and sums of pairs within 16 bits. So a group of x is
 * the sizes of four elements, at most 127, and their signs, -1 or 0 as a mask. Weights xor that mask are -w - 1 where x is
 * negative, and never below -128: pairs of products stay within 2 * 127 * 128. What the sum lacks, the sizes of negative
 * elements, is the same for every column (g->a_rest).
 *
 * Sums of pairs must be widened to 32 bits, which takes a multiplier, too. Two steps share that where the four elements that
 * meet in 16 bits have sizes of 255 in all at most: 255 * 128 < 2^15. Few elements of a row are so large that they have not;
 * those go, with the step they belong to, to a list of the row (struct spill) that is multiplied at the end, and zeros stay
 * in their place. All that is exact, so it is no matter which element goes which way. Rows that would need a long list keep
 * what does not fit it, and their tile does without the sharing.
 *
 * Two rows times two panels: a step takes 4 broadcasts for 8 vectors of products, and weights straight from the cache. Few
 * instructions beside the products matter: these alone keep all four vector units busy.
 */

struct signed_group {
    uint32_t size, sign;
};

#define SPILL_MOST 32

/* Elements of a row that are multiplied at the end: groups that stand for themselves, and the step of each. */
struct spill {
    uint32_t n;
    uint32_t crowded; /* it did not take all of them */
    uint32_t step[SPILL_MOST];
    struct signed_group group[SPILL_MOST];
};

/* -- Rows of x --------------------------------------------------------------------------------------- */

#define SIGNED_CHUNK 128 /* groups that are made at a time */

/* Moves halves of groups to `spill`, so that each half of two neighbouring steps has sizes of 255 in all. Steps are `first`
 * and the seven behind it. */
static void spill_sizes(struct spill *spill, uint64_t first, uint32_t *size, const uint32_t *sign)
{
    for (uint32_t i = 0; i < LANES; i += 2) {
        uint32_t moved = 0;
        for (uint32_t half = 0; half < 32; half += 16) {
            uint32_t a = size[i] >> half, b = size[i + 1] >> half;
            if ((a & 255) + (a >> 8 & 255) + (b & 255) + (b >> 8 & 255) > 255)
                moved |= 0xffffu << half;
        }
        if (!moved)
            continue;
        if (spill->n == SPILL_MOST) {
            spill->crowded = 1;
            continue;
        }
        spill->step[spill->n] = (uint32_t)first + i + 1;
        spill->group[spill->n++] = (struct signed_group){size[i + 1] & moved, sign[i + 1]};
        size[i + 1] &= ~moved;
    }
}

/* Sizes and signs of LANES groups that begin at step `first`, interleaved; adds the sizes of negative elements to *rest. */
static inline void split_signs(struct signed_group *to, const uint32_t *q, uint64_t first,
                               struct spill *spill, vi *rest)
{
    const vi low = _mm256_set1_epi64x(0xffffffff), zero = _mm256_setzero_si256();
    vi v = _mm256_load_si256((const vi *)q), size = _mm256_abs_epi8(v);
    vi sign = _mm256_cmpgt_epi8(zero, v);
    vi pairs = _mm256_maddubs_epi16(size, _mm256_set1_epi8(1));
    vi both = _mm256_add_epi16(pairs, _mm256_srli_epi64(pairs, 32));
    vi over = _mm256_cmpgt_epi16(_mm256_and_si256(both, low), _mm256_set1_epi16(255));

    *rest = _mm256_add_epi64(*rest, _mm256_sad_epu8(_mm256_and_si256(size, sign), zero));
    if (_mm256_movemask_epi8(over)) {
        _Alignas(32) uint32_t sizes[LANES], signs[LANES];
        _mm256_store_si256((vi *)sizes, size);
        _mm256_store_si256((vi *)signs, sign);
        spill_sizes(spill, first, sizes, signs);
        size = _mm256_load_si256((const vi *)sizes);
    }
    vi a = _mm256_unpacklo_epi32(size, sign), b = _mm256_unpackhi_epi32(size, sign);
    _mm256_storeu_si256((vi *)to, _mm256_permute2x128_si256(a, b, 0x20));
    _mm256_storeu_si256((vi *)(to + 4), _mm256_permute2x128_si256(a, b, 0x31));
}

/* Packs a row into groups that lie `rows` apart; returns what sums of products with them lack. */
static int32_t pack_signed(const float *x, uint64_t k, float step, struct signed_group *a,
                           uint32_t rows, struct spill *spill)
{
    struct signed_group group[SIGNED_CHUNK];
    _Alignas(32) uint32_t q[SIGNED_CHUNK];
    vi rest = _mm256_setzero_si256();

    spill->n = spill->crowded = 0;
    for (uint64_t first = 0; 4 * first < k; first += SIGNED_CHUNK) {
        uint64_t n = k - 4 * first < 4 * SIGNED_CHUNK ? k - 4 * first : 4 * SIGNED_CHUNK;
        uint64_t groups = (n + 3) / 4;
        quantize_groups(q, x + 4 * first, n, step, 0);
        memset(q + groups, 0, (SIGNED_CHUNK - groups) * sizeof *q);
        for (uint64_t i = 0; i < groups; i += LANES)
            split_signs(group + i, q + i, first + i, spill, &rest);
        for (uint64_t i = 0; i < groups; i++)
            a[i * rows] = group[i];
        a += groups * rows;
    }
    return (int32_t)(_mm256_extract_epi64(rest, 0) + _mm256_extract_epi64(rest, 1) +
                     _mm256_extract_epi64(rest, 2) + _mm256_extract_epi64(rest, 3));
}

static void pack_rows_i8_avx2(const struct gemm *g, uint32_t first, uint32_t last)
{
    uint64_t steps = gemm_steps(g->kernel, g->k, 0);

    for (uint32_t tile = first; tile < last; tile++) {
        uint32_t begin = gemm_tile_row(g, tile), end = gemm_tile_row(g, tile + 1);
        for (uint32_t r = begin; r < end; r++) {
            const float *x = gemm_row(g, r);
            g->a_step[r] = quantize_step(x, g->k, g->act_scale);
            g->a_rest[r] = pack_signed(x, g->k, g->a_step[r],
                                       (struct signed_group *)g->a + begin * steps + (r - begin),
                                       end - begin, (struct spill *)g->a_more + r);
        }
    }
}

/* -- Products ---------------------------------------------------------------------------------------- */

/* Bytes that may be asked for before each tile. */
#define SIGNED_AHEAD 8192

/* 16 sums of pairs of products. By address: a group that is loaded whole goes through registers that cannot broadcast it. */
static CPU_INLINE vi signed_pairs(const unsigned char *w, const struct signed_group *a)
{
    vi turned = _mm256_xor_si256(_mm256_set1_epi32((int)a->sign), *(const vi *)w);

    return _mm256_maddubs_epi16(_mm256_set1_epi32((int)a->size), turned);
}

static CPU_INLINE vi signed_add(vi acc, vi pairs)
{
    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    CPU_KEEP(acc);
    return acc;
}

/* Where the vector `v` of a step lies that begins at `w`. */
#define SIGNED_AT(w, v) ((w) + (uint64_t)((v) / 2) * panel_bytes + (uint64_t)((v) % 2) * 32)

/* sums[panel] = the products of `rows` rows and `panels` panels (constants where this is inlined). */
static CPU_INLINE void signed_tile(const int rows, const int panels, const unsigned char *w,
                                   uint64_t panel_bytes, const struct signed_group *a,
                                   uint64_t steps, const struct spill *spill, union tile_sums *sums)
{
    const unsigned char *from = w, *end = w + steps * 64;
    const unsigned char *both = spill[0].crowded | spill[rows - 1].crowded ? w : end - 64;
    vi acc[2][4];

    CPU_UNROLL
    for (int r = 0; r < rows; r++) {
        CPU_UNROLL
        for (int v = 0; v < 2 * panels; v++)
            acc[r][v] = _mm256_setzero_si256();
    }
    for (; w < both; w += 128, a += 2 * rows) {
        CPU_UNROLL
        for (int r = 0; r < rows; r++) {
            CPU_UNROLL
            for (int v = 0; v < 2 * panels; v++) {
                vi one = signed_pairs(SIGNED_AT(w, v), a + r);
                vi two = signed_pairs(SIGNED_AT(w, v) + 64, a + rows + r);
                acc[r][v] = signed_add(acc[r][v], _mm256_add_epi16(one, two));
            }
        }
    }
    for (; w < end; w += 64, a += rows) {
        CPU_UNROLL
        for (int r = 0; r < rows; r++) {
            CPU_UNROLL
            for (int v = 0; v < 2 * panels; v++)
                acc[r][v] = signed_add(acc[r][v], signed_pairs(SIGNED_AT(w, v), a + r));
        }
    }
    CPU_UNROLL
    for (int r = 0; r < rows; r++) {
        for (uint32_t i = 0; i < spill[r].n; i++) {
            const unsigned char *at = from + (uint64_t)spill[r].step[i] * 64;
            CPU_UNROLL
            for (int v = 0; v < 2 * panels; v++)
                acc[r][v] =
                    signed_add(acc[r][v], signed_pairs(SIGNED_AT(at, v), &spill[r].group[i]));
        }
        CPU_UNROLL
        for (int v = 0; v < 2 * panels; v++)
            _mm256_store_si256((vi *)sums[v / 2].i[r][v % 2], acc[r][v]);
    }
}

/* Asks for part `part` of `parts` of the `bytes` at `p`, if parts are so many that this does not hold up the products. Within
 * them it would; weights that are read once come as fast without. */
static void signed_prefetch(const unsigned char *p, uint64_t bytes, uint32_t part, uint32_t parts)
{
    if (bytes / parts > SIGNED_AHEAD)
        return;
    for (uint64_t at = bytes * part / parts / 64 * 64; at < bytes * (part + 1) / parts; at += 64)
        CPU_PREFETCH(p + at);
}

static void run_i8_avx2(const struct gemm *g, uint32_t panel, uint32_t first, uint32_t last)
{
    uint64_t steps = gemm_steps(g->kernel, g->k, 0);
    uint64_t bytes = gemm_panel_bytes(g->kernel, g->k, 0);
    const unsigned char *w = g->panels + panel * bytes;
    uint32_t panels = g->n_panels - panel < g->run_panels ? 1 : g->run_panels;
    union tile_sums sums[2];

    for (uint32_t p = 0; p < panels; p++)
        finish_prefetch(g, panel + p);
    for (uint32_t tile = first; tile < last; tile++) {
        uint32_t begin = gemm_tile_row(g, tile), rows = gemm_tile_row(g, tile + 1) - begin;
        const struct signed_group *a = (const struct signed_group *)g->a + begin * steps;
        const struct spill *spill = (const struct spill *)g->a_more + begin;
        signed_prefetch(w + panels * bytes, panels * bytes, tile - first, last - first);
        switch (2 * rows + panels) {
        case 3: signed_tile(1, 1, w, bytes, a, steps, spill, sums); break;
        case 4: signed_tile(1, 2, w, bytes, a, steps, spill, sums); break;
        case 5: signed_tile(2, 1, w, bytes, a, steps, spill, sums); break;
        default: signed_tile(2, 2, w, bytes, a, steps, spill, sums); break;
        }
        for (uint32_t p = 0; p < panels; p++)
            finish_tile(g, panel + p, begin, rows, &sums[p]);
    }
}

const struct gemm_kernel gemm_i8_avx2 = {
    .weight_dtype = TN_DT_I8,
    .lanes = LANES,
    .tile_rows = 2,
    .depth = 4,
    .group_bytes = sizeof(struct signed_group),
    .more_bytes = sizeof(struct spill),
    .run_panels = 2,
    .gflops = 170.0,
    .pack_rows = pack_rows_i8_avx2,
    .run = run_i8_avx2,
};
