"""build_dataset.py: one test per promise about how posts become text.

The cases of 5 and 50 MB run by hand: pytest tests/test_build_dataset.py -m slow
"""

import math
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import build_dataset
from build_dataset import clean_post, main


def post(body, **header):
    """A post's source with the given front matter."""
    lines = [f"{key}: {value}" for key, value in header.items()]
    return "\n".join(["---", *lines, "---", body])


# ------------------------------------------------------------ clean_post, case by case

TICKS = "```"

CASES = {
    # front matter
    "header goes": ("---\nlayout: post\n---\nBody.", "Body."),
    "no header": ("Body.", "Body."),
    "empty header": ("---\n---\nBody.", "Body."),
    "invalid YAML": ("---\ntitle: a: b: [\n---\nBody.", "Body."),
    "impossible date": ("---\ndate: 2015-02-30\ntitle: T\n---\nBody.", "T\n\nBody."),
    "BOM and CRLF": ("\ufeff---\r\ntitle: T\r\n---\r\nOne\r\ntwo.", "T\n\nOne two."),
    "header ended by dots": ("---\ntitle: T\n...\nBody.", "T\n\nBody."),
    "spaces on the delimiters": ("---  \ntitle: T\n---\t\nBody.", "T\n\nBody."),
    "unclosed header is text": ("---\ntitle: T\n\nBody.", "title: T\n\nBody."),
    "rule in the body": ("---\ntitle: T\n---\nOne.\n\n---\n\nTwo.", "T\n\nOne.\n\nTwo."),
    "setext heading": ("Head\n---\n\nOne.", "Head\n\nOne."),
    # titles
    "title is cleaned": (post("x", title='"*A* `b` &amp; <i>c</i> {{ d }}"'), "A b & c\n\nx"),
    "number as title": (post("x", title="2.10"), "2.10\n\nx"),
    "list as title": (post("x", title="[a, b]"), "x"),
    "empty title": (post("x", title=""), "x"),
    # links, images, URLs
    "link": ("See [the docs](http://a.b/c_d 'title') now.", "See the docs now."),
    "reference link": ("See [the docs][1].\n\n[1]: http://a.b/c 'Title'", "See the docs."),
    "reference without definition": ("See [the docs][gone] and [more][].", "See the docs and more."),
    "definition under a paragraph goes": ("See [it][1].\n\n[1]: <http://a.b>\n[2]: /c (d)", "See it."),
    "target that looks like a tag": ("See [it](<a b.png>).\n\n    code\n\n<a>b</a>", "See it.\n\nb"),
    "link whose target was Liquid": ("See [it]({% post_url 2010-01-01-a %}).", "See it."),
    "brackets in prose": ("[1] arrays and f(x)", "[1] arrays and f(x)"),
    "indices": ("student[1][name] stays", "student[1][name] stays"),
    "bare URL": ("See https://www.a-b.org/c/d?e=f#g, or (http://x.y/z).", "See www.a-b.org, or (x.y)."),
    "www": ("See www.a.org/b.", "See www.a.org."),
    "autolink": ("<https://a.org/b> and <me@a.org>", "a.org and me@a.org"),
    "URL before Chinese": ("看http://a.org/b。好", "看a.org。好"),
    "image": ("a ![alt *text*](x.png 'y') b", "a b"),
    "linked image": ("a [![alt](x.png)](y) b", "a b"),
    "data URI": ("a ![alt](data:image/png;base64," + "A" * 5000 + ") b", "a b"),
    "figure caption": ("<figure>\n  <img src='a' alt='b'>\n  <figcaption>Cap</figcaption>\n</figure>", "Cap"),
    # code
    "fenced code": (f"a\n\n{TICKS}py\nx = 1\n\ny\n{TICKS}\n\nb", "a\n\nb"),
    "tildes": ("a\n~~~~\n~~~\n~~~~\nb", "a\n\nb"),
    "longer fence": (f"a\n\n`{TICKS}\n{TICKS}\nx\n{TICKS}\n`{TICKS}\n\nb", "a\n\nb"),
    "fence in a list": (f"1. a\n\n    {TICKS}\n    x\n    {TICKS}\n\n2. b", "1. a\n2. b"),
    "fence behind a marker": (f"- {TICKS}\n  x\n  {TICKS}\n- b\n\n{TICKS}\ny\n{TICKS}\n\nc", "- b\n\nc"),
    "fence in a quote": (f"> a\n>\n> {TICKS}\n> x\n> {TICKS}\n>\n> b", "a\n\nb"),
    "fence in a quote in a list": (f"- > {TICKS}\n  > x\n  > {TICKS}\n- b", "- b"),
    "fence in a list in a quote": (f"> - - a\n>\n>     {TICKS}\n>     x\n>     {TICKS}\n>   - b", "- a\n- b"),
    "unclosed fence is text": (f"a\n\n{TICKS}\nb *c*\n\nd", "a\n\nb c\n\nd"),
    "indented code": ("a\n\n    x = 1\n\n    y\n\nb", "a\n\nb"),
    "tags in indented code": ("a\n\n    x = '<div>'\n\n    y = '</div>'\n\nb", "a\n\nb"),
    "end tag in inline code": ("<div>a\n\n    x\n\n`</div>` b", "a\n\n</div> b"),
    "highlight": ("a\n{% highlight ruby %}\nx\n{% endhighlight %}\nb", "a\n\nb"),
    "pre": ("a\n\n<pre><code>x\n\ny</code></pre>\n\nb", "a\n\nb"),
    "inline code": ("Use `a_b_c` and ``a ` b``.", "Use a_b_c and a ` b."),
    "markup in inline code": (
        "`<div>` `Vec<T>` `a < b && c > d` `&amp;` `[a](b)`",
        "<div> Vec<T> a < b && c > d &amp; [a](b)",
    ),
    "dashes in inline code": ("`a --- b` --- c", "a --- b -- c"),
    "comment in inline code": ("a `<!--` b `-->` c", "a <!-- b --> c"),
    "raw in inline code": ("`{% raw %}{{ x }}{% endraw %}`", "{{ x }}"),
    "code as HTML": ("<code>a &lt; b_c_d</code> <kbd>Ctrl</kbd>", "a < b_c_d Ctrl"),
    # Liquid
    "tags and outputs": ("a {{ b }} c {% include d.html e='f' %} g", "a c g"),
    "white space control": ("a {%- if b -%}c{%- endif -%} d {{- e -}}", "a c d"),
    "comment": ("a {% comment %}b {{ c }}{% endcomment %}d", "a d"),
    "unknown block": ("{% note %}\nkept\n{% endnote %}", "kept"),
    "tag of two lines": ("a {% include b\n   c='d' %} e", "a e"),
    "unclosed tag eats nothing": ("a {% b\n\nc {{ d", "a {% b\n\nc {{ d"),
    "unclosed block eats nothing": ("a {% comment %}b {% raw %}c {% highlight x %}d", "a b c d"),
    "Liquid in a heading": ("{{ page.title }}\n==========\n\na", "a"),
    # HTML
    "inline tags": ("<b>a</b>b <a href='x>y'>c</a>d H<sub>2</sub>O", "ab cd H2O"),
    "breaks": ("a<br>b<br/>c", "a\nb\nc"),
    "blocks": ("<div>a</div><p>b</p><h2>c</h2>", "a\n\nb\n\nc"),
    "unknown tags": ("Vec<T> and Map<String, Integer>", "Vec<T> and Map<String, Integer>"),
    "comparisons": ("a < b and c > d -> e <- f", "a < b and c > d -> e <- f"),
    "line that starts with a tag": ("<b>Bold</b> starts it.", "Bold starts it."),
    "hidden content": ("a<script>b</script><style>c</style><svg><text>d</text></svg><iframe>e</iframe> f", "a f"),
    "script with an empty line": ("a\n\n<script>\nx\n\n    y\n</script>\n\nb", "a\n\nb"),
    "unclosed script": ("a <script> b", "a b"),
    "HTML comment": ("a <!-- b\n\n*c* --> d", "a d"),
    "indented HTML": ("<div>\n    <p>a</p>\n\n    <p>b\n    c</p>\n</div>\n\n    code", "a\n\nb c"),
    "indented HTML in a quote": ("> <div>\n>     <p>a</p>\n>\n>     <p>b</p>\n> </div>", "a\n\nb"),
    "end tag left out": ("<ul><li>a</li><li>b</ul>\n\n    x\n\n<ul><li>c</li></ul>", "- a\n- b\n- c"),
    "Markdown in HTML": ("<div class='x' markdown='1'>\n*a* [b](c)\n</div>", "a b"),
    "HTML table": ("<table><tr><th>a</th><th>b</th></tr><tr><td>c</td><td><p>d</p></td></tr></table>", "a | b\nc | d"),
    "list in a table": ("<table><tr><td>a</td><td><ul><li>b</li><li>c</li></ul></td></tr></table>", "a | b c"),
    "HTML list": ("<ol start='3'><li>a</li><li><p>b</p></li></ol><ul>\n<li>c\n</ul>", "3. a\n4. b\n- c"),
    "tag of two lines with attributes": ('<a href="a"\n   title="b">c</a>', "c"),
    "entities": ("&lt;b&gt; &amp;amp; &eacute; &#65; &copy;", "<b> &amp; é A ©"),
    # kramdown
    "attribute lists": ("{: .a}\n# H {#id}\n\nb\n{: .c #d}\n\n*e*{: .f} g\n\n- {:.h} i", "H\n\nb\n\ne g\n\n- i"),
    "attribute lists of items": ("1. {:.a} b\n2. c\n   * {:.d} e\n3. > {:.f}\n   > g", "1. b\n2. c\n- e\n3. g"),
    "braces in prose": ("call it with {:a => 1}", "call it with {:a => 1}"),
    "contents": ("* TOC\n{:toc}\n\na", "a"),
    "abbreviation": ("The HTML.\n\n*[HTML]: Hyper Text", "The HTML."),
    "footnotes": ("a[^1] b[^x].\n\n[^1]: note\n\n    more\n[^x]: two", "a b.\n\nnote\n\nmore\n\ntwo"),
    "no footnote": ("the class [^abc] matches", "the class [^abc] matches"),
    "definition list": ("Term\n: text\n\n    more\n\nb", "Term\n\ntext\n\nmore\n\nb"),
    "extension comment": ("a\n\n{::comment}\nb\n{:/comment}\n\n{::nomarkdown}c{:/}", "a\n\nc"),
    "display maths": ("a\n\n$$\nx\n$$\n\nb\n\n$$ y $$\n\nc", "a\n\nb\n\nc"),
    "inline maths": ("so $a_1*b*$ and $$c_2$$ hold", "so a_1*b* and c_2 hold"),
    "money": ("from $5 and $6 to $7.", "from $5 and $6 to $7."),
    # plain Markdown
    "emphasis": ("*a* **b** _c_ ***d*** ~~e~~ snake_case_name", "a b c d e snake_case_name"),
    "emphasis next to punctuation": ("**“a”**是 **b:**c", '"a"是 b:c'),
    "escapes": (r"\*a\* 1\. \[b\] \`c\`", "*a* 1. [b] `c`"),
    "headings": ("# A\n\n## B ##\n\nC\n=", "A\n\nB\n\nC"),
    "lists": ("* a\n* b\n    * c\n\n3) d\n4) e", "- a\n- b\n- c\n3. d\n4. e"),
    "loose list": ("- a\n\n- b\n\n  c\n\n- d", "- a\n- b\n\nc\n\n- d"),
    "quote": ("> a\n> b\n>> c", "a b\n\nc"),
    "table": ("| a | b |\n|---|:-:|\n| *c* | d |", "a | b\nc | d"),
    "table without outer pipes": ("a | b\n--|--\nc | d", "a | b\nc | d"),
    "table without a head": ("| a | b |\n| c | d |", "a | b | c | d"),
    "rules": ("a\n\n* * *\n\n___\n\nb", "a\n\nb"),
    "wrapped lines": ("one\ntwo\nthree", "one two three"),
    "hard line break": ("one  \ntwo\\\nthree\\\\\nfour", "one\ntwo\nthree\nfour"),
    # characters
    "folding": ("‘a’ “b” c–d e—f g… h --- i", "'a' \"b\" c-d e--f g... h -- i"),
    "composed accents": ("e\u0301", "é"),
    "spaces": ("a\u00a0b\u2003c\u3000d &nbsp; e", "a b c d e"),
    "invisible characters": ("a\u200bb\u00adc\ufeffd\x07e\x1bf\ufe0fg&#8203;h", "abcdefgh"),
    "other scripts": ("naïve 中文，שלום ⚡", "naïve 中文，שלום ⚡"),
    "noncharacters": ("a\ufdd00\ufdd1b", "a0b"),
    "lone surrogate": ("a\ud800b", "ab"),
    "empty lines": ("a\n\n\n\n \nb\n\n", "a\n\nb"),
    "nothing": ("", ""),
}


@pytest.mark.parametrize("raw, expected", CASES.values(), ids=CASES.keys())
def test_case(raw, expected):
    assert clean_post(raw) == expected


@pytest.mark.parametrize(
    "raw, options, expected",
    [
        ("a\n\n```\n  x = '—'\n\n\n\n  <b> `y`\n```\n\nb", {"code": "keep"}, "a\n\n  x = '--'\n\n  <b> `y`\n\nb"),
        ("a\n\n    <b> `y`\n\nb", {"code": "keep"}, "a\n\n<b> `y`\n\nb"),
        ("a\n\n    echo `b` $c_d$ <kbd>", {"code": "keep"}, "a\n\necho `b` $c_d$ <kbd>"),
        ("<pre>a &lt; <b>c</b></pre>", {"code": "keep"}, "a < c"),
        ("{% highlight x %}\na *b*\n{% endhighlight %}", {"code": "keep"}, "a *b*"),
        ("1. a\n\n   ```\n   x\n     y\n   ```\n", {"code": "keep"}, "1. a\n\nx\n  y"),
        ("at http://a.b/c.", {"urls": "keep"}, "at http://a.b/c."),
        ("at http://a.b/c now", {"urls": "drop"}, "at now"),
        (post("b", title="a"), {"titles": False}, "b"),
        ("“a” — b…", {"fold": False}, "“a” — b…"),
        ("<p>*a*</p>\n\n    <p>b &amp; c</p>", {"markdown": False}, "*a*\n\nb & c"),
    ],
)
def test_options(raw, options, expected):
    assert clean_post(raw, **options) == expected


# ---------------------------------------------------------------- properties

WORDS = st.text("abcdefghijklmnopqrstuvwxyzäéñбש中", min_size=1, max_size=6)
SENTENCES = st.lists(WORDS, min_size=1, max_size=4).map(" ".join)

# A post is drawn as a pair: its source, and the words that a reader sees of it. It is composed of patterns, in which
# ↵ is a line end, and each • is filled with a smaller piece. Other words in a pattern are hidden from the reader,
# but CAPITALS are in a block of code. What stands at the beginning of a line is never removed altogether: in Jekyll,
# too, the spaces behind it would become an indentation. Tags of two lines are not drawn: in a quote they are torn.


def patterns(table):
    return table.replace("\n", " ¦ ").replace("↵", "\n").strip(" ¦").split(" ¦ ")


def joined(pieces, separator="\n\n"):
    return separator.join(source for source, _ in pieces), [word for _, words in pieces for word in words]


@st.composite
def filled(draw, choices, content):
    parts = re.split("(•)", draw(st.sampled_from(choices)))
    return joined([draw(content) if part == "•" else (part, re.findall(r"\b[A-Z]+\b", part)) for part in parts], "")


def with_entities(words):
    return words.replace("é", "&eacute;").replace("ä", "&#228;").replace("ñ", "&#xF1;")


INLINE_PATTERNS = patterns("""
• ¦ •, •. ¦ (•) ¦ *•* ¦ __•__ ¦ ***•*** ¦ ~~•~~ ¦ **[•](x)**, •
[•](http://example.com/x_y) ¦ [•](<a b> "hidden") ¦ [*•*](x 'hidden') ¦ [•][ref] ¦ [•][] ¦ •[^note], •
![hidden](x.png) • ¦ [![hidden](x.png)](y) • ¦ ![hidden][ref] • ¦ <img src='x' alt='hidden > *hidden'> •
<em class='x'>•</em> ¦ <a href="x>y">•</a> ¦ <abbr title="hidden">•</abbr> ¦ <a name='hidden'></a>• ¦ <Sup>•</SuP>
<kbd>•</kbd> ¦ <code>•</code> ¦ •<!-- hidden --> ¦ •<script>hidden</script> ¦ •<svg><text>hidden</text></svg>
{% if x %}•{% endif %} ¦ {%- raw -%}•{%- endraw -%} ¦ •{{ site.url | hidden }} ¦ • {% include x.html hidden='}}' %}
•{% comment %}hidden {{ hidden }}{% endcomment %} ¦ *•*{: .hidden} ¦ {::nomarkdown}•{:/}
&ldquo;•&rdquo; &amp; • &mdash; • ¦ &copy; •&nbsp;•
""")
VERBATIM_PATTERNS = patterns("`•` ¦ `` • `` ¦ `•`{:.hidden} ¦ $•$")
BLOCK_PATTERNS = patterns("""
• ¦ •↵• ¦ ## • ¦ # • # ¦ ## • {#hidden} ¦ •↵=== ¦ •↵--- ¦ •↵{: .hidden #hidden} ¦ {: .hidden}↵• ¦ •↵: • ¦ •↵↵---↵↵•
- •↵- • ¦ * •↵    * •↵* • ¦ + •↵↵  • ¦ - •↵↵- • ¦ •↵↵1. •↵2. • ¦ •↵↵1. •↵   - •↵↵   •↵2) •
> •↵> • ¦ > •↵• ¦ > •↵>↵> > • ¦ > - •↵>   • ¦ > ## •
<div class='x'>↵    <p>•</p>↵↵    <p>•</p>↵</div> ¦ <div markdown='1'>↵•↵</div> ¦ <blockquote>•</blockquote>
<h2>•</h2> ¦ <figure><img src='x' alt='hidden'>↵<figcaption>•</figcaption></figure>
<ul>↵  <li>•</li>↵  <li><p>•</p>↵</ul> ¦ {% if x %}↵•↵{% else %}↵•↵{% endif %}
{% comment %}↵hidden↵↵- hidden↵{% endcomment %} ¦ <p>↵•↵</p> ¦ <hr>↵• ¦ <dl><dt>•</dt><dd>•</dd></dl>
<details>↵<summary>•</summary>↵↵•↵↵</details>
<center>•</center> ¦ <div>↵↵•↵↵</div> ¦ <iframe src='x'>hidden</iframe>
<form><input value='hidden'> <button>•</button></form>
{% for x in y %}↵- •↵{% endfor %} ¦ {%- comment -%} hidden {%- endcomment -%}
<!-- hidden↵↵hidden -->↵↵• ¦ <script>↵hidden↵↵    hidden↵</script>↵↵• ¦ {::comment}↵hidden↵{:/comment}
![hidden](x.png)↵{: .hidden} ¦ •↵↵$$↵hidden↵$$↵↵•
•↵↵```html↵<B>X</B> *Y* [^Z]: X↵↵    &#38; Y↵``` ¦ •↵↵~~~↵``` X↵- Y↵~~~ ¦ - •↵↵  ```↵  X↵  ```↵- •
> •↵>↵> ```↵> X↵> ``` ¦ •↵↵    X <B> *Y*↵↵    Z ¦ •↵↵1. •↵↵        X↵2. • ¦ <pre><code>X &lt;↵↵Y</code></pre>
•↵```↵X↵```↵• ¦ {% highlight html %}↵<B>X</B> *Y*↵{% endhighlight %} ¦ ```↵{% raw %}{{ X }}{% endraw %}↵```↵{: .hidden}
""")
# These are not looked for in quotes and lists.
TOP_PATTERNS = patterns("""
* hidden↵{:toc} ¦ *[hidden]: hidden ¦ [hidden]: <http://example.com> (hidden) ¦ [^hidden]: •↵    •↵↵    •
""")
# Cleaned again, rows of a table and forced lines flow together, for plain text has no sign that they do not.
LINE_PATTERNS = patterns("""
| • | • |↵|---|:-:|↵| • | • | ¦ • | •↵--|--↵• | • ¦ •  ↵• ¦ •\\↵• ¦ •\\\\↵• ¦ •<br>• ¦ •<br />↵•
<table>↵  <tr><th>•</th><th>•</th></tr>↵  <tr><td>•</td><td><p>•</p></td></tr>↵</table>
""")
HEADER_PATTERNS = patterns("""
---↵title: "•"↵date: 2015-02-30↵---↵ ¦ ---  ↵tags:↵  - hidden↵title: '•'↵...↵ ¦ ---↵title: >↵  •↵---\t↵
---↵layout: hidden↵---↵ ¦ ---↵---↵ ¦ ---↵title: [hidden↵---↵ ¦ ---↵title: hidden: hidden↵---↵ ¦ ---↵- hidden↵---↵
""")
PLAIN = SENTENCES.map(lambda words: (words, words.split()))
ENTITIES = SENTENCES.map(lambda words: (with_entities(words), words.split()))
PIECES = filled(INLINE_PATTERNS, PLAIN | ENTITIES) | filled(VERBATIM_PATTERNS, PLAIN)
PARAGRAPHS = st.lists(PIECES, min_size=1, max_size=3).map(lambda pieces: joined(pieces, " "))
NOTES = filled(["[^note]: •\n\n    •\n\n[ref]: /x_y 'hidden'\n[hidden]: http://example.com"], PARAGRAPHS)
MARKERS = ["> ", "- ", "1. "]


@st.composite
def nested(draw, blocks, markers):
    """Put a block into up to two quotes or items of lists."""
    source, words = draw(blocks)
    for marker in draw(st.lists(st.sampled_from(markers), max_size=2)):
        first, *others = source.split("\n")
        indent = "> " if marker == "> " else " " * len(marker)
        source = "\n".join([marker + first, *(indent + line if line else indent.rstrip() for line in others)])
    return source, words


def posts(choices, markers):
    """Posts of the given blocks and of those in `TOP_PATTERNS`, with all kinds of headers and line ends."""
    blocks = nested(filled(choices, PARAGRAPHS), markers) | filled(choices + TOP_PATTERNS, PARAGRAPHS)
    body = st.tuples(st.lists(blocks, min_size=1, max_size=4).map(joined), NOTES).map(joined)
    whole = st.tuples(filled(HEADER_PATTERNS, PLAIN) | st.just(("", [])), body).map(lambda pieces: joined(pieces, ""))
    forms = st.tuples(st.sampled_from(["", "\ufeff"]), st.sampled_from(["\n", "\r\n", "\r"]))
    return st.builds(lambda form, post: (form[0] + post[0].replace("\n", form[1]), post[1]), forms, whole)


MARKUP_PIECES = (
    "\n \n\n •••• -• 1.• >• # * ** _ ` ``` ~~~ [ ] ( ) ![ ]( < > <div> </div> <pre> </pre> <a•href=' <!-- --> <br> | "
    "{% %} {{ }} {%raw%} {%endraw%} {%highlight•x%} {%endhighlight%} {%comment%} {%endcomment%} $ $$ \\ &lt; &#60; & ; "
    "{:•.x} {:toc} [^1] [^1]: [x]:•y :• --- *** === http://a.b/c www. \t word \u0301 \u200b \ufdd0 \ufdd1 \ud800 • "
    "<script> </script> <table> <td> <li> <ol•start=9> \n---\n ... title:•[ \ufeff \r\n \u2028 &#x110000; &nbsp; "
    '{::comment} {:/} |-|-|\n <!doctype <? <code> </code> <h1> "> *[x]: ^ \U000f0041 \U000f1060 \ufdd8 \ufdd9'
)
MARKUP = st.lists(st.sampled_from([piece.replace("•", " ") for piece in MARKUP_PIECES.split(" ")]), max_size=40).map(
    "".join
)
TORN_POSTS = st.builds(
    lambda post, start, length, markup: post[0][:start] + markup + post[0][start + length :],
    posts(BLOCK_PATTERNS + LINE_PATTERNS, MARKERS),
    st.integers(0, 300),
    st.integers(0, 50),
    MARKUP,
)
QUICK = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@given(MARKUP | TORN_POSTS, st.sampled_from(["drop", "keep"]), st.sampled_from(["host", "drop", "keep"]), st.booleans())
@example("```\n" * 3, "drop", "host", True)
def test_any_input_gives_tidy_text(raw, code, urls, markdown):
    text = clean_post(raw, code=code, urls=urls, markdown=markdown)
    assert text == text.strip()
    assert "\n\n\n" not in text
    assert not re.search("[\u200b\ufdd0-\ufdef\ud800\r\t\x00]", text) or code == "keep"
    text.encode("utf-8")


@QUICK
@given(st.text(max_size=300))
def test_any_text_is_accepted(raw):
    clean_post(raw)
    clean_post("---\n" + raw + "\n---\n" + raw)


@QUICK
@given(posts(BLOCK_PATTERNS + LINE_PATTERNS, MARKERS), st.sampled_from(["drop", "keep"]))
def test_words_are_kept_in_order_and_markup_goes(post, code):
    source, words = post
    text = clean_post(source, code=code)
    assert re.findall(r"[^\W\d_]+", text) == [word for word in words if code == "keep" or not word.isupper()]
    if code == "keep":  # the markers of a quote stay inside <pre> and highlight
        text = re.sub(r".*[A-Z].*|^[> ]+$", "", text, flags=re.MULTILINE)
    assert not re.search(r"[<>{}\[\]`*#~^\\$]|&\S|http|---", text)


@QUICK
@given(posts(BLOCK_PATTERNS, ["> ", "- "]))  # the numbers of a list inside another would be counted together
def test_cleaning_twice_changes_nothing(post):
    once = clean_post(post[0])
    assert clean_post(once) == once


@QUICK
@given(posts(LINE_PATTERNS, ["> ", "- "]))
def test_cleaning_twice_changes_no_more_than_the_ends_of_lines(post):
    once = clean_post(post[0])
    assert clean_post(once).split() == once.split()


@QUICK
@given(st.lists(SENTENCES, min_size=1, max_size=6).map("\n\n".join))
def test_plain_prose_is_left_alone(prose):
    assert clean_post(prose) == prose


# ------------------------------------------------------------------ linear time

HOSTILE = {
    "liquid": "{%",
    "raw": "{% raw %}",
    "angles": "<",
    "links": "[a](",
    "tags": "<a ",
    "quoted attributes": '<a "',
    "comments": "<!--",
    "scripts": "<script>",
    "divs": "<div>",
    "quotes": "> ",
    "lists": "- ",
    "mixed nesting": "> - ",
    "brackets": "[",
    "closed brackets": "[]",
    "stars": "*a ",
    "underscores": "_",
    "ticks": "` x\n",
    "fences": "```x\n",
    "dollars": "$a ",
    "display maths": "$$ x\n",
    "highlights": "{% highlight x %}",
    "code tags": "<code>",
    "attributes": "{:",
    "pipes": "|a|\n",
    "ampersands": "&amp",
    "spaces": " \n",
    "footnotes": "[^a]: x\n",
    "definitions": "[a]: b\n",
    "addresses": "http://",
    "dots": "www.a)",
    "list items": "<ul><li>a",
    "cells": "<tr><td>a",
    "words": "word ",
}


def seconds(text):
    start = time.perf_counter()
    clean_post(text)
    return time.perf_counter() - start


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE.keys())
def test_time_is_linear(unit):
    small = min(seconds(unit * 2_000) for _ in range(2))
    assert seconds(unit * 8_000) < 12 * small + 0.5


@pytest.mark.parametrize(
    "text", ["{%" * 50_000, "<" * 100_000, "<a " * 100_000, "[a](" * 50_000], ids=["{%", "<", "<a", "[a]("]
)
def test_hostile_input_takes_seconds(text):
    assert seconds(text) < 10


def test_deep_header_is_no_trouble():
    assert clean_post("---\ntitle: " + "[" * 50_000 + "\n---\nBody.") == "Body."


def test_a_line_of_five_megabytes():
    assert seconds("some words and *more* " * 230_000) < 60


def test_a_huge_post_is_cut_only_between_plain_paragraphs():
    text = "one\n\n- two\n\n  three\n\nfour\nfive\n\n    six\n\nseven"
    assert list(build_dataset.parts(text, size=1)) == ["one\n\n- two\n\n  three", "four\nfive\n\n    six", "seven"]


ORDINARY = """## A heading

Most of a post is prose: sentences of some length, now and then with *emphasis*, a [link](http://a.b/c) or `code`, and
several of them make a paragraph such as this one, wrapped or not.

- a list
- of <b>two</b> items

> A quote.

    some(code)

"""


@pytest.mark.slow
def test_fifty_megabytes_take_ten_times_as_long_as_five(tmp_path):
    def seconds_for(megabytes):
        text = ORDINARY * (megabytes * 1_000_000 // len(ORDINARY))
        posts = blog(tmp_path / str(megabytes), {"2020-01-01-a.md": text})
        start = time.perf_counter()
        assert run(posts, "--max-mb", "100")[0] == 0
        return time.perf_counter() - start

    small, large = seconds_for(5), seconds_for(50)
    assert large < 15 * small and large < 300


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["{%", "<", "<a ", "[a](", "> - ", "` x\n"])
def test_five_megabytes_of_hostile_input(unit):
    assert seconds(unit * (5_000_000 // len(unit))) < 180


# ---------------------------------------------------------------- the command line


def blog(folder, files):
    """A `_posts` folder with the given files; contents may be text or bytes."""
    posts = folder / "_posts"
    for name, content in files.items():
        path = posts / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return posts


def build(*arguments):
    """Run the builder; returns its exit code."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stop:  # from argparse
        return stop.code


def run(posts, *options, output=None):
    """Run the builder; returns its exit code and what it wrote."""
    output = output or posts.parent / "out" / "blog.txt"
    return build(posts, "-o", output, *options), output.read_text(encoding="utf-8") if output.is_file() else None


def test_posts_are_in_order_and_separated(tmp_path):
    posts = blog(
        tmp_path,
        {
            "2020-10-1-c.md": "d",
            "2020-9-30-b.md": "b",
            "2019-12-31-z.markdown": "a",
            "2020-10-01-d.html": "<p>c</p>",
            "deep/er/2099-01-01-e.txt": "e\n\nf",
        },
    )
    assert run(posts) == (0, "a\n\n\nb\n\n\nc\n\n\nd\n\n\ne\n\nf\n")


def test_undated_posts_count_only_among_themselves(tmp_path, capsys):
    posts = blog(tmp_path, {"b.md": "b", "a.md": "a"})
    assert run(posts) == (0, "a\n\n\nb\n")
    blog(tmp_path, {"2020-01-01-c.md": "c"})
    assert run(posts) == (0, "c\n")
    assert "no date in its name" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, content, reason",
    [
        (".2020-01-01-x.md", "x", "hidden"),
        ("_2020-01-01-x.md", "x", "hidden"),
        ("#2020-01-01-x.md", "x", "hidden"),
        ("2020-01-01-x.md~", "x", "hidden"),
        ("2020-01-01-x.textile", "x", ".textile' is not"),
        ("2020-01-01-x.png", "x", "file type"),
        ("2020-01-01-x.md", b"x\0y", "binary"),
        ("2020-01-01-x.md", "---\npublished: false\n---\nx", "unpublished"),
        ("2020-01-01-x.md", "x" * 20_000, "larger than 0.01 MB"),
        ("2020-01-01-x.md", "kept", "same text"),
        ("2020-01-01-x.md", "<!-- x -->", "no text"),
    ],
)
def test_skipped_files_are_named_with_their_reason(tmp_path, capsys, name, content, reason):
    posts = blog(tmp_path, {"2010-01-01-a.md": "kept", name: content})
    assert run(posts, "--max-mb", "0.01") == (0, "kept\n")
    out, err = capsys.readouterr()
    assert reason in out
    assert len(err.splitlines()) == 1 and reason in err and name in err


def test_drafts_and_unpublished_posts_on_request(tmp_path):
    blog(tmp_path, {"2020-01-01-a.md": post("a", published="false"), "2019-01-01-b.md": "b"})
    (tmp_path / "_drafts").mkdir()
    (tmp_path / "_drafts" / "c.md").write_text("c")
    assert run(tmp_path, output=tmp_path / "o.txt") == (0, "b\n")
    assert run(tmp_path, "--drafts", "--unpublished", output=tmp_path / "o.txt") == (0, "b\n\n\na\n\n\nc\n")


def test_the_root_of_a_blog(tmp_path):
    blog(tmp_path, {"2020-01-01-a.md": "a"})
    blog(tmp_path / "category", {"2020-01-02-b.md": "b"})
    for ignored in ("_site", "node_modules", "vendor", ".git"):
        blog(tmp_path / ignored, {"2020-01-03-c.md": "c"})
    (tmp_path / "2020-01-04-d.md").write_text("d")
    assert run(tmp_path, output=tmp_path / "o.txt") == (0, "a\n\n\nb\n")


def test_encodings(tmp_path, capsys):
    posts = blog(
        tmp_path,
        {
            "2020-01-01-a.md": "\ufeffé".encode(),
            "2020-01-02-b.md": "caf\xe9 \x93x\x94 \x81".encode("latin-1"),
            "2020-01-03-c.md": "中\r\n文".encode(),
        },
    )
    code, text = run(posts, "--no-fold")
    assert (code, text.split("\n\n\n")[1][:10]) == (0, "café “x” \ufffd")
    assert "2020-01-02-b.md' is not UTF-8" in capsys.readouterr().err
    assert b"\r" not in (tmp_path / "out" / "blog.txt").read_bytes()


def test_options_reach_the_text(tmp_path):
    posts = blog(tmp_path, {"2020-01-01-a.md": post("“b” http://c.d/e\n\n    code", title="a")})
    assert run(posts)[1] == 'a\n\n"b" c.d\n'
    assert run(posts, "--no-titles", "--no-fold", "--code", "keep", "--urls", "drop")[1] == "“b”\n\ncode\n"


def test_rare_characters(tmp_path):
    posts = blog(tmp_path, {"2020-01-01-a.md": "eeee é ⚡", "2020-01-02-b.md": "⛄", "2020-01-03-c.md": "ee"})
    assert run(posts)[1] == "eeee é ⚡\n\n\n⛄\n\n\nee\n"
    assert run(posts, "--min-count", "2")[1] == "eeee e\n\n\nee\n"


def test_summary(tmp_path, capsys):
    posts = blog(tmp_path, {"2020-01-01-a.md": "aab", "2020-01-02-b.png": ""})
    run(posts)
    out = capsys.readouterr().out
    for part in (
        "posts used:     1",
        "1 '.png' is not a post's file type",
        "characters:     4",
        "3 different",
        "'b' x1",
    ):
        assert part in out
    assert f"ln(3) = {math.log(3):.3f}" in out


def test_a_rerun_gives_the_same_bytes_and_ignores_its_own_output(tmp_path):
    posts = blog(tmp_path, {"a.md": "a", "b.md": "b"})
    first = run(posts, output=posts / "blog.txt")
    assert run(posts, output=posts / "blog.txt") == first == (0, "a\n\n\nb\n")


def test_links_that_lead_out_of_the_folder_are_not_read(tmp_path, capsys):
    posts = blog(tmp_path, {"2020-01-01-a.md": "a"})
    (tmp_path / "2020-01-02-secret.md").write_text("secret")
    (posts / "2020-01-02-b.md").symlink_to(tmp_path / "2020-01-02-secret.md")
    assert run(posts) == (0, "a\n")
    assert "leads out of the folder" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
def test_odd_things_in_the_folder(tmp_path, capsys):
    posts = blog(tmp_path, {"2020-01-01-a.md": "a", "2020-01-02-b.md/x.png": "", "2020-01-03-c\n\x1b.md": "c"})
    other = tmp_path / "other"
    other.mkdir()
    (other / "2020-01-01-s.md").write_text("s")
    os.mkfifo(posts / "2020-01-04-d.md")
    (posts / "2020-01-06-f.md").symlink_to("2020-01-01-a.md")
    (posts / "2020-01-07-g.md").symlink_to("2020-01-07-g.md")
    (posts / "2020-01-08-h.md").symlink_to("missing.md")
    (posts / "loop").symlink_to(posts)
    (posts / "other").symlink_to(other)
    assert run(posts) == (0, "a\n\n\nc\n")
    err = capsys.readouterr().err
    assert err.count("regular file") == 3 and "same file" in err
    assert "\x1b" not in err


def test_exit_codes_and_errors(tmp_path, capsys):
    posts = blog(tmp_path, {"2020-01-01-a.md": "a"})
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "file").write_text("x")
    output = tmp_path / "blog.txt"
    assert build(posts, "-o", output) == 0
    for code, arguments in [
        (1, [empty, "-o", output]),
        (2, [tmp_path / "missing", "-o", output]),
        (2, [tmp_path / "file", "-o", output]),
        (2, ["--nonsense"]),
        (2, [posts, "--code", "maybe"]),
        (2, [posts, "-o", posts / "2020-01-01-a.md"]),
        (3, [posts, "-o", tmp_path / "file" / "blog.txt"]),
        (3, [posts, "-o", empty]),
        (3, [posts, "-o", "/dev/null"]),
    ]:
        capsys.readouterr()
        assert build(*arguments) == code, arguments
        assert "error: " in capsys.readouterr().err
    assert output.read_text() == "a\n" and (posts / "2020-01-01-a.md").read_text() == "a"


@pytest.mark.parametrize("broken", ["os.replace", "Path.write_text"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, broken):
    posts = blog(tmp_path, {"2020-01-01-a.md": "a"})
    run(posts)
    (posts / "2020-01-02-b.md").write_text("b")

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"build_dataset.{broken}", fail)
        assert run(posts) == (3, "a\n")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["blog.txt"]


@pytest.mark.parametrize("name", ["about.md", "deep/notes.txt", "picture.png"])
def test_a_file_among_the_posts_is_not_overwritten(tmp_path, capsys, name):
    posts = blog(tmp_path, {"2020-01-01-a.md": "a", "about.md": "b", "deep/notes.txt": "c\n", "picture.png": b"\xff\0"})
    (tmp_path / "link.txt").symlink_to(posts / name)
    before = {path: path.read_bytes() for path in posts.rglob("*") if path.is_file()}
    for arguments in [posts, "-o", posts / name], [tmp_path, "-o", tmp_path / "link.txt"]:
        assert build(*arguments) == 3
        assert capsys.readouterr().err.splitlines()[-1].endswith("may be one of them; choose another file with -o")
    assert {path: path.read_bytes() for path in posts.rglob("*") if path.is_file()} == before


def test_an_earlier_output_among_the_posts_is_overwritten(tmp_path):
    posts = blog(tmp_path, {"2020-01-01-a.md": "a", "2020-01-02-b.md": "b"})
    run(posts, output=posts / "blog.txt")
    blog(tmp_path, {"2020-01-02-b.md": "changed", "2020-01-03-c.md": "c"})
    assert run(posts, output=posts / "blog.txt") == (0, "a\n\n\nchanged\n\n\nc\n")


# Writes the first character, tells so, and waits. Then the builder runs as it does in the background of a shell,
# which switches SIGINT off.
SLOW_WRITER = """
import pathlib, runpy, signal, sys, time

def write_text(path, text, **options):
    path.write_bytes(text[:1].encode())
    print("writing", flush=True)
    time.sleep(60)

pathlib.Path.write_text = write_text
signal.signal(signal.SIGINT, signal.SIG_IGN)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_leaves_the_old_file_and_nothing_else(tmp_path, number, code):
    posts = blog(tmp_path, {"2020-01-01-a.md": "a"})
    run(posts)
    (posts / "2020-01-02-b.md").write_text("b")
    command = [sys.executable, "-c", SLOW_WRITER, build_dataset.__file__, posts, "-o", tmp_path / "out" / "blog.txt"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"writing\n"
        assert len(list((tmp_path / "out").iterdir())) == 2
        process.send_signal(number)
        assert process.communicate(timeout=30) == (b"", b"stopped\n")
    assert process.returncode == code
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["blog.txt"]
    assert (tmp_path / "out" / "blog.txt").read_text() == "a\n"


def test_a_link_as_output_is_replaced_not_followed(tmp_path):
    posts = blog(tmp_path, {"2020-01-01-a.md": "a"})
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "o.txt").symlink_to("precious")
    assert run(posts, output=tmp_path / "o.txt") == (0, "a\n")
    assert (tmp_path / "precious").read_text() == "precious"


def test_as_a_program_in_an_ascii_locale(tmp_path):
    posts = blog(tmp_path, {"2020-01-01-é.md": "é", "2020-01-02-ü.png": ""})
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, build_dataset.__file__, posts, "-o", tmp_path / "o.txt"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (done.returncode, (tmp_path / "o.txt").read_bytes()) == (0, "é\n".encode())
    assert b"Traceback" not in done.stderr
