"""The skills that read the web: articles, summaries, their inputs,
and what importing them costs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hive.skills
from hive.applications import running_application
from hive.errors import FetchError, InvalidInputError
from hive.skills import find_skill, registered
from hive.tasks import MODULES, import_skills
from hive.tasks.web import fetch, summarize, web_scraping
from tests.unit.page_server import PageServer, page_server

SOURCE = Path(hive.skills.__file__).parent.parent
FACTS = [
    "Honey bees live in large colonies that share one hive.",
    "A colony of honey bees keeps its hive warm through the whole winter.",
    "Lunch was served at noon.",
    "Worker bees of the colony collect nectar and turn it into honey for the hive.",
    "The weather stayed fair.",
    "When a hive grows too small, the old queen leaves with half of the colony.",
]
ARTICLE = f"""<!DOCTYPE html><html><head><title>On bees</title>
<meta name="author" content="Ada Keeper"></head>
<body><nav><a href="/">Home</a> <a href="/shop">Shop</a></nav><script>track("visitor")</script>
<article><h1>On bees</h1>{"".join(f"<p>{fact}</p>" for fact in FACTS)}</article>
<footer>All rights reserved</footer></body></html>"""


@pytest.fixture(scope="module")
def server() -> Iterator[PageServer]:
    with page_server() as running:
        yield running


@pytest.fixture(autouse=True)
def _private_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVE_FETCH_ALLOW_PRIVATE", "true")
    # Other tests of this process may have installed Hive with settings of their own.
    monkeypatch.delattr(running_application(), "hive_settings", raising=False)


def test_fetch_answers_with_what_json_can_hold(server: PageServer) -> None:
    answer = fetch(server.page("/article", ARTICLE.encode()))
    assert answer["text"] == ARTICLE
    assert json.loads(json.dumps(answer)) == answer


def test_the_setting_decides_whether_private_addresses_are_fetched(
    server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.page("/article", ARTICLE.encode())
    monkeypatch.setenv("HIVE_FETCH_ALLOW_PRIVATE", "false")
    for skill in (fetch, web_scraping, summarize):
        with pytest.raises(FetchError, match="HIVE_FETCH_ALLOW_PRIVATE=true"):
            skill(url)


def test_web_scraping_keeps_the_article_and_drops_the_rest(server: PageServer) -> None:
    url = server.page("/article", ARTICLE.encode())
    answer = web_scraping(url)
    assert (answer["url"], answer["title"], answer["author"]) == (url, "On bees", "Ada Keeper")
    assert all(fact in answer["text"] for fact in FACTS)
    assert not any(noise in answer["text"] for noise in ("track", "Shop"))
    assert json.loads(json.dumps(answer)) == answer


def test_a_short_page_is_scraped_too(server: PageServer) -> None:
    assert (
        web_scraping(server.page("/short", b"<html><body><p>One sentence only.</p></body></html>"))[
            "text"
        ]
        == "One sentence only."
    )


@pytest.mark.parametrize(
    "body",
    [
        "<html><body></body></html>",
        "<!DOCTYPE html>",
        "just words",
        "<html><script>x()</script></html>",
    ],
)
def test_a_page_without_an_article_is_an_error(server: PageServer, body: str) -> None:
    with pytest.raises(FetchError, match="no text to read"):
        web_scraping(server.page("/nothing", body.encode()))


def test_xhtml_that_declares_its_encoding_is_read(server: PageServer) -> None:
    body = (
        '<?xml version="1.0" encoding="utf-8"?><html xmlns="http://www.w3.org/1999/xhtml">'
        "<body><p>Schöne Grüße an alle.</p></body></html>"
    )
    assert (
        web_scraping(server.page("/xhtml", body.encode(), "application/xhtml+xml"))["text"]
        == "Schöne Grüße an alle."
    )


NESTED = {
    "tables": ("<table><tr><td>", "</td></tr></table>"),
    "elements": ("<div>", "</div>"),
    "tags that are never closed": ("<font>", ""),
}


@pytest.mark.parametrize("depth", [300, 600])
@pytest.mark.parametrize("kind", NESTED)
def test_a_page_nested_deep_is_read_whole(server: PageServer, kind: str, depth: int) -> None:
    opened, closed = NESTED[kind]
    levels = depth // opened.count("<")
    facts = [f"<p>{fact}</p>" for fact in FACTS]
    body = (
        f"<html><body>{facts[0]}{opened * levels}{''.join(facts[1:5])}{closed * levels}{facts[5]}"
    )
    text = web_scraping(server.page("/nested", body.encode()))["text"]
    assert [fact for fact in FACTS if fact not in text] == []


def test_a_page_nested_too_deep_to_be_read_whole_is_an_error(server: PageServer) -> None:
    body = f"<html><body><p>{FACTS[0]}</p>{'<div>' * 3_000}<p>{FACTS[1]}</p>"
    with pytest.raises(FetchError, match="2,048 elements within each other"):
        web_scraping(server.page("/abyss", body.encode()))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("&#8;", ""),
        ("&#x1b;", ""),
        ("&#0;", "\ufffd"),
        ("&#xFFFE;", ""),
        ("&#xD800;", "\ufffd"),
        ("&#99999999999999999999999;", "\ufffd"),
        ("\x08", ""),
        ("\x00", ""),
        ("\ufffe", ""),
        ("&#146;", "’"),
        ("&#233;", "é"),
        ("&#x1F41D;", "\U0001f41d"),
    ],
)
def test_what_a_page_cannot_hold_costs_no_more_than_itself(
    server: PageServer, written: str, read: str
) -> None:
    facts = [*FACTS[:3], f"Bees{written} dance for each other in the dark of the hive.", *FACTS[3:]]
    body = "".join(f"<p>{fact}</p>" for fact in facts)
    page = f"<html><body><article>{body}</article></body></html>".encode()
    text = web_scraping(server.page("/control", page, "text/html; charset=utf-8"))["text"]
    assert f"Bees{read} dance" in text
    assert [fact for fact in FACTS if fact not in text] == []


@pytest.mark.parametrize(
    "kind", ["text/plain", "text/plain; charset=utf-8", "text/markdown", "text/x-markdown", None]
)
def test_a_page_of_plain_text_or_markdown_is_summarized(
    server: PageServer, kind: str | None
) -> None:
    body = "# On bees\n\n" + "\n\n".join(FACTS)
    url = server.page("/plain", body.encode(), kind)
    answer = summarize(url, 2)
    assert (answer["url"], answer["title"]) == (url, None)
    assert [sentence for sentence in answer["sentences"] if sentence in FACTS] == answer[
        "sentences"
    ]
    assert len(answer["sentences"]) == 2


def test_data_is_not_summarized(server: PageServer) -> None:
    url = server.page("/data", b'{"bees": ["A colony of honey bees."]}', "application/json")
    with pytest.raises(FetchError, match="not HTML or plain text"):
        summarize(url)


def test_a_page_in_another_charset_is_summarized(server: PageServer) -> None:
    fact = (
        "Пчёлы живут в большой семье и вместе строят улей. Семья хранит мёд в улье всю зиму. "
        "Весной семья пчёл снова строит улей."
    )
    answer = summarize(
        server.page(
            "/cp1251",
            f"<html><body><p>{fact}</p></body></html>".encode("cp1251"),
            "text/html; charset=windows-1251",
        ),
        2,
    )
    assert len(answer["sentences"]) == 2
    assert all(sentence in fact for sentence in answer["sentences"])


def test_an_address_is_fetched_and_summarized_to_three_sentences(server: PageServer) -> None:
    url = server.page("/article", ARTICLE.encode())
    answer = summarize(url)
    assert (answer["url"], answer["title"]) == (url, "On bees")
    assert answer["sentences"] == [fact for fact in FACTS if fact in answer["sentences"]]
    assert len(answer["sentences"]) == 3
    assert not {"Lunch was served at noon.", "The weather stayed fair."} & set(answer["sentences"])
    assert answer["summary"] == " ".join(answer["sentences"])
    assert json.loads(json.dumps(answer)) == answer


def test_a_text_is_summarized_as_it_is() -> None:
    text = " ".join(FACTS)
    answer = summarize(text, sentences=2)
    assert len(answer["sentences"]) == 2
    assert (answer["url"], answer["title"]) == (None, None)
    assert summarize(text=text, sentences=2) == summarize(url=text, sentences=2) == answer


def test_a_map_item_may_be_an_address_a_text_or_a_dict(server: PageServer) -> None:
    skill = find_skill("summarize")
    url = server.page("/article", ARTICLE.encode())
    for item in (url, " ".join(FACTS), {"url": url, "sentences": 1}, {"text": FACTS[0]}):
        args, kwargs = skill.arguments(item)
        assert skill.task(*args, **kwargs)["sentences"]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"url": ""},
        {"text": "  "},
        {"url": "http://a.test", "text": "b"},
        {"url": "ftp://a.test/x"},
        {"url": "file:///etc/passwd"},
    ]
    + [{"text": "Some words.", "sentences": count} for count in (0, -1, 101, "many")],
)
def test_an_input_that_makes_no_sense_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError, match="summarize"):
        summarize(**arguments)


@pytest.mark.parametrize("skill", [fetch, web_scraping, summarize], ids=lambda task: str(task.name))
def test_a_page_that_is_not_html_is_refused_where_html_is_needed(
    server: PageServer, skill: object
) -> None:
    url = server.page("/data.pdf", b"%PDF-1.7", "application/pdf")
    with pytest.raises(FetchError, match="the page is application/pdf"):
        skill(url)  # type: ignore[operator]


def test_every_built_in_skill_says_what_it_does_and_how_to_ask_for_it() -> None:
    import_skills()
    skills = {
        name: skill for name, skill in registered().items() if skill.task.__module__ in MODULES
    }
    assert set(skills) == {"fetch", "web_scraping", "summarize", "scan_path", "scan_requirements"}
    for skill in skills.values():
        assert skill.description
        assert skill.intents
        assert skill.input is not None


def test_every_module_that_has_skills_is_among_those_that_workers_import() -> None:
    folder = SOURCE / "hive" / "tasks"
    with_skills = {
        f"hive.tasks.{file.stem}"
        for file in folder.glob("*.py")
        if re.search(r"^@skill\(", file.read_text(), re.MULTILINE)
    }
    assert with_skills == set(MODULES)


def test_every_skill_has_its_row_in_the_docs() -> None:
    import_skills()
    page = (SOURCE / "docs" / "skills.md").read_text()
    own = [name for name, known in registered().items() if known.task.name.startswith("hive.")]
    assert [name for name in own if not re.search(rf"^\| `{name}` \|", page, re.MULTILINE)] == []


def test_importing_the_skills_imports_none_of_their_libraries() -> None:
    heavy = {
        "requests",
        "trafilatura",
        "lxml",
        "sumy",
        "nltk",
        "pysbd",
        "bandit",
        "stevedore",
        "detect_secrets",
        "charset_normalizer",
    }
    code = (
        "import sys, hive.tasks; hive.tasks.import_skills(); "
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=SOURCE,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "[]"


WATCHED = """
import json, os, sys
from pathlib import Path
seen = []
SOCKETS = ("socket.connect", "socket.getaddrinfo")
WATCHED = (*SOCKETS, "subprocess.Popen", "os.fork", "os.mkdir", "os.rename")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
def watch(event, args):
    if event in WATCHED:
        seen.append([event, repr(args)])
    elif event == "open" and isinstance(args[0], str) and (args[2] or 0) & WRITING:
        seen.append([event, args[0]])
import hive.tasks; hive.tasks.import_skills()
sys.addaudithook(watch)
from hive.tasks.scan import scan_requirements, scannable_files
from hive.tasks.scanner.serving import parts
from hive.tasks.web import summarize
from hive.tasks.article import extract_article
from hive.tasks.fetching import Page
from hive.tasks.text import best_sentences
root = sys.argv[1]
# What the scanning process does for scan_path.
assert any(found for file in scannable_files(root) for found, _ in parts(Path(file)))
assert scan_requirements(root)["summary"]["findings"] > 0
html = open(root + "/page.html").read()
about = {"status": 200, "content_type": "text/html", "charset": "utf-8", "size": 9, "redirects": 0}
page = Page(url="http://a.test/b", text=html, **about)
assert summarize(text=extract_article(page).text)["sentences"]
GERMAN = "Die Biene ist ein Insekt und lebt im Stock."
SPANISH = "La abeja es un insecto que vive en la colmena."
for text in (GERMAN, SPANISH, "This is English."):
    assert best_sentences(text, 1) == [text]
print(json.dumps(seen))
"""


def test_the_skills_download_nothing_and_write_nothing(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "bad.py").write_text(
        "import subprocess\nsubprocess.call('ls', shell=True)\npassword = 'hunter2hunter2'\n"
    )
    (tree / "requirements.txt").write_text("requests\n")
    (tree / "page.html").write_text(ARTICLE)
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("XDG_CACHE_HOME", None)
    command = [sys.executable, "-c", WATCHED, str(tree)]
    done = subprocess.run(
        command,
        cwd=SOURCE,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
    assert list(home.iterdir()) == []
