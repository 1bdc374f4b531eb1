"""Measure this notebook beside the original (github bdunagan/bdunaganGPT) and nanoGPT (github karpathy/nanoGPT).

Every row is measured in a process of its own, one after the other, on the same text. On a CUDA GPU:

  ours default              configuration "as written", once for each of --seeds: mean and standard deviation
  ours default, compiled    the same with compile=True, first seed (only with --compile)
  ours default, like a T4   the same in fp16 with loss scaling and without the attention kernels that a T4 lacks (flash,
                            cuDNN), each of --seeds (only with --t4)
  ours article 10M          configuration "article 10M" (52 layers of width 128), first seed
  original 10M              the same by the original: its code cell, executed without the lines that start with ! or %
  nanoGPT baby              nanoGPT's train.py with config/train_shakespeare_char.py, 2,000 steps
  ours sampling, original sampling    `generate`, one stream of 500 characters from the 52 x 128 network, untrained
                            (the original's as it calls it itself: with dropout and gradients)

On any other machine, and with --only on every machine:

  ours small default        configuration "small"
  ours 800k, original 800k  the article's 800k configuration: a step, and a whole run with its evaluations, which is
                            extrapolated (~) from ten steps and one evaluation (a tenth of one for the original)

Without checkouts only our rows run. Nothing is written into a checkout. Rows may be measured in several calls, at once
on several GPUs of one machine: --join prints one table from the files that their --json wrote.

Loss: nats per character, one full pass at the end over the last 10% of the text, in windows of the model's block size
that do not overlap, without dropout; the notebook's `evaluate` does it for all, in the number format of the training.
Ours is that of the averaged weights. nanoGPT's is that of its last checkpoint, which by its configuration is the best
that it saw; a line below the table tells what its last weights reach.
Time: from calling `train` (the original's `run`; nanoGPT: once it has built its optimizer) to the end of the last
evaluation. Evaluations, recording and compilation count; building the model and reading the text do not.
Time to a loss: to the first evaluation at or below --loss. Ours evaluates by full passes. The peers' evaluations are
those that they print: estimates from random batches, so noisy, and at their own intervals (original: 100 steps,
nanoGPT: 250, ours: 50).
Step: median over stretches between evaluations. Share of peak: matrix products as the notebook's `flops_per_step`
counts them, for all (a window that is read twice counts twice), against the GPU's dense 16-bit peak. Memory: the most
that PyTorch held on the GPU while training; on a CPU the largest resident size of the process.
"""
import argparse
import contextlib
import io
import json
import os
import pickle
import platform
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, median, stdev
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent
EVERY = 100  # the original's own: steps between evaluations, and batches of each part in one


def prepare(options):
    """The options with the notebook's definitions, its form's values and the text: what every row needs."""
    try:
        import IPython.display  # noqa: F401
    except ImportError:  # the definitions import these, which nothing here calls
        stub, inner = ModuleType("IPython"), ModuleType("IPython.display")
        stub.get_ipython, inner.display = lambda: None, print
        sys.modules.update({"IPython": stub, "IPython.display": inner})
    definitions, form = {"__name__": "lesson"}, {}
    for cell in json.loads((ROOT / "bdunaganGPT.ipynb").read_text(encoding="utf-8"))["cells"]:
        for tag, namespace in (("definitions", definitions), ("parameters", form)):
            if tag in cell["metadata"].get("tags", []):
                exec(compile("".join(cell["source"]), cell["id"], "exec"), namespace)
    nb = SimpleNamespace(**definitions)
    characters = nb.load_text(options.text)
    tokenizer = nb.CharTokenizer(characters)
    parts = (torch.tensor(tokenizer.encode(part), device=nb.device) for part in nb.split_text(characters))
    gpu = torch.cuda.get_device_name() if nb.device.type == "cuda" else ""
    return SimpleNamespace(
        **vars(options), nb=nb, form=form, characters=characters, data=(tokenizer, *parts),
        vocab_size=len(tokenizer.chars), number_format=nb.pick_number_format(nb.device)[0],
        machine=gpu or f"{os.cpu_count()} {platform.machine()} CPU cores",
        torch=torch.__version__, length=len(characters),
        peak=next((peak for name, peak in nb.PEAK.items() if name in gpu.replace("-", " ").split()), None),
        scaled=lambda count, least=1: max(least, round(count * options.scale)))


def settings(c, configuration, **changes):
    """The notebook's (GPTConfig, TrainConfig) of a named configuration, with scaled iteration counts."""
    cfg, t = c.nb.configure(c.form | {"configuration": configuration}, c.vocab_size, len(c.data[1]), **changes)
    # The notebook reads its clock every ten steps, so less than that between evaluations cannot be timed.
    return cfg, replace(t, max_iters=c.scaled(t.max_iters, 10), warmup=c.scaled(t.warmup),
                        eval_interval=c.scaled(t.eval_interval, 10))


def peak_memory():
    """Most memory in use so far, in GB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    import resource  # Unix only
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def measured(c, cfg, train_cfg, model, **figures):
    """A training row's raw measurements."""
    work = c.nb.flops_per_step(cfg, train_cfg)
    share = 1e3 * work / figures["ms"] / c.peak if c.peak else None
    return dict(parameters=sum(p.numel() for p in model.parameters()), share=share, **figures)


def ours(c, configuration, t4=False, **changes):
    """Train one of the notebook's configurations; t4: with nothing that a T4 lacks."""
    if t4:
        changes["number_format"] = "fp16"
        torch.backends.cuda.enable_flash_sdp(False)  # cuDNN's kernels are off in any case
    cfg, train_cfg = settings(c, configuration, seed=c.seed, **changes)
    run = c.nb.Run(c.nb.GPT(cfg, c.seed), *c.data, train_cfg)
    began = time.perf_counter()
    c.nb.train(run)
    seconds, memory, began = time.perf_counter() - began, peak_memory(), time.perf_counter()
    with torch.cuda.stream(run.stream):  # as in training
        loss = c.nb.evaluate(run.averaged, run.val_ids, train_cfg.number_format)
    evaluation = time.perf_counter() - began
    # A point's seconds were read just before its evaluation, so a stretch holds one evaluation beside its steps.
    points = [(p["step"], p["seconds"]) for p in run.history if p["step"] % train_cfg.eval_interval == 0]
    pace = [(t2 - t1 - evaluation) / (n2 - n1) for (n1, t1), (n2, t2) in zip(points, points[1:])]
    return measured(c, cfg, train_cfg, run.model, loss=loss, seconds=seconds, ms=1e3 * median(pace),
                    memory=memory, steps=run.step,
                    curve=[(p["step"], p["val"], p["seconds"] + evaluation) for p in run.history])


class Peer(torch.nn.Module):
    """Another project's model in the form that the notebook's `evaluate` takes."""

    def __init__(self, model, block_size):
        super().__init__()
        self.model, self.cfg = model, SimpleNamespace(block_size=block_size)

    def forward(self, x, y):
        logits = self.model(x, y.clamp(min=0))[0]  # -1 marks padding, which the original's loss does not know
        return logits, F.cross_entropy(logits.flatten(0, -2).float(), y.flatten(), ignore_index=-1)


def assign(source, **values):
    """Python source with other values for these names; each must be assigned on exactly one unindented line."""
    for name, value in values.items():
        source, lines = re.subn(rf"^{name} = .*$", lambda _, new=f"{name} = {value}": new, source, flags=re.MULTILINE)
        if lines != 1:
            raise ValueError(f"The original's notebook assigns {name} on {lines} lines; this program expects one.")
    return source


def original(c, cfg, train_cfg, **values):
    """The original's trainer, not run yet, with the sizes in our configuration and `values` for its variables."""
    names = ("batch_size", "block_size", "max_iters", "learning_rate", "n_embd", "n_head", "n_layer", "dropout")
    sizes = ", ".join(f"{name}={(vars(cfg) | vars(train_cfg))[name]!r}" for name in names)
    cells = json.loads(Path(c.original, "bdunaganGPT.ipynb").read_text(encoding="utf-8"))["cells"]
    source = next((s for s in ("".join(cell["source"]) for cell in cells) if "class GPTTest" in s), "")
    source = "\n".join(line for line in source.splitlines() if not line.startswith(("!", "%")))
    source = assign(source, test=f"GPTTest({sizes}, device=device)", max_new_tokens=1, **values)
    definitions, call, _ = source.rpartition("\ntest.run()")
    opened = re.search(r"open\(['\"]([^'\"/]+)", definitions)
    if not call or not opened:
        raise ValueError("The original's notebook does not open a text and call test.run(), as this program expects.")
    Path(opened[1]).write_text(c.characters, encoding="utf-8")  # in this process's own folder
    namespace = {"__name__": "original"}
    exec(compile(definitions, "original", "exec"), namespace)
    return namespace["test"]


def watch(trainer):
    """Run the original's trainer: [(began, ended, validation loss)] of its evaluations, in seconds from the start."""
    seen, estimate, start = [], trainer.estimate_loss, time.perf_counter()

    def timed():
        began, out = time.perf_counter() - start, estimate()
        seen.append((began, time.perf_counter() - start, float(out["val"])))
        return out

    trainer.estimate_loss = timed
    trainer.run()
    return seen


def original_10m(c):
    """Train the article's 10M configuration with the original's code."""
    every, (cfg, train_cfg) = c.scaled(EVERY), settings(c, "article 10M")
    trainer = original(c, cfg, train_cfg, eval_interval=every, eval_iters=every)
    seen, memory = watch(trainer), peak_memory()
    steps = [*range(0, train_cfg.max_iters, every), train_cfg.max_iters]
    pace = [(b[0] - a[1]) / (n2 - n1) for a, b, n1, n2 in zip(seen, seen[1:], steps, steps[1:])]
    loss = c.nb.evaluate(Peer(trainer.model, cfg.block_size), c.data[2])
    return measured(c, cfg, train_cfg, trainer.model, loss=loss, seconds=seen[-1][1], ms=1e3 * median(pace),
                    memory=memory, steps=train_cfg.max_iters,
                    curve=[(step, val, ended) for step, (_, ended, val) in zip(steps, seen)])


class Stamped(io.TextIOBase):
    """Keeps what is printed, as (clock, line)."""

    def __init__(self):
        self.lines, self.rest = [], ""

    def write(self, text):
        *whole, self.rest = (self.rest + text).split("\n")
        self.lines += [(time.perf_counter(), line) for line in whole]
        return len(text)


def read_log(lines):
    """nanoGPT's printed (clock, line) -> its evaluations [(step, validation loss, seconds)], median ms of a step."""
    began = max((t for t, line in lines if line.startswith("using fused AdamW")), default=0)
    curve = [(int(m[1]), float(m[2]), t - began) for t, line in lines
             if (m := re.match(r"step (\d+): train loss \S+, val loss ([\d.]+)", line))]
    # Such a line is printed once the GPU is done. The milliseconds in it were taken before, so the stamps count.
    steps = [(int(m[1]), t) for t, line in lines if (m := re.match(r"iter (\d+): loss", line))]
    if not began or not curve or len(steps) < 2:
        raise ValueError("nanoGPT printed no lines like 'using fused AdamW: True', 'step 0: ...' and 'iter 0: ...'.")
    return curve, 1e3 * median((t2 - t1) / (n2 - n1) for (n1, t1), (n2, t2) in zip(steps, steps[1:]))


def nanogpt(c):
    """Train nanoGPT's baby network: a copy of its code in this process's own folder, beside our text."""
    for path in Path(c.nanogpt).glob("*.py"):
        shutil.copy(path, ".")
    shutil.copytree(Path(c.nanogpt, "config"), "config")
    Path("data/text").mkdir(parents=True)
    for name, ids in zip(("train", "val"), c.data[1:]):
        ids.cpu().numpy().astype(np.uint16).tofile(f"data/text/{name}.bin")
    Path("data/text/meta.pkl").write_bytes(pickle.dumps({"vocab_size": c.vocab_size}))
    steps = c.scaled(2000, 20)
    changes = dict(dataset="text", out_dir="out", max_iters=steps, lr_decay_iters=steps, warmup_iters=c.scaled(100),
                   eval_interval=c.scaled(250), eval_iters=c.scaled(200), log_interval=c.scaled(10))
    if not torch.cuda.is_available():
        changes |= dict(device="cpu", compile=False, dtype="float32")
    sys.argv = ["train.py", "config/train_shakespeare_char.py", *(f"--{k}={v}" for k, v in changes.items())]
    sys.path.insert(0, os.getcwd())
    with contextlib.redirect_stdout(Stamped()) as printed:
        done = runpy.run_path("train.py")  # in this process, so that the memory it used can be read
    memory, args, (curve, ms) = peak_memory(), done["model_args"], read_log(printed.lines)

    def score(net):
        return c.nb.evaluate(Peer(net, args["block_size"]), c.data[2], c.number_format)

    kept, net = torch.load("out/ckpt.pt", map_location=c.nb.device), done.get("unoptimized_model", done["model"])
    note = f"loss of its checkpoint of step {kept['iter_num']:,}; its last weights reach {score(net):.3f}"
    net.load_state_dict({name.removeprefix("_orig_mod."): w for name, w in kept["model"].items()})
    sizes = {name: args[name] for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd")}
    cfg = c.nb.GPTConfig(**sizes, position="learned")
    train_cfg = c.nb.TrainConfig(batch_size=done["batch_size"], agreement=0.0)
    return measured(c, cfg, train_cfg, net, loss=score(net), seconds=curve[-1][2], ms=ms, memory=memory,
                    steps=steps, curve=curve, note=note)


def sampling_speed(c, write):
    """Characters per second of `write(n)`, which writes n characters, after a first short call."""
    write(10)
    count, began = c.scaled(500, 20), time.perf_counter()
    write(count)
    return dict(speed=count / (time.perf_counter() - began))


def ours_sampling(c):
    model = c.nb.GPT(settings(c, "article 10M")[0]).to(c.nb.device)
    return sampling_speed(c, lambda n: "".join(c.nb.generate(model, c.data[0], length=n, stop=None)))


def original_sampling(c):
    cfg, train_cfg = settings(c, "article 10M")
    trainer = original(c, cfg, train_cfg)
    start = torch.zeros((1, 1), dtype=torch.long, device=trainer.device)
    return sampling_speed(c, lambda n: trainer.m.generate(start, cfg.block_size, n).tolist())


def ours_800k(c):
    ms, run = c.nb.step_time("article 800k", c.form, c.data, steps=1)
    began, steps = time.perf_counter(), run.cfg.max_iters
    c.nb.evaluate(run.averaged, run.val_ids, run.cfg.number_format)
    evaluation = time.perf_counter() - began
    count = sum(c.nb.due(SimpleNamespace(history=[], step=n, cfg=run.cfg)) for n in range(steps + 1))
    return dict(ms=ms, seconds=steps * ms / 1e3 + count * evaluation)


def original_800k(c):
    cfg, train_cfg = c.nb.configure(c.form | {"configuration": "article 800k"}, c.vocab_size, len(c.data[1]))
    trainer = original(c, cfg, replace(train_cfg, max_iters=10), eval_interval=10, eval_iters=EVERY // 10)
    first, last = watch(trainer)
    steps, step, evaluation = train_cfg.max_iters, (last[0] - first[1]) / 10, (last[1] - last[0]) * 10
    return dict(ms=1e3 * step, seconds=steps * step + (steps // EVERY + 1) * evaluation)


TRAINING = {
    "ours default": lambda c: ours(c, "as written"),
    "ours default, compiled": lambda c: ours(c, "as written", compile=True),
    "ours default, like a T4": lambda c: ours(c, "as written", t4=True),
    "ours small default": lambda c: ours(c, "small"),
    "ours article 10M": lambda c: ours(c, "article 10M"),
    "original 10M": original_10m,
    "nanoGPT baby": nanogpt,
}
ROWS = TRAINING | {"ours sampling": ours_sampling, "original sampling": original_sampling,
                   "ours 800k": ours_800k, "original 800k": original_800k}
ASKED = {"ours default, compiled": "compile", "ours default, like a T4": "t4"}  # rows with a switch of their own
SEEDED = ("ours default", "ours default, like a T4")
CPU_ROWS = ("ours small default", "ours 800k", "original 800k")
PAIRS = (  # second table: rows, measurement, what to call it, format, whether more is better
    ("sampling", "speed", "characters/s, one stream, 52 layers x 128", "{:,.0f}", True),
    ("800k", "ms", "ms per step, 16 layers x 64", "{:,.0f}", False),
    ("800k", "seconds", "whole run with evaluations, 16 layers x 64, s", "~{:,.0f}", False))


def in_own_process(row, seed, options):
    """Measure one row in a fresh process and folder: (measurements, None) or (None, sentence on what went wrong)."""
    print(f"{row}, seed {seed} ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        # Its own compiler caches too, so that nothing is compiled beforehand.
        env = os.environ | dict(MPLBACKEND="Agg", PYTHONUTF8="1", TORCHINDUCTOR_CACHE_DIR=f"{folder}/inductor",
                                TRITON_CACHE_DIR=f"{folder}/triton")
        command = [sys.executable, __file__, "--child", json.dumps(vars(options) | dict(row=row, seed=seed))]
        child = subprocess.run(command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True,
                               encoding="utf-8", errors="replace")
        if child.returncode == 0:
            return json.loads(Path(folder, "result.json").read_text()), None
    said = child.stderr.strip().splitlines() or [f"it ended with status {child.returncode}"]
    return None, f"{row}, seed {seed}, failed: {said[-1]}"


def markdown(header, rows):
    """A table in GitHub's Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" if row else "|-" * len(header) + "|" for row in (header, None, *rows))


def training_row(name, results, target):
    """Cells of a row of the first table: means over seeds."""
    def cell(key, form, factor=1):
        return "–" if results[0][key] is None else format(factor * mean(r[key] for r in results), form)

    spread = f" ± {stdev(r['loss'] for r in results):.3f}" if len(results) > 1 else ""
    reached = [next((t for _, loss, t in r["curve"] if loss <= target), None) for r in results]
    return [name + f" ({len(results)} seeds)" * (len(results) > 1), cell("parameters", ".1f", 1e-6) + "M",
            cell("steps", ",.0f"), cell("loss", ".3f") + spread, cell("seconds", ".1f"),
            "not reached" if None in reached else f"{mean(reached):.1f}", cell("ms", ".1f"),
            cell("share", ".0f", 100), cell("memory", ".1f")]


def pair_rows(results):
    """Rows of the second table: ours against the original's."""
    for kind, key, label, form, more in PAIRS:
        mine, theirs = (results.get(f"{who} {kind}", [{}])[0].get(key) for who in ("ours", "original"))
        if mine or theirs:
            ratio = (mine / theirs if more else theirs / mine) if mine and theirs else None
            yield [label, *(form.format(value) if value else "–" for value in (mine, theirs)),
                   f"{ratio:.1f}" if ratio else "–"]


def report(c, results, failures):
    """Everything that is printed in the end."""
    others = c.number_format != "fp32" and any(row.startswith("original") for row in results)
    also = " (the original: fp32)" if others else ""
    parts = [f"{c.machine}, PyTorch {c.torch}, {c.number_format}{also}, text of {c.length:,} characters."]
    if c.scale != 1:
        parts.append(f"**Only a trial: {c.scale:g} of all iterations, so these losses and times say nothing.**")
    header = ["", "parameters", "steps", "loss", "time, s", f"s to loss {c.loss:g}", "ms per step", "% of 16-bit peak",
              "peak memory, GB"]
    trained = [name for name in TRAINING if name in results]
    if trained:
        parts.append(markdown(header, [training_row(name, results[name], c.loss) for name in trained]))
    parts += [f"{name}: {results[name][0]['note']}." for name in trained if "note" in results[name][0]]
    if pairs := list(pair_rows(results)):
        parts.append(markdown(["", "ours", "original", "times as fast"], pairs))
    return "\n\n".join(parts + failures)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default=str(ROOT / "data/blog.txt"), help="UTF-8 text (default: data/blog.txt)")
    parser.add_argument("--original", metavar="DIR", help="checkout of bdunagan/bdunaganGPT")
    parser.add_argument("--nanogpt", metavar="DIR", help="checkout of karpathy/nanoGPT")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="default: 1 2 3")
    parser.add_argument("--loss", type=float, default=1.675, help="loss to take the time to (default: 1.675)")
    parser.add_argument("--compile", action="store_true", help="add the row 'ours default, compiled'")
    parser.add_argument("--t4", action="store_true", help="add the row 'ours default, like a T4'")
    parser.add_argument("--only", nargs="+", metavar="ROW", choices=ROWS, help="only these rows, on any machine")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of all iterations, to try the program out")
    parser.add_argument("--json", metavar="FILE", help="keep the raw measurements here, written after every row")
    parser.add_argument("--join", nargs="+", metavar="FILE", help="measure nothing: print what these --json files hold")
    options = parser.parse_args()
    if options.join:
        files = [json.loads(Path(name).read_text()) for name in options.join]
        results, failures = {}, sum((file["failures"] for file in files), [])
        for file in files:
            results |= file["rows"]
        return print(report(SimpleNamespace(**vars(options) | files[0]), results, failures))
    without = [peer for peer in ("original", "nanoGPT") if not getattr(options, peer.lower())]
    for row in options.only or ():
        if row.split()[0] in without:
            parser.error(f"row {row!r} needs a checkout: give --{row.split()[0].lower()} DIR.")
    for name in ("text", "original", "nanogpt"):  # rows run in other folders
        setattr(options, name, getattr(options, name) and str(Path(getattr(options, name)).resolve()))
    try:
        c = prepare(options)
    except ValueError as error:
        sys.exit(str(error))
    usual = [row for row in ROWS if (row in CPU_ROWS) == (c.nb.device.type != "cuda")
             and row.split()[0] not in without and (row not in ASKED or getattr(options, ASKED[row]))]
    results, failures = {}, []
    for row in options.only or usual:
        for seed in options.seeds if row in SEEDED else options.seeds[:1]:
            result, failure = in_own_process(row, seed, options)
            results |= {row: results.get(row, []) + [result]} if result else {}
            failures += [failure] if failure else []
            if options.json:
                Path(options.json).write_text(json.dumps(dict(
                    machine=c.machine, torch=c.torch, number_format=c.number_format, scale=c.scale,
                    length=c.length, rows=results, failures=failures), indent=1))
    print(report(c, results, failures))
    sys.exit(bool(failures))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        job = SimpleNamespace(**json.loads(sys.argv[2]))
        Path("result.json").write_text(json.dumps(ROWS[job.row](prepare(job))))
    else:
        main()
