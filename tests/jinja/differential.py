#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Renders every template with every conversation, in transformers and in Tenon, and compares.

usage: differential.py DRIVER [--require] [--damaged=COUNT] [--seed=NUMBER]

Texts must be equal byte for byte; what raises there must raise here, with the same message where the template
called raise_exception, and as the same kind of error otherwise. Besides, no byte of a conversation may come out
as trusted: each string of the conversations holds the mark U+2042, which no template holds. Generation
spans are compared, too. Exits 77 (skipped) if transformers or jinja2 is not there, unless --require is given.
"""
import copy
import datetime
import glob
import json
import os
import random
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
NOW = 1722470400  # 1 August 2024, 00:00:00 UTC
MARK = "\u2042"

KINDS = {
    "TemplateError": "raised",
    "UndefinedError": "undefined",
    "SecurityError": "security",
    "TemplateSyntaxError": "syntax",
    "TemplateAssertionError": "syntax",
    "SyntaxError": "syntax",
    "TypeError": "type",
    "AttributeError": "type",
    "ValueError": "value",
    "AssertionError": "value",
    "KeyError": "lookup",
    "IndexError": "lookup",
    "ZeroDivisionError": "arithmetic",
    "OverflowError": "arithmetic",
    "FilterArgumentError": "runtime",
    "TemplateRuntimeError": "runtime",
    "RuntimeError": "runtime",
    "RecursionError": "limit",
}


def load_transformers(require):
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"
    try:
        import jinja2
        import transformers
        from transformers.utils import chat_template_utils
    except ImportError as e:
        print(f"SKIPPED: the differential test of chat templates needs transformers and jinja2: {e}")
        sys.exit(1 if require else 77)

    class Frozen(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2024, 8, 1, 0, 0, 0, 123456)

    chat_template_utils.datetime = Frozen
    print(f"reference: transformers {transformers.__version__}, jinja2 {jinja2.__version__}")
    return chat_template_utils


def reference(utils, template, context):
    """("text", text, spans) or ("error", kind, message)."""
    context = copy.deepcopy(context)
    try:
        compiled = utils._compile_jinja_template(template)
        for name in ("messages", "tools", "documents", "add_generation_prompt"):
            context.setdefault(name, None if name != "add_generation_prompt" else False)
        text, spans = utils._render_with_assistant_indices(compiled, **context)
    except Exception as e:  # every kind counts
        return "error", KINDS.get(type(e).__name__, type(e).__name__), str(e)
    return "text", text, [[len(text[:b].encode()), len(text[:e].encode())] for b, e in spans]


def job(template, context, trusted):
    context = copy.deepcopy(context)
    for name in ("messages", "tools", "documents", "add_generation_prompt"):
        context.setdefault(name, None if name != "add_generation_prompt" else False)
    return json.dumps({"template": template, "context": context, "now": NOW, "trusted": trusted})


def check_ranges(answer):
    """Complaints about the provenance of a rendered text."""
    data = answer["text"].encode()
    at, last = 0, None
    for begin, end, trusted in answer["ranges"]:
        if begin != at or end <= begin or trusted == last:
            return f"ranges are not a tiling: {answer['ranges']}"
        if trusted and MARK.encode() in data[begin:end]:
            return f"text of the conversation is trusted: {data[begin:end]!r}"
        at, last = end, trusted
    return None if at == len(data) else "ranges do not cover the text"


def compare(expected, answer):
    """A complaint, or None."""
    if expected[0] == "text":
        if "text" not in answer:
            return f"raises {answer['failure']}: {answer['msg']} ({answer['field']})"
        if answer["text"] != expected[1]:
            return f"renders {answer['text']!r}"
        if answer["generations"] != expected[2]:
            return f"spans {answer['generations']}, not {expected[2]}"
        return check_ranges(answer)
    if "text" in answer:
        return f"renders {answer['text']!r}"
    if answer["failure"] == "unsupported":
        return None
    if expected[1] == "raised" and answer["msg"] != expected[2][:511]:
        return f"message {answer['msg']!r}"
    if answer["failure"] != expected[1]:
        return f"raises {answer['failure']}: {answer['msg']}"
    return None


def option(name, default):
    for arg in sys.argv[2:]:
        if arg.startswith(f"--{name}="):
            return int(arg.split("=")[1])
    return default


def mutated(templates, count):
    """Templates with small damage: a random piece removed, doubled or moved; the same ones for one seed."""
    rnd = random.Random(option("seed", 20240801))
    for _ in range(count):
        name, text = rnd.choice(templates)
        tokens = re.findall(r"\{[%{#]-?|-?[%}#]\}|\w+|\s+|.", text, re.S)
        a = rnd.randrange(len(tokens))
        b = min(len(tokens), a + rnd.randint(1, 6))
        c = rnd.randrange(len(tokens))
        kind = rnd.random()
        if kind < 0.4:
            tokens[a:b] = []
        elif kind < 0.7:
            tokens[c:c] = tokens[a:b]
        else:
            tokens[a:b] = [rnd.choice(tokens)]
        yield f"{name} (damaged)", "".join(tokens)


def cases():
    """(name, template, context)"""
    with open(os.path.join(HERE, "conversations.json"), encoding="utf-8") as f:
        conversations = json.load(f)
    templates = []
    for path in sorted(glob.glob(os.path.join(HERE, "templates", "*.jinja"))):
        with open(path, encoding="utf-8", newline="") as f:
            templates.append((os.path.basename(path), f.read()))
    if len(templates) < 40 or len(conversations) < 25:
        sys.exit("the corpus has shrunk")
    for name, text in templates:
        for c in conversations:
            yield f"{name} x {c['name']}", text, c["context"]
    with open(os.path.join(HERE, "snippets.json"), encoding="utf-8") as f:
        snippets = json.load(f)
    for text in snippets["templates"]:
        yield "snippet", text, snippets["context"]
    rnd = random.Random(7)
    for name, text in mutated(templates, option("damaged", 1500)):
        c = rnd.choice(conversations)
        yield f"{name} x {c['name']}", text, c["context"]


def main():
    driver = sys.argv[1]
    utils = load_transformers("--require" in sys.argv[2:])
    trusted = ["bos_token", "eos_token"]
    jobs = list(cases())
    lines = "".join(job(text, context, trusted) + "\n" for _, text, context in jobs)
    run = subprocess.run([driver], input=lines.encode(), stdout=subprocess.PIPE)
    answers = run.stdout.decode().split("\n")[:-1]
    if run.returncode != 0 or len(answers) != len(jobs):
        sys.exit(f"the driver ended after {len(answers)} of {len(jobs)} jobs: {jobs[min(len(answers), len(jobs) - 1)]}")
    failed = raised = 0
    for (name, text, context), line in zip(jobs, answers):
        expected = reference(utils, text, context)
        raised += expected[0] == "error"
        # A damaged template may print what has an address in Python.
        if expected[0] == "text" and re.search(r"(?i) at 0x[0-9a-f]+>|<generator|<function|<class", expected[1]):
            continue
        complaint = compare(expected, json.loads(line))
        if complaint:
            failed += 1
            if failed <= 20:
                print(f"---- {name}\n{text if len(text) < 600 else ''}\n  expected {expected}\n  {complaint}")
    print(f"{len(jobs)} renders compared, {raised} of them raise; {failed} differ")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
