"""Sections 6 to 8: the network, its variants, and the number of its weights."""
import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn as nn
from conftest import CODE, Names

POSITIONS, ATTENTIONS = ("rotary", "learned", "sinusoidal", "none"), ("fused", "manual", "pytorch", "none")
VARIANTS = [dict(position=p, attention=a) for p in POSITIONS for a in ATTENTIONS if (p, a) != ("rotary", "pytorch")]
VARIANTS += [dict(norm="layer", bias=True, activation="relu"), dict(norm="none"), dict(residual="off"),
    dict(residual="bug")]


def network(lesson, stir=True, **changes):
    """A tiny network; stirred: every weight, of norms and biases too, is random, so that no 0 or 1 hides anything."""
    net = lesson.build(lesson.Config(**dict(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_embd=8,
        dropout=0.0) | changes))
    generator = torch.Generator().manual_seed(5)
    for p in net.parameters() if stir else ():
        p.data += 0.2 * torch.randn(p.shape, generator=generator)
    return net


def ids(*shape):
    return torch.randint(11, shape, generator=torch.Generator().manual_seed(1))


def test_the_articles_parameter_counts(lesson):
    expected = {"article 10M": 10_327_659, "sweep 1": 5_451, "sweep 2": 31_339, "sweep 3": 212_331,
        "sweep 4": 1_621_611}
    for name, count in expected.items():
        cfg = lesson.fit(lesson.Config(107), name, 327_473)
        assert sum(lesson.parameters_by_part(cfg).values()) == sum(p.numel()
            for p in lesson.build(cfg).parameters()) == count


def test_weights_by_hand_equal_torch(lesson):
    for position, attention, norm, *flags in itertools.product(
            (*POSITIONS, "sinusoidal bug"), ATTENTIONS, ("rms", "layer", "none"), *[(False, True)] * 3):
        cfg = dict(zip(("bias", "gate", "mix"), flags)) | dict(position=position, attention=attention, norm=norm)
        net = network(lesson, stir=False, **cfg)
        assert sum(lesson.parameters_by_part(net.cfg).values()) == sum(p.numel() for p in net.parameters()), cfg


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_future_cannot_leak_and_the_past_is_seen(lesson, variant):
    net, idx = network(lesson, mix=False, **variant), ids(2, 8)
    with torch.no_grad():
        for t in range(8):
            changed = idx.clone()
            changed[:, t] = (idx[:, t] + 1) % 11
            change = (net(changed)[0] - net(idx)[0]).abs().amax((0, 2))
            alone = variant.get("attention") == "none"
            assert change[:t].sum() == 0 and change[t] > 1e-4
            assert change[t + 1:].sum() == 0 if alone else (change[t + 1:] > 1e-7).all()


@pytest.mark.parametrize("head_size", [1, 2, 5, 8])
def test_attention_written_out_padded_and_pytorchs_are_the_same(lesson, head_size):
    results = []
    for kind in ("fused", "manual", "pytorch"):
        net = network(lesson, attention=kind, n_head=3, n_embd=3 * head_size, position="learned", gate=False)
        assert isinstance(net.blocks[0].attn, lesson.PaddedAttention) == (kind == "fused" and head_size % 8 > 0)
        logits, loss = net(ids(3, 8), ids(8, 3).T)
        loss.backward()
        results.append(dict(logits=logits) | {name: p.grad for name, p in net.named_parameters()})
        assert logits.std() > 0.05 and all(grad.abs().max() > 0 for grad in results[-1].values())
    assert all(torch.allclose(results[0][name], other[name], atol=1e-5) for other in results[1:] for name in results[0])


def test_attention_is_the_textbook_formula(lesson):
    layer, x = network(lesson, n_embd=6, position="none").blocks[0].attn, torch.randn(1, 4, 6)
    q, k, v = (x[0] @ layer.qkv.weight.T).split(6, dim=-1)
    rows = []
    for i in range(4):
        gate = 2 * (layer.gate.weight @ x[0, i]).sigmoid()
        heads = [g * sum(s * v[j, h:h + 3] for j, s in enumerate(torch.stack([q[i, h:h + 3] @ k[j,
            h:h + 3] / math.sqrt(3)
                 for j in range(i + 1)]).softmax(0))) for g, h in zip(gate, (0, 3))]
        rows.append(layer.proj.weight @ torch.cat(heads))
    assert torch.allclose(layer(x)[0], torch.stack(rows), atol=1e-5)


def test_rotation_depends_on_distance_only(lesson):
    turn = lesson.RotaryAttention(lesson.Config(11, 40, n_embd=12, n_head=2)).rotate
    q, k = torch.randn(2, 1, 1, 1, 6).expand(2, 1, 1, 40, 6)
    match = turn(q)[0, 0] @ turn(k)[0, 0].T  # (40, 40)
    for distance in (0, 1, 7):
        assert torch.allclose(match.diagonal(-distance), match[distance, 0], atol=1e-5)
    assert match[0, 0].item() == pytest.approx((q[0, 0, 0] @ k[0, 0, 0]).item(), abs=1e-5) and match[:, 0].std() > 0.05
    assert turn(q.bfloat16()).dtype == torch.bfloat16


def test_sinusoids_follow_the_paper_and_the_slip_counts_windows(lesson):
    cfg = lesson.Config(11, 20, n_embd=6, embedding_std=1.0)
    right, slip = (kind(cfg)(torch.zeros(3, 20, 6)) for kind in (lesson.Sinusoidal, lesson.SinusoidalBug))
    paper = torch.tensor([[(math.sin, math.cos)[i % 2](t / 10_000 ** (i // 2 * 2 / 6)) for i in range(6)]
        for t in range(20)])
    assert torch.allclose(right, paper.expand(3, -1, -1), atol=1e-5)
    assert torch.equal(slip, right[0, :3, None].expand(3, 20, 6))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_first_loss_is_that_of_chance_and_of_the_targets_that_count(lesson, variant):
    net, idx, targets = network(lesson, stir=False, n_embd=32, **variant), ids(4, 8), ids(8, 4).T.clone()
    targets[0, 3:] = -1
    logits, loss = net(idx, targets)
    log_p = logits.log_softmax(-1)
    assert loss.item() == pytest.approx(-log_p[targets >= 0].gather(1, targets[targets >= 0, None]).mean().item(),
        rel=1e-5)
    assert loss.item() == pytest.approx(math.log(11), abs=0.15)


@pytest.mark.parametrize("variant", [{}, dict(attention="pytorch", position="learned", gate=False, norm="layer",
    bias=True)], ids=str)
def test_mixed_precision_computes_in_16_bits_and_learns_in_32(lesson, monkeypatch, variant):
    net, idx = network(lesson, **variant), ids(2, 8)
    assert lesson.mixed_precision(net) is net, "on a CPU"
    monkeypatch.setitem(lesson, "dtype", torch.bfloat16)
    exact, (logits, loss) = net(idx, idx)[0], lesson.mixed_precision(net)(idx, idx)
    loss.backward()
    assert not torch.equal(logits, exact) and torch.allclose(logits, exact, atol=0.1)
    slopes = [w.grad.clone() for w in net.parameters()]
    net.zero_grad()
    net(idx, idx)[1].backward()
    for w, slope in zip(net.parameters(), slopes):
        assert w.dtype == slope.dtype == torch.float32
        assert torch.cosine_similarity(slope.flatten(), w.grad.flatten(), 0) > 0.98


def test_blocks_are_the_equations_of_the_article(lesson):
    net, x = network(lesson, n_layer=1), torch.randn(1, 5, 8)
    block = net.blocks[0]
    block.mlp.bend = torch.tanh
    a, m, n = block.attn, block.mlp, lambda v: v / (v.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    y = x + a(n(x))
    assert torch.allclose(block(x), y + m(n(y)), atol=1e-5)
    block.__class__ = lesson.NoResidual
    assert torch.allclose(block(x), m(n(a(n(x)))), atol=1e-5)
    block.__class__ = lesson.ResidualBug
    y = n(x) + a(n(x))
    assert torch.allclose(block(x), y + m(n(y)), atol=1e-5)


def test_mix_adds_the_two_characters_before(lesson):
    net, idx = network(lesson, n_layer=0), ids(1, 8)
    net.norm, net.head = nn.Identity(), nn.Identity()
    table, (one, two) = net.embedding.weight[idx[0]], net.mix
    expected = table.clone()
    expected[1:] += one * table[:-1]
    expected[2:] += two * table[:-2]
    assert torch.allclose(net(idx)[0][0], expected, atol=1e-6)


def test_the_improvements_are_all_that_the_default_adds_to_the_plain_network(lesson):
    cfg = replace(network(lesson).cfg, n_embd=16, gate=False, mix=False, activation="relu", position="learned")
    plain = lesson.GPT(cfg)
    assert torch.equal(plain(ids(2, 8))[0], lesson.build(cfg)(ids(2, 8))[0])
    full = lesson.build(replace(cfg, gate=True, mix=True, activation="relu2", position="rotary"))
    kinds = {kind.__name__ for module in full.modules() for kind in type(module).__mro__}
    assert {"RotaryAttention", "GatedAttention", "SquaredMLP", "MixedGPT"} <= kinds


def test_a_cell_that_is_run_again_does_not_bring_the_plain_network_back(lesson):
    names = Names(lesson, dtype=torch.bfloat16)
    for cell in ("gpt", "evaluate", "generate"):
        exec(CODE[cell], names)
    net = names.build(network(lesson).cfg)
    assert hasattr(net.blocks[0].attn, "gate") and names.mixed_precision(net) is not net
    assert isinstance(names.reader(net, lesson.CharTokenizer("abc")), names.Reader)
