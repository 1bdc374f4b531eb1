"""Section 9: a step, the average, and a run that is stopped, killed, resumed or broken."""
import errno
import multiprocessing
import os
import signal
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import BLOG

TEXT = BLOG[:3000]


class FastClock:
    """The module `time` with racing clocks: a minute has passed at every look, so every look saves."""

    perf_counter = staticmethod(time.perf_counter)

    def monotonic(self):
        return 1e6 * time.monotonic()


@pytest.fixture(autouse=True)
def fast(lesson, monkeypatch):
    monkeypatch.setitem(lesson, "time", FastClock())


def new_run(lesson, **changes):
    """A tiny run in which everything random is at work; made twice, it is the same."""
    tokenizer = lesson.CharTokenizer(TEXT)
    tiny = dict(n_layer=1, n_head=2, n_embd=16, block_size=16, batch_size=4, max_iters=60, warmup=5, dropout=0.1,
        corruption=0.1,
                agreement=1.0, learning_rate=1e-2, eval_interval=25)
    ids = torch.tensor(tokenizer.encode(TEXT))
    cfg = lesson.Config(len(tokenizer.chars), **tiny | changes)
    lesson.update(tokenizer=tokenizer, train_ids=ids[:2700], val_ids=ids[2700:])  # for write_plainly
    return lesson.Run(lesson.build(cfg), cfg, ids[:2700], ids[2700:])


def all_watchers(lesson, run, folder):
    return [lesson.guard, lesson.Board({}), lesson.Checkpoints(folder, lesson.tokenizer)]


def state(run):
    """Everything that a run has learned and depends on."""
    return [*run.model.state_dict().values(), *run.averaged.state_dict().values(), run.losses,
        run.generator.get_state(),
            torch.get_rng_state(), *(t for s in run.optimizer.state_dict()["state"].values() for t in s.values())]


def same(a, b):
    return len(a) == len(b) and all(map(torch.equal, a, b))


class Model(torch.nn.Module):
    """Says the same of every character; remembers how much it was asked at once."""

    def __init__(self, block_size, vocab_size):
        super().__init__()
        self.cfg, self.most = SimpleNamespace(block_size=block_size, vocab_size=vocab_size), 0
        self.logits = torch.randn(vocab_size, generator=torch.Generator().manual_seed(0))

    def forward(self, x, y):
        self.most = max(self.most, x.numel() * len(self.logits))
        assert not self.training
        return None, F.cross_entropy(self.logits.expand(y.numel(), -1), y.flatten(), ignore_index=-1)


def test_evaluate_guesses_every_character_but_the_first_once(lesson):
    for length in range(2, 40):
        ids, model = torch.randint(5, (length,)), Model(8, 5)
        expected = -model.logits.log_softmax(0)[ids[1:]].mean()
        assert lesson.evaluate(model, ids) == pytest.approx(expected.item(), rel=1e-5) and model.training
    run, total = new_run(lesson), 0.0
    for start in range(0, 299, 16):  # windows that do not overlap
        x, y = run.val_ids[start:start + 16], run.val_ids[start + 1:start + 17]
        total += F.cross_entropy(run.averaged(x[None])[0][0][:len(y)], y, reduction="sum").item()
    assert lesson.evaluate(run.averaged, run.val_ids) == pytest.approx(total / 299, rel=1e-5)


def test_evaluate_needs_little_memory_for_any_vocabulary(lesson):
    for vocab_size in (2, 107, 20_000):
        model = Model(512, vocab_size)
        lesson.evaluate(model, torch.zeros(6000, dtype=torch.long))
        assert model.most <= max(2**25, 512 * vocab_size)


def test_corruption_replaces_a_share(lesson):
    x, data = torch.zeros(100, 100, dtype=torch.long), torch.arange(1, 9)
    assert torch.equal(lesson.corrupt(x, data, 0.0), x)
    assert set(lesson.corrupt(x, data, 1.0).unique().tolist()) == set(range(1, 9))
    assert (lesson.corrupt(x, data, 0.3) > 0).float().mean().item() == pytest.approx(0.3, abs=0.03) and x.sum() == 0


def test_reading_twice_measures_the_divergence_of_the_two(lesson):
    a, b = torch.randn(2, 3, 4, 5)

    def model(x, y):
        return torch.cat((a, b)), (x.shape, y.shape)

    shapes, difference = lesson.read_twice(model, torch.zeros(3, 4), torch.zeros(3, 4))
    p, q = a.softmax(-1), b.softmax(-1)
    both = (p * (p / q).log()).sum(-1) + (q * (q / p).log()).sum(-1)
    assert shapes == ((6, 4), (6, 4)) and difference.item() == pytest.approx(both.mean().item() / 2, rel=1e-4)


def test_the_plain_loop_learns(lesson):
    run = new_run(lesson)
    losses = lesson.train_plainly(lesson.PairModel(run.cfg.vocab_size), 300, 0.1)
    counted = lesson.kneser_ney(lesson.train_ids.numpy(), lesson.train_ids.numpy(), run.cfg.vocab_size, 2)[1]
    assert losses[0] == pytest.approx(torch.tensor(run.cfg.vocab_size).log().item()) and abs(losses[-1] - counted) < 0.3
    losses = lesson.train_plainly(run.model, 60, 1e-2, 16, 16)
    assert losses[-1] < losses[0] - 0.8
    assert len(lesson.write_plainly(run.model, 30, 16)) == 31


def test_a_run_learns_and_averages_its_weights_by_the_formula(lesson, monkeypatch):
    run, seen, rates, plain = new_run(lesson), [], [], lesson.train_step

    def train_step(run):
        loss = plain(run)
        seen.append(torch.cat([p.detach().flatten() for p in run.model.parameters()]))
        rates.append(run.rate.item())
        return loss

    monkeypatch.setitem(lesson, "train_step", train_step)
    lesson.train(run)
    shares = torch.tensor([10 / (t + 10) for t in range(60)], dtype=torch.float64)
    weights = shares * torch.cat(((1 - shares).flip(0).cumprod(0).flip(0)[1:], torch.ones(1)))
    expected = (weights[:, None] * torch.stack(seen)).sum(0).float()
    assert torch.allclose(torch.cat([p.flatten() for p in run.averaged.parameters()]), expected, atol=1e-4)
    assert weights[-12:].sum().item() == pytest.approx(0.86, abs=0.02), "the last fifth"
    assert rates == pytest.approx([1e-2 * min(1, (t + 1) / 5) for t in range(60)])
    assert [p["step"] for p in run.history] == [0, 1, 2, 4, 8, 16, 25, 32, 50, 60] and len(seen) == 60
    assert run.history[-1]["val"] < run.history[0]["val"] - 0.5 and run.losses.min() > 0


def test_windows_are_read_twice_after_the_first_quarter(lesson, monkeypatch):
    run, steps, plain = new_run(lesson, agreement=1.0), [], lesson.read_twice
    monkeypatch.setitem(lesson, "read_twice", lambda *args: (steps.append(run.step), plain(*args))[1])
    lesson.train(run)
    assert steps == list(range(15, 60))


def test_the_rate_may_fall_and_the_average_may_be_the_last_weights(lesson):
    run, rates = new_run(lesson, cooldown=0.5, averaging=1e9), []
    while run.step < 60:
        lesson.advance(run)
        rates.append(run.rate.item())
    assert rates[4:31] == pytest.approx([1e-2] * 27)
    assert rates[30:] == pytest.approx([1e-2 * n / 30 for n in range(30, 0, -1)])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(run.averaged.parameters(), run.model.parameters()))


@pytest.mark.parametrize(("cuts", "changes"), [
    ((17,), {}), ((10, 20, 50), {}), ((1, 2, 59), dict(dropout=0.3, agreement=0.0)),
    ((25,), dict(attention="pytorch", position="learned")),
    ((30,), dict(position="learned", norm="layer", activation="relu", bias=True, gate=False, mix=False))])
def test_a_resumed_run_goes_on_bit_for_bit(lesson, tmp_path, monkeypatch, cuts, changes):
    whole, advance = new_run(lesson, **changes), lesson.advance
    lesson.train(whole)
    end, history = state(whole), [(p["step"], p["val"]) for p in whole.history]
    for cut in (*cuts, None):
        def stopping(run, cut=cut):
            advance(run)
            run.stopped = run.step == cut
        monkeypatch.setitem(lesson, "advance", stopping)
        torch.manual_seed(999)
        run = new_run(lesson, **changes)
        lesson.train(run, *all_watchers(lesson, run, tmp_path))
    assert same(end, state(run)) and run.step == 60
    assert set(history) <= {(p["step"], p["val"]) for p in run.history}
    longer = new_run(lesson, **changes | dict(max_iters=70))
    lesson.train(longer, *all_watchers(lesson, longer, tmp_path))
    assert longer.step == 70 and torch.equal(longer.losses[:60], run.losses), "more steps continue a finished run"


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_a_killed_run_loses_no_more_than_the_time_since_it_was_saved(lesson, tmp_path, kills):
    long = dict(max_iters=100 * (kills + 5))
    whole = new_run(lesson, **long)
    lesson.train(whole)
    fork, end, saved = multiprocessing.get_context("fork"), state(whole), 0

    def work(pipe):
        run = new_run(lesson, **long)
        lesson.train(run, lesson.guard, lesson.Checkpoints(tmp_path, lesson.tokenizer), lambda run: pipe.send(run.step))

    for kill in range(kills):
        receiver, sender = fork.Pipe(duplex=False)
        child = fork.Process(target=work, args=(sender,))
        child.start()
        sender.close()
        steps = [receiver.recv() for _ in range(3)]  # where it went on, and two looks later
        time.sleep(0.002 * (7 * kill % 40))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        while receiver.poll():
            try:
                steps.append(receiver.recv())
            except EOFError:
                break
        run = new_run(lesson, **long)
        lesson.Checkpoints(tmp_path, lesson.tokenizer).resume(run)
        assert run.step >= max(saved, *steps)
        saved = run.step
        lesson.load(tmp_path)
    assert 10 < saved < long["max_iters"]
    run = new_run(lesson, **long)
    lesson.train(run, *all_watchers(lesson, run, tmp_path))
    assert same(end, state(run))


def test_saves_are_a_minute_apart_or_a_tenth_of_the_time(lesson, tmp_path, monkeypatch):
    run, now, saves = new_run(lesson), SimpleNamespace(value=0.0), []
    monkeypatch.setitem(lesson, "time", SimpleNamespace(monotonic=lambda: now.value))
    watcher = lesson.Checkpoints(tmp_path, lesson.tokenizer)
    watcher.save = lambda run: saves.append(now.value)
    run.step = 10
    for now.value in range(1, 3000, 7):
        run.seconds = now.value
        watcher(run)
    gaps = [b - a for a, b in zip(saves, saves[1:])]
    assert saves[0] < 75 and min(gaps) > 60 and max(gap / end for gap, end in zip(gaps, saves[1:]) if end > 1000) < 0.13


def test_the_stop_button_leaves_a_model_and_the_cell_goes_on(lesson, tmp_path, capsys):
    run = new_run(lesson)
    watchers = all_watchers(lesson, run, tmp_path)
    lesson.train(run, *watchers, lambda run: run.step == 20 and os.kill(os.getpid(), signal.SIGINT))
    assert run.stopped and run.step == 21 == run.history[-1]["step"] and "stopped after" in capsys.readouterr().out
    assert len("".join(lesson.generate(run.averaged, lesson.tokenizer, length=5, stop=None))) == 5
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    run = new_run(lesson)
    lesson.train(run, *watchers)  # the same watchers: the cell is run again
    said = capsys.readouterr().out
    assert run.step == 60 and "Going on from step 21" in said and "done after" in said and "step 60 of 60" in said
    with pytest.raises(KeyboardInterrupt):  # a second press ends everything
        lesson.train(run := new_run(lesson, seed=5), *all_watchers(lesson, run, ""),
            lambda run: [os.kill(os.getpid(), signal.SIGINT), time.sleep(1.1), os.kill(os.getpid(), signal.SIGINT)])
        pytest.fail("went on")
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("resume", [False, True])
def test_a_loss_that_is_no_number_brings_the_best_weights_back(lesson, tmp_path, monkeypatch, resume):
    advance, cut = lesson.advance, []

    def breaking(run):
        advance(run)
        run.stopped = run.step == 30 and resume and not cut
        cut.extend([30] * run.stopped)
        if run.step == 31:
            for p in (*run.model.parameters(), *run.averaged.parameters()):
                p.data.fill_(torch.nan)

    monkeypatch.setitem(lesson, "advance", breaking)
    run = new_run(lesson)
    if resume:
        lesson.train(run, *all_watchers(lesson, run, tmp_path))
        run = new_run(lesson)
    monkeypatch.setitem(lesson, "watchers", all_watchers(lesson, run, tmp_path))
    with pytest.raises(lesson.Stop, match="learning_rate = 0.01") as stop:
        lesson.train(run, *lesson.watchers)
    assert same([*lesson.load(tmp_path)[0].parameters()], [*run.averaged.parameters()]), "they are saved"
    assert "\n" not in str(stop.value) and run.stopped
    values = [p["val"] for p in run.history]
    assert lesson.evaluate(run.averaged, run.val_ids) == pytest.approx(min(values), abs=1e-3)
    assert values[0] > min(values) + 0.3
    assert all(p.isfinite().all() for p in (*run.model.parameters(), *run.averaged.parameters()))
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_full_disk_does_not_stop_training(lesson, tmp_path, monkeypatch, capsys):
    def save(state, path):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", save)
    run = new_run(lesson)
    lesson.train(run, *all_watchers(lesson, run, tmp_path))
    assert run.step == 60 and "No space left" in capsys.readouterr().out and list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/sub", "~nobody-here/x", "x" * 300):
        with pytest.raises(lesson.Stop, match="checkpoint_folder = .* cannot be written"):
            lesson.Checkpoints(folder, lesson.tokenizer)
    with pytest.raises(lesson.Stop, match="not mounted"):
        lesson.Checkpoints("/content/drive/MyDrive/gpt", lesson.tokenizer)


class Code:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.fixture
def stopped(lesson, tmp_path):
    """(file of a run that was cut off at its end, what it holds)."""
    run = new_run(lesson, max_iters=20)
    lesson.train(run, *all_watchers(lesson, run, tmp_path))
    (path,) = tmp_path.glob("gpt-*.pt")
    return path, torch.load(path, weights_only=True)


def damaged(path, state):
    data = path.read_bytes()
    yield "empty", b""
    yield "truncated", data[:len(data) // 2]
    yield "text", TEXT.encode()
    for place in (0.3, 0.6, 0.9):
        at = int(place * len(data))
        yield f"flipped at {at}", data[:at] + bytes([data[at] ^ 16]) + data[at + 1:]
    changed = [{name: value for name, value in state.items() if name != missing} for missing in state]
    changed += [state | {"cfg": state["cfg"] | {"n_head": 0}}, state | {"cfg": 5}, state | {"chars": 7},
                state | {"chars": state["chars"][1:]}, state | {"chars": [1] * len(state["chars"])},
                state | {"chars": state["chars"][:1] * len(state["chars"])}, state | {"history": 5},
                state | {"averaged": {k: w * float("nan") for k, w in state["averaged"].items()}},
                state | {"averaged": Code()}, Code(), [1, 2], {}]
    for content in changed:
        torch.save(content, path)
        yield str(set(state) - set(content if isinstance(content, dict) else ())), path.read_bytes()


def test_damaged_and_foreign_checkpoints_get_a_sentence_and_run_no_code(lesson, stopped, monkeypatch, tmp_path, capsys):
    path, state = stopped
    monkeypatch.chdir(tmp_path)
    raw = []
    for name, data in list(damaged(path, state)):
        path.write_bytes(data)
        for use in ("load", "resume"):
            run = new_run(lesson, max_iters=30)
            try:
                if use == "load":
                    lesson.load(path)
                else:
                    lesson.Checkpoints(tmp_path, lesson.tokenizer).resume(run)
                    lesson.train(run)
            except lesson.Stop as stop:
                assert use == "load" and str(path) in str(stop) and "\n" not in str(stop)
            except Exception as error:
                raw.append((use, name, repr(error)))
    assert not (tmp_path / "executed").exists() and "Beginning anew" in capsys.readouterr().out
    assert raw == []


def test_no_finished_and_no_damaged_file_is_written_over(lesson, stopped, tmp_path):
    path, state = stopped
    watchers = all_watchers(lesson, None, tmp_path)
    for _ in range(2):  # the same watchers: the cell is run again
        lesson.train(new_run(lesson, max_iters=10), *watchers)
    kept = [torch.load(path.with_suffix(f".{step}.pt"), weights_only=True)["step"] for step in (20, 10)]
    assert kept == [20, 10] and torch.load(path, weights_only=True)["step"] == 10
    path.write_bytes(b"damaged")
    lesson.train(new_run(lesson, max_iters=10), *all_watchers(lesson, None, tmp_path))
    assert path.with_suffix(".damaged").read_bytes() == b"damaged" and lesson.load(tmp_path)
    path.write_bytes(b"damaged")
    assert lesson.load(tmp_path), "the one before it"


def test_different_runs_share_a_folder_and_load_finds_the_newest(lesson, tmp_path, capsys):
    with pytest.raises(lesson.Stop, match="no checkpoint"):
        lesson.load(tmp_path)
    for seed in (1, 2):
        run = new_run(lesson, max_iters=20, seed=seed)
        lesson.train(run, *all_watchers(lesson, run, tmp_path))
        os.utime(lesson.Checkpoints(tmp_path, lesson.tokenizer).path(run), (seed, seed))
        model, tokenizer = lesson.load(tmp_path)
        assert same([*model.parameters()], [*run.averaged.parameters()]) and not model.training
        assert tokenizer.chars == lesson.tokenizer.chars
    assert len(list(tmp_path.iterdir())) == 2 and "Going on" not in capsys.readouterr().out
    assert len({lesson.Checkpoints(tmp_path, lesson.tokenizer, text).path(run) for text in (b"one", b"two")}) == 2
    older, _ = lesson.load(min(tmp_path.iterdir(), key=os.path.getmtime))
    assert not same([*older.parameters()], [*run.averaged.parameters()])
    assert asdict(model.cfg) == asdict(run.cfg)


def test_several_processes_share_gradients_and_draw_their_own_batches(lesson, monkeypatch):
    """Two processes, played one after the other: the first leaves its gradients to the second."""
    left, batches, sample = [], [], lesson.sample_batch
    monkeypatch.setitem(lesson, "sample_batch", lambda *a: batches.append(sample(*a)[0]) or sample(*a))
    runs = []
    for rank in (0, 1):
        def all_reduce(gradient, rank=rank):
            gradient.add_(left.pop(0)) if rank else left.append(gradient.clone())
        monkeypatch.setitem(lesson, "dist", SimpleNamespace(is_initialized=lambda: True, get_world_size=lambda: 2,
            get_rank=lambda rank=rank: rank, all_reduce=all_reduce))
        runs.append(run := new_run(lesson, dropout=0.0, corruption=0.0, agreement=0.0, max_iters=1))
        lesson.train(run, lesson.share_gradients, lesson.share_gradients)
    assert left == [] and not torch.equal(batches[0], batches[-1])
    whole = new_run(lesson, dropout=0.0, corruption=0.0, agreement=0.0, max_iters=1)
    monkeypatch.setitem(lesson, "dist", SimpleNamespace(is_initialized=lambda: False))
    both = [torch.cat(pair) for pair in zip(*[lesson.sample_batch(run.train_ids, run.cfg.batch_size, run.cfg.block_size,
        torch.Generator().manual_seed(run.cfg.seed + 1_000_003 * rank)) for rank, run in enumerate(runs)])]
    monkeypatch.setitem(lesson, "sample_batch", lambda *_: both)
    monkeypatch.setitem(lesson, "corrupt", lambda x, *_: x)
    lesson.train(whole)
    for one, other in zip(whole.model.parameters(), runs[1].model.parameters()):
        assert torch.allclose(one, other, atol=1e-5)


def test_known_errors_get_advice_and_others_their_traceback(lesson):
    for text in ("CUDA out of memory. Tried", "MPS backend out of memory",
        "DefaultCPUAllocator: can't allocate memory", "Invalid buffer size"):
        assert "halve batch_size" in lesson.explain(RuntimeError(text), None)
    assert "another runtime" in lesson.explain(RuntimeError("no kernel image is available"), None)
    assert lesson.explain(lesson.Stop("why"), None) == "why" and lesson.explain(RuntimeError("shapes"), None) is None
