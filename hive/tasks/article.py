"""The article of an HTML page: its title and text without menus, scripts and advertisements."""

from __future__ import annotations

import html
import re

from lxml.etree import ParserError
from lxml.html import HtmlElement, HTMLParser, document_fromstring
from pydantic import BaseModel, ConfigDict
from trafilatura import bare_extraction
from trafilatura.settings import Document

from hive.errors import FetchError
from hive.tasks.fetching import Page

_DEEPEST = 2_048
"""Elements within each other that libxml2 reads at most; what is below is dropped by it."""
_TAG = re.compile(r"<[a-z!/?]", re.IGNORECASE)
_REFERENCE = re.compile(r"&#(?:x([0-9a-f]+)|([0-9]+));?", re.IGNORECASE)
# What XML cannot hold. Trafilatura gives up a page whose text has one of them.
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_SPACES = frozenset(map(ord, "\t\n\r"))


class Article(BaseModel):
    """What an article says about itself; None where the page does not tell.

    `text` has one paragraph a line.
    """

    model_config = ConfigDict(frozen=True)

    url: str
    title: str | None
    author: str | None
    date: str | None
    description: str | None
    site: str | None
    text: str


def extract_article(page: Page) -> Article:
    """Extract the article of a page, whole.

    Raises: FetchError when the page has no text to read, or is nested too deep to be read whole.
    """
    tree = _tree(page)
    document = (
        None
        if tree is None
        else bare_extraction(tree, url=page.url, with_metadata=True, include_comments=False)
    )
    if not isinstance(document, Document) or not (document.text or "").strip():
        raise FetchError(f"{page.url}: the page has no text to read.")
    return Article(
        url=page.url,
        title=document.title,
        author=document.author,
        date=document.date,
        description=document.description,
        site=document.sitename,
        text=str(document.text).strip(),
    )


def _tree(page: Page) -> HtmlElement | None:
    """The page's elements; None where it has none.

    It is parsed here, since trafilatura's own parser drops what is nested deeper than 256 elements,
    as it is in old pages laid out by tables or with tags that are never closed.
    """
    if not _TAG.search(page.text):
        return None
    parser = HTMLParser(
        collect_ids=False,
        default_doctype=False,
        encoding="utf-8",
        huge_tree=True,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        # Bytes, since lxml refuses a text that declares an encoding.
        tree = document_fromstring(_readable(page.text).encode(), parser=parser)
    except ParserError:
        return None
    if any(entry.type_name == "ERR_RESOURCE_LIMIT" for entry in parser.error_log):
        raise FetchError(
            f"{page.url}: the page is not read, since it has more than {_DEEPEST:,} elements "
            "within each other."
        )
    return tree


def _readable(text: str) -> str:
    """The text without what XML cannot hold, whether it stands there or is referred to.

    References are read as browsers do: HTML standard, section 13.2.5.80.
    """
    return _NOT_IN_XML.sub("", _REFERENCE.sub(_referred_to, text))


def _referred_to(reference: re.Match[str]) -> str:
    digits = reference[1] or reference[2]
    # A number of 20 digits is no character; int() refuses one of more than 4,300.
    code = 0x110000 if len(digits) > 20 else int(digits, 16 if reference[1] else 10)
    if 32 <= code < 127 or code in _SPACES or 160 <= code < 0xD800:
        return reference[0]
    return html.unescape(f"&#{code};")
