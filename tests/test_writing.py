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


@pytest.mark.parametrize("knobs", [{}, dict(temperature=0.0), dict(temperature=1.0, top_p=1.0), dict(top_k=3),
    dict(prompt="The te")])
def test_guessing_ahead_changes_nothing_while_the_text_fits_the_window(lesson, writer, knobs):
    model, reads, forward, habits = writer[0], [], writer[0].forward, lesson.habits_of(BLOG[:4000])
    model.forward = lambda *args: reads.append(args[0].numel()) or forward(*args)
    try:
        plain = "".join(lesson.generate(*writer, length=45, stop=None, **knobs))
        slow, reads = len(reads), []
        assert plain == "".join(lesson.generate(*writer, length=45, stop=None, habits=habits, **knobs))
        assert len(plain) == slow == 45 and len(reads) <= slow
        if not knobs:
            assert len(reads) < slow
            assert plain != "".join(lesson.generate(*writer, length=45, stop=None, seed=2))
            assert len("".join(lesson.generate(*writer, length=200, stop=None, habits=habits))) == 200
            assert max(reads) <= 64, "a window at most"
    finally:
        model.forward = forward


def test_writing_follows_the_probabilities_of_the_model(lesson, writer):
    model, tokenizer = writer
    prompt, text = "The kett", ""
    for _ in range(20):
        logits = model(torch.tensor([tokenizer.encode(prompt + text)]))[0][0, -1]
        text += tokenizer.chars[logits.argmax()]
    for habits in (None, lesson.habits_of(BLOG[:4000])):
        assert text == "".join(lesson.generate(*writer, prompt, 20, temperature=0.0, stop=None, habits=habits))
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
    habits = lesson.habits_of("abcda abcdb abcdb xyzw1")
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
