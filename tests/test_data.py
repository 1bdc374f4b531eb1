"""The sample blog: built by the builder, and as its README says."""
import lzma

from conftest import BLOG, ROOT

from build_dataset import main


def test_blog_is_exactly_what_the_builder_makes(tmp_path):
    assert main([str(ROOT / "data" / "_posts"), "-o", str(tmp_path / "blog.txt")]) == 0
    assert (tmp_path / "blog.txt").read_bytes() == (ROOT / "data" / "blog.txt").read_bytes()


def test_readme_quotes_the_figures_of_this_text():
    readme, raw = (ROOT / "data" / "README.md").read_text(encoding="utf-8"), BLOG.encode()
    ratio = len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)) / len(raw)
    for figure in (f"{len(BLOG):,}", f"{len(set(BLOG))}", f"{len(BLOG.split(chr(10) * 3))}", f"{ratio:.3f}"):
        assert f"| {figure} |" in readme
