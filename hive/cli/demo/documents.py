"""The demo's documents: descriptions of the Python packages installed here, as plain HTML."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions

MINIMUM_WORDS = 150
LONGEST_PAGE = 20_000

_FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_MARKDOWN_IMAGE = re.compile(r"!\[[^\]]*\](\([^)]*\)|\[[^\]]*\])")
_MARKDOWN_LINK = re.compile(r"\[([^\[\]]+)\](\([^)]*\)|\[[^\]]*\])")
_RST_LINK = re.compile(r"`([^`<]+?)\s*<[^>]+>`_{1,2}")
_RST_ROLE = re.compile(r":[\w:+-]+:`([^`]+)`")
_SUBSTITUTION = re.compile(r"\|[^|\n]{1,40}\|_{0,2}")
_MARKS = re.compile(r"`{1,2}|\*{1,3}|(?<=\w)__?(?=[\s.,;:)]|$)|(?<![\w])_{1,3}(?=\w)")
_BULLET = re.compile(r"^\s*([-*+•]|\d+[.)])\s+")
_RULER = re.compile(r"^\s*([=\-~^\"'#*+.:`_])\1{2,}\s*$")
_SKIPPED = re.compile(r"^\s*(\.\. |\||\+[-=+]{3}|>>>|\$ |\[[^\]]+\]:|[=\-]{3,}( +[=\-]{3,})+)")


@dataclass(frozen=True, slots=True)
class Document:
    """One page: the package it describes, and its paragraphs of prose."""

    name: str
    version: str
    paragraphs: tuple[str, ...]

    @property
    def words(self) -> int:
        return sum(len(paragraph.split()) for paragraph in self.paragraphs)

    @property
    def page(self) -> bytes:
        """The HTML that the demo's server sends."""
        title = html.escape(f"{self.name} {self.version}")
        body = "\n".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in self.paragraphs)
        head = (
            f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{title}</title></head>"
        )
        return f"{head}\n<body><article><h1>{title}</h1>\n{body}\n</article></body></html>".encode()


def installed_documents(limit: int) -> list[Document]:
    """The pages of the packages installed here, those with the most prose first.

    limit: how many at most. A description with less than 150 words of prose is left out; a long one
        is cut after 20,000 characters.
    """
    found: dict[str, Document] = {}
    for distribution in distributions():
        document = _document(distribution)
        if document is not None and document.words >= MINIMUM_WORDS:
            found[document.name.lower()] = document
    return sorted(found.values(), key=lambda document: (-document.words, document.name))[:limit]


def _document(distribution: Distribution) -> Document | None:
    metadata = distribution.metadata.json
    name, text = metadata.get("name"), metadata.get("description")
    if not isinstance(name, str) or not isinstance(text, str):
        return None
    kept: list[str] = []
    size = 0
    for paragraph in paragraphs_of(text):
        size += len(paragraph)
        if size > LONGEST_PAGE:
            break
        kept.append(paragraph)
    return Document(name, distribution.version, tuple(kept))


def paragraphs_of(text: str) -> list[str]:
    """The prose of a Markdown or reStructuredText description: no code, tables, badges, directives
    or headings.

    A list's entry is a paragraph of its own when it is a sentence.
    """
    text = _COMMENT.sub("", _FENCE.sub("", text.replace("\r\n", "\n")))
    paragraphs: list[str] = []
    literal = False  # inside the indented block that `::` or a directive announced
    for block in re.split(r"\n\s*\n", text):
        lines = block.strip("\n").split("\n")
        indented = lines[0].startswith(("    ", "\t", "   "))
        if literal and indented:
            continue
        literal = block.rstrip().endswith("::") or lines[0].startswith(".. ")
        if indented and not _BULLET.match(lines[0]):
            continue
        paragraphs += [clean for part in _entries(lines) if _is_prose(clean := _plain(part))]
    return paragraphs


def _entries(lines: list[str]) -> list[str]:
    """A block's paragraph, or its list's entries; headings, tables and directives are dropped."""
    entries: list[list[str]] = [[]]
    for line in lines:
        if _RULER.match(line):
            entries[-1] = []  # the line above was a title
        elif line.startswith("#") or _SKIPPED.match(line):
            entries.append([])
        elif _BULLET.match(line):
            entries.append([_BULLET.sub("", line)])
        else:
            entries[-1].append(line.strip().removeprefix("> "))
    return [" ".join(entry) for entry in entries if entry]


def _plain(text: str) -> str:
    text = _TAG.sub(" ", _MARKDOWN_IMAGE.sub("", text))
    text = _MARKDOWN_LINK.sub(r"\1", _MARKDOWN_LINK.sub(r"\1", text))
    text = _RST_ROLE.sub(r"\1", _RST_LINK.sub(r"\1", _SUBSTITUTION.sub("", text)))
    text = html.unescape(_MARKS.sub("", text))
    return " ".join(text.removesuffix("::").split())


def _is_prose(text: str) -> bool:
    """At least eight words, most of them of letters, and the end of a sentence."""
    words = text.split()
    letters = sum(
        word.strip(".,;:!?()'\"").replace("-", "").replace("'", "").isalpha() for word in words
    )
    return (
        len(words) >= 8
        and letters >= 0.7 * len(words)
        and text.rstrip(")\"'").endswith((".", "!", "?"))
    )
