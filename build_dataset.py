"""Turn a blog into one clean text file to train a language model on.

    python build_dataset.py path/to/blog -o data/blog.txt

The blog is a folder of posts or of a whole site (Jekyll, Hugo, Astro, Eleventy, Obsidian ...), such a folder as a
.zip, or a WordPress export. In a notebook, `build_dataset.build("blog.zip")` returns the text.

A post passes through these steps, which stand in this order in the file:

1. `split_front_matter`  takes the header off; its title becomes the first line, its date may decide the order
2. `run_templates`       removes the tags of Liquid and the shortcodes of Hugo, as these do before Markdown is looked at
3. `Simplifier`          removes or rewrites what is not in mistune's Markdown: dialects, comments, blocks of code
4. `MARKDOWN`            is mistune: it turns Markdown into a tree of tokens
5. `Page`                writes down the words of that tree, and what separates them
6. `tidy`                shortens URLs and removes what is left over

Time grows in proportion to the length of a post, whatever it contains. Two rules see to that: patterns never
have two ways to match the same text (hence the possessive `*+`), and a search that failed is never repeated.
"""

import argparse
import html
import itertools
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

MARKDOWN_SUFFIXES = {".md", ".markdown", ".mkd", ".mkdn", ".mkdown", ".mdown", ".rmd", ".mdx", ".txt", ".text"}
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
    text = "\n".join(text.splitlines())
    # Only plain spaces and tabs make an indentation; behind other spaces a line is no code.
    text = re.sub(r"^([ \t]*+)[^\S \t\n][^\S\n]*+", r"\1", text, flags=re.MULTILINE)
    kinds = {char: unicodedata.category(char) for char in set(text) - {"\n", "\t"}}
    spaces = {ord(char): " " for char, kind in kinds.items() if kind == "Zs"}
    # All kinds of C: control, format, private and the like. The range: select a variant of the character before.
    unseen = {ord(char): None for char, kind in kinds.items() if kind[0] == "C" or "\ufe00" <= char <= "\ufe0f"}
    return unicodedata.normalize("NFC", text.translate(spaces | unseen))


def squeeze(text: str) -> str:
    """No white space at the ends of lines, at most one empty line."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in text.split("\n"))).strip()


# -------------------------------------------------------------- front matter

# Longer headers than this do not exist, and PyYAML is slow.
FRONT_MATTER = re.compile(
    r"(?:---[ \t]*\n(?P<yaml>.{0,100000}?)^(?:---|\.\.\.)|\+\+\+[ \t]*\n(?P<toml>.{0,100000}?)^\+\+\+)[ \t]*$\n?",
    re.MULTILINE | re.DOTALL,
)


def split_front_matter(text: str) -> tuple[dict[str, str], str]:
    """Return the scalars of the header by their names in lower case, and the rest. An invalid header counts as empty.

    Lists and the like are dropped unread: with YAML's aliases, a few hundred bytes describe gigabytes of them.
    """
    match = FRONT_MATTER.match(text)
    if not match:
        return {}, text
    try:
        # BaseLoader is the safe loader that leaves scalars as they were typed: `2.10` stays "2.10".
        header = yaml.load(match["yaml"], yaml.BaseLoader) if match["toml"] is None else tomllib.loads(match["toml"])
    except (yaml.YAMLError, ValueError, RecursionError):  # Jekyll publishes such posts, too
        header = None
    fields = header.items() if isinstance(header, dict) else ()
    scalars = {str(name).lower(): str(value) for name, value in fields if not isinstance(value, (list, dict))}
    return scalars, text[match.end() :]


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


# A reference's target, as in `[a]: {{ b }}`, must not become empty: then it would be text.
TEMPLATE = re.compile(
    r"(?P<target>^ {0,3}\[(?!\^)[^\]\n]++\]:[ \t]*+)?(?P<tag>\{\{[<%]?|\{%)-?\s*+(?P<name>\w*+)", re.MULTILINE
)
TEMPLATE_ENDS = {"{{": r"\}\}", "{%": r"%\}", "{{<": r">\}\}", "{{%": r"%\}\}"}
CODE_BLOCKS = {"highlight", "codeblock", "code", "mermaid", "katex", "math"}
UNSEEN_BLOCKS = {"comment", "style", "css", "js", "javascript", "stylesheet", "schema"}


def run_templates(text: str) -> str:
    """Remove tags and outputs; of the blocks with special content, `raw` and those of code leave it."""
    finder = Finder(text)

    def replace(opener: re.Match) -> tuple[str, int]:
        kind, name, end = opener["tag"], opener["name"], None
        tag = finder.find(TEMPLATE_ENDS[kind], opener.end())
        if not tag:  # an unclosed tag eats nothing
            return opener[0], opener.end()
        if kind != "{{" and name in CODE_BLOCKS | UNSEEN_BLOCKS | {"raw"}:
            end_tag = r"\{%-?\s*+end" if kind == "{%" else rf"{kind}\s*+/\s*+"
            end = finder.find(rf"{end_tag}{name}\b[^%>}}]*+{TEMPLATE_ENDS[kind]}", tag.end())
        if not end or name in UNSEEN_BLOCKS:
            return opener["target"] + "#" if opener["target"] else "", (end or tag).end()
        content = text[tag.end() : end.start()]
        return (content if name == "raw" else f"<pre>{html.escape(run_templates(content))}</pre>"), end.end()

    return rewrite(text, TEMPLATE, replace)


# ----------------------------------------------- what is not mistune's Markdown

CODE = "code|tt|kbd|samp"
INLINE = (
    "a|abbr|acronym|b|bdi|bdo|big|blink|cite|data|del|dfn|em|font|i|img|input|ins|label|mark|meter|nobr|notextile|"
    "output|picture|progress|q|rp|rt|ruby|s|small|source|span|strike|strong|sub|sup|time|u|var|wbr"
)
BLOCK = (
    "address|area|article|aside|blockquote|body|br|button|caption|center|col|colgroup|dd|details|dialog|dir|div|dl|dt|"
    "embed|fieldset|figcaption|figure|footer|form|h[1-6]|head|header|hr|html|legend|li|link|main|map|menu|meta|nav|"
    "object|ol|optgroup|option|p|param|pre|section|select|summary|table|tbody|td|textarea|tfoot|th|thead|title|tr|"
    "track|ul"
)
END_OPTIONAL = {"p", "li", "dt", "dd", "tr", "td", "th", "option", "thead", "tbody", "tfoot"}
VOID = {"area", "br", "col", "embed", "hr", "link", "meta", "param", "track"}  # never closed
# These go with their content.
HIDDEN = "script|style|svg|iframe|noscript|video|audio|canvas|template|math|d-code|d-math"
# In .mdx a name with a capital letter is a component's; with a hyphen it is always a tag's.
CUSTOM = {False: r"[a-z]\w*+-[\w.-]*+", True: r"[a-z]\w*+-[\w.-]*+|(?-i:[A-Z])[\w.]*+"}
BRACES = r"\{(?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*+\})*+\})*+\})*+\}"
JSX = rf"""(?:[^<>{{}}"']|"[^"]*+"|'[^']*+'|{BRACES})*+|"""
ATTRIBUTES = r"""(?:[^<>"']|"[^"<]*+"|'[^'<]*+')*+|[^<>]*+|(?:[^<>"']|"[^"\n]*+"|'[^'\n]*+')*+"""
TAGS = {
    mdx: rf"<(?P<slash>/?)(?P<name>(?P<code>{CODE})|(?P<inline>{INLINE})|(?P<block>{BLOCK})|(?P<hidden>{HIDDEN})"
    rf"|(?P<custom>{custom}))(?=[\s/>])(?:{JSX if mdx else ''}{ATTRIBUTES})>"
    for mdx, custom in CUSTOM.items()
}
ANY_TAG = re.compile(TAGS[False], re.IGNORECASE)
ITEM = r"(?:[-*+]|\d{1,9}[.)])"  # the marker of a list's item
START = rf"^[ \t>]*+(?:{ITEM}[ \t>]++)*+"  # what may stand before the first word of a line
FENCE = rf"(?P<prefix>{START})(?P<mark>`{{3,}}+(?=[^`\n]*+$)|~{{3,}}+)[^\n]*+"
NO_EMPTY_LINE = r"(?:[^$\n]|\$(?!\$)|\n(?![ \t>]*+\n))++"
INLINE_MATH = rf"\$\${NO_EMPTY_LINE}\$\$|\$(?![\s$])[^$\n]*[^\s$\\]\$(?!\w)"
EMPTY_ITEM = rf"(?:(?<![^\n]\n)|(?![ \t>]*+-$))^([ \t>]*+(?:{ITEM}(?:[ \t>]++|$))++)\n[ \t]*+\n[ \t]++(?=\S)"
HANGING = r"^ {0,3}(?:\[\^([^\]\s]++)\]:|:(?=[ \t]))[ \t]*+"  # starts a footnote or a definition
HAS_LETTER = r"[^\[\]\n]*?[^\W\d_]"
ENDS = {"<!--": "-->", "{::comment}": r"\{:/(?:comment)?\}", "{/*": r"\*/\}"}  # of comments


def hide_span(code: str) -> str:
    """Disguise inline code or a formula. The spaces at its edges separate words."""
    return re.sub(r"\s+", " ", code).translate(HIDE | {32: " "})


class Simplifier:
    """Removes or rewrites what mistune does not know, and what nobody reads: comments, scripts, formulas.

    Each method is called with the match of a pattern in `RULES`; it returns what to write instead, and where to go on.
    """

    def __init__(self, text: str, kinds: set[str], keep_code: bool) -> None:
        self.text, self.finder, self.keep_code, self.is_torn = text, Finder(text), keep_code, False
        self.notes = set(re.findall(HANGING, text, re.MULTILINE))
        self.html_end, self.indent, self.balance = 0, 0, Counter()
        rules = [(re.compile(pattern, re.M | re.I), action) for kind, pattern, action in self.RULES if kind in kinds]
        unnamed = (re.sub(r"\(\?P<\w+>", "(", rule.pattern) for rule, _ in rules)  # a name may stand only once
        opener = "|".join(f"(?P<rule{number}>{pattern})" for number, pattern in enumerate(unnamed))

        def replace(match: re.Match) -> tuple[str, int]:
            rule, action = rules[int(match.lastgroup[4:])]
            match = rule.match(text, match.start())
            return (match.expand(action), match.end()) if isinstance(action, str) else action(self, match)

        self.result = rewrite(text, re.compile(opener, re.M | re.I), replace)

    def block(self, code: str) -> str:
        """A block of code, disguised, or what remains of it: the end of a paragraph."""
        return CODE_START + (code.strip("\n").rstrip().translate(HIDE) if self.keep_code else "") + CODE_END

    def comment(self, opener: re.Match) -> tuple[str, int]:
        """Goes with its content, when it is closed."""
        return "", (self.finder.find(ENDS[opener[0].lower()], opener.end()) or opener).end()

    def obsidian_comment(self, opener: re.Match) -> tuple[str, int]:
        """From %% to %%; at the start of a line it may hold several paragraphs."""
        if opener["line"] is None:
            end = self.finder.find_in_paragraph(r"%%(?![\w%])", opener.end())
        else:
            end = self.finder.find(r"%%[ \t]*+$", opener.end())
        return ("", end.end()) if end else (opener[0], opener.end())

    def fence(self, opener: re.Match) -> tuple[str, int]:
        """Code between two lines of backticks or tildes. Without the second line the first is just text."""
        prefix, mark = opener["prefix"], opener["mark"][:20]
        end = self.finder.find(rf"^[ \t>]{{0,{min(len(prefix), 30) + 3}}}{mark}{mark[0]}*+[ \t]*+$", opener.end())
        if not end:
            return prefix, opener.end("mark")
        code = re.sub(rf"^[ \t>]{{0,{len(prefix)}}}", "", self.text[opener.end() : end.start()], flags=re.MULTILINE)
        return f"\n\n{prefix}{self.block(code)}\n\n", end.end()

    def span(self, opener: re.Match) -> tuple[str, int]:
        """Inline code is left to mistune, and its content alone."""
        end = self.finder.find_in_paragraph(rf"(?<!`){opener[0]}(?!`)", opener.end()) or opener
        return self.text[opener.start() : end.end()], end.end()

    def footnote(self, mark: re.Match) -> tuple[str, int]:
        """The mark of a known footnote goes; a definition stays for now (see `HANGING`)."""
        is_mark = mark["key"] in self.notes and not (mark["colon"] and mark["line"] is not None)
        return (mark["line"] or "") + mark["colon"] if is_mark else mark[0], mark.end()

    def wiki_link(self, link: re.Match) -> tuple[str, int]:
        """Obsidian's [[page#heading]] or [[page|words to show]]."""
        page, _, label = link["link"].partition("|")
        return "" if link["image"] else label or page.strip("#").replace("#", " > "), link.end()

    def tag(self, opener: re.Match) -> tuple[str, int]:
        """Code written as HTML is code, some tags go with their content, `Page` will read the others."""
        name, end, line = opener["name"].lower(), None, opener["line"] or ""
        if not opener["slash"] and (opener["code"] or opener["hidden"] or name == "pre"):
            find = self.finder.find_in_paragraph if opener["code"] else self.finder.find
            end = find(rf"</{name}\s*+>", opener.end())
        if opener["hidden"]:
            return line + " ", (opener if opener[0].endswith("/>") else end or opener).end()
        if end:
            code = self.text[opener.end() : end.start()]
            code = html.unescape(ANY_TAG.sub(lambda tag: "\n" * (tag["name"].lower() == "br"), code))
            return line + (f"\n\n{self.block(code)}\n\n" if name == "pre" else hide_span(code)), end.end()
        if opener["custom"] and opener["line"] is not None and opener["rest"] is not None:
            return line + "\n\n", opener.end()
        if opener["block"] and name not in VOID and not opener[0].endswith("/>"):
            is_inside = opener.start() < self.html_end or any(self.balance.values())
            line = self.unindent(line, is_inside)
            self.follow(name, opener, is_inside)
        return line + opener[0][len(opener["line"] or "") :], opener.end()

    def follow(self, name: str, tag: re.Match, is_inside: bool) -> None:
        """See how far the HTML reaches in which a tag is the first of a line, or the last of an inner element."""
        other = "/?" if tag["slash"] or name in END_OPTIONAL else "/"
        other = self.finder.find(rf"(?<!`)<({other}){name}(?=[\s/>])", tag.end())
        if tag["line"] is not None and not is_inside:
            self.indent = len(tag["line"].rpartition(">")[2])
        if other and other[1] and (tag["slash"] or tag["line"] is not None):
            self.html_end = max(self.html_end, other.start())
        self.balance[name] += -1 if tag["slash"] else 1

    def unindent(self, line: str, is_html: bool) -> str:
        """Inside HTML lines may be indented at will; they must not look like code, unless the HTML itself does."""
        quote, mark, spaces = line.rpartition(">")
        return quote + mark + spaces[: max(self.indent, len(mark))] if is_html and not spaces.strip() else line

    def indented(self, start: re.Match) -> tuple[str, int]:
        """The start of a line that does not begin with a tag."""
        return self.unindent(start[0], start.start() < self.html_end), start.end()

    def module(self, opener: re.Match) -> tuple[str, int]:
        """An import or export goes up to the end of its paragraph, or more, until its brackets are closed."""
        depth = 0
        for line in re.compile(r"[^\n]*+\n?").finditer(self.text, opener.start()):
            if not line[0].strip() and (depth <= 0 or self.is_torn):
                return "", line.start()
            depth += sum(map(line[0].count, "{[(")) - sum(map(line[0].count, "}])"))
        self.is_torn = True  # brackets that are never closed hold nothing
        return self.module(opener)

    RULES = [  # which files, what, and what instead; the first that matches wins
        ("md", r"\\\\$", "  "),  # a line break
        ("md", r"\\[\\`<$\[{%]", r"\g<0>"),  # an escaped character is left to mistune
        ("md", FENCE, fence),
        ("md", r"(?<!`)`{1,20}+(?!`)", span),
        ("html", "<!--", comment),
        ("md", r"\{::comment\}", comment),
        ("mdx", r"\{/\*", comment),
        ("md", r"(?P<line>^[ \t]*+)?(?<![\w%])%%(?!%)", obsidian_comment),
        # Display maths: $$ on lines of their own, or around a paragraph.
        ("md", rf"^[ \t>]*+\$\$(?:[ \t]*+\n[^$]*+(?:\$(?!\$)[^$]*+)*+|{NO_EMPTY_LINE})\$\$[ \t]*+$", ""),
        ("md", INLINE_MATH, r"\g<0>"),
        ("mdx", rf"(?P<line>{START})?{TAGS[True]}(?P<rest>[ \t]*+$)?", tag),
        ("html", rf"(?<!\]\()(?P<line>{START})?{TAGS[False]}(?P<rest>[ \t]*+$)?", tag),
        ("html", r"<!doctype[^<>]*+>|<\?[^<>]*+>", ""),
        ("xml", r"\[/?(?:caption|gallery|embed|audio|video|playlist|more|quote)\b[^\[\]]*+\]", " "),
        ("mdx", r"^import\s+(?:[\w*{}\s,$]{0,1000}?from\s*+)?[\"'][^\n]*+", module),
        ("mdx", r"^export\s+(?:(?:const|let|var|function|default|async|class|type|interface)\b|\{|\*)", module),
        ("mdx", r"</?>", ""),
        ("mdx", r"\{\s*+[\"'`]([^\n{}\"'`]*+)[\"'`]\s*+\}", r"\1"),
        ("md", r"(?P<line>^ {0,3})?\[\^(?P<key>[^\]\s]++)\](?P<colon>:?)", footnote),
        ("md", rf"(?P<image>!)?(?<![\w\]])\[\[(?=\S)(?={HAS_LETTER})(?P<link>[^\[\]\n]++)\]\](?![\[(])", wiki_link),
        ("md", r"^([ \t]*+>[ \t>]*+)\[![\w-]++\][-+]?", r"\1"),  # > [!note]
        ("md", r"^[ \t]*+:::++[ \t]*+(?:\{[^}\n]*+\}|[\w-]*+)", ""),  # ::: note
        ("md", r"^[ \t]*+\[{1,2}_?TOC_?\]{1,2}[ \t]*+$", ""),
        ("md", rf"^ {{0,3}}{ITEM}[ \t][^\n]*+\n[ \t]*+\{{:[^}}\n]*\btoc\b[^}}\n]*+\}}", ""),  # will be the contents
        ("md", r"^[ \t>]*+\{:(?!:)[^{}\n]*+\}[ \t]*+$", ""),  # {: .class } on a line of its own
        ("md", r"(?<=[*_`)\]>\"'])\{:[^{}\n]*+\}", ""),  # or behind words
        ("md", rf"^([ \t>]*+(?:{ITEM}[ \t>]++)++)\{{:(?!:)[^{{}}\n]*+\}}", r"\1"),  # or at the start of a list's item
        ("md", r"\{:[:/][^{}\n]*+\}", ""),  # {::nomarkdown}, {:/}
        ("md", r"(?<=[ \t])\{[#.][^{}\n]*+\}(?=[ \t]*+$)", ""),  # a heading's {#name}
        ("md", r"\[([^\[\]\n]++)\]\{[#.][^{}\n]*+\}", r"\1"),
        ("md", r"(?<=[)\]`*])\{[#.][^{}\n]*+\}|(?<=\))\{\w++=[^{}\n]*+\}", ""),  # pandoc's
        ("md", r"^ {0,3}\*\[[^\]\n]++\]:[^\n]*+|^\^[ \t]*+$", ""),  # an abbreviation's definition, a block's end
        ("md", rf"^([ \t>]*+{ITEM}[ \t]++)\[[ x]\](?=[ \t])", r"\1"),  # a task
        ("md", r"\]\((?:[^()\"\n]|\"[^\"\n]*+\"|\([^()\n]*+\))*+\)", "](#)"),  # [a](b c)
        ("md", r"^[ \t>]*+\|(?=[:|+ \t]*+[-=])[-=:|+ \t]*+$\n?", ""),  # a line drawn in a table
        ("mdx", BRACES, ""),
        ("md", r"^[ \t>]*+(?<=[ \t])(?=\S)", indented),
    ]


def simplify(text: str, kinds: set[str], keep_code: bool) -> str:
    """Reduce a post to mistune's Markdown, or to plain HTML."""
    text = Simplifier(text, kinds, keep_code).result
    if "md" not in kinds:
        return text
    text = re.sub(r"\n([ \t>]*+\|[^\n]*+)", r"  \n\1  ", "\n" + text)  # the rows of a table are lines
    text = re.sub(EMPTY_ITEM, r"\1 ", text, flags=re.MULTILINE)  # the text of an item does not begin two lines below
    # Further lines of a footnote or a definition are indented under the first: make paragraphs of them.
    hanging_block = re.compile(rf"{HANGING}(.*+(?:\n(?!{HANGING})(?:[ \t].*+|$))*+)", re.MULTILINE)
    return hanging_block.sub(lambda block: "\n" + re.sub(r"^(?: {1,4}|\t)", "", block[2], flags=re.MULTILINE), text)


# -------------------------------------------------------------------- Markdown


def make_markdown(mdx: bool) -> mistune.Markdown:
    """mistune without its HTML and its fences, which the `Simplifier` has dealt with; it returns a tree of tokens."""
    tables = ["table", "mistune.plugins.table.table_in_list", "mistune.plugins.table.table_in_quote"]
    markdown = mistune.create_markdown(renderer=None, plugins=["strikethrough", *tables])
    block, inline = markdown.block, markdown.inline

    def tag(_: mistune.InlineParser, tag: re.Match, state: mistune.InlineState) -> int:
        state.append_token({"type": "inline_html", "raw": tag[0], "tag": tag})
        return tag.end()

    def formula(_: mistune.InlineParser, formula: re.Match, state: mistune.InlineState) -> int:
        state.append_token({"type": "codespan", "raw": formula[0].strip("$")})
        return formula.end()

    inline.register("inline_html", f"(?i:{TAGS[mdx]})", tag)
    inline.register("inline_math", INLINE_MATH, formula, before="link")
    inline.specification["auto_link"] = r"<(?i:https?|ftp|mailto):[^<>\x00-\x20]*>"  # not std::vector<std::string>
    for rule in ["fenced_code", "block_html", "raw_html"]:
        block.specification[rule] = "(?!)"
    for rules in (block.rules, block.list_rules, block.block_quote_rules) if mdx else ():
        rules.remove("indent_code")
    return markdown


MARKDOWN = {mdx: make_markdown(mdx) for mdx in TAGS}


def parts(text: str, size: int = 1_000_000) -> Iterator[str]:
    """Cut a huge post between plain paragraphs: mistune needs 70 times a text's size in memory."""
    paragraph, start = re.compile(r"\n\n(?=[^\W\d_]{2})"), 0
    while cut := paragraph.search(text, start + size):
        yield text[start : cut.start()]
        start = cut.end()
    yield text[start:]


# ------------------------------------------------------------- tokens to text

# What separates words; where several meet, the last of them in this order wins. A hint is a space between words only.
SEPARATORS = ["", "", " ", " | ", "\n", "\n\n"]
NOTHING, HINT, SPACE, CELL, LINE, PARAGRAPH = range(6)
GAPS = {"td": CELL, "th": CELL, "tr": LINE, "br": LINE, "thead": LINE, "tbody": LINE, "tfoot": LINE}
AS_HTML = {  # mistune's names
    "paragraph": "p", "block_text": "p", "heading": "p", "block_quote": "p", "list_item": "li", "table": "table",
    "table_head": "tr", "table_row": "tr", "table_cell": "td", "thematic_break": "p", "linebreak": "br",
}  # fmt: skip


class Page:
    """The words of a post as they are written down, separated as in a browser."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.gap, self.marker = NOTHING, ""  # what comes before the next word
        self.lists: list[Iterator[str]] = []  # the markers to come of each open list
        self.in_cell = False

    def separate(self, gap: int) -> None:
        """The next word will be at least as far away."""
        self.gap = max(self.gap, gap)

    def write(self, text: str) -> None:
        """Add words; all white space between them counts as one space."""
        self.separate(SPACE if text[:1].isspace() else NOTHING)
        if words := " ".join(text.split()):
            edge = (self.pieces[-1][-1] if self.pieces else "") + words[0]
            is_space = self.gap == HINT and re.fullmatch(r"[^(\[{+/-][\w(]", edge.translate(SHOW))
            self.pieces += SEPARATORS[SPACE if is_space else self.gap] if self.pieces else "", self.marker + words
            self.gap, self.marker = NOTHING, ""
        self.separate(SPACE if text[-1:].isspace() else NOTHING)

    def between(self, gap: int, text: str) -> None:
        """Write what is set off on both sides."""
        self.separate(gap)
        self.write(text)
        self.separate(gap)

    def write_text(self, text: str) -> None:
        """Write text in which there are entities and blocks of code."""
        for number, part in enumerate(re.split(f"{CODE_START}([^{CODE_END}]*+){CODE_END}", text)):
            self.between(PARAGRAPH, part) if number % 2 else self.write(html.unescape(part))

    def write_html(self, text: str) -> None:
        """Write text with tags."""
        position = 0
        for tag in ANY_TAG.finditer(text):
            self.write_text(text[position : tag.start()])
            self.read_tag(tag)
            position = tag.end()
        self.write_text(text[position:])

    def read_tag(self, tag: re.Match) -> None:
        """Separate what a tag separates."""
        if tag["block"]:
            start = re.search(r"start=[\"']?(\d{1,9})", tag[0])
            self.element(tag["name"].lower(), bool(tag["slash"]), int(start[1]) if start else 1)
        elif tag["custom"] and self.gap <= SPACE:
            self.gap = HINT

    def element(self, name: str, closing: bool = False, start: int = 1) -> None:
        """Separate what an element of HTML separates; the items of lists get their markers."""
        if name in ("table", "tr", "td", "th"):
            self.in_cell = name in ("td", "th") and not closing
        elif name in ("ul", "ol") and closing:
            del self.lists[-1:]
        elif name in ("ul", "ol"):
            self.lists.append(map("{}. ".format, itertools.count(start)) if name == "ol" else itertools.repeat("- "))
        elif name == "li" and not self.in_cell:
            self.marker = "" if closing else next(self.lists[-1]) if self.lists else "- "
        self.separate(SPACE if self.in_cell and name not in ("td", "th") else GAPS.get(name, PARAGRAPH))

    def write_tokens(self, tokens: list[dict], code: str) -> None:
        """Write a branch of mistune's tree."""
        for token in tokens:
            kind, raw, attributes = token["type"], token.get("raw", ""), token.get("attrs", {})
            if kind == "text":
                self.write_text(raw)
            elif kind == "codespan":
                self.between(HINT if raw != raw.strip() else NOTHING, hide_span(raw.strip()))
            elif kind == "inline_html":
                self.read_tag(token["tag"])
            elif kind == "softbreak":
                self.separate(SPACE)
            elif kind == "block_code" and CODE_START in raw:
                self.write_text(raw)
            elif kind == "block_code":
                self.between(PARAGRAPH, raw.translate(HIDE) if code == "keep" else "")
            elif kind != "image":
                name = ("ol" if attributes["ordered"] else "ul") if kind == "list" else AS_HTML.get(kind)
                if name:
                    self.element(name, start=attributes.get("start", 1))
                self.write_tokens(token.get("children", ()), code)
                if name:
                    self.element(name, closing=True)


# ------------------------------------------------------------------ one post

URL_PATH = r"[/?\#][\w\-.~:/?\#\[\]@!$&'()*+,;=%]*+"
URL = rf"(?ia)\b(?:(?:https?|ftp)://|(?=www\.))(?P<host>[\w-]++(?:\.[\w-]++)*+)(?::\d++)?(?P<path>{URL_PATH})?"
LEFTOVERS = {
    r"(?<![\w\]])\[([^\[\]\n]++)\]\[[^\[\]\n]*+\]": r"\1",  # a link that a template would have defined
    r"\*\*(?=\S)([^*\n]++)\*\*": r"\1",  # Markdown leaves `**"a":**b` alone, kramdown does not
    r"^((?:- |\d{1,9}\. ).*)\n\n+(?=- |\d{1,9}\. )": r"\1\n",  # an empty line between items
}


def shorten_url(match: re.Match, urls: str) -> str:
    """A host instead of a URL, or nothing; punctuation that ends the sentence stays."""
    path = match["path"] or ""
    bare = path.rstrip(".,;:!?'*" if "(" in path else ".,;:!?'*)]")
    return (match["host"] if urls == "host" else "") + path[len(bare) :]


def tidy_line(line: str) -> str:
    """Superfluous spaces, pipes of tables, and lines that are only drawn."""
    line = " ".join(line.split())
    if line.startswith("|"):
        line = " | ".join(cell.strip() for cell in line.split("|") if cell.strip(" -:"))
    return line if line.strip("=|-:_* ") else ""


def tidy(text: str, urls: str, fold: bool) -> str:
    """Last touches to all but code."""
    if urls != "keep":
        text = re.sub(URL, lambda match: shorten_url(match, urls), text)
    if fold:
        text = re.sub("(?<!-)---(?!-)", "--", text)  # kramdown's long dash
    text = "\n".join(tidy_line(line) for line in text.split("\n"))
    for pattern, replacement in LEFTOVERS.items():
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text


def clean_text(text: str, kinds: set[str], code: str = "drop", urls: str = "host", fold: bool = True) -> str:
    """Plain text of a post's body, or of its title."""
    text, page = simplify(run_templates(text), kinds, code == "keep"), Page()
    if "md" not in kinds:
        page.write_html(text)
    else:
        for part in parts(text):
            page.write_tokens(MARKDOWN["mdx" in kinds](part), code)
    text = plain_characters(tidy("".join(page.pieces), urls, fold).translate(SHOW))
    return squeeze(text.translate(FOLDS) if fold else text)


STATES = ("published", "publish", "draft", "status")  # of Jekyll, Obsidian, Hugo and WordPress


def clean_parts(
    header: dict[str, str], body: str, kinds: set[str], titles=True, unpublished=False, drafts=False, **options
) -> str:
    """Plain text of a post that has been taken apart."""
    published, public, draft, status = (header.get(name, "").lower() for name in STATES)
    if not unpublished and ({published, public} & {"false", "no", "off"} or status in ("private", "trash")):
        raise SkippedError("unpublished")
    if not drafts and (draft in ("true", "yes", "on") or status in ("draft", "auto-draft", "pending")):
        raise SkippedError("a draft (see --drafts)")
    text, title = clean_text(body, kinds, **options), header.get("title", "")
    return f"{' '.join(clean_text(title, kinds, **options).split())}\n\n{text}".strip() if titles else text


def clean_post(raw: str, *, markdown: bool = True, mdx: bool = False, **options) -> str:
    """Plain text of one post: its title, an empty line, its body.

    The options are `code` ("drop" or "keep"), `urls` ("host", "drop" or "keep"), and the switches `fold` (quotes and
    dashes to ASCII), `titles`, `unpublished`, `drafts`, `markdown` (off for HTML files) and `mdx`. Cleaning the result
    again changes nothing, unless it shows markup as text (from code or escapes), lines that belong together (table
    rows, forced line breaks), or a numbered list inside another.
    """
    kinds = {"html"} | ({"md"} if markdown else set()) | ({"mdx"} if mdx else set())
    return clean_parts(*split_front_matter(plain_characters(raw)), kinds, **options)


# --------------------------------------------------------------------- files

DATED_NAME = re.compile(r"(\d{2,4})-(\d{1,2})-(\d{1,2})(?!\d)", re.ASCII)
DATE_FIELDS = ("date", "pubdate", "pubdatetime", "publishdate", "published", "publishedat", "publisheddate", "created")
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
NO_DATE, DRAFT_DATE = (0,), (10_000,)  # older and newer than all dates
POST_FOLDERS = {"_posts", "content", "posts", "post", "blog", "articles", "writing"}
IGNORED_FOLDERS = {"_site", "node_modules", "vendor", "__MACOSX"}
TEMPLATE_FOLDERS = {"layouts", "_layouts", "_includes", "themes", "archetypes", "templates", "static", "public"}
NO_POSTS = re.compile(
    r"(?i)(?:readme|licen[cs]e|copying|notice|authors|contribut\w*|change-?log|changes|code.of.conduct|security|agents|"
    r"claude|todo|requirements|robots|humans|404)(?:[._-][\w-]{2,6})?"
)
ASSETS = {".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".ico", ".pdf", ".css", ".js", ".ts", ".json", ".mp4"}


def tell(message: str) -> None:
    """Print a line to stderr."""
    print(message, file=sys.stderr)


@contextmanager
def opened(source: str) -> Iterator[Path]:
    """The folder, or the one file, to read posts from. Of an archive, what can be text is unpacked for a while."""
    path = Path(source)
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".xml"):
        yield path
    elif path.is_file() and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
            files = [file for file in archive.infolist() if Path(file.filename).suffix.lower() in SUFFIXES]
            if sum(file.file_size for file in files) > 1_000_000 + 100 * path.stat().st_size:
                raise SourceError(f"{source!r} would unpack to far more than a blog can be")
            for file in files:
                try:
                    archive.extract(file, folder)  # never outside the folder, whatever the name
                except Exception as error:  # there are as many kinds as ways to pack
                    tell(f"warning: {file.filename!r} cannot be unpacked ({error})")
            yield Path(folder)
    elif re.match(r"(?i)[a-z+.]+://|git@|(?:www\.)?git(?:hub|lab)\.com\b|[\w.-]+\.(?:io|com|org|net)\b", source):
        raise SourceError(
            f"{source!r} is an address: first download the blog's source (`git clone` it, or *Download ZIP* on GitHub, "
            "or a WordPress export), then name the folder, the .zip or the .xml"
        )
    else:
        raise SourceError(f"{source!r} is not a folder, nor a .zip or a WordPress export (.xml)")


def find_files(root: Path, drafts: bool) -> list[Path]:
    """Files in folders of posts, if there are any, else those not known to be something else; relative to the root.

    Links to folders are not followed.
    """
    if root.is_file():
        return [Path()]
    files = []
    for folder, subfolders, names in os.walk(root, onerror=lambda error: tell(f"warning: {error}")):
        here = Path(folder).relative_to(root)
        ignored = IGNORED_FOLDERS | (set() if POST_FOLDERS & set(here.parts) else TEMPLATE_FOLDERS)
        ignored |= set() if drafts else {"_drafts"}
        subfolders[:] = [name for name in subfolders if name not in ignored and not name.startswith(".")]
        files += [here / name for name in names]
    inside = [path for path in files if "_posts" in path.parts[:-1]]
    if inside:
        inside = [path for path in files if {"_posts", "_drafts"} & set(path.parts[:-1])]
    elif root.resolve().name in POST_FOLDERS:
        inside = files
    else:
        inside = [path for path in files if (POST_FOLDERS | {"_drafts"}) & set(path.parts[:-1])]
    if not inside:
        inside = [path for path in files if not NO_POSTS.fullmatch(path.stem)]
        markdown = [path for path in inside if path.suffix.lower() not in HTML_SUFFIXES]
        inside = markdown if any(path.suffix.lower() in MARKDOWN_SUFFIXES for path in markdown) else inside
    if others := [path.as_posix() for path in sorted(set(files) - set(inside)) if path.suffix.lower() in SUFFIXES]:
        tell(f"left alone: {len(others):,} files outside a posts' folder, such as {others[0]!r}")
    return sorted(inside)


def read_text(path: Path, root: Path, max_mb: float) -> str:
    """The text of a file that may hold posts: UTF-8, or else Windows-1252."""
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
    if b"\0" in data:
        raise SkippedError("binary, or not UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        tell(f"warning: {str(path.relative_to(root))!r} is not UTF-8; read as Windows-1252")
        return data.decode("cp1252", "replace")


def split_export(text: str) -> Iterator[tuple[dict[str, str], str]]:
    """The posts in a WordPress export, each as a header and a body of HTML."""
    if "wordpress.org/export/" not in text[:20_000] or "<!ENTITY" in text:
        raise SkippedError("'.xml' that is no WordPress export")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise SkippedError(f"invalid XML ({error})") from None
    for item in root.iter("item"):
        fields = {re.sub(r"\{.*/export/.*\}", "", field.tag): field.text or "" for field in item}
        body = fields.get("{http://purl.org/rss/1.0/modules/content/}encoded", "")
        body = re.sub(r"(?i)\[(/?)(?:source)?code\b[^\[\]]*+\]", r"<\1pre>", body)
        if fields.get("post_type") == "post":
            header = {"title": fields.get("title", ""), "date": fields.get("post_date", "")}
            # Without tags, empty lines separate paragraphs.
            yield header | {"status": fields.get("status", "")}, re.sub(r"\n\s*\n", "\n<p>\n", body)


# --------------------------------------------------------------------- posts


def read_date(text: str) -> tuple[int, ...]:
    """The date in a field of a header as numbers, be it `2024-05-31T12:00` or `May 31, 2024`."""
    if match := re.search(r"(?a)(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?:[T ]+(\d{1,2}):(\d{2}))?", text):
        return tuple(int(number or 0) for number in match.groups())
    year, month, day = (re.search(rf"(?ai)\b{part}", text) for part in (r"\d{4}\b", "|\\b".join(MONTHS), r"\d{1,2}\b"))
    return (int(year[0]), MONTHS.index(month[0].lower()), int(day[0]) if day else 0) if year and month else NO_DATE


def date_of(path: Path, header: dict[str, str]) -> tuple[int, ...]:
    """The date in the file's name or its folder's, else in the header."""
    for name in path.name, path.parent.name:
        if match := DATED_NAME.match(name):
            return tuple(map(int, match.groups()))
    dates = (read_date(header.get(name, "")) for name in DATE_FIELDS)
    is_draft = "_drafts" in path.parts or header.get("draft", "").lower() == "true"
    return next((date for date in dates if date != NO_DATE), DRAFT_DATE if is_draft else NO_DATE)


def fingerprint(text: str) -> str:
    """What the end of a post looks like, with whichever options it was cleaned."""
    return "".join(re.findall(r"[^\W_]", text[-200:].casefold()))[-40:]


def is_own_output(raw: str, prints: Counter[str], least: int) -> bool:
    """Whether a text has been put together by an earlier run: then half of its parts, or more, are posts."""
    posts = raw.strip().split(POST_BREAK)
    return 2 * (sum(fingerprint(post) in prints for post in posts) - least) >= len(posts)


@dataclass
class Blog:
    """The texts of all posts, oldest first, and what was found on the way."""

    texts: list[str]
    skipped: Counter[str]
    lost: int  # how many of the skipped files could have been posts
    repeated: Counter[str]  # in how many posts a paragraph stands that stands in many


def read_blog(
    source: str,
    output: Path | None = None,
    max_mb: float = 10,
    min_count: int = 0,
    drop_repeated: bool = False,
    drafts: bool = False,
    **options,
) -> Blog:
    """Find, clean and sort the posts. The options are those of the command line."""
    posts, skipped, lost, seen = [], Counter(), 0, {output and os.path.realpath(output)}

    def skip(path: Path, reason: str) -> None:
        skipped[reason] += 1
        nonlocal lost
        lost += path.suffix.lower() not in ASSETS
        tell(f"skipped {path.as_posix()!r}: {reason}")  # repr: a file's name may hold anything

    with opened(source) as root:
        for path in find_files(root, drafts):
            suffix, real = path.suffix.lower() or root.suffix.lower(), os.path.realpath(root / path)
            kinds = {"html", "md" if suffix in MARKDOWN_SUFFIXES else "html", suffix[1:]}
            try:
                if real in seen:
                    raise SkippedError("same file as another or as the output")
                text = plain_characters(read_text(root / path, root, max_mb))
                seen.add(real)
                for header, body in split_export(text) if suffix == ".xml" else [split_front_matter(text)]:
                    try:
                        text = clean_parts(header, body, kinds, drafts=drafts, **options)
                        posts.append((date_of(path, header), path, body if POST_BREAK in body else "", text))
                    except SkippedError as error:
                        skip(path, str(error))
            except (SkippedError, OSError) as error:
                skip(path, getattr(error, "strerror", None) or str(error))
    prints, texts = Counter(fingerprint(text) for *_, text in posts), {}
    dated = sum(bool(DATED_NAME.match(path.name)) for _, path, *_ in posts)
    undated = sum(date == NO_DATE for date, *_ in posts)
    for date, path, body, text in sorted(posts, key=lambda post: post[:2]):
        if is_own_output(body, prints, least=1):
            skip(path, "an earlier output of this program")
        elif date == NO_DATE and undated <= dated:  # pages such as about.md, when posts have a date in their name
            skip(path, "no date in its name")
        elif not text or text in texts:
            skip(path, "same text as another" if text else "no text in it")
        else:
            texts[text] = date
    repeated = Counter(part for text in texts for part in set(text.split("\n\n")) if len(part) > 15)
    repeated = Counter({part: count for part, count in repeated.items() if count >= MANY})
    texts = list(texts)
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


def build(source: str | Path, **options) -> str:
    """The text of a blog: posts from the oldest to the newest, two empty lines between them.

    The options are those of the command line: code, urls, titles, fold, min_count, drop_repeated, drafts, unpublished,
    max_mb. Raises `SourceError` with a sentence that says what is wrong.
    """
    texts = read_blog(str(source), **options).texts
    if not texts:
        raise SourceError(f"no usable post in {str(source)!r}; posts are files such as 2024-05-31-title.md")
    return POST_BREAK.join(texts) + "\n"


# ---------------------------------------------------------------- command line


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line's arguments; argparse exits with code 2 when they make no sense."""
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
    args = parser.parse_args(argv)
    args.fail = parser.error
    return args


def write_whole(path: Path, text: str) -> None:
    """Write a file completely or not at all: a temporary file beside it takes its name in one step."""
    if path.exists() and not path.is_file():
        raise OSError(0, "it is not a regular file")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def may_be_post(path: Path, source: str, texts: list[str]) -> bool:
    """Whether the output exists among the posts, or is named like one, and no earlier run has written it."""
    is_inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(source))
    if not path.is_file() or not (is_inside or DATED_NAME.match(path.name)):
        return False
    return not is_own_output(path.read_text("utf-8", "replace"), Counter(map(fingerprint, texts)), least=0)


def summarize(blog: Blog, text: str, dropped: bool) -> None:
    """Tell what was built."""
    counts = Counter(text)
    rarest = sorted(counts.items(), key=lambda item: (item[1], item[0]))[:10]
    skipped = ", ".join(f"{count} {reason}" for reason, count in sorted(blog.skipped.items()))
    print(f"posts used:     {len(blog.texts):,}")
    print(f"posts skipped:  {skipped or 'none'}")
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


def main(argv: list[str] | None = None) -> int:
    """Build the file. Returns 0; 1 without usable posts, 3 if it cannot write (2 is argparse's, 130 Ctrl-C's)."""
    options = vars(parse_arguments(argv))
    source, output, fail = options.pop("posts"), options["output"], options.pop("fail")
    try:
        blog = read_blog(source, **options)
    except (SourceError, OSError, zipfile.BadZipFile) as error:
        fail(str(error))
    is_taken = may_be_post(output, source, blog.texts)
    if is_taken and DATED_NAME.match(output.name):
        fail(f"{str(output)!r} looks like a post and will not be overwritten; choose another with -o")
    if not blog.texts:
        tell(f"error: no usable post in {source!r}; posts are files such as 2024-05-31-title.md")
        return 1
    text = POST_BREAK.join(blog.texts) + "\n"
    try:
        if is_taken:
            raise OSError(0, "it lies among the posts and may be one of them")
        write_whole(output, text)
    except OSError as error:
        tell(f"error: cannot write {str(output)!r}: {error.strerror}; choose another file with -o")
        return 3
    summarize(blog, text, options["drop_repeated"])
    if blog.lost > len(blog.texts):
        tell(f"WARNING: more files were skipped ({blog.lost:,}) than used ({len(blog.texts):,}): is that right?")
    return 0


def stop(number: int, frame: object) -> None:
    """Asked to stop: leave by an exception, so that no half-written file stays behind."""
    signal.signal(number, signal.SIG_IGN)  # once is enough
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # as stderr does: print escapes rather than fail
    if hasattr(signal, "SIGPIPE"):  # no traceback when nobody reads stdout
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        sys.exit(main())
    except KeyboardInterrupt as stopped:
        tell("stopped")
        sys.exit(128 + stopped.args[0])  # as shells count: 130 for Ctrl-C, 143 for SIGTERM
