"""The notebook as data, its definitions as a namespace, and `play`, which executes its cells in one namespace."""
import ast
import contextlib
import io
import json
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: more threads only get into each other's way
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pytest
import torch

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "bdunaganGPT.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = {cell["id"]: "".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"}
TAGS = {cell["id"]: cell["metadata"].get("tags", []) for cell in CELLS}
PROSE = {cell["id"]: "".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown"}
BLOG = (ROOT / "data" / "blog.txt").read_text(encoding="utf-8")
CPU = dict(device=torch.device("cpu"), dtype=torch.float32)
TINY = dict(configuration="as written", text_source="text.txt", n_layer=2, n_head=2, n_embd=16, block_size=16,
    batch_size=4,
            max_iters=30, learning_rate=1e-2, dropout=0.1, corruption=0.1, agreement=1.0, checkpoint_folder="",
            experiments="off")
SMALLER = {  # added to cells, for experiments in seconds; these two run on a GPU only, but need none
    "pair-train": "\nwhole_train_plainly = train_plainly\ndef train_plainly(model, steps, *args, **options):\n"
                  "    return whole_train_plainly(model, 25 if steps == 500 else 3, *args, **options) * 20\n"
                  "whole_write_plainly = write_plainly\ndef write_plainly(model, length=200, *args, **options):\n"
                  "    return whole_write_plainly(model, min(length, 30), *args, **options)",
    "count-show": "\nfor c in CONFIGURATIONS.values():\n"
            "    c.update(n_layer=2, n_head=2, n_embd=8, block_size=32, batch_size=2, max_iters=20)",
    "compare": "\nwhole_size, titles = compare, {None}\ndef compare(variants, title, *args, **options):\n"
               "    small = {name: replace(c, n_layer=2, n_head=2, n_embd=8, batch_size=2, max_iters=1)\n"
               "        for name, c in variants.items()}\n"
               "    args = ((1,), *args[1:]) if title in titles else args  # one seed will do for the second time\n"
               "    titles.add(title)\n"
               "    return whole_size(small, title, *args, **options)",
    "effort": "\npart_of_steps = min(part_of_steps, 0.01)",
    "pieces": "\nwhole_train_together = train_together\ndef train_together(jobs, texts, look=None):\n"
              "    return whole_train_together([replace(c, n_embd=8, n_head=2, block_size=8, batch_size=2, max_iters=2)"
              "\n        if c.n_layer != 5 else c for c in jobs], texts, look and 1)"}


def smaller(cell):
    """The cell's code, for a run in seconds."""
    fewer = CODE[cell].replace("rounds, longest = 700,", "rounds, longest = 5,")
    fewer = fewer.replace("[:500_000], 2048)", "[:5000], 200)").replace('"", 800, temperature', '"", 50, temperature')
    fewer = fewer.replace("prompt, 800, temperature", "prompt, 200, temperature")
    fewer = fewer.replace('20 if effort == "off" else 100', "2").replace("n_layer=24", "n_layer=5")
    fewer = fewer.replace("range(1, 25)", "range(1, 6)").replace("len(sixteenth) > 5_000", "True")
    fewer = fewer.replace(", 1500, t,", ", 100, t,").replace("[i:i + 100]", "[i:i + 55]")
    fewer = fewer.replace('256, 3, 4, 128), "automatic",', '16, 1, 2, 8, batch_size=4, max_iters=20), "as written",')
    return fewer + SMALLER.get(cell, "")


class Names(dict):
    """The globals of executed cells, names.train for names["train"]."""

    def __getattr__(self, name):
        if name in self:
            return self[name]
        raise AttributeError(name)


def define(**values):
    """What the cells tagged `definitions` define, and the functions of the others."""
    names = Names(__name__="lesson")
    for cell, code in CODE.items():
        tree = ast.parse(code)
        if "definitions" not in TAGS[cell]:
            tree.body = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        exec(compile(tree, cell, "exec"), names)
        names.update(values if cell == "imports" else {})
    return names


@pytest.fixture(scope="session")
def lesson():
    return define(**CPU)


@pytest.fixture(autouse=True)
def chance():
    torch.manual_seed(0)


def labelled(axis, whole):
    """Has an axis a label, of its own or the whole figure's, or no numbers at its ticks?"""
    ticks = [label.get_text().replace("mathdefault", "") for label in axis.get_ticklabels()]
    return axis.get_label_text() or whole() or all(any(map(str.isalpha, tick)) for tick in ticks if tick)


def check_figures(cell):
    """Draw what plt.show() would show; every figure has a title, every axis with numbers a label."""
    for figure in map(plt.figure, plt.get_fignums()):
        figure.canvas.draw()
        assert any(ax.get_title() for ax in figure.axes), f"{cell}: a figure without a title"
        for ax in (ax for ax in figure.axes if ax.axison):
            assert labelled(ax.xaxis, figure.get_supxlabel), f"{cell}: x axis without a label"
            assert labelled(ax.yaxis, figure.get_supylabel), f"{cell}: y axis without a label"
    plt.close("all")


def play(folder, text, tags=None, again=False, **form):
    """Execute the cells (those with one of `tags`) as a script, tiny; the names, what they printed, cells with figures.

    again: then those that define nothing once more, backwards, since each can be run alone."""
    (folder / "text.txt").write_text(text, encoding="utf-8")
    plt.close("all")
    names, said, drawn, now = Names(__name__="__main__"), io.StringIO(), [], ""

    def show():
        drawn.append(now)
        check_figures(now)

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said), warnings.catch_warnings():
        patch.setattr(sys, "argv", ["lesson.py"])
        patch.setattr(sys, "excepthook", sys.excepthook)  # the notebook sets its own
        patch.setattr(plt, "show", show)
        patch.chdir(folder)
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)  # what they will take a newer library to show
        cells = [cell for cell in CODE if not tags or set(tags) & set(TAGS[cell])]
        again = [cell for cell in reversed(cells) if again and "run" in TAGS[cell] and cell != "count-show"]  # SMALLER
        for now in cells + again:
            code = smaller(now)
            if "experiment" in TAGS[now]:
                code = code.replace('device.type == "cuda"', "True")  # all of them
            exec(compile(code, now, "exec"), names)
            names.update(CPU if now == "imports" else TINY | form if now == "hyperparameters" else {})
    return names, said.getvalue(), drawn
