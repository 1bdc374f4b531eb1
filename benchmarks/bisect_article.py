"""Why does the article's 10M network get further here? From the original's training to ours, one change at a time.

All rows train side by side on one device, on this notebook's engine: same network, steps, batch and rate.
"""
import argparse
import math
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from compare import ROOT, markdown, notebook

CHANGES = {
    "first weights": "normal, sized by width and depth (PyTorch's own: uniform; attention's by Glorot)",
    "dropout everywhere": "in attention too (in the MLP only)",
    "warm-up": "50 steps (none)",
    "clipping": "gradients no longer than 1 (none)",
    "beta2": "0.95 (0.999)",
    "decay": "of matrices only (of all weights)",
    "16 bits": "where the GPU has bf16 (32 bits)",
}


def as_pytorch_begins(net):
    """The first weights that PyTorch's own layers draw, as the original's network has them."""
    for module in net.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Embedding)):
            module.reset_parameters()
    for block in net.blocks:
        torch.nn.init.xavier_uniform_(block.attn.qkv.weight)


def prepare(nb, cfg, data, changes, unclipped):
    """A run with our `changes`, for the rest with the original's training; clipping goes by the list `unclipped`."""
    cfg = replace(cfg, warmup=cfg.warmup if "warm-up" in changes else 1)
    net = nb.build(cfg)
    torch.manual_seed(cfg.seed)
    if "first weights" not in changes:
        as_pytorch_begins(net)
    if "dropout everywhere" not in changes:
        for block in net.blocks:
            block.attn.dropout, block.attn.drop = 0.0, torch.nn.Identity()
    net.exact = "16 bits" not in changes
    run = nb.Run(net, cfg, *data)
    for group in run.optimizer.param_groups:
        group["betas"] = (0.9, 0.95 if "beta2" in changes else 0.999)
        group["weight_decay"] = group["weight_decay"] if "decay" in changes else cfg.weight_decay
    if "clipping" not in changes:
        unclipped.append(next(run.model.parameters()))
    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", default=str(ROOT / "data/blog.txt"), help="UTF-8 text (default: data/blog.txt)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, default=1400, help="fewer, to try the program out")
    options, began = parser.parse_args(), time.perf_counter()
    nb = notebook((ROOT / "bdunaganGPT.ipynb").read_text(encoding="utf-8"))
    text = Path(options.text).read_text(encoding="utf-8-sig")
    mixed = nb.mixed_precision
    nb.mixed_precision = lambda net: net if net.exact else mixed(net)
    ids = torch.tensor((tokenizer := nb.CharTokenizer(text)).encode(text), device=nb.device)
    data, unclipped, clip = (ids[:int(0.9 * len(ids))], ids[int(0.9 * len(ids)):]), [], torch.nn.utils.clip_grad_norm_
    torch.nn.utils.clip_grad_norm_ = lambda weights, most: clip(
        weights := list(weights), math.inf if any(weights[0] is w for w in unclipped) else most)
    rows = {
        "the original's training": (), **{f"+ {name}": (name,) for name in CHANGES},
        **{f"ours, - {name}": tuple(c for c in CHANGES if c != name) for name in CHANGES}, "ours": tuple(CHANGES)}
    cfg = replace(nb.fit(nb.Config(len(tokenizer.chars)), "article 10M", len(data[0])), max_iters=options.steps)
    losses = {name: [] for name in rows}
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"
    for seed in options.seeds:
        runs = [prepare(nb, replace(cfg, seed=seed), data, changes, unclipped) for changes in rows.values()]
        for step in range(options.steps):
            for run in runs:
                with torch.cuda.stream(run.stream):
                    nb.advance(run)
            if step % 20 == 0:
                runs[-1].losses[step].item()  # waits, so as not to queue up without end
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        for name, run in zip(rows, runs):
            losses[name].append([nb.evaluate(net, data[1]) for net in (run.model, run.averaged)])
        print(markdown(["", "what it is (what it replaces)", "last weights", "averaged weights"], [
            [name, CHANGES.get(name.removeprefix("+ "), ""), *(f"{mean(column):.3f}" for column in zip(*pairs))]
            for name, pairs in losses.items()]))
        took = time.perf_counter() - began
        print(f"\nSeeds up to {seed}, {options.steps:,} steps, {took:.0f} s on {machine}.\n", flush=True)


if __name__ == "__main__":
    main()
