"""build_dataset.py: how posts become text, which posts are used in which order, and what the program promises."""

import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import build_dataset
from build_dataset import clean_post, main


def rows(table):
    """The lines of a table; further lines of one are indented."""
    return table.strip().replace("\n  ", " ").splitlines()


# ------------------------------------------------------------------ one post: name, source, text

# A line holds a name, a source and its text; ↵ is a line end, ↹ a tab.
MARKS = str.maketrans("↵↹", "\n\t")
TABLE = r"""
no header ‖ Body. ‖ Body.
empty header ‖ ---↵---↵Body. ‖ Body.
invalid YAML ‖ ---↵title: a: b: [↵---↵Body. ‖ Body.
invalid YAML, good lines ‖ ---↵title: A: b↵? [c]↵---↵x ‖ A: b↵↵x
invalid YAML, quotes and brackets in the title ‖ ---↵title: [A] "b" it's↵---↵x ‖ [A] "b" it's↵↵x
invalid YAML, a quoted title ‖ ---↵title: 'It's b'↵---↵x ‖ It's b↵↵x
invalid YAML, brackets in a quoted title ‖ ---↵title:   "A [b]"↵c: d: e↵---↵x ‖ A [b]↵↵x
tabs in YAML ‖ ---↵title:  A's [b] "c"↵tags: ↹↹d↵e:↵↹- f↵---↵x ‖ A's [b] "c"↵↵x
invalid YAML in which there is text ‖ ---↵title: T↵↵One.↵↵---↵↵Two. ‖ title: T↵↵One.↵↵Two.
text between rules ‖ ---↵One↵more.↵---↵Two.↵↵--- ‖ One more.↵↵Two.
impossible date ‖ ---↵date: 2015-02-30↵title: T↵---↵Body. ‖ T↵↵Body.
unclosed header is text ‖ ---↵title: T↵↵Body. ‖ title: T↵↵Body.
list as title ‖ ---↵title: [a, b]↵---↵x ‖ x
markup in a title ‖ ---↵title: '*A* `b` &amp; <i>c</i> {{ d }}'↵---↵x ‖ A b & c↵↵x
TOML ‖ +++↵title = "T"↵date = 2020-01-01↵+++↵Body. ‖ T↵↵Body.
JSON between lines ‖ ---json↵{"title": "T", "tags": ["a"]}↵---↵Body. ‖ T↵↵Body.
JavaScript between lines ‖ ---js↵{ title: "T", tags: ["a"] }↵---↵Body. ‖ T↵↵Body.
JavaScript with a function ‖ ---javascript↵{ title: "T", date: () => 1 }↵---↵Body. ‖ T↵↵Body.
JavaScript that is no object ‖ ---js↵const title = "T";↵function f() {}↵---↵Body. ‖ Body.
invalid TOML, good lines ‖ +++↵title = "T"↵date = 2020-1-1↵+++↵x ‖ T↵↵x
JSON ‖ {↵  "title": "T } 1",↵  "tags": ["a"]↵}↵↵x ‖ T } 1↵↵x
old Hexo ‖ title: A↵tags:↵- b↵---↵x ‖ A↵↵x
Pelican ‖ Title: A: b↵Date: 2020-01-01↵↵x ‖ A: b↵↵x
Pelican, another field first ‖ Date: 2020-01-01↵Title: A↵Save-as: b↵Summary: c↵    d↵↵x ‖ A↵↵x
no header of Pelican's ‖ Title: A↵↵Author: b↵Date: c↵↵x ‖ Title: A↵↵Author: b Date: c↵↵x
Nikola ‖ <!--↵.. title: A: b↵.. date: 2020-01-01↵-->↵↵x ‖ A: b↵↵x
Nikola without a comment ‖ .. title: A↵.. slug: b↵↵x ‖ A↵↵x
no title, empty lines before ‖ ↵↵---↵title: ~↵---↵x ‖ x
invalid or empty TOML ‖ +++↵+++↵+++↵x ‖ +++ x
rules, setext headings ‖ Head↵---↵↵One.↵↵---↵↵* * *↵↵Two.↵↵C↵= ‖ Head↵↵One.↵↵Two.↵↵C
links ‖ [a](x 'y') [b][1] [c] [d][gone] ![e](f)↵↵[1]: http://g.h 'i'↵[c]: <j> ‖ a b c d
odd targets ‖ [a](x y.html) [b](<c d>) [e](f_(g) h) [i]({% link j.md %}) <http://k.l/m> ‖ a b e i k.l
targets made by a template ‖ [a][b], [c].↵↵[b]: {{ site.d }}{% post_url e %}↵[c]: {{ f }}/g 'h'↵↵i ‖ a, c.↵↵i
brackets in prose ‖ [1] arrays, f(x), a[1][b], [[1]] and [^abc] ‖ [1] arrays, f(x), a[1][b], [[1]] and [^abc]
addresses ‖ See https://a.b/c?d=e#f, or (www.x.y/z). 看http://a.org/b。好 ‖ See a.b, or (www.x.y). 看a.org。好
addresses with more in them ‖ (http://a.b/c_(d)) ftp://u:v@w.x:8/y ‖ (a.b) w.x
fences ‖ a↵↵```py↵x↵↵```↵↵b↵~~~~↵~~~↵~~~~↵c↵````↵```↵````↵d ‖ a↵↵b↵↵c↵↵d
fences in lists and quotes ‖ 1. a↵↵    ```↵    x↵    ```↵↵2. b↵↵> c↵> ```↵> x↵> ```↵> d ‖ 1. a↵2. b↵↵c↵↵d
unclosed fence ‖ a↵↵```↵b *c*↵↵d ‖ a↵↵b c↵↵d
fence as a rule ‖ a↵↵`````````````````````````````````↵↵b↵↵~~~~~~~~~~~~~~~~~~~~~~~~~↵↵c ‖ a↵↵b↵↵c
a quote or an item ends its fence ‖ > ```↵> x↵↵a↵↵- ```↵  x↵↵  x↵↵b↵↵- ```↵x↵↵x↵```↵> ~~~↵> x↵x↵> ~~~↵c ‖ a↵↵b↵↵c
sample of a fence in a fence ‖ ```md↵      ```↵- x↵```↵↵a↵↵```↵y↵```↵↵b ‖ a↵↵b
indented code ‖ a↵↵    x = '<div>'↵↵    y = '</div>'↵↵b ‖ a↵↵b
inline code ‖ `a_b` ``c ` d`` `<p>` `Vec<T>` `&amp;` `[e](f)` `a --- b` ‖ a_b c ` d <p> Vec<T> &amp; [e](f) a --- b
inline code keeps words apart ‖ an `A `is an` B` here; file `c `,` d `. ‖ an A is an B here; file c, d.
code as HTML ‖ <code>a &lt; b_c_d</code> <kbd>e</kbd>↵<pre>x↵↵y</pre>↵f ‖ a < b_c_d e↵↵f
verses ‖ a <pre class="wp-block-verse">b *c*↵ <i>d</i> &lt;↵↵e</pre>↵<pre class="wp-block-code">x</pre>
  ‖ a↵↵b *c*↵d <↵↵e
Liquid ‖ a {{ b }} c {%- if d -%}e{% endif %} {% include f↵ g='h' %}i `{% raw %}{{ x }}{% endraw %}` ‖ a c e i {{ x }}
Liquid's code and comments ‖ {% highlight a %}↵x↵{% endhighlight a %}↵b {% comment %}c{% endcomment %}d ‖ b d
Octopress ‖ a↵{% codeblock b.rb %}↵x↵{% endcodeblock %}↵c↵{% pullquote %}d{% endpullquote %} ‖ a↵↵c d
Eleventy ‖ a {# b↵↵c #} d {% set e = 1 %} ‖ a d
tags in inline code ‖ `{% comment %}` a `{% endcomment %}` b `{{< c >}}` `{% raw %}d{% endraw %}`
  ‖ {% comment %} a {% endcomment %} b {{< c >}} d
words in tags ‖ {% include figure b="c" caption="*d*" %} e {% post_link f 'g h' %} {{< figure title="i" attr='j' k=l >}}
  {% figure src='k', caption='l' %} ‖ d↵↵e g h↵↵i↵↵j↵↵l
indented between shortcodes ‖ {{< a >}}↵    {{% b %}}↵↵        c↵    {{% /b %}}↵{{</ a >}}↵    {{< a/>}}↵↵    d ‖ c
unclosed Liquid ‖ a {% comment %}b {% highlight x %}c {% d↵↵e {{ f ‖ a b c {% d↵↵e {{ f
Hugo ‖ a {{< b "c" >}} {{% note %}}d{{% /note %}}↵{{< highlight a >}}↵x↵{{< /highlight >}}↵e{{< chart >}}f{{< /chart >}}
  ‖ a d↵↵e
Hugo, shown ‖ {{< figure src="a" caption="It's *b*" >}} {{< d caption=`e` >}} {{</* c "d" */>}} `{{ .E }}` {{ .F }}
  ‖ It's b↵↵e↵↵{{< c "d" >}} {{ .E }}
shortcodes of one name ‖ {{< code-toggle a=b />}}↵c {{< code >}} d↵↵{{< code-toggle >}}e{{< /code-toggle >}}↵f ‖ c d↵↵f
components in Markdown ‖ <A b="c">↵*d* {/* e */}↵↵Vec<T>↵</A>↵↵<B↵  f='g'↵/>↵↵h ‖ d↵↵Vec<T>↵↵h
indented in a component ‖ <Aa>↵    b↵↵    <p>c</p>↵</Aa>↵↵    code↵↵<B c="d"/>↵↵    code↵↵e ‖ b↵↵c↵↵e
Obsidian ‖ [[A]] [[b|c]] [[d#e]] ![[f.png]] %%g%% 5%% h↵↵%%↵i↵↵j↵%%↵↵> [!note] k ‖ A c d > e 5%% h↵↵k
links to pages among letters ‖ 中[[a|文]]。 _[[b]]_ c[[d]] ‖ 中文。 b c[[d]]
Obsidian's boxes ‖ > [!a|b]+ c↵> d↵↵> [![e](f)](g) h↵> i↵↵- [/] d↵- [>] e ‖ c↵d↵↵h i↵↵- d↵- e
templates of other kinds ‖ <% tp.a↵↵b %>c<?php $e->f ?> <!-->g<!---> <![if !h]>i<![endif]> 1 <% 2 %> ‖ c g i 1 <% 2 %>
Obsidian's names and marks ‖ [[2020-01-01#^a]] [[a\|b]] ==c *d*== e == f == g ^h1↵↵[[toc]]↵↵- i ^j-k
  ‖ 2020-01-01 b c d e == f == g ^h1↵↵- i
the end of a tag on a line ‖ <a↵  href="b"↵>↵  c</a>, d <e↵↵> f ‖ c, d <e↵↵f
inline tags ‖ <b>a</b>b <a href='x>y'>c</a>d H<sub>2</sub>O <i title='<x>'>e</i> ‖ ab cd H2O e
buttons are words ‖ <button>a</button> b <link rel="c"/>d ‖ a b d
blocks ‖ a<br>b<br/>c<div>d</div><p>e</p><h2>f</h2> ‖ a↵b↵c↵↵d↵↵e↵↵f
no tags ‖ Vec<T>, std::vector<std::string>, a < b and c > d <- e
  ‖ Vec<T>, std::vector<std::string>, a < b and c > d <- e
generics of Java ‖ - Class<?> a(Class<?> b)↵- List<? super T> c ‖ - Class<?> a(Class<?> b)↵- List<? super T> c
a comment ends a list ‖ 1. a↵↵<!-- -->↵↵    code↵↵b ‖ 1. a↵↵b
indented in custom elements ‖ a↵<x-a↵↹b="c"↵>↵↹d↵  <x-b>↵    <p>e</p>↵  </x-b>↵</x-a>↵↵    code↵↵f ‖ a↵↵d↵↵e↵↵f
unknown tags ‖ <alert a="b" c='d'>e</alert> Vec<f> <g h="i"> </j> <rb>k</rb> ‖ e Vec<f> <g h="i"> </j> k
custom elements ‖ a<x-note>b</x-note> c <x-cite k='d'></x-cite>. <d-code>e</d-code> ‖ a b c.
hidden content ‖ a<script>b↵↵    c</script><svg><text>d</text></svg> e <!-- f↵↵*g* --> h <script> i ‖ a e h i
tags that are named in prose ‖ Add an <svg> tag.↵↵b `</svg>` c <svg a="d">↵↵e</svg>f ‖ Add an tag.↵↵b </svg> c f
indented after hidden content ‖ <iframe></iframe>↵    <p>a</p>↵↵    code↵↵b ‖ a↵↵b
indented HTML ‖ <div>↵    <p>a</p>↵↵    b↵</div>↵↵    code ‖ a↵↵b
indented HTML in a quote ‖ > <div>↵>     <p>a</p>↵>↵>     <p>b</p>↵> </div> ‖ a↵↵b
HTML that is not balanced ‖ <div>↵ <p>a</div>↵↵    <p>↵     b</p>↵↵    <p>c</p>↵↵d ‖ a↵↵b↵↵c↵↵d
too many end tags ‖ <p>a</p></div>↵↵    <h2>b</h2>↵↵c ‖ a↵↵b↵↵c
end tags left out ‖ <ul><li>a</li><li>b</ul>↵↵    x↵↵<ul><li>c</li></ul> ‖ - a↵- b↵- c
HTML table ‖ <table><tr><th>a</th><th>b</th></tr><tr><td>c</td><td><ul><li>d</li></ul></td></tr></table> ‖ a | b↵c | d
HTML list ‖ <ol start='3'><li>a</li><li><p>b</p></li></ol><ul>↵<li>c↵</ul> ‖ 3. a↵4. b↵- c
entities ‖ &lt;b&gt; &amp;amp; &eacute; &#65; a&nbsp; b ‖ <b> &amp; é A a b
kramdown ‖ {: .a}↵# H {#id}↵↵*e*{: .f} g {:a => 1}↵↵* TOC↵{:toc}↵↵1. {:.h} i↵2. j↵↵*[k]: l ‖ H↵↵e g {:a => 1}↵↵1. i↵2. j
attributes on lines ‖ a↵{.b #c}↵↵> d↵{e="f"}↵↵# g↵{: .h}{: .i}↵↵- > {: .j}↵  > k ‖ a↵↵d↵↵g↵↵- k
attributes at the ends of lines ‖ ## A{#b}↵↵## C {: #d .e}↵↵5%{.f}↵g.{.h}↵{i} ‖ A↵↵C↵↵5% g. {i}
kramdown's comments ‖ - {::comment}↵  a↵  {:/comment}↵- b {::nomarkdown}c{:/} ‖ - b c
pandoc ‖ ## A {#b .c}↵↵[d](e){.f} [g]{.h} ![i](j){width=5}k [l](m){ .n }↵↵::: note↵l↵:::↵↵m ‖ A↵↵d g k l↵↵l↵↵m
boxes with titles ‖ :::a[B *c*]{.d}↵e↵:::↵f↵::: g h i↵j↵:::↵↵::k[l]{m=n}↵↵::o ‖ B c↵e↵↵f↵↵h i↵j↵↵l↵↵::o
indented in a box ‖ :::a↵    b↵:::↵↵    :::python↵    code↵↵c ‖ b↵↵c
boxes of Python-Markdown ‖ !!! a "B"↵    c↵↵    === "D"↵↵        e↵↵        - f↵↵    g↵↵    ???+ h↵↵↹↹i↵↵j
  ‖ B↵↵c↵↵D↵↵e↵↵- f↵↵g↵↵i↵↵j
boxes with slashes ‖ /// a | B c↵    d: e↵↵f↵///↵↵g ‖ B c↵↵f↵↵g
no boxes ‖ !!! a↵↵b ??? c↵↵=== "d" ‖ !!! a↵↵b ??? c↵↵=== "d"
a footnote in the text ‖ a.^[It is *b*.] c^[d] ‖ a. (It is b.) c^[d]
footnotes ‖ a[^1] b[^x]: c.↵↵[^1]: d↵↵    e↵[^x]: f ‖ a b: c.↵↵d↵↵e↵↵f
definitions ‖ Term↵: text↵↵    more↵↵b ‖ Term↵↵text↵↵more↵↵b
display maths ‖ a↵↵$$↵x↵↵y↵$$↵↵b↵↵$$ z $$↵↵c ‖ a↵↵b↵↵c
display maths of LaTeX ‖ a↵↵\\[ x_1↵= y \\]↵↵b↵↵\begin{align}↵x &= y \\↵\end{align}↵↵\[↵z↵\]↵↵c ‖ a↵↵b↵↵c
inline maths ‖ so $a_1*b*$ and $$c_2$$ hold ‖ so a_1*b* and c_2 hold
money ‖ $$ for *a*, $5 to $6.↵↵More $$ for *b*. ‖ $$ for a, $5 to $6.↵↵More $$ for b.
emphasis, escapes ‖ *a* **b** ***d*** ~~e~~ f_g_h **“i”**是 \*j\* \`k\` ‖ a b d e f_g_h "i"是 *j* `k`
lists ‖ * a↵* b↵    * c↵↵3) d↵4) e↵↵- [ ] f↵- [x] g ‖ - a↵- b↵- c↵3. d↵4. e↵- f↵- g
items far to the right ‖ -     a↵-↹↹b↵↵3.      c↵↵        d ‖ - a↵- b↵3. c↵↵d
items that begin later ‖ -   ↵↵    a↵↵1.  ↵↵    b↵↵c ‖ - a↵1. b↵↵c
tables ‖ |---↵| a | b↵|:-|-:↵| *c* | d↵|===↵| e | f↵↵| g |↵↵h | i↵--|--↵j | k ‖ a | b↵c | d↵e | f↵↵g↵↵h | i↵j | k
blocks in cells ‖ | a<br>b | H<sub>2</sub>O |↵|--|--|↵| <ul><li>c</li><li>d</li></ul> | `<p>` | ‖ a b | H2O↵c d | <p>
line breaks ‖ one  ↵two\↵three\\↵four↵five ‖ one↵two↵three↵four five
folding ‖ ‘a’ “b” c–d e—f g… h --- i ‖ 'a' "b" c-d e--f g... h -- i
"""
LAUGHS = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40))
CASES = dict((name, row) for name, *row in (line.translate(MARKS).split(" ‖ ") for line in rows(TABLE))) | {
    "BOM and CRLF": ("\ufeff---\r\ntitle: T\r\n---\r\nOne\r\ntwo.", "T\n\nOne two."),
    "header ended by dots, spaces behind": ("---  \ntitle: 2.10\n...\t\nBody.", "2.10\n\nBody."),
    "a header of billions": (f"---\ntitle: T\na0: &a0 x\n{LAUGHS}\npublished: *a39\n---\nBody.", "T\n\nBody."),
    "a deep header": ("---\ntitle: " + "[" * 20_000 + "\n---\nBody.", "Body."),
    "not code": ("\xa0\xa0 \xa0\xa0a\n\n\u3000\u3000\u3000\u3000b\n\n\u200b\tc", "a\n\nb\n\nc"),
    "characters": (
        "e\u0301 a\u200bb\x07\ufe0f\ufdd0c\ud800 d\u2003e 中文，שלום\n\n\n \n\nf\u2028g\x0bh",
        "é abc d e 中文，שלום\n\nf g h",
    ),
    "nothing": ("", ""),
}
MDX = """import A from "a"\nimport {\n  B,\n} from 'b'\n# Z\n\nexport const y = 1;\nY
\nexport const c = {\n  d: 1,\n\n  e: 2\n}\n\n# F {g}\n
<A h={() => <i>x</i>} j='k>l' />\n\n<B>\n    <B.C l={{ m: "n" }}>\n\n        Deep *m*.\n\n    </B.C>\n</B>\n
import taxes {/* n */}rise{" "}now, <D>o</D>+<></>p `{q}`{'{'}.\n\n```\nexport const r = {\n```\n\n<D>s</D><D>t</D>"""

PAGE = "<title>A</title><header>e</header><nav>f</nav><•><header>b</header>c<footer>d</footer></•><footer>h</footer>"

# A line holds a source and its text.
MDX_TABLE = r"""
<Aa>↵  <Bb c="d">↵↵    ## E↵↵    - f↵    - g↵↵    1. h↵↵       i↵    2. j↵↵    k↵  </Bb>↵</Aa>↵↵- l
  ‖ E↵↵- f↵- g↵1. h↵↵i↵↵2. j↵↵k↵↵- l
a <Link b="c">d</Link> <Button>e</Button> <Video>f</Video> <Code>g</Code> <Style>{`h{}`}</Style> <link/>i ‖ a d e f g i
import A from "a"↵↵export const metadata = {↵  title: "T",↵  tags: [b],↵};↵↵c ‖ T↵↵c
export default is a word.↵↵export default a(b)↵↵export default A;↵↵export const b = `↵↵c`↵↵d
  ‖ export default is a word.↵↵d
---↵title: The <Aa> {b}↵---↵c ‖ The <Aa> {b}↵↵c
"""


@pytest.mark.parametrize("raw, expected", CASES.values(), ids=CASES.keys())
def test_case(raw, expected):
    assert clean_post(raw) == expected


@pytest.mark.parametrize("row", rows(MDX_TABLE))
def test_mdx(row):
    raw, expected = row.translate(MARKS).split(" ‖ ")
    assert clean_post(raw, mdx=True) == expected


@pytest.mark.parametrize(
    "raw, options, expected",
    [
        ("a\n\n```\n  x = '—'\n\n\n\n  <b> `y`\n```\n\nb", {"code": "keep"}, "a\n\n  x = '--'\n\n  <b> `y`\n\nb"),
        ("a\n\n    echo `b` $c_d$ <kbd>", {"code": "keep"}, "a\n\necho `b` $c_d$ <kbd>"),
        ("<pre>a &lt; <b>c</b></pre>\n{% highlight x %}\n*d*\n{% endhighlight %}", {"code": "keep"}, "a < c\n\n*d*"),
        ("at http://a.b/c.", {"urls": "keep"}, "at http://a.b/c."),
        ("at http://a.b/c now", {"urls": "drop"}, "at now"),
        ("---\ntitle: a\n---\n“b” — c…", {"titles": False, "fold": False}, "“b” — c…"),
        ("<p>*a*</p>\n\n    <p>b &amp; c</p>", {"markdown": False}, "*a*\n\nb & c"),
        (PAGE.replace("•", "article"), {"markdown": False}, "A\n\nb\n\nc\n\nd"),
        (PAGE.replace("•", "div"), {"markdown": False}, "A\n\ne\n\nb\n\nc\n\nd\n\nh"),
        (MDX, {"mdx": True}, "Z\n\nY\n\nF\n\nDeep m.\n\nimport taxes rise now, o+p {q}{.\n\ns t"),
    ],
)
def test_options(raw, options, expected):
    assert clean_post(raw, **options) == expected


# ------------------------------------------------------------------ properties

# A post is drawn together with the words that a reader sees of it. In the patterns ↵ is a line end, and each • is
# filled with a smaller piece; their own words are hidden, but CAPITALS are in a block of code.


def patterns(table):
    return table.replace("\n", " ¦ ").replace("↵", "\n").strip(" ¦").split(" ¦ ")


def joined(pieces, separator="\n\n"):
    return separator.join(source for source, _ in pieces), [word for _, words in pieces for word in words]


@st.composite
def filled(draw, choices, content):
    parts = re.split("(•)", draw(st.sampled_from(choices)))
    return joined([draw(content) if part == "•" else (part, re.findall(r"\b[A-Z]+\b", part)) for part in parts], "")


INLINES = patterns("""
• ¦ •, •. ¦ *•* ¦ ***•*** ¦ **[•](x)**, • ¦ [•](http://h.com/x_y) ¦ [•](<a b> "h") ¦ [•][ref] ¦ •[^note], • ¦ `•` ¦ $•$
[![h](x.png)](y) • ¦ <img src='x' alt='h > *h'> • ¦ <a href="x>y">•</a> ¦ <kbd>•</kbd> ¦ •<!-- h --> ¦ &copy; •&nbsp;•
•<script>h</script> ¦ {% if x %}•{% endif %} ¦ {%- raw -%}•{%- endraw -%} ¦ • {% include x.html h='}}' %} ¦ *•*{: .h}
""")
BLOCKS = patterns("""
•↵• ¦ ## • {#h} ¦ •↵--- ¦ {: .h}↵• ¦ •↵: • ¦ - •↵- • ¦ * •↵    * •↵* • ¦ + •↵↵  • ¦ •↵↵1. •↵   - •↵↵   •↵2) •
> •↵• ¦ > - •↵>   • ¦ <div class='x'>↵    <p>•</p>↵↵    <p>•</p>↵</div>
<figure><img src='x'>↵<figcaption>•</figcaption></figure> ¦ <hr>↵•
<ul>↵  <li>•</li>↵  <li><p>•</p>↵</ul> ¦ <div>↵↵•↵↵</div> ¦ <!-- h↵↵h -->↵↵• ¦ <script>↵h↵↵    h↵</script>↵↵•
{::comment}↵h↵{:/comment} ¦ •↵↵$$↵h↵$$↵↵• ¦ •↵↵```html↵<B>X</B> *Y* [^Z]: X↵↵    &#38; Y↵``` ¦ - •↵↵  ```↵  X↵  ```↵- •
•↵↵    X <B> *Y*↵↵    Z ¦ <pre><code>X &lt;↵↵Y</code></pre> ¦ {% highlight html %}↵<B>X</B> *Y*↵{% endhighlight %}
| • | • |↵|---|:-:|↵| • | • | ¦ • | •↵--|--↵• | • ¦ •  ↵• ¦ •<br>•
""")
HEADERS = patterns(
    """---↵title: "•"↵date: 2015-02-30↵---↵ ¦ ---  ↵tags: [h]↵...↵ ¦ +++↵title = '•'↵+++↵ ¦ ---↵title: •: •↵---↵"""
)
WORDS = st.lists(st.text("abcdefgxyzäéשд中", min_size=1, max_size=6), min_size=1, max_size=4)
PARAGRAPHS = st.lists(filled(INLINES, WORDS.map(lambda words: (" ".join(words), words))), min_size=1, max_size=3)
PARAGRAPHS = PARAGRAPHS.map(lambda pieces: joined(pieces, " "))


@st.composite
def posts(draw):
    """Blocks in up to two quotes or items of lists each, with any header and line ends."""
    blocks = [draw(filled(HEADERS, WORDS.map(lambda words: (" ".join(words), words))) | st.just(("", [])))]
    for source, words in draw(st.lists(filled(BLOCKS, PARAGRAPHS), min_size=1, max_size=4)):
        for marker in draw(st.lists(st.sampled_from(["> ", "- ", "1. "]), max_size=2)):
            indent = "> " if marker == "> " else " " * len(marker)
            source = marker + source.replace("\n", "\n" + indent)
        blocks.append((source + "\n\n", words))
    source, words = joined([*blocks, draw(filled(["[^note]: •\n\n    •\n\n[ref]: /x_y 'h'"], PARAGRAPHS))], "")
    return source.replace("\n", draw(st.sampled_from(["\n", "\r\n"]))), words


QUICK = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@given(posts(), st.sampled_from(["drop", "keep"]))
def test_words_are_kept_in_order_and_markup_goes(post, code):
    text = clean_post(post[0], code=code)
    assert re.findall(r"[^\W\d_]+", text) == [word for word in post[1] if code == "keep" or not word.isupper()]
    if code == "drop":
        assert not re.search(r"[<>{}\[\]`*#~^\\$]|&\S|http|---", text)


PIECES = "{% %} {{ }} {{< >}} %% [[ ]] ``` ~~~ <div> </p> <pre> <!-- --> | $$ $ \\ &# [^1]: : {: .x} - 1. > +++ --- ` *"


@QUICK
@given(
    posts(),
    st.lists(st.sampled_from([*PIECES.split(" "), "\n", "    ", "\ufdd0", "\U000f0041"]) | st.text(max_size=5)),
    st.integers(0, 200),
)
@example(("", []), ["```\n"] * 3, 0)
def test_any_input_gives_tidy_text(post, pieces, place):
    raw = post[0][:place] + "".join(pieces) + post[0][place + 9 :]
    for text in clean_post(raw), clean_post(raw, mdx=True), clean_post(f"---\n{raw}\n---\n{raw}", markdown=False):
        assert text == text.strip() and "\n\n\n" not in text
        assert not re.search("[\u200b\ufdd0-\ufdef\ud800-\udfff\r\t\x00]", text)


# ------------------------------------------------------------------ linear time

HOSTILE = patterns(r"""
{% ¦ {{< ¦ {{< a caption=" ¦ ` {{ ¦ {% raw %} ¦ {% highlight x %} ¦ < ¦ [a]( ¦ <a  ¦ <a " ¦ <A { ¦ <!-- ¦ <script>
<div> ¦ <p>↵↵    ↵ ¦ >  ¦ -  ¦ > -  ¦ [ ¦ [] ¦ [[a ¦ *a  ¦ _ ¦ ```x↵ ¦ ```↵      x↵ ¦ $a  ¦ $$ x↵ ¦ <code> ¦ {: ¦ &amp
`a ¦ ` x↵ ¦  ↵ ¦ [^a]: x↵ ¦ [a]: b↵ ¦ http:// ¦ www.a) ¦ <ul><li>a ¦ %% ¦ import {↵↵ ¦ export {↵ ¦ word
|a|↵ ¦ -↵↵    a↵ ¦ ~~~↵ ¦ :::a↵ ¦ {::comment} ¦ <p></div> ¦ </p> ¦ <a b="< ¦ ]( ¦ {#a
{#  ¦ <%* ¦ <? ¦ \\[ ¦ ==a ¦ a^[b  ¦ {.a ¦ \begin{a}↵ ¦ {' ¦ ^a ¦ www.a/) ¦ ( ¦ ---↵ ¦ a:↵ ¦ \[↵ ¦ {"
!!! a↵ ¦ !!! a↵    b↵ ¦ === "a"↵↵ ¦ <a b="c" ¦ <A>↵ ¦ :::↵ ¦ a <svg> ¦ .. a: b↵ ¦ <pre class= ¦ title: a↵  b↵ ¦ ///↵
> > > >  ¦          ¦ {{< a >}}↵{{< /a >}}↵ ¦ > ```↵> a↵ ¦ - ```↵  a↵↵ ¦ export default a↵ ¦ `{% ¦ -     a↵ ¦ <Aa>↵
""")


@pytest.mark.parametrize("unit", HOSTILE)
def test_time_is_linear(unit):
    def seconds(count):
        start = time.perf_counter()
        clean_post(unit * count, mdx="{'" in unit or "import" in unit or "export" in unit or "A" in unit)
        return time.perf_counter() - start

    assert seconds(8_000) < 12 * min(seconds(2_000) for _ in range(2)) + 0.5


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["{%", "<a ", "[a](", "> - ", "` x\n", "some *words* "])
def test_five_megabytes(unit):
    start = time.perf_counter()
    clean_post(unit * (5_000_000 // len(unit)))
    assert time.perf_counter() - start < 180


# ------------------------------------------------------------------ many posts: name, files, options, text


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return folder


def run(source, *options, output):
    """The program's exit code and the text that it wrote."""
    try:
        code = main([str(argument) for argument in (source, "-o", output, *options)])
    except SystemExit as stop:  # from argparse
        code = stop.code
    return code, output.read_text("utf-8", "replace") if output.is_file() else None


def item(body, date="2020-01-01", status="publish", kind="post", password=""):
    fields = f"<wp:post_password>{password}</wp:post_password>"
    fields += f"<wp:post_date>{date} 10:00:00</wp:post_date><wp:status>{status}</wp:status>"
    title = f"<title>T &amp;amp; {date}</title><wp:post_type>{kind}</wp:post_type>"
    return f"<item>{title}{fields}<content:encoded><![CDATA[{body}]]></content:encoded></item>"


def export(*items, start=""):
    spaces = 'xmlns:content="http://purl.org/rss/1.0/modules/content/" xmlns:wp="http://wordpress.org/export/1.2/"'
    return f'<?xml version="1.0"?>{start}<rss {spaces}><channel>{"".join(items)}</channel></rss>'


WORDPRESS = export(
    item('Two.\x0b [caption id="1"]<img src="x"/> Cap[/caption]\n\nThree.\n<pre>x</pre>'
        '[code]y[/code][a b="c"][1][sic][/a][toc][b http://c]\nd $latex e^2$ <i\nf>g</i>[ruby]h[/ruby]', "2021-02-03"),
    item('[caption id="1" caption="Cap"]<img/>[/caption]', "2022-01-01"),
    item("<!-- wp:paragraph --><p>One *a* <!ENTITY.</p>", "2010-01-01"),
    *(item("d", status="draft"), item("e", kind="page"), item("f", status="private"), item("g", password="h")),
)
TAIL = "Subscribe to the letter, it is free."
# In a table ↵ is a line end; a line holds a name, options, files and the text, in which ¦ separates posts.
BLOGS = """
order || _posts/2020-10-1-c.md=c ¦ _posts/2020-9-30-b.md=b ¦
  _posts/e/2099-1-1-e.txt=e↵↵f ¦ _posts/2019-12-31-z.html=a || a¦b¦c¦e↵↵f
Hugo || content/p/a.md=---↵date: 2021-05-01↵---↵b ¦ content/b.md=---↵date: 2020-05-01T10:00:00Z↵---↵a ¦
  layouts/c.html=c ¦
  content/d.md=+++↵date = 2022-01-01↵+++↵c ¦ themes/t/content/e.md=e ¦ content/_index.md=f ¦ README.md=r || a¦b¦c
Astro || src/content/blog/a.mdx=---↵pubDate: Jul 08 2022↵---↵import X from "x"↵↵b↵↵<X>c</X> ¦ README.md=r ¦
  src/content/blog/b.md=---↵pubDate: 'Mar 1, 2021'↵---↵a ¦ src/pages/index.md=i || a¦b↵↵c
the same day || posts/a.md=---↵date: 2021-05-01 12:00↵---↵b ¦ posts/b.md=---↵date: 2021-05-01 09:00↵---↵a || a¦b
time zones || posts/a.md=---↵date: 2021-05-01 00:30 +0200↵---↵a ¦ posts/b.md=---↵date: 2021-04-30T23:00:00Z↵---↵b || a¦b
hours || posts/a.md=---↵date: 2021-05-01 9:05 +0900↵---↵a ¦ posts/b.md=---↵date: 2021-05-01 1:05 AM↵---↵b ¦
  posts/c.md=---↵date: 2021-05-01 1:05 PM↵---↵d ¦ posts/d.md=---↵date: 2021-05-01 11:00:00 am↵---↵c || a¦b¦c¦d
fields of dates || posts/a.md=---↵lastUpdated: 2023-01-01↵---↵d ¦ posts/c.md=+++↵[extra]↵date = 2021-01-01↵+++↵b ¦
  posts/b.md=---↵date_modified: 2029-01-01↵date_published: 2022-01-01↵---↵c ¦ posts/e.md=---↵post_id: 2999↵---↵0 ¦
  posts/d.md=---↵date:↵  created: 2020-01-01↵---↵a ¦ posts/f.md=---↵publisher: A 2025↵---↵1 || 0¦1¦a¦b¦c¦d
forms of dates || posts/a.md=---↵date: 2021年5月4日↵---↵e ¦ posts/b.md=---↵pub_date: 31/12/2020↵---↵a ¦
  posts/c.md=---↵Date Created: 1/30/2021↵---↵b ¦ posts/d.md=---↵posted: Thu, 01 Apr 2021 GMT↵---↵c ¦
  posts/e.md={"lastmod": "2021-05"}↵d ¦ posts/f.md=---↵created: 2022↵---↵f ¦
  posts/g.md=---↵date: 1700000000↵---↵g || a¦b¦c¦d¦e¦f¦g
pages of a program || src/blog/[a].astro=x ¦ src/posts/b/page.tsx=x ¦ data/a.mdx=a || a
plain text || posts/a.txt=↹One.↵↵      Two.↵- b↵    - c || One.↵↵Two.↵↵- b↵- c
a site called blog || blog/content/a.md=a ¦ blog/README.md=r ¦ dist/posts/a.html=A || a
an invalid header has a date || posts/a.md=---↵title: "A": b↵date: 2021-05-01↵draft: false↵---↵b ¦
  posts/b.md=---↵date: 2020-05-01↵---↵a ¦ posts/c.md=---↵x: y: z↵draft: true↵---↵c || a¦b
folders of years || posts/2020/11-02-b.md=b ¦ posts/2020/11-01-a.md=a ¦ posts/2021/01-01/c.md=c || a¦b¦c
folders of dates || posts/2020/02/01/b.md=b ¦ posts/2020/01/02-a.md=a ¦ posts/2019/2-2-0.md=---↵date: 2021-01-01↵---↵c
  || a¦b¦c
large letters || Content/Posts/a.MD=a ¦ b.md=b ¦ README.md=c || a
the name first || posts/2020-01-02-a.md=---↵date: 2011-01-01↵---↵b ¦ posts/2020-01-01-b.md=a || a¦b
folders with dates || posts/2020-02-01-b/index.md=b ¦ posts/2020-01-01-a/index.md=a || a¦b
a diary and notes || 2020-01-01.md=b ¦ 2020-01-02.md=c ¦ note.md=a || a¦b¦c
notes without dates || a.md=a ¦ b/c.md=c ¦ LICENSE.txt=l ¦ README.md=r ¦ index.html=i || a¦c
notices among posts || posts/a.md=a ¦ posts/b/robots.txt=b ¦ posts/b/LICENSE.txt=c ¦ posts/google0123456789.html=d || a
a header alone || posts/a.md=a ¦ posts/b.md=---↵title: Search↵---↵ || a
parts that are no posts || posts/2020-01-01-a.md=One.↵↵↵*** ¦ posts/2020-01-02-b.md=![x](y) ¦
  posts/2020-01-03-c.md=c Bye.↵↵↵c Bye. ¦ posts/2020-01-04-d.md=d↵c Bye. || One.¦c Bye.↵↵c Bye.¦d c Bye.
a README among posts || posts/a/README.md=a || a
one dated name || _posts/2020-01-01-z.md=z ¦ _posts/a.md=a ¦ _posts/b.md=b || a¦b¦z
one undated name || _posts/2020-01-01-z.md=z ¦ _posts/about.md=a || z
drafts || posts/a.md=a ¦ posts/b.md=---↵draft: true↵---↵b ¦ posts/c.md=+++↵draft = true↵+++↵c || a
no posts || a.md=a ¦ 99 - Templates/b.md=b ¦ _templates/c.md=c ¦ INSTALL.md=d ¦ GEMINI.md=e || a
a draft in JSON || posts/a.md=a ¦ posts/b.md=---↵isDraft: true↵---↵b ¦ posts/d.md=---json↵{"draft": true}↵---↵d || a
drafts wanted | --drafts | _posts/2020-01-01-a.md=---↵draft: true↵---↵a ¦ _drafts/c.md=c || a¦c
folders of drafts || posts/a.md=a ¦ posts/drafts/b.md=b ¦ Drafts/c.md=c ¦ posts/draft/d.md=d ¦
  posts/e.md=Date: x↵Title: y↵Status: draft↵↵e || a
folders of drafts wanted | --drafts | posts/a.md=---↵date: 2020-01-01↵---↵a ¦ posts/drafts/b.md=b ¦
  drafts/c.md=c || a¦c¦b
only drafts by name | --drafts | a.md=a ¦ drafts/b.md=b || a¦b
unpublished || posts/a.md=---↵published: false↵---↵a ¦ posts/b.md=b || b
unpublished wanted | --unpublished | posts/a.md=---↵published: false↵---↵a ¦ posts/b.md=b || a¦b
ignored folders || _posts/2020-01-01-a.md=a ¦ _site/_posts/b.md=b ¦ .git/_posts/c.md=c ¦ d.md=d || a
options | --no-titles --no-fold --code keep --urls drop |
  posts/a.md=---↵title: a↵---↵“b” http://c.d/e↵↵    f || “b”↵↵f
rare characters | --min-count 2 | posts/a.md=eeee é ⚡ ¦ posts/b.md=⛄ ¦ posts/c.md=ee || eeee e¦ee
repeated | --drop-repeated | posts/a.md=a↵↵Subscribe to this. ¦ posts/b.md=b↵↵Subscribe to this. ¦
  posts/c.md=Subscribe to this. ¦ posts/d.md=Subscribe to it. || a¦b¦Subscribe to it.
"""


def read_table(table):
    for line in rows(table):
        name, options, files, _, text = map(str.strip, line.split("|"))
        files = dict(file.strip().translate(MARKS).split("=", 1) for file in files.split("¦"))
        yield name, files, options.split(), text.replace("¦", "\n\n\n").replace("↵", "\n") + "\n"


BLOGS = [
    *read_table(BLOGS),
    (
        "WordPress",
        {"a.xml": WORDPRESS},
        [],
        "T & 2010-01-01\n\nOne *a* <!ENTITY.\n\n\n"
        "T & 2021-02-03\n\nTwo. Cap\n\nThree.\n\n[1][sic]\nd e^2 g\n\n\nT & 2022-01-01\n\nCap\n",
    ),
    (
        "encodings",
        {"a.md": b"\xef\xbb\xbf\xc3\xa9", "b.md": b"caf\xe9 \x93x\x94 \x81 one two three"},
        ["--no-fold"],
        "é\n\n\ncafé “x” \ufffd one two three\n",
    ),
    (
        "more encodings",
        {"a.md": "é".encode("utf-16"), "b.md": b"caf\xc3\xa9 \xff", "c.md": "привет".encode("cp1251")},
        [],
        "é\n\n\ncafé ÿ\n",
    ),
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("files, options, text", [blog[1:] for blog in BLOGS], ids=[blog[0] for blog in BLOGS])
def test_blog(tmp_path, files, options, text, packed):
    source = write(tmp_path / "site", files)
    if packed:
        source = tmp_path / "site.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for path in sorted((tmp_path / "site").rglob("*.*")):
                archive.write(path, Path("site-main", path.relative_to(tmp_path / "site")))
    assert run(source, *options, output=tmp_path / "out" / "blog.txt") == (0, text)
    assert b"\r" not in (tmp_path / "out" / "blog.txt").read_bytes()


def test_an_export_as_a_file(tmp_path, capsys):
    assert run(write(tmp_path, {"a.xml": WORDPRESS}) / "a.xml", output=tmp_path / "o.txt")[1].count("T & 20") == 3
    assert "skipped 'T &amp; 2020-01-01' in " in capsys.readouterr().err
    pages = export(item("a", kind="page"), item("b", kind="page"), item("c", kind="recipe"))
    assert run(write(tmp_path, {"b.xml": pages}) / "b.xml", output=tmp_path / "p.txt") == (1, None)
    assert "no post in it, but 2 page, 1 recipe" in capsys.readouterr().err


def test_what_is_said(tmp_path, capsys):
    names = {".x.md": "x", "x.md~": "x", "x.textile": "x", "y.md": b"x\0y", "z.md": "x" * 20_000}
    names |= {"b.md": "a", "c.md": "<!-- x -->"}
    run(write(tmp_path / "posts", {"a.md": "a"} | names), "--max-mb", "0.01", output=tmp_path / "o.txt")
    out, err = capsys.readouterr()
    for reason in ("2 hidden", "'.textile' is not", "binary", "larger than 0.01 MB", "same text", "no text"):
        assert reason in out
    assert all(f"{name}'" in err for name in names) and "WARNING: more files were skipped (7) than used (1)" in err
    assert re.search(
        r"used: +1\n(.*\n)characters: +2\nvocabulary: +2 .*\nrarest: +'\\n' x1, 'a' x1\n.*ln\(2\) = 0.693", out
    )
    run(write(tmp_path / "r", {f"{name}.md": f"{name}\n\n{TAIL}" for name in "abc"}), output=tmp_path / "o.txt")
    out, err = capsys.readouterr()
    assert f"3 x '{TAIL}'" in out and "WARNING" not in err


@pytest.mark.parametrize("name", ["blog.txt", "posts/blog.txt", "posts/2021-01-01-blog.md"])
def test_a_rerun_gives_the_same_bytes_wherever_the_output_lies(tmp_path, name):
    posts, other = write(tmp_path / "posts", {"a.md": "One — a.", "b.md": "Two."}), tmp_path / "other.txt"
    first = run(posts, output=tmp_path / name)
    assert first == (0, "One -- a.\n\n\nTwo.\n") == run(posts, output=tmp_path / name)
    assert run(posts, output=other) == first  # an earlier output is no post
    assert run(posts, "--no-fold", output=tmp_path / name) == (0, "One — a.\n\n\nTwo.\n")
    write(posts, {"b.md": "Changed.", "c.md": "Three."})
    assert run(posts, output=tmp_path / name) == (0, "One -- a.\n\n\nChanged.\n\n\nThree.\n")


@pytest.mark.parametrize("name", ["about.md", "deep/notes.txt", "picture.png", "2020-01-01-a.md"])
def test_a_post_is_not_overwritten(tmp_path, name):
    files = {"2020-01-01-a.md": "a", "about.md": "b", "deep/notes.txt": "c\n", "picture.png": b"\xff\0"}
    posts = write(tmp_path / "posts", files)
    assert run(posts, output=posts / name)[0] == 3
    assert {path.relative_to(posts).as_posix() for path in posts.rglob("*.*")} == set(files)
    assert (posts / name).read_bytes() in [
        content if isinstance(content, bytes) else content.encode() for content in files.values()
    ]


def test_what_is_left_alone(tmp_path, capsys):
    files = {f"pages/{name}.md": "x" for name in "abc"} | {"about.md": "x", "posts/a.md": "a", "posts/drafts/b.md": "b"}
    run(write(tmp_path / "site", files), output=tmp_path / "o.txt")
    err = capsys.readouterr().err
    assert "left alone: 4 files outside a posts' folder, 3 of them in 'pages'" in err
    assert "left alone: 'posts/drafts', drafts (see --drafts)" in err


PLACES = [("public/a.md", "", 1), ("public/a.md", "public", 0), ("public/posts/a.md", "public", 0), ("a.md", "", 0)]


@pytest.mark.parametrize("file, folder, code", PLACES)
def test_what_looks_generated_is_read_when_it_is_named(tmp_path, capsys, file, folder, code):
    write(tmp_path / "site", {file: "a"})
    assert run(tmp_path / "site" / folder, output=tmp_path / "o.txt") == (code, None if code else "a\n")
    assert ("left alone: 'public'" in capsys.readouterr().err) == bool(code)


@pytest.mark.parametrize("address", ["https://a.b/c", "git@github.com:a/b.git", "a.dev/b", ""])
def test_an_address_is_answered_by_one_sentence(tmp_path, capsys, address):
    assert run(address, output=tmp_path / "o.txt") == (2, None)
    assert re.fullmatch(f"error: there is no '{address}' here; .* download first .*\n", capsys.readouterr().err)


def test_exit_codes(tmp_path, capsys):
    posts = write(tmp_path / "posts", {"a.md": "a"})
    write(tmp_path, {"empty/x.png": "", "file": "x", "torn.zip": b"PK\5\6" + bytes(18) + b"x", "o.txt": "old"})
    (tmp_path / "torn.zip").write_bytes(b"PK\1\2" + bytes(60) + b"PK\5\6\0\0\0\0\1\0\1\0\x2e\0\0\0\0\0\0\0\0\0")
    cases = [(1, "empty"), (2, "missing"), (2, "file"), (2, "torn.zip"), (2, "posts", "--code", "maybe")]
    for code, name, *options in cases:
        assert run(tmp_path / name, *options, output=tmp_path / "o.txt") == (code, "old"), name
        assert "error: " in capsys.readouterr().err
    for output in (tmp_path / "file" / "o.txt", tmp_path / "empty"):
        assert run(posts, output=output)[0] == 3
    assert build_dataset.build(posts) == "a\n"
    with pytest.raises(build_dataset.SourceError, match="no usable post"):
        build_dataset.build(tmp_path / "empty")


def test_hostile_archives(tmp_path, capsys):
    def archive(name, *files):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as packed:
            for file, content in files:
                packed.writestr(file, content)
        return run(tmp_path / name, output=tmp_path / f"{name}.txt")

    assert archive("bomb.zip", ("a.md", "a" * 50_000_000)) == (2, None)
    assert archive("out.zip", ("../../../evil.md", "a"), ("/etc/evil.md", "b"), ("d\\c.md", "c")) == (
        0,
        "c\n\n\nb\n\n\na\n",
    )
    assert not [path for path in (tmp_path, *list(tmp_path.parents)[:3]) if (path / "evil.md").exists()]
    link = zipfile.ZipInfo("b.md")
    link.external_attr = 0o120777 << 16
    assert archive("links.zip", ("a.md", "a"), (link, "/etc/passwd"), ("b.zip", "")) == (0, "a\n")
    assert "'b.zip' cannot be unpacked (encrypted, or itself an archive" in capsys.readouterr().err
    laughs = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>'
    assert archive("laughs.zip", ("blog.xml", export(item("&b;"), start=laughs)), ("a.md", "a")) == (0, "a\n")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
def test_odd_things_in_the_folder(tmp_path, capsys):
    posts = write(
        tmp_path / "posts", {"2020-01-01-a.md": "a", "2020-01-02-b.md/x.png": "", "2020-01-03-c\n\x1b.md": "c"}
    )
    write(tmp_path, {"precious": "p", "secret.md": "s", "other/2020-01-01-s.md": "s"})
    os.mkfifo(posts / "2020-01-04-d.md")
    links = {
        "e.md": "../secret.md",
        "f.md": "2020-01-01-a.md",
        "g.md": "2020-01-07-g.md",
        "h.md": "gone.md",
        "i": "../other",
        "j": ".",
    }
    for name, target in links.items():
        (posts / f"2020-01-07-{name}").symlink_to(target)
    (tmp_path / "o.txt").symlink_to("precious")
    assert run(posts, output=tmp_path / "o.txt") == (0, "a\n\n\nc\n")
    err = capsys.readouterr().err
    assert err.count("a link to a folder") == 2 and err.count("regular file") == 3
    assert "same file" in err and "leads out" in err and "\x1b" not in err
    assert (tmp_path / "precious").read_text() == "p"  # a link as output is replaced, not followed


@pytest.mark.parametrize("broken", ["os.replace", "Path.write_text"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, broken):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    output = write(tmp_path, {"out/blog.txt": "old"}) / "out" / "blog.txt"
    monkeypatch.setattr(f"build_dataset.{broken}", fail)
    posts = tmp_path / "posts"
    posts.mkdir()
    (posts / "a.md").write_bytes(b"a")
    assert run(posts, output=output) == (3, "old")
    assert [path.name for path in output.parent.iterdir()] == ["blog.txt"]


# ------------------------------------------------------------------ as a program

SLOW = """
import pathlib, runpy, sys, time
def write_text(path, text, **options):
    path.write_bytes(b"torn")
    print("writing", flush=True)
    time.sleep(60)
pathlib.Path.write_text = write_text
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_stopped_run_leaves_the_old_file_and_nothing_else(tmp_path):
    write(tmp_path, {"posts/a.md": "a", "out/blog.txt": "old"})
    output = tmp_path / "out" / "blog.txt"
    command = [sys.executable, "-c", SLOW, build_dataset.__file__, tmp_path / "posts", "-o", output]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == (b"", b"stopped\n")
    assert process.returncode == 130
    assert [path.name for path in output.parent.iterdir()] == ["blog.txt"] and output.read_text() == "old"


def test_as_a_program_in_an_ascii_locale(tmp_path):
    write(tmp_path, {"posts/é.md": "é", "posts/ü.png": ""})
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, build_dataset.__file__, tmp_path / "posts", "-o", tmp_path / "o.txt"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (done.returncode, (tmp_path / "o.txt").read_bytes()) == (0, "é\n".encode())
    assert b"Traceback" not in done.stderr


def test_without_its_packages_it_says_what_to_do(tmp_path):
    done = subprocess.run(
        [sys.executable, "-S", "-E", build_dataset.__file__], capture_output=True, check=False, text=True
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "pip install -r requirements.txt" in done.stderr
