/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file ops.h
 * The basic opset: what each operation means, exactly.
 *
 * Ids are strings in a namespace. The names below have no dot and belong to Tenon; a vendor's op
 * carries its prefix ("acme.rotary2") and needs no registration: a model plugin may emit it when
 * some kernel set offers it. The kernel set `reference` implements every op here in plain C and
 * *is* the definition wherever this text leaves room.
 *
 * Notation. T rows in the step, x[t] a row, W a weight with shape [.,.]. All arithmetic is in
 * float32 (inputs widened exactly), sums in float32 in any order, and the result is rounded once
 * (to nearest, ties to even) to the dtype of the output. "heads" are consecutive blocks of head_dim
 * elements of a row. pos[t] is the position of row t in its sequence.
 *
 * | op            | inputs         | weights        | outputs | attributes (default)
 * |---------------|----------------|----------------|---------|-----------------------------------
 * | embedding     | -              | W[V,H]         | y[T,H]  | scale (1.0)
 * | position      | -              | W[P,H]         | y[T,H]  | offset (0)
 * | rms_norm      | x[T,N]         | w[G]           | y[T,N]  | eps, offset (0.0)
 * | layer_norm    | x[T,N]         | w[N], b[N]?    | y[T,N]  | eps
 * | linear        | x[T,K]         | W[N,K], b[N]?  | y[T,N]  | -
 * | rope          | x[T,n*d]       | f[R/2]         | y[T,n*d]| n_heads*, head_dim, rotary_dim, style
 * |               |                |                |         | ("half"), mscale (1.0), and for dynamic
 * |               |                |                |         | scaling: base, factor, max_position
 * | hadamard      | x[T,n*d]       | -              | y[T,n*d]| n_heads*, head_dim
 * | reorder       | x[T,N]         | p[N] int32     | y[T,N]  | -
 * | kv_append     | k[T,n*d], v    | rk[n], rv[n], mk[n*d], fk[n*d,d], fv[n*d,d]: all, 3, 2 or 0 | kv | n_kv_heads*, head_dim
 * | attention     | q[T,m*d], kv   | -              | y[T,m*d]| n_heads*, n_kv_heads*, head_dim, scale,
 * |               |                |                |         | window (0), softcap (0.0)
 * | add, mul      | a[T,N], b[T,N] | -              | y[T,N]  | -
 * | silu, gelu, gelu_tanh, relu, relu2 | x[T,N] | - | y[T,N]  | -
 * | scale         | x[T,N]         | -              | y[T,N]  | factor
 * | softcap       | x[T,N]         | -              | y[T,N]  | cap
 * | moe_route     | x[T,E]         | -              | i[T,k], p[T,k] | top_k, norm ("softmax_topk")
 * | moe_mlp       | x[T,H], i, p   | G[E,I,H], U[E,I,H], D[E,H,I] | y[T,H] | act ("silu"),
 * |               |                | and scales of these, if of 8 or 4 bits | | expert_first (0)
 * | all_reduce    | x[T,N]         | -              | y[T,N]  | -
 * | all_gather    | x[.,N/tp]      | -              | y[.,N]  | -
 * | logits        | x[T,H]         | W[V,H], b[V]?  | y[L,V] float32 | scale (1.0), softcap (0.0)
 * | sample        | x[L,V] float32 | -              | i[L,1] int32   | -
 * | linear.int8   | x[T,K]         | W[N,K] int8, s[N], b[N]?         | y[T,N] | act_scale (0.0)
 * | linear.fp8    | x[T,K]         | W[N,K] float8_e4m3, s[N], b[N]?  | y[T,N] | act_scale (0.0)
 * | linear.int4   | x[T,K]         | W[N,K] int4, s[N,K/G], z[N,K/G] int8 if zero, b[N]? | y[T,N]
 * |               |                |                |         | group (G), zero (0)
 * | embedding.int8 | -             | W[V,H] int8, s[V], m[H] | y[T,H] | scale (1.0)
 * | logits.int8   | x[T,H]         | W[V,H] int8, s[V], b[V]?         | y[L,V] float32 | scale (1.0),
 * |               |                |                |         | softcap (0.0), act_scale (0.0)
 * | feed          | -              | -              | -       | -
 * | read          | x[1,N]         | -              | y[1,1] int32 | -
 *
 * Scales s and the ranges of kv_append are float32, like all vectors.
 *
 * (*) sharded by tensor parallelism, see ::TN_ATTR_SHARDED. "?" optional. Integers and reals are
 * written in the plan under the names of the last column.
 *
 * embedding   y[t] = scale * W[token[t]]. Under tensor parallelism W holds rows [first, first+V) of
 *             the vocabulary (attribute vocab_first, added by the host): other tokens give 0.
 * position    y[t] = W[pos[t] + offset], learned absolute positions.
 * rms_norm    Over each group of G consecutive elements (G = N, or head_dim for norms per head):
 *             y = x / sqrt(mean(x^2) + eps) * (offset + w); Zhang and Sennrich 2019. `offset` is
 *             1 for models that store w - 1.
 * layer_norm  y = (x - mean) / sqrt(var + eps) * w + b, biased variance; Ba et al. 2016.
 * linear      y[t][n] = sum_k x[t][k] * W[n][k] + b[n].
 * rope        Rotates the first rotary_dim elements (R) of every head, copies the rest; Su et al. 2021.
 *             angle_j = float32(pos) * f[j], c = mscale * cos(angle_j), s = mscale * sin(angle_j).
 *             style "half":  (x[j], x[j + R/2])  -> (x[j] c - x[j+R/2] s, x[j+R/2] c + x[j] s)
 *             style "pairs": (x[2j], x[2j + 1])  -> likewise.
 *             Every static scaling (linear, llama3, yarn) is a matter of f and mscale. Dynamic NTK
 *             depends on the length: with n = max(prompt length of the sequence, pos + 1), if
 *             max_position > 0 and n > max_position then f[j] is replaced by b^(-2j/R) where
 *             b = base * (factor * n / max_position - (factor - 1))^(R / (R - 2)).
 * hadamard    Multiplies every run of b elements of every head by the Hadamard matrix of that order, b the largest of 2^k,
 *             12 2^k, 20 2^k and 28 2^k that divides head_dim: y[i] = sum_j H[i][j] x[j] / sqrt(b), H's signs as hadamard.h has
 *             them; of a power of two they are (-1)^popcount(i & j). It is its own inverse and keeps scalar products. Engines for a cache in float8_e4m3 have it on queries and keys: what is
 *             large in one channel of keys is spread over all, and rounding them disturbs scores less.
 * reorder     y[t][i] = x[t][p[i]], bit by bit. p is int32, and every entry is from 0 to N - 1: the host checks that before a
 *             kernel reads it. Linears whose groups of columns lie scattered over their input (GPTQ with act-order) get it in
 *             front, so that the columns of a group stand together; N is never cut for ranks.
 * kv_append   Stores k[t] and v[t] of every kv head into the page and slot of row t (batch.h), in the
 *             dtype and page layout of the cache. The output orders later reads after the write.
 *             A cache of 8 bits stores x / c, rounded to nearest even and clipped to [-127, 127] (int8)
 *             or [-448, 448] (float8_e4m3); attention reads c times what is stored. c is a number per kv
 *             head, for keys and for values: tn_kv_layer::k_scale and v_scale, which the host makes from
 *             the ranges rk and rv (max |k|, max |v| over calibration data) and the cache's dtype.
 *             Of keys in float8_e4m3, mk (their means over calibration data) is subtracted first, if it is there:
 *             tn_kv_layer::k_center. Attention without softcap does not notice.
 *             fk and fv, if they are there, shape what rounding to float8_e4m3 leaves (for keys and for values of a head
 *             alike): elements are taken in runs of eight, [8 r, 8 r + 8), from the last run to the first, and with
 *             y = x / c, of x without its mean, element i of run r is stored as e4m3(t[i]), t[i] = y[i] - sum_{j >= 8 r + 8}
 *             F[j][i] * (e4m3(t[j]) - y[j]), so that errors of later runs are made good by earlier ones where queries (or the
 *             output projection) would see them. Twice more elements are taken from the last to the first, one by one, and each
 *             with F[i][i] > 0 is stored anew as e4m3(y[i] - sum_{j != i} G[i][j] * (s[j] - y[j]) / F[i][i]), s being what is
 *             stored then and G[i][j] = F[min(i, j)][max(i, j)]. An error that is not within [-448, 448] is taken as 0. A
 *             variant may leave out these two passes, may round F and errors to float16 before it multiplies them, or may
 *             round every element to the nearest instead; what a step's own attention reads of the row that it appends may be
 *             rounded either way. See tn_kv_layer::k_feedback, and kv_feedback.h.
 *             With a cache of 16 bits or more all these mean nothing.
 * attention   For head h of row t of sequence s, over cached positions j of s with
 *             max(0, pos[t] - window + 1) <= j <= pos[t] (no lower bound if window is 0):
 *             a_j = softmax_j(cap(scale * <q, k_j>)), y = sum_j a_j v_j, where k_j, v_j are of kv head
 *             h / (n_heads / n_kv_heads) and cap(a) = softcap * tanh(a / softcap) if softcap > 0.
 * silu        x / (1 + exp(-x)).   gelu: x/2 (1 + erf(x / sqrt 2)).
 * gelu_tanh   x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).   relu2: max(x, 0)^2.
 * softcap     cap * tanh(x / cap).
 * moe_route   The top_k largest of E router logits, ties to the lower index, most probable first;
 *             i int32, p float32. norm "softmax_topk": p = softmax over the chosen logits;
 *             "softmax": p = softmax over all E; "softmax_renorm": the latter divided by their sum.
 * moe_mlp     y[t] = sum_j p[t][j] * D_e (act(G_e x[t]) * (U_e x[t])), e = i[t][j] - expert_first;
 *             experts that this rank does not hold contribute 0. The three stacks are of floats, or all of int8 or all of
 *             float8_e4m3, which float32 scales of their rows follow, sG[E,I], sU[E,I], sD[E,H]; or all of int4, which scales of
 *             groups follow, [E,I,H/G], [E,I,H/G], [E,H,I/G'], and then, of all three or of none, zero points like these in int8.
 *             Row n of expert e is then s[e][n] * W[e][n][k], or s[e][n][k/G] * (W[e][n][k] - z[e][n][k/G]); the number of
 *             groups of a row divides its length and is the last dimension of its scales. Rows of x are never rounded.
 * all_reduce  Sum over the tensor-parallel group. all_gather: concatenation in rank order.
 * logits      For the L rows r of the step that want them: y = softcap(scale * (W x[r] + b)).
 * sample      Chooses one token per logits row; see tn_sample_row in batch.h for the exact procedure.
 * linear.int8 W8A8: a = act_scale, or max|x[t]| / 127 if that is 0 (dynamic, per token); q[k] =
 *             round-half-even(x[t][k] / a), clipped to [-127, 127] (all 0 if a is 0); y[t][n] =
 *             a * s[n] * float(sum_k q[k] * W[n][k]) + b[n]; the sum is exact in int32, which K <= 131072
 *             ensures. A row with NaN or infinity gives NaN.
 * linear.fp8  The same with e4m3: a = act_scale; if that is 0, the smallest power of two that is at least max|x[t]| / 448
 *             and at least 2^-126, or 0 for a row of zeros (tn_f8e4m3_step in float.h); q[k] = e4m3(x[t][k] / a), to nearest
 *             even, saturating at 448; y[t][n] = a * s[n] * sum_k q[k] * W[n][k] + b[n], the sum in float32. With a
 *             power of two the rounding of an element does not depend on the rest of its row, but for elements below
 *             2^-13 of the largest, so that parts of a row on several ranks are rounded as the whole would be.
 *             A variant may leave x unrounded, y = s[n] * sum_k x[t][k] * W[n][k] + b[n], where that costs nothing (few
 *             rows, whose time is that of reading W) or gains too little (short rows): it is more exact. Such a variant
 *             sets ::TN_VARIANT_WIDE_ROWS; if it does so because the hardware has no e4m3 arithmetic,
 *             ::TN_VARIANT_FALLBACK, too, and the host says so.
 * linear.int4 Weights only: y[t][n] = sum_k x[t][k] * s[n][k/G] * (W[n][k] - z[n][k/G]) + b[n]; z is 0
 *             without the attribute zero. K is a multiple of G.
 * logits.int8 What logits is to linear, this is to linear.int8: y = softcap(scale * linear.int8(x[r])) for the L rows r that
 *             want it, with the same steps, and the sum exact.
 * embedding.int8 What embedding is, with a matrix that logits.int8 has, too: y[t][k] = scale * s[v] * W[v][k] * m[k], v = token[t]
 *             less vocab_first. m takes back what columns were multiplied by for the sake of the output projection.
 * feed        Never in a plan. On a device that does not compute in host memory the core runs it before the first op
 *             of a step, if a kernel set of the device offers it, so that a step can be enqueued before the host knows
 *             the tokens of the step ahead: for every row t with token_row[t] >= 0, tokens[t] = max(0,
 *             sampled[token_row[t]]). Without it steps wait for the host. A variant of `embedding` (or `embedding.int8`) may do this, too
 *             (::TN_VARIANT_FEEDS), which spares a launch between two steps.
 * read        Never in a plan. Reads x, a gigabyte of any bytes, as fast as the device can; what it stores in y, if anything,
 *             hangs on every byte. It is the bandwidth that `tenon bench` holds against the time of a step.
 * dummy       Never in a plan. Makes y, part of a dummy weight, where dummy weights are asked for and y's dtype is one that
 *             the variant makes: element i of y, for i < count, is element first + i / row * stride + i % row of the
 *             weight with that seed and role (noise.h). All attributes are integers. Without it they come from the host.
 */
#ifndef TENON_OPS_H
#define TENON_OPS_H

#include "op.h"

#define TN_OP_EMBEDDING "embedding"
#define TN_OP_POSITION "position"
#define TN_OP_RMS_NORM "rms_norm"
#define TN_OP_LAYER_NORM "layer_norm"
#define TN_OP_LINEAR "linear"
#define TN_OP_ROPE "rope"
#define TN_OP_HADAMARD "hadamard"
#define TN_OP_REORDER "reorder"
#define TN_OP_KV_APPEND "kv_append"
#define TN_OP_ATTENTION "attention"
#define TN_OP_ADD "add"
#define TN_OP_MUL "mul"
#define TN_OP_SILU "silu"
#define TN_OP_GELU "gelu"
#define TN_OP_GELU_TANH "gelu_tanh"
#define TN_OP_RELU "relu"
#define TN_OP_RELU2 "relu2"
#define TN_OP_SCALE "scale"
#define TN_OP_SOFTCAP "softcap"
#define TN_OP_MOE_ROUTE "moe_route"
#define TN_OP_MOE_MLP "moe_mlp"
#define TN_OP_ALL_REDUCE "all_reduce"
#define TN_OP_ALL_GATHER "all_gather"
#define TN_OP_LOGITS "logits"
#define TN_OP_SAMPLE "sample"
#define TN_OP_LINEAR_INT8 "linear.int8"
#define TN_OP_LINEAR_FP8 "linear.fp8"
#define TN_OP_LINEAR_INT4 "linear.int4"
#define TN_OP_LOGITS_INT8 "logits.int8"
#define TN_OP_EMBEDDING_INT8 "embedding.int8"
#define TN_OP_FEED "feed"
#define TN_OP_READ "read"
#define TN_OP_DUMMY "dummy"

#endif
