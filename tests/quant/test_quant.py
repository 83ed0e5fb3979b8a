#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Quantized engines against the model as it is: perplexity on a few windows, sizes, outliers, the gate, and files of
statistics that cannot be right.

    test_quant.py --tenon build/bin/tenon --model models/docs-7m [--quick] [CLASS[.test] ...]

Only the standard library. The whole protocol, over all windows, is bench/quant_quality.py.
"""

import array
import json
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

OPTIONS = {"tenon": None, "model": None}
# Sanitizers make arithmetic slow and learn nothing of it: with --quick they get a third of it.
QUICK = "--quick" in sys.argv
WINDOW, WINDOWS, SAMPLES = 128, 4 if QUICK else 12, 5 if QUICK else 16


def option(name):
    at = sys.argv.index("--" + name)
    OPTIONS[name] = os.path.abspath(sys.argv[at + 1])
    del sys.argv[at : at + 2]


def tenon(*args):
    return subprocess.run(
        [OPTIONS["tenon"], *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False
    )


class Safetensors:
    """A file of bfloat16 and float32 tensors, whole in memory."""

    def __init__(self, path):
        with open(path, "rb") as f:
            data = f.read()
        n = struct.unpack("<Q", data[:8])[0]
        self.header = json.loads(data[8 : 8 + n])
        self.data = bytearray(data[8 + n :])

    def write(self, path):
        text = json.dumps(self.header).encode()
        text += b" " * (-len(text) % 8)
        with open(path, "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text + self.data)

    def scale(self, name, channels, factor):
        """Multiplies entries (of a vector) or columns (of a matrix) by a power of two, exactly."""
        t = self.header[name]
        begin, end = t["data_offsets"]
        if t["dtype"] != "BF16":
            raise ValueError(t["dtype"])
        values = array.array("H", bytes(self.data[begin:end]))
        step = t["shape"][-1]
        for i in range(0, len(values), step):
            for c in channels:
                f = struct.unpack("<f", struct.pack("<I", values[i + c] << 16))[0] * factor
                values[i + c] = struct.unpack("<I", struct.pack("<f", f))[0] >> 16
        self.data[begin:end] = values.tobytes()


    def floats(self, name):
        """Rows of a matrix."""
        t = self.header[name]
        if t["dtype"] != "BF16":
            raise ValueError(t["dtype"])
        values = array.array("H", bytes(self.data[slice(*t["data_offsets"])]))
        wide = array.array("f", array.array("I", [v << 16 for v in values]).tobytes())
        return [wide[i : i + t["shape"][1]] for i in range(0, len(wide), t["shape"][1])]

    def replace(self, name, rows):
        wide = array.array("I", b"".join(r.tobytes() for r in rows))
        self.data[slice(*self.header[name]["data_offsets"])] = array.array("H", [(v + 0x8000) >> 16 for v in wide]).tobytes()

    def copy(self, name, to):
        t = self.header[name]
        data = self.data[slice(*t["data_offsets"])]
        self.header[to] = {**t, "data_offsets": [len(self.data), len(self.data) + len(data)]}
        self.data += data

    def scale_rows(self, name, rows, factor):
        """Multiplies rows of a matrix by a power of two, exactly."""
        t = self.header[name]
        begin, cols = t["data_offsets"][0], t["shape"][1]
        if t["dtype"] != "BF16":
            raise ValueError(t["dtype"])
        for r in rows:
            at = slice(begin + 2 * r * cols, begin + 2 * (r + 1) * cols)
            values = struct.unpack("<%dH" % cols, self.data[at])
            floats = [struct.unpack("<f", struct.pack("<I", v << 16))[0] * factor for v in values]
            self.data[at] = struct.pack("<%dH" % cols, *(struct.unpack("<I", struct.pack("<f", f))[0] >> 16 for f in floats))


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="tenon-quant-")
        self.addCleanup(shutil.rmtree, self.dir)
        with open(os.path.join(OPTIONS["model"], "valid_ids.u16"), "rb") as f:
            ids = f.read(2 * WINDOW * 64)
        self.eval = self.put("eval.u16", ids[: 2 * WINDOW * WINDOWS])
        self.first = ids
        self.calib = self.put("calib.u16", ids[2 * WINDOW * WINDOWS :])

    def path(self, *names):
        return os.path.join(self.dir, *names)

    def put(self, name, data):
        with open(self.path(name), "wb") as f:
            f.write(data)
        return self.path(name)

    def ok(self, *args):
        r = tenon(*args)
        self.assertEqual(r.returncode, 0, "%s\n%s%s" % (args, r.stdout, r.stderr))
        return r.stdout

    def refused(self, says, *args):
        r = tenon(*args)
        self.assertGreater(r.returncode, 0, "%s\n%s" % (args, r.stdout))
        self.assertRegex(r.stderr, says)
        return r.stderr

    def build(self, name, *options, model=None):
        self.ok("build", "--quiet", "--model", model or OPTIONS["model"], "--output", self.path(name), *options)
        return self.path(name)

    def calibrated(self):
        return ["--calib-data", self.calib, "--calib-samples", str(SAMPLES), "--calib-seq-len", str(WINDOW)]

    def perplexity(self, engine, *options, window=WINDOW):
        out = self.ok(
            "eval", "perplexity", "--engine", engine, "--ids", self.eval, "--window", str(window), "--json", *options
        )
        return json.loads(out)["perplexity"]

    def meta(self, engine):
        return json.loads(self.ok("engine", "inspect", "--json", engine))["meta"]


class Quality(Case):
    def test_each_scheme_keeps_its_promise(self):
        base = self.perplexity(self.build("base"))
        # Few predictions: the bounds are the protocol's, and the noise of so short a text.
        for scheme, bound, size in (("int8_sq", 1.01, 0.52), ("fp8", 1.01, 0.52)):
            engine = self.build(scheme, "--quant", scheme, *self.calibrated())
            self.assertLess(self.perplexity(engine) / base, bound, scheme)
            quant = self.meta(engine)["quant"]
            self.assertLess(quant["bytes"]["after"] / quant["bytes"]["before"], size, scheme)
            self.assertEqual(len(quant["calibration"]["data_sha256"]), 64)
            self.assertTrue(all(0 <= x["error"] < 0.3 for x in quant["linears"]), quant["linears"])

    def test_caches_of_8_bits(self):
        base = self.build("base")
        engine = self.build("kv", "--kv-cache-dtype", "fp8", *self.calibrated())
        plain = self.perplexity(base)
        self.assertLess(self.perplexity(engine) / plain, 1.003)
        self.assertLess(self.perplexity(engine, "--kv-cache-dtype", "int8") / plain, 1.005)
        self.assertEqual(self.meta(engine)["quant"]["cache_rounding"], "feedback")
        nearest = self.build("nearest", "--kv-cache-dtype", "fp8", "--kv-cache-rounding", "nearest", *self.calibrated())
        self.assertEqual(self.meta(nearest)["quant"]["cache_rounding"], "nearest")
        self.assertNotIn("hadamard", self.ok("engine", "plan", nearest))
        self.assertGreater(self.perplexity(nearest), self.perplexity(engine))
        self.assertLess(self.perplexity(nearest) / plain, 1.01)
        for how, more in (("both", ["--kv-cache-dtype", "fp8"]), ("nearest", ["--kv-cache-dtype", "int8"]), ("nearest", [])):
            self.refused("--kv-cache-rounding", "build", "--quiet", "--model", OPTIONS["model"], "--output", self.path("x"),
                         "--kv-cache-rounding", how, *more)
        self.assertIn("layers.5.kv.v_feedback", self.ok("engine", "inspect", "--json", "--tensors", engine))
        self.assertEqual(self.meta(engine)["kv_dtype"], "float8_e4m3")
        # What makes e4m3 good enough: queries and keys of every layer go through hadamard, which scores do not notice.
        self.assertEqual(self.ok("engine", "plan", engine).count("hadamard("), 2 * 6)
        self.assertNotIn("hadamard", self.ok("engine", "plan", self.build("int8", "--kv-cache-dtype", "int8", *self.calibrated())))
        # Matrices before and behind values are rounded once more.
        self.assertLess(abs(self.perplexity(engine, "--kv-cache-dtype", "float32") / plain - 1), 1e-3)
        self.refused("no ranges", "eval", "perplexity", "--engine", base, "--ids", self.eval, "--kv-cache-dtype", "int8")

    def test_channels_of_keys_need_not_be_alike(self):
        # Pairs of channels that a rotation mixes, up to 8 times as large and as small; scores are what they were.
        model = self.path("uneven")
        shutil.copytree(OPTIONS["model"], model)
        st = Safetensors(os.path.join(model, "model.safetensors"))
        for layer in range(6):
            for pair in range(32):
                factor = 2.0 ** (3 - pair % 7)
                for which, heads, by in (("q", 4, 1 / factor), ("k", 2, factor)):
                    name = "model.layers.%d.self_attn.%s_proj.weight" % (layer, which)
                    st.scale_rows(name, [h * 64 + i * 32 + pair for h in range(heads) for i in range(2)], by)
        st.write(os.path.join(model, "model.safetensors"))
        engine = self.build("kv", "--kv-cache-dtype", "fp8", *self.calibrated(), "--eval-data", self.eval, "--max-kl", "1",
                            model=model)
        # 0.0013 of the model as it is; 0.009, if channels were left as they are.
        self.assertLess(self.meta(engine)["quant"]["gate"]["kl"], 0.003)

    def test_values_may_all_point_one_way(self):
        # Each element of a value gets 6 times the first on top, which the output projection takes off.
        model = self.path("slanted")
        shutil.copytree(OPTIONS["model"], model)
        st = Safetensors(os.path.join(model, "model.safetensors"))
        for layer in range(6):
            name = "model.layers.%d.self_attn." % layer
            rows = st.floats(name + "v_proj.weight")
            for i in range(128):
                if i % 64:
                    rows[i] = array.array("f", [a + 6 * b for a, b in zip(rows[i], rows[i - i % 64])])
            st.replace(name + "v_proj.weight", rows)
            rows = st.floats(name + "o_proj.weight")
            for row in rows:
                for h in range(0, 256, 64):
                    row[h] -= 6 * sum(row[h + 1 : h + 64])
            st.replace(name + "o_proj.weight", rows)
        st.write(os.path.join(model, "model.safetensors"))
        engine = self.build("kv", "--kv-cache-dtype", "fp8", *self.calibrated(), "--eval-data", self.eval, "--max-kl", "100",
                            model=model)
        # 0.0013 of the model as it is; 0.048, if values were stored as they are.
        self.assertLess(self.meta(engine)["quant"]["gate"]["kl"], 0.004)

    def test_a_costly_option_is_said_to_be(self):
        r = tenon("build", "--quiet", "--model", OPTIONS["model"], "--output", self.path("x"), "--quant", "int8_sq",
                  "--quant-option", "act=tensor", *self.calibrated())
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertIn("costs much quality", r.stderr)

    def test_options_are_checked(self):
        for scheme, choice, says in (
            ("int8_sq", "alpha=2", "alpha"),
            ("int8_sq", "nonsense=1", "nonsense"),
            ("fp8", "act=loud", "act"),
            ("int4_g128", "group=17", "group"),
        ):
            self.refused(says, "build", "--quiet", "--model", OPTIONS["model"], "--output", self.path("x"), "--quant",
                         scheme, "--quant-option", choice)
        for what in ("--calib-data", "--calib-stats"):
            self.refused(what + ".*nothing is quantized", "build", "--quiet", "--model", OPTIONS["model"], "--output",
                         self.path("x"), what, self.calib)
        self.refused("no --quant", "build", "--quiet", "--model", OPTIONS["model"], "--output", self.path("x"), "--quant-option", "a=b")
        self.refused("dummy", "build", "--quiet", "--model", OPTIONS["model"], "--output", self.path("x"), "--dequantize",
                     "--load-format", "dummy")
        self.refused("calib", "build", "--quiet", "--model", OPTIONS["model"], "--output", self.path("x"), "--quant", "int8_sq")
        self.assertFalse(os.path.exists(self.path("x")))

    def test_engines_without_weights_quantize_too(self):
        for scheme in ("int8_sq", "fp8"):
            engine = self.build("dummy", "--load-format", "dummy", "--quant", scheme, "--kv-cache-dtype", "fp8")
            self.perplexity(engine, "--max-windows", "1")
            self.perplexity(engine, "--max-windows", "1", "--kv-cache-dtype", "int8")
            appends = [x for x in self.ok("engine", "plan", engine).splitlines() if "kv_append" in x]
            self.assertTrue(appends and all("kv.%s" % x in a for a in appends for x in ("k_range", "v_range", "v_feedback")), appends)


class Int4(Case):
    """int4_g128: rounding to nearest, channels scaled, and error feedback on top of it."""

    CHOICES = {"nearest": ["awq=off"], "scaled": ["feedback=off"], "feedback": [], "symmetric": ["zero=off"]}

    def test_groups_are_whole_and_scales_within_the_bound(self):
        for choices, group in (([], 64), (["--quant-option", "group=128"], 128)):
            engine = self.build("dummy", "--load-format", "dummy", "--quant", "int4_g128", *choices)
            plan = self.ok("engine", "plan", engine)
            self.assertIn("group=%d" % group, plan)

    def test_inputs_that_are_no_multiples_of_16_stay_within_the_bound(self):
        model, config = self.path("model"), os.path.join(OPTIONS["model"], "config.json")
        os.mkdir(model)
        # 12 * 58, 2 * 347, and 43 * 16, of which groups of 16 would have too many scales.
        for inputs, group in ((696, 58), (694, 694), (688, 86))[: 1 if QUICK else 3]:
            with open(config, encoding="utf-8") as f:
                fields = json.load(f)
            fields.update(intermediate_size=inputs, num_hidden_layers=1)
            self.put("model/config.json", json.dumps(fields).encode())
            engine = self.build("e%d" % inputs, "--load-format", "dummy", "--quant", "int4_g128", model=model)
            quant = self.meta(engine)["quant"]
            self.assertFalse([x for x in quant["linears"] if "kept" in x])
            self.assertLess(quant["bytes"]["after"] / quant["bytes"]["before"], 0.30)
            self.assertIn("group=%d" % group, self.ok("engine", "plan", engine))
            got = [self.perplexity(engine, "--max-windows", "1", "--kernels", k) for k in ("cpu", "reference")]
            self.assertLess(abs(got[0] / got[1] - 1), 0.01)

    def test_each_step_is_better_than_the_last(self):
        base = self.perplexity(self.build("base"))
        loss = {}
        errors = {}
        for name, choices in self.CHOICES.items():
            options = [x for c in choices for x in ("--quant-option", c)]
            engine = self.build(name, "--quant", "int4_g128", *options, *self.calibrated())
            quant = self.meta(engine)["quant"]
            self.assertLess(quant["bytes"]["after"] / quant["bytes"]["before"], 0.30)
            errors[name] = sum(x["error"] for x in quant["linears"])
            loss[name] = self.perplexity(engine) / base - 1
        self.assertLess(errors["scaled"], 0.95 * errors["nearest"])
        self.assertLess(errors["feedback"], 0.95 * errors["scaled"])
        self.assertLess(errors["symmetric"], errors["nearest"])
        self.assertLess(loss["scaled"], loss["nearest"])
        self.assertLess(loss["feedback"], loss["scaled"])

    @unittest.skipIf(QUICK, "too much arithmetic for sanitizers")
    def test_it_keeps_the_bound_of_the_protocol(self):
        with open(os.path.join(OPTIONS["model"], "valid_ids.u16"), "rb") as f:
            ids = f.read()
        # Every 25th window of the protocol's 400; calibrated with others.
        windows = [ids[i : i + 1024] for i in range(0, len(ids), 1024)]
        self.eval = self.put("windows.u16", b"".join(windows[::25]))
        calib = self.put("between.u16", b"".join(w for i, w in enumerate(windows) if i % 25 in (8, 17)))
        options = ["--calib-data", calib, "--calib-samples", "32"]
        loss = [
            self.perplexity(self.build(name, *more), window=512)
            for name, more in (("base", []), ("int4", ["--quant", "int4_g128", *options]))
        ]
        self.assertLess(loss[1] / loss[0], 1.06)

    def test_little_or_no_calibration_is_enough_and_said(self):
        none = tenon("build", "--quiet", "--model", OPTIONS["model"], "--output", self.path("none"), "--quant", "int4_g128")
        self.assertEqual(none.returncode, 0, none.stderr)
        self.assertIn("works without calibration, but less well", none.stderr)
        # Ten tokens: far fewer rows than any input has channels.
        few = self.build("few", "--quant", "int4_g128", "--calib-data", self.put("few.u16", self.first[:20]))
        stats = self.path("stats.safetensors")
        self.build("a", "--quant", "int8_sq", "--calib-data", self.calib, "--calib-samples", "4", "--calib-stats", stats)
        file = tenon("build", "--quiet", "--model", OPTIONS["model"], "--output", self.path("file"), "--quant", "int4_g128",
                     "--calib-stats", stats)
        self.assertEqual(file.returncode, 0, file.stderr)
        self.assertIn("no second moments between channels", file.stderr)
        for engine in (self.path("none"), few, self.path("file")):
            self.assertLess(self.perplexity(engine, "--max-windows", "2"), 100)


class Fallback(Case):
    """FP8 on a machine that has no arithmetic for it: a CPU."""

    def test_it_is_said_at_building_and_at_loading(self):
        r = tenon("build", "--quiet", "--model", OPTIONS["model"], "--output", self.path("e"), "--quant", "fp8", "--json")
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertRegex(r.stderr, "no arithmetic of its own for linear.fp8: weights stay FP8")
        self.assertIn("--fp8-fallback float16", r.stderr)
        self.assertEqual(json.loads(r.stdout)["fp8_fallback"], "keep")
        self.assertEqual(self.meta(self.path("e"))["passport"]["fp8_fallback"], "keep")
        r = tenon("run", "--engine", self.path("e"), "--prompt", "a", "--max-tokens", "1")
        self.assertIn("no arithmetic of its own for linear.fp8", r.stderr)
        explained = self.ok("plugin", "explain", "--engine", self.path("e"))
        self.assertRegex(explained, "no arithmetic of its own for some ops: weights stay FP8")
        self.assertRegex(explained, "in wider arithmetic")

    def test_float16_takes_its_place(self):
        for more, cache in (((), None), (("--kv-cache-dtype", "fp8", *self.calibrated()), "float8_e4m3")):
            engine = self.build("e", "--quant", "fp8", "--fp8-fallback", "float16", *more)
            meta = self.meta(engine)
            self.assertEqual(meta["dtype"], "float16")
            self.assertEqual(meta["passport"]["fp8_fallback"], "float16")
            self.assertEqual(meta["kv_dtype"], cache)
            self.assertNotIn("linear.fp8", self.ok("engine", "plan", engine))
            self.assertLess(self.perplexity(engine) / self.perplexity(self.build("base")), 1.005)

    def test_it_needs_no_fallback_where_every_op_is_native(self):
        engine = self.build("e", "--quant", "fp8", "--fp8-fallback", "float16", "--kernels", "reference")
        self.assertNotIn("fp8_fallback", self.meta(engine)["passport"])
        self.assertIn("linear.fp8", self.ok("engine", "plan", engine))
        self.refused("--fp8-fallback", "build", "--quiet", "--model", OPTIONS["model"], "--output", self.path("x"), "--quant",
                     "fp8", "--fp8-fallback", "bfloat16")


class Outliers(Case):
    """Channels 128 times as large in two layers, by a norm and the matrices behind it: the same function."""

    def model(self):
        path = self.path("outliers")
        shutil.copytree(OPTIONS["model"], path)
        file = os.path.join(path, "model.safetensors")
        s = Safetensors(file)
        for layer, channels in ((1, (3, 77, 130)), (4, (8, 200))):
            prefix = "model.layers.%d." % layer
            s.scale(prefix + "input_layernorm.weight", channels, 128.0)
            for matrix in ("q", "k", "v"):
                s.scale(prefix + "self_attn.%s_proj.weight" % matrix, channels, 1 / 128.0)
            s.scale(prefix + "post_attention_layernorm.weight", channels, 128.0)
            for matrix in ("gate", "up"):
                s.scale(prefix + "mlp.%s_proj.weight" % matrix, channels, 1 / 128.0)
        s.write(file)
        return path

    def test_smoothing_moves_them_into_the_weights(self):
        model = self.model()
        base = self.perplexity(self.build("base", model=model))
        smooth = self.perplexity(self.build("smooth", "--quant", "int8_sq", *self.calibrated(), model=model))
        rough = self.perplexity(self.build("rough", "--quant", "int8_sq", "--quant-option", "smooth=off", model=model))
        self.assertLess(smooth / base, 1.02)
        self.assertGreater(rough, smooth)


class AnyHead(Case):
    """Output projections of a copy of the model."""

    def setUp(self):
        super().setUp()
        self.model = self.path("changed")
        shutil.copytree(OPTIONS["model"], self.model)

    def change(self, how):
        file = os.path.join(self.model, "model.safetensors")
        s = Safetensors(file)
        how(s)
        s.write(file)

    def head(self, engine):
        return [x for x in self.meta(engine)["quant"]["linears"] if x["name"] == "head.weight"]

    def read_by(self, engine, op):
        """Ops of that name, and the matrices that they read."""
        lines = [x.split(" = ")[1] for x in self.ok("engine", "plan", engine).splitlines() if " = " + op in x]
        return [re.match(r"([a-z0-9.]+)\((?:v\d+, )?([a-z_.]+)", x).groups() for x in lines]

    def logits(self, engine):
        return self.read_by(engine, "logits")

    def embedding(self, engine):
        return self.read_by(engine, "embedding")


class Heads(AnyHead):
    """With a matrix of their own: a copy of the one that the model shares with its embeddings."""

    def setUp(self):
        super().setUp()
        self.change(lambda s: s.copy("model.embed_tokens.weight", "lm_head.weight"))
        with open(os.path.join(self.model, "config.json"), "r+", encoding="utf-8") as f:
            fields = {**json.load(f), "tie_word_embeddings": False}
            f.seek(0)
            f.truncate()
            json.dump(fields, f)

    def test_int8_takes_them_and_ranks_agree(self):
        base = self.perplexity(self.build("base", model=self.model))
        engine = self.build("int8", "--quant", "int8_sq", *self.calibrated(), model=self.model)
        (head,) = self.head(engine)
        self.assertEqual((head["op"], head["smoothed"]), ("logits.int8", True))
        self.assertTrue(0 < head["error"] < 0.03, head)
        self.assertEqual(self.logits(engine), [("logits.int8", "head.weight.qweight")])
        got = self.perplexity(engine)
        self.assertLess(got / base, 1.01)
        # Linears whose columns ranks share round their parts of rows, each by its own largest element; of this one they share the rows.
        self.assertLess(abs(self.perplexity(engine, "--tp-size", "2") / got - 1), 1e-2)
        self.assertLess(abs(self.perplexity(engine, "--kernels", "reference", window=16) / self.perplexity(engine, window=16) - 1), 1e-3)

    def test_others_stay(self):
        whole = self.build("off", "--quant", "int8_sq", "--quant-option", "head=off", *self.calibrated(), model=self.model)
        self.assertRegex(self.head(whole)[0]["kept"], "head=off")
        other = self.build("fp8", "--quant", "fp8", *self.calibrated(), model=self.model)
        for engine in (whole, other):
            self.assertEqual(self.logits(engine), [("logits", "head.weight")])
        self.assertEqual(self.head(other), [])

    def test_statistics_of_a_scheme_that_leaves_them_serve(self):
        stats = self.path("stats.safetensors")
        self.build("fp8", "--quant", "fp8", *self.calibrated(), "--calib-stats", stats, model=self.model)
        read = self.build("read", "--quant", "int8_sq", "--calib-stats", stats, model=self.model)
        seen = self.build("seen", "--quant", "int8_sq", *self.calibrated(), model=self.model)
        self.assertEqual(self.head(read), self.head(seen))

    def test_smoothing_moves_outliers_into_them(self):
        def uneven(s):
            s.scale("model.norm.weight", (3, 77, 130), 128.0)
            s.scale("lm_head.weight", (3, 77, 130), 1 / 128.0)

        self.change(uneven)
        errors = [
            self.head(self.build(name, "--quant", "int8_sq", "--quant-option", "smooth=" + name, *self.calibrated(), model=self.model))[0][
                "error"
            ]
            for name in ("on", "off")
        ]
        self.assertLess(errors[0], 0.05)
        self.assertGreater(errors[1], 2 * errors[0])


class SharedHeads(AnyHead):
    """With the matrix of the embeddings, which read what int8 makes of it, if it is even enough."""

    def uneven(self, s):
        """Three channels of what the last norm leaves are large, and columns of the matrix small, but for a row."""
        s.scale("model.norm.weight", (3, 77, 130), 128.0)
        before = s.floats("model.embed_tokens.weight")
        s.scale("model.embed_tokens.weight", (3, 77, 130), 1 / 128.0)
        s.replace("model.embed_tokens.weight", before[:1] + s.floats("model.embed_tokens.weight")[1:])

    def test_embeddings_read_what_int8_makes_of_it(self):
        base = self.build("base")
        engine = self.build("int8", "--quant", "int8_sq", *self.calibrated())
        whole = self.build("off", "--quant", "int8_sq", "--quant-option", "head=off", *self.calibrated())
        (head,) = self.head(engine)
        self.assertEqual((head["op"], head["smoothed"], head["embedding"]), ("logits.int8", True, "embedding.int8"))
        self.assertTrue(0 < head["error"] < 0.03, head)
        self.assertEqual(self.logits(engine), [("logits.int8", "head.weight.qweight")])
        self.assertEqual(self.embedding(engine), [("embedding.int8", "head.weight.qweight")])
        self.assertEqual(self.logits(whole), self.logits(base))
        self.assertEqual(self.embedding(whole), [("embedding", "embed.weight")])
        self.assertEqual(self.logits(base), [("logits", "embed.weight")])
        self.assertRegex(self.head(whole)[0]["kept"], "head=off")
        # Linears alone are counted; of the file, half of the embeddings is left.
        meta = [self.meta(e) for e in (engine, whole)]
        self.assertEqual(*(m["quant"]["bytes"] for m in meta))
        size = [os.path.getsize(os.path.join(e, "model.engine")) for e in (engine, whole)]
        self.assertLess(abs(size[1] - size[0] - 8192 * (256 - 4)), 8192)
        got = self.perplexity(engine)
        self.assertLess(got / self.perplexity(base), 1.01)
        for ranks in (["--tp-size", "2"], ["--pp-size", "2"]):
            self.assertLess(abs(self.perplexity(engine, *ranks) / got - 1), 1e-2)
        self.assertLess(abs(self.perplexity(engine, "--kernels", "reference", window=16) / self.perplexity(engine, window=16) - 1), 4e-3)

    def test_other_schemes_leave_it_shared(self):
        engine = self.build("fp8", "--quant", "fp8")
        self.assertEqual(self.logits(engine) + self.embedding(engine), [("logits", "embed.weight"), ("embedding", "embed.weight")])
        self.assertEqual(self.head(engine), [])

    def test_a_model_without_weights_and_one_with_scaled_embeddings(self):
        dummy = self.build("dummy", "--load-format", "dummy", "--quant", "int8_sq")
        self.assertEqual(self.embedding(dummy), [("embedding.int8", "head.weight.qweight")])
        gemma = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "models", "gemma2")
        ids = ["--calib-data", self.put("ids.u16", struct.pack("<64H", *(7 * i % 500 + 3 for i in range(64)))), "--calib-seq-len", "32"]
        base, engine = [self.build(name, *options, model=gemma) for name, options in (("b", []), ("q", ["--quant", "int8_sq", *ids]))]
        self.assertEqual(self.embedding(engine), [("embedding.int8", "head.weight.qweight")])
        loss = [math.log(json.loads(self.ok("eval", "perplexity", "--engine", e, "--ids", ids[1], "--window", "32", "--json"))["perplexity"])
                for e in (base, engine)]
        self.assertLess(abs(loss[1] / loss[0] - 1), 0.01)

    def test_statistics_of_a_scheme_that_leaves_it_serve(self):
        stats = self.path("stats.safetensors")
        self.build("fp8", "--quant", "fp8", *self.calibrated(), "--calib-stats", stats)
        read = self.build("read", "--quant", "int8_sq", "--calib-stats", stats)
        seen = self.build("seen", "--quant", "int8_sq", *self.calibrated())
        self.assertEqual(self.head(read), self.head(seen))

    def test_raised_it_is_shared_again(self):
        self.change(self.uneven)
        base = self.build("base", model=self.model)
        # By columns alone nothing is smoothed that one row has large.
        options = ["--quant", "int8_sq", "--quant-option", "alpha=0", *self.calibrated(), "--eval-data", self.eval]
        loose = self.build("loose", *options, "--max-kl", "10", model=self.model)
        (head,) = self.head(loose)
        gate = self.meta(loose)["quant"]["gate"]
        self.assertTrue(head["smoothed"])
        self.assertGreater(head["error"], 0.05)
        # Its columns are too uneven for embeddings.
        self.assertNotIn("embedding", head)
        self.assertEqual(self.logits(loose), [("logits.int8", "head.weight.qweight")])
        self.assertEqual(self.embedding(loose), [("embedding", "embed.weight")])
        engine = self.build("tight", *options, "--max-kl", str(gate["kl"] / 2), model=self.model)
        self.assertRegex(self.head(engine)[0]["kept"], "raised by the gate")
        self.assertNotIn("smoothed", self.head(engine)[0])
        self.assertEqual(self.logits(engine), self.logits(base))
        self.assertEqual(self.embedding(engine), self.embedding(base))
        # What the last norm leaves is divided no more: else it would be far from the model.
        self.assertLess(self.perplexity(engine) / self.perplexity(base), 1.5)


class Experts(Case):
    """Matrices of experts, with the scheme of the linears."""

    def setUp(self):
        super().setUp()
        self.model = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "models", "mixtral")
        ids = array.array("H", (i * i * 31 % 509 for i in range(3 * WINDOW)))
        self.eval = self.put("eval.u16", ids[:WINDOW].tobytes())
        self.calib = self.put("calib.u16", ids[WINDOW:].tobytes())

    def calibrated(self):
        return ["--calib-data", self.calib, "--calib-samples", "2", "--calib-seq-len", "64"]

    def plan(self, engine):
        return [x for x in self.ok("engine", "plan", engine).splitlines() if "moe_mlp" in x]

    def test_each_scheme_takes_them_and_ranks_agree(self):
        base = self.perplexity(self.build("base", model=self.model))
        # Half of the 352 columns of down are 5 groups of 32 and a half.
        for scheme, bound, more in (("int8_sq", 0.005, []), ("fp8", 0.01, []), ("int4_g128", 0.06, ["--quant-option", "group=32"])):
            engine = self.build(scheme, "--quant", scheme, *self.calibrated(), *more, model=self.model)
            quant = self.meta(engine)["quant"]
            experts = [x for x in quant["linears"] if x.get("op") == "moe_mlp"]
            self.assertEqual(len(experts), 9, scheme)
            self.assertTrue(all(0 < x["error"] < 0.2 for x in experts), experts)
            self.assertFalse(quant["left"])
            got = self.perplexity(engine)
            self.assertLess(abs(got / base - 1), bound, scheme)
            # Ranks of linear.int8 round their parts of rows, each by its own largest element.
            apart = 5e-3 if scheme == "int8_sq" else 1e-4
            self.assertLess(abs(self.perplexity(engine, "--tp-size", "2") / got - 1), apart, scheme)

    def test_weights_stay_within_the_bound(self):
        with open(os.path.join(self.model, "config.json"), encoding="utf-8") as f:
            fields = json.load(f)
        fields.update(hidden_size=256, intermediate_size=704, num_hidden_layers=1)
        os.mkdir(self.path("model"))
        self.put("model/config.json", json.dumps(fields).encode())
        for scheme, bound, stacks in (("int8_sq", 0.52, 6), ("fp8", 0.52, 6), ("int4_g128", 0.30, 9)):
            engine = self.build(scheme, "--load-format", "dummy", "--quant", scheme, model=self.path("model"))
            size = self.meta(engine)["quant"]["bytes"]
            self.assertLess(size["after"] / size["before"], bound, scheme)
            self.assertEqual([x.count("moe.") for x in self.plan(engine)], [stacks], scheme)
            self.perplexity(engine, "--max-windows", "1")

    def uneven(self):
        """A model whose experts make channels of very unlike size for down, and data that say so."""
        shutil.copytree(self.model, self.path("uneven"))
        path = self.path("uneven", "model.safetensors")
        os.chmod(path, 0o644)
        s = Safetensors(path)
        for name in s.header:
            if name.endswith("w3.weight"):
                s.scale_rows(name, range(3, s.header[name]["shape"][0], 8), 16.0)
        s.write(path)
        ids = array.array("H", (i * i * 31 % 509 for i in range(40 * WINDOW)))
        return self.path("uneven"), ["--calib-data", self.put("many.u16", ids.tobytes()), "--calib-samples", "40", "--calib-seq-len", str(WINDOW)]

    def errors(self, engine):
        return [x["error"] for x in self.meta(engine)["quant"]["linears"] if x["name"].endswith("moe.down.weight")]

    def test_down_is_rounded_by_what_it_reads(self):
        model, data = self.uneven()
        stats = self.path("stats.safetensors")
        for scheme, gain in (("int4_g128", 0.93), ("int8_sq", 1.02)):
            known = self.errors(self.build("known", "--quant", scheme, *data, "--calib-stats", stats, model=model))
            # The same statistics, less those of what down reads: as if no row had been routed to any expert.
            s = Safetensors(stats)
            own = [n for n, t in s.header.items() if n.endswith("/rows") and ".moe.down.weight." in n]
            self.assertEqual(len(own), 3 * 4)
            for name in own:
                begin = s.header[name]["data_offsets"][0]
                self.assertGreater(struct.unpack("<q", s.data[begin : begin + 8])[0], 0)
                s.data[begin : begin + 8] = bytes(8)
            kept = ("/hessian", "/histogram")
            s.header = {n + ".left" if ".moe.down." in n and n.endswith(kept) else n: t for n, t in s.header.items()}
            s.write(self.path("less.safetensors"))
            r = tenon("build", "--model", model, "--output", self.path("unknown"), "--quant", scheme, "--calib-stats", self.path("less.safetensors"))
            self.assertEqual(r.returncode, 0, r.stderr)
            self.assertRegex(r.stderr, "12 of 12 experts were chosen by no row")
            unknown = self.errors(self.path("unknown"))
            self.assertLess(sum(known), gain * sum(unknown), (scheme, known, unknown))

    def test_statistics_of_experts_come_back_from_the_file(self):
        model, data = self.uneven()
        stats = self.path("stats.safetensors")
        for scheme in ("int4_g128",) if QUICK else ("int4_g128", "fp8", "int8_sq"):
            engines = [
                self.build("data", "--quant", scheme, *data, model=model),
                self.build("saved", "--quant", scheme, *data, "--calib-stats", stats, model=model),
                self.build("read", "--quant", scheme, "--calib-stats", stats, model=model),
            ]
            for e in engines[1:]:
                differences = json.loads(self.ok("engine", "diff", "--json", engines[0], e))
                self.assertFalse([d for d in differences if d["what"].startswith(("layers", "op"))], scheme)
                self.assertEqual(self.errors(e), self.errors(engines[0]), scheme)

    def test_few_rows_round_like_none(self):
        # One token: all but two experts of each layer see nothing, those two a single row.
        model, _ = self.uneven()
        one = ["--calib-data", self.put("one.u16", struct.pack("<2H", 7, 7)), "--calib-samples", "1"]
        few = self.errors(self.build("few", "--quant", "int4_g128", *one, model=model))
        none = self.errors(self.build("none", "--quant", "int4_g128", *one, "--quant-option", "feedback=off", model=model))
        self.assertTrue(all(a < 1.2 * b for a, b in zip(few, none)), (few, none))

    def test_all_of_an_op_are_raised_together(self):
        options = ["--quant", "int8_sq", *self.calibrated(), "--eval-data", self.eval, "--eval-samples", "1"]
        kl = self.meta(self.build("loose", *options, "--max-kl", "1", model=self.model))["quant"]["gate"]["kl"]
        engine = self.build("tight", *options, "--max-kl", str(kl * 0.95), model=self.model)
        linears = self.meta(engine)["quant"]["linears"]
        for layer in range(3):
            kept = ["kept" in x for x in linears if ".moe.router" not in x["name"] and x["name"].startswith("layers.%d.moe" % layer)]
            self.assertIn(kept, ([True] * 3, [False] * 3))
        raised = [x for x in linears if "raised" in x.get("kept", "") and ".moe." in x["name"] and "router" not in x["name"]]
        self.assertTrue(raised, linears)
        # What was smoothed in front of them they undo, as full matrices do.
        base = self.perplexity(self.build("base", model=self.model))
        self.assertLess(abs(self.perplexity(engine) / base - 1), 0.005)


class Gate(Case):
    def gated(self, name, *limits):
        return tenon("build", "--quiet", "--model", OPTIONS["model"], "--output", self.path(name), "--quant", "fp8",
                     "--eval-data", self.eval, "--eval-samples", "4", *limits)

    def test_worst_linears_are_raised_until_it_holds(self):
        loose = self.gated("loose", "--max-ppl-increase", "1.0", "--max-kl", "1.0")
        self.assertEqual(loose.returncode, 0, loose.stderr)
        gate = self.meta(self.path("loose"))["quant"]["gate"]
        self.assertGreater(gate["perplexity"], 1)
        self.assertGreater(gate["kl"], 0)
        limit = gate["kl"] * 0.8
        tight = self.gated("tight", "--max-kl", str(limit))
        self.assertEqual(tight.returncode, 0, tight.stderr)
        quant = self.meta(self.path("tight"))["quant"]
        raised = [x for x in quant["linears"] if "raised" in x.get("kept", "")]
        self.assertTrue(raised)
        self.assertLessEqual(quant["gate"]["kl"], limit)
        self.perplexity(self.path("tight"), "--max-windows", "1")

    def test_a_build_that_cannot_hold_fails_with_the_table(self):
        r = self.gated("never", "--max-kl", "1e-9")
        self.assertGreater(r.returncode, 0)
        self.assertRegex(r.stderr, r"(?m)^.*  layers\.0\.attn\.q\.weight +0\.\d{4} \S+.*$")
        self.assertRegex(r.stderr, r"--max-kl: .* with \d+ of 42 quantized linears at full precision")
        self.assertFalse(os.path.exists(self.path("never")))

    def test_a_cache_of_8_bits_alone_is_gated_too(self):
        cache = ["--kv-cache-dtype", "int8", *self.calibrated(), "--eval-data", self.eval, "--eval-samples", "2"]
        self.refused("--max-kl: perplexity is", "build", "--quiet", "--model", OPTIONS["model"], "--output", self.path("x"), *cache,
                     "--max-kl", "1e-12")
        self.assertGreater(self.meta(self.build("e", *cache, "--max-kl", "1"))["quant"]["gate"]["kl"], 0)

    def test_it_is_not_skipped_in_silence(self):
        for more in ([], ["--load-format", "dummy", "--quant", "fp8"]):
            self.refused("--eval-data.*nothing to compare", "build", "--quiet", "--model", OPTIONS["model"], "--output", self.path("x"),
                         "--eval-data", self.eval, "--max-kl", "1", *more)

    def test_limits_need_data(self):
        self.refused("--eval-data", "build", "--quiet", "--model", OPTIONS["model"], "--output", self.path("x"), "--quant",
                     "fp8", "--max-kl", "0.1")


class Calibration(Case):
    def test_statistics_are_saved_and_read(self):
        stats = self.path("stats.safetensors")
        a = self.build("a", "--quant", "int8_sq", *self.calibrated(), "--calib-stats", stats)
        b = self.build("b", "--quant", "int8_sq", "--calib-stats", stats)
        digest = self.meta(a)["quant"]["calibration"]["data_sha256"]
        for engine in (a, b):
            self.assertEqual(self.meta(engine)["passport"]["calibration_sha256"], digest)
        differences = json.loads(self.ok("engine", "diff", "--json", a, b))
        self.assertFalse([d for d in differences if d["what"].startswith(("layers", "op"))], differences)

    def test_a_build_from_saved_statistics_makes_the_same_engine(self):
        # fp8 wants many rows for feedback; a cache has tables that come from products.
        data = ["--calib-data", self.calib, "--calib-samples", "5" if QUICK else "36", "--calib-seq-len", str(WINDOW)]
        stats = self.path("stats.safetensors")
        for scheme, more in ((("int4_g128", []),) if QUICK else (("int4_g128", []), ("fp8", ["--kv-cache-dtype", "fp8"]))):
            options = ["--quant", scheme, *more]
            engines = [
                self.build("data", *options, *data),
                self.build("saved", *options, *data, "--calib-stats", stats),
                self.build("read", *options, "--calib-stats", stats),
                self.build("nearest", *options, "--calib-stats", stats, "--quant-option", "feedback=off"),
            ]
            same = [
                [d for d in json.loads(self.ok("engine", "diff", "--json", engines[0], e)) if d["what"].startswith(("layers", "op"))]
                for e in engines[1:]
            ]
            self.assertEqual(same[:2], [[], []], scheme)
            reports = [[x["error"] for x in self.meta(e)["quant"]["linears"]] for e in engines[:3]]
            self.assertEqual(reports[1:], [reports[0]] * 2)
            self.assertTrue(same[2], "feedback makes no difference: nothing was compared")

    def test_statistics_of_one_scheme_serve_another(self):
        stats = self.path("stats.safetensors")
        self.build("a", "--quant", "fp8", *self.calibrated(), "--calib-stats", stats)
        self.build("b", "--quant", "int8_sq", "--quant-option", "alpha=search", "--calib-stats", stats)
        self.build("c", "--quant", "int4_g128", "--kv-cache-dtype", "int8", "--calib-stats", stats)

    def test_statistics_of_another_model_are_refused(self):
        stats, other = self.path("stats.safetensors"), self.path("other")
        self.build("a", "--quant", "int8_sq", *self.calibrated(), "--calib-stats", stats)
        shutil.copytree(OPTIONS["model"], other)
        # Another norm; or, as after training of matrices alone, one other matrix.
        for name, channels in (("input_layernorm", [7]), ("mlp.up_proj", range(256))):
            s = Safetensors(os.path.join(OPTIONS["model"], "model.safetensors"))
            s.scale("model.layers.3.%s.weight" % name, channels, 2.0)
            s.write(os.path.join(other, "model.safetensors"))
            self.refused("stats.safetensors.*of another.*--calib-data", "build", "--quiet", "--model", other, "--output",
                         self.path("x"), "--quant", "int8_sq", "--calib-stats", stats)

    def test_ids_that_the_model_does_not_have_are_named_with_their_file(self):
        for name, ids in (("bad.u16", struct.pack("<4H", 5, 6, 9000, 7)), ("bad.i32", struct.pack("<3i", 5, 6, -1))):
            for data, more in (("--calib-data", []), ("--eval-data", ["--max-kl", "1"])):
                self.refused("%s.*%s.*token 2 is" % (name, data), "build", "--quiet", "--model", OPTIONS["model"], "--output",
                             self.path("x"), "--quant", "fp8", data, self.put(name, ids), *more)

    def test_sequences_longer_than_prompts_may_be_become_several(self):
        limits = ["--max-input-len", "32", "--max-output-len", "32"]
        engine = self.build("e", "--quant", "fp8", *self.calibrated(), "--eval-data", self.eval, "--eval-samples", "2", "--max-kl", "1",
                            *limits)
        quant = self.meta(engine)["quant"]
        self.assertEqual(quant["calibration"]["tokens"], SAMPLES * WINDOW)
        self.assertEqual(quant["gate"]["targets"], 2 * (WINDOW - WINDOW // 32))

    def test_texts_are_tokenized(self):
        lines = b"".join(b'{"text": "The tenon fits the mortise %d times."}\n' % i for i in range(40))
        engine = self.build("text", "--quant", "fp8", "--calib-data", self.put("c.jsonl", lines))
        self.assertGreater(self.meta(engine)["quant"]["calibration"]["tokens"], 300)
        for bad in (b"{}\n", b'{"text": 3}\n', b"{\n", b""):
            self.refused("bad.jsonl", "build", "--quiet", "--model", OPTIONS["model"], "--output", self.path("x"), "--quant",
                         "fp8", "--calib-data", self.put("bad.jsonl", bad))
        for flag in ("--calib-data", "--eval-data"):
            self.refused("bad.txt.*offset 9.*0xff is not UTF-8.*plain text", "build", "--quiet", "--model", OPTIONS["model"], "--output",
                         self.path("x"), "--quant", "fp8", "--max-kl", "1", "--eval-data", self.eval, flag,
                         self.put("bad.txt", b"The tenon\xff\x00"))

    def test_hostile_statistics_are_refused(self):
        stats = self.path("stats.safetensors")
        self.build("a", "--quant", "int4_g128", *self.calibrated()[:3], "2", "--calib-seq-len", "32", "--calib-stats", stats)
        for damage, says in (
            ("hessian", "second moments is not finite"), ("hessian of less", "lower triangle"), ("hessian_rows", "rows"),
            ("absmax", "finite"), ("squares", "finite"), ("sums", "finite"), ("sample", "not finite"), ("rows", "0 rows"),
            ("products", "not finite"), ("squares of heads", "must be squares"),
            ("histogram", "counts of"), ("base", "base of its histogram"), ("shape", "must have"),
            ("short", "safetensors|must be|incomplete"), ("lost", "no statistics|incomplete"), ("sha256", "no digest"),
            ("first", "data/first.*token 0 is 1048576"),
        ):
            s = Safetensors(stats)
            of = "kv.0.q/absmax" if "products" in damage or "heads" in damage else "q.weight/absmax"
            name = next(n for n in s.header if n.endswith(of))
            other = "data/" + damage if damage in ("sha256", "first") else name.replace("absmax", damage)
            begin = s.header.get(other, s.header[name])["data_offsets"][0]
            if damage in ("absmax", "sample", "hessian"):
                s.data[begin : begin + 4] = struct.pack("<f", float("nan"))
            elif damage in ("squares", "sums", "products"):
                s.data[begin : begin + 8] = struct.pack("<d", float("inf"))
            elif damage in ("rows", "base", "hessian_rows"):
                s.data[begin : begin + 8] = struct.pack("<q", 0 if damage == "rows" else 1 << 40)
            elif damage == "hessian of less":
                t = s.header[name.replace("absmax", "hessian")]
                t["dtype"], t["shape"] = "F16", [2 * t["shape"][0]]
            elif damage == "histogram":
                s.data[begin : begin + 4] = struct.pack("<i", -1)
            elif damage == "first":
                s.data[begin : begin + 4] = struct.pack("<i", 1 << 20)
            elif damage == "sha256":
                s.data[begin : begin + 4] = b"xyz!"
            elif damage == "squares of heads":
                s.header[name.replace("absmax", "products")]["shape"].reverse()
            elif damage == "shape":
                s.header[name]["shape"] = [2, s.header[name]["shape"][0] // 2]
            elif damage == "short":
                del s.data[-4:]
            else:
                s.header = {n.replace("layers.0.attn.q", "layers.9.attn.q"): t for n, t in s.header.items()}
            s.write(self.path("bad.safetensors"))
            self.refused(says, "build", "--quiet", "--model", OPTIONS["model"], "--output", self.path("x"), "--quant",
                         "int4_g128", "--calib-stats", self.path("bad.safetensors"))


if __name__ == "__main__":
    sys.argv = [a for a in sys.argv if a != "--quick"]
    option("tenon")
    option("model")
    unittest.main(verbosity=2)
