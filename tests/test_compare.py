"""benchmarks/compare.py: its pure pieces, and rows at a tiny scale."""
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT

from benchmarks.compare import assign, reached, read_log, report


def test_assign_changes_exactly_one_unindented_line():
    rest = "# steps = 6\ndef f():\n    steps = 7\n"
    assert assign(f"steps = 5\n{rest}", steps=r"f('\1')") == f"steps = f('\\1')\n{rest}"
    for source, lines in (("    steps = 2", 0), ("steps = 1\nsteps = 2", 2)):
        with pytest.raises(ValueError, match=f"assigns steps on {lines} lines"):
            assign(source, steps=3)


def test_log_of_nanogpt():
    lines = [(4.0, "using fused AdamW: True"), (5.0, "step 0: train loss 4.2000, val loss 4.3000"),
             (6.0, "iter 0: loss 4.2500, time 900.00ms"), (6.5, "iter 10: loss 3.0000, time 1.00ms"),
             (7.0, "iter 20: loss 2.9000, time 1.00ms"), (9.0, "step 30: train loss 2.7000, val loss 2.8000"),
             (9.1, "iter 30: loss 2.7000, time 1.00ms")]
    curve, ms = read_log(lines)
    assert curve == [(0, 4.3, 1.0), (30, 2.8, 5.0)] and ms == pytest.approx(50)
    with pytest.raises(ValueError, match="printed no lines like"):
        read_log(lines[:2])


def row(loss, low):
    return dict(machine="a GPU, PyTorch 2.11", length=1000, parameters=9.9e6, steps=100, passes=2.0, loss=loss, ms=9.0,
                seconds=2.0, pace=1e6, tflop=0.5, share=0.1, memory=2.0, curve=[(0, 4.0, 0.1), (50, low, 1.0)])


def test_tables():
    one, two = row(1.5, 1.4), row(1.7, 1.8)
    assert reached([one, one], 1.4) == "1.0 (25)" and reached([two], 1.4) == "not reached"
    assert reached([one, two], 1.7) == "1.0 (25), 1 of 2"
    printed = report({"ours, default": [one, two]}, ["x failed"], SimpleNamespace(loss=[1.7], scale=1))
    assert ("| ours, default (2 seeds) | 9.9M | 100 | 2 | 1.600 ± 0.141 | 1.600 at 50 | 2.0 | 1.0 (25), 1 of 2 |"
            in printed and "| 9.00 | 1,000 | 10.0 | 2.0 | – | – |" in printed and printed.endswith("x failed"))


def test_a_row_on_a_tiny_text_alone_and_joined(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (tmp_path / "tiny.txt").write_text("the cat sat on the mat. " * 50, encoding="utf-8")
    command = [sys.executable, ROOT / "benchmarks/compare.py", "--scale", "0.01", "--loss", "9"]
    more = ["--text", "tiny.txt", "--json", "raw", "--seeds", "1", "--only", "ours, default"]
    for arguments in (more, ["--join", "raw"]):
        done = subprocess.run(command + arguments, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=120)
        assert done.returncode == 0, done.stderr
        assert "1,200 characters" in done.stdout and "0.01 of all steps" in done.stdout
        assert done.stdout.count("| ours, default |") == 2 and "not reached" not in done.stdout
    assert json.loads((tmp_path / "raw").read_text())["rows"]["ours, default"][0]["steps"] == 15
