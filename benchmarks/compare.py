"""Train this notebook's networks, its first edition's, the original's and nanoGPT's; print tables (README.md here)."""
import argparse
import ast
import importlib
import json
import math
import os
import pickle
import queue
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean, median, stdev
from types import ModuleType, SimpleNamespace
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent


def notebook(source):
    """A notebook's form and definitions (source: its JSON) as a module; of its other cells the functions, and PEAK."""
    for name in ("IPython", "IPython.display", "matplotlib", "matplotlib.pyplot"):
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = mock.MagicMock()
    module = ModuleType("lesson")
    for cell in (cell for cell in json.loads(source)["cells"] if cell["cell_type"] == "code"):
        tree = ast.parse("".join(cell["source"]))
        if not {"definitions", "parameters"} & set(cell["metadata"].get("tags", [])):
            tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef)
                         or isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "PEAK"]
        exec(compile(tree, cell["id"], "exec"), vars(module))
    return module


def prepare(options):
    """The options with the notebook, and the text that the row is about."""
    nb = notebook((ROOT / "bdunaganGPT.ipynb").read_text(encoding="utf-8"))
    path = options.shakespeare if "shakespeare" in options.row else options.text
    path = next((more for more in options.more if f", {Path(more).stem}" in options.row), path)
    text = Path(path).read_text(encoding="utf-8-sig")
    tokenizer, cut = nb.CharTokenizer(text), int(0.9 * len(text))
    train_ids, val_ids = (torch.tensor(tokenizer.encode(part), device=nb.device) for part in (text[:cut], text[cut:]))
    return SimpleNamespace(**vars(options), nb=nb, characters=text, train_text=text[:cut], tokenizer=tokenizer,
                           V=len(tokenizer.chars), train_ids=train_ids, val_ids=val_ids)


def scaled(c, cfg):
    """A configuration with --scale of its steps."""
    return replace(cfg, max_iters=max(10, round(c.scale * cfg.max_iters)), warmup=max(1, round(c.scale * cfg.warmup)),
                   eval_interval=max(5, round(c.scale * cfg.eval_interval)))


def timed(function, seen):
    """`function`; of each call, `seen` gets when it began and ended (the GPU's work done) and what it returned."""
    def wrapper(*args):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        began, result = time.perf_counter(), function(*args)
        seen.append((began, time.perf_counter(), float(result["val"] if isinstance(result, dict) else result)))
        return result
    return wrapper


def gpu_memory():
    """The most that PyTorch has held on the GPU so far, in GB."""
    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else math.nan


def watched(train, seen, steps):
    """Train, its evaluations `seen` by `timed` at those steps (a function, asked afterwards): time, memory, curve."""
    began = time.perf_counter()
    train()
    seconds, steps, memory = time.perf_counter() - began, steps(), gpu_memory()
    pace = [(b[0] - a[1]) / (n - m) for a, b, m, n in zip(seen, seen[1:], steps, steps[1:])]
    return dict(seconds=seconds, memory=memory, ms=1e3 * median(pace),
                curve=[(step, val, ended - began) for step, (_, ended, val) in zip(steps, seen)])


def writing_speed(c, write, count=2000):
    """Characters per second of `write(n)`, which writes n characters; what it does once before them cancels out."""
    few, many, took = 10, max(30, round(count * c.scale)), {}
    for n in (few, few, many):
        began = time.perf_counter()
        write(n)
        took[n] = time.perf_counter() - began
    return (many - few) / (took[many] - took[few])


def result(c, cfg, model, figures, **more):
    """A row's measurements; cfg: its sizes, batch and readings as a Config, of which the arithmetic is counted."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    peak = next((p for name, p in c.nb.PEAK.items() if name in gpu.replace("-", " ").split()), math.nan)
    steps, read, work = figures["curve"][-1][0], cfg.batch_size * cfg.block_size, c.nb.operations_per_step(cfg)
    once = round(cfg.read_once * steps) if cfg.agreement else 0  # these steps cost half
    machine = f"{gpu or f'{os.cpu_count()} CPU cores'}, PyTorch {torch.__version__}"
    return dict(machine=machine, length=len(c.characters), parameters=sum(p.numel() for p in model.parameters()),
                steps=steps, passes=steps * read / len(c.train_ids), pace=1e3 * read / figures["ms"],
                tflop=work / 1e12, once=once, share=1e3 * work / figures["ms"] / peak, **figures, **more)


def ours(c, configuration="automatic", t4=False):
    """Train one of the notebook's configurations; t4: in fp16, with the attention kernels that a T4 has."""
    nb = c.nb
    if t4:
        nb.dtype = torch.float16
        torch.backends.cuda.enable_flash_sdp(False)
        torch.backends.cuda.enable_cudnn_sdp(False)
    cfg = scaled(c, nb.fit(nb.Config(c.V, seed=c.seed), configuration, len(c.train_ids)))
    run, seen = nb.Run(nb.build(cfg), cfg, c.train_ids, c.val_ids), []
    nb.evaluate = timed(nb.evaluate, seen)
    figures = watched(lambda: nb.train(run), seen, lambda: [p["step"] for p in run.history])
    speeds = []
    for drafts in ({}, nb.draft_table(c.train_text[-1_000_000:])):
        nb.drafts = drafts
        speeds.append(writing_speed(c, lambda n: list(nb.generate(run.averaged, c.tokenizer, length=n, stop=None))))
    writes, guessing = speeds
    return result(c, cfg, run.model, figures, loss=run.history[-1]["val"], writes=writes, guessing=guessing)


def first_edition(c, configuration="automatic"):
    """The same with an older notebook: --before names its file, or a revision of this repository."""
    show = ["git", "-C", str(ROOT), "show", f"{c.before}:bdunaganGPT.ipynb"]
    old = notebook(Path(c.before).read_text(encoding="utf-8") if Path(c.before).is_file() else
                   subprocess.run(show, check=True, capture_output=True, encoding="utf-8").stdout)
    form = vars(old) | dict(configuration=configuration, seed=c.seed)
    cfg, train_cfg = old.configure(form, c.V, len(c.train_ids))
    train_cfg = scaled(c, train_cfg)
    run, seen = old.Run(old.GPT(cfg, c.seed), c.tokenizer, c.train_ids, c.val_ids, train_cfg), []
    old.evaluate = timed(old.evaluate, seen)
    figures = watched(lambda: old.train(run), seen, lambda: [p["step"] for p in run.history])
    writes = writing_speed(c, lambda n: list(old.generate(run.averaged, c.tokenizer, length=n, stop=None)))
    same = replace(c.nb.fit(c.nb.Config(c.V), configuration, len(c.train_ids)), gate=False, mix=False, read_once=0.0,
                   agreement=train_cfg.agreement, batch_size=train_cfg.batch_size, block_size=cfg.block_size)
    return result(c, same, run.model, figures, loss=run.history[-1]["val"], writes=writes)


class Peer(torch.nn.Module):
    """Another project's model in the form that the notebook's `evaluate` takes."""

    def __init__(self, model, cfg):
        super().__init__()
        self.model, self.cfg = model, cfg

    def forward(self, x, y):
        logits = self.model(x, y.clamp(min=0))[0]  # -1 marks padding, which the original's loss does not know
        return logits, F.cross_entropy(logits.flatten(0, -2).float(), y.flatten(), ignore_index=-1)


def judge(c, model, cfg):
    """The loss of another project's model on the validation text, in its own number format."""
    c.nb.mixed_precision = lambda peer: peer
    return c.nb.evaluate(Peer(model, cfg), c.val_ids)


def assign(source, **values):
    """Python source with other values for these names; each must be assigned on exactly one unindented line."""
    for name, value in values.items():
        source, lines = re.subn(rf"(?m)^{name} = .*$", lambda _, new=f"{name} = {value}": new, source)
        if lines != 1:
            raise ValueError(f"The original's notebook assigns {name} on {lines} lines; this program expects one.")
    return source


def original(c):
    """Train the article's 10M configuration with the original's code cell, without its lines that start with ! or %."""
    cfg, every = scaled(c, c.nb.fit(c.nb.Config(c.V), "article 10M", len(c.train_ids))), max(5, round(100 * c.scale))
    cells = json.loads(Path(c.original, "bdunaganGPT.ipynb").read_text(encoding="utf-8"))["cells"]
    source = next(s for s in ("".join(cell["source"]) for cell in cells) if "class GPTTest" in s)
    source = "\n".join(line for line in source.splitlines() if not line.startswith(("!", "%")))
    source = source.replace("manual_seed(1337)", f"manual_seed({1336 + c.seed})")  # with the first seed as published
    sizes = ", ".join(f"{name}={getattr(cfg, name)!r}" for name in c.nb.NAMES)
    source = assign(source, test=f"GPTTest({sizes}, device=device)", max_new_tokens=1, eval_interval=every,
                    eval_iters=every)
    definitions = source.rpartition("\ntest.run()")[0]
    opened = re.search(r"open\('([^'/]+)'", definitions)[1]
    Path(opened).write_text(c.characters, encoding="utf-8")  # in this process's own folder
    namespace, seen = {"__name__": "original"}, []
    exec(compile(definitions, "original", "exec"), namespace)
    trainer = namespace["test"]
    trainer.estimate_loss = timed(trainer.estimate_loss, seen)
    figures = watched(trainer.run, seen, lambda: [*range(0, cfg.max_iters, every), cfg.max_iters])
    figures["seconds"] = figures["curve"][-1][2]  # without the sample at its end
    start = torch.zeros((1, 1), dtype=torch.long, device=trainer.device)
    writes = writing_speed(c, lambda n: trainer.m.generate(start, cfg.block_size, n).tolist(), 300)
    loss = judge(c, trainer.model, cfg)
    return result(c, cfg, trainer.model, figures, loss=loss, writes=writes)


def read_log(lines):
    """nanoGPT's printed (clock, line) -> its evaluations [(step, validation loss, seconds)], median ms of a step."""
    began = max((t for t, line in lines if line.startswith("using fused AdamW")), default=0)
    curve = [(int(m[1]), float(m[2]), t - began) for t, line in lines
             if (m := re.match(r"step (\d+): train loss \S+, val loss ([\d.]+)", line))]
    steps = [(int(m[1]), t) for t, line in lines if (m := re.match(r"iter (\d+): loss", line))]
    if not began or not curve or len(steps) < 2:
        raise ValueError("nanoGPT printed no lines like 'using fused AdamW: True', 'step 0: ...' and 'iter 0: ...'.")
    return curve, 1e3 * median((t2 - t1) / (n2 - n1) for (n1, t1), (n2, t2) in zip(steps, steps[1:]))


def nanogpt(c, steps=5000, dropout=0.2):
    """Train nanoGPT's baby network: a copy of its code in this process's own folder, beside our text."""
    shutil.copytree(c.nanogpt, ".", dirs_exist_ok=True, ignore=shutil.ignore_patterns(".git", "data", "assets"))
    Path("data/text").mkdir(parents=True)
    for name, ids in (("train", c.train_ids), ("val", c.val_ids)):
        ids.cpu().numpy().astype(np.uint16).tofile(f"data/text/{name}.bin")
    Path("data/text/meta.pkl").write_bytes(pickle.dumps({"vocab_size": c.V}))
    count = {name: max(least, round(n * c.scale)) for name, n, least in (
        ("max_iters", steps, 10), ("lr_decay_iters", steps, 10), ("warmup_iters", 100, 1), ("eval_interval", 250, 5),
        ("eval_iters", 200, 1))}
    changes = count | dict(dataset="text", out_dir="out", dropout=dropout, log_interval=min(10, count["eval_interval"]))
    if not torch.cuda.is_available():
        changes |= dict(device="cpu", compile=False, dtype="float32")
    sys.argv = ["train.py", "config/train_shakespeare_char.py", *(f"--{k}={v}" for k, v in changes.items())]
    sys.path.insert(0, os.getcwd())
    lines = []

    def stamp(*words, **_):
        lines.append((time.perf_counter(), " ".join(map(str, words))))

    with mock.patch("builtins.print", stamp):
        done = runpy.run_path("train.py")  # in this process, so that the memory it used can be read
    (curve, ms), memory = read_log(lines), gpu_memory()
    net, kept = done.get("unoptimized_model", done["model"]), torch.load("out/ckpt.pt", map_location=c.nb.device)
    sizes = {name: done["model_args"][name] for name in ("block_size", "n_layer", "n_head", "n_embd")}
    cfg = c.nb.Config(c.V, **sizes, batch_size=done["batch_size"], gate=False, mix=False, agreement=0.0)
    with done["ctx"]:  # its number format
        last = judge(c, net, cfg)
    net.load_state_dict({name.removeprefix("_orig_mod."): w for name, w in kept["model"].items()})
    with done["ctx"]:  # again, for it remembers the weights that it has cast
        loss = judge(c, net, cfg)
        start = torch.zeros((1, 1), dtype=torch.long, device=c.nb.device)
        writes = writing_speed(c, lambda n: net.eval().generate(start, n).tolist(), 500)
    note = f"the loss is that of its checkpoint, of step {kept['iter_num']:,}; its last weights reach {last:.3f}"
    figures = dict(seconds=curve[-1][2], memory=memory, ms=ms, curve=curve)
    return result(c, cfg, net, figures, loss=loss, writes=writes, note=note)


ROWS = {
    "ours, default": ours,
    "ours, like a T4": partial(ours, t4=True),
    "ours, article 10M": partial(ours, configuration="article 10M"),
    "first edition, default": first_edition,
    "first edition, article 10M": partial(first_edition, configuration="article 10M"),
    "original, article 10M": original,
    **{f"nanoGPT, {n} steps, dropout {p}": partial(nanogpt, steps=n, dropout=p)
       for n in (750, 1000) for p in (0.2, 0.4)},
    "nanoGPT, as published": nanogpt,
    "ours, tiny shakespeare": ours,
    "nanoGPT, tiny shakespeare (published: 1.4697)": nanogpt,
}
SEVERAL_SEEDS = [*ROWS][:6]  # ours, the first edition's and the original's on the article's text
NEEDS = {"first edition": "before", "original": "original", "nanoGPT": "nanogpt", "tiny shakespeare": "shakespeare"}


def in_own_process(row, seed, options, free):
    """Measure a row in a fresh process, folder and compiler cache, on a free GPU: (measurements, what went wrong)."""
    gpu = free.get()
    print(f"{row}, seed {seed} ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        env = os.environ | dict(PYTHONUTF8="1", TORCHINDUCTOR_CACHE_DIR=f"{folder}/inductor", MPLBACKEND="Agg",
                                TRITON_CACHE_DIR=f"{folder}/triton")
        env |= dict(CUDA_VISIBLE_DEVICES=str(gpu)) if options.gpus > 1 else {}
        command = [sys.executable, __file__, "--child", json.dumps(vars(options) | dict(row=row, seed=seed))]
        child = subprocess.run(command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        free.put(gpu)
        if child.returncode == 0:
            return json.loads(Path(folder, "result.json").read_text()), None
    return None, f"{row}, seed {seed}, failed: {(child.stderr.strip() or str(child.returncode)).splitlines()[-1]}"


def markdown(header, rows):
    """A table in GitHub's Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" if row else "|-" * len(header) + "|" for row in (header, None, *rows))


def reached(results, target):
    """Mean seconds, and TFLOP, to the first evaluation at or below `target`."""
    there = [next((t, (step - min(step, r.get("once", 0)) / 2) * r["tflop"])
                  for step, loss, t in r["curve"] if loss <= target)
             for r in results if min(loss for _, loss, _ in r["curve"]) <= target]
    seconds, tflop = (mean(numbers) for numbers in zip(*there)) if there else (math.nan, math.nan)
    of = f", {len(there)} of {len(results)}" * (len(there) < len(results))
    return f"{seconds:.1f} ({tflop:,.0f}){of}" if there else "not reached"


def report(results, failures, options):
    """Everything that is printed in the end; results: {row: [measurements of each seed]}."""
    rows = {row: results[row] for row in [*ROWS, *results] if row in results}
    machines, lengths = ({r[key] for measured in rows.values() for r in measured} for key in ("machine", "length"))
    parts = [f"{' and '.join(machines)}; texts of {' and '.join(f'{n:,}' for n in sorted(lengths))} characters."]
    if options.scale != 1:
        parts.append(f"**Only a trial: {options.scale:g} of all steps, so these losses and times say nothing.**")

    def cell(measured, key, form, factor=1):
        values = [factor * r.get(key, math.nan) for r in measured]
        return "–" if math.isnan(mean(values)) else format(mean(values), form)

    first, second = [], []
    for row, measured in rows.items():
        name = row + f" ({len(measured)} seeds)" * (len(measured) > 1)
        spread = f" ± {stdev(r['loss'] for r in measured):.3f}" if len(measured) > 1 else ""
        low, at = (mean(n) for n in zip(*(min((val, step) for step, val, _ in r["curve"]) for r in measured)))
        first.append([name, cell(measured, "parameters", ".1f", 1e-6) + "M", cell(measured, "steps", ",.0f"),
                      cell(measured, "passes", ".0f"), cell(measured, "loss", ".3f") + spread,
                      f"{low:.3f} at {at:,.0f}", cell(measured, "seconds", ".1f"),
                      *(reached(measured, target) for target in options.loss)])
        second.append([name, cell(measured, "ms", ".2f"), cell(measured, "pace", ",.0f", 1e-3),
                       cell(measured, "share", ".1f", 100), cell(measured, "memory", ".1f"),
                       cell(measured, "writes", ",.0f"), cell(measured, "guessing", ",.0f")])
    parts.append(markdown(["", "parameters", "steps", "passes", "loss", "lowest on the way, at step", "seconds",
                           *(f"s (TFLOP) to {target:g}" for target in options.loss)], first))
    parts.append(markdown(["", "ms per step", "thousand characters/s", "% of 16-bit peak", "peak memory, GB",
                           "writes, characters/s", "the same, guessing ahead"], second))
    parts += [f"{row}: {measured[0]['note']}." for row, measured in rows.items() if "note" in measured[0]]
    return "\n\n".join(parts + failures)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", default=str(ROOT / "data/blog.txt"), help="UTF-8 text (default: data/blog.txt)")
    parser.add_argument("--shakespeare", metavar="FILE", help="tiny shakespeare, for the rows about it")
    parser.add_argument("--before", metavar="REVISION", help="an older notebook: a revision (a094004) or a file")
    parser.add_argument("--original", metavar="DIR", help="checkout of bdunagan/bdunaganGPT")
    parser.add_argument("--nanogpt", metavar="DIR", help="checkout of karpathy/nanoGPT")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3],
                        help="default: 1 2 3 (nanoGPT and other texts: 1)")
    parser.add_argument("--loss", type=float, nargs="+", default=[1.75, 1.675, 1.362], help="take the time to these")
    parser.add_argument("--only", nargs="+", metavar="ROW", default=[],
                        help=f"rows, or how they begin: {'; '.join(ROWS)}")
    parser.add_argument("--gpus", type=int, default=1, help="measure on that many GPUs at once")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of all steps, to try the program out")
    parser.add_argument("--json", metavar="FILE", help="keep the raw measurements here, written after every row")
    parser.add_argument("--join", nargs="+", metavar="FILE", help="measure nothing: print what these --json files hold")
    parser.add_argument("--more", nargs="+", metavar="FILE", default=[],
                        help="ours and the first edition on these texts, too")
    options, results, failures = parser.parse_args(), {}, []
    for stem in (Path(name).stem for name in options.more):
        ROWS.update({f"ours, {stem}": ours, f"first edition, {stem}": first_edition})
    for held in (json.loads(Path(name).read_text()) for name in options.join or ()):
        failures += held["failures"]
        for row, measured in held["rows"].items():
            results[row] = results.get(row, []) + measured
    if options.join:
        return print(report(results, failures, options))
    for name in ("text", "shakespeare", "original", "nanogpt", "before"):  # rows run in other folders
        path = getattr(options, name)
        setattr(options, name, str(Path(path).resolve()) if path and Path(path).exists() else path)
    options.more = [str(Path(name).resolve()) for name in options.more]
    asked = options.only or ([""] if torch.cuda.is_available() else ["ours, default", "first edition, default"])
    rows = [row for row in ROWS if row.startswith(tuple(asked))
            and all(getattr(options, need) for word, need in NEEDS.items() if word in row)]
    if not rows:
        parser.error(f"no such row, or it needs one of {', '.join(f'--{need}' for need in NEEDS.values())}.")
    longest_first = sorted(reversed(rows), key=lambda row: "original" not in row)
    jobs = [(row, seed) for row in longest_first
            for seed in (options.seeds if row in SEVERAL_SEEDS else options.seeds[:1])]
    free = queue.Queue()
    for gpu in range(options.gpus):
        free.put(gpu)
    with ThreadPoolExecutor(options.gpus) as pool:
        for future in as_completed(waiting := {pool.submit(in_own_process, *job, options, free): job for job in jobs}):
            measured, failure = future.result()
            if failure:
                failures.append(failure)
            else:
                results.setdefault(waiting[future][0], []).append(measured)
            if options.json:
                Path(options.json).write_text(json.dumps(dict(rows=results, failures=failures)))
    print(report(results, failures, options))
    sys.exit(bool(failures))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        job = SimpleNamespace(**json.loads(sys.argv[2]))
        train = ROWS.get(job.row, ours if job.row.startswith("ours") else first_edition)
        Path("result.json").write_text(json.dumps(train(prepare(job))))
    else:
        main()
