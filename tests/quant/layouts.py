# SPDX-License-Identifier: Apache-2.0
"""Quantizers that write what others publish, as numpy arrays: for each matrix its tensors, and the numbers that they
stand for. The layouts are those of compressed-tensors 0.20 (compressors/naive_quantized, pack_quantized), AutoAWQ 0.2.9
(modules/linear/gemm.py), AutoGPTQ 0.7.1 (qlinear_cuda_old.py) and of vLLM's and DeepSeek's FP8; and a LLaMA in float64.
"""

import json
import os
import struct

import numpy as np

NAMES = {"float32": "F32", "float64": "F64", "float16": "F16", "int32": "I32", "int64": "I64", "int8": "I8", "uint8": "F8_E4M3"}


class BF16(np.ndarray):
    """uint16 that are bfloat16."""


def bf16(a):
    bits = np.ascontiguousarray(a, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16).view(BF16)


def read_safetensors(path):
    with open(path, "rb") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        header = json.loads(f.read(n))
        data = f.read()
    out = {}
    for name, t in header.items():
        if name == "__metadata__":
            continue
        raw = data[t["data_offsets"][0] : t["data_offsets"][1]]
        if t["dtype"] == "BF16":
            a = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            a = np.frombuffer(raw, {"F32": np.float32, "F16": np.float16, "I32": np.int32, "I64": np.int64}[t["dtype"]])
        out[name] = a.reshape(t["shape"])
    return out


def write_safetensors(path, tensors):
    """uint8 arrays are e4m3, BF16 arrays bfloat16."""
    header, at, parts = {}, 0, []
    for name, a in tensors.items():
        raw = np.ascontiguousarray(a).tobytes()
        dtype = "BF16" if isinstance(a, BF16) else NAMES[a.dtype.name]
        header[name] = {"dtype": dtype, "shape": list(a.shape), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
        parts.append(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(parts))


# -- Numbers --------------------------------------------------------------------------------------------------------


def _e4m3_values():
    e, m = np.arange(127) >> 3, np.arange(127) & 7
    return np.where(e == 0, m / 8 * 2.0**-6, (1 + m / 8) * 2.0 ** (e - 7.0))


E4M3 = _e4m3_values()


def to_e4m3(x):
    """To nearest, ties to even, saturating."""
    a = np.minimum(np.abs(x), 448.0)
    i = np.clip(np.searchsorted(E4M3, a), 1, 126)
    low, high = a - E4M3[i - 1], E4M3[i] - a
    i = np.where((low < high) | ((low == high) & ((i - 1) % 2 == 0)), i - 1, i)
    return (i | np.where(np.signbit(x), 128, 0)).astype(np.uint8)


def from_e4m3(codes):
    return np.where(codes & 128, -1.0, 1.0) * E4M3[codes & 127]


def pack(codes, order=tuple(range(8)), bits=4):
    """Codes 0..15 [..., 8 n] as int32 [..., n]; nibble i holds element order[i] of eight. Likewise of 8 bits, by four."""
    some = 32 // bits
    c = codes.astype(np.uint32).reshape(*codes.shape[:-1], -1, some)
    words = np.zeros(c.shape[:-1], np.uint32)
    for i, k in enumerate(order[:some]):
        words |= c[..., k] << np.uint32(bits * i)
    return words.view(np.int32)


# -- Eight bits: (tensors without the module's name, the matrix they stand for) -----------------------------------------


def fp8(w, spread="tensor", suffix="weight_scale", block=128):
    if spread == "block":
        n, k = w.shape
        rows, cols = -(-n // block), -(-k // block)
        scale = np.zeros((rows, cols), np.float32)
        for i in range(rows):
            for j in range(cols):
                part = w[i * block : (i + 1) * block, j * block : (j + 1) * block]
                scale[i, j] = np.abs(part).max() / 448
        full = np.repeat(np.repeat(scale, block, 0), block, 1)[:n, :k]
    else:
        most = np.abs(w).max(axis=1, keepdims=True) if spread == "row" else np.abs(w).max().reshape(1)
        scale = full = (most / 448).astype(np.float32)
    codes = to_e4m3(w / full)
    return {"weight": codes, suffix: scale}, from_e4m3(codes) * full


def int8(w, spread="row"):
    most = np.abs(w).max(axis=1, keepdims=True) if spread == "row" else np.abs(w).max().reshape(1)
    scale = (most / 127).astype(np.float32)
    codes = np.clip(np.rint(w / scale), -128, 127).astype(np.int8)
    return {"weight": codes, "weight_scale": bf16(scale) if spread == "row" else scale}, codes * (
        (bf16(scale).astype(np.uint32) << 16).view(np.float32) if spread == "row" else scale
    )


# -- Four bits ----------------------------------------------------------------------------------------------------------


def grids(w, group, symmetric, order=None, bits=4):
    """Codes 0..15 (of 8 bits: 0..255) [N, K], scales and zero points [N, K/group]; order: the group of each column."""
    half, most = 1 << (bits - 1), (1 << bits) - 1
    n, k = w.shape
    order = np.arange(k) // group if order is None else order
    groups = order.max() + 1
    scale, zero = np.zeros((n, groups), np.float16), np.full((n, groups), half)
    for g in range(groups):
        part = w[:, order == g]
        if symmetric:
            scale[:, g] = np.abs(part).max(axis=1) / (half - 1)
        else:
            low, high = np.minimum(part.min(axis=1), 0), np.maximum(part.max(axis=1), 0)
            scale[:, g] = (high - low) / most
            zero[:, g] = np.clip(np.rint(-low / scale[:, g].astype(np.float64)), 1, most)
    s, z = scale[:, order].astype(np.float64), zero[:, order]
    codes = np.clip(np.rint(w / s) + z, 0, most).astype(np.int64)
    return codes, scale, zero, (codes - z) * s


def awq(w, group=32):
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    codes, scale, zero, numbers = grids(w, w.shape[1] if group < 0 else group, False)
    return {"qweight": pack(codes.T, order), "qzeros": pack(zero.T, order), "scales": scale.T}, numbers


def gptq(w, group=32, symmetric=True, v2=False, act_order=False, with_order=True, bits=4, seed=None):
    k = w.shape[1]
    group = k if group < 0 else group
    order = np.arange(k) // group
    if act_order:
        order = np.random.default_rng(k if seed is None else seed).permutation(order)
    codes, scale, zero, numbers = grids(w, group, symmetric, order, bits)
    t = {
        "qweight": pack(codes.reshape(-1, k), bits=bits).T,
        "qzeros": pack(zero.T - (0 if v2 else 1), bits=bits),
        "scales": scale.T,
    }
    if with_order:
        t["g_idx"] = order.astype(np.int32)
    return t, numbers


def packed(w, group=32, symmetric=True, bits=4, act_order=False):
    n, k = w.shape
    order = np.random.default_rng(k).permutation(np.arange(k) // group) if act_order else None
    codes, scale, zero, numbers = grids(w, k if group < 0 else group, symmetric, order, bits)
    t = {"weight_packed": pack(codes, bits=bits), "weight_scale": scale, "weight_shape": np.array([n, k], np.int64)}
    if act_order:
        t["weight_g_idx"] = order.astype(np.int32)
    if not symmetric:
        t["weight_zero_point"] = pack(zero.T, bits=bits).T
    return t, numbers


def four_in_bytes(w, group=32, symmetric=True):
    """compressed-tensors' W4A8: codes -8..7, a byte each."""
    codes, scale, zero, numbers = grids(w, w.shape[1] if group < 0 else group, symmetric)
    t = {"weight": (codes - 8).astype(np.int8), "weight_scale": scale}
    if not symmetric:
        t["weight_zero_point"] = (zero - 8).astype(np.int8)
    return t, numbers


# -- A checkpoint ---------------------------------------------------------------------------------------------------------

PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


class Checkpoint:
    """A LLaMA whose matrices may be quantized; `numbers` is what it stands for."""

    def __init__(self, base):
        with open(os.path.join(base, "config.json"), encoding="utf-8") as f:
            self.config = json.load(f)
        self.numbers = {n: a.astype(np.float64) for n, a in read_safetensors(os.path.join(base, "model.safetensors")).items()}
        self.tensors = {n: bf16(a) for n, a in self.numbers.items()}
        self.inputs = {}  # module -> static scale of its input

    def modules(self):
        return ["model.layers.%d.%s" % (i, p) for i in range(self.config["num_hidden_layers"]) for p in PROJECTIONS]

    def quantize(self, how, modules=None, **options):
        for module in modules or self.modules():
            tensors, numbers = how(self.numbers[module + ".weight"], **options)
            del self.tensors[module + ".weight"]
            self.tensors.update({module + "." + n: a for n, a in tensors.items()})
            self.numbers[module + ".weight"] = np.asarray(numbers, np.float64)

    def static_inputs(self, ids, largest, suffix="input_scale"):
        seen = {}
        self.logits(ids, lambda module, x: (seen.__setitem__(module, np.abs(x).max()), x)[1])
        for module in self.modules():
            self.inputs[module] = np.float32(seen[module] / largest)
            self.tensors[module + "." + suffix] = np.array([self.inputs[module]], np.float32)

    def write(self, path, config):
        os.makedirs(path, exist_ok=True)
        with open(os.path.join(path, "config.json"), "w", encoding="utf-8") as f:
            json.dump({**self.config, **({"quantization_config": config} if config else {})}, f)
        write_safetensors(os.path.join(path, "model.safetensors"), self.tensors)
        return path

    def rounded(self, kind):
        """What a linear does to its input, for `logits`: "int8", "e4m3" or None."""

        def act(module, x):
            largest = 127.0 if kind == "int8" else 448.0
            static = self.inputs.get(module)
            a = np.float64(static) if static else np.abs(x).max(axis=1, keepdims=True) / largest
            if kind == "e4m3" and not static:
                a = np.exp2(np.ceil(np.log2(a)))  # steps of rows are powers of two
            q = x / a
            return a * (np.clip(np.rint(q), -127, 127) if kind == "int8" else from_e4m3(to_e4m3(q)))

        return act if kind else lambda module, x: x

    def logits(self, ids, act):
        c, w = self.config, self.numbers
        heads, kv, dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        n = len(ids)

        def norm(x, name):
            return x / np.sqrt((x * x).mean(axis=1, keepdims=True) + c["rms_norm_eps"]) * w[name + ".weight"]

        def linear(module, x):
            return act(module, x) @ w[module + ".weight"].T

        freqs = c["rope_parameters"]["rope_theta"] ** (-np.arange(0, dim, 2) / dim)
        angle = np.arange(n)[:, None] * freqs
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]

        def rope(x):
            a, b = x[..., : dim // 2], x[..., dim // 2 :]
            return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

        x = w["model.embed_tokens.weight"][ids]
        for i in range(c["num_hidden_layers"]):
            p = "model.layers.%d." % i
            h = norm(x, p + "input_layernorm")
            q = rope(linear(p + "self_attn.q_proj", h).reshape(n, heads, dim))
            k = rope(linear(p + "self_attn.k_proj", h).reshape(n, kv, dim)).repeat(heads // kv, 1)
            v = linear(p + "self_attn.v_proj", h).reshape(n, kv, dim).repeat(heads // kv, 1)
            s = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(dim)
            s = np.where(np.tri(n, dtype=bool), s, -np.inf)
            s = np.exp(s - s.max(axis=2, keepdims=True))
            a = np.einsum("hqk,khd->qhd", s / s.sum(axis=2, keepdims=True), v).reshape(n, -1)
            x = x + linear(p + "self_attn.o_proj", a)
            h = norm(x, p + "post_attention_layernorm")
            g = linear(p + "mlp.gate_proj", h)
            x = x + linear(p + "mlp.down_proj", g / (1 + np.exp(-g)) * linear(p + "mlp.up_proj", h))
        return norm(x, "model.norm") @ w["lm_head.weight"].T
