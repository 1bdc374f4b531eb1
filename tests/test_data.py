"""The sample blog: what it must measure, and that data/blog.txt is built from data/_posts."""
import lzma
import re
from collections import Counter

import pytest
from conftest import ROOT

from build_dataset import main

BLOG = ROOT / "data" / "blog.txt"


@pytest.fixture(scope="module")
def text():
    return BLOG.read_text(encoding="utf-8")


def test_blog_is_exactly_what_the_builder_makes(tmp_path):
    assert main([str(ROOT / "data" / "_posts"), "-o", str(tmp_path / "blog.txt")]) == 0
    assert (tmp_path / "blog.txt").read_bytes() == BLOG.read_bytes()


def test_size(text):
    assert 400_000 <= len(text) <= 600_000
    posts = text.split("\n\n\n")
    assert len(posts) >= 200
    assert all(1_000 <= len(post) <= 4_300 for post in posts)  # an essay of up to 4,000 characters, and its title


def test_compresses_like_human_prose(text):
    raw = text.encode()
    assert len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)) / len(raw) >= 0.295


def test_hardly_any_passage_occurs_twice(text):
    words = re.findall(r"[\w']+", text.lower())
    sequences = [tuple(words[i:i + 8]) for i in range(len(words) - 7)]
    count = Counter(sequences)
    repeated = {i + k for i, sequence in enumerate(sequences) if count[sequence] > 1 for k in range(8)}
    assert len(repeated) / len(words) <= 0.01


def test_vocabulary(text):
    assert len(set(re.findall(r"[\w']+", text.lower())[:50_000])) >= 5_300
    assert 70 <= len(set(text)) <= 120


def test_posts_carry_what_real_posts_carry():
    posts = [path.read_text(encoding="utf-8") for path in (ROOT / "data" / "_posts").iterdir()]
    features = {"highlight": r"\{% highlight", "include": r"\{% include", "raw": r"\{% raw", "fence": r"^```",
                "image": r"!\[", "table": r"^\|", "footnote": r"\[\^1\]", "attribute": r"^\{: ?[.#]",
                "entity": r"&\w+;", "inline HTML": r"<em>", "reference": r"^\[[^]^]+\]: ", "indented code": r"^    \S"}
    missing = [name for name, mark in features.items() if not any(re.search(mark, post, re.M) for post in posts)]
    assert missing == []


def test_readme_quotes_the_figures_of_this_text(text):
    readme = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    raw = text.encode()
    ratio = len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)) / len(raw)
    for figure in (f"{len(text):,}", f"{len(set(text))}", f"{len(text.split(chr(10) * 3))}", f"{ratio:.3f}"):
        assert f"| {figure} |" in readme
