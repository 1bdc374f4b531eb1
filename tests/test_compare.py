"""benchmarks/compare.py: its pure pieces, and one row at a tiny scale."""
import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from conftest import ROOT

from benchmarks.compare import (
    Stamped,
    assign,
    main,
    markdown,
    measured,
    pair_rows,
    prepare,
    read_log,
    settings,
    training_row,
)


def test_assign_changes_one_unindented_line_and_leaves_the_rest():
    rest = "# steps = 6\ndef f():\n    steps = 7\n"
    changed = assign(f"steps = 5\n{rest}rate = 1e-3  # why\n", steps=9, rate=r"f('\1')")
    assert changed == f"steps = 9\n{rest}rate = f('\\1')\n"


@pytest.mark.parametrize("source, lines", [("other = 1\n    steps = 2", 0), ("steps = 1\nsteps = 2", 2)])
def test_assign_names_what_it_did_not_find_once(source, lines):
    with pytest.raises(ValueError, match=f"assigns steps on {lines} lines; this program expects one"):
        assign(source, steps=3)


def test_printed_lines_are_stamped_in_order():
    stamped = Stamped()
    print("one", "two", file=stamped)
    stamped.write("three\nfour")
    (first, one), (second, two) = stamped.lines
    assert (one, two) == ("one two", "three") and first <= second


def test_log_of_nanogpt():
    lines = [(3.0, "number of parameters: 0.01M"), (4.0, "using fused AdamW: True"),
             (5.0, "step 0: train loss 4.2000, val loss 4.3000"),
             (6.0, "iter 0: loss 4.2500, time 900.00ms, mfu -100.00%"),
             (6.5, "iter 10: loss 3.0000, time 1.00ms, mfu 1.00%"),
             (7.0, "iter 20: loss 2.9000, time 1.00ms, mfu 1.00%"),
             (9.0, "step 30: train loss 2.7000, val loss 2.8000"),
             (9.1, "iter 30: loss 2.7000, time 1.00ms, mfu 1.00%")]
    curve, ms = read_log(lines)
    assert curve == [(0, 4.3, 1.0), (30, 2.8, 5.0)]
    assert ms == pytest.approx(50)  # by the stamps, and the stretch with an evaluation does not matter
    with pytest.raises(ValueError, match="printed no lines like"):
        read_log(lines[:4])


def test_tables():
    assert markdown(["", "b"], [["x", "1"], ["y", "2"]]) == "|  | b |\n|-|-|\n| x | 1 |\n| y | 2 |"
    one = dict(parameters=9.9e6, steps=1000, loss=1.5, seconds=10.0, ms=9.0, share=None, memory=2.0,
               curve=[(0, 4.0, 0.1), (50, 1.7, 1.0), (100, 1.6, 2.0)])
    two = one | dict(loss=1.7, seconds=12.0)
    assert training_row("ours", [one, two], 1.7) == [
        "ours (2 seeds)", "9.9M", "1,000", "1.600 ± 0.141", "11.0", "1.0", "9.0", "–", "2.0"]
    assert training_row("ours", [one], 1.5)[5] == "not reached"


def test_twice_as_fast_is_two_whether_speed_or_time_is_measured():
    rows = pair_rows({"ours sampling": [dict(speed=100)], "original sampling": [dict(speed=50)],
                      "ours 800k": [dict(ms=50, seconds=60)], "original 800k": [dict(ms=100, seconds=120)]})
    assert [row[1:] for row in rows] == [["100", "50", "2.0"], ["50", "100", "2.0"], ["~60", "~120", "2.0"]]
    assert [row[1:] for row in pair_rows({"ours sampling": [dict(speed=100)]})] == [["100", "–", "–"]]


@pytest.fixture
def without_ipython(monkeypatch):
    for name in ("IPython", "IPython.display"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed


@pytest.fixture
def prepared(without_ipython):
    """What every row needs, for the sample blog."""
    return prepare(SimpleNamespace(text=str(ROOT / "data" / "blog.txt"), scale=1.0, seed=1))


def test_definitions_need_no_ipython(prepared):
    assert sys.modules["IPython"].get_ipython() is None
    assert not prepared.nb.in_notebook()


def test_default_is_measured_for_as_long_as_the_notebook_trains_it(prepared):
    cfg, train_cfg = settings(prepared, "as written", seed=2)
    assert (cfg, train_cfg) == prepared.nb.configure(prepared.form | dict(configuration="as written", seed=2),
                                                     prepared.vocab_size, len(prepared.data[1]))
    assert train_cfg.max_iters > 1000 and train_cfg.agreement > 0 and train_cfg.seed == 2
    assert settings(prepared, "article 10M")[1].agreement == 0


def test_share_of_peak_counts_a_window_as_often_as_it_is_read(prepared):
    cfg, train_cfg = prepared.nb.configure(prepared.form | dict(configuration="article 200k"), 50, 100_000)
    prepared.peak, net = 1e12, prepared.nb.GPT(cfg)
    once, twice = (measured(prepared, cfg, replace(train_cfg, agreement=weight), net, ms=5.0) for weight in (0.0, 2.0))
    assert once["share"] == pytest.approx(prepared.nb.flops_per_step(cfg, train_cfg) / 5e-3 / 1e12)
    assert twice["share"] == pytest.approx(2 * once["share"])
    assert once["parameters"] == sum(prepared.nb.parameters_by_part(cfg).values())


def test_a_row_on_a_tiny_text(tmp_path):
    text, raw = tmp_path / "tiny.txt", tmp_path / "raw.json"
    text.write_text("the cat sat on the mat. " * 50, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "compare.py", "--text", text, "--scale", "0.01", "--json", raw,
         "--loss", "9", "--only", "ours small default"],
        cwd=tmp_path, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    first, trial, header, line, row = [line for line in done.stdout.splitlines() if line]
    assert "1,200 characters" in first and "PyTorch" in first and "0.01 of all iterations" in trial
    assert header.count("|") == line.count("|") == row.count("|") == 10
    assert row.startswith("| ours small default |") and "not reached" not in row
    assert json.loads(raw.read_text())["rows"]["ours small default"][0]["steps"] == 10


def test_a_row_without_its_checkout_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["compare.py", "--only", "original 10M"])
    with pytest.raises(SystemExit):
        main()
    assert "needs a checkout: give --original DIR" in capsys.readouterr().err


def test_measurements_of_several_calls_are_joined(tmp_path, capsys, monkeypatch):
    row = dict(parameters=1e6, steps=10, loss=1.5, seconds=2.0, ms=3.0, share=0.1, memory=1.0, curve=[(10, 1.5, 2.0)])
    shared = dict(machine="a GPU", torch="2.11", number_format="bf16", scale=1.0, length=1000, failures=[])
    for name, rows in (("a", {"ours default": [row, row]}), ("b", {"original 10M": [row]})):
        (tmp_path / name).write_text(json.dumps(shared | dict(rows=rows)))
    monkeypatch.setattr(sys, "argv", ["compare.py", "--join", str(tmp_path / "a"), str(tmp_path / "b")])
    main()
    printed = capsys.readouterr().out
    assert printed.startswith("a GPU, PyTorch 2.11, bf16 (the original: fp32), text of 1,000 characters.")
    assert "| ours default (2 seeds) | 1.0M | 10 | 1.500 ± 0.000 | 2.0 |" in printed and "| original 10M |" in printed
