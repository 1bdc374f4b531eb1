"""Turn the posts of a Jekyll blog into one clean text file to train a language model on.

    python build_dataset.py path/to/blog/_posts -o data/blog.txt

A post passes through these steps, which stand in this order in the file:

1. `split_front_matter`  takes the YAML header off; its title becomes the first line
2. `run_liquid`          removes Liquid tags, as Jekyll does before it looks at Markdown
3. `MarkupHider`         disguises what Markdown must not touch: code, HTML tags, formulas
4. `plain_markdown`      rewrites what only kramdown, Jekyll's dialect of Markdown, knows
5. `MARKDOWN`            is mistune: it turns Markdown into HTML
6. `HtmlToText`          turns HTML into lines of text
7. `tidy`                shortens URLs and removes what is left over

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
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import mistune
import yaml

MARKDOWN_SUFFIXES = {".md", ".markdown", ".mkd", ".mkdn", ".mkdown", ".mdown", ".rmd", ".txt", ".text"}
HTML_SUFFIXES = {".html", ".htm", ".xhtml"}
POST_BREAK = "\n\n\n"  # two empty lines: inside a post there is never more than one

# ---------------------------------------------------------------- characters

FOLDS = str.maketrans("‘’‚‛′“”„‟″‐‑‒–−", "'''''\"\"\"\"\"-----") | str.maketrans({"—": "--", "―": "--", "…": "..."})
# Our own marks are among the characters that Unicode keeps free for a program's inner use. The first four stand for
# separators; where several meet, the last of them in this order wins.
CELL, LINE, PARAGRAPH, ITEM = "\ufdd0\ufdd1\ufdd2\ufdd3"
TAG_START, TAG_END, HTML_START, HTML_END, CODE_START, CODE_END = "\ufdd4\ufdd5\ufdd6\ufdd7\ufdd8\ufdd9"
# Disguised text: every ASCII character has a double that means nothing to Markdown, HTML or the patterns below.
# The backticks around inline code have another one, a ghost: it vanishes unless it turns out to be in a block of code.
HIDE, GHOST = ({code: plane + code for code in range(128)} for plane in (0xF0000, 0xF1000))
SHOW = {double: code for code, double in HIDE.items()}
SHOW_GHOSTS = SHOW | {double: code for code, double in GHOST.items()}


def plain_characters(text: str) -> str:
    """Unify line ends and spaces, remove what cannot be seen (and our own marks), compose accents."""
    text = "\n".join(text.splitlines())
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
FRONT_MATTER = re.compile(r"---[ \t]*\n(.{0,100000}?)^(?:---|\.\.\.)[ \t]*$\n?", re.MULTILINE | re.DOTALL)


def split_front_matter(text: str) -> tuple[dict, str]:
    """Return the YAML header as a dictionary, and the rest. A header that is no valid YAML counts as empty."""
    match = FRONT_MATTER.match(text)
    if not match:
        return {}, text
    try:
        # BaseLoader is the safe loader that leaves scalars as they were typed: `2.10` stays "2.10".
        header = yaml.load(match[1], Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError):  # Jekyll publishes such posts, too
        header = None
    return (header if isinstance(header, dict) else {}), text[match.end() :]


# -------------------------------------------------------------------- Liquid


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
        """The same, but only as far as the next empty line."""
        end, limit = self.find(pattern, start), self.find(r"\n[ \t>]*+\n", start)
        return None if end and limit and limit.start() < end.start() else end


def rewrite(text: str, opener: re.Pattern, replace: Callable[[re.Match], tuple[str, int]]) -> str:
    """Call `replace` at each match of `opener`; it returns what to write instead, and where to go on."""
    pieces, position = [], 0
    while match := opener.search(text, position):
        replacement, end = replace(match)
        pieces += text[position : match.start()], replacement
        position = end
    return "".join(pieces) + text[position:]


LIQUID = re.compile(r"\{\{|\{%-?\s*+(\w*+)")


def run_liquid(text: str) -> str:
    """Remove Liquid's tags and outputs; of the blocks with special content, `raw` and `highlight` leave it."""
    finder = Finder(text)

    def replace(opener: re.Match) -> tuple[str, int]:
        name = opener[1]
        tag = finder.find(r"\}\}" if name is None else r"%\}", opener.end())
        if not tag:  # an unclosed tag eats nothing
            return opener[0], opener.end()
        end = name in ("comment", "raw", "highlight") and finder.find(rf"\{{%-?\s*+end{name}\s*+-?%\}}", tag.end())
        if not end or name == "comment":
            return "", (end or tag).end()
        content = text[tag.end() : end.start()]
        return (content if name == "raw" else f"<pre>{html.escape(run_liquid(content))}</pre>"), end.end()

    return rewrite(text, LIQUID, replace)


# ------------------------------------------------- what Markdown must not see

CODE = "code|tt|kbd|samp"
INLINE = (
    "a|abbr|acronym|b|bdi|bdo|big|blink|cite|data|del|dfn|em|font|i|img|input|ins|label|mark|nobr|picture|q|rp|rt|ruby|"
    "s|small|source|span|strike|strong|sub|sup|time|u|var|wbr"
)
BLOCK = (
    "address|area|article|aside|blockquote|body|br|button|caption|center|col|colgroup|dd|details|dialog|dir|div|dl|dt|"
    "embed|fieldset|figcaption|figure|footer|form|h[1-6]|head|header|hr|html|legend|li|link|main|map|menu|meta|nav|"
    "object|ol|optgroup|option|p|param|pre|section|select|summary|table|tbody|td|textarea|tfoot|th|thead|title|tr|"
    "track|ul"
)
HIDDEN = "script|style|svg|iframe|noscript|video|audio|canvas|template|math"  # these go with their content
NAME = rf"(?P<name>(?P<code>{CODE})|(?P<inline>{INLINE})|(?P<block>{BLOCK})|(?P<hidden>{HIDDEN}))"
TAG = rf"""<(?P<slash>/?){NAME}(?=[\s/>])(?:(?:[^<>"']|"[^"<]*+"|'[^'<]*+')*+|[^<>]*+)>"""
ANY_TAG = re.compile(TAG, re.IGNORECASE)

# What the hider stops at, and the method that deals with it. The first that matches wins.
HTML_OPENERS = {
    "comment": r"<!--|\{::comment\}",
    "tag": rf"(?<!\]\(){TAG}",  # `[text](<a b.png>)` is a link with a space in its target
    "dropped": r"<!doctype[^<>]*+>|<\?[^<>]*+>",
}
MARKDOWN_OPENERS = HTML_OPENERS | {
    "escape": r"\\[\\`<$\[{]",
    "fence": r"^(?P<prefix>[ \t>]*+(?:(?:[-*+]|\d{1,9}[.)])[ \t>]++)*+)(?P<mark>`{3,20}+(?=[^`\n]*+$)|~{3,20}+)[^\n]*+",
    "span": r"(?<!`)`{1,20}+(?!`)",
    "display_math": r"^[ \t>]*+\$\$[^$]*+(?:\$(?!\$)[^$]*+)*+\$\$[ \t]*+$",
    "inline_math": r"\$\$[^$]++\$\$|\$(?![\s$])[^$\n]*[^\s$\\]\$(?!\w)",
}


class MarkupHider:
    """Disguises what Markdown would misread (see `HIDE`), and drops what nobody reads: comments, scripts, formulas.

    Each method that returns a text and a position is called with the match of the opener that it is named after.
    """

    def __init__(self, text: str) -> None:
        self.text, self.finder = text, Finder(text)
        self.tags: list[re.Match] = []  # those outside code
        self.closing_tags: Counter[str] = Counter()  # those to come
        self.open_tags: Counter[str] = Counter()
        self.outermost = ""

    def run(self, openers: dict[str, str]) -> str:
        """Return the text with its markup disguised."""
        any_opener = "|".join(f"(?P<{name}>{pattern})" for name, pattern in openers.items())
        any_opener = re.compile(any_opener, re.MULTILINE | re.IGNORECASE)
        text = rewrite(self.text, any_opener, lambda opener: getattr(self, opener.lastgroup)(opener))
        tags = iter(self.tags)
        text = re.sub(TAG_START, lambda _: self.edge_of_html(next(tags)) + TAG_START, text)
        # Lines inside HTML may be indented at will, in quotes, too; to Markdown they would look like code. But they may
        # be code indeed, when the line where the HTML begins is as much indented.
        html_block = rf"(?:^([ \t>]*+)([^\n{HTML_START}]*+))?{HTML_START}([^{HTML_END}]*+){HTML_END}?"

        def unindent(block: re.Match) -> str:
            indent = len((block[1] or "").rpartition(">")[2])
            line_start = rf"(\n(?:[ \t]*+>)*+[ \t]{{0,{indent}}}+)[ \t]*+"
            return re.sub(line_start, r"\1", block.expand(r"\1\2\3"))

        return re.sub(html_block, unindent, text, flags=re.MULTILINE)

    def between(self, opener: re.Match, end: re.Match) -> str:
        """The text inside."""
        return self.text[opener.end() : end.start()]

    def dropped(self, opener: re.Match) -> tuple[str, int]:
        """Leave it out."""
        return "", opener.end()

    display_math = dropped

    def escape(self, opener: re.Match) -> tuple[str, int]:
        """Leave it to mistune."""
        return opener[0], opener.end()

    def inline_math(self, opener: re.Match) -> tuple[str, int]:
        """Formulas in a sentence stay as they were typed."""
        formula = opener[0].strip("$")
        return hide_span(formula, opener[0].partition(formula)[0]), opener.end()

    def comment(self, opener: re.Match) -> tuple[str, int]:
        """Goes with its content, when it is closed."""
        end = self.finder.find("-->" if opener[0] == "<!--" else r"\{:/(?:comment)?\}", opener.end())
        return "", (end or opener).end()

    def fence(self, opener: re.Match) -> tuple[str, int]:
        """Code between two lines of backticks or tildes. Without the second line the first is just text."""
        prefix, mark = opener["prefix"], opener["mark"]
        end = self.finder.find(rf"^[ \t>]*+{mark}{mark[0]}*+[ \t]*+$", opener.end())
        if not end:
            return prefix, opener.end("mark")
        code = re.sub(rf"^[ \t>]{{0,{len(prefix)}}}", "", self.between(opener, end), flags=re.MULTILINE)
        return f"\n\n{prefix}{hide_block(code)}\n\n", end.end()

    def span(self, opener: re.Match) -> tuple[str, int]:
        """Inline code."""
        end = self.finder.find_in_paragraph(rf"(?<!`){opener[0]}(?!`)", opener.end())
        return (hide_span(self.between(opener, end), opener[0]), end.end()) if end else self.escape(opener)

    def tag(self, opener: re.Match) -> tuple[str, int]:
        """Code written as HTML is code, some tags go with their content, `HtmlToText` will read the others."""
        name, end = opener["name"].lower(), None
        if not opener["slash"] and (opener["code"] or opener["hidden"] or name == "pre"):
            find = self.finder.find_in_paragraph if opener["code"] else self.finder.find
            end = find(rf"</{name}\s*+>", opener.end())
        if opener["hidden"]:
            return " ", (opener if opener[0].endswith("/>") else end or opener).end()
        if end:
            code = without_tags(self.between(opener, end))
            return (f"\n\n{hide_block(code)}\n\n" if name == "pre" else hide_span(code)), end.end()
        self.tags.append(opener)
        self.closing_tags[name] += bool(opener["slash"])
        return TAG_START + opener[0].translate(HIDE) + TAG_END, opener.end()

    def edge_of_html(self, tag: re.Match) -> str:
        """Mark where HTML begins and ends, by counting open tags; the end of the outermost one ends all others.

        A tag that is never closed holds nothing.
        """
        name, was_inside = tag["name"].lower(), any(self.open_tags.values())
        if tag["slash"]:
            self.closing_tags[name] -= 1
            self.open_tags[name] -= self.open_tags[name] > 0
            if name == self.outermost and not self.open_tags[name]:
                self.open_tags.clear()
        else:
            self.open_tags[name] += self.closing_tags[name] > self.open_tags[name]
            self.outermost = self.outermost if was_inside else name
        is_inside = any(self.open_tags.values())
        return "" if is_inside == was_inside else HTML_START if is_inside else HTML_END


def hide_span(code: str, mark: str = "") -> str:
    """Disguise inline code that was written between two marks."""
    return mark.translate(GHOST) + " ".join(code.split()).translate(HIDE) + mark.translate(GHOST)


def hide_block(code: str) -> str:
    """Disguise a block of code; later it is dropped or becomes a paragraph."""
    return CODE_START + code.strip("\n").rstrip().translate(HIDE) + CODE_END


def show_tags(text: str) -> str:
    """Remove the disguise of the tags."""
    return re.sub(f"{TAG_START}([^{TAG_END}]*+){TAG_END}", lambda tag: tag[1].translate(SHOW), text)


def without_tags(markup: str) -> str:
    """The text of a piece of HTML without caring for its layout."""
    return html.unescape(ANY_TAG.sub(lambda tag: "\n" if tag["name"].lower() == "br" else "", markup))


# ------------------------------------------------------------------- kramdown

HANGING = r"^ {0,3}(?:\[\^([^\]\s]++)\]:|:(?=[ \t]))[ \t]*+"  # starts a footnote or a definition
KRAMDOWN = {
    r"^ {0,3}(?:[-*+]|\d++\.)[ \t][^\n]*+\n[ \t]*+\{:[^}\n]*\btoc\b[^}\n]*+\}": "",  # a list that becomes the contents
    r"^[ \t>]*+\{:[^{}\n]*+\}[ \t]*+$": "",  # {: .class } on a line of its own
    rf"(?<=[*_`)\]>\"'{TAG_END}\U000F0000-\U000F107F])\{{:[^{{}}\n]*+\}}": "",  # or behind words
    r"^([ \t>]*+(?:(?:[-*+]|\d++\.)[ \t>]++)++)\{:[^{}\n]*+\}": r"\1",  # or at the start of a list's item
    r"\{:[:/][^{}\n]*+\}": "",  # {::nomarkdown}, {:/}
    r"(?<=[ \t])\{\#[\w:.-]++\}(?=[ \t]*+$)": "",  # a heading's {#name}
    r"^ {0,3}\*\[[^\]\n]++\]:[^\n]*+|^\^[ \t]*+$": "",  # an abbreviation's definition, a block's end
    r"\\\\$": "  ",  # a line break
}


def plain_markdown(text: str) -> str:
    """Remove or rewrite what mistune does not know. Code and tags are disguised by now."""
    for pattern, replacement in KRAMDOWN.items():
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    notes = set(re.findall(HANGING, text, re.MULTILINE))
    text = re.sub(r"(?<!\\)\[\^([^\]\s]++)\](?!:)", lambda mark: "" if mark[1] in notes else mark[0], text)
    # Further lines of a footnote or a definition are indented under the first: make paragraphs of them.
    hanging_block = re.compile(rf"{HANGING}(.*+(?:\n(?!{HANGING})(?:[ \t].*+|$))*+)", re.MULTILINE)
    return hanging_block.sub(lambda block: "\n" + re.sub(r"^(?: {1,4}|\t)", "", block[2], flags=re.MULTILINE), text)


# ------------------------------------------------------------ Markdown to HTML


class Renderer(mistune.HTMLRenderer):
    """mistune's HTML without what we do not need."""

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """Only its words; checking its target takes long."""
        return text

    def block_code(self, code: str, info: str | None = None) -> str:
        """Indented code; fenced code has been dealt with before (but comes here from deep inside a quote)."""
        return hide_block(show_tags(code).translate(SHOW_GHOSTS).strip(CODE_START + CODE_END + "\n"))


TABLES = ["table", "mistune.plugins.table.table_in_list", "mistune.plugins.table.table_in_quote"]
MARKDOWN = mistune.create_markdown(renderer=Renderer(escape=False), plugins=["strikethrough", *TABLES])


def parts(text: str, size: int = 1_000_000) -> Iterator[str]:
    """Cut a huge post between plain paragraphs: mistune needs 70 times a text's size in memory."""
    paragraph, start = re.compile(r"\n\n(?=[^\W\d_]{2})"), 0
    while cut := paragraph.search(text, start + size):
        yield text[start : cut.start()]
        start = cut.end()
    yield text[start:]


# ---------------------------------------------------------------- HTML to text

SEPARATORS = {CELL: " | ", LINE: "\n", PARAGRAPH: "\n\n", ITEM: "\n\n"}
MARK = rf"[{CELL}{LINE}{PARAGRAPH}]|{ITEM}([^{ITEM}]*+){ITEM}"  # the marker of a list's item is inside its mark
MARKS = {"table": PARAGRAPH, "td": CELL, "th": CELL} | dict.fromkeys(["tr", "br", "thead", "tbody", "tfoot"], LINE)


class HtmlToText:
    """Separates words as a browser would."""

    def __init__(self) -> None:
        self.lists: list[Iterator[str]] = []  # the markers to come of each open list
        self.in_cell = False

    def run(self, markup: str) -> str:
        """Put a mark for each tag; then a run of marks becomes the widest separator in it."""
        text = " ".join(html.unescape(ANY_TAG.sub(self.mark, markup)).split())
        gap = re.compile(rf" ?(?:{MARK})(?: |{MARK})*+")
        return gap.sub(lambda gap: SEPARATORS[max(gap[0])] + (gap[2] if gap[2] is not None else gap[1] or ""), text)

    def mark(self, tag: re.Match) -> str:
        """What stands for a tag."""
        name, closing = tag["name"].lower(), tag["slash"]
        if tag["inline"] or tag["code"]:
            return ""
        if name in ("table", "tr", "td", "th"):
            self.in_cell = name in ("td", "th") and not closing
        elif name in ("ul", "ol") and closing:
            del self.lists[-1:]
        elif name in ("ul", "ol"):
            start = re.search(r"start=[\"']?(\d{1,9})", tag[0])
            numbers = map("{}. ".format, itertools.count(int(start[1]) if start else 1))
            self.lists.append(numbers if name == "ol" else itertools.repeat("- "))
        elif name == "li" and not self.in_cell:
            return ITEM + ("" if closing else next(self.lists[-1]) if self.lists else "- ") + ITEM
        return " " if self.in_cell and name not in ("td", "th") else MARKS.get(name, PARAGRAPH)


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
    """Superfluous spaces, pipes of tables without a head, and lines that are only drawn."""
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


def clean_text(text: str, code: str = "drop", urls: str = "host", fold: bool = True, markdown: bool = True) -> str:
    """Plain text of a post's body, or of its title."""
    hidden = MarkupHider(run_liquid(text)).run(MARKDOWN_OPENERS if markdown else HTML_OPENERS)
    texts = []
    for part in parts(plain_markdown(hidden) if markdown else hidden):
        markup = show_tags(MARKDOWN(part) if markdown else part)
        kept = PARAGRAPH + (r"\1" + PARAGRAPH if code == "keep" else "")
        markup = re.sub(f"{CODE_START}([^{CODE_END}]*+){CODE_END}", kept, markup)
        texts.append(plain_characters(tidy(HtmlToText().run(markup), urls, fold).translate(SHOW)))
    text = "\n\n".join(texts)
    return squeeze(text.translate(FOLDS) if fold else text)


class SkippedError(Exception):
    """Says why a file is not used."""


def clean_post(raw: str, *, titles: bool = True, unpublished: bool = False, **options) -> str:
    """Plain text of one post: its title, an empty line, its body.

    The options are `code` ("drop" or "keep"), `urls` ("host", "drop" or "keep"), and the switches `fold` (quotes and
    dashes to ASCII) and `markdown` (off for HTML files). Cleaning the result again changes nothing, unless it shows
    markup as text (from code or escapes), lines that belong together (table rows, forced line breaks), or a numbered
    list inside another.
    """
    header, body = split_front_matter(plain_characters(raw))
    if not unpublished and str(header.get("published")).lower() in ("false", "no", "off"):
        raise SkippedError("unpublished")
    text, title = clean_text(body, **options), header.get("title")
    if titles and isinstance(title, str):
        text = " ".join(clean_text(title, **options).split()) + "\n\n" + text
    return text.strip()


# --------------------------------------------------------------------- posts

DATE = re.compile(r"(\d{2,4})-(\d{1,2})-(\d{1,2})-.", re.ASCII)
UNDATED = (100_000,)  # behind all dates
IGNORED_FOLDERS = {"_site", "node_modules", "vendor"}


def tell(message: str) -> None:
    """Print a line to stderr."""
    print(message, file=sys.stderr)


def find_files(root: Path, drafts: bool) -> list[Path]:
    """All files below a folder, or only those of a blog's posts. Links to folders are not followed."""
    files, ignored = [], IGNORED_FOLDERS | (set() if drafts else {"_drafts"})
    for folder, subfolders, names in os.walk(root, onerror=lambda error: tell(f"warning: {error}")):
        subfolders[:] = [name for name in subfolders if name not in ignored and not name.startswith(".")]
        files += [Path(folder, name) for name in names]
    of_blog = [path for path in files if {"_posts", "_drafts"} & set(path.relative_to(root).parts)]
    return sorted(of_blog if any("_posts" in path.relative_to(root).parts for path in of_blog) else files)


def read_text(path: Path, max_mb: float) -> str:
    """The text of a file that may hold a post: UTF-8, or else Windows-1252."""
    if path.name[0] in "._#" or path.name.endswith("~"):
        raise SkippedError("hidden or temporary")
    if path.suffix.lower() not in MARKDOWN_SUFFIXES | HTML_SUFFIXES:
        raise SkippedError(f"{path.suffix or 'unnamed'!r} is not a post's file type")
    if not path.is_file():
        raise SkippedError("not a regular file")
    if path.stat().st_size > max_mb * 1_000_000:
        raise SkippedError(f"larger than {max_mb:g} MB (see --max-mb)")
    data = path.read_bytes()
    if b"\0" in data:
        raise SkippedError("binary, or not UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        tell(f"warning: {str(path)!r} is not UTF-8; read as Windows-1252")
        return data.decode("cp1252", "replace")


def date_of(path: Path) -> tuple[int, ...]:
    """The date in a file's name as numbers; drafts are newer than everything dated."""
    date = DATE.match(path.name)
    return tuple(map(int, date.groups())) if date else (10_000,) if "_drafts" in path.parts else UNDATED


def read_posts(args: argparse.Namespace) -> tuple[list[str], Counter[str]]:
    """The texts of all posts, oldest first, and how many files were skipped for which reason."""
    options = {name: getattr(args, name) for name in ("code", "urls", "titles", "fold", "unpublished")}
    texts, skipped, seen = {}, Counter(), {os.path.realpath(args.output)}
    for date, path in sorted((date_of(path), path) for path in find_files(args.posts, args.drafts)):
        real = os.path.realpath(path)
        try:
            if real in seen:
                raise SkippedError("same file as another or as the output")
            if not Path(real).is_relative_to(os.path.realpath(args.posts)):
                raise SkippedError("a link that leads out of the folder")
            raw = read_text(path, args.max_mb)
            if date == UNDATED and min(texts.values(), default=UNDATED) < UNDATED:
                raise SkippedError("no date in its name")
            text = clean_post(raw, markdown=path.suffix.lower() in MARKDOWN_SUFFIXES, **options)
            if not text or text in texts:
                raise SkippedError("same text as another" if text else "no text in it")
        except (SkippedError, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            skipped[reason] += 1
            tell(f"skipped {str(path)!r}: {reason}")  # repr: a file's name may hold anything
        else:
            texts[text] = date
            seen.add(real)
    return list(texts), skipped


def replace_rare(texts: list[str], min_count: int) -> list[str]:
    """Replace characters seen fewer than `min_count` times by their unaccented form, or drop them."""
    counts = Counter("".join(texts))
    bases = {char: unicodedata.normalize("NFD", char)[0] for char in counts.keys() - {"\n", " "}}
    rare = {char: base for char, base in bases.items() if counts[char] < min_count}
    table = str.maketrans({char: base if counts[base] >= min_count else None for char, base in rare.items()})
    texts = [squeeze(re.sub(r"(?<=\S) +", " ", text.translate(table))) for text in texts]
    return [text for text in texts if text]


# ---------------------------------------------------------------- command line


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line's arguments; argparse exits with code 2 when they make no sense."""
    parser = argparse.ArgumentParser(description="Turn the posts of a Jekyll blog into one clean text file.")
    add, data = parser.add_argument, Path(__file__).resolve().parent / "data"
    add("posts", nargs="?", type=Path, default=data / "_posts", help="a _posts folder, or a blog's root")
    add("-o", "--output", type=Path, default=data / "blog.txt", help="the file to write")
    add("--code", choices=("drop", "keep"), default="drop", help="blocks of code (default: drop)")
    add("--urls", choices=("host", "drop", "keep"), default="host", help="visible addresses (default: only the host)")
    add("--no-titles", dest="titles", action="store_false", help="leave the posts' titles out")
    add("--no-fold", dest="fold", action="store_false", help="keep curly quotes, dashes, ellipses")
    add("--min-count", type=int, default=0, metavar="N", help="replace or drop characters seen fewer than N times")
    add("--drafts", action="store_true", help="read _drafts folders, too")
    add("--unpublished", action="store_true", help="read posts with `published: false`, too")
    add("--max-mb", type=float, default=10, metavar="N", help="skip larger files (default: 10)")
    args = parser.parse_args(argv)
    if not args.posts.is_dir():
        parser.error(f"{str(args.posts)!r} is not a folder; name a blog's folder or its _posts folder")
    if args.output.is_file() and DATE.match(args.output.name):
        parser.error(f"{str(args.output)!r} looks like a post and will not be overwritten; choose another with -o")
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


def may_be_post(args: argparse.Namespace, texts: list[str]) -> bool:
    """Whether the output is a file among the posts that no earlier run wrote: such a run's file shows a post's text."""
    files = find_files(args.posts, drafts=True) if args.output.is_file() else []
    if not any(os.path.exists(path) and os.path.samefile(path, args.output) for path in files):
        return False
    old = args.output.read_text(encoding="utf-8", errors="replace")
    return not set(texts) & set(old.rstrip("\n").split(POST_BREAK))


def summarize(texts: list[str], text: str, skipped: Counter[str]) -> None:
    """Tell what was built."""
    counts = Counter(text)
    rarest = sorted(counts.items(), key=lambda item: (item[1], item[0]))[:10]
    print(f"posts used:     {len(texts):,}")
    print("posts skipped:  " + (", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items())) or "none"))
    print(f"characters:     {len(text):,}")
    print(f"vocabulary:     {len(counts):,} different characters")
    print("rarest:         " + ", ".join(f"{char!r} x{count}" for char, count in rarest))
    print(f"first loss:     about ln({len(counts)}) = {math.log(len(counts)):.3f} before training")


def main(argv: list[str] | None = None) -> int:
    """Build the file. Returns 0; 1 without usable posts, 3 if it cannot write (2 is argparse's, 130 Ctrl-C's)."""
    args = parse_arguments(argv)
    texts, skipped = read_posts(args)
    if args.min_count > 0:
        texts = replace_rare(texts, args.min_count)
    if not texts:
        tell(f"error: no usable post in {str(args.posts)!r}; posts are files such as 2024-05-31-title.md")
        return 1
    text = POST_BREAK.join(texts) + "\n"
    try:
        if may_be_post(args, texts):
            raise OSError(0, "it lies among the posts and may be one of them")
        write_whole(args.output, text)
    except OSError as error:
        tell(f"error: cannot write {str(args.output)!r}: {error.strerror}; choose another file with -o")
        return 3
    summarize(texts, text, skipped)
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
