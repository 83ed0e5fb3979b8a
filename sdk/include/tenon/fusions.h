/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file fusions.h
 * Compositions that several kernel sets implement.
 *
 * Variants of different sets serve one fused op together (one for a few rows, another for many) if name and text
 * agree to the letter, so both stand here. NAME is tn_variant::op, TEXT is tn_variant::equals. The members keep their
 * attributes and optional weights: `can_run` looks at them.
 */
#ifndef TENON_FUSIONS_H
#define TENON_FUSIONS_H

#include "ops.h"

/** Three projections of one input. */
#define TN_FUSED_QKV "qkv"
#define TN_FUSED_QKV_TEXT "(x) -> (q, k, v): q = linear(x); k = linear(x); v = linear(x)"

/** The gated half of an MLP, for each of the usual activations. */
#define TN_FUSED_GATE_SILU "gate_silu"
#define TN_FUSED_GATE_SILU_TEXT                                                                    \
    "(x) -> (y): g = linear(x); u = linear(x); s = silu(g); y = mul(s, u)"
#define TN_FUSED_GATE_GELU "gate_gelu"
#define TN_FUSED_GATE_GELU_TEXT                                                                    \
    "(x) -> (y): g = linear(x); u = linear(x); s = gelu(g); y = mul(s, u)"
#define TN_FUSED_GATE_GELU_TANH "gate_gelu_tanh"
#define TN_FUSED_GATE_GELU_TANH_TEXT                                                               \
    "(x) -> (y): g = linear(x); u = linear(x); s = gelu_tanh(g); y = mul(s, u)"

/** A projection and the residual, which stands first in `add`. */
#define TN_FUSED_LINEAR_ADD "linear_add"
#define TN_FUSED_LINEAR_ADD_TEXT "(x, r) -> (y): h = linear(x); y = add(r, h)"

/** The residual and the norm that follows it. */
#define TN_FUSED_ADD_RMS_NORM "add_rms_norm"
#define TN_FUSED_ADD_RMS_NORM_TEXT "(a, b) -> (s, y): s = add(a, b); y = rms_norm(s)"

/** A sum over ranks, the residual and the norm that follows: for TN_VARIANT_PARTS. */
#define TN_FUSED_REDUCE_ADD_RMS_NORM "reduce_add_rms_norm"
#define TN_FUSED_REDUCE_ADD_RMS_NORM_TEXT                                                          \
    "(x, r) -> (s, y): h = all_reduce(x); s = add(r, h); y = rms_norm(s)"
#define TN_FUSED_REDUCE_ADD_LAYER_NORM "reduce_add_layer_norm"
#define TN_FUSED_REDUCE_ADD_LAYER_NORM_TEXT                                                        \
    "(x, r) -> (s, y): h = all_reduce(x); s = add(r, h); y = layer_norm(s)"

/** Rotation of queries and keys, and the append to the cache. */
#define TN_FUSED_ROPE_APPEND "rope_append"
#define TN_FUSED_ROPE_APPEND_TEXT                                                                  \
    "(q, k, v) -> (y, kv): y = rope(q); r = rope(k); kv = kv_append(r, v)"

/** The same with the attention that reads the cache. */
#define TN_FUSED_ROPE_ATTENTION "rope_attention"
#define TN_FUSED_ROPE_ATTENTION_TEXT                                                               \
    "(q, k, v) -> (y): a = rope(q); r = rope(k); kv = kv_append(r, v); y = attention(a, kv)"

/** The same where queries and keys go through `hadamard` first: engines for a cache in float8_e4m3. */
#define TN_FUSED_ROPE_HADAMARD_ATTENTION "rope_hadamard_attention"
#define TN_FUSED_ROPE_HADAMARD_ATTENTION_TEXT                                                      \
    "(q, k, v) -> (y): a = rope(q); b = hadamard(a); r = rope(k); s = hadamard(r); "               \
    "kv = kv_append(s, v); y = attention(b, kv)"

/**
 * A decoder layer of LLaMA and its descendants, whole, with LINEAR as its linear op: norm, projections, rotation, cache and
 * attention, residual, norm, gated MLP, residual. For few rows, where launches cost as much as what they do. Sets name it
 * after the scheme, too: "decoder_layer.fp8".
 */
#define TN_FUSED_DECODER_LAYER "decoder_layer"
#define TN_TEXT_DECODER_LAYER(LINEAR)                                                              \
    "(x) -> (z): n = rms_norm(x); q = " LINEAR "(n); k = " LINEAR "(n); v = " LINEAR               \
    "(n); a = rope(q); r = rope(k); kv = kv_append(r, v); t = attention(a, kv); o = " LINEAR       \
    "(t); h = add(x, o); m = rms_norm(h); g = " LINEAR "(m); u = " LINEAR                          \
    "(m); s = silu(g); p = mul(s, u); d = " LINEAR "(p); z = add(h, d)"

/** The same where queries and keys go through `hadamard` first: engines for a cache in float8_e4m3. */
#define TN_FUSED_DECODER_LAYER_HADAMARD "decoder_layer_hadamard"
#define TN_TEXT_DECODER_LAYER_HADAMARD(LINEAR)                                                     \
    "(x) -> (z): n = rms_norm(x); q = " LINEAR "(n); k = " LINEAR "(n); v = " LINEAR               \
    "(n); a = rope(q); b = hadamard(a); r = rope(k); c = hadamard(r); kv = kv_append(c, v); "      \
    "t = attention(b, kv); o = " LINEAR "(t); h = add(x, o); m = rms_norm(h); g = " LINEAR         \
    "(m); u = " LINEAR "(m); s = silu(g); p = mul(s, u); d = " LINEAR "(p); z = add(h, d)"

/**
 * The texts of fusions of quantized products: LINEAR is the linear op, ACT the activation, both as string literals. Sets
 * name such a fusion after the plain one and the scheme, "qkv.fp8". Those with a norm or a gate in front can quantize
 * what it leaves at once, instead of storing and reading it.
 */
#define TN_TEXT_QKV(LINEAR)                                                                        \
    "(x) -> (q, k, v): q = " LINEAR "(x); k = " LINEAR "(x); v = " LINEAR "(x)"
#define TN_TEXT_LINEAR_ADD(LINEAR) "(x, r) -> (y): h = " LINEAR "(x); y = add(r, h)"
#define TN_TEXT_GATE(LINEAR, ACT)                                                                  \
    "(x) -> (y): g = " LINEAR "(x); u = " LINEAR "(x); s = " ACT "(g); y = mul(s, u)"
#define TN_TEXT_ACT_LINEAR(LINEAR, ACT)                                                            \
    "(g, u) -> (y): s = " ACT "(g); p = mul(s, u); y = " LINEAR "(p)"
#define TN_TEXT_NORM_LINEAR(LINEAR) "(x) -> (y): n = rms_norm(x); y = " LINEAR "(n)"
#define TN_TEXT_NORM_QKV(LINEAR)                                                                   \
    "(x) -> (q, k, v): n = rms_norm(x); q = " LINEAR "(n); k = " LINEAR "(n); v = " LINEAR "(n)"
#define TN_TEXT_NORM_GATE(LINEAR, ACT)                                                             \
    "(x) -> (y): n = rms_norm(x); g = " LINEAR "(n); u = " LINEAR "(n); s = " ACT                  \
    "(g); y = mul(s, u)"

/**
 * A projection, the residual, the norm that follows and the products behind it: the output projection with the gated half of
 * the MLP, `down` with the next layer's query, key and value. For few rows: the first product can leave what the norm needs,
 * so that none has to be launched between the two.
 */
#define TN_FUSED_LINEAR_ADD_NORM_QKV "linear_add_norm_qkv"
#define TN_TEXT_LINEAR_ADD_NORM_QKV(LINEAR)                                                        \
    "(x, r) -> (h, q, k, v): p = " LINEAR "(x); h = add(r, p); n = rms_norm(h); q = " LINEAR       \
    "(n); k = " LINEAR "(n); v = " LINEAR "(n)"
#define TN_FUSED_LINEAR_ADD_NORM_GATE_SILU "linear_add_norm_gate_silu"
#define TN_TEXT_LINEAR_ADD_NORM_GATE(LINEAR, ACT)                                                  \
    "(x, r) -> (h, y): p = " LINEAR "(x); h = add(r, p); n = rms_norm(h); g = " LINEAR             \
    "(n); u = " LINEAR "(n); s = " ACT "(g); y = mul(s, u)"

#endif
