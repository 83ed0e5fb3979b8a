#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that others quantized, read as they come: the logits of their engines against a LLaMA in float64 that has the
numbers which the files stand for, and files that cannot be right. Needs numpy.

    test_formats.py --tenon build/bin/tenon --model tests/models/llama-gqa [CLASS[.test] ...]
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import layouts
import numpy as np

OPTIONS = {"tenon": None, "model": None}
IDS = np.random.default_rng(5).integers(3, 500, 24)


def option(name):
    at = sys.argv.index("--" + name)
    OPTIONS[name] = os.path.abspath(sys.argv[at + 1])
    del sys.argv[at : at + 2]


def tenon(*args):
    return subprocess.run([OPTIONS["tenon"], *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)


def compressed(form, weights, inputs=None, **more):
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        **more,
    }


def args8(kind, strategy, dynamic=False, **more):
    return {"num_bits": 8, "type": kind, "symmetric": True, "strategy": strategy, "dynamic": dynamic, **more}


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm", "modules_to_not_convert": None}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, "desc_act": False, "checkpoint_format": "gptq"}


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="tenon-formats-")
        self.addCleanup(shutil.rmtree, self.dir)
        self.checkpoint = layouts.Checkpoint(OPTIONS["model"])
        layouts.write_safetensors(self.path("ids.safetensors"), {"input_ids": IDS.astype(np.int64)})

    def path(self, *names):
        return os.path.join(self.dir, *names)

    def ok(self, *args):
        r = tenon(*args)
        self.assertEqual(r.returncode, 0, "%s\n%s%s" % (args, r.stdout, r.stderr))
        return r.stdout

    def build(self, config, *options, name="engine"):
        model = self.checkpoint.write(self.path("model"), config)
        self.ok("build", "--quiet", "--model", model, "--output", self.path(name), "--dtype", "float32", *options)
        return self.path(name)

    def logits(self, engine, kernels, *options):
        out = self.path("logits.safetensors")
        self.ok("eval", "logits", "--engine", engine, "--ids", self.path("ids.safetensors"), "--out", out, "--kernels", kernels,
                *options)
        return layouts.read_safetensors(out)["logits"].astype(np.float64)

    def meta(self, engine):
        return json.loads(self.ok("engine", "inspect", "--json", engine))["meta"]

    def assertClose(self, engine, kernels, act, tolerance, *options):
        want = self.checkpoint.logits(IDS, self.checkpoint.rounded(act))
        got = self.logits(engine, kernels, *options)
        errors = np.sqrt(((got - want) ** 2).mean(axis=1) / (want**2).mean())
        self.assertLess(np.sqrt((errors**2).mean()), tolerance, "%s %s" % (kernels, act))
        return errors

    def ops(self, engine):
        return {x.get("op", x.get("kept")) for x in self.meta(engine)["quant"]["linears"]}

    def check(self, config, op, act):
        """Both kernel sets; then widened. A rounded input may fall to the other side of a step, and from that position on
        logits differ as much as rounding costs: the best position must be right, the others near."""
        engine = self.build(config)
        loose = {None: 1e-5, "int8": 0.02, "e4m3": 0.12}
        self.assertEqual(self.ops(engine), {op})
        errors = self.assertClose(engine, "reference", act, loose[act])
        self.assertLess(errors.min(), 1e-3)
        wide = None if act == "e4m3" else act  # FP8 inputs stay as they are on a CPU
        # That of int4 rounds inputs to 16 bits.
        self.assertClose(engine, "cpu,reference", wide, 1e-3 if op == "linear.int4" else loose[wide])
        widened = self.build(config, "--dequantize", name="widened")
        self.assertNotIn("quant", self.meta(widened))
        self.assertEqual(self.meta(widened)["passport"]["quant_method"], config["quant_method"])
        self.assertClose(widened, "cpu", None, 1e-5)
        return engine


class Eight(Case):
    def test_compressed_fp8_per_tensor_static(self):
        self.checkpoint.quantize(layouts.fp8)
        self.checkpoint.static_inputs(IDS, 448)
        self.check(compressed("float-quantized", args8("float", "tensor"), args8("float", "tensor")), "linear.fp8", "e4m3")

    def test_compressed_fp8_per_channel_dynamic(self):
        self.checkpoint.quantize(layouts.fp8, spread="row")
        config = compressed("float-quantized", args8("float", "channel"), args8("float", "token", True))
        self.check(config, "linear.fp8", "e4m3")

    def test_compressed_int8_per_channel_dynamic(self):
        self.checkpoint.quantize(layouts.int8)
        config = compressed("int-quantized", args8("int", "channel"), args8("int", "token", True))
        self.check(config, "linear.int8", "int8")

    def test_compressed_int8_per_tensor_static(self):
        self.checkpoint.quantize(layouts.int8, spread="tensor")
        self.checkpoint.static_inputs(IDS, 127)
        self.check(compressed("int-quantized", args8("int", "tensor"), args8("int", "tensor")), "linear.int8", "int8")

    def test_ignored_modules_stay_and_groups_have_targets(self):
        layer0 = [m for m in self.checkpoint.modules() if ".layers.0." in m]
        mlps = [m for m in self.checkpoint.modules() if ".mlp." in m and m not in layer0]
        attention = [m for m in self.checkpoint.modules() if ".self_attn." in m and m not in layer0]
        self.checkpoint.quantize(layouts.fp8, modules=mlps, spread="row")
        self.checkpoint.quantize(layouts.int8, modules=attention)
        config = compressed("mixed-precision", args8("float", "channel"), args8("float", "token", True))
        config["config_groups"]["group_1"] = {
            "targets": ["re:.*self_attn\\.(q|k|v|o)_proj$"],
            "weights": args8("int", "channel"),
            "input_activations": args8("int", "token", True),
        }
        config["ignore"] = ["lm_head", "re:model\\.layers\\.0\\..*"]
        engine = self.build(config)
        kinds = {x["name"]: x.get("op") for x in self.meta(engine)["quant"]["linears"]}
        self.assertIsNone(kinds["layers.0.mlp.up.weight"])
        r = tenon("build", "--quiet", "--model", self.path("model"), "--output", self.path("engine"))
        self.assertRegex(r.stderr, "7 of 21 linears are not quantized")
        self.assertEqual(kinds["layers.1.mlp.up.weight"], "linear.fp8")
        self.assertEqual(kinds["layers.2.attn.o.weight"], "linear.int8")
        self.assertClose(self.build(config, "--dequantize", name="widened"), "cpu", None, 1e-5)

    def test_fp8_per_tensor(self):
        for suffix, act, inputs in (("weight_scale", "static", "input_scale"), ("weight_scale_inv", "static", "activation_scale"),
                                    ("weight_scale", "dynamic", None)):
            self.checkpoint = layouts.Checkpoint(OPTIONS["model"])
            self.checkpoint.quantize(layouts.fp8, suffix=suffix)
            if inputs:
                self.checkpoint.static_inputs(IDS, 448, inputs)
            config = {**FP8, "activation_scheme": act, "modules_to_not_convert": ["lm_head"]}
            self.check(config, "linear.fp8", "e4m3")

    def test_fp8_per_block_is_rounded_to_rows_and_says_so(self):
        self.checkpoint.quantize(layouts.fp8, spread="block", suffix="weight_scale_inv")
        config = {**FP8, "fmt": "e4m3", "weight_block_size": [128, 128]}
        engine = self.build(config)
        linears = {x["name"]: x for x in self.meta(engine)["quant"]["linears"]}
        down = linears["layers.0.mlp.down.weight"]
        self.assertIn("rounded anew", down["note"])
        self.assertGreater(down["weight_error"], 0)
        self.assertLess(down["weight_error"], 0.04)
        self.assertEqual(linears["layers.0.mlp.up.weight"]["weight_error"], 0)  # 128 columns: one block
        self.assertClose(engine, "cpu,reference", None, 0.05)
        self.assertClose(self.build(config, "--dequantize", name="widened"), "cpu", None, 1e-5)

    def test_weights_alone_are_widened_and_say_so(self):
        self.checkpoint.quantize(layouts.int8)
        engine = self.build(compressed("int-quantized", args8("int", "channel")))
        self.assertRegex(self.ops(engine).pop(), "only its weights")
        self.assertClose(engine, "cpu", None, 1e-5)

    def test_scales_of_the_cache(self):
        self.checkpoint.quantize(layouts.fp8, spread="row")
        for i in range(3):
            for x, scale in (("k", 1 / 32), ("v", 1 / 64)):
                self.checkpoint.tensors["model.layers.%d.self_attn.%s_scale" % (i, x)] = np.array([scale], np.float32)
        config = compressed("float-quantized", args8("float", "channel"), args8("float", "token", True),
                            kv_cache_scheme=args8("float", "tensor"))
        engine = self.build(config)
        self.assertClose(engine, "cpu", None, 1e-5)
        self.assertClose(engine, "cpu", None, 0.05, "--kv-cache-dtype", "fp8")
        fp8 = self.build(config, "--kv-cache-dtype", "fp8", name="fp8")
        self.assertEqual(self.meta(fp8)["kv_dtype"], "float8_e4m3")
        self.assertClose(fp8, "cpu", None, 0.05)
        tensors = json.loads(self.ok("engine", "inspect", "--json", "--tensors", fp8))["weights"]["tensors"]
        self.assertEqual(sum(t["name"].endswith((".k_range", ".v_range")) for t in tensors), 6)
        model = self.checkpoint.write(self.path("model"), {**config, "kv_cache_scheme": None})
        r = tenon("build", "--quiet", "--model", model, "--output", self.path("x"), "--kv-cache-dtype", "fp8")
        self.assertRegex(r.stderr, "needs ranges")
        # One per head, of which the largest is taken.
        self.checkpoint.tensors["model.layers.1.self_attn.k_scale"] = np.array([[1 / 64], [1 / 32]], np.float32)[..., None]
        self.assertClose(self.build(config, "--kv-cache-dtype", "fp8", name="heads"), "cpu", None, 0.05)
        for value, says in ((float("nan"), "nan"), (0.0, "above 0"), (None, "layer 2|lacks")):
            name = "model.layers.2.self_attn.v_scale"
            self.checkpoint.tensors[name] = np.array([value or 0], np.float32)
            if value is None:
                del self.checkpoint.tensors[name]
            model = self.checkpoint.write(self.path("model"), config)
            r = tenon("build", "--quiet", "--model", model, "--output", self.path("x"))
            self.assertRegex(r.stderr, "v_scale.*(%s)" % says)

    def test_a_checkpoint_may_have_scales_of_the_cache_alone(self):
        for i in range(3):
            for x in "kv":
                self.checkpoint.tensors["model.layers.%d.self_attn.%s_scale" % (i, x)] = np.array([1 / 32], np.float32)
        config = {"quant_method": "compressed-tensors", "format": "dense", "config_groups": {}, "ignore": [],
                  "kv_cache_scheme": args8("float", "tensor")}
        engine = self.build(config)
        self.assertRegex(self.ops(engine).pop(), "unquantized")
        self.assertClose(engine, "cpu", None, 1e-5)
        self.assertClose(self.build(config, "--kv-cache-dtype", "fp8", name="fp8"), "cpu", None, 0.05)


class Four(Case):
    def test_awq(self):
        modern = {**AWQ, "version": None, "format": "gemm", "checkpoint_format": "gemm", "zero_point": False}
        for group, config in ((32, AWQ), (-1, modern)):
            self.checkpoint = layouts.Checkpoint(OPTIONS["model"])
            self.checkpoint.quantize(layouts.awq, group=group)
            engine = self.check({**config, "group_size": group}, "linear.int4", None)
            sizes = self.meta(engine)["quant"]["bytes"]
            self.assertLess(sizes["after"] / sizes["before"], 0.20)  # float32 here

    def test_gptq(self):
        # 352 columns are two groups of 128 and one of 96.
        for symmetric, v2, group in ((True, False, 32), (False, False, 128), (False, True, 16), (True, False, -1)):
            self.checkpoint = layouts.Checkpoint(OPTIONS["model"])
            self.checkpoint.quantize(layouts.gptq, group=group, symmetric=symmetric, v2=v2)
            config = {**GPTQ, "group_size": group, "sym": symmetric, "format" if v2 else "checkpoint_format": "gptq_v2" if v2 else "gptq"}
            if v2:
                del config["checkpoint_format"]
            self.check(config, "linear.int4", None)

    def test_gptq_biases_of_zero_are_none(self):
        self.checkpoint.quantize(layouts.gptq, with_order=False)
        for m in self.checkpoint.modules():
            n = self.checkpoint.numbers[m + ".weight"].shape[0]
            self.checkpoint.tensors[m + ".bias"] = np.zeros(n, np.float16)
        self.check(GPTQ, "linear.int4", None)
        self.checkpoint.tensors["model.layers.1.mlp.up_proj.bias"][3] = 1
        model = self.checkpoint.write(self.path("model"), GPTQ)
        r = tenon("build", "--quiet", "--model", model, "--output", self.path("bad"))
        self.assertRegex(r.stderr, "layers.1.mlp.up_proj.bias.*no use")

    def columns(self, engine):
        linears = self.meta(engine)["quant"]["linears"]
        return {x["name"].split(".")[-2]: x.get("columns", "").split(" ")[-1] for x in linears if ".1." in x["name"]}

    def reorders(self, engine):
        return len(re.findall(r"\breorder\(", self.ok("engine", "plan", engine)))

    def test_gptq_by_importance_stays_at_four_bits(self):
        # As people have them: one order for the matrices that read one value. That of `down` goes into the rows of two others.
        want = dict.fromkeys(("q", "k", "v", "o", "gate", "up"), "reorder") | {"down": "reads"}
        for symmetric, v2, group in ((True, False, 128), (False, True, 32)):
            self.checkpoint = layouts.Checkpoint(OPTIONS["model"])
            self.checkpoint.quantize(layouts.gptq, group=group, symmetric=symmetric, v2=v2, act_order=True)
            config = {**GPTQ, "group_size": group, "sym": symmetric, "desc_act": True, "checkpoint_format": "gptq_v2" if v2 else "gptq"}
            engine = self.check(config, "linear.int4", None)
            # 128 columns in one group of 128 are in order.
            self.assertEqual(self.columns(engine), dict.fromkeys(want, "") | {"down": "reads"} if group == 128 else want)
            self.assertEqual(self.reorders(engine), 0 if group == 128 else 9)
        sizes = self.meta(engine)["quant"]["bytes"]
        self.assertLess(sizes["after"] / sizes["before"], 0.20)  # float32 here

    def test_gptq_with_an_order_for_each_matrix(self):
        for i, m in enumerate(self.checkpoint.modules()):
            self.checkpoint.quantize(layouts.gptq, modules=[m], act_order=True, seed=i)
        engine = self.build({**GPTQ, "desc_act": True})
        self.assertEqual(self.ops(engine), {"linear.int4"})
        self.assertEqual(self.reorders(engine), 18)
        self.assertClose(engine, "cpu,reference", None, 1e-3)

    def test_an_order_goes_into_rows_that_stay_at_full_precision_too(self):
        kept = [m for m in self.checkpoint.modules() if m.endswith(("gate_proj", "layers.0.mlp.up_proj"))]
        self.checkpoint.quantize(layouts.gptq, modules=[m for m in self.checkpoint.modules() if m not in kept], act_order=True)
        engine = self.build({**GPTQ, "desc_act": True})
        self.assertEqual(self.columns(engine)["down"], "reads")
        self.assertClose(engine, "reference", None, 1e-5)
        # What is measured of each linear takes the orders into account.
        IDS.astype(np.int32).tofile(self.path("eval.i32"))
        engine = self.build({**GPTQ, "desc_act": True}, "--eval-data", self.path("eval.i32"), name="measured")
        errors = [x["error"] for x in self.meta(engine)["quant"]["linears"] if "op" in x]
        self.assertEqual(len(errors), 17)
        self.assertLess(max(errors), 5e-3)  # int4 on a CPU rounds rows to 16 bits

    def test_ranks_and_an_order_of_columns(self):
        self.checkpoint.quantize(layouts.gptq, act_order=True)
        config = {**GPTQ, "desc_act": True}
        engine = self.build(config, "--tp-size", "2")
        linears = {x["name"]: x for x in self.meta(engine)["quant"]["linears"]}
        self.assertEqual({n for n, x in linears.items() if "op" not in x}, {"layers.%d.attn.o.weight" % i for i in range(3)})
        self.assertRegex(linears["layers.0.attn.o.weight"]["kept"], "desc_act.*2 ranks")
        self.assertClose(engine, "cpu,reference", None, 1e-3, "--tp-size", "2")
        one = self.build(config, name="one")
        r = tenon("eval", "logits", "--engine", one, "--ids", self.path("ids.safetensors"), "--out", self.path("x"), "--tp-size", "2")
        self.assertNotEqual(r.returncode, 0)
        self.assertRegex(r.stderr, r"layers\.0\.attn\.o\.order.*desc_act[\s\S]*--tp-size 2, which widens")

    def test_an_engine_whose_order_points_beside_the_row_is_refused(self):
        self.checkpoint.quantize(layouts.gptq, act_order=True)
        engine = self.build({**GPTQ, "desc_act": True})
        order = np.argsort(self.checkpoint.tensors["model.layers.1.mlp.up_proj.g_idx"], kind="stable").astype(np.int32)
        with open(os.path.join(engine, "model.engine"), "rb") as f:
            whole = f.read()
        self.assertEqual(whole.count(order.tobytes()), 9)
        for value in (128, -1):
            bad = order.copy()
            bad[7] = value
            with open(os.path.join(engine, "model.engine"), "wb") as f:
                f.write(whole.replace(order.tobytes(), bad.tobytes(), 1))
            r = tenon("eval", "logits", "--engine", engine, "--ids", self.path("ids.safetensors"), "--out", self.path("x"))
            self.assertEqual(r.returncode, 3, r.stderr)
            self.assertRegex(r.stderr, r"model\.engine.*\.order.*element 7 is %d, of a row of 128" % value)

    def test_groups_of_unequal_size_are_widened_and_say_so(self):
        self.checkpoint.quantize(layouts.gptq, act_order=True)
        order = self.checkpoint.tensors["model.layers.1.mlp.up_proj.g_idx"]
        module = "model.layers.1.mlp.up_proj"
        t = {n: self.checkpoint.tensors[module + "." + n] for n in ("qweight", "scales")}
        codes = (t["qweight"].view(np.uint32)[:, None] >> np.arange(0, 32, 4, dtype=np.uint32)[:, None] & 15).reshape(128, -1)
        for missing in (False, True):
            order[:] = np.where(order == 3, 0, order) if missing else np.where(np.arange(128) == 5, (order + 1) % 4, order)
            numbers = (codes.astype(np.float64) - 8) * t["scales"][order].astype(np.float64)
            self.checkpoint.numbers[module + ".weight"] = numbers.T
            engine = self.build({**GPTQ, "desc_act": True}, name="engine%d" % missing)
            linears = {x["name"]: x for x in self.meta(engine)["quant"]["linears"]}
            self.assertRegex(linears["layers.1.mlp.up.weight"]["kept"], "unequal numbers")
            self.assertEqual(sum("kept" in x for x in linears.values()), 1)
            self.assertClose(engine, "reference", None, 1e-5)

    def test_gptq_of_eight_bits_is_widened_and_says_so(self):
        for symmetric, v2, act_order in ((True, False, True), (False, True, False)):
            self.checkpoint = layouts.Checkpoint(OPTIONS["model"])
            self.checkpoint.quantize(layouts.gptq, symmetric=symmetric, v2=v2, act_order=act_order, bits=8)
            config = {**GPTQ, "bits": 8, "sym": symmetric, "desc_act": act_order, "checkpoint_format": "gptq_v2" if v2 else "gptq"}
            engine = self.build(config)
            self.assertRegex(self.ops(engine).pop(), "only its weights")
            self.assertClose(engine, "cpu", None, 1e-5)

    def test_compressed_packed_by_importance(self):
        self.checkpoint.quantize(layouts.packed, symmetric=False, act_order=True)
        weights = {"num_bits": 4, "type": "int", "symmetric": False, "group_size": 32, "strategy": "group", "actorder": "group"}
        engine = self.build(compressed("pack-quantized", weights))
        self.assertEqual(self.reorders(engine), 9)
        self.assertClose(engine, "reference", None, 1e-5)

    def test_compressed_packed(self):
        for symmetric, group in ((True, 32), (False, 32), (True, -1)):
            self.checkpoint = layouts.Checkpoint(OPTIONS["model"])
            self.checkpoint.quantize(layouts.packed, group=group, symmetric=symmetric)
            weights = {"num_bits": 4, "type": "int", "symmetric": symmetric, "group_size": group,
                       "strategy": "group" if group > 0 else "channel", "actorder": None}
            self.check(compressed("pack-quantized", weights), "linear.int4", None)

    def test_compressed_eight_bits_in_words_are_widened_and_say_so(self):
        for symmetric, group in ((True, -1), (False, 32)):
            self.checkpoint = layouts.Checkpoint(OPTIONS["model"])
            self.checkpoint.quantize(layouts.packed, group=group, symmetric=symmetric, bits=8)
            weights = {**args8("int", "group" if group > 0 else "channel"), "symmetric": symmetric, "group_size": group}
            engine = self.build(compressed("pack-quantized", weights))
            self.assertRegex(self.ops(engine).pop(), "only its weights")
            self.assertClose(engine, "cpu", None, 1e-5)

    def test_compressed_four_bits_in_bytes(self):
        for kind, symmetric, group in (("int", True, 32), ("float", False, 32), ("int", True, -1)):
            self.checkpoint = layouts.Checkpoint(OPTIONS["model"])
            self.checkpoint.quantize(layouts.four_in_bytes, group=group, symmetric=symmetric)
            weights = {**args8("int", "group" if group > 0 else "channel"), "symmetric": symmetric, "group_size": group}
            config = compressed("int-quantized", {**weights, "num_bits": 4}, args8(kind, "token", True))
            self.check(config, "linear.int4", None)
        self.checkpoint.tensors["model.layers.1.mlp.up_proj.weight"][2, 3] = 8
        model = self.checkpoint.write(self.path("model"), config)
        r = tenon("build", "--quiet", "--model", model, "--output", self.path("x"))
        self.assertRegex(r.stderr, r"layers.1.mlp.up_proj.weight.*element \[2, 3\] is 8, not of 4 bits")

    def test_ranks_share_them_and_cut_groups(self):
        """352 columns are 11 groups of 32, or 5.5 for each of two ranks, 2.75 for four."""
        self.checkpoint.quantize(layouts.awq)
        for options in ([], ["--tp-size", "2"]):
            engine = self.build(AWQ, *options)
            self.assertEqual(self.ops(engine), {"linear.int4"})
        self.assertClose(engine, "cpu,reference", None, 1e-3, "--tp-size", "2")
        self.assertClose(engine, "reference", None, 1e-5, "--tp-size", "4")


class Architectures(Case):
    """Models whose matrices have biases, are stored transposed and in one piece, or are experts: what is taken as it comes beside
    the same numbers widened."""

    def engines(self, model, how, config, kernels="reference", **options):
        base = os.path.join(os.path.dirname(OPTIONS["model"]), model)
        with open(os.path.join(base, "config.json"), encoding="utf-8") as f:
            self.checkpoint.config = json.load(f)
        self.checkpoint.tensors = {}
        for name, a in layouts.read_safetensors(os.path.join(base, "model.safetensors")).items():
            if re.search(r"(proj|w[123]|c_attn|c_fc)\.weight$", name):
                tensors, _ = how(a.astype(np.float64).T if model == "gpt2" else a.astype(np.float64), group=16, **options)
                self.checkpoint.tensors.update({name[: -len("weight")] + n: t for n, t in tensors.items()})
            else:
                self.checkpoint.tensors[name] = layouts.bf16(a)
        layouts.write_safetensors(self.path("ids.safetensors"), {"input_ids": (IDS % 90 + 3).astype(np.int64)})
        taken, widened = self.build(config), self.build(config, "--dequantize", name="widened")
        want = self.logits(widened, kernels)
        error = self.logits(taken, kernels) - want
        self.assertLess(np.sqrt((error**2).mean() / (want**2).mean()), 1e-5)
        return self.meta(taken)["quant"]

    def test_biases_beside_quantized_matrices(self):
        quant = self.engines("qwen2", layouts.awq, {**AWQ, "group_size": 16})
        self.assertEqual({x.get("op") for x in quant["linears"]}, {"linear.int4"})

    def test_matrices_that_the_model_stores_transposed_and_in_one_piece(self):
        for order in (False, True):
            quant = self.engines("gpt2", layouts.gptq, {**GPTQ, "group_size": 16, "desc_act": order}, act_order=order)
            self.assertEqual({x.get("op") for x in quant["linears"]}, {"linear.int4"})
            down = [x for x in quant["linears"] if ".down." in x["name"] or ".fc2." in x["name"] or ".proj." in x["name"]]
            self.assertEqual({"reads" in x.get("columns", "") for x in down}, {order})

    def test_an_order_of_columns_goes_into_biases_too(self):
        quant = self.engines("qwen2", layouts.gptq, {**GPTQ, "group_size": 16, "desc_act": True}, act_order=True)
        self.assertEqual({x.get("op") for x in quant["linears"]}, {"linear.int4"})

    def test_experts_come_as_they_are(self):
        four, eight = {"group_size": 16}, lambda w, group: layouts.fp8(w, "row")
        # Linears of the set "cpu" do not round rows to e4m3, as experts never do.
        for how, config, dtype, kernels in ((layouts.gptq, {**GPTQ, **four}, "int4", "reference"),
                                            (layouts.awq, {**AWQ, **four}, "int4", "reference"),
                                            (eight, FP8, "float8_e4m3", "cpu,reference")):
            quant = self.engines("mixtral", how, config, kernels)
            self.assertFalse(quant["left"])
            experts = [x for x in quant["linears"] if ".moe." in x["name"] and "router" not in x["name"]]
            self.assertEqual({(x.get("op"), x.get("dtype")) for x in experts}, {("moe_mlp", dtype)}, experts)

    def test_experts_whose_columns_have_an_order_are_widened_and_say_so(self):
        quant = self.engines("mixtral", layouts.gptq, {**GPTQ, "group_size": 16, "desc_act": True}, act_order=True)
        experts = [x for x in quant["linears"] if ".moe." in x["name"] and "router" not in x["name"]]
        self.assertTrue(experts and all("kept" in x for x in experts), experts)

    def test_experts_as_llm_compressor_names_them(self):
        names = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
        plain = self.checkpoint
        self.engines("mixtral", layouts.gptq, {**GPTQ, "group_size": 16})
        want = self.logits(self.path("widened"), "reference")
        plain.tensors = {re.sub(r"\bw[123]\b", lambda m: names[m[0]], n): t for n, t in plain.tensors.items()}
        got = self.logits(self.build({**GPTQ, "group_size": 16}, "--dequantize", name="renamed"), "reference")
        self.assertTrue((got == want).all())
        del plain.tensors["model.layers.0.block_sparse_moe.experts.1.up_proj.qweight"]
        model = plain.write(self.path("model"), {**GPTQ, "group_size": 16})
        r = tenon("build", "--quiet", "--model", model, "--output", self.path("x"))
        self.assertRegex(r.stderr, r"layers\.0.*experts\.")



class Choices(Case):
    def test_quantizing_twice_is_asked_for_in_so_many_words(self):
        self.checkpoint.quantize(layouts.fp8)
        model = self.checkpoint.write(self.path("model"), FP8)
        r = tenon("build", "--quiet", "--model", model, "--output", self.path("x"), "--quant", "int8_sq")
        self.assertEqual(r.returncode, 2)
        self.assertRegex(r.stderr, "quantized already.*--dequantize")
        engine = self.build(FP8, "--dequantize", "--quant", "int4_g128", "--quant-option", "group=32", name="again")
        self.assertEqual(self.ops(engine), {"linear.int4"})
        r = tenon("build", "--quiet", "--model", OPTIONS["model"], "--output", self.path("y"), "--dequantize")
        self.assertRegex(r.stderr, "not quantized")


    def test_float16_takes_the_place_of_fp8_where_it_must(self):
        self.checkpoint.quantize(layouts.fp8, spread="row")
        config = compressed("float-quantized", args8("float", "channel"), args8("float", "token", True))
        engine = self.build(config, "--fp8-fallback", "float16")
        meta = self.meta(engine)
        self.assertEqual(meta["dtype"], "float16")
        self.assertEqual(meta["passport"]["fp8_fallback"], "float16")
        self.assertNotIn("quant", meta)
        self.assertClose(engine, "cpu", None, 2e-3)


class Hostile(Case):
    """Damage to a good checkpoint; the build must fail with exit code 2 or 3, name the place, and leave nothing."""

    def refused(self, says, config, *options):
        shutil.rmtree(self.path("bad"), ignore_errors=True)
        model = self.checkpoint.write(self.path("model"), config)
        r = tenon("build", "--quiet", "--model", model, "--output", self.path("bad"), *options)
        self.assertIn(r.returncode, (1, 2, 3), r.stdout + r.stderr)
        self.assertRegex(r.stderr, says)
        self.assertFalse(os.path.exists(self.path("bad")))

    def damaged(self, how, options, config, suffix, change, says):
        self.checkpoint = layouts.Checkpoint(OPTIONS["model"])
        self.checkpoint.quantize(how, **options)
        if config.get("activation_scheme") == "static":
            self.checkpoint.static_inputs(IDS, 448)
        name = "model.layers.1.mlp.down_proj." + suffix
        if change is None:
            del self.checkpoint.tensors[name]
        else:
            old = self.checkpoint.tensors[name].copy()
            self.checkpoint.tensors[name] = change(old)
        self.refused("(?s)" + re.escape("down_proj") + ".*" + says, config)

    @staticmethod
    def put(value):
        def change(a):
            a.flat[a.size // 2] = value
            return a

        return change

    def test_damaged_tensors_are_named(self):
        nan, put = float("nan"), self.put
        f16 = lambda a: a.astype(np.float16)
        static = {**FP8, "activation_scheme": "static"}
        for suffix, change, says in (
            ("weight_scale", put(nan), "scale 0 is nan"),
            ("weight_scale", put(0), "is 0; scales are finite and above 0"),
            ("weight_scale", put(-1), "is -1"),
            ("weight_scale", lambda a: np.ones((2, 2), np.float32), "has 4 scales"),
            ("weight_scale", lambda a: np.ones(1, np.int32), "stored as int32"),
            ("weight_scale", None, "lacks the scales"),
            ("weight", put(0x7F), r"\[64, 0\] is NaN"),
            ("weight", lambda a: a[:-1], "rows"),
            ("weight", lambda a: a[:, :-1], "columns"),
            ("weight", f16, "half of what belongs together"),
            ("input_scale", put(nan), "is nan"),
            ("input_scale", put(0), "above 0"),
            ("input_scale", None, "lacks this scale"),
            ("input_scale", lambda a: np.ones(2, np.float32), "one is needed"),
        ):
            self.damaged(layouts.fp8, {}, static, suffix, change, says)

    def test_damaged_nibbles_are_named(self):
        nan, put = float("nan"), self.put
        for how, config, suffix, change, says in (
            (layouts.awq, AWQ, "scales", put(nan), "finite"),
            (layouts.awq, AWQ, "scales", put(-1), "above 0"),
            (layouts.awq, AWQ, "scales", None, "lacks this tensor"),
            (layouts.awq, AWQ, "scales", lambda a: a[:-1], "are needed"),
            (layouts.awq, AWQ, "qzeros", None, "lacks this tensor"),
            (layouts.awq, AWQ, "qzeros", lambda a: a[:, :-1], "are needed"),
            (layouts.awq, AWQ, "qzeros", lambda a: a.astype(np.int64), "stored as int64"),
            (layouts.awq, AWQ, "qweight", None, "half of what belongs together"),
            (layouts.awq, AWQ, "qweight", lambda a: a.astype(np.float32), "int32"),
            (layouts.awq, AWQ, "qweight", lambda a: a[:, :-1], "are needed|rows"),
            (layouts.gptq, GPTQ, "g_idx", put(11), "group 11; there are 11"),
            (layouts.gptq, GPTQ, "g_idx", put(-2), "group -2"),
            (layouts.gptq, GPTQ, "g_idx", lambda a: a[:-1], "must be 352 int32"),
            (layouts.gptq, GPTQ, "g_idx", lambda a: a.astype(np.int64), "must be 352 int32"),
            (layouts.gptq, GPTQ, "g_idx", put(1 << 30), "group 1073741824; there are 11"),
            (layouts.gptq, GPTQ, "scales", put(nan), "finite"),
            (layouts.gptq, GPTQ, "scales", put(0), "above 0"),
        ):
            self.damaged(how, {}, config, suffix, change, says)
        weights = {"num_bits": 4, "type": "int", "symmetric": False, "group_size": 32, "strategy": "group"}
        config = compressed("pack-quantized", weights)
        for suffix, change, says in (
            ("weight_shape", put(-1), "says"),
            ("weight_shape", put(1 << 40), "says"),
            ("weight_shape", None, "two int64"),
            ("weight_packed", lambda a: a[:, :-1], "are needed"),
            ("weight_zero_point", lambda a: a[:-1], "zero points of its scales"),
            ("weight_scale", put(nan), "finite"),
            ("weight_packed", lambda a: a.astype(np.float32), "stored as float32"),
        ):
            self.damaged(layouts.packed, {"symmetric": False}, config, suffix, change, says)

    def test_an_order_that_is_announced_must_be_there(self):
        self.checkpoint.quantize(layouts.packed)
        weights = {"num_bits": 4, "type": "int", "group_size": 32, "strategy": "group"}
        self.refused("weight_g_idx.*is not there", compressed("pack-quantized", {**weights, "actorder": "group"}))
        for order in (None, False, "weight", "static"):
            self.build(compressed("pack-quantized", {**weights, "actorder": order}))

    def test_groups_of_another_size_are_refused(self):
        for how, config, says in (
            (layouts.awq, {**AWQ, "group_size": 16}, r"scales.*\[8, 128\] are needed"),
            (layouts.awq, {**AWQ, "group_size": 48}, "128 inputs are no whole groups of 48"),
            (layouts.gptq, {**GPTQ, "group_size": -1}, r"scales.*\[1, 128\] are needed"),
            (layouts.packed, compressed("pack-quantized", {"num_bits": 4, "type": "int", "group_size": 64}), "has 512 scales"),
        ):
            self.checkpoint = layouts.Checkpoint(OPTIONS["model"])
            self.checkpoint.quantize(how)
            self.refused(says, config)

    def test_configurations_are_checked_field_by_field(self):
        self.checkpoint.quantize(layouts.fp8, spread="row")
        good = compressed("float-quantized", args8("float", "channel"), args8("float", "token", True))

        def with_weights(**change):
            return compressed("float-quantized", {**args8("float", "channel"), **change}, args8("float", "token", True))

        for says, config in (
            ("quant_method.*missing", {"bits": 4}),
            ("quant_method", {"quant_method": 4}),
            ("no plugin provides quant_method .bitsandbytes", {"quant_method": "bitsandbytes"}),
            ("format.*nvfp4", {**good, "format": "nvfp4-pack-quantized"}),
            ("sparsity_config", {**good, "sparsity_config": {"format": "sparse-24-bitmask"}}),
            ("transform_config", {**good, "transform_config": {"config_groups": {"u": {"type": "hadamard"}}}}),
            ("config_groups", {**good, "config_groups": {}}),
            ("config_groups", {**good, "config_groups": ["FP8"]}),
            ("config_groups.FP8", {**good, "config_groups": {"FP8": ["Linear"]}}),
            ("short names", {**good, "config_groups": {"g" * 600: good["config_groups"]["group_0"]}}),
            ("config_groups", {**good, "config_groups": {"a.b": good["config_groups"]["group_0"]}}),
            ("num_bits", with_weights(num_bits=6)),
            ("num_bits", with_weights(num_bits=-8)),
            ("num_bits", with_weights(num_bits="8")),
            ("type", with_weights(type="complex")),
            ("strategy", with_weights(strategy="attn_head")),
            ("group_size", with_weights(strategy="group", group_size=0)),
            ("group_size", with_weights(group_size=-7)),
            ("block_structure", with_weights(strategy="block", block_structure=[128])),
            ("block_structure", with_weights(strategy="block", block_structure=[128, 0])),
            ("dynamic", with_weights(dynamic=True)),
            ("symmetric", with_weights(symmetric="yes")),
            ("no regular expression", {**good, "ignore": ["re:(unclosed"]}),
            ("too much work", {**good, "ignore": ["re:((\\w|\\.)+)+[#!]"]}),
            ("leaves this module", {**good, "ignore": ["model.layers.0.mlp.up_proj"]}),
            ("leaves this module", {**good, "ignore": ["re:.*"]}),
            ("regular expressions", {**good, "ignore": ["re:a"] * 300}),
            ("ignore.*3", {**good, "ignore": [3]}),
            ("scales", with_weights(strategy="tensor")),
            ("float of 8|int of 8", compressed("int-quantized", args8("int", "channel"), args8("int", "token", True))),
            ("float of 8|int of 4", compressed("int-quantized", {**args8("int", "channel"), "num_bits": 4})),
            ("activation_scheme", {**FP8, "activation_scheme": "psychic"}),
            ("weight_block_size", {**FP8, "weight_block_size": [128, -128]}),
            ("scales", {**FP8, "weight_block_size": [128, 64]}),
            ("fmt", {**FP8, "fmt": "e5m2"}),
            ("bits", {**AWQ, "bits": 8}),
            ("group_size", {**AWQ, "group_size": 0}),
            ("version", {**AWQ, "version": "gemv"}),
            ("format.*gemv_fast", {**AWQ, "version": None, "format": "gemv_fast"}),
            ("checkpoint_format.*gemv", {**AWQ, "checkpoint_format": "gemv"}),
            ("format.*bitblas", {**GPTQ, "checkpoint_format": None, "format": "bitblas"}),
            ("checkpoint_format", {**GPTQ, "checkpoint_format": "marlin"}),
            ("dynamic", {**GPTQ, "dynamic": {"+:.*down.*": {"bits": 8}}}),
            ("stored as float8_e4m3, which is no layout of awq", AWQ),
        ):
            with self.subTest(config=config):
                self.refused(says, config)

    def test_without_a_configuration_its_tensors_are_no_numbers(self):
        self.checkpoint.quantize(layouts.fp8)
        self.refused("no use|quantization_config", None)


if __name__ == "__main__":
    option("tenon")
    option("model")
    unittest.main(verbosity=2)
