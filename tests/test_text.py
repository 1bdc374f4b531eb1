"""Sections 2 to 5: the form, the text, batches, and what counting reaches."""
import builtins
import io
import math
import os
import shutil
import sys
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import BLOG, CODE, TINY, Names, play
from hypothesis import given, settings
from hypothesis import strategies as st

FORM = Names()
exec(CODE["hyperparameters"], FORM)
del FORM["__builtins__"]


def wrong_values(lesson):
    for name, (low, high) in lesson.RANGES.items():
        values = ["high", None, True, [low], math.nan, low - 1, 2 * high + 1] + [1.5] * isinstance(low, int)
        yield from ((name, value) for value in values)
    for name in (*lesson.MENUS, "configuration"):
        yield from ((name, value) for value in ("bogus", "", 3, None))
    yield from (("prompt", 3), ("text_source", 3), ("checkpoint_folder", 3), ("n_head", 5), ("n_head", 128),
        ("residual", "off"))


def test_wrong_values_are_refused_by_name(lesson):
    lesson.check_form(FORM)
    accepted = []
    for name, value in wrong_values(lesson):
        try:
            lesson.check_form(FORM | {name: value} | (dict(attention="none") if value == "off" else {}))
            accepted.append((name, value))
        except lesson.Stop as stop:
            assert f"{name} = {value!r}" in str(stop) and "\n" not in str(stop)
    assert accepted == []


def test_every_field_is_checked_and_every_menu_entry_accepted(lesson):
    assert set(FORM) == {*lesson.RANGES, *lesson.MENUS, "configuration", "text_source", "prompt", "checkpoint_folder"}
    for name, menu in lesson.MENUS.items():
        for entry in menu.split(", "):
            lesson.check_form(FORM | {name: entry})
    assert set(lesson.SOURCES) | {"upload"} == set(menu_of("text_source"))
    assert {"automatic", *lesson.CONFIGURATIONS} == set(menu_of("configuration"))
    assert all(set(menu.split(", ")) == set(menu_of(name)) for name, menu in lesson.MENUS.items())


def menu_of(name):
    (line,) = [line for line in CODE["hyperparameters"].splitlines() if line.startswith(name + " ")]
    return eval(line.split("#@param ")[1].split("]")[0] + "]")


def test_form_defaults_are_the_defaults_of_config(lesson):
    cfg = lesson.Config(107)
    assert {name: value for name, value in FORM.items() if hasattr(cfg, name)} == {
        name: getattr(cfg, name) for name in FORM if hasattr(cfg, name)}


def test_arguments_of_a_script_set_fields(lesson):
    form = dict(FORM)
    named = lesson.read_arguments(form, ["max_iters=500", "prompt=The = ", "dropout=0.5"])
    assert form == FORM | dict(max_iters=500, prompt="The = ", dropout=0.5) and len(named) == 3
    lesson.read_arguments(form, ["max_iters=many"])
    with pytest.raises(lesson.Stop, match="max_iters = 'many'"):
        lesson.check_form(form)
    for argument in ("steps=5", "--max_iters=500", "max-iters=500", "-x", "500"):
        with pytest.raises(lesson.Stop, match="such as max_iters=500"):
            lesson.read_arguments(dict(FORM), [argument])


def test_what_was_typed_wins(lesson):
    typed = dict(n_layer=3, n_head=4, n_embd=48, block_size=77, batch_size=7, max_iters=200, learning_rate=0.007,
                 dropout=0.4, corruption=0.1, agreement=1.5, position="sinusoidal", norm="none", residual="bug")
    for device in ("cpu", "cuda"):
        lesson["device"] = torch.device(device)
        for name in ("automatic", *lesson.CONFIGURATIONS):
            for length in (2000, 500_000):
                fitted = lesson.fit(lesson.Config(107, **typed), name, length)
                assert typed == {field: getattr(fitted, field) for field in typed}, name
                for field, value in typed.items():  # each alone: the others may change, but must fit it
                    fitted = lesson.fit(lesson.Config(107, **{field: value}), name, 10**6)
                    assert getattr(fitted, field) == value and fitted.n_embd % fitted.n_head == 0
                fitted = lesson.fit(lesson.Config(107), name, 10**6, {"max_iters", "prompt"})
                assert fitted.max_iters == lesson.Config(107).max_iters, "also one that equals the form's"
    lesson["device"] = torch.device("cpu")


def test_pytorchs_attention_cannot_turn(lesson):
    assert lesson.fit(lesson.Config(107, attention="pytorch"), "as written", 10**6).position == "learned"
    with pytest.raises(lesson.Stop, match="position = 'rotary'"):
        lesson.fit(lesson.Config(107, attention="pytorch"), "as written", 10**6, {"position"})


def test_fitted_settings_fit_any_text(lesson):
    for device in ("cpu", "cuda"):
        lesson["device"] = torch.device(device)
        for name in ("automatic", *lesson.CONFIGURATIONS):
            for length in (600, 9000, 500_000, 10**8):
                if name == "as written" and length < 6000:
                    with pytest.raises(lesson.Stop, match="block_size = 512"):
                        lesson.fit(lesson.Config(107), name, length)
                    continue
                cfg = lesson.fit(lesson.Config(107), name, length)
                lesson.check_form(FORM | {field: value for field, value in vars(cfg).items() if field in FORM})
                assert cfg.block_size <= length // 10
    lesson["device"] = torch.device("cpu")


def test_what_changes_from_the_form_is_printed(tmp_path, capsys):
    names, *_ = play(tmp_path, BLOG[:3000], ("core", "parameters", "definitions"), configuration="article 800k",
        norm="none")
    names["named"] = ()
    exec(CODE["fit-show"], names)
    said = capsys.readouterr().out
    changed = [f"{name} {getattr(names.asked, name)} -> {value}" for name,
        value in names.ARTICLE.items() if name not in TINY | {"norm": 0}]
    assert len(changed) > 5 and all(change in said for change in changed) and names.cfg.norm == "none"


def test_a_folder_a_zip_and_an_export_become_a_text(lesson, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "posts").mkdir()
    for day, word in ((1, "first"), (2, "second")):
        (tmp_path / f"posts/2024-01-0{day}-x.md").write_text(f"---\ntitle: T{day}\n---\nThe *{word}* post.\n", "utf-8")
    shutil.make_archive("blog", "zip", "posts")
    item = "<item><title>W</title><wp:post_type>post</wp:post_type><wp:status>publish</wp:status>{}</item>"
    (tmp_path / "export.xml").write_text(
        '<rss xmlns:wp="http://wordpress.org/export/1.2/" xmlns:content="http://purl.org/rss/1.0/modules/content/">'
        "<channel>" + item.format("<content:encoded>Hello there.</content:encoded>") + "</channel></rss>", "utf-8")
    second, hello = "The second post.", "Hello there."
    for source, words in (("posts", second), ("blog.zip", second), ("export.xml", hello)):
        lesson.check_form(FORM | dict(text_source=source))
        assert words in lesson.fetch(source).read_text(encoding="utf-8")
    (tmp_path / "posts/2024-01-01-x.md").write_text("Every page begins with `<html>`, says the first post.", "utf-8")
    assert "<html>" in lesson.fetch("posts").read_text(encoding="utf-8"), "that is no web page"
    (tmp_path / "empty").mkdir()
    with pytest.raises(lesson.Stop, match="text_source = 'empty' cannot be used"):
        lesson.fetch("empty")


@pytest.mark.parametrize(("data", "problem"), [
    (b"<!DOCTYPE html><p>", "web page"), (b"\n <HTML>", "web page"), (b"<?xml?><html>", "web page"),
    (b"PK\x03\0", "program"), ("é".encode("latin-1"), "decode")])
def test_what_is_no_text_is_refused(lesson, tmp_path, monkeypatch, data, problem):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page").write_bytes(data)
    with pytest.raises(lesson.Stop, match=problem) as stop:
        lesson.fetch((tmp_path / "page").as_uri())
    assert "text_source" in str(stop.value) and "\n" not in str(stop.value)
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    for source in ("nowhere.txt", "", "upload", "https://127.0.0.1:9/x"):
        with pytest.raises(lesson.Stop, match="no such file" if source in ("nowhere.txt", "") else "text_source"):
            lesson.fetch(source)
    (tmp_path / "wide").write_bytes("text".encode("utf-16-le"))
    for source in ("latin", "wide"):
        with pytest.raises(lesson.Stop, match="UTF-8"):
            lesson.check_form(FORM | dict(text_source=source))
    (tmp_path / "page.HTML").write_text("<title>A page</title><p>Its words.", "utf-8")
    assert lesson.fetch("page.HTML").read_text(encoding="utf-8") == "A page\n\nIts words.\n"
    with pytest.raises(lesson.Stop, match="cannot be used"):
        lesson.fetch("a pasted text " * 50)
    monkeypatch.setenv("HOME", str(tmp_path))
    lesson.check_form(form := FORM | dict(text_source="~/latin.zip"))
    assert form["text_source"] == str(tmp_path / "latin.zip")


def test_a_script_goes_on_when_nobody_reads_what_it_prints(lesson, tmp_path, monkeypatch):
    class Closed(io.StringIO):
        def write(self, _):
            raise BrokenPipeError

    (tmp_path / "script.py").touch()
    monkeypatch.setitem(lesson, "builtins", builtins)
    monkeypatch.setattr(sys, "stdout", Closed())
    lesson.print_with_headings(tmp_path / "script.py")("a line")
    assert sys.stdout.name == os.devnull


def test_download_is_whole_and_bounded(lesson, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in ("first", "changed é"):  # the second time too
        (tmp_path / "there.txt").write_bytes(text.encode("utf-8-sig"))
        assert lesson.fetch((tmp_path / "there.txt").as_uri()).read_text(encoding="utf-8-sig") == text
    for limit in (dict(most=5), dict(seconds=-1)):
        with pytest.raises(OSError, match="more than"):
            lesson.download((tmp_path / "there.txt").as_uri(), **limit)

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "50")
            self.send_header("Content-Type", "text/html" if self.path == "/page" else "text/plain")
            self.end_headers()
            with suppress(OSError):
                for _ in range(50 if self.path == "/slow" else 1):
                    self.wfile.write(b"a")
                    time.sleep(0.1)

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address, began = f"http://127.0.0.1:{server.server_port}", time.monotonic()
        for path, why in (("/slow", "0.3 seconds"), ("/cut", "was cut"), ("/page", "a web page")):
            with pytest.raises(OSError, match=why):
                lesson.download(address + path, seconds=0.3)
        assert time.monotonic() - began < 3
        with pytest.raises(lesson.Stop, match="cannot be used"):
            lesson.fetch(address + "/a b")
        server.shutdown()


def test_control_characters_reach_neither_the_network_nor_the_terminal(tmp_path):
    names, said, _ = play(tmp_path, "a\x1b[31mb\x00\x9bc\td\n" * 300, ("core", "parameters"), max_iters=1)
    assert set(names.text) == set("a [31mbc\td\n") and "\x1b" not in said


@pytest.mark.parametrize("text", ["", "a", "abcdefghij" * 2, "word " * 12])
def test_a_text_that_is_too_short_stops_with_a_sentence(tmp_path, text):
    with pytest.raises(Exception) as stop:
        play(tmp_path, text)
    assert type(stop.value).__name__ == "Stop", repr(stop.value)


@settings(deadline=None, max_examples=50)
@given(st.text(), st.text())
def test_tokenizer(lesson, text, other):
    tokenizer = lesson.CharTokenizer(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text and tokenizer.chars == sorted(set(text))
    assert tokenizer.decode(tokenizer.encode(other)) == "".join(c for c in other if c in text)


def test_batches_are_windows_and_their_next_characters(lesson):
    data = torch.arange(12)
    x, y = lesson.sample_batch(data, 500, 9, torch.Generator().manual_seed(1))
    assert x.shape == y.shape == (500, 9) and torch.equal(x[:, 1:], y[:, :-1]) and torch.equal(x + 1, y)
    assert set(x[:, 0].tolist()) == {0, 1, 2} and y.max() == 11, "every place, the last character too"
    assert torch.equal(x, lesson.sample_batch(data, 500, 9, torch.Generator().manual_seed(1))[0])


# Kneser-Ney, written out from the formulas of Chen and Goodman 1999


def table(train, order, variety):
    stream = ["start"] * (order + variety - 1) + train
    grams = [tuple(stream[i:i + order + variety]) for i in range(len(train))]
    return Counter(gram[1:] for gram in set(grams)) if variety else Counter(grams)  # different characters before it


def slow_loss(train, test, vocab_size, order):
    stream, logs = ["start"] * order + train + test, []
    tables = [table(train, k, k < order) for k in range(1, order + 1)]
    kinds = [[list(counts.values()).count(r) for r in range(5)] for counts in tables]
    for at in range(order + len(train), len(stream)):
        p = 1 / vocab_size
        for k, (counts, n) in enumerate(zip(tables, kinds)):  # contexts of k characters
            y = n[1] / (n[1] + 2 * n[2]) if n[1] else 0
            take = [0] + [r - (r + 1) * y * n[r + 1] / n[r] if n[r] else 0 for r in (1, 2, 3)]
            take = [x if 0 < x < r else r / 2 for r, x in enumerate(take)]
            seen = {gram[-1]: c for gram, c in counts.items() if gram[:-1] == tuple(stream[at - k:at])}
            if seen:
                count, pot = seen.get(stream[at], 0), sum(take[min(c, 3)] for c in seen.values())
                p = (count - take[min(count, 3)] + pot * p) / sum(seen.values())
        logs.append(-np.log(p))
    return np.mean(logs)


@pytest.mark.parametrize(("vocab_size", "size"), [(2, 300), (5, 300), (30, 200), (400, 100), (3, 21)])
def test_counting_equals_the_formulas_and_sums_to_one(lesson, vocab_size, size):
    ids = (np.random.default_rng(0).zipf(1.4, size) % vocab_size).tolist()
    train, test = ids[:-20], ids[-20:]

    def fast(*texts):
        return np.array(lesson.kneser_ney(*map(np.array, texts), vocab_size, 5))

    assert np.allclose(fast(train, test), [slow_loss(train, test, vocab_size, order) for order in range(1, 6)])
    for context in (test[:1], test[:7], [0] * 6):  # one character more adds its own -ln p to the sum
        before, after = fast(train, context), [fast(train, context + [c]) for c in range(vocab_size)]
        assert np.allclose(sum(np.exp(before * len(context) - loss * (len(context) + 1)) for loss in after), 1)


def test_the_order_is_chosen_without_the_validation_text(lesson):
    ids = np.unique(list(BLOG[:20_000]), return_inverse=True)[1]
    order = lesson.choose_order(ids, 100)
    assert 3 <= order <= 7 and order == 1 + int(np.argmin(lesson.kneser_ney(ids[:18_000], ids[18_000:], 100)))


def test_a_very_long_text_stays_on_the_disk(lesson, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(lesson, "LARGE", 10_000)
    monkeypatch.setitem(lesson, "EXCERPT", 3_000)
    whole = "".join(f"page {i}: “{chr(0x430 + i % 32)}”\n" for i in range(1500))
    Path("long.txt").write_bytes(whole.encode())
    excerpt = lesson.fetch("long.txt").read_text(encoding="utf-8")
    assert whole.endswith(excerpt) and 2_990 <= len(excerpt.encode()) <= 3_000
    tokenizer, kept = lesson.CharTokenizer(excerpt), whole[:-len(excerpt)]
    buffers = []
    for steps in ([*range(0, 201, 10)], [0, 3, 200], [200]):  # the same pages, however it came to step 200
        run = SimpleNamespace(train_ids=torch.zeros(800, dtype=torch.long), cfg=lesson.Config(9))
        pages = lesson.Pages("long.txt", tokenizer)
        for run.step in steps:
            pages(run)
        buffers.append(run.train_ids)
        for part in run.train_ids.view(8, 100):
            assert tokenizer.decode(part[:60].tolist()) in kept
    assert all(torch.equal(buffers[0], other) for other in buffers)
