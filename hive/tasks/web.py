"""Skills that read the web: fetch a page, extract its article, summarize it.

The libraries behind them are imported where they are used: a program that only sends these tasks
needs none of them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, model_validator

from hive.applications import running_application
from hive.settings import settings_of
from hive.skills import skill

if TYPE_CHECKING:
    from hive.tasks.fetching import Page, Wanted

_WEB_ADDRESS = re.compile(r"\s*https?://", re.IGNORECASE)
_OTHER_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*://\S*\s*", re.IGNORECASE)


class PageInput(BaseModel):
    """One http or https address."""

    url: str = Field(min_length=1)


class SummarizeInput(BaseModel):
    """A page's address or a text, and how many sentences to keep.

    A `url` that is no address is the text.
    """

    url: str | None = None
    sentences: int = Field(3, ge=1, le=100)
    text: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> SummarizeInput:
        if self.url is not None and self.text is not None:
            raise ValueError("give a url or a text, not both")
        if self.url is not None and not _WEB_ADDRESS.match(self.url):
            if _OTHER_ADDRESS.fullmatch(self.url):
                raise ValueError(
                    f"{self.url.strip()[:200]!r} cannot be fetched: only http:// and https:// "
                    "addresses can"
                )
            self.url, self.text = None, self.url
        if self.url is None and not (self.text or "").strip():
            raise ValueError("give the url of a page, or a text")
        return self


@skill(
    "Fetch a page of text over HTTP",
    intents=("fetch", "fetch page", "fetch url", "download", "download page", "get page"),
    input=PageInput,
)
def fetch(url: str) -> dict[str, Any]:
    """Fetch one page of text (HTML, plain text, JSON, XML).

    url: an http or https address.

    Returns: url (after redirects), status, content_type, charset, size (bytes), redirects, text.
    Raises: FetchError when it cannot be fetched, is larger than 10 MiB, is no text, or is empty.
    """
    return _fetched(url, "text").model_dump()


@skill(
    "Fetch a web page and extract its article: title and text",
    intents=(
        "scrape",
        "web scraping",
        "scrape page",
        "extract article",
        "extract content",
        "article content",
        "fetch article",
        "fetch article content",
    ),
    input=PageInput,
)
def web_scraping(url: str) -> dict[str, Any]:
    """Fetch an HTML page and extract its article.

    url: an http or https address.

    Returns: url (after redirects), title, author, date, description, site (None where unknown),
    text (a paragraph a line). Raises: FetchError when it cannot be fetched, is not HTML, or has no
    text to read.
    """
    from hive.tasks.article import extract_article

    return extract_article(_fetched(url, "html")).model_dump()


@skill(
    "Summarize a web page or a text to its most telling sentences",
    intents=(
        "summarize",
        "summarise",
        "summary",
        "summaries",
        "sum up",
        "summarize document",
        "condense",
        "gist",
        "tldr",
        "recap",
        "digest",
        "synopsis",
        "overview",
        "abridge",
        "distill",
        "outline",
        "shorten text",
        "shorten article",
        "shorten document",
        "shorten page",
        "shorten to sentences",
        "reduce to sentences",
        "what page says",
        "extract gist",
        "get gist",
        "article content and summarize",
    ),
    input=SummarizeInput,
)
def summarize(
    url: str | None = None, sentences: int = 3, text: str | None = None
) -> dict[str, Any]:
    """Summarize a page's article, or a text, by choosing sentences of it; none is made up.

    url: an http or https address, of HTML, plain text or Markdown; any other string is taken for
        the text.
    sentences: how many to keep, 1 to 100.
    text: the text itself, instead of an address.

    Returns: summary, sentences (a list, in the order of the text), url and title (None for a text).
    Raises: FetchError when the page cannot be fetched or has no text, InvalidInputError for a text
        that cannot be summarized.
    """
    from hive.tasks.text import Summary, best_sentences

    if url is None:
        chosen = best_sentences(text or "", sentences)
        return Summary(summary=" ".join(chosen), sentences=chosen).model_dump()
    page = _fetched(url, "prose")
    title, body = _article_of(page) if page.is_html else (None, page.text)
    chosen = best_sentences(body, sentences)
    return Summary(
        summary=" ".join(chosen), sentences=chosen, url=page.url, title=title
    ).model_dump()


def _fetched(url: str, wanted: Wanted) -> Page:
    from hive.tasks.fetching import fetch_page

    allowed = settings_of(running_application()).hive_fetch_allow_private
    return fetch_page(url, allow_private=allowed, wanted=wanted)


def _article_of(page: Page) -> tuple[str | None, str]:
    """The title and the text of a page's article, an empty line between paragraphs."""
    from hive.tasks.article import extract_article

    article = extract_article(page)
    return article.title, article.text.replace("\n", "\n\n")
