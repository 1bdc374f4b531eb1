"""Section 14: pieces, pairs of title and opening, fine-tuning."""
import random

import numpy as np
import pytest
import torch
from conftest import BLOG
from test_model import network


def slow_pieces(tokenizer, text, size):
    """Byte-pair encoding with strings and loops: (pieces, the text in pieces)."""
    chars, words = list(tokenizer.chars), list(text)
    while len(chars) < size:
        pairs = {}
        i = 0
        for i in range(len(words) - 1):
            pairs[words[i], words[i + 1]] = pairs.get((words[i], words[i + 1]), 0) + 1
        most = max(pairs.values(), default=0)
        if most < 2:
            break
        left, right = min((p for p in pairs if pairs[p] == most), key=lambda p: (chars.index(p[0]), chars.index(p[1])))
        joined, i = [], 0
        while i < len(words):
            both = words[i:i + 2] == [left, right]
            joined.append(left + right if both else words[i])
            i += 1 + both
        chars, words = [*chars, left + right], joined
    return chars, words


@pytest.mark.parametrize("text", ["aaaa aaab aaaaa", "the cat the hat the bat", BLOG[:1500], "ab", "abababab" * 3])
def test_pieces_are_byte_pairs_and_lead_back(lesson, text):
    tokenizer = lesson.CharTokenizer(text)
    pieces = lesson.PieceTokenizer(tokenizer, text, len(tokenizer.chars) + 20)
    chars, words = slow_pieces(tokenizer, text, len(tokenizer.chars) + 20)
    assert pieces.chars == chars
    assert [pieces.chars[i] for i in pieces.encode(text)] == words
    for other in (text, text[::-1], "".join(random.Random(1).choices(tokenizer.chars, k=500)), text[:1]):
        assert pieces.decode(pieces.encode(other)) == other


def test_pairs_and_what_of_them_counts(lesson, monkeypatch):
    text = "One\n\nFirst words.\n\nMore.\n\n\nTwo\n\n" + "x" * 500 + "\n\n\nNothing follows"
    assert lesson.title_pairs(text) == [("One\n\n", "First words.\n\n\n"), ("Two\n\n", "x" * 400 + "\n\n\n")]
    tokenizer = lesson.CharTokenizer(text)
    monkeypatch.setitem(lesson, "tokenizer", tokenizer)
    x, y = lesson.pair_batch(lesson.title_pairs(text), 40)
    assert x.shape == y.shape == (2, 40)
    assert tokenizer.decode(x[0][y[0] >= 0].tolist()) == "\nFirst words.\n\n", "read"
    assert tokenizer.decode(y[0][y[0] >= 0].tolist()) == "First words.\n\n\n", "to be guessed"
    assert tokenizer.decode(x[1].tolist()).startswith("\n\n\nTwo\n\nxxx") and (y[1] >= 0).sum() == 33


def test_fine_tuning_teaches_a_copy(lesson, monkeypatch):
    text = "".join(f"{c}\n\n{c * 8}\n\n\n" for c in "abcdefgh")
    tokenizer = lesson.CharTokenizer(text)
    monkeypatch.setitem(lesson, "tokenizer", tokenizer)
    model = network(lesson, stir=False, vocab_size=len(tokenizer.chars), block_size=24, n_embd=32).eval()
    before, pairs = [p.clone() for p in model.parameters()], lesson.title_pairs(text)
    tuned, (x, y) = lesson.fine_tune(model, pairs, 100, 3e-3), lesson.pair_batch(pairs, 24)
    assert all(map(torch.equal, before, model.parameters()))
    assert tuned(x, y)[1] < 0.3 < 1.0 < model(x, y)[1] and np.isfinite(tuned(x, y)[1].item())
