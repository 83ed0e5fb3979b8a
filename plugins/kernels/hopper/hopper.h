/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel set "hopper": what its files share. Kernels for NVIDIA's compute capability 9.0 (H100, H200), which are fast
 * where a step has few rows; the set "cuda" does the rest. Everything here may be called from any thread, but for attach
 * and detach: the thread that binds a plan.
 */
#ifndef HOPPER_HOPPER_H
#define HOPPER_HOPPER_H

#include "../common/cuda_host.h"
#include "params.h"
#include "tenon/fusions.h"
#include "tenon/host.h"

/* Activations, weights and cache are of one of these, all the same. */
#define HOPPER_FLOATS (TN_DT_BIT(TN_DT_F16) | TN_DT_BIT(TN_DT_BF16))

/* Multiprocessors that launches are planned for; H100 and H200 have 132, and on others plans are merely less even. */
#define HOPPER_UNITS 132

/* X(image, its name in lower case): tenon_image_NAME with the kernels NAME_entries. */
#define HOPPER_IMAGES(X)                                                                           \
    X(SKINNY, skinny)                                                                              \
    X(WIDE, wide)                                                                                  \
    X(EIGHT_FEW, eight_few)                                                                        \
    X(EIGHT_LOGITS, eight_logits)                                                                  \
    X(EIGHT_MANY, eight_many)                                                                      \
    X(EIGHT_HALF, eight_half)                                                                      \
    X(EIGHT_ONE, eight_one)                                                                        \
    X(QUANTIZE, quantize)                                                                          \
    X(INT4, int4)                                                                                  \
    X(DECODE, decode)                                                                              \
    X(DECODE8, decode8)                                                                            \
    X(PREFILL, prefill)                                                                            \
    X(PREFILL8, prefill8)                                                                          \
    X(ROWS, rows)

#define HOPPER_IMAGE(IMAGE, name) IMAGE_##IMAGE,
enum hopper_image { HOPPER_IMAGES(HOPPER_IMAGE) N_IMAGES };

/* CUresult cuTensorMapEncodeTiled(...), by its numbers: the set includes nothing of CUDA on the host. */
typedef int32_t (*encode_tiled_fn)(void *map, int32_t type, uint32_t rank, void *address,
                                   const uint64_t *dims, const uint64_t *strides,
                                   const uint32_t *box, const uint32_t *element_strides,
                                   int32_t interleave, int32_t swizzle, int32_t promotion,
                                   int32_t fill);

/* One device that the set is attached to. */
struct hopper_device {
    tn_device *device; /* NULL: free */
    struct cuda_code code[N_IMAGES];
    encode_tiled_fn encode;
};

struct hopper_instance {
    const tn_host *host;
    struct hopper_device devices[CUDA_MAX_DEVICES];
};

/* The attached device of a launch; TN_E_INTERNAL if there is none. */
int32_t hopper_find(struct hopper_instance *in, const tn_launch *l,
                    const struct hopper_device **out, tn_err *err);

/* Launches entry `entry` of an image with the struct at `args`; it overlaps the kernel before (see ptx.cuh). */
int32_t hopper_launch(const struct hopper_device *d, const tn_launch *l, enum hopper_image image,
                      uint32_t entry, struct cuda_grid grid, void *args, tn_err *err);

/* 0 for bfloat16, 1 for float16: the order of entries. */
static inline uint32_t hopper_type(const tn_value *v)
{
    return v->dtype == TN_DT_F16;
}

/* Norms the rows of a launch, with members and pointers of `p` as rows.cu takes them. norm.c */
int32_t hopper_norm(const struct hopper_device *d, const tn_launch *l, struct norm_params *p,
                    tn_err *err);

/* -- tensor_map.c ------------------------------------------------------------------------------------ */

/* A matrix [rows, width] of 16-bit floats, rows `stride` bytes apart, read in boxes of 64 elements by `box_rows` rows with
 * the 128-byte swizzle. What lies beyond its edges reads as zero. `address` and `stride` at a multiple of 16. */
int32_t tensor_map_matrix(const struct hopper_device *d, uint32_t dtype, const void *address,
                          uint64_t rows, uint64_t width, uint64_t stride, uint32_t box_rows,
                          struct tensor_map *out, tn_err *err);

/* The same for a matrix of 8 bits in boxes of 128 elements. */
int32_t tensor_map_bytes(const struct hopper_device *d, const void *address, uint64_t rows,
                         uint64_t width, uint64_t stride, uint32_t box_rows, struct tensor_map *out,
                         tn_err *err);

/* The same for rows whose width is a multiple of 128, as [chunk of 128 elements][row][128]: a box holds `chunks` of `box_rows`. */
int32_t tensor_map_chunks(const struct hopper_device *d, const void *address, uint64_t rows,
                          uint64_t width, uint64_t stride, uint32_t box_rows, uint32_t chunks,
                          struct tensor_map *out, tn_err *err);

/* A layer's cache in layout "hnd" as [page][2 (keys, values)][head_dim / 64][head and token][64]: a box holds `box_tokens`
 * keys and their values, in planes of 64 elements. */
int32_t tensor_map_cache(const struct hopper_device *d, const tn_kv_layer *kv, uint32_t box_tokens,
                         struct tensor_map *out, tn_err *err);

/* The same of 8 bits as [page][2][head and token][head_dim], in rows of head_dim bytes with the swizzle of as many. */
int32_t tensor_map_cache8(const struct hopper_device *d, const tn_kv_layer *kv, uint32_t box_tokens,
                          struct tensor_map *out, tn_err *err);

/* The same as [page][keys of each head and token, then values][head_dim]: a box holds 64 elements of `box_tokens`. */
int32_t tensor_map_pages(const struct hopper_device *d, const tn_kv_layer *kv, uint32_t box_tokens,
                         struct tensor_map *out, tn_err *err);

/* The same of 8 bits, without a swizzle: a box holds whole rows of `box_tokens`. */
int32_t tensor_map_pages8(const struct hopper_device *d, const tn_kv_layer *kv, uint32_t box_tokens,
                          struct tensor_map *out, tn_err *err);

/* -- Products of few rows: products.c ------------------------------------------------------------------ */

#define SKINNY_ROWS 128 /* that a kernel of skinny.cuh serves at a time */

/* How a product of few rows is launched. */
struct skinny_plan {
    uint32_t shape;         /* of SKINNY_SHAPES */
    uint32_t tile, tokens;  /* rows of the matrices and tokens of a tile */
    uint32_t tiles, splits; /* along the matrices; blocks of a cluster that share one along K */
    uint32_t early; /* stages before its last loads at which a block lets the next kernel start */
    uint32_t blocks, runs; /* of a run of tokens; runs */
    uint32_t shared_bytes;
};

extern const uint32_t n_skinny_shapes;

/* Names of kernels of skinny.cuh; `kernel`: "skinny_bf16", say. */
#define SKINNY_NAME(kernel, tile, tokens, stages, finishes)                                        \
    kernel "_" #tile "x" #tokens "x" #stages "_" finishes,

/* Entries of kernels of skinny.cuh: by what they finish, then by `types`, then by `shapes`; behind them those of SKINNY_NORM, which
 * are in bfloat16 alone, by shape. `groups`: of finishes before that. */
static inline uint32_t skinny_entry(uint32_t finish, uint32_t groups, uint32_t type, uint32_t types,
                                    uint32_t shape, uint32_t shapes)
{
    uint32_t group = finish <= PRODUCT_ADD      ? SKINNY_SUMS
                     : finish == PRODUCT_SILU   ? SKINNY_SILU
                     : finish == PRODUCT_LOGITS ? SKINNY_LOGITS
                                                : SKINNY_GELU;

    return finish == PRODUCT_ADD_NORM ? groups * types * shapes + shape
                                      : (group * types + type) * shapes + shape;
}

/* How many blocks share a tile along K, if `tiles` tiles of so many stages should make `blocks` blocks. */
uint32_t hopper_splits(uint32_t tiles, uint32_t blocks, uint32_t stages);

/* Plans a product of one row of 8 bits: tiles of 64 rows, of which up to three blocks have room on a multiprocessor. */
struct skinny_plan skinny_plan_one(uint32_t narrow, uint32_t stages, uint32_t early);

/* Plans a product of `rows` rows with matrices of `bytes` bytes in all, which are `narrow` tiles of 64 rows or `wide` ones of 128,
 * in `stages` stages along K. */
struct skinny_plan skinny_plan(uint32_t narrow, uint32_t wide, double bytes, uint32_t stages,
                               uint32_t rows);

/* Products as parts of other variants; `f` says of what form `op` is: PRODUCT_STORE is three matrices. `norm`: NULL; or, of a pair of
 * products with a norm between them and up to PRODUCT_NORM_ROWS rows, what stands between them, of which the first, PRODUCT_ADD,
 * fills in the parts. products.c; of e4m3 with rows of 16 bits: eight.c. */
int32_t hopper_product_check(const tn_op *op, enum product_finish f, tn_err *err);
double hopper_product_cost_ns(const tn_op *op, enum product_finish f, uint32_t rows);
int32_t hopper_product(struct hopper_instance *in, const tn_launch *l, enum product_finish f,
                       struct product_norm *norm, tn_err *err);
int32_t hopper_half_check(const tn_op *op, enum product_finish f, tn_err *err);
double hopper_half_cost_ns(const tn_op *op, enum product_finish f, uint32_t rows);
int32_t hopper_half(struct hopper_instance *in, const tn_launch *l, enum product_finish f,
                    struct product_norm *norm, tn_err *err);

/* Enters what stands between a pair into the parameters of one of them, whose rows come in so many parts; returns the threads that
 * its blocks have. */
uint32_t hopper_note_norm(struct product_norm *norm, uint32_t parts, struct product_params *p);

/* All but those of int4 are launched so that they overlap with their neighbours. */
#define HOPPER_FLAGS (TN_VARIANT_GRAPH_SAFE | TN_VARIANT_DETERMINISTIC | TN_VARIANT_EARLY)

/* -- Variants ---------------------------------------------------------------------------------------- */

/* The forms of products of 8 bits, of scheme q. eight.c */
#define HOPPER_EIGHT(X, q)                                                                         \
    X(linear_##q)                                                                                  \
    X(qkv_##q)                                                                                     \
    X(linear_add_##q)                                                                              \
    X(gate_silu_##q)                                                                               \
    X(gate_gelu_##q)                                                                               \
    X(gate_gelu_tanh_##q)                                                                          \
    X(norm_linear_##q)                                                                             \
    X(norm_qkv_##q)                                                                                \
    X(norm_gate_silu_##q)                                                                          \
    X(norm_gate_gelu_##q)                                                                          \
    X(norm_gate_gelu_tanh_##q)

/* X(id): the tn_variant called hopper_ID. products.c, pair.c, eight.c, int4.c, attend.c, norm.c */
#define HOPPER_VARIANTS(X)                                                                         \
    X(linear)                                                                                      \
    X(logits)                                                                                      \
    X(qkv)                                                                                         \
    X(gate_silu)                                                                                   \
    X(gate_gelu)                                                                                   \
    X(gate_gelu_tanh)                                                                              \
    X(linear_add)                                                                                  \
    X(pair_qkv)                                                                                    \
    X(pair_gate)                                                                                   \
    X(pair_qkv_fp8)                                                                                \
    X(pair_gate_fp8)                                                                               \
    HOPPER_EIGHT(X, fp8)                                                                           \
    HOPPER_EIGHT(X, fp8_half)                                                                      \
    HOPPER_EIGHT(X, int8)                                                                          \
    X(logits_int8)                                                                                 \
    X(linear_int4)                                                                                 \
    X(qkv_int4)                                                                                    \
    X(linear_add_int4)                                                                             \
    X(gate_silu_int4)                                                                              \
    X(gate_gelu_int4)                                                                              \
    X(gate_gelu_tanh_int4)                                                                         \
    X(rms_norm)                                                                                    \
    X(add_rms_norm)                                                                                \
    X(attention_bf16)                                                                              \
    X(attention_f16)                                                                               \
    X(rope_attention_bf16)                                                                         \
    X(rope_attention_f16)                                                                          \
    X(attention_kv8_bf16)                                                                          \
    X(attention_kv8_f16)                                                                           \
    X(rope_attention_kv8_bf16)                                                                     \
    X(rope_attention_kv8_f16)                                                                      \
    X(rope_hadamard_attention_bf16)                                                                \
    X(rope_hadamard_attention_f16)                                                                 \
    X(rope_hadamard_attention_kv8_bf16)                                                            \
    X(rope_hadamard_attention_kv8_f16)

#define HOPPER_DECLARE(id) extern const tn_variant hopper_##id;
HOPPER_VARIANTS(HOPPER_DECLARE)
#undef HOPPER_DECLARE

extern const tn_gpu_target hopper_gpus[];
extern const tn_kernel_set hopper_kernel_set;

/* Names of entries in the order of their numbers, per image. */
#define HOPPER_ENTRIES(IMAGE, name)                                                                \
    extern const char *const name##_entries[];                                                     \
    extern const uint32_t n_##name##_entries;
HOPPER_IMAGES(HOPPER_ENTRIES)
#undef HOPPER_ENTRIES

#endif
