"""The lesson's own code: tokenizer, counting guessers, model, training, writing, configurations.

Everything runs on the CPU with tiny networks, whatever the machine has.
"""

import ast
import copy
import itertools
import json
import math
import re
from collections import Counter, defaultdict
from dataclasses import asdict, fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from conftest import source, tags
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

POSITIONS = ("rotary", "learned", "sinusoidal", "none")
ATTENTIONS = ("fused", "manual", "pytorch", "none")
PAIRS = [pair for pair in itertools.product(POSITIONS, ATTENTIONS) if pair != ("rotary", "pytorch")]
TEXT = "the quick brown fox jumps over the lazy dog. " * 12


class Lesson:
    """A namespace without a long repr, for hypothesis' reports."""

    def __init__(self, values):
        vars(self).update(values)


@pytest.fixture(scope="module")
def lesson(lesson):
    """The definitions, on the CPU and one thread."""
    before, threads = lesson.globals["device"], torch.get_num_threads()
    lesson.globals["device"] = torch.device("cpu")
    torch.set_num_threads(1)
    yield Lesson(vars(lesson))
    lesson.globals["device"] = before
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def fixed_chance():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def form(code_cells):
    """The values of the hyperparameter form, as written in the notebook."""
    values = {}
    exec(next(source(cell) for cell in code_cells if "parameters" in tags(cell)), values)
    return {name: value for name, value in values.items() if not name.startswith("__")}


def config(lesson, **changes):
    tiny = dict(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_embd=8, position="learned",
                dropout=0.0, attention_dropout=0.0)
    return lesson.GPTConfig(**tiny | changes)


def stir(net, seed=5):
    """Give every parameter, norms and biases too, a random value, so that nothing is hidden by a 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.data += 0.2 * torch.randn(p.shape, generator=generator)
    return net


def random_ids(*shape, vocab_size=11, seed=0):
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def start(lesson, train_text=TEXT, val_text=TEXT[:60], net=None, **changes):
    """A fresh run of a tiny network on a text."""
    tokenizer = lesson.CharTokenizer(TEXT)
    ids = [torch.tensor(tokenizer.encode(text)) for text in (train_text, val_text)]
    cfg = config(lesson, **dict(vocab_size=len(tokenizer.chars), position="rotary") | (net or {}))
    quick = dict(batch_size=4, max_iters=30, warmup=2, learning_rate=1e-2, eval_interval=10, corruption=0.0)
    train_cfg = lesson.TrainConfig(**quick | changes)
    return lesson.Run(lesson.GPT(cfg, train_cfg.seed), tokenizer, *ids, train_cfg)


def weights_of(net):
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ------------------------------------------------------------ split and tokenizer


@pytest.mark.parametrize(("text", "share", "parts"), [
    ("0123456789", 0.9, ("012345678", "9")), ("abcd", 0.5, ("ab", "cd")), ("abc", 0.9, ("ab", "c"))])
def test_split_keeps_order_and_loses_nothing(lesson, text, share, parts):
    assert lesson.split_text(text, share) == parts


def test_split_is_nine_to_one_by_default(lesson):
    assert [len(part) for part in lesson.split_text("x" * 1000)] == [900, 100]


@settings(deadline=None)
@given(st.text())
def test_tokenizer_round_trip(lesson, text):
    tokenizer = lesson.CharTokenizer(text)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text)
    assert set(ids) == set(range(len(set(text))))


@settings(deadline=None)
@given(st.text(), st.text())
def test_tokenizer_copes_with_any_other_text(lesson, known, other):
    tokenizer = lesson.CharTokenizer(known)
    ids = tokenizer.encode(other)
    assert all(0 <= i < len(tokenizer.chars) for i in ids)
    kept = [c for c in other if c in known]
    written = iter(tokenizer.decode(ids))
    assert all(c in written for c in kept), "known characters survive, in order"


@settings(deadline=None)
@given(st.text(), st.randoms())
def test_tokenizer_depends_on_the_alphabet_alone(lesson, text, random):
    shuffled = random.sample(text, len(text))
    assert lesson.CharTokenizer(text * 2).chars == lesson.CharTokenizer("".join(shuffled)).chars


@pytest.mark.parametrize(("known", "text", "read"), [
    ("abce", "café", "cae"), ("cafeé", "café", "café"), ("abc", "猫a猫", "a"), ("abc", "xyz", ""),
    ("aou", "ÄÖÜäöü", "aou"), ("aé", "e", ""), ("", "abc", "")])
def test_unknown_characters_lose_their_accent_or_go(lesson, known, text, read):
    tokenizer = lesson.CharTokenizer(known)
    assert tokenizer.decode(tokenizer.encode(text)) == read


# ------------------------------------------------------------ counting guessers


def witten_bell(train, val, vocab_size, longest):
    """The definition, slowly: mean of -ln p over `val` for contexts of 0 ... longest - 1 characters."""
    followers = defaultdict(Counter)
    for i, c in enumerate(train):
        for n in range(min(i, longest - 1) + 1):
            followers[n, tuple(train[i - n:i])][c] += 1
    ids, losses = list(train) + list(val), [0.0] * longest
    for i in range(len(train), len(ids)):
        p = 1 / vocab_size
        for n in range(longest):
            seen = followers.get((n, tuple(ids[i - n:i])), {}) if n <= i else {}
            total, kinds = sum(seen.values()), len(seen)
            if total:
                p = (seen.get(ids[i], 0) + kinds * p) / (total + kinds)
            losses[n] -= math.log(p) / len(val)
    return losses


@pytest.mark.parametrize("longest", [1, 2, 5])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ngram_losses_are_witten_bell(lesson, seed, longest):
    ids = np.random.default_rng(seed).choice(6, 300, p=[0.4, 0.3, 0.1, 0.1, 0.05, 0.05])
    ids[-1] = 6  # a last character of its own
    expected = witten_bell(ids[:240].tolist(), ids[240:].tolist(), 7, longest)
    assert lesson.ngram_losses(ids[:240], ids[240:], 7, longest) == pytest.approx(expected, rel=1e-9)


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_ngrams_count_nothing_that_the_training_text_does_not_hold(lesson, train, val):
    losses = lesson.ngram_losses(np.array(train), np.array(val), 4)
    assert losses == pytest.approx(witten_bell(train, val, 4, 7), rel=1e-9)


def test_longer_contexts_help_as_far_as_the_text_reaches_back(lesson):
    random, ids = np.random.default_rng(0), [0, 1]
    rule = random.integers(5, size=(5, 5))  # each character follows from the two before, nine times in ten
    for noise in random.random(6000) < 0.1:
        ids.append(random.integers(5) if noise else rule[ids[-2], ids[-1]])
    losses = lesson.ngram_losses(np.array(ids[:5000]), np.array(ids[5000:]), 5)
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 0.6 < losses[1]
    assert losses[3] == pytest.approx(losses[2], abs=0.1)


def test_counting_finds_nothing_in_noise_and_everything_in_repetition(lesson):
    noise = np.random.default_rng(0).integers(0, 8, 8000)
    assert lesson.ngram_losses(noise[:7000], noise[7000:], 8)[0] == pytest.approx(math.log(8), abs=0.01)
    again = np.tile(np.arange(8), 500)
    assert lesson.ngram_losses(again[:3600], again[3600:], 8)[1] < 0.02


# ------------------------------------------------------------ shapes


@pytest.mark.parametrize("attention", ["fused", "manual", "pytorch"])
def test_attention_keeps_the_shape(lesson, attention):
    layer = lesson.Attention(config(lesson, attention=attention))
    assert layer(torch.randn(3, 5, 8), torch.arange(5)).shape == (3, 5, 8)


@pytest.mark.parametrize("part", ["MLP", "make_norm"])
def test_parts_keep_the_shape(lesson, part):
    assert getattr(lesson, part)(config(lesson))(torch.randn(3, 5, 8)).shape == (3, 5, 8)


@pytest.mark.parametrize(("position", "attention"), PAIRS)
def test_network_shapes(lesson, position, attention):
    cfg = config(lesson, position=position, attention=attention)
    net, idx = lesson.GPT(cfg), random_ids(3, 5)
    assert net.embed(idx, torch.arange(5)).shape == (3, 5, 8)
    rotary = lesson.waves(torch.arange(5), cfg.head_size)[:, None] if position == "rotary" else None
    assert lesson.Block(cfg)(torch.randn(3, 5, 8), torch.arange(5), rotary).shape == (3, 5, 8)
    logits, loss = net(idx)
    assert logits.shape == (3, 5, 11)
    assert loss is None
    assert net(idx, idx)[1].shape == ()


def test_waves_and_rotation_shapes(lesson):
    assert lesson.waves(torch.arange(7), 6).shape == (7, 3)
    turn = lesson.waves(torch.arange(7), 6)[:, None]  # (7, 1, 3)
    x = torch.randn(2, 7, 3, 6)
    assert lesson.apply_rope(x, turn).shape == (2, 7, 3, 6)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        turned = lesson.apply_rope(x.to(dtype), turn)
        assert turned.dtype == dtype
        assert (turned.float() - lesson.apply_rope(x, turn)).abs().max() < 0.05


def test_loss_is_the_mean_over_positions_that_count(lesson):
    net, idx, targets = stir(lesson.GPT(config(lesson))), random_ids(2, 6), random_ids(2, 6, seed=1)
    targets[0, 3:] = -1
    log_p = net(idx)[0].log_softmax(-1)
    counted = [-log_p[b, t, targets[b, t]].item() for b in range(2) for t in range(6) if targets[b, t] >= 0]
    assert net(idx, targets)[1].item() == pytest.approx(sum(counted) / 9, rel=1e-5)


@pytest.mark.parametrize("n_embd", [8, 64])
@pytest.mark.parametrize("norm", ["rms", "layer", "none"])
@pytest.mark.parametrize("vocab_size", [5, 107])
def test_first_loss_is_that_of_chance(lesson, vocab_size, norm, n_embd):
    net = lesson.GPT(config(lesson, vocab_size=vocab_size, norm=norm, n_embd=n_embd))
    ids = random_ids(16, 9, vocab_size=vocab_size)
    assert net(ids[:, :-1], ids[:, 1:])[1].item() == pytest.approx(math.log(vocab_size), abs=0.1)


# ------------------------------------------------------------ attention


def outputs_and_gradients(net, idx, targets):
    logits, loss = net(idx, targets)
    loss.backward()
    return dict(logits=logits.detach()) | {name: p.grad for name, p in net.named_parameters()}


def gap(a, b):
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


@pytest.mark.parametrize(("position", "head_size"), [
    (kind, size) for kind in POSITIONS for size in (1, 2, 3, 5, 8, 12, 16) if kind != "rotary" or size % 2 == 0])
def test_attention_versions_agree(lesson, position, head_size):
    cfg = config(lesson, n_head=4, n_embd=4 * head_size, position=position)
    idx, targets = random_ids(3, 8), random_ids(3, 8, seed=1)
    kinds = ("fused", "manual") if position == "rotary" else ("fused", "manual", "pytorch")
    results = [outputs_and_gradients(stir(lesson.GPT(replace(cfg, attention=kind))), idx, targets) for kind in kinds]
    assert results[0]["logits"].std() > 0.1, "else agreement means little"
    assert all(results[0][name].abs().max() > 0 for name in results[0] if "attn" in name)
    for result in results[1:]:
        assert gap(results[0], result) < 1e-5


@torch.no_grad()
def test_attention_versions_agree_when_evaluated(lesson):
    cfg = config(lesson, position="learned", dropout=0.5, attention_dropout=0.5)
    nets = [stir(lesson.GPT(replace(cfg, attention=kind))).eval() for kind in ("fused", "manual", "pytorch")]
    first, *others = [net(random_ids(3, 8))[0] for net in nets]
    assert all((first - other).abs().max() < 1e-5 for other in others)


def test_attention_is_the_textbook_formula(lesson):
    layer = stir(lesson.Attention(config(lesson, n_head=2, n_embd=6)))
    x = torch.randn(1, 4, 6)
    q, k, v = (x[0] @ layer.qkv.weight.T).split(6, dim=-1)
    rows = []
    for i in range(4):
        heads = []
        for part in (slice(0, 3), slice(3, 6)):
            share = torch.stack([q[i, part] @ k[j, part] / math.sqrt(3) for j in range(i + 1)]).softmax(0)
            heads.append(sum(share[j] * v[j, part] for j in range(i + 1)))
        rows.append(torch.cat(heads) @ layer.proj.weight.T)
    assert (layer(x, torch.arange(4))[0] - torch.stack(rows)).abs().max() < 1e-5


@torch.no_grad()
def test_attention_versions_drop_in_the_same_places(lesson):
    x, spread = torch.randn(1, 3, 4).expand(20_000, 3, 4), {}
    for kind in ("fused", "manual", "pytorch"):
        torch.manual_seed(0)  # the same weights
        layer = lesson.Attention(config(lesson, n_head=2, n_embd=4, attention=kind, attention_dropout=0.5))
        layer.qkv.weight.mul_(3)  # scores large enough for attention that is not uniform
        y = layer(x, torch.arange(3))
        spread[kind] = torch.stack((y.mean(0), y.std(0)))
    assert spread["fused"][1].min() > 0.01
    for kind in ("manual", "pytorch"):
        assert (spread[kind] - spread["fused"]).abs().max() < 0.05 * spread["fused"].abs().max()


def test_without_attention_no_character_sees_another(lesson):
    net, idx = stir(lesson.GPT(config(lesson, attention="none", position="learned"))), random_ids(1, 8)
    assert not [name for name, _ in net.named_parameters() if "attn" in name or "norm1" in name]
    other = (idx + 1) % 11
    for t in range(8):
        mixed = torch.where(torch.arange(8) == t, idx, other)
        assert torch.allclose(net(mixed)[0][:, t], net(idx)[0][:, t], atol=1e-6)


# ------------------------------------------------------------ causality and positions


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("position", "attention"), PAIRS)
def test_the_future_cannot_leak(lesson, position, attention, training):
    net = stir(lesson.GPT(config(lesson, position=position, attention=attention))).train(training)
    idx = random_ids(2, 8)
    before = net(idx)[0]
    for t in range(1, 8):
        changed = idx.clone()
        changed[:, t:] = (idx[:, t:] + 1) % 11
        change = (net(changed)[0] - before).abs().amax((0, 2))
        assert change[:t].max() < 1e-6
        assert change[t] > 1e-3


@torch.no_grad()
@pytest.mark.parametrize(("position", "attention"), [pair for pair in PAIRS if pair[1] != "none"])
def test_the_whole_past_is_seen(lesson, position, attention):
    net, idx = stir(lesson.GPT(config(lesson, position=position, attention=attention))), random_ids(1, 8)
    for t in range(8):
        changed = idx.clone()
        changed[:, t] = (idx[:, t] + 1) % 11
        assert ((net(changed)[0] - net(idx)[0])[0, t:].abs().amax(-1) > 1e-6).all()


@torch.no_grad()
@pytest.mark.parametrize(("position", "attention"), [pair for pair in PAIRS if pair[1] != "none"])
def test_order_matters_exactly_when_there_are_positions(lesson, position, attention):
    net = stir(lesson.GPT(config(lesson, position=position, attention=attention, n_layer=1)))
    idx = torch.arange(8)[None]
    swapped = idx[:, [0, 5, 2, 3, 4, 1, 6, 7]]
    change = (net(idx)[0] - net(swapped)[0])[:, -1].abs().max()
    assert change < 1e-5 if position == "none" else change > 1e-3


@pytest.mark.parametrize(("position", "differ"), [
    ("learned", True), ("sinusoidal", True), ("rotary", False), ("none", False)])
def test_positions_enter_the_stream_only_where_they_are_added(lesson, position, differ):
    net = stir(lesson.GPT(config(lesson, position=position)))
    rows = net.embed(torch.full((2, 8), 3), torch.arange(8))
    assert torch.equal(rows[0], rows[1])
    assert len(rows[0].unique(dim=0)) == (8 if differ else 1)


@pytest.mark.parametrize("n_embd", [2, 6, 8])
def test_sinusoids_follow_the_paper(lesson, n_embd):
    net = lesson.GPT(config(lesson, position="sinusoidal", n_head=1, n_embd=n_embd, block_size=50))
    net.token_embedding.weight.data.zero_()
    added = net.embed(torch.zeros(3, 50, dtype=torch.long), torch.arange(50))
    scale = added[0, 0, 1].item()  # cos 0
    paper = torch.tensor([[(math.sin, math.cos)[i % 2](pos / 10_000 ** (i // 2 * 2 / n_embd)) for i in range(n_embd)]
                          for pos in range(50)])
    assert scale > 0
    assert (added / scale - paper).abs().max() < 1e-5


@pytest.mark.parametrize("size", [2, 6, 16])
def test_rotation_shows_relative_distance_only(lesson, size):
    turn = lesson.waves(torch.arange(40), size)
    q, k = torch.randn(2, size, generator=torch.Generator().manual_seed(2)).unbind(0)
    turned_q, turned_k = (lesson.apply_rope(vector.expand(40, size), turn) for vector in (q, k))
    match = turned_q @ turned_k.T  # (40, 40)
    for distance in (0, 1, 7):
        diagonal = match.diagonal(-distance)
        assert (diagonal - diagonal[0]).abs().max() < 1e-4
    assert match.diagonal()[0].item() == pytest.approx((q @ k).item(), abs=1e-5)
    assert match[:, 0].std() > 0.05, "and different distances differ"


def test_rotation_keeps_lengths_and_leaves_position_zero_alone(lesson):
    x = torch.randn(1, 30, 2, 6)
    turned = lesson.apply_rope(x, lesson.waves(torch.arange(30), 6)[:, None])
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    assert torch.allclose(turned[:, 0], x[:, 0])


@pytest.mark.parametrize("size", [2, 6, 16])
def test_rotation_multiplies_complex_numbers(lesson, size):
    """Entries 2i and 2i + 1 are a number's two parts, turned by position * 10,000^(-2i / size)."""
    x = torch.randn(3, 40, 2, size).double()
    numbers = torch.complex(x[..., ::2], x[..., 1::2])
    angle = torch.outer(torch.arange(40), 10_000.0 ** -torch.arange(0, 1, 2 / size)).double()[:, None]
    turned = numbers * torch.polar(torch.ones_like(angle), angle)
    found = lesson.apply_rope(x, lesson.waves(torch.arange(40), size)[:, None])
    assert (found - torch.stack((turned.real, turned.imag), -1).flatten(-2)).abs().max() < 1e-4


def test_a_sixteen_bit_copy_turns_by_exact_angles(lesson):
    net, seen = lesson.GPT(config(lesson, position="rotary")).bfloat16(), []
    net.blocks[0].register_forward_pre_hook(lambda module, args: seen.append(args[2]))
    net(random_ids(1, 8))
    assert torch.equal(seen[0], lesson.waves(torch.arange(8), net.cfg.head_size)[:, None])


def test_every_head_is_turned_alike(lesson):
    x = torch.randn(2, 30, 1, 6).expand(2, 30, 4, 6)
    turned = lesson.apply_rope(x, lesson.waves(torch.arange(30), 6)[:, None])
    assert torch.equal(turned, turned[:, :, :1].expand_as(turned))


@torch.no_grad()
@pytest.mark.parametrize(("position", "moves"), [
    ("rotary", False), ("none", False), ("learned", True), ("sinusoidal", True)])
def test_shifting_a_text_matters_for_absolute_positions_only(lesson, position, moves):
    net = stir(lesson.GPT(config(lesson, position=position, block_size=20)))
    change = (net(random_ids(1, 8))[0] - net(random_ids(1, 8), positions=torch.arange(8) + 12)[0]).abs().max()
    assert change > 1e-3 if moves else change < 1e-5


# ------------------------------------------------------------ toggles


class Stub(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, *_):
        return self.function(x)


@pytest.mark.parametrize(("residual", "expected"), [
    ("on", 21.5),  # 2 + 3 * (2 + 1) = 11; 11 + (11 + 10) / 2
    ("off", 9.5),  # 3 * (2 + 1) = 9; (9 + 10) / 2
    ("bug", 23.0),  # the stream becomes 2 + 1; 3 + 3 * 3 = 12; 12 + (12 + 10) / 2
])
def test_residual_formulas(lesson, residual, expected):
    block = lesson.Block(config(lesson, residual=residual))
    block.norm1, block.attn = Stub(lambda x: x + 1), Stub(lambda x: 3 * x)
    block.norm2, block.mlp = Stub(lambda x: x + 10), Stub(lambda x: x / 2)
    assert block(torch.tensor(2.0)).item() == expected


@pytest.mark.parametrize("residual", ["on", "off", "bug"])
def test_residual_formulas_with_the_real_parts(lesson, residual):
    block = stir(lesson.Block(config(lesson, residual=residual)))
    x, where = torch.randn(2, 8, 8), torch.arange(8)
    h = block.norm1(x)
    middle = block.attn(h, where) + {"on": x, "off": 0, "bug": h}[residual]
    expected = block.mlp(block.norm2(middle)) + (0 if residual == "off" else middle)
    assert torch.allclose(block(x, where), expected, atol=1e-6)


def test_only_real_residuals_pass_the_stream_through(lesson):
    """With both branches silent, the block is the identity, nothing, or (the slip) the normalisation."""
    x, found = torch.randn(1, 3, 8), {}
    for residual in ("on", "off", "bug"):
        block = lesson.Block(config(lesson, residual=residual))
        block.attn.proj.weight.data.zero_()
        block.mlp.proj.weight.data.zero_()
        found[residual] = block(x, torch.arange(3))
    assert torch.equal(found["on"], x)
    assert not found["off"].any()
    assert torch.allclose(found["bug"], F.rms_norm(x, (8,)))


@pytest.mark.parametrize(("norm", "bias"), [
    ("rms", False), ("rms", True), ("layer", False), ("layer", True), ("none", True)])
def test_norm_formulas(lesson, norm, bias):
    layer, x = stir(lesson.make_norm(config(lesson, norm=norm, bias=bias))), 3 * torch.randn(2, 5, 8) + 1
    p = dict(layer.named_parameters())
    assert list(p) == {"rms": [], "layer": ["weight", "bias"][:1 + bias], "none": []}[norm]
    expected = x - x.mean(-1, keepdim=True) if norm == "layer" else x
    if norm != "none":
        expected = expected / expected.square().mean(-1, keepdim=True).sqrt() * p.get("weight", 1) + p.get("bias", 0)
    assert torch.allclose(layer(x), expected, atol=1e-4)


ACTIVATIONS = {"relu": lambda x: max(x, 0), "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
               "relu2": lambda x: max(x, 0) ** 2}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_formulas(lesson, activation):
    x = torch.linspace(-3, 3, 25)
    expected = torch.tensor([ACTIVATIONS[activation](value) for value in x.tolist()])
    assert torch.allclose(lesson.MLP(config(lesson, activation=activation)).act(x), expected, atol=1e-6)


def test_mlp_formula(lesson):
    mlp, x = stir(lesson.MLP(config(lesson, bias=True, activation="relu"))), torch.randn(2, 5, 8)
    assert mlp.up.weight.shape == (32, 8)
    expected = (x @ mlp.up.weight.T + mlp.up.bias).clamp(min=0) @ mlp.proj.weight.T + mlp.proj.bias
    assert torch.allclose(mlp(x), expected, atol=1e-5)


TOGGLES = dict(attention=ATTENTIONS, position=POSITIONS, norm=("rms", "layer", "none"), residual=("on", "off", "bug"),
               activation=("relu2", "gelu", "relu"), bias=(False, True), dropout=(0.0, 0.5),
               attention_dropout=(0.0, 0.5), n_head=(2, 4), block_size=(8, 16), vocab_size=(11, 12))
CHANGES = [(name, a, b) for name, values in TOGGLES.items() for a, b in itertools.combinations(values, 2)]


@pytest.mark.parametrize(("name", "one", "other"), CHANGES)
def test_a_toggle_leaves_all_other_initial_weights_alone(lesson, name, one, other):
    a, b = (weights_of(lesson.GPT(config(lesson, **{name: value}))) for value in (one, other))
    shared = [key for key in a if key in b and a[key].shape == b[key].shape]
    assert all(torch.equal(a[key], b[key]) for key in shared)
    assert {key.split(".")[-1] for key in shared} == {"weight"}, "weights were compared at all"
    assert {key for key in a if "mlp" in key} <= set(shared)


NORMS = {"norm_f.weight"} | {f"blocks.{i}.norm{j}.weight" for i in (0, 1) for j in (1, 2)}
ADDED = {  # what a toggle adds to the parameters of a network with LayerNorm, all else staying
    ("position", "none", "learned"): {"position_embedding.weight"},
    ("position", "none", "sinusoidal"): set(), ("position", "none", "rotary"): set(),
    ("attention", "fused", "manual"): set(), ("attention", "fused", "pytorch"): set(),
    ("attention", "none", "fused"): {f"blocks.{i}.{part}" for i in (0, 1) for part in
                                     ("norm1.weight", "attn.qkv.weight", "attn.proj.weight")},
    ("norm", "rms", "layer"): NORMS, ("norm", "none", "layer"): NORMS, ("norm", "none", "rms"): set(),
    ("residual", "on", "off"): set(), ("residual", "on", "bug"): set(),
    ("activation", "relu", "gelu"): set(), ("activation", "relu", "relu2"): set(),
    ("bias", False, True): {"lm_head.bias"} | {name.replace("weight", "bias") for name in NORMS}
    | {f"blocks.{i}.mlp.{part}.bias" for i in (0, 1) for part in ("up", "proj")},
    ("dropout", 0.0, 0.5): set(), ("attention_dropout", 0.0, 0.5): set(),
}


@pytest.mark.parametrize(("name", "without", "with_"), ADDED)
def test_a_toggle_adds_its_own_parameters_only(lesson, name, without, with_):
    a, b = (weights_of(lesson.GPT(config(lesson, **dict(norm="layer") | {name: value}))) for value in (without, with_))
    assert set(a) <= set(b)
    assert set(b) - set(a) == ADDED[name, without, with_]


@torch.no_grad()
@pytest.mark.parametrize(("name", "one", "other"), [change for change in CHANGES if not change[0].endswith("_size")])
def test_a_toggle_does_something_or_is_the_same_computation(lesson, name, one, other):
    a, b = (lesson.GPT(config(lesson, **{name: value})).eval() for value in (one, other))
    for net in (a, b):  # biases begin at 0 and heads small: make differences visible
        for key, p in net.named_parameters():
            p.mul_(5) if p.dim() == 2 else p.add_(0.5 if "bias" in key else 0)
    idx = random_ids(2, 8)
    same_by_design = "dropout" in name or (name == "attention" and "none" not in (one, other))
    change = (a(idx)[0] - b(idx)[0]).abs().max()
    assert change < 1e-5 if same_by_design else change > 1e-4


@pytest.mark.parametrize("field", ["dropout", "attention_dropout"])
def test_dropout_acts_in_training_only(lesson, field):
    net, idx = stir(lesson.GPT(config(lesson, **{field: 0.5}))), random_ids(2, 8)
    assert not torch.equal(net(idx)[0], net(idx)[0])
    net.eval()
    assert torch.equal(net(idx)[0], net(idx)[0])


def test_the_seed_of_a_network_decides_its_weights(lesson):
    cfg = config(lesson)
    assert same(weights_of(lesson.GPT(cfg, 3)), weights_of(lesson.GPT(cfg, 3)))
    one, other = weights_of(lesson.GPT(cfg, 3)), weights_of(lesson.GPT(cfg, 4))
    assert not any(torch.equal(one[name], other[name]) for name in one if one[name].dim() == 2)


@pytest.mark.parametrize("position", POSITIONS)
def test_embeddings_have_the_size_asked_for_and_all_else_stays(lesson, position):
    cfg = config(lesson, position=position, vocab_size=200, block_size=200, n_embd=32)
    small, large = (lesson.GPT(replace(cfg, embedding_std=std)) for std in (0.02, 1.0))
    for (name, a), (_, b) in zip(small.named_parameters(), large.named_parameters()):
        assert torch.allclose(b, 50 * a, rtol=1e-4) if "embedding" in name else torch.equal(a, b), name
    assert large.token_embedding.weight.std().item() == pytest.approx(1, rel=0.05)
    idx, where = random_ids(2, 200), torch.arange(200)
    assert torch.allclose(large.embed(idx, where), 50 * small.embed(idx, where), rtol=1e-3, atol=1e-5)


def test_initial_weights_do_not_depend_on_the_global_random_state(lesson):
    one = weights_of(lesson.GPT(config(lesson)))
    torch.manual_seed(123)
    assert same(one, weights_of(lesson.GPT(config(lesson))))


# ------------------------------------------------------------ counting parameters

PARTS = {"token_embedding": "character embedding", "position_embedding": "position embedding", "attn": "attention",
         "mlp": "MLP", "norm1": "normalisation", "norm2": "normalisation", "norm_f": "normalisation", "lm_head": "head"}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_parameters_by_hand_equal_torch(lesson, data):
    draw, half = data.draw, st.integers(1, 4)
    n_head, position, attention = draw(half), *draw(st.sampled_from(PAIRS))
    cfg = config(lesson, vocab_size=draw(st.integers(2, 60)), block_size=draw(st.integers(2, 30)), n_layer=draw(half),
                 n_head=n_head, n_embd=2 * n_head * draw(half), position=position, attention=attention,
                 **{name: draw(st.sampled_from(TOGGLES[name]))
                    for name in ("norm", "residual", "activation", "bias")})
    expected = dict.fromkeys(lesson.parameters_by_part(cfg), 0)
    for name, p in lesson.GPT(cfg).named_parameters():
        expected[next(part for key, part in PARTS.items() if key in name.split("."))] += p.numel()
    assert lesson.parameters_by_part(cfg) == expected


@pytest.mark.parametrize(("configuration", "parameters"), [
    ("article 10M", 10_327_659), ("sweep 1", 5_451), ("sweep 2", 31_339), ("sweep 3", 212_331), ("sweep 4", 1_621_611)])
def test_the_article_s_parameter_counts(lesson, form, configuration, parameters):
    cfg, _ = lesson.configure(form | {"configuration": configuration}, 107, 327_473)
    assert sum(p.numel() for p in lesson.GPT(cfg).parameters()) == parameters
    assert sum(lesson.parameters_by_part(cfg).values()) == parameters


@pytest.mark.parametrize("agreement", [0.0, 2.0])
@pytest.mark.parametrize("attention", ["manual", "none"])
def test_operations_are_those_that_torch_counts(lesson, attention, agreement):
    """Forward and back; half of attention's (T, T) products is hidden by the mask: PyTorch counts it, we do not."""
    run = start(lesson, net=dict(attention=attention, n_layer=3), agreement=agreement)
    with FlopCounterMode(display=False) as counter:
        lesson.update(run)
    B, T, C = run.cfg.batch_size * (2 if agreement else 1), 8, 8
    hidden = 3 * 6 * B * T * T * C * (attention != "none")
    assert lesson.flops_per_step(run.model.cfg, run.cfg) == counter.get_total_flops() - hidden


def test_a_window_read_twice_counts_twice(lesson):
    cfg, once = config(lesson), lesson.TrainConfig(batch_size=6, agreement=0.0)
    work = [lesson.flops_per_step(cfg, replace(once, agreement=weight)) for weight in (0.0, 0.1, 2.0)]
    assert work == [work[0], 2 * work[0], 2 * work[0]]
    assert work[1] == lesson.flops_per_step(cfg, replace(once, batch_size=12))


# ------------------------------------------------------------ batches


def batch(lesson, data, corruption, seed=1, batch_size=64, block_size=8):
    return lesson.sample_batch(data, batch_size, block_size, corruption, torch.Generator().manual_seed(seed))


def test_targets_are_the_next_characters(lesson):
    x, y = batch(lesson, torch.arange(50), 0.0)
    assert x.shape == y.shape == (64, 8)
    assert torch.equal(y, x + 1)
    assert torch.equal(x, x[:, :1] + torch.arange(8))


def test_batches_reach_every_part_of_the_text(lesson):
    x, y = batch(lesson, torch.arange(20), 0.0, batch_size=2000)
    assert set(x[:, 0].tolist()) == set(range(12)), "windows start anywhere they fit"
    assert y.max() == 19


def test_a_text_of_one_window_is_enough(lesson):
    x, y = batch(lesson, torch.arange(9), 0.0)
    assert torch.equal(x, torch.arange(8).expand(64, 8))


@pytest.mark.parametrize("corruption", [0.05, 0.3, 0.9])
def test_corruption_replaces_its_share_of_inputs_and_no_target(lesson, corruption):
    data = torch.arange(5000)  # all different, so a replacement shows
    x, y = batch(lesson, data, corruption, batch_size=2000)
    assert torch.equal(y, y[:, :1] + torch.arange(8))
    assert (x != y - 1).float().mean().item() == pytest.approx(corruption, abs=0.02)
    assert x.min() >= 0
    assert x.max() < 5000


def test_replacements_are_as_frequent_as_in_the_text(lesson):
    data = torch.tensor([0] * 900 + [1] * 100)
    x, y = batch(lesson, data, 0.9, batch_size=4000)
    assert x.float().mean().item() == pytest.approx(0.1, abs=0.01)


def test_corruption_leaves_the_windows_where_they_were(lesson):
    data = torch.arange(500)
    assert torch.equal(batch(lesson, data, 0.0)[1], batch(lesson, data, 0.5)[1])


def test_batches_have_their_own_random_stream(lesson):
    data = torch.arange(500)
    torch.manual_seed(1)
    before, first = torch.get_rng_state(), batch(lesson, data, 0.3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, batch(lesson, data, 0.3)))
    assert not torch.equal(first[1], batch(lesson, data, 0.3, seed=2)[1])


# ------------------------------------------------------------ evaluation

LENGTHS = [2, 5, 8, 9, 10, 16, 17, 18, 33, 41, 60]


def naive_loss(net, data):
    """Character by character sum over windows that don't overlap."""
    T, total = net.cfg.block_size, 0.0
    for i in range(0, len(data) - 1, T):
        x, y = data[i:i + T], data[i + 1:i + T + 1]
        log_p = net(x[None, :len(y)])[0][0].log_softmax(-1)
        total -= sum(log_p[t, c].item() for t, c in enumerate(y.tolist()))
    return total / (len(data) - 1)


@pytest.mark.parametrize("at_once", [1, 16, 24, 65_536])
@pytest.mark.parametrize("length", LENGTHS)
def test_evaluation_equals_a_naive_loop(lesson, length, at_once):
    net, data = stir(lesson.GPT(config(lesson))), random_ids(length)
    assert lesson.evaluate(net, data, at_once=at_once) == pytest.approx(naive_loss(net, data), rel=1e-5)


@pytest.mark.parametrize("at_once", [1, 16, 65_536])
@pytest.mark.parametrize("length", LENGTHS)
def test_evaluation_predicts_each_character_once(lesson, length, at_once):
    net, data, predicted = lesson.GPT(config(lesson, vocab_size=100)), torch.arange(length), []
    net.register_forward_hook(lambda module, args, out: predicted.extend(args[1][args[1] >= 0].tolist()))
    lesson.evaluate(net, data, at_once=at_once)
    assert predicted == list(range(1, length))


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_the_mode_as_it_was(lesson, training):
    net, modes = lesson.GPT(config(lesson, dropout=0.5)).train(training), []
    net.register_forward_hook(lambda module, args, out: modes.append((module.training, torch.is_grad_enabled())))
    lesson.evaluate(net, random_ids(40))
    assert net.training == training == net.blocks[0].mlp.drop.training
    assert set(modes) == {(False, False)}


def test_evaluation_draws_no_random_numbers(lesson):
    net, data = lesson.GPT(config(lesson, dropout=0.5, attention_dropout=0.5)).train(), random_ids(40)
    before = torch.get_rng_state()
    first = lesson.evaluate(net, data)
    assert torch.equal(torch.get_rng_state(), before)
    assert lesson.evaluate(net, data) == first


# ------------------------------------------------------------ one training step


SCHEDULES = {  # settings -> learning rate at known steps
    "warm-up": (dict(warmup=4), {0: 0.2, 1: 0.4, 2: 0.6, 3: 0.8, 4: 1.0}),
    "constant after it": (dict(warmup=4), {4: 1.0, 10: 1.0, 19: 1.0}),
    "no warm-up": (dict(warmup=0), {0: 1.0, 1: 1.0, 19: 1.0}),
    "warm-up longer than the run": (dict(warmup=39), {0: 0.025, 9: 0.25, 19: 0.5}),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_learning_rate_schedule(lesson, name):
    changes, expected = SCHEDULES[name]
    run, rates = start(lesson, max_iters=20, learning_rate=0.5, **changes), []
    for _ in range(20):
        lesson.advance(run)
        rates.append(run.lr.item())
    assert run.step == 20
    assert {step: rates[step] for step in expected} == pytest.approx({step: 0.5 * x for step, x in expected.items()})


@pytest.mark.parametrize("learning_rate", [0.0, 1e-3, 1e-2])
def test_the_optimizer_uses_the_scheduled_rate(lesson, learning_rate):
    run = start(lesson, learning_rate=learning_rate, warmup=1, weight_decay=0.0)  # half the rate at the first step
    before = weights_of(run.model)
    lesson.advance(run)
    moved = max((p.detach() - before[name]).abs().max().item() for name, p in run.model.named_parameters())
    assert moved == pytest.approx(learning_rate / 2, rel=0.01), "Adam's first step is as long as the rate"


@pytest.mark.parametrize("net", [dict(norm="layer", bias=True, position="learned"),
                                 dict(attention="pytorch", position="learned"), dict(attention="none")])
def test_only_the_blocks_matrices_decay(lesson, net):
    run = start(lesson, net=net, weight_decay=0.5)
    stir(run.model)
    before = weights_of(run.model)
    run.lr.fill_(0.1)
    run.optimizer.step()  # its gradient is still zero
    for name, p in run.model.named_parameters():
        kept = 0.95 if name.startswith("blocks.") and p.dim() == 2 else 1.0
        assert torch.allclose(p, kept * before[name]), name


def test_every_parameter_is_optimized_once(lesson):
    run = start(lesson, net=dict(norm="layer", bias=True, position="learned"))
    optimized = [(p.data_ptr(), p.numel()) for group in run.optimizer.param_groups for p in group["params"]]
    (begin, n), (middle, m) = sorted(optimized)
    assert middle == begin + 4 * n, "the two parts lie side by side"
    places = sorted((p.data_ptr() - begin, p.numel()) for p in run.model.parameters())
    assert places[0][0] == 0 and sum(size for _, size in places) == n + m
    assert all(a + 4 * size == b for (a, size), (b, _) in zip(places, places[1:])), "no gap, no overlap"


def next_batch(lesson, run):
    """What the run's next step will read, corruption and all."""
    cfg = run.cfg
    return lesson.sample_batch(run.train_ids, cfg.batch_size, run.model.cfg.block_size, cfg.corruption,
                               run.generator.clone_state())


@pytest.mark.parametrize(("head", "clipped"), [(1, False), (30, True)])
def test_gradients_longer_than_one_are_clipped_and_others_left_alone(lesson, head, clipped):
    run = start(lesson, agreement=0.0)
    run.model.lm_head.weight.data.mul_(head)
    net = copy.deepcopy(run.model)
    parameters = lesson.flatten(net)[1]
    free = torch.autograd.grad(net(*next_batch(lesson, run))[1], parameters)
    length = torch.stack([g.norm() for g in free]).norm().item()
    assert length > 2 if clipped else 0.01 < length < 0.9
    lesson.advance(run)
    assert torch.allclose(run.gradient, torch.cat([g.flatten() for g in free]) / max(1, length), rtol=1e-4, atol=1e-7)


def plain_loss(model, x, y, agreement):
    """The loss that a step follows, from PyTorch's own cross entropy and divergence."""
    if not agreement:
        return F.cross_entropy(model(x)[0].flatten(0, 1), y.flatten())
    p, q = model(torch.cat((x, x)))[0].log_softmax(-1).chunk(2)
    apart = [F.kl_div(a, b, reduction="none", log_target=True).sum(-1).mean() for a, b in ((p, q), (q, p))]
    return sum(F.nll_loss(half.flatten(0, 1), y.flatten()) for half in (p, q)) / 2 + agreement * sum(apart) / 2


def adamw(p, g, m, v, t, lr, decay):
    """Step t = 1, 2, ... of AdamW, as in Loshchilov and Hutter's paper, in place."""
    m.mul_(0.9).add_(0.1 * g)
    v.mul_(0.95).add_(0.05 * g.square())
    p.mul_(1 - lr * decay).sub_(lr * m / (1 - 0.9**t) / ((v / (1 - 0.95**t)).sqrt() + 1e-8))


@pytest.mark.parametrize("agreement", [0.0, 2.0])
def test_a_step_is_adamw_written_by_hand(lesson, agreement):
    """Three steps with everything random at work, on a copy of which the notebook does only the forward pass."""
    net = dict(dropout=0.2, attention_dropout=0.2, norm="layer", bias=True, position="learned", attention="manual")
    run = start(lesson, net=net, agreement=agreement, corruption=0.2, weight_decay=0.5, learning_rate=1e-2, warmup=2)
    for net in (run.model, run.averaged):
        net.lm_head.weight.data.mul_(30)  # gradients long enough to be clipped
    copied = copy.deepcopy(run.model)
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in copied.named_parameters()}
    for t in (1, 2, 3):
        chance, (x, y) = torch.get_rng_state(), next_batch(lesson, run)
        names, weights = zip(*copied.named_parameters())
        gradients = torch.autograd.grad(plain_loss(copied, x, y, agreement), weights)
        length = torch.stack([g.norm() for g in gradients]).norm()
        assert length > 1
        with torch.no_grad():
            for name, p, g in zip(names, weights, gradients):
                decay = 0.5 if name.startswith("blocks.") and p.dim() == 2 else 0.0
                adamw(p, g / length, *moments[name], t, 1e-2 * t / 3, decay)
        torch.set_rng_state(chance)
        lesson.advance(run)
        for name, p in run.model.named_parameters():
            assert (p - copied.get_parameter(name)).abs().max() < 1e-6, f"{name} after step {t}"


@pytest.mark.parametrize("number_format", ["fp32", "fp16", "bf16"])
def test_the_worker_has_the_number_format_and_all_else_is_exact(lesson, number_format):
    net = NOISY | dict(norm="layer", bias=True, position="learned")
    run = start(lesson, net=net, number_format=number_format, learning_rate=1e-2)
    masters, workers = list(run.model.parameters()), list(run.worker.parameters())
    assert not {p.data_ptr() for p in masters} & {p.data_ptr() for p in workers}, "two networks"
    for _ in range(4):
        before = weights_of(run.model)
        lesson.advance(run)
    assert {p.dtype for p in workers} == {lesson.DTYPES[number_format]}
    exact = [*masters, *run.averaged.parameters(), run.gradient]
    exact += [value for state in run.optimizer.state.values() for value in state.values()]
    assert {t.dtype for t in exact} == {torch.float32}
    assert same(weights_of(run.worker), {name: p.to(lesson.DTYPES[number_format]) for name, p in before.items()})
    assert not same(before, weights_of(run.model))
    assert all(map(torch.equal, masters, list(run.model.parameters()))), "the same tensors all the time"


def test_rounding_does_not_swallow_small_steps(lesson):
    """1 + 0.001 is 1 in bf16: what a worker could not hold adds up in the master weights."""
    run = start(lesson, number_format="bf16", learning_rate=1e-4, warmup=0, weight_decay=0.0, max_iters=20)
    p = run.model.token_embedding.weight
    p.data.fill_(1.0)
    for _ in range(3):
        lesson.advance(run)
        assert (run.worker.token_embedding.weight == 1).all()
    moved = (p - 1).abs()
    assert 2e-4 < moved.max() < 4e-4


# ------------------------------------------------------------ reading twice


@pytest.fixture
def unsure(lesson):
    """A network whose two readings differ a lot, in double precision, and a batch."""
    net = config(lesson, dropout=0.3, attention_dropout=0.3)
    return stir(lesson.GPT(net)).double(), random_ids(4, 8), random_ids(4, 8, seed=1)


def test_reading_twice_is_cross_entropy_and_symmetric_divergence(lesson, unsure):
    net, x, y = unsure
    torch.manual_seed(7)
    loss, divergence = lesson.rdrop_loss(net, x, y)
    torch.manual_seed(7)
    p, q = (torch.distributions.Categorical(logits=logits) for logits in net(torch.cat((x, x)))[0].chunk(2))
    kl = torch.distributions.kl_divergence
    assert p.probs.dtype == torch.float64
    assert divergence.item() == pytest.approx((kl(p, q) + kl(q, p)).mean().item() / 2, rel=1e-4)
    assert divergence > 0.01
    assert loss.item() == pytest.approx(-(p.log_prob(y) + q.log_prob(y)).mean().item() / 2, rel=1e-5)


def test_reading_twice_punishes_being_apart(lesson, unsure):
    """Following its gradient brings the two readings together."""
    net, x, y = unsure

    def apart():
        torch.manual_seed(7)
        return lesson.rdrop_loss(net, x, y)[1]

    before = apart()
    weights = list(net.parameters())
    with torch.no_grad():
        for p, g in zip(weights, torch.autograd.grad(before, weights)):
            p -= 0.01 * g
    assert apart() < before


def test_without_dropout_both_readings_are_the_same(lesson):
    net, x, y = stir(lesson.GPT(config(lesson))), random_ids(4, 8), random_ids(4, 8, seed=1)
    loss, divergence = lesson.rdrop_loss(net, x, y)
    assert divergence.item() == pytest.approx(0, abs=1e-9)
    assert loss.item() == pytest.approx(net(x, y)[1].item(), rel=1e-6)


@pytest.mark.parametrize(("agreement", "rows"), [(0.0, 4), (0.5, 8)])
def test_windows_are_read_twice_only_where_agreement_counts(lesson, agreement, rows):
    run, seen = start(lesson, agreement=agreement), []
    run.worker.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    lesson.advance(run)
    assert seen == [rows]


# ------------------------------------------------------------ averages and records


def test_averaging_is_the_closed_form(lesson):
    """Share 5 / (t + 5) at step t gives the weights of step s the share 5 / (s + 5) * product of t / (t + 5), t > s."""
    run, steps, n = start(lesson, max_iters=12), [], 12
    for _ in range(n):
        lesson.advance(run)
        steps.append(weights_of(run.model))
    shares = [5 / (s + 5) * math.prod(t / (t + 5) for t in range(s + 1, n)) for s in range(n)]
    assert sum(shares) == pytest.approx(1)
    for name, average in run.averaged.named_parameters():
        expected = sum(share * weights[name].double() for share, weights in zip(shares, steps))
        assert (average - expected).abs().max() < 1e-6, name
    assert not same(weights_of(run.averaged), steps[-1])


def test_the_first_step_forgets_the_initial_weights(lesson):
    run = start(lesson)
    lesson.advance(run)
    assert same(weights_of(run.averaged), weights_of(run.model))


def test_a_step_records_its_loss(lesson):
    run = start(lesson)
    for step in range(3):
        x, y = lesson.sample_batch(run.train_ids, 4, 8, 0.0, run.generator.clone_state())
        expected = run.model(x, y)[1].item()
        lesson.advance(run)
        assert run.losses[step].item() == pytest.approx(expected, rel=1e-6)
    assert run.step == run.clock.item() == 3
    assert not run.losses[3:].any()


# ------------------------------------------------------------ whole runs

NOISY = dict(dropout=0.3, attention_dropout=0.2)  # every source of chance is on


def result(run):
    return dict(losses=run.losses, **weights_of(run.model),
                **{f"averaged {name}": p for name, p in weights_of(run.averaged).items()})


def test_training_lowers_the_loss(lesson):
    run = start(lesson, max_iters=60)
    lesson.train(run)
    assert run.step == 60
    assert run.finished
    assert run.history[0]["val"] == pytest.approx(math.log(28), abs=0.1)
    assert run.history[-1]["val"] < run.history[0]["val"] - 0.5


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_one_seed_gives_the_same_run_twice(lesson, attention):
    results = []
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)
        run = start(lesson, net=NOISY | dict(attention=attention, position="learned"), corruption=0.2, max_iters=15)
        lesson.train(run)
        results.append((result(run), [point["val"] for point in run.history]))
    assert same(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def test_another_seed_gives_another_run(lesson):
    runs = [start(lesson, net=NOISY, max_iters=5, seed=seed) for seed in (1, 2)]
    assert not torch.equal(runs[0].generator.get_state(), runs[1].generator.get_state())
    for run in runs:
        lesson.train(run)
    a, b = (result(run) for run in runs)
    assert (a["losses"] != b["losses"]).all()
    assert not any(torch.equal(a[name], b[name]) for name in a if a[name].dim() == 2)


def test_evaluating_more_often_changes_nothing_but_the_history(lesson):
    runs = []
    for every in (5, 50):
        runs.append(start(lesson, net=NOISY, corruption=0.2, max_iters=60, eval_interval=every))
        lesson.train(runs[-1])
    assert same(result(runs[0]), result(runs[1]))
    assert len(runs[0].history) > len(runs[1].history)


def test_history_has_the_steps_asked_for_and_the_last(lesson):
    run = start(lesson, max_iters=47, eval_interval=15)
    lesson.train(run)
    steps = [point["step"] for point in run.history]
    assert {0, 15, 30, 45, 47} <= set(steps)
    assert steps == sorted(set(steps))
    for before, point in itertools.pairwise(run.history):
        expected = run.losses[before["step"]:point["step"]].mean().item()
        assert point["train"] == pytest.approx(expected, rel=1e-6)


def overfitting(lesson, **changes):
    """A run whose validation text shares little with its training text, so that the loss rises again."""
    return start(lesson, TEXT, TEXT[::-1][:60], **dict(max_iters=80, eval_interval=5, learning_rate=2e-2) | changes)


def test_best_weights_are_kept(lesson):
    run = overfitting(lesson)
    lesson.train(run)
    vals = {point["step"]: point["val"] for point in run.history}
    assert run.best["val"] == min(vals.values()) == vals[run.best["step"]]
    assert 0 < run.best["step"] < 80, "the best is neither the first nor the last"
    assert lesson.evaluate(lesson.as_of(run, run.best), run.val_ids) == run.best["val"]
    assert lesson.evaluate(run.averaged, run.val_ids) == vals[80]


def test_patience_stops_a_run_that_gets_worse(lesson):
    patient, run = overfitting(lesson), overfitting(lesson, patience=2)
    for each in (patient, run):
        lesson.train(each)
    assert patient.step == 80
    assert run.step < 80
    assert run.finished
    assert [point["step"] > run.best["step"] for point in run.history][-3:] == [False, True, True]
    assert torch.equal(run.losses[:run.step], patient.losses[:run.step])


@pytest.mark.parametrize(("patience", "vals", "stops"), [
    (0, [3, 4, 5, 6, 7], False), (1, [3, 2], False), (1, [3, 2, 2.5], True), (2, [3, 2, 2.5], False),
    (2, [3, 2, 2.5, 2.1], True), (2, [3, 2, 2.5, 1.9, 2.4], False), (2, [3, 3, 3], True)])
def test_patience_counts_evaluations_since_the_best(lesson, patience, vals, stops):
    run = start(lesson, patience=patience)
    for step, val in enumerate(vals):
        run.step = step
        lesson.note(run, val)
    assert run.finished == stops
    assert run.best["val"] == min(vals)
    assert run.best["step"] == vals.index(min(vals))


@pytest.mark.parametrize(("vals", "kept"), [
    ([4.7], []),
    ([4.7, 3.9, 3.8, 2.9], [3.9, 2.9]),
    ([4.7, 4.0, 2.0], [4.0, 2.0]),  # a rung counts when it is reached; one copy for several rungs
    ([4.7, 1.0, 0.5], [1.0]),
    ([3.9, 3.5], [3.9]),
    ([4.7, 2.4, 2.6, 2.3, 1.9], [2.4, 1.9]),  # 2.5 was passed already
    ([4.7, 2.9, 4.5, 3.9, 2.8], [2.9]),
])
def test_snapshots_on_the_ladder(lesson, vals, kept):
    assert lesson.LADDER == (4.0, 3.0, 2.5, 2.0, 1.6)
    run = start(lesson)
    for step, val in enumerate(vals):
        run.step = step
        lesson.note(run, val)
    assert [snapshot["val"] for snapshot in run.snapshots] == kept


def test_snapshots_hold_the_weights_of_their_moment(lesson):
    run = start(lesson, max_iters=120, learning_rate=2e-2)
    lesson.train(run)
    assert len(run.snapshots) >= 3
    for snapshot in run.snapshots:
        net = lesson.as_of(run, snapshot)
        assert lesson.evaluate(net, run.val_ids) == pytest.approx(snapshot["val"], abs=0.01)


# ------------------------------------------------------------ from logits to probabilities

P = [0.15, 0.5, 0.1, 0.25]
FILTERS = {
    "as they are": ({}, P),
    "colder": (dict(temperature=0.5), [0.0225 / 0.345, 0.25 / 0.345, 0.01 / 0.345, 0.0625 / 0.345]),
    "hotter": (dict(temperature=2.0), [x**0.5 / sum(y**0.5 for y in P) for x in P]),
    "very hot": (dict(temperature=1e6), [0.25] * 4),
    "very cold": (dict(temperature=0.01), [0, 1, 0, 0]),
    "temperature 0": (dict(temperature=0), [0, 1, 0, 0]),
    "temperature 0 and the rest": (dict(temperature=0, top_k=3, top_p=0.9), [0, 1, 0, 0]),
    "top-k 1": (dict(top_k=1), [0, 1, 0, 0]),
    "top-k 2": (dict(top_k=2), [0, 2 / 3, 0, 1 / 3]),
    "top-k 3": (dict(top_k=3), [1 / 6, 5 / 9, 0, 5 / 18]),
    "top-k of all": (dict(top_k=4), P),
    "top-k of more": (dict(top_k=99), P),
    "top-p 0": (dict(top_p=0.0), [0, 1, 0, 0]),
    "top-p below the first": (dict(top_p=0.49), [0, 1, 0, 0]),
    "top-p above the first": (dict(top_p=0.51), [0, 2 / 3, 0, 1 / 3]),
    "top-p above the second": (dict(top_p=0.76), [1 / 6, 5 / 9, 0, 5 / 18]),
    "top-p of nearly all": (dict(top_p=0.95), P),
    "top-p 1": (dict(top_p=1.0), P),
    "temperature before top-p": (dict(temperature=0.5, top_p=0.7), [0, 1, 0, 0]),
    "temperature and top-k": (dict(temperature=0.5, top_k=2), [0, 0.8, 0, 0.2]),
    "top-k before top-p": (dict(top_k=3, top_p=0.8), [0, 2 / 3, 0, 1 / 3]),  # 0.75 is over 0.8 of the 0.9 left
    "all three": (dict(temperature=0.5, top_k=3, top_p=0.95), [0.0225 / 0.335, 0.25 / 0.335, 0, 0.0625 / 0.335]),
}


@pytest.mark.parametrize("name", FILTERS)
def test_probabilities_by_hand(lesson, name):
    knobs, expected = FILTERS[name]
    logits = torch.tensor(P).log() + 3  # a constant makes no difference
    assert lesson.next_probabilities(logits, **knobs).tolist() == pytest.approx(expected, abs=1e-5)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-30, 30), min_size=1, max_size=12, unique=True), st.sampled_from([0, 0.1, 0.8, 1, 3]),
       st.integers(0, 14), st.sampled_from([0.01, 0.3, 0.9, 1.0]))
def test_probabilities_sum_to_one_and_keep_the_order(lesson, logits, temperature, top_k, top_p):
    logits = torch.tensor(logits).float()
    before = logits.clone()
    p = lesson.next_probabilities(logits, temperature, top_k, top_p)
    assert torch.equal(logits, before), "the logits stay as they were"
    assert p.sum().item() == pytest.approx(1, abs=1e-5)
    assert (p >= 0).all()
    assert p[logits.argmax()] == p.max()
    if top_k:
        assert (p > 0).sum() <= top_k
    assert (p[logits.argsort()].diff() >= 0).all(), "likelier stays likelier"


# ------------------------------------------------------------ writing


def cycle(lesson, chars="abcdefgh", block_size=16):
    """A network that always writes the next letter of the cycle, and its tokenizer."""
    V = len(chars)
    cfg = config(lesson, vocab_size=V, n_embd=V, n_head=1, block_size=block_size, norm="none", position="none")
    net = lesson.GPT(cfg)
    for name, p in net.named_parameters():
        if "proj" in name:
            p.data.zero_()  # blocks that add nothing
    net.token_embedding.weight.data.copy_(torch.eye(V))
    net.lm_head.weight.data.copy_(50 * torch.eye(V).roll(1, 0))
    return net, lesson.CharTokenizer(chars)


def write(lesson, net, tokenizer, prompt="a", length=10, **knobs):
    return "".join(lesson.generate(net, tokenizer, prompt, length, **dict(stop=None) | knobs))


@pytest.fixture
def writer(lesson):
    """A network with opinions of its own, for `abcdefghijk`."""
    cfg = config(lesson, position="rotary", block_size=16, dropout=0.5, attention_dropout=0.5)
    return stir(lesson.GPT(cfg)), lesson.CharTokenizer("abcdefghijk")


@pytest.mark.parametrize("length", [0, 1, 10, 60])
def test_writing_has_the_length_asked_for(lesson, length):
    assert write(lesson, *cycle(lesson), "a", length) == ("bcdefgha" * 8)[:length]


@pytest.mark.parametrize(("stop", "expected"), [
    ("d", "bcd"), ("de", "bcde"), ("ab", "bcdefghab"), ("hab", "bcdefghab"), ("x", "bcdefghabcdefgha"),
    (None, "bcdefghabcdefgha"), ("", "bcdefghabcdefgha")])
def test_writing_stops_after_the_stop_text(lesson, stop, expected):
    assert write(lesson, *cycle(lesson), "a", 16, stop=stop) == expected


def test_the_prompt_does_not_count_as_the_stop_text(lesson):
    assert write(lesson, *cycle(lesson), "abc", 16, stop="cd") == "defghabcd"


def test_the_default_stop_is_the_end_of_a_post(lesson):
    net, tokenizer = cycle(lesson, "\nab")
    net.lm_head.weight.data.copy_(50 * torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0]]))  # a -> b -> newline for ever
    assert "".join(lesson.generate(net, tokenizer, "a", 50)) == "b\n\n\n"


@pytest.mark.parametrize("prompt", ["", "猫"])
def test_a_prompt_without_a_known_character_begins_a_post(lesson, prompt):
    net, tokenizer = cycle(lesson, "\t\nabc")
    assert write(lesson, net, tokenizer, prompt, 6) == "abc\t\na"


@pytest.mark.parametrize("length", [15, 16, 17, 33, 100])
def test_prompts_longer_than_the_window(lesson, writer, length):
    prompt = ("abcdefghijk" * 10)[-length:]
    assert len(write(lesson, *writer, prompt, 40)) == 40
    assert write(lesson, *writer, prompt, 12, seed=3) == write(lesson, *writer, prompt[-16:], 12, seed=3)


def test_a_seed_repeats_a_text(lesson, writer):
    texts = [write(lesson, *writer, "ab", 40, seed=seed, temperature=1.0, top_p=1.0) for seed in (1, 2, 1)]
    assert texts[0] == texts[2] != texts[1]


def test_temperature_zero_needs_no_seed(lesson, writer):
    texts = {write(lesson, *writer, "ab", 30, seed=seed, temperature=0) for seed in range(4)}
    assert len(texts) == 1


def test_writing_follows_the_probabilities(lesson):
    net, tokenizer = cycle(lesson, "abcd")
    net.lm_head.weight.data.copy_(torch.tensor(P).log()[:, None].expand(4, 4))
    counts = Counter(write(lesson, net, tokenizer, "a", 2000, temperature=1.0, top_p=1.0))
    assert [counts[c] / 2000 for c in "abcd"] == pytest.approx(P, abs=0.04)
    assert set(write(lesson, net, tokenizer, "a", 200, temperature=1.0, top_k=2, top_p=1.0)) == {"b", "d"}


def test_writing_is_in_evaluation_mode_without_gradients(lesson, writer):
    net, tokenizer, modes = *writer, []
    net.train().register_forward_hook(lambda module, args, out: modes.append((module.training, out[0].requires_grad)))
    texts = set()
    for seed in range(3):
        torch.manual_seed(seed)  # dropout would listen to it
        before = torch.get_rng_state()
        texts.add(write(lesson, net, tokenizer, "ab", 30))
        assert torch.equal(torch.get_rng_state(), before)
        net.train()
    assert len(texts) == 1
    assert set(modes) == {(False, False)}


def test_gradients_stay_on_between_two_characters(lesson, writer):
    assert all(torch.is_grad_enabled() for _ in lesson.generate(*writer, "ab", 3))


def test_writing_arrives_character_by_character(lesson, writer):
    net, tokenizer, calls = *writer, []
    net.register_forward_hook(lambda *_: calls.append(1))
    stream = lesson.generate(net, tokenizer, "ab", 10)
    assert not calls
    assert len(next(stream)) == 1
    assert len(calls) <= 2


@pytest.mark.parametrize(("prompt", "read", "announced"), [
    ("abc", "abc", False), ("ab猫c", "abc", True), ("äbc", "abc", True), ("XYZ", "", True)])
def test_unknown_characters_of_the_prompt_are_announced(lesson, capsys, prompt, read, announced):
    net, tokenizer = cycle(lesson)
    text = write(lesson, net, tokenizer, prompt, 4)
    said = capsys.readouterr().out
    assert (repr(read) in said) == announced == bool(said)
    assert text == {"abc": "defg", "": "bcde"}[read]


@pytest.mark.parametrize(("knob", "value"), [
    ("temperature", -1), ("temperature", "hot"), ("temperature", math.nan), ("top_k", -1), ("top_k", 2.5),
    ("top_p", -0.1), ("top_p", 1.5), ("top_p", None)])
def test_bad_knobs_are_named(lesson, writer, knob, value):
    with pytest.raises(ValueError, match=rf"^{knob}={re.escape(repr(value))} will not do: use a .*number from 0 to "):
        write(lesson, *writer, **{knob: value})


@pytest.mark.parametrize("knobs", [
    dict(top_p=0), dict(top_k=0), dict(top_k=10**6), dict(temperature=0), dict(temperature=1e-6), dict(temperature=100),
    dict(temperature=0, top_k=1, top_p=0)])
def test_the_ends_of_the_knobs_work(lesson, writer, knobs):
    assert len(write(lesson, *writer, length=20, **knobs)) == 20


CACHED = [(*pair, size) for pair in PAIRS for size in (3, 8) if pair[0] != "rotary" or size % 2 == 0]


@torch.no_grad()
@pytest.mark.parametrize(("position", "attention", "head_size"), CACHED)
def test_the_cache_changes_no_logits(lesson, position, attention, head_size):
    cfg = config(lesson, position=position, attention=attention, n_embd=2 * head_size, block_size=12)
    net, ids = stir(lesson.GPT(cfg)).eval(), random_ids(12).tolist()
    for prompt in (1, 5, 11):
        reader = lesson.Reader(net)
        for t in range(prompt, 13):
            logits = reader.read(ids[:t] if t == prompt else ids[t - 1:t])
            expected = net(torch.tensor([ids[:t]]))[0][0, -1]
            assert (logits - expected).abs().max() < 1e-5, f"after {t} characters"


@torch.no_grad()
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("block_size", [2, 3, 8])
def test_a_full_window_goes_on_with_its_newer_half(lesson, position, block_size):
    net = stir(lesson.GPT(config(lesson, position=position, block_size=block_size))).eval()
    ids, reader, first = random_ids(4 * block_size).tolist(), lesson.Reader(net), 0
    for t in range(len(ids)):
        logits = reader.read(ids[t:t + 1])
        if t + 1 - first > block_size:
            first = t + 1 - block_size // 2
        assert (logits - net(torch.tensor([ids[first:t + 1]]))[0][0, -1]).abs().max() < 1e-5


@pytest.mark.parametrize(("length", "ratio"), [(60, 10), (300, 10)])
def test_writing_computes_far_fewer_positions_than_starting_over(lesson, length, ratio):
    net, tokenizer, computed = *cycle(lesson, block_size=64), []
    net.register_forward_hook(lambda module, args, out: computed.append(out[0].size(1)))
    assert len(write(lesson, net, tokenizer, "abc", length)) == length
    assert length <= sum(computed)
    assert ratio * sum(computed) < sum(min(64, 3 + t) for t in range(length))


# ------------------------------------------------------------ copied or new?


@pytest.mark.parametrize(("sample", "text", "pieces"), [
    ("", "abc", []), ("abc", "abc", ["abc"]), ("abcab", "abc", ["abc", "ab"]), ("xyz", "abc", ["x", "y", "z"]),
    ("abxbc", "abc", ["ab", "x", "bc"]), ("aaaa", "aa", ["aa", "aa"]), ("abc", "", ["a", "b", "c"]),
    ("the catalog", "the cat; a log", ["the cat", "a", "log"])])
def test_longest_matches(lesson, sample, text, pieces):
    assert lesson.longest_matches(sample, text) == pieces


@settings(deadline=None)
@given(st.text("ab\n", max_size=40), st.text("abc\n", max_size=40))
def test_longest_matches_are_matches_and_longest(lesson, text, sample):
    pieces = lesson.longest_matches(sample, text)
    assert "".join(pieces) == sample
    assert all(len(piece) == 1 or piece in text for piece in pieces)
    assert all(piece + after[0] not in text for piece, after in itertools.pairwise(pieces))


@pytest.mark.parametrize(("text", "words"), [
    ("", []), ("12 - 34!", []), ("The cat, the CAT.", ["the", "cat", "the", "cat"]), ("Don't 'quote' it", [
        "don't", "quote", "it"]), ("naïve café_2x\nend", ["naïve", "café", "x", "end"])])
def test_words_of(lesson, text, words):
    assert lesson.words_of(text) == words


# ------------------------------------------------------------ configurations

COLUMNS = ("n_layer", "n_head", "n_embd", "block_size", "dropout", "batch_size", "max_iters", "learning_rate")
ARTICLE = {
    "article 10M": (52, 4, 128, 128, 0.1, 32, 1400, 1e-3),
    "article 800k": (16, 8, 64, 128, 0.0, 64, 1000, 1e-3),
    "article 200k": (4, 4, 64, 32, 0.0, 16, 2000, 1e-3),
    "sweep 1": (4, 4, 8, 32, 0.0, 8, 1000, 1e-2),
    "sweep 2": (8, 8, 16, 128, 0.1, 16, 1000, 1e-3),
    "sweep 3": (16, 16, 32, 128, 0.2, 32, 1000, 1e-4),
    "sweep 4": (32, 32, 64, 256, 0.3, 64, 1000, 1e-5),
}


def configured(lesson, form, vocab_size=107, train_length=327_473, **changes):
    return lesson.configure(form | changes, vocab_size, train_length)


def merged(pair):
    return asdict(pair[0]) | asdict(pair[1])


@pytest.mark.parametrize("name", ARTICLE)
def test_the_article_s_configurations(lesson, form, name):
    found = merged(configured(lesson, form, configuration=name))
    assert {column: found[column] for column in COLUMNS} == dict(zip(COLUMNS, ARTICLE[name]))
    parts = dict(position="learned", norm="layer", residual="on", activation="relu", bias=True,
                 corruption=0.0, agreement=0.0, vocab_size=107,
                 attention_dropout=0.1 if name == "article 10M" else 0.0)
    assert {part: found[part] for part in parts} == parts


def test_every_configuration_works(lesson, form):
    assert set(ARTICLE) <= set(lesson.CONFIGURATIONS)
    for name, overruled in lesson.CONFIGURATIONS.items():
        found = merged(configured(lesson, form, configuration=name))
        assert {field: found[field] for field in overruled} == overruled


@pytest.mark.parametrize(("kind", "chosen"), [("cpu", "small"), ("mps", "as written")])
def test_automatic_is_small_on_a_cpu_and_as_written_elsewhere(lesson, form, monkeypatch, kind, chosen):
    monkeypatch.setitem(lesson.globals, "device", torch.device(kind))
    assert configured(lesson, form, configuration="automatic") == configured(lesson, form, configuration=chosen)


def test_the_small_configuration_is_small(lesson, form):
    small, written = (configured(lesson, form, configuration=name)[0] for name in ("small", "as written"))
    assert 4 * sum(lesson.parameters_by_part(small).values()) < sum(lesson.parameters_by_part(written).values())


def test_automatic_values_follow_from_the_length_of_the_text(lesson, form):
    changes = dict(configuration="as written", block_size=128, max_iters="automatic", corruption="automatic")
    lengths = (10_000, 40_000, 327_000, 1_000_000, 50_000_000)
    plans = [configured(lesson, form, train_length=n, **changes)[1] for n in lengths]
    steps, corruption = [p.max_iters for p in plans], [p.corruption for p in plans]
    assert all(type(n) is int for n in steps)
    assert 50 <= steps[0] < steps[1] < steps[2] <= steps[3] <= steps[4] <= 20_000, "more text can be read for longer"
    assert 0.2 > corruption[0] >= corruption[1] > corruption[3] > corruption[4] >= 0, "and needs less disturbance"
    assert corruption[1:4] == [0.08, round(20_000 / 327_000, 3), 0.02]


@pytest.mark.parametrize(("field", "value"), [
    ("max_iters", 7), ("corruption", 0.07), ("corruption", 0.0), ("number_format", "fp16")])
def test_typed_values_replace_automatic_ones(lesson, form, field, value):
    assert merged(configured(lesson, form, configuration="as written", **{field: value}))[field] == value


def test_the_automatic_number_format_is_the_machine_s(lesson, form):
    assert configured(lesson, form, number_format="automatic")[1].number_format == "fp32"


ANOTHER = dict(  # a value for each field that isn't the form's
    n_layer=3, n_head=4, n_embd=192, block_size=64, dropout=0.25, attention="manual", position="learned", norm="layer",
    residual="bug", activation="gelu", bias=True, batch_size=5, max_iters=77, learning_rate=3e-4,
    weight_decay=0.3, corruption=0.03, agreement=0.7, patience=9, seed=12, number_format="bf16", capture=False,
    compile=True)


@pytest.mark.parametrize("field", ANOTHER)
def test_a_setting_of_the_form_arrives_and_changes_nothing_else(lesson, form, field):
    base = dict(configuration="as written", max_iters=500, corruption=0.2)  # automatic values depend on others
    before, after = (merged(configured(lesson, form | base, **changes)) for changes in ({}, {field: ANOTHER[field]}))
    expected = {field: ANOTHER[field]} | ({"attention_dropout": 0.25} if field == "dropout" else {})
    assert {name: value for name, value in after.items() if value != before[name]} == expected


def test_every_setting_of_the_form_is_handed_over(lesson, form, code_cells):
    trees = [ast.parse(source(cell)) for cell in code_cells]
    handed = next(ast.literal_eval(node.value) for tree in trees for node in tree.body
                  if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "FORM")
    known = {f.name for kind in (lesson.GPTConfig, lesson.TrainConfig) for f in fields(kind)}
    assert set(handed) == {"configuration"} | (known & set(form))
    assert set(ANOTHER) == known & set(form), "and has a case above"


def test_every_entry_of_the_form_s_menus_works(lesson, form, code_cells):
    lines = next(source(cell) for cell in code_cells if "parameters" in tags(cell)).splitlines()
    menus = {line.split(" = ")[0]: json.loads(found[1]) for line in lines
             if (found := re.search(r"#@param (\[.*?\])(?: \{|$)", line))}
    assert sorted(menus["configuration"]) == sorted(["automatic", *lesson.CONFIGURATIONS])
    known = {f.name for kind in (lesson.GPTConfig, lesson.TrainConfig) for f in fields(kind)}
    tried = 0
    for name in set(menus) & known:
        assert form[name] in menus[name] or str(form[name]) in {str(entry).strip('"') for entry in menus[name]}
        for entry in menus[name]:
            raw = entry if name not in ("max_iters", "corruption") else json.loads(entry)
            fits = {"position": "learned"} if name == "attention" else {}
            found = merged(configured(lesson, form, configuration="as written", **fits | {name: raw}))
            assert found[name] == raw or raw == "automatic"
            tried += 1
    assert tried >= 20


def test_changes_overrule_the_configuration(lesson, form):
    settings = form | {"configuration": "sweep 2"}
    plain = lesson.configure(settings, 107, 327_473)
    changed = lesson.configure(settings, 107, 327_473, n_layer=3, attention_dropout=0.0, max_iters=5)
    assert changed == (replace(plain[0], n_layer=3, attention_dropout=0.0), replace(plain[1], max_iters=5))


def test_configuring_leaves_the_form_alone(lesson, form):
    before = dict(form)
    lesson.configure(form, 107, 327_473)
    assert form == before


def test_an_unknown_configuration_is_named(lesson, form):
    with pytest.raises(ValueError, match=r"^configuration='huge' is unknown: use automatic, .*article 10M"):
        configured(lesson, form, configuration="huge")


@pytest.mark.parametrize("train_length", [0, 9, 40])
def test_a_text_too_short_for_any_block_size_is_refused(lesson, form, train_length):
    with pytest.raises(ValueError, match=rf"^text_source holds {round(train_length / 0.9)} characters, .* too few"):
        configured(lesson, form, configuration="as written", block_size=512, train_length=train_length)


@pytest.mark.parametrize("train_length", [90, 1000])
def test_a_text_too_short_is_refused_in_one_sentence(lesson, form, train_length):
    with pytest.raises(ValueError, match=r"block_size=512 needs a text of [\d,]+ characters or more"):
        configured(lesson, form, configuration="as written", block_size=512, train_length=train_length)


@pytest.mark.parametrize("train_length", [100, 1000, 4567])
def test_the_block_size_that_a_refusal_advises_works(lesson, form, train_length):
    with pytest.raises(ValueError, match="block_size up to") as refusal:
        configured(lesson, form, configuration="as written", block_size=4096, train_length=train_length)
    advised = int(re.search(r"up to (-?\d+)", str(refusal.value))[1])
    cfg, _ = configured(lesson, form, configuration="as written", block_size=advised, train_length=train_length)
    assert cfg.block_size == advised >= 2
    assert train_length // 9 > advised, "the validation text, a ninth of this, holds a window too"
    with pytest.raises(ValueError, match="block_size up to"):
        configured(lesson, form, configuration="as written", block_size=advised + 2, train_length=train_length)


@pytest.mark.parametrize(("changes", "field"), [
    (dict(n_head=5), "n_head"), (dict(n_embd=330, n_head=110, position="rotary"), "n_head"),
    (dict(attention="pytorch", position="rotary"), "attention"), (dict(norm="batch"), "norm"), (dict(bias=1), "bias"),
    (dict(position="sinusoidal", n_embd=321, n_head=1), "n_embd"), (dict(max_iters=0), "max_iters"),
    (dict(learning_rate="fast"), "learning_rate"), (dict(number_format="fp8"), "number_format")])
def test_settings_that_do_not_fit_are_named(lesson, form, changes, field):
    value = re.escape(repr((form | changes)[field]))
    with pytest.raises(ValueError, match=rf"^{field}={value} will not do: use "):
        configured(lesson, form, configuration="as written", **changes)


# ------------------------------------------------------------ experiments


def the_text(lesson):
    """What the experiments take as `data`."""
    tokenizer = lesson.CharTokenizer(TEXT)
    return tokenizer, *(torch.tensor(tokenizer.encode(text)) for text in (TEXT, TEXT[:60]))


def ablation(lesson, form, seeds=(1,), **further):
    """Fresh runs for the rows of the ablation, {name: [Run for each seed]}."""
    variants = {name: ("article 200k", changes | further, alter)
                for name, ((changes, alter), _) in lesson.ABLATION.items()}
    return lesson.trials(variants, form, the_text(lesson), seeds)


def compared_with(names):
    """{name: the row that its difference is taken from}: the first, or for a + the last one above without."""
    first, *_ = plain = [name for name in names if not name.startswith("+")]
    above = {name: [p for p in plain if names.index(p) < names.index(name)] for name in names}
    return {name: above[name][-1] if name.startswith("+") else first for name in names}


def test_an_experiment_trains_the_network_that_it_validates(lesson, form):
    """An alteration must reach the worker, too. Nothing random is at work here, so that losses can be compared."""
    calm = dict(dropout=0.0, attention_dropout=0.0, corruption=0.0, agreement=0.0)
    assert sum(alter is not None for (_, alter), _ in lesson.ABLATION.values()) >= 2
    for name, (run,) in ablation(lesson, form, **calm).items():
        for net in (run.model, run.averaged):
            net.lm_head.weight.data.mul_(30)  # else all guess alike at first
        for step in range(3):
            expected = run.model(*next_batch(lesson, run))[1].item()
            lesson.advance(run)
            assert run.losses[step].item() == pytest.approx(expected, rel=1e-5), name


MORE_THAN_ONE = {"+ SGD 0.1 for AdamW": 2}  # another optimizer needs another rate


def test_an_ablation_row_changes_one_thing(lesson, form):
    """Its own setting or function, in the run, too; all initial weights whose shapes agree are the same."""
    runs, names = ablation(lesson, form, seeds=(1, 2)), list(lesson.ABLATION)
    for name, base in compared_with(names).items():
        (changes, alter), (theirs, their_alter) = lesson.ABLATION[name][0], lesson.ABLATION[base][0]
        assert their_alter is None
        chosen = {field for field in changes | theirs if changes.get(field) != theirs.get(field)}
        assert len(chosen) + (alter is not None) == (name != base) * MORE_THAN_ONE.get(name, 1), name
        for run, other in zip(runs[name], runs[base]):
            settings, others = merged((run.model.cfg, run.cfg)), merged((other.model.cfg, other.cfg))
            assert {field for field in settings if settings[field] != others[field]} == chosen, name
            weights, theirs = weights_of(run.model), weights_of(other.model)
            shared = [key for key in weights if key in theirs and weights[key].shape == theirs[key].shape]
            assert {key for key in weights if "mlp" in key} | {"token_embedding.weight"} <= set(shared), name
            assert all(torch.equal(weights[key], theirs[key]) for key in shared), name
    one, two = (weights_of(run.model) for run in runs[names[0]])
    assert not torch.equal(one["lm_head.weight"], two["lm_head.weight"]), "seeds differ"


def test_all_ablation_rows_read_the_same_text(lesson, form, monkeypatch):
    """Five steps, trained side by side: the same targets, and the same inputs where none is corrupted."""
    runs, original, read = ablation(lesson, form, seeds=(1, 2)), lesson.sample_batch, defaultdict(list)
    owner = {run.generator: (name, i) for name, group in runs.items() for i, run in enumerate(group)}

    def spy(*arguments):
        read[owner[arguments[-1]]].append(original(*arguments))
        return read[owner[arguments[-1]]][-1]

    monkeypatch.setitem(lesson.globals, "sample_batch", spy)
    lesson.train_together(sum(runs.values(), []), 5)
    first, corrupted = next(iter(runs)), 0
    for name, group in runs.items():
        for i, run in enumerate(group):
            assert len(read[name, i]) == 5
            for (x, y), (their_x, their_y) in zip(read[name, i], read[first, i]):
                assert torch.equal(y, their_y), name
                assert torch.equal(x, their_x) == (run.cfg.corruption == 0), name
                corrupted += run.cfg.corruption > 0
    assert corrupted and not torch.equal(read[first, 0][0][1], read[first, 1][0][1]), "seeds differ"


def test_too_little_memory_for_the_experiments_is_one_sentence(lesson, form, monkeypatch):
    def no_memory(run):
        raise torch.OutOfMemoryError("CUDA out of memory")

    runs = next(iter(ablation(lesson, form).values()))
    monkeypatch.setitem(lesson.globals, "advance", no_memory)
    with pytest.raises(MemoryError, match="half the batch_size or block_size, or with experiments = 'off'"):
        lesson.train_together(runs, 5)


@pytest.fixture(scope="module")
def diff_of_the_bug(notebook):
    """The two lines that the text before the ablation prints, as functions of x and pe."""
    (cell,) = [cell for cell in notebook["cells"] if cell.get("id") == "ablation-text"]
    lines = re.search(r"```diff\n(.*?)```", source(cell), re.S)[1].splitlines()

    def run(line):
        def function(x, pe):
            values = dict(x=x, self=SimpleNamespace(pe=pe))
            exec(line[1:].strip(), values)
            return values["x"]
        return function

    assert [line[0] for line in lines] == ["-", "+"]
    return [run(line) for line in lines]


def test_the_printed_diff_is_the_bug_and_its_mend(diff_of_the_bug):
    B, T, C = 3, 5, 4
    x, pe = torch.randn(B, T, C), torch.randn(9, 1, C)
    wrong, right = (line(x, pe) - x for line in diff_of_the_bug)
    for row in range(B):
        assert torch.allclose(wrong[row], pe[row].expand(T, C), atol=1e-6), "each position the vector of the row"
        assert torch.allclose(right[row], pe[:T, 0], atol=1e-6), "position t the vector pe[t]"


def test_the_row_of_the_bug_computes_the_printed_line(lesson, form, diff_of_the_bug):
    (run,), (mended,) = (ablation(lesson, form)[name] for name in ("+ with the original bug", "sinusoidal positions"))
    B, T = run.cfg.batch_size - 1, 7
    idx, where = random_ids(B, T), torch.arange(T)
    sines = torch.view_as_real(lesson.waves(torch.arange(32), 64)).flip(-1).flatten(1)
    pe = mended.model.cfg.embedding_std * sines[:, None]
    for line, net in zip(diff_of_the_bug, (run.model, mended.model)):
        assert torch.allclose(net.embed(idx, where), line(net.token_embedding(idx), pe), atol=1e-5)


@pytest.mark.parametrize("name", ["residual connections", "no residuals", "no residuals, no attention"])
def test_flow_is_measured_from_outside(lesson, name):
    """Gradients of a network of its own, block by block; likeness from all pairs of positions."""
    cfg, (idx, targets) = config(lesson, n_layer=3, **lesson.LEAKY[name]), (random_ids(2, 8), random_ids(2, 8, seed=1))
    whole, asking, likeness = lesson.flow(cfg, idx, targets)
    net, outputs = lesson.GPT(cfg).double(), []
    for block in net.blocks:
        block.register_forward_hook(lambda module, args, out: outputs.append(out.detach()))
    net(idx, targets)[1].backward()
    for i, (block, x) in enumerate(zip(net.blocks, outputs)):
        gradients = {key: p.grad for key, p in block.named_parameters()}
        assert whole[i] == pytest.approx(math.hypot(*(g.norm().item() for g in gradients.values())), rel=1e-6)
        if "attn.qkv.weight" in gradients:
            assert asking[i] == pytest.approx(gradients["attn.qkv.weight"][:16].norm().item(), rel=1e-6)
        else:
            assert math.isnan(asking[i])
        pairs = [F.cosine_similarity(x[b, s], x[b, t], dim=0).item()
                 for b in range(2) for s in range(8) for t in range(8) if s != t]
        assert likeness[i] == pytest.approx(np.mean(pairs), rel=1e-6)


def test_gpt3_formula_gives_the_published_sizes(lesson):
    assert len(lesson.GPT3) == 8
    for name, published, n_layer, n_embd, *_ in lesson.GPT3:
        assert lesson.gpt3_formula(n_layer, n_embd) == pytest.approx(published, rel=0.03), name


BASE, WORSE = [1.0, 1.2, 1.1], [1.10, 1.31, 1.22]
AGAINST = {  # name: (losses for each seed, difference, its noise, larger?); 4.30 is Student's t for 3 seeds and 95%
    "base": (BASE, 0.0, math.nan, ""),
    "+ base": ([1.1, 1.1, 1.13], 0.01, 4.30 * 0.1014889 / math.sqrt(3), ""),  # 0.1, -0.1, 0.03
    "worse": (WORSE, 0.11, 4.30 * 0.01 / math.sqrt(3), "*"),  # 0.10, 0.11, 0.12
    "+ worse still": ([1.15, 1.37, 1.29], 0.06, 4.30 * 0.01 / math.sqrt(3), "*"),  # from worse: 0.05, 0.06, 0.07
    "+ as bad": ([1.10, 1.32, 1.21], 0.0, 4.30 * 0.01 / math.sqrt(3), ""),  # from worse, too: 0, 0.01, -0.01
    "better": ([0.90, 1.09, 0.98], -0.11, 4.30 * 0.01 / math.sqrt(3), "*"),
    "just too little": ([1.0145, 1.2245, 1.1345], 0.0245, 4.30 * 0.01 / math.sqrt(3), ""),  # the noise is 0.0248
    "just enough": ([1.0152, 1.2252, 1.1352], 0.0252, 4.30 * 0.01 / math.sqrt(3), "*"),
}


@pytest.mark.parametrize("name", AGAINST)
def test_differences_are_paired_and_tested(lesson, name):
    losses = {name: values for name, (values, *_) in AGAINST.items()}
    last, best = ({name: [a, a + 1, a + 2.5 + i] for i, name in enumerate(AGAINST)} for a in (5.0, 1.0))
    rows = lesson.differences(losses, last, best)
    assert [row[0] for row in rows] == list(AGAINST)
    values, difference, noise, star = AGAINST[name]
    (found,) = [row for row in rows if row[0] == name]
    assert found[5] == star
    expected = [np.mean(values), np.std(values, ddof=1), difference, noise]
    assert found[1:5] == pytest.approx(expected, rel=1e-4, abs=1e-9, nan_ok=True)
    assert found[6:] == pytest.approx([np.mean(last[name]), np.mean(best[name])])
    assert all(type(value) is float for value in found[1:5] + found[6:]), "as `table` prints them"


def test_noise_is_students_t(lesson):
    """Of chance differences one in twenty is larger than its noise, however many seeds there are."""
    draw = np.random.default_rng(0)
    for n, t in lesson.T_95.items():
        chance = draw.standard_normal((40_000, n))
        larger = np.abs(chance.mean(1)) > t * chance.std(1, ddof=1) / math.sqrt(n)
        assert larger.mean() == pytest.approx(0.05, abs=0.004)


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_seeds_say_less_about_noise(lesson, seeds):
    """One says nothing. Two say something, but it takes a difference that hardly varies to be sure."""
    base, worse = lesson.differences({name: AGAINST[name][0][:seeds] for name in ("base", "worse")})
    assert (base[5], worse[5]) == ("", "*" if seeds == 2 else "")
    assert worse[3] == pytest.approx([0.10, 0.105][seeds - 1])
    assert worse[4] == pytest.approx([math.nan, 12.71 * 0.00707107 / math.sqrt(2)][seeds - 1], nan_ok=True)
    assert math.isnan(worse[2]) == (seeds == 1)
