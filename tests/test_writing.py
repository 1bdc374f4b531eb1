"""Sections 10 and 11: drawing characters, guessing ahead, copies, attention maps."""
import random

import pytest
import torch
from conftest import BLOG
from test_model import network

LOGITS = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()


@pytest.mark.parametrize(("knobs", "expected"), [
    ((), [0.1, 0.4, 0.2, 0.3]), ((2.0,), None), ((0.5,), [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
    ((0.0,), [0, 1, 0, 0]), ((1.0, 2), [0, 4 / 7, 0, 3 / 7]), ((1.0, 9), [0.1, 0.4, 0.2, 0.3]),
    ((1.0, 0, 0.35), [0, 1, 0, 0]),
    ((1.0, 0, 0.6), [0, 4 / 7, 0, 3 / 7]), ((1.0, 0, 0.85), [0, 4 / 9, 2 / 9, 3 / 9]), ((1.0, 0, 0.0), [0, 1, 0, 0]),
    ((1.0, 2, 0.6), [0, 4 / 7, 0, 3 / 7]), ((1.0, 2, 0.5), [0, 1, 0, 0]),
    ((0.5, 3, 0.9), [0, 16 / 29, 4 / 29, 9 / 29])])
def test_the_three_knobs_on_four_characters(lesson, knobs, expected):
    roots = torch.tensor([0.1, 0.4, 0.2, 0.3]).sqrt()
    expected = roots / roots.sum() if expected is None else torch.tensor(expected)
    assert torch.allclose(lesson.next_probabilities(LOGITS, *knobs), expected.float(), atol=1e-5)


@pytest.fixture(scope="module")
def writer(lesson):
    """(model, tokenizer) of a tiny network that has learned a little."""
    tokenizer = lesson.CharTokenizer(BLOG[:4000])
    lesson["train_ids"] = torch.tensor(tokenizer.encode(BLOG[:4000]))
    model = network(lesson, stir=False, vocab_size=len(tokenizer.chars), block_size=64, n_embd=32, n_layer=1)
    lesson.train_plainly(model, 150, 1e-2, 16, 32)
    return model, tokenizer


@pytest.mark.parametrize("changes", [{}, dict(position="learned", mix=False), dict(position="sinusoidal", gate=False),
    dict(attention="pytorch", position="learned", gate=False), dict(attention="none"), dict(n_embd=12)], ids=str)
def test_the_fast_reader_sees_what_the_plain_one_sees(lesson, monkeypatch, changes):
    tokenizer = lesson.CharTokenizer(BLOG[:4000])
    model = network(lesson, **dict(vocab_size=len(tokenizer.chars), block_size=32) | changes).eval()
    monkeypatch.setitem(lesson, "drafts", lesson.draft_table(BLOG[:4000]))
    read, reads = lesson.reader(model, tokenizer), []
    monkeypatch.setattr(read, "read", lambda *new, read=read.read: reads.append(new) or read(*new))
    with torch.no_grad():
        for n in [*range(3, 120), 40, 41, 7, 90, 91, 118]:  # also jumps, back and ahead
            for text in (BLOG[100:100 + n], BLOG[100:100 + n] + "9" * (n % 5 == 0)):  # and what no guess expects
                logits, begin = read(text), read.start
                plain = model(torch.tensor([tokenizer.encode(text[begin:])]))[0][0, -1]
                assert torch.allclose(logits, plain, atol=1e-4), n
                assert begin == 0 if n <= 24 and len(reads) < 30 else len(text) - begin <= 32
    assert len(reads) < 110, "guesses save readings"


@pytest.mark.parametrize("knobs", [{}, dict(temperature=0.0), dict(temperature=1.0, top_p=1.0), dict(top_k=3),
    dict(prompt="The te")])
def test_guessing_ahead_changes_nothing_while_the_text_fits_the_window(lesson, writer, monkeypatch, knobs):
    fast, plain = lesson["reader"], lambda model, tokenizer: lambda text: model(
        torch.tensor([tokenizer.encode(text[-64:])]))[0][0, -1]
    monkeypatch.setitem(lesson, "drafts", lesson.draft_table(BLOG[:4000]))
    written = []
    for way in (plain, fast):
        monkeypatch.setitem(lesson, "reader", way)
        written.append("".join(lesson.generate(*writer, length=45, stop=None, **knobs)))
    assert written[0] == written[1] and len(written[0]) == 45
    if not knobs:
        assert written[0] != "".join(lesson.generate(*writer, length=45, stop=None, seed=2))
        assert len("".join(lesson.generate(*writer, length=200, stop=None))) == 200


def test_writing_follows_the_probabilities_of_the_model(lesson, writer, monkeypatch):
    model, tokenizer = writer
    prompt, text = "The kett", ""
    for _ in range(20):
        logits = model(torch.tensor([tokenizer.encode(prompt + text)]))[0][0, -1]
        text += tokenizer.chars[logits.argmax()]
    for habits in ({}, lesson.draft_table(BLOG[:4000])):
        monkeypatch.setitem(lesson, "drafts", habits)
        assert text == "".join(lesson.generate(*writer, prompt, 20, temperature=0.0, stop=None))
    drawn = [next(lesson.generate(*writer, prompt, 1, temperature=1.0, top_p=1.0, seed=seed)) for seed in range(400)]
    p = model(torch.tensor([tokenizer.encode(prompt)]))[0][0, -1].softmax(-1)
    for i in p.topk(3).indices.tolist():
        assert drawn.count(tokenizer.chars[i]) / 400 == pytest.approx(p[i].item(), abs=0.1)


def test_odd_prompts_and_the_stop_string(lesson, writer):
    for prompt in ("", "猫", "猫 the", "x" * 200):
        assert len("".join(lesson.generate(*writer, prompt, 5, stop=None))) == 5
    text = "".join(lesson.generate(*writer, "The", 60, stop=None))
    for stop in (text[7:10], text[0]):
        assert "".join(lesson.generate(*writer, "The", 60, stop=stop)) == text[:text.index(stop) + len(stop)]


def test_habits_are_what_followed_most_often(lesson):
    habits = lesson.draft_table("abcda abcdb abcdb xyzw1")
    assert habits["abcd"] == "b" and habits["xyzw"] == "1" and "yzw1" not in habits


def test_longest_match_is_the_longest(lesson):
    chance = random.Random(1)
    for _ in range(200):
        sample, source = ("".join(chance.choices("ab", k=chance.randrange(12))) for _ in range(2))
        pieces = [sample[i:j] for i in range(len(sample)) for j in range(i + 1, len(sample) + 1)
            if sample[i:j] in source]
        found = lesson.longest_match(sample, source)
        assert found in sample and found in source and len(found) == max(map(len, pieces), default=0)


@pytest.mark.parametrize("position", ["rotary", "learned"])
def test_attention_maps_are_what_the_heads_use(lesson, position):
    net, idx = network(lesson, position=position, gate=False), torch.arange(7)
    maps, seen = lesson.attention_maps(net, idx), []
    net.blocks[1].attn.register_forward_hook(lambda module, args, out: seen.append((args[0], out)))
    net(idx[None])
    x, y = seen[0]
    attn = net.blocks[1].attn
    v = attn.qkv(x).chunk(3, -1)[2].unflatten(-1, (2, 4)).transpose(1, 2)[0]
    assert maps.shape == (2, 2, 7, 7)
    assert torch.allclose(attn.proj((maps[1] @ v).transpose(0, 1).flatten(1)), y[0], atol=1e-5)
