"""The grid behind the notebook's `rules` and recipe: dropout, passes, gate and mix, window, reading, on four texts.

Trained and judged on slices of training text only: the last tenth of a text, which judges the notebook, is never read.
"""
import argparse
import itertools
import json
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from compare import ROOT, markdown, notebook

OFF, WIDE = dict(gate=False, mix=False), dict(block_size=1024, batch_size=8)
CLEAN = dict(dropout=0.25, passes=50, corruption=0.0)
READING = tuple(dict(dropout=0.25, passes=50) | change for change in (
    dict(read_once=0.0, averaging=5.0), dict(averaging=5.0), dict(read_once=0.4, averaging=5.0),
    dict(n_layer=8, n_embd=320, n_head=5), dict(batch_size=32), dict(agreement=3.0), dict(learning_rate=1.5e-3)))
GRID = {  # text: tenths at which its training slice begins, its judging slice begins and ends; what is tried
    "article": ((0, 8, 9), (0.2, 0.25, 0.3), (38, 50), (1, 2), (dict(dropout=0.25, passes=50) | WIDE, CLEAN, *READING)),
    "blog": ((0, 8, 9), (0.2, 0.25), (38, 50), (1, 2), (CLEAN, *READING)),
    "blog, a tenth": ((3, 4, 5), (0.2, 0.25, 0.3, 0.35), (50, 70), (1, 2), ()),
    "shakespeare": ((0, 8, 9), (0.15, 0.2, 0.25), (35, 46), (1,), ()),
}


def jobs():
    """(text, settings) of every run; beside dropouts x passes: without gate and mix, and what GRID adds."""
    for text, (_, dropouts, passes, seeds, more) in GRID.items():
        grid = [dict(dropout=d, passes=n) for d, n in itertools.product(dropouts, passes)]
        grid += [dict(dropout=0.2, passes=46 if text == "shakespeare" else 50) | OFF, *more]
        yield from ((text, settings | dict(seed=seed)) for settings in grid for seed in seeds)


def train(nb, path, text, settings):
    """Train one network, return what it reached."""
    characters = Path(path).read_text(encoding="utf-8-sig")
    tokenizer, places = nb.CharTokenizer(characters), [tenth * len(characters) // 10 for tenth in GRID[text][0]]
    ids = [torch.tensor(tokenizer.encode(characters[i:j]), device=nb.device) for i, j in itertools.pairwise(places)]
    changes = {name: value for name, value in settings.items() if name != "passes"}
    cfg = replace(nb.Config(len(tokenizer.chars)), **dict(corruption=min(0.08, 20_000 / len(ids[0]))) | changes)
    cfg.max_iters = round(settings["passes"] * len(ids[0]) / (cfg.batch_size * cfg.block_size))
    run = nb.Run(nb.build(cfg), cfg, *ids)
    nb.train(run)
    best = min(run.history, key=lambda point: point["val"])
    return dict(text=text, N=len(ids[0]), set=settings, iters=cfg.max_iters, final=run.history[-1]["val"],
                best=best["val"], at=best["step"], s=run.seconds)


def table(found):
    """A row for each text and settings: means over seeds."""
    def key(r):
        window, windows = r["set"].get("block_size", 512), r["set"].get("batch_size", 16)
        small = f"{'gate' * r['set'].get('gate', True)} {'mix' * r['set'].get('mix', True)}".strip()
        named = ("gate", "mix", "block_size", "batch_size", "dropout", "passes", "seed")
        small += "".join(f", {name} {value:g}" for name, value in r["set"].items() if name not in named)
        return r["text"], r["N"], window, small, round(r["iters"] * window * windows / r["N"]), r["set"]["dropout"]

    for (text, length, window, small, *rest), group in itertools.groupby(sorted(found, key=key), key):
        runs = list(group)
        final, best, at, s = (mean(r[name] for r in runs) for name in ("final", "best", "at", "s"))
        yield [text, f"{length:,}", f"{window}", small or "–", *map(str, rest), f"{len(runs)}", f"{final:.3f}",
               f"{best:.3f} at {at:,.0f}", f"{s:.1f}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--article", metavar="FILE", help="the article's text (bdunagan.com.txt)")
    parser.add_argument("--shakespeare", metavar="FILE", help="tiny shakespeare")
    parser.add_argument("--share", type=int, nargs=2, default=(0, 1), metavar=("I", "N"), help="every Nth run from I")
    parser.add_argument("--results", default="tune.jsonl", help="runs are added to this file (default: tune.jsonl)")
    parser.add_argument("--show", action="store_true", help="train nothing: print the table of --results")
    options = parser.parse_args()
    paths = dict(article=options.article, shakespeare=options.shakespeare, blog=ROOT / "data/blog.txt")
    nb = notebook((ROOT / "bdunaganGPT.ipynb").read_text(encoding="utf-8"))
    todo = [job for job in jobs() if paths[job[0].split(",")[0]]][options.share[0]::options.share[1]]
    for text, settings in [] if options.show else todo:
        with open(options.results, "a", encoding="utf-8") as file:
            print(json.dumps(train(nb, paths[text.split(",")[0]], text, settings)), file=file)
    found = [json.loads(line) for line in Path(options.results).read_text(encoding="utf-8").splitlines()]
    print(markdown(["text", "trained on", "window", "small parts", "passes", "dropout", "seeds", "loss", "lowest at",
                    "seconds"], table(found)))


if __name__ == "__main__":
    main()
