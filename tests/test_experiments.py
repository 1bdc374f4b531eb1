"""Sections 12 and 13, and every menu of the form: the whole file, tiny, from top to bottom."""
import itertools
import random
import re

import pytest
import torch
from conftest import BLOG, CODE, TAGS, play
from test_text import menu_of
from torch.utils.flop_counter import FlopCounterMode

MENUS = {name: menu_of(name) for name in ("configuration", "attention", "position", "norm", "residual")}
FIGURES = ["window-picture", "attention-picture", "heads-picture", "block-picture", "ladder-picture", "surprise",
    "attention-show",
           "lens", "leaky", "copy-network"]


def symbols(count, length):
    """A text of `count` different characters, any writing."""
    return "".join(random.Random(1).choices([chr(0x4E00 + i) for i in range(count - 2)] + ["a", " "], k=length))


TEXTS = {"300 characters": BLOG[:300], "2,000": BLOG[:2000], "10,000": BLOG[:10_000], "50,000": BLOG[:50_000],
         "2 symbols": symbols(2, 3000), "100 symbols": symbols(100, 5000), "300 symbols": symbols(300, 9000),
         "6,000 symbols": symbols(6000, 30_000)}
COVERING = [dict(zip(MENUS, entries)) for entries in itertools.islice(zip(*[itertools.cycle(menu)
    for menu in MENUS.values()]), 10)]
ALL = [dict(zip(MENUS, entries)) for entries in itertools.product(["automatic", "article 10M"],
    *list(MENUS.values())[1:])]
for combined in COVERING + ALL:
    if combined["attention"] == "none" and combined["residual"] == "off":  # the form refuses this
        combined["residual"] = "on"


@pytest.mark.parametrize(("form", "text"), [*zip(COVERING, [*list(TEXTS)[:7], *["2,000"] * 3])]
                         + [pytest.param(COVERING[2], "6,000 symbols", marks=pytest.mark.slow)]
                         + [pytest.param(form, "2,000", marks=pytest.mark.slow) for form in ALL], ids=str)
def test_every_menu_entry_and_text_runs_from_top_to_bottom(tmp_path, form, text):
    names, said, drawn = play(tmp_path, TEXTS[text], **form)
    assert set(drawn) == set(FIGURES) - ({"attention-show"} if form["attention"] == "none" else set())
    assert names.run.step == 30 and "ok " in said and f"After 30 steps: loss {names.final:.3f}" in said


def test_all_experiments_run_and_every_cell_runs_again_alone(tmp_path):
    names, said, drawn = play(tmp_path, BLOG[:9000], again=True, experiments="full", checkpoint_folder="saved",
        max_iters=20)
    assert {"sweep", "overfitting", "recipe", "ablation", "rates-picture", "leaky", "scaling"} <= set(drawn)
    assert said.count("3 seed(s)") == 2 and all(min(losses) > 0 for losses in names.ablation.values())
    assert len(re.findall(r"^\S.*? \d\.\d{3} +(\d\.\d{3}|-) ", said, re.M)) >= 4 + 10 + 9, "a row of each table"
    assert "Going on" not in said and (tmp_path / "saved").is_dir()


def test_effort_follows_the_form_and_the_machine(lesson):
    for asked, effort in (("full", "full"), ("quick", "quick"), ("off", "off"), ("automatic", "off")):
        exec(CODE["effort"], names := {**lesson, "experiments": asked, "print": lambda *_: None})
        assert names["effort"] == effort
    experiments = [cell for cell, tags in TAGS.items() if "experiment" in tags]
    assert len(experiments) >= 5


def test_compare_trains_each_variant_as_train_would(lesson, capsys):
    tokenizer = lesson.CharTokenizer(BLOG[:3000])
    ids = torch.tensor(tokenizer.encode(BLOG[:3000]))
    base = lesson.Config(len(set(BLOG[:3000])), 16, 1, 2, 16, batch_size=4, max_iters=25, learning_rate=1e-2)
    lesson.update(train_ids=ids[:2700], val_ids=ids[2700:], tokenizer=tokenizer, part_of_steps=1.0, machine="this")
    variants = {"one": base, "two": lesson.replace(base, residual="bug", max_iters=40)}
    found = lesson.compare(variants, "both", (1, 2), {"one": 1.5}, together=1)
    for name, cfg in variants.items():
        for seed, loss in zip((1, 2), found[name]):
            cfg = lesson.replace(cfg, seed=seed)
            run = lesson.Run(lesson.build(cfg), cfg, ids[:2700], ids[2700:])
            lesson.train(run)
            assert loss == pytest.approx(run.history[-1]["val"], abs=1e-6)
    said = capsys.readouterr().out
    assert re.search(r"one +\d\.\d{3} +\d\.\d{3} +\+0\.000 +\d+\.\d +1\.5  \S", said) and re.search(r"two +\d", said)


@pytest.mark.parametrize(("other", "mark"), [([1.1, 1.3], "\\?"), ([1.5, 1.6], " "), ([0.8, 0.9], " ")])
def test_what_the_seeds_cannot_tell_apart_is_marked(lesson, monkeypatch, capsys, other, mark):
    cfg = lesson.Config(20, 8, 1, 1, 8)
    monkeypatch.setitem(lesson, "train_together", lambda *_: ([1.0, 1.2, *other], [lesson.build(cfg)] * 4))
    monkeypatch.setitem(lesson, "write_plainly", lambda *_: "so it writes")
    lesson.update(train_ids=None, val_ids=None, part_of_steps=1.0, machine="this")
    lesson.compare({"a": cfg, "b": cfg}, "two", (1, 2))
    assert re.search(rf"^b .*[+-]0\.\d{{3}}{mark} .*so it writes$", capsys.readouterr().out, re.M)


@pytest.mark.parametrize("agreement", [0.0, 1.0])
@pytest.mark.parametrize("attention", ["manual", "none"])
def test_operations_of_a_step_are_those_that_pytorch_counts(lesson, agreement, attention):
    cfg = lesson.Config(30, 32, 2, 2, 64, attention, batch_size=2, agreement=agreement, dropout=0.0, read_once=0.0)
    ids = torch.randint(30, (200,))
    run = lesson.Run(lesson.build(cfg), cfg, ids, ids)
    with FlopCounterMode(display=False) as counter:
        lesson.train_step(run)
    assert lesson.operations_per_step(cfg) == pytest.approx(counter.get_total_flops(), rel=0.12)
