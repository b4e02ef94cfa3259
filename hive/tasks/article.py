"""The article of an HTML page: its title and text without menus, scripts and advertisements."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from trafilatura import bare_extraction
from trafilatura.settings import Document

from hive.errors import FetchError
from hive.tasks.fetching import Page


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
    """Extract the article of a page.

    Raises: FetchError when the page has no text to read.
    """
    document = bare_extraction(page.text, url=page.url, with_metadata=True, include_comments=False)
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
