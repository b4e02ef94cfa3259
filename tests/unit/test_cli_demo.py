"""The demo's documents and the site that serves them."""

from __future__ import annotations

import time
import urllib.error
import urllib.request

import pytest

from hive.cli.demo.documents import Document, installed_documents, paragraphs_of
from hive.cli.demo.site import DocumentSite
from hive.cli.demo.story import Account, package_files

MARKDOWN = """\
# A title of a readme that is long enough to be taken for prose

[![badge](https://img.example/x.svg)](https://example.org)

**Hive** turns [Celery](https://celery.dev) workers on a `handful` of machines into one
cluster. It is free &amp; open.

```python
print("this line of code is long enough to be taken for a sentence of prose, too.")
```

- It knows its machines, and it sends each task to the best one of them.
- short

| a table | with cells that are | long enough to be | taken for prose. |
"""
RST = """\
A title
=======

.. image:: https://example.org/a-picture-with-a-name-of-many-words-that-is-no-prose.png

`Hive <https://example.org>`_ turns workers into a cluster, as :ref:`the docs <x>` say in *many*
words. See the code::

    this.line.of.code is long enough to be taken for a sentence of prose, too.

It goes on after the code with another sentence of prose.
"""


def test_markdown_becomes_paragraphs_of_prose() -> None:
    assert paragraphs_of(MARKDOWN) == [
        "Hive turns Celery workers on a handful of machines into one cluster. It is free & open.",
        "It knows its machines, and it sends each task to the best one of them.",
    ]


def test_restructured_text_becomes_paragraphs_of_prose() -> None:
    prose = paragraphs_of(RST)
    assert prose[-1] == "It goes on after the code with another sentence of prose."
    assert not any("line.of.code" in paragraph or "picture" in paragraph for paragraph in prose)


def test_a_page_is_html_with_its_text_escaped() -> None:
    page = Document("a<b", "1.0", ("1 < 2 & so on.",)).page.decode()
    assert "<p>1 &lt; 2 &amp; so on.</p>" in page
    assert "<title>a&lt;b 1.0</title>" in page


def test_there_are_at_least_twenty_documents_of_real_text_here() -> None:
    documents = installed_documents(24)
    assert len({document.name for document in documents}) == len(documents) >= 20
    assert all(document.words >= 150 for document in documents)


def test_the_scanned_package_has_more_than_a_hundred_modules() -> None:
    assert len(package_files()) > 100


def test_the_site_serves_each_document_after_its_delay() -> None:
    documents = [Document("one", "1", ("A text.",)), Document("two words", "1", ("Another text.",))]
    with DocumentSite(documents, 0.2) as site:
        for url, document in zip(site.urls, documents, strict=True):
            began = time.monotonic()
            with urllib.request.urlopen(url, timeout=10) as answer:
                assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
                assert answer.read() == document.page
            assert time.monotonic() - began >= 0.2


def test_the_site_answers_404_for_what_it_has_not() -> None:
    with (
        DocumentSite([Document("one", "1", ("A text.",))], 0.0) as site,
        pytest.raises(urllib.error.HTTPError, match="404"),
    ):
        urllib.request.urlopen(f"{site.urls[0]}x", timeout=10)


def test_the_last_line_says_what_came_of_it() -> None:
    account = Account(
        spores=5,
        documents=24,
        documents_summarized=24,
        findings=52,
        killed="spore-1@h",
        run_again=2,
        took=40.0,
    )
    assert (
        account.line
        == "documents 24 of 24, findings 52, lost 0, killed 1 of 5 spores, run again 2, 40.0 s"
    )
