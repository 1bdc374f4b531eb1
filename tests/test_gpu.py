"""On a GPU only: each number format, the recording, resuming, writing, runs side by side."""
import os

import pytest
import torch
from conftest import BLOG, define

pytestmark = pytest.mark.skipif(not torch.cuda.is_available() and "DRY" not in os.environ,
    reason="needs a GPU (DRY=1: a dry run)")


@pytest.fixture(scope="module")
def gpu():
    return define()


def new_run(gpu, **changes):
    tokenizer = gpu.CharTokenizer(BLOG[:100_000])
    ids = torch.tensor(tokenizer.encode(BLOG[:100_000]), device=gpu.device)
    cfg = gpu.Config(len(tokenizer.chars), **dict(n_layer=2, n_head=4, n_embd=64, block_size=64, batch_size=32,
        max_iters=60,
                     learning_rate=3e-3, warmup=10, dropout=0.1, corruption=0.05, eval_interval=30) | changes)
    gpu.update(tokenizer=tokenizer, train_ids=ids[:90_000], val_ids=ids[90_000:], part_of_steps=1.0, machine="")
    return gpu.Run(gpu.build(cfg), cfg, ids[:90_000], ids[90_000:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_format_learns_and_the_recording_changes_nothing(gpu, monkeypatch, dtype):
    if dtype == torch.bfloat16 and torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no bfloat16")
    monkeypatch.setitem(gpu, "dtype", dtype)
    recorded, plain, replays = new_run(gpu), new_run(gpu), []
    gpu.train(recorded, lambda run: replays.append(run.replay is not None))
    torch.manual_seed(1)
    plain.stream = None  # so nothing is recorded
    with torch.cuda.stream(plain.stream):
        while plain.step < 60:
            gpu.advance(plain)
    frequencies = gpu.kneser_ney(gpu.train_ids.cpu().numpy(), gpu.val_ids.cpu().numpy(), plain.cfg.vocab_size, 1)[0]
    assert recorded.history[-1]["val"] < 0.95 * frequencies and any(replays) == (recorded.stream is not None)
    assert torch.allclose(recorded.losses, plain.losses, atol=1e-3 if dtype == torch.float32 else 3e-2)
    assert recorded.replay is None, "its memory is free again"


def test_a_resumed_run_goes_on(gpu, tmp_path, capsys):
    whole = new_run(gpu)
    gpu.train(whole)
    for stop in (30, 60):
        torch.manual_seed(99)
        run = new_run(gpu)
        gpu.train(run, gpu.guard, gpu.Checkpoints(tmp_path, gpu.tokenizer), lambda run,
            at=stop: setattr(run, "stopped", run.step == at))
    assert "Going on from step 31" in capsys.readouterr().out and run.step == 60
    assert torch.allclose(run.losses, whole.losses, atol=3e-2)
    model, _ = gpu.load(tmp_path)
    assert gpu.evaluate(model, gpu.val_ids) == pytest.approx(whole.history[-1]["val"], abs=1e-2)


def test_recorded_writing_equals_plain_writing(gpu, monkeypatch):
    run = new_run(gpu)
    monkeypatch.setitem(gpu, "drafts", gpu.draft_table(BLOG[:90_000]))
    gpu.train(run)
    texts = ["".join(gpu.generate(run.averaged, gpu.tokenizer, "The ", 50, temperature=0.0, stop=None))]
    fast = gpu.reader(run.averaged, gpu.tokenizer)
    monkeypatch.setitem(gpu, "reader", lambda model, tokenizer: lambda text: model(torch.tensor(
        [tokenizer.encode(text[-64:])], device=gpu.device))[0][0, -1].cpu())
    texts.append("".join(gpu.generate(run.averaged, gpu.tokenizer, "The ", 50, temperature=0.0, stop=None)))
    assert texts[0][:20] == texts[1][:20]
    plain = gpu.reader(run.averaged, gpu.tokenizer)
    with torch.no_grad():
        for n in range(4, 150):
            logits, begin = fast(BLOG[:n]), fast.start
            assert torch.allclose(logits, plain(BLOG[begin:n]), atol=0.1), n


def test_runs_side_by_side_equal_runs_alone(gpu):
    cfg = new_run(gpu, dropout=0.0).cfg  # its draws depend on the neighbours
    found = gpu.compare({"a": cfg, "b": gpu.replace(cfg, residual="bug"), "c": gpu.replace(cfg, max_iters=30)}, None,
        (1,))
    run = new_run(gpu, dropout=0.0)
    gpu.train(run)
    assert found["a"][0] == pytest.approx(run.history[-1]["val"], abs=1e-2)
