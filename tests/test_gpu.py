"""On a GPU: every number format, recorded and not, compiled and not; checkpoints, full memory and writing there.

    python -m pytest tests/test_gpu.py                       on a machine with CUDA; elsewhere everything is skipped
    GPU_TESTS_ON_CPU=1 python -m pytest tests/test_gpu.py    a dry run, in which recording is not tested

Needs PyTorch, NumPy, Matplotlib and pytest; IPython is replaced by a stub where it is missing.
"""
import gc
import os
import sys
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from conftest import ROOT
from test_checkpoints import FastClock

try:
    import IPython.display  # noqa: F401
except ImportError:
    stub, inner = ModuleType("IPython"), ModuleType("IPython.display")
    stub.display, stub.get_ipython, inner.display = inner, lambda: None, lambda *_, **__: None
    sys.modules.update({"IPython": stub, "IPython.display": inner})

CUDA = torch.cuda.is_available()
needs_cuda = pytest.mark.skipif(not CUDA, reason="needs a GPU")
pytestmark = pytest.mark.skipif(not CUDA and os.environ.get("GPU_TESTS_ON_CPU") != "1", reason="needs a GPU")
FORMATS = ["fp32", "fp16", "bf16"]
NOISE = {"fp32": 1e-3, "fp16": 3e-2, "bf16": 3e-2}  # in the losses of 60 steps, from the order of additions


@pytest.fixture(autouse=True)
def fresh(lesson, monkeypatch):
    """Watchers are called at every look (each ten steps), and nothing that was compiled or recorded before is left."""
    monkeypatch.setitem(lesson.globals, "time", FastClock())
    torch._dynamo.reset()  # else it gives up compiling after a number of networks
    yield
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()


@pytest.fixture(scope="module")
def text():
    return (ROOT / "data" / "blog.txt").read_text(encoding="utf-8")[:200_000]


@pytest.fixture
def new_run(lesson, text):
    """Makes a small run in which everything random is at work, ready to be trained."""
    def make(**changes):
        if CUDA and changes.get("number_format") == "bf16" and torch.cuda.get_device_capability() < (8, 0):
            pytest.skip("this GPU has no bf16")
        tokenizer = lesson.CharTokenizer(text)
        settings = dict(n_layer=2, n_head=4, n_embd=64, block_size=64, dropout=0.1, attention_dropout=0.1,
                        batch_size=32, max_iters=60, learning_rate=3e-3, warmup=10, corruption=0.05, eval_interval=30,
                        vocab_size=len(tokenizer.chars)) | changes
        cfg, train_cfg = (kind(**{name: value for name, value in settings.items() if name in kind.__annotations__})
                          for kind in (lesson.GPTConfig, lesson.TrainConfig))
        parts = (torch.tensor(tokenizer.encode(part), device=lesson.device) for part in lesson.split_text(text))
        return lesson.Run(lesson.GPT(cfg, train_cfg.seed), tokenizer, *parts, train_cfg)
    return make


def finish(lesson, run, *watchers):
    """Train to the end, or until a watcher stops the run; returns the run."""
    recorded = []
    lesson.train(run, *watchers, lambda run: recorded.append(run.replay is not None))
    assert recorded[-1] == (CUDA and run.cfg.capture and run.warm > 1), "recorded exactly when asked for"
    assert run.replay is None or not run.finished, "a finished run gives the memory of its recording back"
    assert run.step == int(run.clock) == run.history[-1]["step"]
    assert run.losses[:run.step].isfinite().all() and (run.losses[:run.step] > 0).all()
    return run


def stop_at(step):
    """A watcher that stops the run as the stop button does."""
    def watch(run):
        run.stopped = run.stopped or run.step >= step
    return watch


def largest_gap(a, b):
    return (a.float() - b.float()).abs().max().item()


# ---------------------------------------------------------------------------------------------------------------------
# Training


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
@pytest.mark.parametrize("capture", [True, False], ids=["recorded", "piece by piece"])
@pytest.mark.parametrize("number_format", FORMATS)
def test_sixty_steps_beat_the_frequencies_of_characters(lesson, new_run, number_format, capture, compiled):
    run = new_run(number_format=number_format, capture=capture, compile=compiled)
    train_ids, val_ids = run.train_ids.cpu().numpy(), run.val_ids.cpu().numpy()
    frequencies = lesson.ngram_losses(train_ids, val_ids, run.model.cfg.vocab_size)[0]
    torch._dynamo.utils.counters.clear()
    finish(lesson, run)
    assert run.finished and run.step == 60
    assert run.history[-1]["val"] < 0.95 * frequencies
    assert run.losses[-10:].mean() < 0.95 * frequencies
    assert all(p.isfinite().all() and p.dtype == torch.float32 for p in run.model.parameters())
    assert {p.dtype for p in run.worker.parameters()} == {lesson.DTYPES[number_format]}
    assert (torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0) == compiled


CALM = dict(dropout=0.0, attention_dropout=0.0)  # compiled code draws other random numbers
SAME = {  # changes to a plain run that must not change its losses, and the gap allowed
    "recorded, no dropout": (CALM, dict(capture=True), 1e-4),
    "recorded, with dropout": ({}, dict(capture=True), 1e-4),
    "recorded, windows read once": (dict(agreement=0.0), dict(capture=True), 1e-4),
    "compiled": (CALM, dict(compile=True), 2e-3),
    "recorded and compiled": (CALM, dict(capture=True, compile=True), 2e-3),
}


@pytest.mark.parametrize("case", SAME)
def test_first_twenty_losses_are_the_same(lesson, new_run, case):
    common, changes, allowed = SAME[case]
    common = dict(max_iters=20, capture=False) | common
    plain, other = (finish(lesson, new_run(**common | more)) for more in ({}, changes))
    assert largest_gap(plain.losses, other.losses) <= allowed
    assert abs(plain.history[-1]["val"] - other.history[-1]["val"]) <= allowed


@pytest.mark.parametrize("capture", [True, False], ids=["recorded", "piece by piece"])
def test_fp16_halves_its_scale_when_it_overflows_and_goes_on(lesson, new_run, capture):
    """A scale far too large: the steps that overflow are left out, inside the recording too."""
    run = new_run(number_format="fp16", capture=capture)
    run.scaler = torch.amp.GradScaler(lesson.device.type, init_scale=2.0**30)
    before = run.model.lm_head.weight.detach().clone()
    finish(lesson, run)
    assert run.scaler.get_scale() < 2.0**30
    assert not torch.equal(before, run.model.lm_head.weight) and run.losses[-1] < run.losses[0] - 0.5


# ---------------------------------------------------------------------------------------------------------------------
# Stopping and going on


@pytest.mark.parametrize("number_format", FORMATS)
@pytest.mark.parametrize("where", ["same process", "checkpoint"])
def test_stopped_run_goes_on_as_if_nothing_had_happened(lesson, new_run, tmp_path, where, number_format):
    whole = finish(lesson, new_run(number_format=number_format))
    run = finish(lesson, new_run(number_format=number_format), stop_at(20), lesson.Checkpoints(tmp_path, every=1e12))
    assert run.step == 20 and run.stopped and not run.finished
    if where == "checkpoint":
        torch.manual_seed(999)  # of the dropout, here and on the GPU
        run = new_run(number_format=number_format)
        lesson.Checkpoints(tmp_path).resume(run)
        assert run.step == 20
    finish(lesson, run)
    assert run.finished and largest_gap(whole.losses, run.losses) <= NOISE[number_format]
    assert abs(whole.history[-1]["val"] - run.history[-1]["val"]) <= NOISE[number_format]


def test_checkpoint_of_a_recorded_run_may_be_continued_piece_by_piece(lesson, new_run, tmp_path):
    whole = finish(lesson, new_run())
    finish(lesson, new_run(), stop_at(30), lesson.Checkpoints(tmp_path, every=1e12))
    run = new_run(capture=False)
    lesson.Checkpoints(tmp_path).resume(run)
    assert largest_gap(whole.losses, finish(lesson, run).losses) <= NOISE["fp32"]


# ---------------------------------------------------------------------------------------------------------------------
# Full memory


@contextmanager
def little_memory(left):
    """Let PyTorch take `left` more bytes than it holds now."""
    torch.cuda.synchronize()
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + left) / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@needs_cuda
@pytest.mark.parametrize("number_format", ["fp32", "fp16"])
def test_batch_that_does_not_fit_is_refused_and_a_small_one_works_after_it(lesson, new_run, number_format):
    finish(lesson, new_run(max_iters=5))  # what stays with PyTorch for good is there before the count
    with little_memory(1e9):
        before = torch.cuda.memory_allocated()
        run = new_run(batch_size=16_384, number_format=number_format)
        with pytest.raises(MemoryError, match="batch_size=16384 with block_size=64 .*halve one"):
            lesson.train(run)
        assert torch.cuda.memory_allocated() - before < 200e6, "the failed step's tensors live on"
        assert finish(lesson, new_run(max_iters=10, number_format=number_format)).finished


@needs_cuda
@pytest.mark.parametrize("left", [1e6, 10e6], ids=["for nothing", "for a part of the step"])
def test_memory_that_ends_while_recording(lesson, new_run, monkeypatch, left):
    """A recording needs memory of its own, which may be lacking though the steps before it went well."""
    whole, record = finish(lesson, new_run(max_iters=20)), lesson.record

    def record_with_little(function, *rest):
        with little_memory(left):
            return record(function, *rest)

    run = new_run(max_iters=20)
    with monkeypatch.context() as patch:
        patch.setitem(lesson.globals, "record", record_with_little)
        with pytest.raises(MemoryError, match="batch_size=32 with block_size=64 .*halve one"):
            lesson.train(run)
    assert run.step == 1 and run.replay is None
    again = finish(lesson, new_run(max_iters=20))
    assert largest_gap(whole.losses, again.losses) <= NOISE["fp32"], "random numbers are in order again"


@needs_cuda
def test_network_that_does_not_fit_is_refused_and_a_small_one_works_after_it(lesson, new_run):
    small = finish(lesson, new_run(max_iters=5))
    large = replace(small.model.cfg, n_embd=512, n_layer=8)  # 100 MB of weights
    with little_memory(50e6):
        before = torch.cuda.memory_allocated()
        with pytest.raises(MemoryError, match="n_embd=512 with n_layer=8 .*halve n_embd"):
            lesson.start(large, small.cfg, small.tokenizer, small.train_ids, small.val_ids)
        assert torch.cuda.memory_allocated() - before < 10e6, "a part of it lives on"
    run = lesson.start(small.model.cfg, small.cfg, small.tokenizer, small.train_ids, small.val_ids)
    assert largest_gap(small.losses, finish(lesson, run).losses) <= NOISE["fp32"]


# ---------------------------------------------------------------------------------------------------------------------
# Writing


@torch.no_grad()
def read_all(lesson, run, ids):
    """Logits after each character, and the reader."""
    reader = lesson.Reader(run.averaged)
    return torch.stack([reader.read([i]).clone() for i in ids]), reader


def test_recorded_reading_gives_the_same_logits(lesson, new_run, monkeypatch):
    """Further than the window reaches, so that it is read again in the middle."""
    run = finish(lesson, new_run())
    T, ids = run.model.cfg.block_size, run.val_ids[:100].tolist()
    recorded, reader = read_all(lesson, run, ids)
    assert (reader.replay is not None) == CUDA
    monkeypatch.setitem(lesson.globals, "record", lambda function, *_: function)
    unrecorded, _ = read_all(lesson, run, ids)
    assert largest_gap(recorded, unrecorded) < 1e-4
    with torch.no_grad():
        at_once = run.averaged(run.val_ids[None, :T])[0][0]
    assert largest_gap(recorded[:T], at_once) < 1e-3


@pytest.mark.parametrize("number_format", FORMATS)
def test_writing_recorded_or_not_is_the_same_text(lesson, new_run, monkeypatch, number_format):
    run, texts = finish(lesson, new_run(number_format=number_format)), []
    for record in (lesson.record, lambda function, *_: function):
        monkeypatch.setitem(lesson.globals, "record", record)
        texts.append("".join(lesson.generate(run.averaged, run.tokenizer, "The ", 200, temperature=0, stop=None)))
    assert texts[0] == texts[1] and len(texts[0]) == 200


@needs_cuda
def test_runs_trained_side_by_side_do_not_disturb_each_other(lesson, new_run):
    """Recordings made on one stream share scratch memory of matrix products, so each run records on its own."""
    shape = dict(n_layer=16, n_head=8, block_size=128, batch_size=64, dropout=0.0, attention_dropout=0.0, agreement=0.0,
                 max_iters=100, number_format="bf16")
    alone, together = ([new_run(seed=seed, **shape) for seed in (1, 2, 3)] for _ in range(2))
    for run in alone:
        lesson.train_together([run])
    lesson.train_together(together)
    for one, other in zip(alone, together):
        assert torch.equal(one.losses, other.losses)
