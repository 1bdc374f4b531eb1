"""A run that is cut off, stopped or broken loses nothing: checkpoints, kill -9, the stop button, exploding losses."""
import errno
import inspect
import json
import math
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
import torch
from conftest import ROOT, source, tags

TEXT = "Tea was late. The 7:12 was later; nobody minded.\nBread rose, and the kettle sang of rain & rust.\n" * 15
BACKWARDS = TEXT + TEXT[::-1][:len(TEXT) // 9]  # to validate on what training makes ever less likely


class FastClock:
    """The module `time` with a racing stopwatch: watchers are called at every look, not only once a second."""

    def __getattr__(self, name):
        return getattr(time, name)

    def perf_counter(self):
        return 1e6 * time.perf_counter()

    def monotonic(self):
        return 1e6 * time.monotonic()


@pytest.fixture(autouse=True)
def one_slow_processor(lesson, monkeypatch):
    monkeypatch.setitem(lesson.globals, "device", torch.device("cpu"))
    monkeypatch.setitem(lesson.globals, "time", FastClock())
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def new_run(lesson, text=TEXT, **changes):
    """A tiny run in which everything random is at work, ready to be trained."""
    tokenizer = lesson.CharTokenizer(text)
    settings = dict(n_layer=1, n_head=2, n_embd=16, block_size=16, dropout=0.1, attention_dropout=0.1, batch_size=4,
                    max_iters=60, warmup=5, corruption=0.1, eval_interval=25, vocab_size=len(tokenizer.chars)) | changes
    cfg, train_cfg = (kind(**{k: v for k, v in settings.items() if k in kind.__annotations__})
                      for kind in (lesson.GPTConfig, lesson.TrainConfig))
    train_ids, val_ids = (torch.tensor(tokenizer.encode(part)) for part in lesson.split_text(text))
    return lesson.Run(lesson.GPT(cfg, train_cfg.seed), tokenizer, train_ids, val_ids, train_cfg)


def state(run):
    """Everything that a run has learnt and will depend on, except how long it took."""
    history = [{k: v for k, v in point.items() if k != "seconds"} for point in run.history]
    return dict(step=run.step, clock=run.clock, losses=run.losses, history=history, snapshots=run.snapshots,
                best=run.best, model=run.model.state_dict(), averaged=run.averaged.state_dict(),
                optimizer=run.optimizer.state_dict()["state"], scaler=run.scaler.state_dict(),
                batches=run.generator.get_state(), dropout=torch.get_rng_state(), finished=run.finished)


def differences(a, b, path=""):
    """Where two nested structures of tensors and numbers are not equal, bit for bit."""
    if type(a) is not type(b):
        return [f"{path}: {type(a)} and {type(b)}"]
    if isinstance(a, dict):
        wrong = [f"{path}: {set(a) ^ set(b)}"] * (set(a) != set(b))
        return wrong + [d for k in a if k in b for d in differences(a[k], b[k], f"{path}.{k}")]
    if isinstance(a, list | tuple):
        wrong = [f"{path}: {len(a)} and {len(b)} entries"] * (len(a) != len(b))
        return wrong + [d for i, (x, y) in enumerate(zip(a, b)) for d in differences(x, y, f"{path}.{i}")]
    equal = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return [] if equal else [path]


class Cut(Exception):
    """The machine is taken away."""


def cut_at(step):
    def watcher(run):
        if run.step >= step:
            raise Cut
    return watcher


def saver(lesson, run, folder):
    """The Checkpoints that the run was resumed with, for they know which files are its own; else new ones."""
    known = getattr(run, "saver", None)
    return known if known and folder else lesson.Checkpoints(folder, every=0.0)


def train_until(lesson, run, step, folder):
    with pytest.raises(Cut):
        lesson.train(run, saver(lesson, run, folder), cut_at(step))


def resumed(lesson, folder, **changes):
    """What running the cell again does, up to the training."""
    run = new_run(lesson, **changes)
    run.saver = lesson.Checkpoints(folder, every=0.0)
    run.saver.resume(run)
    return run


def finish(lesson, run, folder=None):
    lesson.train(run, saver(lesson, run, folder))
    return run


def saved_steps(folder):
    return [torch.load(path, weights_only=True)["step"] for path in sorted(folder.glob("checkpoint-*.pt"))]


def newest(folder):
    return max(folder.glob("checkpoint-*.pt"))


def assert_consistent(run):
    """History, counters and losses all speak of the same step."""
    steps = [point["step"] for point in run.history]
    assert run.step == int(run.clock) == steps[-1]
    assert steps == sorted(set(steps)), "no step is noted twice"
    assert (run.losses[:run.step] > 0).all() and (run.losses[run.step:] == 0).all()
    assert all(math.isfinite(point["val"]) and math.isfinite(point["train"]) for point in run.history)


def assert_usable(lesson, run):
    assert all(p.isfinite().all() for net in (run.model, run.averaged) for p in net.parameters())
    assert len("".join(lesson.generate(run.averaged, run.tokenizer, length=5, stop=None))) == 5
    assert math.isfinite(lesson.evaluate(run.averaged, run.val_ids))


def assert_one_sentence(message, start):
    assert message.startswith(start), message
    assert "\n" not in message and message.endswith(".") and not re.search(r"[.!?] [A-Z]", message), message


# ---------------------------------------------------------------------------------------------------------------------
# Save and resume


VARIANTS = {
    "default": {},
    "the article's architecture": dict(position="learned", norm="layer", activation="relu", bias=True),
    "PyTorch's attention": dict(attention="pytorch", position="learned"),
    "no dropout, no corruption": dict(dropout=0.0, attention_dropout=0.0, corruption=0.0),
    "windows read once": dict(agreement=0.0),
    "fp16 with loss scaling": dict(number_format="fp16"),
    "bf16": dict(number_format="bf16"),
    "early stop": dict(patience=2, eval_interval=10, learning_rate=0.01, text=BACKWARDS),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_resumed_run_continues_bit_for_bit(lesson, tmp_path, variant):
    changes = VARIANTS[variant]
    whole = state(finish(lesson, new_run(lesson, **changes)))
    cut = 10 if "patience" in changes else 30
    train_until(lesson, new_run(lesson, **changes), cut, tmp_path)
    torch.manual_seed(999)
    run = resumed(lesson, tmp_path, **changes)
    assert run.step == cut < whole["step"]
    assert differences(whole, state(finish(lesson, run, tmp_path))) == []


@pytest.mark.parametrize("step", [10, 20, 50, 60])
def test_resumed_run_continues_from_any_step(lesson, tmp_path, step):
    """At 50 a validation loss is due, and 60 is the last step but the run has not been declared finished yet."""
    whole = state(finish(lesson, new_run(lesson)))
    train_until(lesson, new_run(lesson), step, tmp_path)
    assert differences(whole, state(finish(lesson, resumed(lesson, tmp_path)))) == []


def test_run_may_be_cut_many_times(lesson, tmp_path):
    whole = state(finish(lesson, new_run(lesson)))
    for step in (10, 20, 40, 50):
        train_until(lesson, resumed(lesson, tmp_path), step, tmp_path)
    assert differences(whole, state(finish(lesson, resumed(lesson, tmp_path)))) == []


def test_restored_run_is_the_saved_one(lesson, tmp_path, capsys):
    run = new_run(lesson)
    train_until(lesson, run, 30, tmp_path)
    before = state(run)
    assert differences(before, state(resumed(lesson, tmp_path))) == []
    assert f"Resumed at step 30 from {newest(tmp_path)}" in capsys.readouterr().out


def test_time_spent_before_the_cut_counts(lesson, tmp_path):
    run = new_run(lesson)
    train_until(lesson, run, 30, tmp_path)
    again = resumed(lesson, tmp_path)
    assert again.seconds == pytest.approx(run.seconds)
    assert finish(lesson, again).seconds > run.seconds


def age(folder, seconds=61):
    """Let what was being written when a run was killed look as if that had been a while ago."""
    for path in folder.glob("*.part"):
        os.utime(path, (time.time() - seconds,) * 2)


def test_last_two_files_are_kept_and_nothing_else(lesson, tmp_path):
    (tmp_path / "checkpoint-00000010.pt.12345.part").write_bytes(b"left by a run that was killed")
    age(tmp_path)
    finish(lesson, resumed(lesson, tmp_path), tmp_path)
    assert saved_steps(tmp_path) == [50, 60]
    assert len(list(tmp_path.iterdir())) == 2


def test_file_that_somebody_is_just_writing_is_left_alone(lesson, tmp_path):
    part = tmp_path / "checkpoint-00000010.pt.12345.part"
    part.write_bytes(b"half of it")
    age(tmp_path, seconds=30)
    finish(lesson, resumed(lesson, tmp_path), tmp_path)
    assert saved_steps(tmp_path) == [50, 60] and part.read_bytes() == b"half of it"


def test_other_files_in_the_folder_are_left_alone(lesson, tmp_path):
    """The folder may be somebody's downloads."""
    others = ["film.mp4.part", "notes.txt", "model.pt", "checkpoint.txt"]
    for name in others:
        (tmp_path / name).write_text("mine")
    finish(lesson, resumed(lesson, tmp_path), tmp_path)
    assert [name for name in others if not (tmp_path / name).exists()] == []


def test_saves_now_and_then_and_at_the_end(lesson, tmp_path):
    lesson.train(new_run(lesson), lesson.Checkpoints(tmp_path, every=1e12))
    assert saved_steps(tmp_path) == [60]


def test_without_a_folder_nothing_is_written(lesson, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = new_run(lesson)
    checkpoints = lesson.Checkpoints("", every=0.0)
    checkpoints.resume(run)
    lesson.train(run, checkpoints)
    assert run.finished and not list(tmp_path.iterdir())


def test_folder_is_made_and_may_lie_in_the_home_folder(lesson, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    finish(lesson, new_run(lesson), "~/runs/first")
    assert saved_steps(tmp_path / "runs" / "first") == [50, 60]


@pytest.mark.parametrize("variant", ["default", "early stop"])
def test_finished_run_resumes_as_finished(lesson, tmp_path, variant):
    changes = VARIANTS[variant]
    run = finish(lesson, new_run(lesson, **changes), tmp_path)
    before = state(run)
    assert run.finished and (run.step < run.cfg.max_iters) == ("patience" in changes)
    again = resumed(lesson, tmp_path, **changes)
    assert again.finished
    assert differences(before, state(finish(lesson, again, tmp_path))) == []


# ---------------------------------------------------------------------------------------------------------------------
# What fits and what does not


OTHER = {  # change: what the sentence names
    "n_layer=2": "n_layer (1 there, 2 here)",
    "n_head=1": "n_head (2 there, 1 here)",
    "n_embd=8": "n_embd",
    "embedding_std=1.0": "embedding_std (0.02 there, 1.0 here)",
    "block_size=8": "block_size",
    "activation='gelu'": "activation ('relu2' there, 'gelu' here)",
    "dropout=0.0": "dropout",
    "learning_rate=0.002": "learning_rate (0.001 there, 0.002 here)",
    "batch_size=8": "batch_size",
    "weight_decay=0.1": "weight_decay",
    "corruption=0.0": "corruption",
    "agreement=0.0": "agreement (2.0 there, 0.0 here)",
    "seed=2": "seed",
    "number_format='bf16'": "number_format",
    "text=TEXT.replace('Tea', 'tea', 1)": "text",
    "text=TEXT[:-4] + 'tsur'": "text",  # differs in what it is validated on
    "text=TEXT.replace('&', '+')": "vocabulary",
    "text=TEXT + 'Zz'": "vocab",
}


@pytest.mark.parametrize("change", OTHER)
def test_checkpoint_of_another_run_is_refused(lesson, tmp_path, change):
    train_until(lesson, new_run(lesson), 10, tmp_path)
    other = new_run(lesson, **eval(f"dict({change})"))
    before, files = state(other), {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError) as caught:
        lesson.Checkpoints(tmp_path).resume(other)
    assert_one_sentence(str(caught.value), f"checkpoint_folder={str(tmp_path)!r} ")
    assert f"another {OTHER[change]}" in str(caught.value) and "choose another folder" in str(caught.value)
    assert differences(before, state(other)) == [], "the run was touched"
    assert files == {path: path.read_bytes() for path in tmp_path.iterdir()}, "the folder was touched"


def test_checkpoint_of_another_version_is_refused(lesson, tmp_path, monkeypatch):
    train_until(lesson, new_run(lesson), 10, tmp_path)
    monkeypatch.setitem(lesson.globals, "FORMAT", lesson.FORMAT + 1)
    with pytest.raises(ValueError, match="version|format") as caught:
        resumed(lesson, tmp_path)
    assert_one_sentence(str(caught.value), "checkpoint_folder=")


def test_other_format_is_refused_for_its_format_first(lesson, tmp_path):
    """Whatever else differs, that is the reason: a field may be lacking just because the file is older."""
    train_until(lesson, new_run(lesson), 10, tmp_path)
    saved = torch.load(newest(tmp_path), weights_only=True)
    saved["identity"] |= dict(format=1, n_embd=8, vocab_size=3, vocabulary="abc", text=0)
    del saved["identity"]["agreement"], saved["identity"]["block_size"], saved["identity"]["device"]
    torch.save(saved, newest(tmp_path))
    with pytest.raises(ValueError) as caught:
        resumed(lesson, tmp_path)
    assert_one_sentence(str(caught.value), f"checkpoint_folder={str(tmp_path)!r} ")
    assert f"another format (1 there, {lesson.FORMAT} here)" in str(caught.value)
    with pytest.raises(ValueError, match=f"has format 1: .* reads format {lesson.FORMAT}"):
        lesson.load(newest(tmp_path))


@pytest.mark.parametrize("cut", [30, 40])
def test_more_steps_may_be_asked_for(lesson, tmp_path, cut):
    """With a constant learning rate a run of 40 steps, extended to 60, is a run of 60 steps."""
    whole = finish(lesson, new_run(lesson))
    if cut == 40:
        finish(lesson, new_run(lesson, max_iters=40), tmp_path)
    else:
        train_until(lesson, new_run(lesson, max_iters=40), cut, tmp_path)
    run = finish(lesson, resumed(lesson, tmp_path))
    assert run.finished
    assert_consistent(run)
    for part in ("losses", "model", "averaged", "optimizer"):
        assert differences(state(whole)[part], state(run)[part]) == []


def test_extending_at_an_evaluation_notes_it_once(lesson, tmp_path):
    finish(lesson, new_run(lesson, max_iters=25), tmp_path)
    assert_consistent(finish(lesson, resumed(lesson, tmp_path)))


def test_fewer_steps_than_done_means_finished_or_a_sentence(lesson, tmp_path):
    train_until(lesson, new_run(lesson), 40, tmp_path)
    try:
        run = finish(lesson, resumed(lesson, tmp_path, max_iters=20))
    except ValueError as error:
        assert_one_sentence(str(error), ("checkpoint_folder=", "max_iters="))
        assert "max_iters" in str(error)
    else:
        assert run.finished
        assert_usable(lesson, run)


def test_fewer_steps_asked_for_by_mistake_lose_nothing(lesson, tmp_path):
    whole = finish(lesson, new_run(lesson))
    train_until(lesson, new_run(lesson), 40, tmp_path)
    with suppress(ValueError):
        finish(lesson, resumed(lesson, tmp_path, max_iters=20), tmp_path)
    run = finish(lesson, resumed(lesson, tmp_path))
    assert torch.equal(run.losses, whole.losses)
    assert differences(whole.averaged.state_dict(), run.averaged.state_dict()) == []


def test_patience_and_capture_may_change(lesson, tmp_path):
    train_until(lesson, new_run(lesson), 30, tmp_path)
    assert finish(lesson, resumed(lesson, tmp_path, patience=50, capture=False)).step == 60


def test_checkpoint_from_a_gpu_is_resumed_or_refused_in_one_sentence(lesson, tmp_path):
    """The state of a GPU's generator has 16 bytes, which a processor's cannot take."""
    train_until(lesson, new_run(lesson), 10, tmp_path)
    path, foreign = newest(tmp_path), torch.zeros(16, dtype=torch.uint8)
    saved = torch.load(path, weights_only=True)
    identity = saved["identity"] | dict(device="cuda")
    torch.save(saved | dict(identity=identity, random=saved["random"] | dict(batches=foreign, cuda=foreign)), path)
    try:
        assert finish(lesson, resumed(lesson, tmp_path)).finished
    except ValueError as error:
        assert_one_sentence(str(error), "checkpoint_folder=")


# ---------------------------------------------------------------------------------------------------------------------
# Files and folders that fail


@pytest.mark.parametrize("left", [0, 1, 1000, 0.5, -1], ids=str)
def test_truncated_file_falls_back_on_the_one_before(lesson, tmp_path, capsys, left):
    whole = state(finish(lesson, new_run(lesson)))
    train_until(lesson, new_run(lesson), 30, tmp_path)
    data = newest(tmp_path).read_bytes()
    newest(tmp_path).write_bytes(data[:int(left * len(data)) if isinstance(left, float) else left])
    run = resumed(lesson, tmp_path)
    assert run.step == 20 and "checkpoint-00000030" in capsys.readouterr().out
    assert differences(whole, state(finish(lesson, run, tmp_path))) == []
    assert saved_steps(tmp_path) == [50, 60], "both readable again"


class Trap:
    """Unpickling this would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


FOREIGN = {
    "text": lambda path: path.write_text("a shopping list"),
    "empty": lambda path: path.touch(),
    "a tensor": lambda path: torch.save(torch.zeros(3), path),
    "another program's weights": lambda path: torch.save({"model": {}, "epoch": 3}, path),
    "a pickle that runs code": lambda path: path.write_bytes(pickle.dumps(Trap(str(path.with_name("sprung"))))),
    "torch's format, that runs code": lambda path: torch.save({"identity": Trap(str(path.with_name("sprung")))}, path),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_file_is_passed_over(lesson, tmp_path, capsys, kind):
    FOREIGN[kind](tmp_path / "checkpoint-00000015.pt")
    run = resumed(lesson, tmp_path)
    assert run.step == 0 and "checkpoint-00000015.pt" in capsys.readouterr().out
    assert not (tmp_path / "sprung").exists()
    assert finish(lesson, run, tmp_path).finished and resumed(lesson, tmp_path).finished


def test_unreadable_files_with_higher_numbers_cost_no_checkpoint(lesson, tmp_path):
    """What has just been saved must not be thrown away as the oldest."""
    for step in (98, 99):
        (tmp_path / f"checkpoint-{step:08}.pt").write_bytes(b"cut off")
    train_until(lesson, resumed(lesson, tmp_path), 30, tmp_path)
    assert resumed(lesson, tmp_path).step == 30


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), torch.OutOfMemoryError("CUDA is full")])
def test_good_file_that_cannot_be_read_just_now_is_kept(lesson, tmp_path, monkeypatch, error):
    """A mounted drive may fail for a moment; the file must be there, under its name, at the next try."""
    train_until(lesson, new_run(lesson), 30, tmp_path)

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch, suppress(type(error), ValueError):
        patch.setattr(torch, "load", fail)
        resumed(lesson, tmp_path)
    assert resumed(lesson, tmp_path).step == 30


def no_space(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_is_reported_and_training_goes_on(lesson, tmp_path, monkeypatch, capsys):
    whole = state(finish(lesson, new_run(lesson)))
    monkeypatch.setitem(lesson.globals, "write_whole", no_space)
    run = finish(lesson, new_run(lesson), tmp_path)
    assert differences(whole, state(run)) == []
    lines = capsys.readouterr().out.splitlines()
    assert lines and all(str(tmp_path) in line and "No space left" in line and "not saved" in line for line in lines)


def test_disk_that_fills_up_keeps_the_last_good_file(lesson, tmp_path, monkeypatch):
    run, write, halves = new_run(lesson), Path.write_bytes, []

    def half(path, data):
        if run.step < 30:
            return write(path, data)
        halves.append(path)
        write(path, bytes(data)[:len(data) // 2])
        return no_space()

    monkeypatch.setattr(Path, "write_bytes", half)
    assert finish(lesson, run, tmp_path).finished and halves
    assert saved_steps(tmp_path) == [10, 20] and len(list(tmp_path.iterdir())) == 2
    assert resumed(lesson, tmp_path).step == 20


@pytest.mark.parametrize("where", ["a file", "below a file", "below a device"])
def test_folder_that_cannot_be_written_is_reported_and_training_goes_on(lesson, tmp_path, capsys, where):
    file = tmp_path / "file"
    file.write_text("mine")
    folder = {"a file": file, "below a file": file / "x", "below a device": Path("/dev/null/x")}[where]
    run = new_run(lesson)
    lesson.Checkpoints(folder).resume(run)
    assert finish(lesson, run, folder).finished
    assert f"checkpoint_folder={str(folder)!r}" in capsys.readouterr().out
    assert file.read_text() == "mine"


@contextmanager
def without_privileges():
    """Root may write everywhere, so be somebody else for a while."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs a system with users and permissions")
@pytest.mark.parametrize("mode", [0o555, 0o000], ids=["read only", "no access"])
def test_folder_of_somebody_else_is_reported_and_training_goes_on(lesson, capsys, mode):
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        folder = Path(place) / "theirs"
        train_until(lesson, new_run(lesson), 30, folder)
        assert resumed(lesson, folder).step == 30
        (folder / "checkpoint-00000040.pt.12345.part").write_bytes(b"cut off")
        folder.chmod(mode)
        try:
            with without_privileges():
                run = resumed(lesson, folder)
                assert run.step == (30 if mode == 0o555 else 0)
                assert finish(lesson, run, folder).finished
        finally:
            folder.chmod(0o755)
        assert f"checkpoint_folder={str(folder)!r}: not saved" in capsys.readouterr().out
        assert saved_steps(folder) == [20, 30]


IMPOSSIBLE = ["~nobody-of-that-name/runs", 5, True, "a\0b", "x" * 5000]


@pytest.mark.parametrize("folder", IMPOSSIBLE, ids=lambda folder: repr(folder)[:9])
def test_folder_that_cannot_be_meant_is_refused_by_name(lesson, folder):
    with pytest.raises(ValueError) as caught:
        lesson.Checkpoints(folder)
    assert_one_sentence(str(caught.value), f"checkpoint_folder={folder!r} ")


def steps_by_width(folder):
    """{n_embd: steps saved} of the files in a folder."""
    found = {}
    for path in sorted(folder.glob("checkpoint-*.pt")):
        saved = torch.load(path, weights_only=True)
        found.setdefault(saved["identity"]["n_embd"], []).append(saved["step"])
    return found


@pytest.mark.parametrize("first", [20, 30, 40, 60])
def test_two_different_runs_in_one_folder_keep_both_their_files(lesson, tmp_path, first):
    """Both began when it was empty. One is done; what the other saves has lower numbers, the very same, or higher."""
    done, other = (resumed(lesson, tmp_path, n_embd=width, max_iters=n) for width, n in ((16, 30), (32, 100)))
    finish(lesson, done, tmp_path)
    other.saver.every = 1e12
    train_until(lesson, other, first - 10, tmp_path)
    other.saver.every, expected = 0.0, []
    for step in range(first, 101, 10):
        expected = [*expected, step][-2:]
        train_until(lesson, other, step, tmp_path)
        assert steps_by_width(tmp_path) == {16: [20, 30], 32: expected}


def test_resumed_run_deletes_no_file_of_another(lesson, tmp_path):
    done, other = (resumed(lesson, tmp_path, n_embd=width, max_iters=n) for width, n in ((16, 20), (32, 60)))
    finish(lesson, done, tmp_path)
    train_until(lesson, other, 30, tmp_path)
    finish(lesson, resumed(lesson, tmp_path, n_embd=32), tmp_path)
    assert steps_by_width(tmp_path) == {16: [10, 20], 32: [50, 60]}


def test_two_runs_taking_turns_in_one_folder(lesson, tmp_path):
    """Two sessions have the same folder: each goes on undisturbed, and what lies there can always be resumed."""
    whole = state(finish(lesson, new_run(lesson)))
    train_until(lesson, new_run(lesson), 40, tmp_path)
    assert saved_steps(tmp_path) == [30, 40]
    train_until(lesson, new_run(lesson), 10, tmp_path)  # the other began later, from nothing
    assert resumed(lesson, tmp_path).step == 40
    assert differences(whole, state(finish(lesson, resumed(lesson, tmp_path), tmp_path))) == []


# ---------------------------------------------------------------------------------------------------------------------
# Using what was saved


def test_loaded_model_writes_what_the_run_writes(lesson, tmp_path):
    run = finish(lesson, new_run(lesson, learning_rate=0.01), tmp_path)
    model, tokenizer = lesson.load(newest(tmp_path))
    assert not model.training
    for knobs in (dict(prompt="Tea"), dict(prompt="The 7", temperature=1.0, top_k=5, seed=3)):
        texts = ["".join(lesson.generate(*pair, length=80, stop=None, **knobs))
                 for pair in ((model, tokenizer), (run.averaged, run.tokenizer))]
        assert texts[0] == texts[1] and len(set(texts[0])) > 3
    assert lesson.evaluate(model, run.val_ids) == lesson.evaluate(run.averaged, run.val_ids)


@pytest.mark.parametrize("variant", VARIANTS)
def test_any_architecture_can_be_loaded(lesson, tmp_path, variant):
    run = finish(lesson, new_run(lesson, **VARIANTS[variant] | dict(max_iters=10)), tmp_path)
    model, _ = lesson.load(str(newest(tmp_path)))
    assert model.cfg == run.model.cfg
    assert differences(run.averaged.state_dict(), model.state_dict()) == []


def test_loading_another_version_is_refused(lesson, tmp_path, monkeypatch):
    finish(lesson, new_run(lesson, max_iters=10), tmp_path)
    monkeypatch.setitem(lesson.globals, "FORMAT", lesson.FORMAT + 1)
    with pytest.raises(ValueError, match="version|format") as caught:
        lesson.load(newest(tmp_path))
    assert_one_sentence(str(caught.value), "")


@pytest.mark.parametrize("kind", FOREIGN)
def test_loading_a_foreign_file_is_refused(lesson, tmp_path, kind):
    path = tmp_path / "model.pt"
    FOREIGN[kind](path)
    with pytest.raises(ValueError) as caught:
        lesson.load(path)
    assert_one_sentence(str(caught.value), "")
    assert "model.pt" in str(caught.value) and not (tmp_path / "sprung").exists()


def test_model_card_names_size_loss_and_text(lesson, tmp_path):
    run = finish(lesson, new_run(lesson), tmp_path)
    card = lesson.model_card(run)
    size = sum(p.numel() for p in run.model.parameters())
    assert all(f"{n:,}" in card for n in (size, len(run.train_ids), len(run.val_ids), len(run.tokenizer.chars)))
    assert f"{lesson.evaluate(run.averaged, run.val_ids):.3f}" in card
    assert "do not use" in card
    assert torch.load(newest(tmp_path), weights_only=True)["card"] == card


def test_model_card_names_the_text_after_a_resume_too(lesson, tmp_path):
    run = new_run(lesson)
    run.trained_on = "letters of an aunt.txt"
    train_until(lesson, run, 30, tmp_path)
    assert "characters of letters of an aunt.txt" in torch.load(newest(tmp_path), weights_only=True)["card"]
    again = resumed(lesson, tmp_path)
    assert again.trained_on == "letters of an aunt.txt" and lesson.model_card(again) == lesson.model_card(run)


def test_three_lines_of_the_readme_load_a_trained_model(lesson, notebook, tmp_path, monkeypatch, capsys):
    """Verbatim, in a folder with the notebook and what a run left there; the notebook quotes the same."""
    heading = (ROOT / "README.md").read_text(encoding="utf-8").split("## Load a trained model\n")[1].split("\n## ")[0]
    (lines,) = re.findall(r"```python\n(.*?)```", heading, re.S)
    (own,) = [source(cell) for cell in notebook["cells"] if cell["id"] == "own-text"]
    assert re.findall(r"```python\n(.*?)```", own, re.S) == [lines]
    assert "Three lines" in heading and len(lines.splitlines()) == 3
    shutil.copy(ROOT / "bdunaganGPT.ipynb", tmp_path)
    monkeypatch.chdir(tmp_path)
    run = finish(lesson, new_run(lesson, learning_rate=0.01, text="Today " + TEXT), "checkpoints")
    capsys.readouterr()
    values = {"__name__": "fresh notebook"}
    exec(lines, values)
    written = capsys.readouterr().out[:-1]
    assert len(written) == 500 or written.endswith("\n\n\n")
    assert written == "".join(lesson.generate(run.averaged, run.tokenizer, "Today"))
    assert differences(run.averaged.state_dict(), values["model"].state_dict()) == []


# ---------------------------------------------------------------------------------------------------------------------
# kill -9


RUNNER = """
# Train a tiny model in a folder; with a second argument, die in a certain way.
import os, signal, sys, time
from pathlib import Path
import definitions as lesson
import torch

torch.set_num_threads(1)
lesson.device, lesson.time = torch.device("cpu"), FastClock()
folder, death, saves = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
write, replace = Path.write_bytes, os.replace

def fatal(name, before):
    "The function `name`, which does `before` and dies when it is called for the given time."
    original = {"write": write, "replace": replace}[name]
    def function(path, other):
        global saves
        saves -= 1
        if saves == 0:
            before(path, other)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(path, other)
    return function

if death == "half written":
    Path.write_bytes = fatal("write", lambda path, data: write(path, bytes(data)[:len(data) // 2]))
elif death == "before the rename":
    os.replace = fatal("replace", lambda path, other: None)
elif death == "after the rename":
    os.replace = fatal("replace", replace)

run = new_run(lesson, max_iters=150)
checkpoints = lesson.Checkpoints(folder, every=0.0)
checkpoints.resume(run)
print(f"begins at {run.step}", flush=True)
lesson.train(run, checkpoints)
torch.save(state(run), sys.argv[4])
"""


@pytest.fixture
def program(code_cells, tmp_path):
    """A folder with the notebook's definitions as a module, and a function that starts a script beside it."""
    cells = [source(cell) for cell in code_cells if "definitions" in tags(cell)]
    (tmp_path / "definitions.py").write_text("\n\n".join(cells), encoding="utf-8")
    helpers = map(inspect.getsource, (FastClock, new_run, state, differences))
    beginning = "\n\n".join([f"import time, torch\nTEXT = {TEXT!r}\n", *helpers])
    settings = os.environ | dict(MPLBACKEND="Agg", OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")

    def start(script, *arguments):
        (tmp_path / "script.py").write_text(beginning + script, encoding="utf-8")
        return subprocess.Popen([sys.executable, "script.py", *map(str, arguments)], cwd=tmp_path, env=settings,
                                text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return start


@pytest.fixture
def uninterrupted(lesson):
    """State of a run of 150 steps that nobody disturbed, and how long it took."""
    began = time.monotonic()
    run = finish(lesson, new_run(lesson, max_iters=150))
    return state(run), time.monotonic() - began


def wait_to_kill(process, death, folder, moment):
    """Wait until the training runs, then for the moment to come."""
    for line in process.stdout:
        if line.startswith("begins"):
            break
    if death == "random moment":
        time.sleep(moment)
    while death == "a .part file" and process.poll() is None and not list(folder.glob("*.part")):
        pass
    if death in ("random moment", "a .part file"):
        process.kill()


def finish_despite(program, deaths, folder, draw, seconds):
    """Train in `folder`, dying each of `deaths`, until the end; returns (how it was killed, final state)."""
    kills, result = Counter(), folder.with_suffix(".result")
    for death in [*deaths, None]:
        process = program(RUNNER, folder, death, draw.randint(1, 4), result)
        wait_to_kill(process, death, folder, draw.uniform(0, seconds))
        output = process.stdout.read()
        process.wait()
        assert process.returncode in (0, -signal.SIGKILL), output
        assert "cannot be read" not in output
        if process.returncode == 0:
            break
        kills[death] += 1
        age(folder)
    return kills, torch.load(result, weights_only=False)


def test_killed_run_ends_as_if_nothing_had_happened(program, uninterrupted, tmp_path):
    whole, seconds = uninterrupted
    deaths = ["half written", "after the rename", "random moment"]
    kills, final = finish_despite(program, deaths, tmp_path / "run", random.Random(5), seconds / 2)
    assert kills["half written"] == kills["after the rename"] == 1
    assert differences(whole, final) == []
    assert saved_steps(tmp_path / "run") == [140, 150]
    assert len(list((tmp_path / "run").iterdir())) == 2


@pytest.mark.slow
def test_fifty_kills(program, uninterrupted, tmp_path):
    """Fifty at random moments; those at chosen ones come on top."""
    whole, seconds = uninterrupted
    draw, survived = random.Random(), Counter()
    certain = ["half written", "before the rename", "after the rename", "a .part file"]
    for number in range(100):
        one, other = certain[number % 4], certain[(number + 2) % 4]
        deaths = [one, "random moment", "random moment", other, "random moment", "random moment"]
        kills, final = finish_despite(program, deaths, tmp_path / f"run{number}", draw, seconds / 3)
        survived += kills
        assert differences(whole, final) == [], f"run {number}"
        assert saved_steps(tmp_path / f"run{number}") == [140, 150]
        assert len(list((tmp_path / f"run{number}").iterdir())) == 2
        if survived["random moment"] >= 50:
            break
    print(f"{survived.total()} kills survived in {number + 1} runs: {dict(survived)}")
    assert survived["random moment"] >= 50 and min(survived[death] for death in certain[:3]) >= 3


def test_two_runs_at_once_in_one_folder(program, uninterrupted, tmp_path):
    whole, _ = uninterrupted
    folder = tmp_path / "run"
    both = [program(RUNNER, folder, "", 0, tmp_path / f"result{i}") for i in range(2)]
    for i, process in enumerate(both):
        output = process.communicate()[0]
        assert process.returncode == 0 and "Traceback" not in output, output
        assert differences(whole, torch.load(tmp_path / f"result{i}", weights_only=False)) == []
    assert saved_steps(folder)[-1] == 150 and not list(folder.glob("*.part"))


# ---------------------------------------------------------------------------------------------------------------------
# The stop button


def press_stop(*_):
    signal.raise_signal(signal.SIGINT)


def stop_at(step):
    """A watcher that presses the stop button once."""
    presses = [press_stop]
    return lambda run: presses.pop()() if run.step >= step and presses else None


@pytest.fixture
def outside():
    """Presses that broke through to whoever called `train`; the handler must be the caller's again afterwards."""
    presses = []
    before = signal.signal(signal.SIGINT, handler := lambda *_: presses.append(1))
    yield presses
    assert signal.signal(signal.SIGINT, before) is handler


@pytest.mark.parametrize("eval_interval", [25, 10], ids=["between evaluations", "at an evaluation"])
def test_stop_ends_between_two_steps_and_training_can_go_on(lesson, outside, eval_interval):
    whole = state(finish(lesson, new_run(lesson, eval_interval=eval_interval)))
    run = new_run(lesson, eval_interval=eval_interval)
    lesson.train(run, stop_at(20))
    assert run.step == 20 and not run.finished and not outside
    assert_consistent(run)
    assert_usable(lesson, run)
    lesson.train(run)
    assert_consistent(run)
    assert run.finished and torch.equal(run.losses, whole["losses"])
    assert differences(whole["model"], run.model.state_dict()) == []


def test_fresh_run_after_a_stop_is_undisturbed(lesson, outside):
    whole = state(finish(lesson, new_run(lesson)))
    lesson.train(new_run(lesson), stop_at(20))
    assert differences(whole, state(finish(lesson, new_run(lesson)))) == []


PLACES = [("evaluate", 1), ("evaluate", 3), ("sample_batch", 1), ("sample_batch", 13), ("advance", 1), ("advance", 30),
          ("note", 1), ("note", 4), ("write_whole", 1), ("write_whole", 3)]


@pytest.mark.parametrize("place, call", PLACES)
def test_stop_at_any_place(lesson, outside, monkeypatch, tmp_path, place, call):
    """Pressed while `place` is at work for the given time; what lies in the folder is resumed to the same end."""
    whole, original, calls = state(finish(lesson, new_run(lesson))), lesson.globals[place], []

    def pressed(*arguments):
        calls.append(place)
        if len(calls) == call:
            press_stop()
        return original(*arguments)

    monkeypatch.setitem(lesson.globals, place, pressed)
    run = finish(lesson, new_run(lesson), tmp_path)
    assert len(calls) >= call and run.step < 60 and not outside
    assert_consistent(run)
    assert_usable(lesson, run)
    again = finish(lesson, resumed(lesson, tmp_path))
    assert torch.equal(again.losses, whole["losses"])
    assert differences(whole["averaged"], again.averaged.state_dict()) == []


def test_stop_while_the_picture_is_drawn(lesson, outside, monkeypatch):
    """It is drawn to the end, and once more when the run has stopped."""
    drawn, lines, original = [], [], lesson.Board.draw

    def draw(board, run):
        drawn.append(run.step)
        if len(drawn) == 2:
            press_stop()
        return original(board, run)

    def update(shown, **_):
        lines.append(shown["text/plain"]) if isinstance(shown, dict) else None

    monkeypatch.setattr(lesson.Board, "draw", draw)
    monkeypatch.setitem(lesson.globals, "in_notebook", lambda: True)
    monkeypatch.setitem(lesson.globals, "display", lambda *_, **__: SimpleNamespace(update=update))
    whole, run, figures = finish(lesson, new_run(lesson)), new_run(lesson), plt.get_fignums()
    lesson.train(run, lesson.Board({"chance": 3.0}))
    assert drawn == [10, 20, 20] and run.stopped and not run.finished and not outside
    assert lines[-1].startswith("step 20 of 60 ") and "stopped after" in lines[-1]
    assert plt.get_fignums() == figures, "figures are closed"
    assert_consistent(run)
    lesson.train(run, lesson.Board({"chance": 3.0}))
    assert run.finished and torch.equal(run.losses, whole.losses)


def test_stopped_run_is_saved(lesson, outside, tmp_path):
    """Whoever presses stop may close the machine next."""
    run = new_run(lesson)
    lesson.train(run, lesson.Checkpoints(tmp_path, every=1e12), stop_at(20))
    assert resumed(lesson, tmp_path).step == 20


def test_stop_pressed_again_during_the_last_save_costs_nothing(lesson, outside, monkeypatch, tmp_path):
    original, run = lesson.write_whole, new_run(lesson)

    def pressed(*arguments):
        if run.finished:
            press_stop()
        return original(*arguments)

    monkeypatch.setitem(lesson.globals, "write_whole", pressed)
    finish(lesson, run, tmp_path)
    assert not outside, "it broke into the last save"
    assert resumed(lesson, tmp_path).finished


def test_training_in_a_thread_has_no_stop_button_but_works(lesson):
    run = new_run(lesson)
    thread = threading.Thread(target=lesson.train, args=(run,))
    thread.start()
    thread.join()
    assert run.finished


STOPPER = """
# Press the stop button at a random moment of each run; what is left must be consistent, and go on to the same end.
import json, os, random, signal, sys, threading, time
import definitions as lesson
import torch

torch.set_num_threads(1)
lesson.device, lesson.time = torch.device("cpu"), FastClock()
signal.signal(signal.SIGINT, lambda *_: None)  # for presses after the end
lesson.train(new_run(lesson))  # the first one takes longer
whole = new_run(lesson, max_iters=150)
began = time.monotonic()
lesson.train(whole)
seconds, draw, stops = time.monotonic() - began, random.Random(int(sys.argv[2])), []
for number in range(int(sys.argv[1])):
    run, folder = new_run(lesson, max_iters=150), f"stopped{number}"
    def press(delay=draw.uniform(0, seconds)):
        time.sleep(delay)
        os.kill(os.getpid(), signal.SIGINT)
    thread = threading.Thread(target=press)
    thread.start()
    lesson.train(run, lesson.Checkpoints(folder, every=0.0))
    thread.join()
    steps = [point["step"] for point in run.history]
    assert run.step == int(run.clock) == steps[-1] and steps == sorted(set(steps)), (run.step, int(run.clock), steps)
    assert (run.losses[:run.step] > 0).all() and (run.losses[run.step:] == 0).all()
    assert "".join(lesson.generate(run.averaged, run.tokenizer, length=3, stop=None))
    stops.append(run.step)
    again = new_run(lesson, max_iters=150)
    lesson.Checkpoints(folder).resume(again)
    lesson.train(again)
    assert torch.equal(again.losses, whole.losses)
    assert differences(whole.averaged.state_dict(), again.averaged.state_dict()) == []
print(json.dumps(stops))
"""


def test_stop_at_random_moments(program):
    process = program(STOPPER, 8, random.randrange(10**6))
    output = process.communicate()[0]
    assert process.returncode == 0, output
    stops = json.loads(output.splitlines()[-1])
    assert len(stops) == 8 and sum(step < 150 for step in stops) >= 2, stops


# ---------------------------------------------------------------------------------------------------------------------
# Losses that explode


def poison_after(lesson, monkeypatch, step):
    """Make one weight useless after `step` steps, as an update that overflows does."""
    original = lesson.update

    def update(run):
        original(run)
        if run.step + 1 == step:
            for net in (run.model, run.averaged):
                net.lm_head.weight.data[0, 0] = math.nan

    monkeypatch.setitem(lesson.globals, "update", update)


@pytest.mark.parametrize("step", [3, 8, 23, 30, 49, 59, 60])
def test_loss_that_is_no_number_brings_the_best_weights_back(lesson, monkeypatch, outside, step):
    poison_after(lesson, monkeypatch, step)
    run = new_run(lesson)
    with pytest.raises(FloatingPointError) as caught:
        lesson.train(run)
    assert re.search(rf"\bnan at step {step}\b", str(caught.value)) and "learning_rate=0.001" in str(caught.value)
    assert differences(run.best["weights"], dict(run.averaged.state_dict())) == []
    assert run.best["step"] <= step and f"step {run.best['step']} were restored" in str(caught.value)
    assert_usable(lesson, run)


@pytest.mark.parametrize("step", [3, 30, 50])
def test_loss_that_is_no_number_leaves_no_trace_in_the_history(lesson, monkeypatch, step):
    """Else the picture and the model card tell of another model than the one that is there."""
    poison_after(lesson, monkeypatch, step)
    run = new_run(lesson)
    with pytest.raises(FloatingPointError):
        lesson.train(run)
    assert_consistent(run)
    assert "nan" not in lesson.model_card(run)


WORSENING = dict(text=BACKWARDS, learning_rate=0.03, eval_interval=10)  # best long before the end


def test_loss_that_is_no_number_brings_the_last_evaluation_back(lesson, monkeypatch):
    """Not the best: that may lie long ago, and is kept anyway."""
    poison_after(lesson, monkeypatch, 57)
    run, noted, original = new_run(lesson, **WORSENING), {}, lesson.note

    def note(run, val):
        original(run, val)
        noted[run.step] = {name: w.clone() for name, w in run.averaged.state_dict().items()}

    monkeypatch.setitem(lesson.globals, "note", note)
    with pytest.raises(FloatingPointError, match="step 50 were restored"):
        lesson.train(run)
    assert run.best["step"] < 40 and run.step == 50 == run.good["step"]
    for net in (run.model, run.averaged):
        assert differences(noted[50], dict(net.state_dict())) == []
    assert lesson.evaluate(run.averaged, run.val_ids) == pytest.approx(run.history[-1]["val"], rel=1e-6)
    assert_consistent(run)


@pytest.mark.parametrize("cut", [40, 50])
def test_loss_that_is_no_number_soon_after_a_resume(lesson, monkeypatch, tmp_path, cut):
    """The last evaluation was in the session before; the history and the card must be those of what is restored."""
    run = new_run(lesson, **WORSENING | dict(eval_interval=20))
    train_until(lesson, run, cut, tmp_path)
    again = resumed(lesson, tmp_path, **WORSENING | dict(eval_interval=20))
    poison_after(lesson, monkeypatch, again.step + 5)
    with pytest.raises(FloatingPointError) as caught:
        lesson.train(again)
    assert again.best["step"] < 40 and f"step {again.step} were restored" in str(caught.value)
    assert_consistent(again)
    assert again.history[-1]["step"] == again.step == 40
    assert lesson.evaluate(again.averaged, again.val_ids) == pytest.approx(again.history[-1]["val"], rel=1e-6)


def test_loss_that_is_no_number_is_found_soon_between_evaluations(lesson, monkeypatch):
    poison_after(lesson, monkeypatch, 43)
    run, original, steps = new_run(lesson, max_iters=1000, eval_interval=1000), lesson.advance, []
    monkeypatch.setitem(lesson.globals, "advance", lambda run: (steps.append(run.step), original(run)))
    with pytest.raises(FloatingPointError, match="at step 43"):
        lesson.train(run)
    assert len(steps) <= 60


EXPLOSIVE = dict(norm="none", n_layer=3, learning_rate=1.0)


def test_learning_rate_that_is_too_high(lesson, outside):
    run = new_run(lesson, **EXPLOSIVE)
    with pytest.raises(FloatingPointError, match=r"at step \d+.*learning_rate=1.0"):
        lesson.train(run)
    assert_consistent(run)
    assert_usable(lesson, run)
    assert finish(lesson, new_run(lesson, **EXPLOSIVE | dict(learning_rate=1e-3))).finished


def test_exploded_run_stays_stopped(lesson):
    """Running only the training cell again must not report success, nor fail in another way."""
    run = new_run(lesson, **EXPLOSIVE)
    with pytest.raises(FloatingPointError):
        lesson.train(run)
    step = run.step
    lesson.train(run)
    assert run.step == step
    assert_usable(lesson, run)


def test_exploded_weights_are_not_saved(lesson, tmp_path, monkeypatch):
    poison_after(lesson, monkeypatch, 23)
    with pytest.raises(FloatingPointError):
        finish(lesson, new_run(lesson), tmp_path)
    model, _ = lesson.load(newest(tmp_path))
    assert saved_steps(tmp_path) == [10, 20] and all(p.isfinite().all() for p in model.parameters())


# ---------------------------------------------------------------------------------------------------------------------
# Too little memory


def fail_in_forward(net, call, failure):
    """Let the network fail in its given forward pass; returns the memory that this pass held, as weak references."""
    original, held, calls = net.forward, [], []

    def forward(*arguments):
        calls.append(1)
        if len(calls) == call:
            activations = torch.zeros(1000)
            held.append(weakref.ref(activations))
            failure()
        return original(*arguments)

    net.forward = forward
    return held


def out_of_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


@pytest.mark.parametrize("which, call", [("worker", 1), ("worker", 8), ("averaged", 1), ("averaged", 3)])
def test_out_of_memory_says_what_to_halve_and_frees_what_it_held(lesson, outside, which, call):
    run = new_run(lesson)
    held = fail_in_forward(getattr(run, which), call, out_of_memory)
    with pytest.raises(MemoryError) as caught:
        lesson.train(run)
    assert str(caught.value).startswith("batch_size=4 with block_size=16 ") and "halve one" in str(caught.value)
    assert held and held[0]() is None, "the failed step's tensors live on"
    assert not run.optimizer.state and run.replay is None
    assert finish(lesson, run).finished, "with memory again, the same Run goes on"
    assert finish(lesson, new_run(lesson, batch_size=2)).finished


def test_out_of_memory_on_a_processor_says_the_same(lesson):
    """There PyTorch raises a RuntimeError; batch_size=65536 is enough for that."""
    run = new_run(lesson)
    fail_in_forward(run.worker, 3, lambda: torch.empty(2**55))
    with pytest.raises(MemoryError, match="batch_size=4 with block_size=16 .*halve one"):
        lesson.train(run)


def test_other_errors_pass_through(lesson, outside):
    run = new_run(lesson)
    fail_in_forward(run.worker, 3, lambda: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        lesson.train(run)
    assert run.optimizer.state


FULL = [out_of_memory, lambda: torch.empty(2**55)]  # as a GPU says it, and as a processor does


@pytest.mark.parametrize("failure", FULL, ids=["GPU", "processor"])
@pytest.mark.parametrize("place", ["GPT", "Run"])
def test_network_that_does_not_fit_is_refused_and_frees_what_it_held(lesson, monkeypatch, place, failure):
    example, held, freed = new_run(lesson), [], []
    data = (example.tokenizer, example.train_ids, example.val_ids)

    def fail(*_):
        weights = torch.zeros(1000)
        held.append(weakref.ref(weights))
        failure()

    with monkeypatch.context() as patch:
        patch.setitem(lesson.globals, place, fail)
        patch.setattr(torch.cuda, "empty_cache", lambda: freed.append(held[0]() is None))
        with pytest.raises(MemoryError) as caught:
            lesson.start(example.model.cfg, example.cfg, *data)
    assert_one_sentence(str(caught.value), "n_embd=16 with n_layer=1 ")
    assert "halve n_embd" in str(caught.value)
    assert freed == [True], "the GPU's memory is given back once nothing lives in it"
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    assert finish(lesson, lesson.start(replace(example.model.cfg, n_embd=8), example.cfg, *data)).finished


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, KeyboardInterrupt])
def test_other_errors_in_making_a_network_pass_through(lesson, monkeypatch, kind):
    example = new_run(lesson)

    def fail(*_):
        raise kind("something else")

    monkeypatch.setitem(lesson.globals, "GPT", fail)
    with pytest.raises(kind, match="^something else$"):
        lesson.start(example.model.cfg, example.cfg, example.tokenizer, example.train_ids, example.val_ids)


def test_started_run_is_the_one_that_is_built_by_hand(lesson):
    by_hand = new_run(lesson, seed=7)
    run = lesson.start(by_hand.model.cfg, by_hand.cfg, by_hand.tokenizer, by_hand.train_ids, by_hand.val_ids)
    before = state(run)  # with the state of the random numbers that `start` left
    assert differences(before, state(new_run(lesson, seed=7))) == []
    assert run.model.cfg == by_hand.model.cfg and run.cfg == by_hand.cfg
