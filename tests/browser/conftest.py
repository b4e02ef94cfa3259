"""These tests run by themselves (`make browser`), since they need a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

collect_ignore_glob = [] if os.environ.get("HIVE_TEST_BROWSER") else ["test_*.py"]

if not collect_ignore_glob:
    from playwright.sync_api import Browser, Page, sync_playwright

# Nothing is asked of the network, and a profile of its own goes with the browser.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    assert program, "these tests need chromium (Debian's package is called so)"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Opens a page in a session of its own, for somebody who has that password; what the page
    complains of fails the test. HIVE_TEST_PICTURES names a directory for a picture of how each
    looked last.
    """
    complaints: list[str] = []
    pages: list[Page] = []
    with ExitStack() as stack:

        def open_page(url: str = "about:blank", *, password: str = "", width: int = 1280) -> Page:
            login = {"username": "hive", "password": password} if password else None
            session = browser.new_context(
                http_credentials=login, viewport={"width": width, "height": 900}
            )
            stack.callback(session.close)
            page = session.new_page()
            page.set_default_timeout(30_000)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda told: told.type == "error" and complaints.append(told.text))
            page.goto(url)
            pages.append(page)
            return page

        yield open_page
        pictures = os.environ.get("HIVE_TEST_PICTURES")
        for number, page in enumerate(pages if pictures else ()):
            page.screenshot(path=Path(str(pictures)) / f"{tmp_path.name}-{number}.png")
    assert complaints == []
