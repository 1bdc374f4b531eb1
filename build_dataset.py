"""Turn a blog into one clean text file to train a language model on.

    python build_dataset.py path/to/blog -o data/blog.txt

The blog is a folder of posts or of a whole site (Jekyll, Hugo, Astro, Eleventy, Obsidian ...), such a folder as a
.zip, or a WordPress export. In a notebook, `build_dataset.build("blog.zip")` returns the text.

A post passes through these steps, which stand in this order in the file:

1. `split_front_matter`  takes the header off; its title becomes the first line, its date may decide the order
2. `run_templates`       removes the tags of Liquid and the shortcodes of Hugo, as these do before Markdown is looked at
3. `Simplifier`          removes or rewrites what is not in mistune's Markdown: dialects, comments, blocks of code
4. `MARKDOWN`            is mistune: it turns Markdown into HTML
5. `to_text`             writes down the words of HTML, and what separates them
6. `clean_text`          calls all this, shortens URLs and removes what is left over

Time grows in proportion to the length of a post, whatever it contains. Two rules see to that: patterns never
have two ways to match the same text (hence the possessive `*+`), and a search that failed is never repeated.
"""

import argparse
import codecs
import html
import itertools
import json
import math
import os
import re
import signal
import sys
import tempfile
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

try:
    import tomllib

    import mistune
    import yaml

    if tuple(map(int, re.findall(r"\d+", mistune.__version__)[:3])) < (3, 3, 4):  # earlier ones hang on hostile posts
        raise ImportError("mistune is too old")
except ImportError as missing:
    if __name__ != "__main__":
        raise
    print(f"error: {missing} for this Python; run `.venv/bin/python build_dataset.py ...`", file=sys.stderr, end=" ")
    print("(Windows: `.venv\\Scripts\\python`), or first `pip install -r requirements.txt`", file=sys.stderr)
    sys.exit(2)

MARKDOWN_SUFFIXES = {".md", ".mdx", ".mkd", ".mkdn", ".markdown", ".mkdown", ".mdown", ".rmd", ".qmd", ".txt", ".text"}
HTML_SUFFIXES = {".html", ".htm", ".xhtml"}
SUFFIXES = MARKDOWN_SUFFIXES | HTML_SUFFIXES | {".xml"}
POST_BREAK = "\n\n\n"  # two empty lines: inside a post there is never more than one
MANY = 3  # a paragraph that stands in as many posts is said to be repeated


class SourceError(ValueError):
    """Says why there is no blog."""


class SkippedError(Exception):
    """Says why a file is not used."""


# ---------------------------------------------------------------- characters

FOLDS = str.maketrans("‘’‚‛′“”„‟″‐‑‒–−", "'''''\"\"\"\"\"-----") | str.maketrans({"—": "--", "―": "--", "…": "..."})
# Our own marks are among the characters that Unicode keeps free for a program's inner use. Code is disguised: every
# ASCII character has a double that means nothing to Markdown, HTML or the patterns below.
CODE_START, CODE_END = "\ufdd0\ufdd1"
HIDE = {code: 0xF0000 + code for code in range(128)}
SHOW = {double: code for code, double in HIDE.items()}


def plain_characters(text: str) -> str:
    """Unify line ends and spaces, remove what cannot be seen (and our own marks), compose accents."""
    text = re.sub(r"\r\n?", "\n", text)
    # Only plain spaces and tabs make an indentation; behind other spaces, or what cannot be seen, a line is no code.
    text = re.sub(r"^([ \t]*+)(?:[^\S \t\n]|[\u200b-\u200f])[^\S\n]*+", r"\1", text, flags=re.MULTILINE)
    kinds = {char: unicodedata.category(char) for char in set(text) - {"\n", "\t"}}
    spaces = {ord(char): " " for char in kinds if char.isspace()}
    # All kinds of C: control, format, private and the like. The range: select a variant of the character before.
    unseen = {ord(char): None for char, kind in kinds.items() if kind[0] == "C" or "\ufe00" <= char <= "\ufe0f"}
    return unicodedata.normalize("NFC", text.translate(unseen | spaces))


def squeeze(text: str) -> str:
    """No white space at the ends of lines, at most one empty line."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in text.split("\n"))).strip()


# -------------------------------------------------------------- front matter

# Between lines of `---` (YAML, or as Eleventy's `---json` and `---js` say) or `+++` (TOML), or, as Pelican and the old
# Hexo have it, `title: ...` without a line before. Longer headers than this do not exist, and PyYAML is slow.
FRONT_MATTER = re.compile(
    r"\s*+(?:(?P<mark>---|\+\+\+)(?P<kind>json|toml|yaml|js|javascript)?[ \t]*\n"
    r"(?P<fields>.{0,100000}?)^(?:(?P=mark)|\.\.\.)[ \t]*$\n?"
    r"|(?P<bare>(?=(?:[^\n]++\n){0,20}(?i:title|layout):)(?i:title|date|authors?|category|tags|slug|layout|status):"
    r"[^\n]*+\n(?:(?:[\w-]++:| *+- |[ \t]++\S)[^\n]*+\n)++)(?:---[ \t]*)?\n)",
    re.MULTILINE | re.DOTALL,
)
# The header of some posts in MDX; it is rewritten as Eleventy's.
MODULE = re.compile(
    r"(?ims)\A(?:\s++|import\b[^\n]*+\n)*+export\s+const\s+(?:meta|metadata|front_?matter)\s*+=\s*+"
    r"(\{[^{}\n]*+\}|\{.{0,20000}?^\});?"
)
# Nikola's header, too: `.. title: A`, mostly in a comment.
NIKOLA = re.compile(r"\A\s*+(?:<!--\s*+)?((?:\.\. [\w-]++:(?!:)[^\n]*+\n)++)(?:\s*+-->)?")
# Of an invalid header: scalars, and a title that has quotes in it or begins with words in quotes or brackets.
FIELD = re.compile(
    r"(?m)^([Tt]itle(?=[:=])()|[\w -]++)[:=][ \t]*+(?:([\"']?)([^\[\]{}\"'\n]*)\3|(?(2)|(?!))(?:'((?:[^'\n]|\b'\b)*+)'"
    r"|\"([^\"\n]*+)\"|((?:(?:\"[^\"\n]*+\"|'[^'\n]*+'|\[[^\[\]\n]++\])[ \t]|(?=\w))[^\[\]{}\n]*[^\s\[\]{}])))[ \t]*$"
)
NO_FIELD = re.compile(r"^(?![\w\"'][\w\"' .-]{0,30}[:=]|[ \t#?:\]})-]|$)", re.MULTILINE)


def split_front_matter(text: str, kinds: set[str] = frozenset()) -> tuple[dict[str, str], str]:
    """Return the scalars of the header by their names (their letters, in lower case), and the rest.

    Lists and the like are dropped unread: with YAML's aliases, a few hundred bytes describe gigabytes of them. Of an
    invalid header, lines that look like fields are used; what does not look like a header is text between two rules.
    """
    if "mdx" in kinds:
        text = MODULE.sub(r"---js\n\1\n---\n", text)
    text = NIKOLA.sub(lambda header: "---\n" + re.sub(r"(?m)^\.\. ", "", header[1]) + "---\n", text, count=1)
    match, header = FRONT_MATTER.match(text), None
    fields, rest = (match["fields"] or match["bare"] or "", text[match.end() :]) if match else ("", text.lstrip())
    try:
        if not match:
            header, end = json.JSONDecoder().raw_decode(rest)
            header, rest = header if re.match(r" *(?:\n|$)", rest[end:]) else None, rest[end:]
        elif match["mark"] == "+++" or match["kind"] == "toml":
            header = tomllib.loads(fields)
        elif match["kind"] == "json":
            header = json.loads(fields)
        else:  # JavaScript's objects mostly are YAML, too. BaseLoader is the safe one: `2.10` stays "2.10". Unlike
            # other readers of YAML, PyYAML refuses some tabs.
            header = yaml.load(fields.replace("\t", " "), yaml.BaseLoader) or {}
    except (yaml.YAMLError, ValueError, RecursionError):  # Jekyll publishes such posts, too
        if match and not NO_FIELD.search(fields):
            header = {name: "".join(values) for name, _, _, *values in FIELD.findall(fields)}
    if match and (match["kind"] or "").startswith("j") and not isinstance(header, dict):
        header = {}  # a program, not prose
    if not isinstance(header, dict) or (header and all(str(name).count(" ") > 2 for name in header)):
        return {}, text
    for more in (header.get("date"), header.get("extra")):  # dates of MkDocs and Zola
        header = (more if isinstance(more, dict) else {}) | header
    scalars = {name: str(value).strip() for name, value in header.items() if not isinstance(value, (list, dict))}
    scalars = {re.sub("[^a-z]", "", str(name).lower()): scalars[name] for name in scalars}
    return {name: value for name, value in scalars.items() if value not in ("~", "null")}, rest


# ----------------------------------------------------------------- templates


class Finder:
    """Finds the ends of things in one text. Searches must move forward; each pattern reads the text only once."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.latest: dict[str, re.Match | None] = {}

    def find(self, pattern: str, start: int) -> re.Match | None:
        """First match of `pattern` at or after `start`."""
        match = self.latest.get(pattern)
        if pattern not in self.latest or (match and match.start() < start):
            match = self.latest[pattern] = re.compile(pattern, re.MULTILINE | re.IGNORECASE).search(self.text, start)
        return match

    def find_in_paragraph(self, pattern: str, start: int) -> re.Match | None:
        """The same, but only as far as the next empty line, item of a list or fence."""
        end = self.find(pattern, start)
        limit = end and self.find(r"\n[ \t>]*+(?:\n|```|~~~|(?:[-*+]|\d{1,9}[.)])[ \t])", start)
        return None if limit and limit.start() < end.start() else end


def rewrite(text: str, opener: re.Pattern, replace: Callable[[re.Match], tuple[str, int]]) -> str:
    """Call `replace` at each match of `opener`; it returns what to write instead, and where to go on."""
    pieces, position = [], 0
    while match := opener.search(text, position):
        replacement, end = replace(match)
        pieces += text[position : match.start()], replacement
        position = end
    return "".join(pieces) + text[position:]


# Inline code without tags, or that is just one, is literal. A reference's target, as in `[a]: {{ b }}`, must not become
# empty: then it would be text.
TEMPLATE = re.compile(
    r"(?P<code>(?<![`\\])`(?!`)(?:[^`\n{]*+(?:\{(?!%|\{[<%])[^`\n{]*+)*+|\{%[^`%\n]*+%\}"
    r"|\{\{[<%](?!/\*)[^`{}\n]*+\}\})`(?!`))"
    r"|(?P<target>^ {0,3}\[(?!\^)[^\]\n]++\]:[ \t]*+)?(?P<tag>\{\{[<%]?|\{%)-?\s*+(?P<name>\w*+(?:-\w++)*+)",
    re.MULTILINE,
)
TEMPLATE_ENDS = {"{{": r"\}\}", "{%": r"%\}", "{{<": r">\}\}", "{{%": r"%\}\}"}
CODE_BLOCKS = {"highlight", "codeblock", "code", "prism", "mermaid", "plantuml", "graphviz", "tikz", "katex", "math"}
CODE_BLOCKS |= {"chart", "echarts"}
UNSEEN_BLOCKS = {"comment", "style", "css", "js", "javascript", "stylesheet", "schema"}


def captions(arguments: str, fields: str = "caption") -> str:
    """What is shown of the arguments of a tag."""
    value = rf"(?<![\w-])(?:{fields})=(?:\"((?:[^\"\\]|\\.)++)\"|'([^']++)'|`([^`]++)`)"
    return "".join(f"<figcaption>{found[found.lastindex]}</figcaption>" for found in re.finditer(value, arguments))


def run_templates(text: str) -> str:
    """Remove tags and outputs; of the blocks with special content, `raw` and those of code leave it."""
    finder = Finder(text)
    paired = set(re.findall(r"\{\{[<%]\s*+/\s*+([\w-]++)", text))

    def replace(opener: re.Match) -> tuple[str, int]:
        kind, name, end = opener["tag"], opener["name"], None
        if opener["code"]:
            return opener[0], opener.end()
        tag = finder.find(TEMPLATE_ENDS[kind], opener.end())
        if not tag:  # an unclosed tag eats nothing
            return opener[0], opener.end()
        is_block = name.split("-")[0] in CODE_BLOCKS or name in UNSEEN_BLOCKS | {"raw"}  # such as code-toggle
        if kind != "{{" and is_block and text[tag.start() - 1] != "/":
            end_tag = r"\{%-?\s*+end" if kind == "{%" else rf"{kind}\s*+/\s*+"
            end = finder.find(rf"{end_tag}{name}(?!-?\w)[^%>}}]*+{TEMPLATE_ENDS[kind]}", tag.end())
        if not end or name in UNSEEN_BLOCKS:
            arguments = text[opener.end() : tag.start()]
            shown = ""
            includes_figure = name == "include" and arguments.split()[:1] == ["figure"]  # this is Minimal Mistakes'
            if kind[2:] or name == "figure" or includes_figure:
                shown = captions(arguments, "title|caption|attr" if name == "figure" else "caption")
            elif name in ("post_link", "asset_link"):  # the words of Hexo's links
                shown = " ".join(arguments.split()[1:]).strip("'\"")
            if literal := re.fullmatch(r"/\*(.*)\*/\s*", arguments, re.DOTALL):
                shown = f"{kind}{literal[1]}{tag[0]}".translate(HIDE)
            line = text[max(0, opener.start() - 40) : opener.start()].rpartition("\n")[2]
            line += text[tag.end() : tag.end() + 40].partition("\n")[0]
            is_end = arguments.lstrip().startswith("/")
            if kind[2:] and not shown and not line.strip() and (is_end or name in paired and arguments[-1:] != "/"):
                shown = "</div>\n\n" if is_end else "<div>\n\n"  # what is indented between the two is no code
            return opener["target"] + "#" if opener["target"] else shown, (end or tag).end()
        content = text[tag.end() : end.start()]
        return (content if name == "raw" else f"<pre>{html.escape(run_templates(content))}</pre>"), end.end()

    return rewrite(text, TEMPLATE, replace)


# ----------------------------------------------- what is not mistune's Markdown

CODE = "code|tt|kbd|samp"
INLINE = (
    "a|abbr|acronym|b|bdi|bdo|big|blink|button|cite|data|del|dfn|em|font|i|img|input|ins|label|link|mark|meta|meter|"
    "nobr|notextile|output|picture|progress|q|rb|rp|rt|rtc|ruby|s|slot|small|source|span|strike|strong|sub|sup|time|u|"
    "var|wbr"
)
BLOCK = (
    "address|applet|area|article|aside|base|blockquote|body|br|caption|center|col|colgroup|datalist|dd|details|dialog|"
    "dir|div|dl|dt|embed|fieldset|figcaption|figure|footer|form|frameset|h[1-6]|head|header|hgroup|hr|html|legend|li|"
    "main|map|marquee|menu|nav|object|ol|optgroup|option|p|param|pre|search|section|select|summary|table|tbody|td|"
    "textarea|tfoot|th|thead|title|tr|track|ul"
)
END_OPTIONAL = {"p", "li", "dt", "dd", "tr", "td", "th", "option", "thead", "tbody", "tfoot"}
VOID = {"area", "base", "br", "col", "embed", "hr", "param", "track"}  # never closed
# These go with their content.
HIDDEN = "svg|iframe|noscript|video|audio|canvas|template|d-code|d-math"
# In .mdx a name with a capital letter is a component's, mostly with content; with a hyphen it is always a tag's.
CUSTOM = {False: r"[a-z]\w*+-[\w.-]*+", True: r"[a-z]\w*+-[\w.-]*+|(?-i:[A-Z])[\w.]*+"}
LOWER = {False: "", True: "(?-i:(?=[a-z]))"}
BRACES = r"\{(?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*+\})*+\})*+\})*+\}"
JSX = rf"""(?:[^<>{{}}"']|"[^"]*+"|'[^']*+'|{BRACES})*+|"""
ATTRIBUTES = r"""(?:[^<>"']|"[^"<]*+"|'[^'<]*+')*+|[^<>]*+|(?:[^<>"']|"[^"\n]*+"|'[^'\n]*+')*+"""
TAGS = {
    mdx: rf"<(?P<slash>/?)(?P<name>{LOWER[mdx]}(?P<code>{CODE})|(?P<inline>{INLINE})|(?P<block>{BLOCK})"
    rf"|(?P<hidden>script|style|math|{LOWER[mdx]}(?:{HIDDEN}))|(?P<custom>{custom}))"
    rf"(?=[\s/>])(?:{JSX if mdx else ''}{ATTRIBUTES})>"
    for mdx, custom in CUSTOM.items()
}
QUOTED = r"""(?:\s++[\w:-]++=(?:"[^"<>]*+"|'[^'<>]*+'))"""
ANY_TAG = {mdx: re.compile(pattern, re.IGNORECASE) for mdx, pattern in TAGS.items()}
PROSE = re.compile(r"(?i)\bclass=[^<>]*?\b(?:verse|preformatted|poem|poetry|lyrics)\b")  # of a <pre> that is no code
ITEM = r"(?:[-*+]|\d{1,9}[.)])"  # the marker of a list's item
START = rf"^[ \t>]*+(?:{ITEM}[ \t>]++)*+"  # what may stand before the first word of a line
FENCE = rf"(?P<prefix>{START})(?P<mark>`{{3,}}+(?=[^`\n]*+$)|~{{3,}}+)[^\n]*+"
NO_EMPTY_LINE = r"(?:[^$\n]|\$(?!\$)|\n(?![ \t>]*+\n))++"
INLINE_MATH = rf"\$\${NO_EMPTY_LINE}\$\$|\$(?![\s$])[^$\n]*[^\s$\\]\$(?!\w)"
EMPTY_ITEM = rf"^(?:(?<![^\n]\n)|(?![ \t>]*+-$))([ \t>]*+(?:{ITEM}(?:[ \t>]++|$))++)\n[ \t]*+\n[ \t]++(?=\S)"
FAR_ITEM = rf"^([ \t>]*+{ITEM})(?: {{5,}}+| *+\t[ \t]++)(?=\S)"
EXPORT = r"default\s+(?:[({<\[]|(?:async|function|class)\b|[\w.]++(?:\(|;?[ \t]*+$))"  # a module's, not prose
HANGING = r"^ {0,3}(?:\[\^([^\]\s]++)\]:|:(?=[ \t]))[ \t]*+"  # starts a footnote or a definition
# !!! note "Title", or === "Tab"; something is indented below it.
BOX = r"(?:(?:!!!|\?\?\?\+?)[ \t]++[\w-][\w -]*+|===[!+]?[ \t]*+(?=\"))(?:\"(?P<title>[^\"\n]*+)\")?[ \t]*+$"
BOX += r"(?=(?:\n[ \t]*+(?=\n))*+\n(?: {4}|\t))"
LABEL = r"(?:\[(?P<label>(?:[^\[\]\n]|\[[^\[\]\n]*+\])*+)\])?(?:\{[^{}\n]*+\}(?=[ \t]*+$))?"
IN_CELL = re.compile(r"(?<!`)</?(?:br|p|ul|ol|li|div)\b[^<>\n]*+>(?!`)", re.IGNORECASE)  # a row is a line
HAS_LETTER = r"[^\[\]\n]*?(?:[^\W\d_]|\d-\d)"
# The ends of comments and of display maths
ENDS = {"<!--": "-->", "{::comment}": r"\{:/(?:comment)?\}", "{/*": r"\*/\}", "{#": r"#\}", "<%": "%>", "<?": r"\?>"}
ENDS |= {r"\\[": r"\\\\\]", r"\[": r"\\\]", "%%": r"%%(?![\w%])"}


def block(code: str) -> str:
    """A block of code, disguised."""
    return CODE_START + code.strip("\n").rstrip().translate(HIDE) + CODE_END


def hide_span(code: str) -> str:
    """Disguise inline code or a formula. The spaces at its edges separate words."""
    return re.sub(r"\s+", " ", code).translate(HIDE | {32: " "})


class Simplifier:
    """Removes or rewrites what mistune does not know, and what nobody reads: comments, scripts, formulas.

    Each method is called with the match of a pattern in `RULES`; it returns what to write instead, and where to go on.
    """

    def __init__(self, text: str, kinds: set[str]) -> None:
        self.text, self.finder, self.is_torn = text, Finder(text), False
        self.notes = set(re.findall(HANGING, text, re.MULTILINE))
        # With attributes and an end, a name is a tag's, even if it is nobody else's.
        self.unknown = set(re.findall(r"</([a-z]\w*+)\s*+>", text)) & set(re.findall(rf"<([a-z]\w*+){QUOTED}+>", text))
        # In a file of HTML menus go, and what is around its articles.
        self.around = {"nav"} if "md" not in kinds else set()
        if self.around and re.search(r"(?i)<(?:article|main)[\s>]", text):
            self.around |= {"header", "footer"}
        # Of HTML: how far it is indented; start tags less end tags; which tags that begin a line are not yet closed.
        self.indent, self.balance, self.open = 0, Counter(), Counter()
        self.margins = [""]  # how far the content of each open component or box is indented
        rules = [(re.compile(pattern, re.M | re.I), action) for kind, pattern, action in self.RULES if kind in kinds]
        unnamed = (re.sub(r"\(\?P<\w+>", "(", rule.pattern) for rule, _ in rules)  # a name may stand only once
        opener = "|".join(f"(?P<rule{number}>{pattern})" for number, pattern in enumerate(unnamed))

        def replace(match: re.Match) -> tuple[str, int]:
            rule, action = rules[int(match.lastgroup[4:])]
            match = rule.match(text, match.start())
            return (match.expand(action), match.end()) if isinstance(action, str) else action(self, match)

        self.result = rewrite(text, re.compile(opener, re.M | re.I), replace)

    def comment(self, opener: re.Match) -> tuple[str, int]:
        """Goes with its content, when it is closed. Within a line, Obsidian's %% ends in the same paragraph."""
        name, before = opener[0].lower().strip(), self.text[max(0, opener.start() - 2) : opener.start()]
        is_inline = name == "%%" and before[-1:] not in ("", "\n")
        find = self.finder.find_in_paragraph if is_inline else self.finder.find
        end = find(ENDS.get(name) or re.escape(name).replace("begin", "end"), opener.end())
        if not end:
            return "" if name == "<!--" else opener[0], opener.end()
        is_paragraph = name == "<!--" and before + self.text[end.end() : end.end() + 2] == "\n" * 4
        return "<x-x>" if is_paragraph else "", end.end()  # as a paragraph it ends a list

    def fence(self, opener: re.Match) -> tuple[str, int]:
        """Code between two lines of backticks or tildes. Without the second line the first is just text."""
        prefix, mark = opener["prefix"], opener["mark"][:20]
        width = min(len(prefix), 30)
        end = self.finder.find(rf"^[ \t>]{{0,{width + 3}}}{mark}{mark[0]}*+[ \t]*+$", opener.end())
        # If the next line is in the same quote or item of a list, the code ends with this, before an empty line.
        inside = r"[ \t]*+>" if ">" in prefix else rf"[ \t]{{{width}}}"
        if prefix.strip() and re.compile(rf"\n{inside}").match(self.text, opener.end()):
            left = self.finder.find(rf"\n(?=[ \t]*+\n(?!{inside})[ \t]*+\S)", opener.end())
            end = min(filter(None, (end, left)), key=re.Match.start, default=None)
        if not end:
            return prefix, opener.end("mark")
        code = re.sub(rf"^[ \t>]{{0,{len(prefix)}}}", "", self.text[opener.end() : end.start()], flags=re.MULTILINE)
        return f"\n\n{prefix}{block(code)}\n\n", end.end()

    def span(self, opener: re.Match) -> tuple[str, int]:
        """Inline code is left to mistune, and its content alone."""
        end = self.finder.find_in_paragraph(rf"(?<!`){opener[0]}(?!`)", opener.end()) or opener
        # Of spaces on both sides mistune removes one each, which may be all that keeps words apart.
        return re.sub(r"(?<=`) (.+) (?=`)", r"  \1  ", self.text[opener.start() : end.end()]), end.end()

    def footnote(self, mark: re.Match) -> tuple[str, int]:
        """The mark of a known footnote goes; a definition stays for now (see `HANGING`)."""
        is_mark = mark["key"] in self.notes and not (mark["colon"] and mark["line"] is not None)
        return (mark["line"] or "") + mark["colon"] if is_mark else mark[0], mark.end()

    def wiki_link(self, link: re.Match) -> tuple[str, int]:
        """Obsidian's [[page#heading]] or [[page|words to show]]."""
        page, _, label = link["link"].partition("|")
        page = page.partition("#^")[0].strip("#\\").replace("#", " > ")
        return "" if link["image"] else label or page, link.end()

    def enclosed(self, line: re.Match) -> tuple[str, int]:
        """The first or last line of a component or a box; only a title stays. What is between them may be indented."""
        if line["slash"]:
            del self.margins[max(1, len(self.margins) - 1) :]
        elif not line[0].rstrip().endswith("/>"):
            next_words = re.compile(r"[^\n]*+(?:\n[ \t]*+(?=\n))*+\n?([ \t]*+)")
            self.margins.append(next_words.match(self.text, line.end())[1])
        return (line["line"] or "") + "\n\n" + (line.groupdict().get("label") or ""), line.end()

    def tag(self, opener: re.Match) -> tuple[str, int]:
        """Code written as HTML is code, some tags go with their content, `to_text` will read the others."""
        name, end, line = opener["name"].lower(), None, (opener["line"] or "").removeprefix(self.margins[-1])
        is_inside = self.balance["article"] + self.balance["main"] > 0
        is_hidden = opener["hidden"] or name in self.around and (name == "nav" or not is_inside)
        if not opener["slash"] and (opener["code"] or is_hidden or name == "pre"):
            # Bare and behind a word it may be just named, as in: add a <svg> tag.
            is_word = re.search(r"\w <(?!pre|script|style)\w++>\Z", self.text[max(0, opener.end() - 20) : opener.end()])
            find = self.finder.find_in_paragraph if opener["code"] or is_word else self.finder.find
            end = find(rf"{'(?<!`)' if is_word else ''}</{name}\s*+>", opener.end())
        if is_hidden:
            # A line on which nothing is left would make code of the next, if this is indented.
            rest = " " if opener["line"] is None else "<x-x>"
            return line + rest, (opener if opener[0].endswith("/>") else end or opener).end()
        if end:
            code = self.text[opener.end() : end.start()]
            code = html.unescape(ANY_TAG[False].sub(lambda tag: "\n" * (tag["name"].lower() == "br"), code))
            if name == "pre" and PROSE.search(opener[0]):
                verses = ("<br>".join(map(hide_span, verse.split("\n"))) for verse in re.split(r"\n\s*\n", code))
                return f"{line}\n\n{'<p>'.join(verses)}\n\n", end.end()
            return line + (f"\n\n{block(code)}\n\n" if name == "pre" else hide_span(code)), end.end()
        is_block = opener["block"] or opener["custom"] and opener["line"] is not None and opener["rest"] is not None
        if is_block and opener["custom"] and name != opener["name"]:
            return self.enclosed(opener)
        if is_block and name not in VOID and not opener[0].rstrip().endswith("/>"):
            is_inside = any(self.balance.values())
            if opener["line"] is not None and not is_inside:
                self.indent = len(line.rpartition(">")[2])
            line = self.unindent(line, is_inside)
            self.balance[name] += -1 if opener["slash"] else 1
            if opener["slash"]:
                self.open[name] = max(0, self.open[name] - 1)
            elif name not in END_OPTIONAL and (opener["line"] is not None or any(self.open.values())):
                self.open[name] += 1
        if is_block and opener["custom"]:
            return line + "\n\n", opener.end()
        # A line that begins with the tag's end is no quote.
        return line + re.sub(r"(?<=\S)\n[ \t]*+(?=> *+\Z)", " ", opener[0][len(opener["line"] or "") :]), opener.end()

    def unknown_tag(self, tag: re.Match) -> tuple[str, int]:
        """Or a generic type."""
        return "" if tag["name"] in self.unknown else tag[0], tag.end()

    def unindent(self, line: str, is_html: bool) -> str:
        """Inside HTML lines may be indented at will; they must not look like code, unless the HTML itself does."""
        quote, mark, spaces = line.rpartition(">")
        return quote + mark + spaces[: max(self.indent, len(mark))] if is_html and not spaces.strip() else line

    def indented(self, start: re.Match) -> tuple[str, int]:
        """The start of a line that does not begin with a tag."""
        return self.unindent(start[0], any(self.open.values())).removeprefix(self.margins[-1]), start.end()

    def module(self, opener: re.Match) -> tuple[str, int]:
        """An import or export goes up to the end of its paragraph, or more, until its brackets are closed."""
        depth, marks = 0, 0
        for line in re.compile(r"[^\n]*+\n?").finditer(self.text, opener.start()):
            if not line[0].strip() and (depth <= 0 and marks % 2 == 0 or self.is_torn):
                return "", line.start()
            marks += line[0].count("`")
            depth += sum(map(line[0].count, "{[(")) - sum(map(line[0].count, "}])"))
            if depth <= 0 and marks % 2 == 0 and line[0].rstrip().endswith(";"):
                return "", line.end()
        self.is_torn = True  # brackets that are never closed hold nothing
        return self.module(opener)

    RULES = [  # which files, what, and what instead; the first that matches wins
        ("md", r"\{::comment\}|\{#(?=\s)|\\\\\[|^[ \t]*+\\\[(?=[ \t]*+$)|^\\begin\{\w++\*?\}", comment),
        ("md", r"\\\\$", "  "),  # a line break
        ("md", r"\\[\\`<$\[{%]", r"\g<0>"),  # an escaped character is left to mistune
        ("md", FENCE, fence),
        ("md", r"(?<!`)`{1,20}+(?!`)", span),
        ("html", r"<!---?>|<!(?:doctype|\[(?:if|endif))[^<>]*+>", ""),
        ("html", r"<!--|<%(?=\*|[_-]?\s*+tp\.)|<\?(?=php|xml|=)", comment),  # of Templater and PHP, too
        ("md", r"\{/\*", comment),
        ("md", r"(?:^[ \t]*+)?(?<![\w%])%%(?!%)", comment),
        # Display maths: $$ on lines of their own, or around a paragraph.
        ("md", rf"^[ \t>]*+\$\$(?:[ \t]*+\n[^$]*+(?:\$(?!\$)[^$]*+)*+|{NO_EMPTY_LINE})\$\$[ \t]*+$", ""),
        ("md", INLINE_MATH, r"\g<0>"),
        ("html", r"[ \t]<[a-z]\w*+-[\w-]*+[^<>]*+></[a-z]\w*+-[\w-]*+>(?=[\s.,;:!?)])", ""),  # <d-cite></d-cite>
        ("mdx", rf"(?P<line>{START})?{TAGS[True]}(?P<rest>[ \t]*+$)?", tag),
        ("html", rf"(?<!\]\()(?P<line>{START})?{TAGS[False]}(?P<rest>[ \t]*+$)?", tag),
        ("md", r"(?P<line>^[ \t]*+)<(?P<slash>/?)(?-i:[A-Z])[\w.]*+(?=[\s/>])[^<>]*+>[ \t]*+$", enclosed),
        ("html", rf"</?(?P<name>(?-i:[a-z])\w*+){QUOTED}*+>", unknown_tag),
        ("mdx", r"^import\s+(?:[\w*{}\s,$]{0,1000}?from\s*+)?[\"'][^\n]*+", ""),
        ("mdx", rf"^(?-i:export)\s+(?:(?:const|let|var|function|async|class|type|interface)\b|[{{*]|{EXPORT})", module),
        ("mdx", r"</?>", ""),
        ("mdx", r"\{\s*+(?:\"([^\"\n]*+)\"|'([^'\n]*+)'|`([^`\n]*+)`)\s*+\}", r"\1\2\3"),
        ("md", r"(?P<line>^ {0,3})?\[\^(?P<key>[^\]\s]++)\](?P<colon>:?)", footnote),
        ("md", r"^[ \t]*+\[{1,2}_?TOC_?\]{1,2}[ \t]*+$", ""),
        ("md", rf"(?P<image>!)?(?<![a-z0-9\]])\[\[(?=\S)(?={HAS_LETTER})(?P<link>[^\[\]\n]++)\]\](?![\[(])", wiki_link),
        ("md", r"^([ \t]*+>[ \t>]*+)\[![\w-]++(?:\|[^\]\n]*+)?\][-+]?", r"\1"),  # > [!note]
        ("md", r"(?<![a-z0-9_=])==(?=[^\s=])([^=\n]*+)(?<=\S)==(?![a-z0-9_=])", r"\1"),  # highlighted
        ("md", r"(?:^|(?<![|\s])[ \t]++)\^(?=[\w-]*[a-z])[\w-]{3,}+[ \t]*+$", ""),  # the name of a block, for links
        ("md", r"(?<=[\w.,;:!?)\"'*])\^\[(?=[^\[\]\s]*+ )([^\[\]\n]*+)\]", r" (\1)"),  # a footnote's text
        ("md", rf"(?P<line>^ {{0,3}}):::++(?:(?P<slash>[ \t]*+$)|[ \t]*+(?:\{{[^}}\n]*+\}}|[\w-]*+){LABEL})", enclosed),
        # A box of one line, or farther in, where it may be the first line of a block of code
        ("md", rf"^[ \t]*+(?::::++[ \t]*+(?:\{{[^}}\n]*+\}}|[\w-]*+)|::[\w-]++(?=[\[{{])){LABEL}", r"\n\1"),
        ("md", r"^[ \t]*+/{3,}+(?:[ \t]++[\w-]++(?:[ \t]*+\|[ \t]*+([^\n]++))?)?[ \t]*+$", r"\n\1\n"),  # /// a | Title
        ("md", rf"^ {{0,3}}{ITEM}[ \t][^\n]*+\n[ \t]*+\{{:[^}}\n]*\btoc\b[^}}\n]*+\}}", ""),  # will be the contents
        # {: .class }, {.class} and {key=value} on a line of their own
        ("md", r"^[ \t>]*+(?:\{(?::(?!:)|[#.]\w|[\w-]++=)[^{}\n]*+\}[ \t]*+)++$", ""),
        ("md", rf"^([ \t>]*+(?:{ITEM}[ \t>]++)++)\{{:(?!:)[^{{}}\n]*+\}}", r"\1"),  # or at the start of a list's item
        ("md", r"\[([^\[\]\n]++)\]\{[#.][^{}\n]*+\}", r"\1"),  # pandoc's
        # or behind emphasis, a link or an image, or at the end of a line; {::nomarkdown} and {:/}
        ("md", r"(?<=[*_`)\]>\"'])\{ ?[:#.][^{}\n]*+\}|(?<=\))\{\w++=[^{}\n]*+\}", ""),
        ("md", r"\{:[:/][^{}\n]*+\}|(?<=\S)[ \t]*+\{(?::[ \t]*+)?[#.][a-z][^{}\n]*+\}(?=[ \t]*+$)", ""),
        ("md", r"^ {0,3}\*\[[^\]\n]++\]:[^\n]*+|^\^[ \t]*+$", ""),  # an abbreviation's definition, a block's end
        ("md", rf"^([ \t>]*+{ITEM}[ \t]++)\[[ x/<>!?*-]\](?=[ \t])", r"\1"),  # a task
        ("md", r"\]\((?:[^()\"\n]|\"[^\"\n]*+\"|\([^()\n]*+\))*+\)", "](#)"),  # [a](b c)
        ("md", r"\]\((?![^)]{0,2000}+\))", r"]\\("),  # no link; many of these are slow in mistune 3.3
        ("md", r"^[ \t>]*+\|(?=[:|+ \t]*+[-=])[-=:|+ \t]*+$\n?", ""),  # a line drawn in a table
        ("mdx", BRACES, ""),
        ("md", r"^[ \t>]*+(?<=[ \t])(?=\S)", indented),
    ]


def open_boxes(text: str) -> str:
    """Python-Markdown's boxes and tabs: the title becomes a paragraph; what is indented below it no longer is."""
    inside = []  # how far the content of each open box is indented, or more

    def replace(line: re.Match) -> str:
        indent = line["indent"].expandtabs(4)
        while inside and len(indent) < inside[-1]:
            inside.pop()
        shown = indent[4 * len(inside) :]
        if line["box"] is None:
            return shown
        inside.append(len(indent) + 4)
        return f"\n{shown}{line['title'] or ''}\n"

    return re.sub(rf"(?m)^(?P<indent>[ \t]*+)(?:(?P<box>{BOX})|(?=\S))", replace, text)


def simplify(text: str, kinds: set[str]) -> str:
    """Reduce a post to mistune's Markdown, or to plain HTML."""
    if "md" in kinds:  # the title of a box is a line
        text = re.sub(r"(?m)^[ \t]*+(?:>[ \t>]*+\[![\w-]|:::)[^\n]*+", r"\g<0>  ", text)
    text = Simplifier(text, kinds).result
    if "md" not in kinds:
        return text
    if re.search(rf"(?m)^[ \t]*+{BOX}", text):
        text = open_boxes(text)
    text = re.sub(r"\n([ \t>]*+\|[^\n]*+)", lambda row: f"  \n{IN_CELL.sub(' ', row[1])}  ", "\n" + text)
    text = re.sub(EMPTY_ITEM, r"\1 ", text, flags=re.MULTILINE)  # the text of an item does not begin two lines below
    text = re.sub(FAR_ITEM, r"\1   ", text, flags=re.MULTILINE)  # nor is it code when it begins far to the right
    # Further lines of a footnote or a definition are indented under the first: make paragraphs of them.
    hanging_block = re.compile(rf"{HANGING}(.*+(?:\n(?!{HANGING})(?:[ \t].*+|$))*+)", re.MULTILINE)
    return hanging_block.sub(lambda block: "\n" + re.sub(r"^(?: {1,4}|\t)", "", block[2], flags=re.MULTILINE), text)


# -------------------------------------------------------------------- Markdown


class Renderer(mistune.HTMLRenderer):
    """mistune's HTML, but for what is not read: it is plain text next."""

    block_text = mistune.HTMLRenderer.paragraph  # in an item of a list

    def text(self, text: str) -> str:
        """Text may hold entities, but no tags."""
        return text.replace("<", "&lt;")

    def codespan(self, code: str) -> str:
        """Spaces at the edges of code keep words apart, as unknown elements do."""
        edge = "<x-x>" * (code != code.strip())
        return edge + hide_span(code.strip()) + edge

    def block_code(self, code: str, info: str | None = None) -> str:
        """What is indented around a block that the `Simplifier` has made of a fence is no code."""
        return self.text(code) if CODE_START in code else block(code)

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """Only its words."""
        return text

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """Nothing."""
        return ""

    def inline_math(self, formula: str) -> str:
        """As code: nothing in it is Markdown."""
        return self.codespan(formula.strip("$"))


def make_markdown(mdx: bool) -> mistune.Markdown:
    """mistune without its HTML and its fences, which the `Simplifier` has dealt with."""
    tables = ["table", "mistune.plugins.table.table_in_list", "mistune.plugins.table.table_in_quote"]
    markdown = mistune.create_markdown(renderer=Renderer(escape=False), plugins=["strikethrough", *tables])
    block, inline = markdown.block, markdown.inline

    def raw(kind: str, _: mistune.InlineParser, match: re.Match, state: mistune.InlineState) -> int:
        state.append_token({"type": kind, "raw": match[0]})
        return match.end()

    inline.register("inline_html", f"(?i:{TAGS[mdx]})", partial(raw, "inline_html"))
    inline.register("inline_math", INLINE_MATH, partial(raw, "inline_math"), before="link")
    inline.specification["auto_link"] = r"<(?i:https?|ftp|mailto):[^<>\x00-\x20]*>"  # not std::vector<std::string>
    for rule in ["fenced_code", "block_html", "raw_html"]:
        block.specification[rule] = "(?!)"
    for rules in (block.rules, block.list_rules, block.block_quote_rules) if mdx else ():
        rules.remove("indent_code")
    return markdown


MARKDOWN = {mdx: make_markdown(mdx) for mdx in TAGS}


# ------------------------------------------------------------- HTML to text

# What separates words; where several marks meet, the last of this order wins. A hint is a space between words only.
HINT, SPACE, CELL, LINE, PARAGRAPH = MARKS = "\ufdd2\ufdd3\ufdd4\ufdd5\ufdd6"
SEPARATORS = dict(zip(MARKS, ["", " ", " | ", "\n", "\n\n"]))
ITEM_START, ITEM_END = "\ufdd7\ufdd8"  # around what will stand before an item of a list
GAP = re.compile(rf"(?:[\s{MARKS}]|{ITEM_START}[^{ITEM_END}]*+{ITEM_END})+")
GAPS = {"td": CELL, "th": CELL, "tr": LINE, "br": LINE, "thead": LINE, "tbody": LINE, "tfoot": LINE}


def to_text(source: str, mdx: bool, keep_code: bool) -> str:
    """The words of HTML, separated as in a browser."""
    lists: list[Iterator[str]] = [itertools.repeat("- ")]  # what will stand before the items of each open list
    in_cell = False

    def mark(tag: re.Match) -> str:
        nonlocal in_cell
        name, opens, item = tag["name"].lower(), not tag["slash"], ""
        if not tag["block"]:
            return HINT if tag["custom"] else ""
        if name in ("table", "tr", "td", "th"):
            in_cell = opens and name in ("td", "th")
        elif name in ("ul", "ol") and opens:
            start = re.search(r"start=[\"']?(\d{1,9})", tag[0])
            numbers = map("{}. ".format, itertools.count(int(start[1]) if start else 1))
            lists.append(numbers if name == "ol" else lists[0])
        elif name in ("ul", "ol"):
            del lists[max(1, len(lists) - 1) :]
        elif name == "li" and not in_cell:
            item = ITEM_START + (next(lists[-1]) if opens else "") + ITEM_END
        return (SPACE if in_cell and name not in ("td", "th") else GAPS.get(name, PARAGRAPH)) + item

    def separate(gap: re.Match) -> str:
        before, after = text[max(0, gap.start() - 1) : gap.start()], text[gap.end() : gap.end() + 1]
        widest = max(SPACE if char.isspace() else char for char in gap[0] if char in MARKS or char.isspace())
        if widest == HINT and re.fullmatch(r"[^(\[{+/-][\w(]", (before + after).translate(SHOW)):
            widest = SPACE
        item = gap[0].rpartition(ITEM_START)[2].partition(ITEM_END)[0] if ITEM_START in gap[0] else ""
        return ((SEPARATORS[widest] if before else "") + item) if after else ""

    text = html.unescape(ANY_TAG[mdx].sub(mark, source))
    code = rf"{PARAGRAPH}\1{PARAGRAPH}" if keep_code else PARAGRAPH
    text = re.sub(f"{CODE_START}([^{CODE_END}]*+){CODE_END}", code, text)
    return GAP.sub(separate, text)


# ------------------------------------------------------------------ one post

URL = (
    r"(?ia)\b(?:(?:https?|ftp)://|(?=www\.))(?:[\w.~%:-]++@)?(?P<host>[\w-]++(?:\.[\w-]++)*+)(?::\d++)?"
    r"(?P<path>[/?\#][\w\-.~:/?\#\[\]@!$&'()*+,;=%]*+)?"
)


def shorten_url(match: re.Match, urls: str) -> str:
    """A host instead of a URL, or nothing; punctuation that ends the sentence stays."""
    path = match["path"] or ""
    bare = path.rstrip(".,;:!?'*])")
    inside = max(0, bare.count("(") - bare.count(")"))  # so many brackets that follow belong to the address
    return (match["host"] if urls == "host" else "") + path[len(bare) :].split(")", inside)[-1]


def tidy_line(line: str) -> str:
    """Superfluous spaces, pipes of tables, and lines that are only drawn."""
    line = " ".join(line.split())
    if line.startswith("|"):
        line = " | ".join(cell.strip() for cell in line.split("|") if cell.strip(" -:"))
    return line if line.strip("=|-:_* ") else ""


def clean_text(text: str, kinds: set[str], code: str = "drop", urls: str = "host", fold: bool = True) -> str:
    """Plain text of a post's body, or of its title."""
    mdx = "mdx" in kinds
    if kinds & {"txt", "text"}:  # the first line of a paragraph may be indented
        text = re.sub(r"(?m)^(?: {4}|\t)[ \t]*+", "   ", text)
    text = simplify(text if mdx else run_templates(text), kinds)
    if "md" in kinds:
        text = MARKDOWN[mdx](text)
    text = to_text(text, mdx, code == "keep")
    if urls != "keep":
        text = re.sub(URL, lambda match: shorten_url(match, urls), text)
    if fold:
        text = re.sub("(?<!-)---(?!-)", "--", text)  # kramdown's long dash
    text = "\n".join(map(tidy_line, text.split("\n")))
    text = re.sub(r"(?m)^((?:- |\d{1,9}\. ).*)\n\n+(?=- |\d{1,9}\. )", r"\1\n", text)  # between the items of a list
    if "md" in kinds:  # links that a template would have defined; `**"a":**b`, which mistune leaves alone
        text = re.sub(r"(?<![\w\]])\[([^\[\]\n]++)\]\[[^\[\]\n]*+\]", r"\1", text)
        text = re.sub(r"\*\*(?=\S)([^*\n]++)\*\*", r"\1", text)
    text = plain_characters(text.translate(SHOW))
    return squeeze(text.translate(FOLDS) if fold else text)


def clean_parts(
    header: dict[str, str], body: str, kinds: set[str], titles=True, unpublished=False, drafts=False, **options
) -> str:
    """Plain text of a post that has been taken apart. Raises `SkippedError` if it is not public."""
    fields = "published", "publish", "draft", "isdraft", "status", "password"  # Jekyll, Obsidian, Hugo, WordPress
    published, public, draft, is_draft, status, hidden = (header.get(field, "").lower() for field in fields)
    if not unpublished and ({published, public} & {"false", "no", "off"} or status in ("private", "trash") or hidden):
        raise SkippedError("unpublished")
    if not drafts and ({draft, is_draft} & {"true", "yes", "on"} or status in ("draft", "auto-draft", "pending")):
        raise SkippedError("a draft (see --drafts)")
    # A header without a body is of a page that a template fills.
    text, title = clean_text(body, kinds, **options), header.get("title", "") if body.strip() else ""
    return f"{' '.join(clean_text(title, kinds - {'mdx'}, **options).split())}\n\n{text}".strip() if titles else text


def clean_post(raw: str, *, markdown: bool = True, mdx: bool = False, **options) -> str:
    """Plain text of one post: its title, an empty line, its body.

    The options are `code` ("drop" or "keep"), `urls` ("host", "drop" or "keep"), and the switches `fold` (quotes and
    dashes to ASCII), `titles`, `unpublished`, `drafts`, `markdown` (off for HTML files) and `mdx`.
    """
    kinds = {"html"} | ({"md"} if markdown else set()) | ({"mdx"} if mdx else set())
    return clean_parts(*split_front_matter(plain_characters(raw), kinds), kinds, **options)


# --------------------------------------------------------------------- files

DRAFT_FOLDERS = {"_drafts", "drafts", "draft"}
POST_FOLDERS = {"_posts", "_drafts", "content", "posts", "post", "blog", "articles", "writing"}
IGNORED_FOLDERS = {"_site", "node_modules", "vendor", "__macosx"}
TEMPLATE_FOLDERS = {"layouts", "_layouts", "_includes", "themes", "archetypes", "templates", "static", "public"}
TEMPLATE_FOLDERS |= {"build", "dist", "out", "venv"}  # all of these: unless they lie among the posts
NEVER_POSTS = re.compile(r"(?i)(?:robots|humans|ads|licen[cs]e)\.txt|google[\da-f]{8,}\.html")  # wherever they lie
NO_POSTS = re.compile(
    r"(?i)(?:readme|licen[cs]e|copying|notice|authors|contribut\w*|change-?log|changes|code.of.conduct|security|agents|"
    r"claude|gemini|install|pull_request_template|todo|requirements|robots|humans|404)(?:[._-][\w-]{2,6})?"
)
ASSETS = {".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".ico", ".pdf", ".css", ".js", ".ts", ".json", ".mp4"}


def tell(message: str) -> None:
    """Print a line to stderr."""
    print(message, file=sys.stderr)


@contextmanager
def opened(source: str) -> Iterator[Path]:
    """The folder, or the one file, to read posts from. Of an archive, what can be text is unpacked for a while."""
    path = Path(source).expanduser()
    if not source or not path.exists():
        what = "name the folder of a blog, a .zip of it or a WordPress export (.xml)"
        raise SourceError(f"there is no {source!r} here; {what}, and download first what is at an address")
    if path.is_dir() or path.suffix.lower() in SUFFIXES:
        yield path
    elif not zipfile.is_zipfile(path):
        raise SourceError(f"{source!r} is no folder, .zip, WordPress export (.xml) or post; unpack or convert it first")
    else:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
            files = [file for file in archive.infolist() if Path(file.filename).suffix.lower() in SUFFIXES | {".zip"}]
            files = [file for file in files if not file.filename.startswith("__MACOSX")]
            files = [file for file in files if file.external_attr >> 28 != 0o12]  # without links
            if sum(file.file_size for file in files) > 1_000_000 + 100 * path.stat().st_size:
                raise SourceError(f"{source!r} would unpack to far more than a blog can be")
            for file in files:
                file.filename = file.filename.replace("\\", "/")  # as old Windows writes them
                try:
                    if file.flag_bits & 1 or file.filename.lower().endswith(".zip"):
                        raise SourceError("encrypted, or itself an archive: unpack it and name the folder")
                    archive.extract(file, folder)  # never outside the folder, whatever the name
                except Exception as error:  # there are as many kinds as ways to pack
                    tell(f"warning: {file.filename!r} cannot be unpacked ({error})")
            inner = list(Path(folder).iterdir())
            yield inner[0] if len(inner) == 1 and inner[0].is_dir() else Path(folder)


def is_in(path: Path, names: set[str]) -> bool:
    """Whether a file lies in a folder of one of these names."""
    return any(part.lower() in names for part in path.parts[:-1])


def find_files(root: Path, drafts: bool) -> tuple[list[Path], int]:
    """Files in folders of posts, if there are any, else those not known to be something else; relative to the root.

    Also returns how many others could be posts. Links to folders are not followed.
    """
    if root.is_file():
        return [Path()], 0
    files, shut, base = [], [], root.resolve().name.lower()
    for folder, subfolders, names in os.walk(root, onerror=lambda error: tell(f"warning: {error}")):
        here = Path(folder).relative_to(root)
        ignored = IGNORED_FOLDERS | (set() if is_in(here / "x", POST_FOLDERS) else TEMPLATE_FOLDERS)
        ignored |= set() if drafts else DRAFT_FOLDERS
        names_shut = [name for name in subfolders if {name.lower(), name.lower().lstrip("_-. 0123456789")} & ignored]
        shut += [(here / name).as_posix() for name in names_shut if not is_in(Path(name, "x"), DRAFT_FOLDERS)]
        for name in filter(lambda name: is_in(Path(name, "x"), DRAFT_FOLDERS), names_shut):
            tell(f"left alone: {(here / name).as_posix()!r}, drafts (see --drafts)")
        subfolders[:] = [name for name in subfolders if name not in names_shut and not name.startswith(".")]
        files += [here / name for name in names]
        for name in filter(lambda name: os.path.islink(os.path.join(folder, name)), subfolders):
            tell(f"left alone: {(here / name).as_posix()!r}, a link to a folder")
    folders = {"_posts", "_drafts"} if any(is_in(path, {"_posts"}) for path in files) else POST_FOLDERS
    # A program's src/app/blog, in which there is no text, is none.
    has_posts = any(path.suffix.lower() in SUFFIXES for path in files if base == "content" or is_in(path, folders))
    posts = [path for path in files if base == "content" or is_in(path, folders | DRAFT_FOLDERS)] if has_posts else []
    in_posts = bool(posts) or base in POST_FOLDERS

    def is_notice(path: Path) -> bool:  # such as a README; further down among the posts it is one
        is_top = not in_posts or (base / path).parent.name.lower() in POST_FOLDERS
        return bool(NEVER_POSTS.fullmatch(path.name) or is_top and NO_POSTS.fullmatch(path.stem))

    posts = [path for path in posts or files if not is_notice(path)]
    if not in_posts and any(path.suffix.lower() in MARKDOWN_SUFFIXES for path in posts):  # HTML is the site's then
        posts = [path for path in posts if path.suffix.lower() not in HTML_SUFFIXES]
    others = sorted(path.as_posix() for path in set(files) - set(posts) if path.suffix.lower() in SUFFIXES)
    if others:
        place, count = Counter(os.path.dirname(path) or "." for path in others).most_common(1)[0]
        tell(f"left alone: {len(others):,} files outside a posts' folder, {count:,} of them in {place!r}")
    if shut and not posts:
        tell(f"left alone: {min(shut)!r}, by name a part of a site's making; if posts are in it, name that folder")
    return sorted(posts), sum(name.lower().endswith((".md", ".mdx")) for name in others)


# Bytes that are not UTF-8 are Windows-1252, one by one: a single one does not spoil a file.
codecs.register_error("cp1252", lambda bad: (bad.object[bad.start : bad.end].decode("cp1252", "replace"), bad.end))


def read_text(path: Path, root: Path, max_mb: float) -> str:
    """The text of a file that may hold posts. Raises `SkippedError` for others."""
    suffix = path.suffix.lower()
    if path.name[0] in "._#" or path.name.endswith("~"):
        raise SkippedError("hidden or temporary")
    if suffix not in SUFFIXES:
        raise SkippedError(f"{path.suffix or 'unnamed'!r} is not a post's file type")
    if not path.is_file():
        raise SkippedError("not a regular file")
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise SkippedError("a link that leads out of the folder")
    if path.stat().st_size > max_mb * (100_000_000 if suffix == ".xml" else 1_000_000):  # an export holds many posts
        raise SkippedError(f"larger than {max_mb:g} MB (see --max-mb)")
    data = path.read_bytes()
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return data.decode("utf-16", "replace")
    if b"\0" in data:
        raise SkippedError("binary, or not UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        if len(data.decode("utf-8", "ignore").encode()) < 0.8 * len(data):  # no language of Windows-1252 is like that
            raise SkippedError("neither UTF-8 nor Windows-1252: save it as UTF-8 first") from None
        tell(f"warning: {str(path.relative_to(root))!r} is not UTF-8; its other bytes are read as Windows-1252")
        return data.decode("utf-8-sig", "cp1252")


CODE_SHORTCODES = "as3|bash|c|clojure|code|cpp|crayon|csharp|css|diff|erlang|fsharp|go|groovy|haskell|html|java|js|"
CODE_SHORTCODES += "javascript|matlab|objc|perl|php|powershell|py|python|r|ruby|scala|shell|sourcecode|sql|swift|vb|xml"


def split_export(text: str) -> Iterator[tuple[dict[str, str], str]]:
    """The posts in a WordPress export, each as a header and a body of HTML."""
    defines_entities = re.match(r"(?s)(?:\s++|<\?.*?\?>|<!--.*?-->)*+<!DOCTYPE", text)  # these can grow to any size
    if "wordpress.org/export/" not in text[:20_000] or defines_entities:
        raise SkippedError("'.xml' that is no WordPress export")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise SkippedError(f"invalid XML ({error})") from None
    kinds = Counter()
    closed = {"gallery", "toc"}  # the shortcodes that have an end tag, or no use for one

    def shortcode(tag: re.Match) -> str:
        if tag[2] not in closed and "=" not in tag[3] and "://" not in tag[3]:
            return tag[0]  # just a word in brackets
        if shown := captions(tag[3]):
            return shown
        return f"<{tag[1]}pre>" if re.fullmatch(CODE_SHORTCODES, tag[2].lower()) else " "

    for item in root.iter("item"):
        fields = {re.sub(r"\{.*/export/.*\}", "", field.tag): field.text or "" for field in item}
        body = fields.get("{http://purl.org/rss/1.0/modules/content/}encoded", "")
        if "<!-- wp:" not in body:  # of the old editor, in which a line end between words is one
            body = re.sub(r"(<[^<>]*+>)|(?<![>\s])\n(?![<\s])", lambda match: match[1] or "<br>", body)
        closed |= set(re.findall(r"\[/([\w-]+)\]", body))
        body = re.sub(r"\[(/?)([a-zA-Z][\w-]*+)((?:[\s=/][^\[\]]*+)?)\]", shortcode, body)
        body = re.sub(r"\$latex\s++([^$]*+)\$", r"\1", body)
        header = {"title": "title", "date": "post_date", "status": "status", "password": "post_password"}
        kinds[fields.get("post_type", "item")] += 1
        if fields.get("post_type") == "post":  # without tags, empty lines separate paragraphs
            yield {key: fields.get(name, "") for key, name in header.items()}, re.sub(r"\n\s*\n", "\n<p>\n", body)
    if not kinds["post"]:
        found = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        raise SkippedError(f"no post in it, but {found or 'nothing'}")


# --------------------------------------------------------------------- posts

# The marks between the numbers are the same, but for 2024/05-31 (of Docusaurus).
DATED_NAME = r"(?:^|/)(\d{4}|\d{2,3}(?=-))([-/])(\d{1,2})(?:\2|(?<=/\d\d)-(?=\d\d))(\d{1,2})(?!\d)"
DATED_NAME = re.compile(DATED_NAME, re.ASCII)
DATE_FIELDS = ("date", "(?:date|pub|post)(?!id|lisher|.*(?:updat|modif)).*", "creat(?!or).*")  # by their letters
DATE_FIELDS += ("(?:date|last)?(?:updat|modif|mod$).*",)
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
NO_DATE, DRAFT_DATE = (0,), (10_000,)  # older and newer than all dates


def read_date(text: str) -> tuple[int, ...]:
    """The date in a field of a header as numbers, be it `2024-05-31T12:00+02:00` or `May 31, 2024`."""
    try:
        if text.isdigit() and len(text) in (10, 13):  # (milli)seconds since 1970
            return datetime.fromtimestamp(int(text[:10]), UTC).timetuple()[:6]
        text = re.sub(r"(?<=[T ])(?=\d:)", "0", text)  # 9:05, and 1:05 PM is 13:05
        text = re.sub(r"(?i)\d\d(?=:[\d:]+ ?([ap])m)", lambda at: f"{int(at[0]) % 12 + 12 * (at[1] in 'pP'):02}", text)
        return datetime.fromisoformat(re.sub(r"\s+(?=[+-]\d\d)", "", text)).utctimetuple()[:6]
    except (ValueError, OverflowError):
        parts = re.findall(rf"(?a)\d{{1,9}}|{'|'.join(MONTHS)}", text.lower())[:6]
    numbers = [MONTHS.index(part) + 1 if part in MONTHS else int(part) for part in parts]
    year = next((number for number in numbers[:3] if 999 < number < 10_000), None)
    if year is None:
        return NO_DATE
    rest = [number for number in numbers if number != year]
    # The day stands first in `31. May 2024`, `31.5.2024` and `31/5/2024`, but not in `5/31/2024`.
    if rest and numbers[0] == rest[0] and parts[0] not in MONTHS and ("/" not in text or rest[0] > 12):
        rest[:2] = rest[1::-1]
    return year, *rest


def name_date(path: Path) -> tuple[int, ...]:
    """The date in a file's name or its folders'."""
    dates = DATED_NAME.findall(path.as_posix())
    return tuple(int(part) for part in dates[-1] if part.isdigit()) if dates else NO_DATE


def date_of(path: Path, header: dict[str, str]) -> tuple[int, ...]:
    """The date in the path, else in the header."""
    names = (name for field in DATE_FIELDS for name in header if re.fullmatch(field, name))
    is_draft = is_in(path, DRAFT_FOLDERS) or "true" in (header.get(name, "").lower() for name in ("draft", "isdraft"))
    dates = (name_date(path), *(read_date(header[name]) for name in names))
    return next((date for date in dates if date != NO_DATE), DRAFT_DATE if is_draft else NO_DATE)


def fingerprint(text: str) -> str:
    """What the end of a post looks like, with whichever options it was cleaned."""
    return "".join(re.findall(r"[^\W_]", text[-200:].casefold()))[-40:]


def is_own_output(raw: str, prints: Counter[str], own: str = "") -> bool:
    """Whether a text has been put together by an earlier run: then half of its parts are posts.

    Among the posts it counts as one itself, by its `own` fingerprint; there it must be more than half.
    """
    parts = Counter(map(fingerprint, raw.strip().split(POST_BREAK)))
    found = sum(min(count, prints[part] - (part == own)) for part, count in parts.items() if part)
    return 2 * found >= parts.total() + bool(own)


@dataclass
class Blog:
    """The texts of all posts, oldest first, and what was found on the way."""

    texts: list[str]
    skipped: Counter[str]
    lost: int  # how many of the files that are not used could have been posts
    repeated: Counter[str]  # in how many posts a paragraph stands that stands in many


def read_blog(
    source: str, output: Path | None = None, max_mb=10, min_count=0, drop_repeated=False, drafts=False, **options
) -> Blog:
    """Find, clean and sort the posts. The options are those of the command line."""
    posts, skipped, seen, texts = [], Counter(), {output and os.path.realpath(output)}, {}

    def is_page(path: Path) -> bool:  # without a date: Jekyll does not publish it; of a site in HTML it is no post
        return path.suffix.lower() in HTML_SUFFIXES or is_in(whole / path, {"_posts"})

    def skip(path: Path, reason: str, title: str = "") -> None:
        nonlocal lost
        skipped[reason] += 1
        lost += path.suffix.lower() not in ASSETS
        tell(f"skipped {title and f'{title!r} in '}{path.as_posix() if path.name else source!r}: {reason}")

    with opened(source) as root:
        whole, (paths, lost) = root.resolve(), find_files(root, drafts)
        for path in paths:
            suffix, real = path.suffix.lower() or root.suffix.lower(), os.path.realpath(root / path)
            kinds = {"html", "md" if suffix in MARKDOWN_SUFFIXES else "html", suffix[1:]}
            try:
                if real in seen:
                    raise SkippedError("same file as another or as the output")
                text = plain_characters(read_text(root / path, root, max_mb))
                seen.add(real)
                for header, body in split_export(text) if suffix == ".xml" else [split_front_matter(text, kinds)]:
                    try:
                        text = clean_parts(header, body, kinds, drafts=drafts, **options)
                        posts.append((date_of(path, header), path, body if POST_BREAK in body.strip() else "", text))
                    except SkippedError as error:
                        skip(path, str(error), header.get("title", "") if suffix == ".xml" else "")
            except (SkippedError, OSError) as error:
                skip(path, getattr(error, "strerror", None) or str(error))
    prints = Counter(fingerprint(text) for *_, text in posts)
    undated = sum(date == NO_DATE for date, *_ in posts)
    most_have_dated_names = undated <= sum(name_date(path) != NO_DATE for _, path, *_ in posts)
    for date, path, body, text in sorted(posts, key=lambda post: post[:2]):
        if is_own_output(body, prints, fingerprint(text)):
            skip(path, "an earlier output of this program")
        elif date == NO_DATE and most_have_dated_names and is_page(path):
            skip(path, "no date in its name")
        elif not text or text in texts:
            skip(path, "same text as another" if text else "no text in it")
        else:
            texts[text] = True
    parts = Counter(part for text in texts for part in set(text.split("\n\n")) if len(part) > 15)
    repeated, texts = Counter({part: count for part, count in parts.items() if count >= MANY}), list(texts)
    if drop_repeated:
        texts = ["\n\n".join(part for part in text.split("\n\n") if part not in repeated) for text in texts]
    if min_count > 0:
        texts = replace_rare(texts, min_count)
    return Blog([text for text in texts if text], skipped, lost, repeated)


def replace_rare(texts: list[str], min_count: int) -> list[str]:
    """Replace characters seen fewer than `min_count` times by their unaccented form, or drop them."""
    counts = Counter("".join(texts))
    bases = {char: unicodedata.normalize("NFD", char)[0] for char in counts.keys() - {"\n", " "}}
    rare = {char: base for char, base in bases.items() if counts[char] < min_count}
    table = str.maketrans({char: base if counts[base] >= min_count else None for char, base in rare.items()})
    return [squeeze(re.sub(r"(?<=\S) +", " ", text.translate(table))) for text in texts]


def join(blog: Blog, source: object) -> str:
    """All posts, two empty lines between them. Raises `SourceError` if there are none."""
    if not blog.texts:
        what = "posts are files in Markdown or HTML such as 2024-05-31-title.md"
        raise SourceError(f"no usable post in {str(source)!r} (skipped: {reasons(blog)}); {what}")
    return POST_BREAK.join(blog.texts) + "\n"


def reasons(blog: Blog) -> str:
    """How many files were skipped for what."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(blog.skipped.items())) or "none"


def build(source: str | Path, **options) -> str:
    """The text of a blog, from the oldest post to the newest. Raises `SourceError` with a sentence that says why not.

    The options are those of the command line: code, urls, titles, fold, min_count, drop_repeated, drafts, unpublished,
    max_mb.
    """
    return join(read_blog(str(source), **options), source)


# ---------------------------------------------------------------- command line


def parser() -> argparse.ArgumentParser:
    """The command line; argparse exits with code 2 when it makes no sense."""
    parser = argparse.ArgumentParser(description="Turn a blog into one clean text file.")
    add, data = parser.add_argument, Path(__file__).resolve().parent / "data"
    add("posts", nargs="?", default=str(data / "_posts"), help="a folder of posts or a site, a .zip, a WordPress .xml")
    add("-o", "--output", type=Path, default=data / "blog.txt", help="the file to write")
    add("--code", choices=("drop", "keep"), default="drop", help="blocks of code (default: drop)")
    add("--urls", choices=("host", "drop", "keep"), default="host", help="visible addresses (default: only the host)")
    add("--no-titles", dest="titles", action="store_false", help="leave the posts' titles out")
    add("--no-fold", dest="fold", action="store_false", help="keep curly quotes, dashes, ellipses")
    add("--min-count", type=int, default=0, metavar="N", help="replace or drop characters seen fewer than N times")
    add("--drop-repeated", action="store_true", help=f"drop paragraphs that stand in {MANY} posts or more")
    add("--drafts", action="store_true", help="read drafts, too")
    add("--unpublished", action="store_true", help="read posts with `published: false`, too")
    add("--max-mb", type=float, default=10, metavar="N", help="skip larger files (default: 10)")
    return parser


def check_output(path: Path, source: str, texts: list[str]) -> None:
    """Raise OSError if the output exists and may be a post: no earlier run has written it."""
    if path.exists() and not path.is_file():
        raise OSError(0, "it is not a regular file")
    is_inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(source))
    is_like_post = path.exists() and (is_inside or DATED_NAME.match(path.name))
    old = path.read_text("utf-8", "replace") if is_like_post else ""
    if old and not is_own_output(old, Counter(map(fingerprint, texts))):
        raise OSError(0, "it lies among the posts and may be one of them")


def write_whole(path: Path, text: str) -> None:
    """Write a file completely or not at all: a temporary file beside it takes its name in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def summarize(blog: Blog, text: str, dropped: bool) -> None:
    """Tell what was built."""
    counts = Counter(text)
    rarest = sorted(counts.items(), key=lambda item: (item[1], item[0]))[:10]
    print(f"posts used:     {len(blog.texts):,}")
    print(f"posts skipped:  {reasons(blog)}")
    print(f"characters:     {len(text):,}")
    print(f"vocabulary:     {len(counts):,} different characters")
    print("rarest:         " + ", ".join(f"{char!r} x{count}" for char, count in rarest))
    print(f"first loss:     about ln({len(counts)}) = {math.log(len(counts)):.3f} before training")
    if blog.repeated:
        size = sum(len(part) * count for part, count in blog.repeated.items())
        share = "dropped" if dropped else f"{size / len(text):.1%} of the text; --drop-repeated leaves them out"
        print(f"repeated:       {len(blog.repeated):,} paragraphs in {MANY} posts or more ({share}), such as")
    for part, count in blog.repeated.most_common(3):
        print(f"                {count:,} x {part[:80]!r}")
    if blog.lost > len(blog.texts):
        tell(f"WARNING: more files were skipped ({blog.lost:,}) than used ({len(blog.texts):,}): is that right?")


def main(argv: list[str] | None = None) -> int:
    """Build the file. Returns 0; 1 without usable posts, 2 without a blog, 3 if it cannot write."""
    options = vars(parser().parse_args(argv))
    source, output = options.pop("posts"), options["output"]
    try:
        blog = read_blog(source, **options)
    except (SourceError, OSError, zipfile.BadZipFile) as error:
        tell(f"error: {error}")
        return 2
    try:
        text = join(blog, source)
        check_output(output, source, blog.texts)
        write_whole(output, text)
    except SourceError as error:
        tell(f"error: {error}")
        return 1
    except OSError as error:
        tell(f"error: cannot write {str(output)!r}: {error.strerror}; choose another file with -o")
        return 3
    summarize(blog, text, options["drop_repeated"])
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # as stderr does: print escapes rather than fail
    if hasattr(signal, "SIGPIPE"):  # no traceback when nobody reads stdout
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        tell("stopped")
        sys.exit(130)  # as shells count
