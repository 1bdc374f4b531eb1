"""Whatever a reader types into the form, and whatever the text is: it works, or one sentence says why not."""
import http.server
import math
import os
import random
import re
import socket
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from conftest import source, tags
from hypothesis import given, settings
from hypothesis import strategies as st

NAN, INF = math.nan, math.inf
TINY = dict(configuration="as written", n_layer=1, n_head=2, n_embd=16, block_size=16, dropout=0.1, batch_size=2,
            max_iters=2, corruption=0.1)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def on_the_cpu(lesson, monkeypatch):
    monkeypatch.setitem(lesson.globals, "device", torch.device("cpu"))


@pytest.fixture(scope="session")
def form(code_cells):
    """The values of the form, as the notebook has them, with a network small enough to train here."""
    values = {}
    exec(next(source(cell) for cell in code_cells if "parameters" in tags(cell)), values)
    return {name: value for name, value in values.items() if not name.startswith("__")} | TINY


@pytest.fixture(scope="session")
def words():
    return "Tea was late. The 7:12 was later; nobody minded.\n" * 60


def learn_two_steps(lesson, text, form):
    """What the notebook does with a text, from the tokenizer to two steps of training."""
    train_text, val_text = lesson.split_text(text)
    tokenizer = lesson.CharTokenizer(text)
    train_ids, val_ids = (torch.tensor(tokenizer.encode(part)) for part in (train_text, val_text))
    assert all(map(math.isfinite, lesson.ngram_losses(train_ids.numpy(), val_ids.numpy(), len(tokenizer.chars))))
    cfg, train_cfg = lesson.configure(form, len(tokenizer.chars), len(train_ids))
    run = lesson.Run(lesson.GPT(cfg, train_cfg.seed), tokenizer, train_ids, val_ids, replace(train_cfg, max_iters=2))
    lesson.train(run)
    assert run.step == 2 and run.losses.isfinite().all()
    return run


def assert_one_sentence(message, start):
    """One line, one sentence, beginning with what is wrong, and saying what would do."""
    assert message.startswith(start), message
    assert "\n" not in message and message.endswith(".") and not re.search(r"[.!?] [A-Z]", message), message
    assert re.search(r"\b(use|save|give|check)\b", message), message


# ---------------------------------------------------------------------------------------------------------------------
# Where the text comes from


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.hits[self.path] += 1
        answer = self.server.pages.get(self.path)
        if answer is None:
            return self.send_error(404)
        headers, body = answer if isinstance(answer, tuple) else ({"Content-Length": str(len(answer))}, answer)
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        return None

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A web server on this machine: `pages` is what it has, `hits` counts what was asked for."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        web.pages, web.hits, web.url = {}, Counter(), f"http://127.0.0.1:{web.server_port}"
        threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True).start()
        yield web
        web.shutdown()


@pytest.fixture
def cache(lesson, monkeypatch, tmp_path):
    monkeypatch.setitem(lesson.globals, "CACHE", tmp_path / "home" / "cache")
    monkeypatch.chdir(tmp_path)  # away from the sample blog
    return lesson.globals["CACHE"]


def in_cache(cache):
    return [path for path in cache.rglob("*") if path.is_file()] if cache.is_dir() else []


def refusal(lesson, text_source):
    """The sentence with which a source is refused."""
    with pytest.raises(ValueError) as caught:
        lesson.load_text(text_source)
    assert_one_sentence(str(caught.value), f"text_source={text_source!r} ")
    return str(caught.value)


def test_address_is_downloaded_once_then_read_from_the_cache(lesson, cache, server, words):
    server.pages["/a.txt"] = words.encode()
    assert lesson.load_text(server.url + "/a.txt") == words
    server.pages.clear()
    assert lesson.load_text(server.url + "/a.txt") == words
    assert server.hits == {"/a.txt": 1}
    assert [path.read_bytes() for path in in_cache(cache)] == [words.encode()], "and no temporary file is left"


def test_two_addresses_do_not_share_a_cache_entry(lesson, cache, server, words):
    server.pages.update({"/a.txt": words.encode(), "/b.txt": words.upper().encode()})
    assert lesson.load_text(server.url + "/a.txt") == words
    assert lesson.load_text(server.url + "/b.txt") == words.upper()


@pytest.mark.parametrize("name", ["sample blog", "article's blog", "tiny shakespeare"])
def test_named_text_comes_from_its_address(lesson, cache, server, words, monkeypatch, name):
    assert lesson.SOURCES[name].startswith("https://raw.githubusercontent.com/")
    monkeypatch.setitem(lesson.SOURCES, name, server.url + "/named.txt")
    server.pages["/named.txt"] = words.encode()
    assert lesson.load_text(name) == words


def test_sample_blog_beside_the_notebook_is_read_without_network(lesson, cache, monkeypatch, words):
    monkeypatch.setitem(lesson.SOURCES, "sample blog", "http://127.0.0.1:1/nobody-listens")
    Path("data").mkdir()
    Path("data/blog.txt").write_text(words)
    assert lesson.load_text("sample blog") == words


BROKEN = {  # name: (what the server sends, what the sentence mentions)
    "not found": (None, "404"),
    "shorter than announced": (({"Content-Length": "5000"}, b"only the first half of it"), "text_source"),
    "nothing of what was announced": (({"Content-Length": "5000"}, b""), "text_source"),
    "chunked and cut off": (({"Transfer-Encoding": "chunked"}, b"400\r\nonly some of it"), "text_source"),
    "empty": (b"", "text_source"),
    "only spaces": (b" \n\n", "text_source"),
    "latin-1": ("Café au lait, naïve façade. ".encode("latin-1") * 100, "UTF-8"),
    "UTF-16": (("An English text. " * 100).encode("utf-16"), "UTF-8"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20, "UTF-8"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_download_is_refused(lesson, cache, server, case):
    page, mentioned = BROKEN[case]
    if page is not None:
        server.pages["/text"] = page
    assert mentioned in refusal(lesson, server.url + "/text")


@pytest.mark.parametrize("case", BROKEN)
def test_broken_download_does_not_stick(lesson, cache, server, words, case):
    """What could not be used must not lie in the cache when the server has been mended."""
    page, _ = BROKEN[case]
    if page is not None:
        server.pages["/text"] = page
    with suppress(ValueError):
        lesson.load_text(server.url + "/text")
    server.pages["/text"] = words.encode()
    assert lesson.load_text(server.url + "/text") == words


def test_refused_connection(lesson, cache):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/text"
    assert "refused" in refusal(lesson, address)
    assert not in_cache(cache)


@pytest.mark.parametrize("address", [
    "http://", "http:///x", "http://[x", "http://127.0.0.1:port/x", "http://127.0.0.1:99999/x",
    "http://127.0.0.1:1/two words", "http://127.0.0.1:1/ü", "https://no-such-host.invalid/x",
])
def test_impossible_address(lesson, cache, address):
    refusal(lesson, address)


@pytest.mark.parametrize("obstacle", [
    "a file where the folder should be", "the folder cannot be made", "a folder where the file should be",
])
def test_cache_that_cannot_be_used_is_no_obstacle(lesson, cache, server, words, obstacle, monkeypatch):
    server.pages["/a.txt"] = words.encode()
    if obstacle.startswith("a file"):
        cache.parent.mkdir(parents=True)
        cache.write_text("in the way")
    elif obstacle.startswith("the folder"):
        monkeypatch.setitem(lesson.globals, "CACHE", Path("/dev/null/cache"))
    else:
        lesson.load_text(server.url + "/a.txt")
        entry, = in_cache(cache)
        entry.unlink()
        entry.mkdir()
    for _ in range(2):
        assert lesson.load_text(server.url + "/a.txt") == words


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs a system with users and permissions")
def test_cache_in_a_folder_of_somebody_else_is_no_obstacle(lesson, cache, server, words):
    server.pages["/a.txt"] = words.encode()
    assert lesson.load_text(server.url + "/a.txt") == words
    cache.parent.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may write everywhere
    try:
        assert lesson.load_text(server.url + "/a.txt") == words
    finally:
        os.seteuid(user)
        cache.parent.chmod(0o755)
    assert server.hits["/a.txt"] == 2


def test_disk_full_while_caching_is_no_obstacle(lesson, cache, server, words, monkeypatch):
    write = Path.write_bytes

    def half(path, data):
        write(path, bytes(data)[:len(data) // 2])
        raise OSError(28, "No space left on device")

    server.pages["/a.txt"] = words.encode()
    monkeypatch.setattr(Path, "write_bytes", half)
    assert lesson.load_text(server.url + "/a.txt") == words
    assert cache.is_dir() and not in_cache(cache), "it tried, and left nothing behind"
    monkeypatch.setattr(Path, "write_bytes", write)
    assert lesson.load_text(server.url + "/a.txt") == words and server.hits["/a.txt"] == 2


def test_file_on_this_machine(lesson, cache, tmp_path, words, monkeypatch):
    (tmp_path / "mine.txt").write_text(words)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for name in ("mine.txt", str(tmp_path / "mine.txt"), "~/mine.txt"):
        assert lesson.load_text(name) == words


@pytest.mark.parametrize("text_source", [
    "no-such-file.txt", "sample blg", "Upload", ".", "", "a\0b", "x" * 5000, "~nobody-of-that-name/x.txt",
    "C:\\blog.txt", "ftp://127.0.0.1/x", "file:///etc/hostname",
])
def test_path_that_cannot_be_read(lesson, cache, text_source):
    assert "sample blog" in refusal(lesson, text_source), "it lists what there is"


@pytest.mark.parametrize("text_source", [None, 5])
def test_source_that_is_no_text(lesson, cache, text_source):
    refusal(lesson, text_source)


def test_upload_outside_colab(lesson, cache):
    assert "Colab" in refusal(lesson, "upload")


@pytest.fixture
def colab(monkeypatch):
    """A stand-in for Colab's upload; `files` is what the reader chooses."""
    chosen = {}
    module = SimpleNamespace(files=SimpleNamespace(upload=lambda: chosen))
    monkeypatch.setitem(sys.modules, "google", SimpleNamespace(colab=module))
    monkeypatch.setitem(sys.modules, "google.colab", module)
    return chosen


def test_upload_in_colab(lesson, cache, colab, words):
    colab["my blog.txt"] = words.encode()
    assert lesson.load_text("upload") == words


def test_cancelled_upload(lesson, cache, colab):
    refusal(lesson, "upload")


# ---------------------------------------------------------------------------------------------------------------------
# What the text is


@pytest.mark.parametrize("raw, expected", [
    (b"\xef\xbb\xbfA line\n", "A line\n"),
    (b"one\r\ntwo\r\n\r\n", "one\ntwo\n\n"),
    (b"one\rtwo\r", "one\ntwo\n"),
    (b"one\r\r\ntwo", "one\n\ntwo"),
    (b"one\0two\n", "one\0two\n"),
    ("naïve café 猫 \U0001f63a\n".encode(), "naïve café 猫 \U0001f63a\n"),
], ids=["byte order mark", "CRLF", "CR", "CR CRLF", "NUL", "beyond ASCII"])
def test_bytes_become_text(lesson, cache, raw, expected):
    Path("x.txt").write_bytes(raw + b"More of the same text. " * 100)
    assert lesson.load_text("x.txt") == expected + "More of the same text. " * 100


@pytest.fixture(scope="module")
def write_and_load(lesson, tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "text.txt"
    return lambda data: (path.write_bytes(data), lesson.load_text(str(path)))[1]


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\ufeff")),
       st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
def test_any_text_survives_any_line_ends(write_and_load, text, newline, mark):
    text = "A text that is long enough to be learnt from. " * 40 + text
    assert write_and_load(b"\xef\xbb\xbf" * mark + text.replace("\n", newline).encode()) == text


TEXTS = {
    "one line": "A single line that never ends, and so on and on; " * 50,
    "two characters": "ab" * 1000,
    "emoji": "\U0001f600\U0001f601 \U0001f469\u200d\U0001f680 \U0001f1ea\U0001f1fa \u2764\ufe0f\n" * 200,
    "Hebrew": "שלום עולם, זה טקסט קצר שנכתב מימין לשמאל.\n" * 60,
    "Arabic": "مرحبا بالعالم، هذا نص قصير مكتوب من اليمين إلى اليسار.\n" * 60,
    "Chinese": "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。\n" * 100,
    "NUL": "zero\0byte\0" * 200,
    "control characters": "".join(map(chr, range(32))) * 80,
    "combining marks": "e\u0301a\u0308o\u0302 n\u0303 " * 250,
    "line ends and one letter": "\n\n\na\n" * 400,
    "many characters": "".join(map(chr, range(33, 1200))) * 2,
}


@pytest.mark.parametrize("name", TEXTS)
def test_any_kind_of_text_can_be_learnt_and_written(lesson, cache, form, name):
    text = TEXTS[name]
    Path("x.txt").write_bytes(text.encode())
    loaded = lesson.load_text("x.txt")
    assert loaded == text.replace("\r", "\n")
    run = learn_two_steps(lesson, loaded, form)
    written = "".join(lesson.generate(run.averaged, run.tokenizer, length=20, stop=None))
    assert len(written) == 20 and set(written) <= set(loaded)


TOO_LITTLE = {
    "empty": "", "only a byte order mark": "\ufeff", "one character": "a", "ten characters": "abcdefghij",
    "39 characters": "abcdefghijklm" * 3, "one distinct character": "a" * 5000, "only line ends": "\n" * 5000,
}


@pytest.mark.parametrize("name", TOO_LITTLE)
def test_text_too_poor_to_learn_from_is_refused_by_name(lesson, cache, form, name):
    """No other setting would help, so the sentence must not blame one."""
    Path("x.txt").write_bytes(TOO_LITTLE[name].encode())
    with pytest.raises(ValueError) as caught:
        learn_two_steps(lesson, lesson.load_text("x.txt"), form | {"block_size": 2})
    assert_one_sentence(str(caught.value), "text_source='x.txt' ")


@pytest.mark.parametrize("length", [40, 43, 50, 60, 100])
def test_shortest_texts_train_or_are_refused_in_one_sentence(lesson, cache, form, length):
    Path("x.txt").write_text(("abcdefghij " * 10)[:length])
    try:
        learn_two_steps(lesson, lesson.load_text("x.txt"), form | {"block_size": 2})
    except ValueError as error:
        assert_one_sentence(str(error), "text_source")


def test_text_shorter_than_the_block_names_block_size(lesson, form, words):
    with pytest.raises(ValueError) as caught:
        learn_two_steps(lesson, words[:1000], form | {"block_size": 200})
    assert_one_sentence(str(caught.value), "block_size=200 ")
    assert "1,000" in str(caught.value), "it says how long the text is"


@settings(max_examples=60, deadline=None)
@given(st.integers(100, 100_000), st.integers(2, 8192))
def test_advised_block_size_does(configure, form, length, block_size):
    """Whatever block size is refused for a text, the one that the sentence names is accepted."""
    train_length = int(0.9 * length)
    try:
        configure(form | {"block_size": block_size}, 20, train_length)
    except ValueError as error:
        advised = int(re.search(r"block_size up to (-?[\d,]+)", str(error))[1].replace(",", ""))
        assert advised < block_size
        configure(form | {"block_size": advised}, 20, train_length)


def test_longest_block_that_is_accepted_trains(lesson, form, words):
    for longest in range(120, 0, -1):
        with suppress(ValueError):
            lesson.configure(form | {"block_size": longest}, 30, 900)
            break
    assert longest >= 64, "a text of 1,000 characters has room for that"
    learn_two_steps(lesson, words[:1000], form | {"block_size": longest})


def long_text(length):
    draw = random.Random(1)
    words = ["".join(draw.choices("etaoinshrdlucmfwypvbgkjqxzETAOIN", k=draw.randint(1, 9))) for _ in range(5000)]
    line = " ".join(draw.choices(words, k=20_000)) + ".\n"
    return (line * (length // len(line) + 1))[:length]


@pytest.mark.parametrize("megabytes, seconds", [(5, 40), pytest.param(50, 600, marks=pytest.mark.slow)])
def test_large_text_works(lesson, cache, form, megabytes, seconds):
    text, began = long_text(megabytes * 1_000_000), time.process_time()
    Path("x.txt").write_bytes(text.encode())
    run = learn_two_steps(lesson, lesson.load_text("x.txt"), form | dict(max_iters="automatic", corruption="automatic"))
    assert len(run.train_ids) + len(run.val_ids) == len(text)
    assert time.process_time() - began < seconds


# ---------------------------------------------------------------------------------------------------------------------
# Hyperparameters

WHOLE = ["n_layer", "n_head", "n_embd", "block_size", "batch_size", "max_iters", "patience", "seed"]
REAL = ["dropout", "learning_rate", "weight_decay", "corruption", "agreement"]
SWITCH = ["bias", "capture", "compile"]
CHOICE = ["attention", "position", "norm", "residual", "activation", "number_format"]
NO_NUMBER = ["", "twelve", "3", None, NAN, INF, -INF, True, [4], 1j]

REFUSED = [(field, value) for field in WHOLE for value in [*NO_NUMBER, -1, 2.0, 2.5, 10**30]]
REFUSED += [(field, 0) for field in WHOLE if field not in ("patience", "seed")]
REFUSED += [(field, value) for field in REAL for value in [*NO_NUMBER, -0.1, -1e-300, 1e30, 10**400]]
REFUSED += [(field, value) for field in SWITCH for value in [0, 1, "True", "", None, 0.5, NAN]]
REFUSED += [(field, value) for field in CHOICE for value in ["", "Fused", "learned ", None, True, 0, NAN, ["fused"]]]
REFUSED += [("configuration", value) for value in ["", "huge", "Small", None, 10, True, ["small"], NAN]]
REFUSED += [
    ("dropout", 1), ("dropout", 1.0), ("dropout", 0.95), ("corruption", 1), ("learning_rate", 1.5), ("n_layer", 257),
    ("n_embd", 16_385), ("block_size", 1), ("block_size", 8193), ("seed", 2**31 + 1), ("learning_rate", "automatic"),
    ("n_layer", "automatic"), ("agreement", "automatic"), ("agreement", 100.5),
]


@pytest.fixture(scope="module")
def configure(lesson):
    return lesson.configure


def refused_fields(lesson, form):
    """The sentence with which a form is refused, for a text of 2,900 characters."""
    with pytest.raises(ValueError) as caught:
        lesson.configure(form, 40, 2600)
    return str(caught.value)


def test_the_table_is_long_enough():
    assert len({(field, repr(value)) for field, value in REFUSED}) >= 60


@pytest.mark.parametrize("field, value", REFUSED, ids=lambda x: repr(x)[:20])
def test_bad_value_is_refused_in_one_sentence(lesson, form, field, value):
    sentence = refused_fields(lesson, form | {field: value})
    assert_one_sentence(sentence, f"{field}={value!r} ")


@pytest.mark.parametrize("field", WHOLE + REAL)
def test_refused_number_is_told_its_range_and_the_range_is_true(lesson, form, field):
    low, high = re.search(r"from ([\d.,e+-]+) to ([\d.,e+-]*\d)", refused_fields(lesson, form | {field: "x"})).groups()
    kind = int if field in WHOLE else float
    for end in (low, high) if field != "n_embd" else (low,):  # how wide it may be depends on its depth
        value = kind(end.replace(",", ""))
        lesson.configure(form | {"n_head": 1, "position": "none", "n_embd": 256, field: value}, 40, 10**6)


@pytest.mark.parametrize("field", SWITCH + CHOICE)
def test_refused_choice_is_told_every_choice_and_each_is_accepted(lesson, form, field):
    sentence = refused_fields(lesson, form | {field: "x"})
    hints = lesson.GPTConfig.__annotations__ | lesson.TrainConfig.__annotations__
    for value in get_args(hints[field]) or (True, False):
        assert repr(value) in sentence
        lesson.configure(form | {"position": "none", field: value}, 40, 2600)


def test_unknown_configuration_is_told_all_of_them(lesson, form):
    sentence = refused_fields(lesson, form | {"configuration": "12M"})
    assert all(name in sentence for name in ("automatic", *lesson.CONFIGURATIONS))


@pytest.mark.parametrize("field", ["max_iters", "corruption", "number_format"])
def test_automatic_is_named_where_it_would_do(lesson, form, field):
    lesson.configure(form | {field: "automatic"}, 40, 2600)
    assert "automatic" in refused_fields(lesson, form | {field: "auto"})


TOGETHER = {  # fine alone, wrong together: settings, how the sentence starts, what it must name, a change that helps
    "heads do not divide the width": ("n_head=3", "n_head=3 ", "n_embd=16", "n_head=4"),
    "more heads than width": ("n_head=32", "n_head=32 ", "n_embd=16", "n_head=8"),
    "odd head size with rotary": ("n_head=2, n_embd=6", "n_head=2 ", "position='learned'", "position='learned'"),
    "head size 1 with rotary": ("n_head=16", "n_head=16 ", "even", "n_head=8"),
    "odd width with sinusoids": ("n_head=1, n_embd=15, position='sinusoidal'", "n_embd=15 ", "even", "n_embd=14"),
    "PyTorch's attention with rotary": ("attention='pytorch'", "attention='pytorch' ", "'fused'", "attention='fused'"),
    "block longer than the text": ("block_size=2600", "block_size=2600 ", "block_size up to", "block_size=100"),
}


@pytest.mark.parametrize("case", TOGETHER)
def test_values_that_do_not_fit_together(lesson, form, words, case):
    bad, start, named, better = TOGETHER[case]
    bad, better = eval(f"dict({bad})"), eval(f"dict({better})")
    sentence = refused_fields(lesson, form | bad)
    assert_one_sentence(sentence, start)
    assert named in sentence
    learn_two_steps(lesson, words, form | bad | better)


WORKS = [
    "n_layer=3", "n_head=1", "n_head=8", "n_embd=4", "n_embd=48", "n_embd=1, n_head=1, position='none'",
    "n_embd=5, n_head=5, position='learned'", "n_embd=6, n_head=1", "n_embd=17, n_head=1, position='learned'",
    "block_size=2", "block_size=3", "block_size=256", "batch_size=1", "batch_size=37", "max_iters=1",
    "max_iters='automatic'", "max_iters=10_000_000", "patience=1", "patience=1_000_000", "seed=0", "seed=2**31",
    "dropout=0", "dropout=0.9", "learning_rate=0", "learning_rate=1e-30", "learning_rate=1", "weight_decay=0",
    "weight_decay=100", "corruption=0", "corruption=0.9", "corruption='automatic'", "agreement=0", "agreement=1",
    "agreement=100", "agreement=2.0, dropout=0.9", "agreement=2.0, dropout=0", "bias=True",
    "capture=False", "attention='manual'", "attention='manual', dropout=0.9", "attention='none'",
    "attention='none', position='none', norm='none'", "attention='pytorch', position='learned'",
    "attention='pytorch', position='none'",
    "attention='pytorch', position='learned', bias=True, norm='layer'", "position='learned'",
    "position='sinusoidal'", "position='none'", "norm='layer'", "norm='layer', bias=True", "norm='none'",
    "residual='off'", "residual='bug'", "residual='bug', attention='none'", "activation='gelu'", "activation='relu'",
    "number_format='fp32'", "number_format='bf16'", "number_format='fp16'", "number_format='automatic'",
    *(f"number_format={kind!r}, {part}" for kind in ("bf16", "fp16") for part in (
        "attention='manual'", "attention='pytorch', position='learned'", "attention='none'", "position='sinusoidal'",
        "norm='layer', bias=True", "norm='none'", "agreement=0", "n_embd=12")),
]


@pytest.mark.parametrize("changes", WORKS)
def test_unusual_value_trains(lesson, form, words, changes):
    learn_two_steps(lesson, words, form | eval(f"dict({changes})"))


@pytest.mark.slow
def test_compiled_step_trains(lesson, form, words):
    learn_two_steps(lesson, words, form | {"compile": True})


FIELDS = ["configuration", *WHOLE, *REAL, *SWITCH, *CHOICE]
ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.lists(st.integers(), max_size=2),
    st.text(max_size=8), st.sampled_from([value for _, value in REFUSED if isinstance(value, str)]),
    st.integers(0, 20), st.floats(0, 1),
)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), ANYTHING, min_size=1, max_size=3))
def test_anything_typed_anywhere_is_accepted_or_refused_in_one_sentence(configure, form, changes):
    try:
        configure(form | changes, 40, 2600)
    except ValueError as error:
        field = str(error).split("=")[0]
        assert field in FIELDS
        assert_one_sentence(str(error), f"{field}=")


@pytest.mark.parametrize("changes", [
    dict(n_embd=16_384, n_layer=8), dict(n_embd=16_384, n_layer=256), dict(n_embd=8192, n_layer=64),
], ids=str)
def test_network_beyond_any_machine_is_refused(lesson, form, changes):
    """Each value is in range, but together they ask for 100 GB of weights and more: a kernel that dies says nothing."""
    sentence = refused_fields(lesson, form | changes)
    assert_one_sentence(sentence, ("n_embd=", "n_layer="))


@pytest.mark.parametrize("length", [100, 1000, 10**4, 10**5, 10**6, 10**8])
def test_every_configuration_fits_a_length_or_says_so(lesson, form, length):
    for name in ("automatic", *lesson.CONFIGURATIONS):
        try:
            cfg, _ = lesson.configure(form | {"configuration": name}, 40, length)
            assert cfg.block_size < length / 10
        except ValueError as error:
            assert_one_sentence(str(error), "block_size=")
            assert length < 10_000


# ---------------------------------------------------------------------------------------------------------------------
# Sampling


@pytest.fixture(scope="module")
def writer(lesson, words):
    """A network that has learnt nothing, and its tokenizer."""
    tokenizer = lesson.CharTokenizer(words)
    cfg = lesson.GPTConfig(vocab_size=len(tokenizer.chars), block_size=16, n_layer=1, n_head=2, n_embd=16)
    return lesson.GPT(cfg), tokenizer


@pytest.fixture(scope="module")
def write(lesson, writer):
    """What it writes, with the sampling knobs given."""
    return lambda **knobs: "".join(lesson.generate(*writer, stop=None, **dict(length=20) | knobs))


KNOBS = ["temperature", "top_k", "top_p"]
NO_KNOB = ["", "0.8", None, NAN, INF, -INF, -1, -1e-9, [1], 1j, 10**400]
BAD_KNOBS = [(knob, value) for knob in KNOBS for value in NO_KNOB]
BAD_KNOBS += [("temperature", 1000), ("top_k", 2.5), ("top_p", 1.01), ("top_p", 95)]


@pytest.mark.parametrize("knob, value", BAD_KNOBS, ids=lambda x: repr(x)[:20])
def test_bad_sampling_knob_is_refused_in_one_sentence(write, knob, value):
    with pytest.raises(ValueError) as caught:
        write(**{knob: value})
    assert_one_sentence(str(caught.value), f"{knob}={value!r} ")


@pytest.mark.parametrize("knobs", [
    "temperature=0", "temperature=100", "temperature=1e-5", "temperature=1e-30", "temperature=1e-40",
    "temperature=5e-324", "temperature=1e-30, top_k=3, top_p=1e-9", "top_k=0", "top_k=1", "top_k=10**6", "top_k=10**9",
    "top_p=1", "top_p=1e-9", "top_p=5e-324", "prompt='猫'", "prompt='x' * 500", "prompt='\\0'", "length=0",
    "seed=2**31",
])
def test_extreme_sampling_knob_works(write, writer, knobs):
    knobs = eval(f"dict({knobs})")
    written = write(**knobs)
    assert len(written) == knobs.get("length", 20) and set(written) <= set(writer[1].chars)


@pytest.mark.parametrize("top_p", [0, 0.0, 1e-12])
def test_smallest_top_p_keeps_the_likeliest_or_is_refused(write, top_p):
    try:
        written = write(top_p=top_p)
    except ValueError as error:
        assert_one_sentence(str(error), f"top_p={top_p!r} ")
    else:
        assert written == write(temperature=0)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(KNOBS), ANYTHING)
def test_anything_typed_for_sampling_is_accepted_or_refused_in_one_sentence(write, knob, value):
    try:
        assert len(write(length=2, **{knob: value})) == 2
    except ValueError as error:
        assert_one_sentence(str(error), f"{knob}=")
