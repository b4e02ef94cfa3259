"""From plain words to a skill and its arguments, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from hive.agents.resolve import Resolver
from hive.errors import InvalidInputError, UnknownSkillError
from hive.skills import registered, skill
from hive.tasks import import_skills


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "Docs").mkdir()
    (tmp_path / "requirements.txt").touch()
    return tmp_path


@pytest.fixture
def resolver(root: Path) -> Resolver:
    import_skills()
    built_in = ("fetch", "web_scraping", "summarize", "scan_path", "scan_requirements")
    return Resolver([registered()[name] for name in built_in], root)


@pytest.mark.parametrize(
    ("description", "name", "arguments"),
    [
        ("Fetch article content and summarize to 3 sentences", "summarize", {"sentences": 3}),
        ("Summarize each page in two sentences", "summarize", {"sentences": 2}),
        ("Summarise these news stories", "summarize", {}),
        ("Please condense each article to five sentences", "summarize", {"sentences": 5}),
        ("Could you sum up every blog post in one sentence?", "summarize", {"sentences": 1}),
        ("Give me a three-sentence summary of each link", "summarize", {"sentences": 3}),
        ("Get me the gist of these blog posts in four sentences", "summarize", {"sentences": 4}),
        ("Write a summary of each page", "summarize", {}),
        ("Summaries, 4 sentences each", "summarize", {"sentences": 4}),
        ("Article summarization", "summarize", {}),
        ("TL;DR of every article", "summarize", {}),
        ("Fetch and summarize", "summarize", {}),
        (
            "Fetch the pages, extract the article and summarize it in 2 sentences",
            "summarize",
            {"sentences": 2},
        ),
        ("Fetch all the articles and sum them up in 4 sentences", "summarize", {"sentences": 4}),
        (
            "For each URL, fetch the article and produce a 3 sentence summary",
            "summarize",
            {"sentences": 3},
        ),
        ("Summarize the news and weather pages", "summarize", {}),
        ("summarize", "summarize", {}),
        ("Extract the article from each page", "web_scraping", {}),
        ("Extract main content from each URL", "web_scraping", {}),
        ("title and text of each page", "web_scraping", {}),
        ("Scrape these sites", "web_scraping", {}),
        ("Crawl these pages and extract the articles", "web_scraping", {}),
        ("Use web_scraping on these", "web_scraping", {}),
        ("Download the pages", "fetch", {}),
        ("Retrieve each URL", "fetch", {}),
        ("Check every file for secrets", "scan_path", {"root": "ROOT"}),
        ("Audit each directory for vulnerabilities", "scan_path", {"root": "ROOT"}),
        (
            "Check these requirements files for unpinned dependencies",
            "scan_requirements",
            {"root": "ROOT"},
        ),
    ],
)
def test_a_description_finds_the_skill_for_many_items(
    resolver: Resolver, root: Path, description: str, name: str, arguments: dict[str, object]
) -> None:
    resolution = resolver.resolve_map(description)
    assert resolution.skill.name == name
    assert resolution.arguments == {
        key: str(root) if value == "ROOT" else value for key, value in arguments.items()
    }


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        ("Scan /src directory", "scan_path", {"path": "/src", "root": "ROOT"}),
        (
            "Scan requirements.txt dependencies",
            "scan_requirements",
            {"path": "requirements.txt", "root": "ROOT"},
        ),
        (
            "Scan the src directory for secrets and vulnerabilities",
            "scan_path",
            {"path": "src", "root": "ROOT"},
        ),
        ("Scan the Docs folder", "scan_path", {"path": "Docs", "root": "ROOT"}),
        ("Run a security audit of ./src", "scan_path", {"path": "./src", "root": "ROOT"}),
        (
            "Look for secrets in config/settings.py",
            "scan_path",
            {"path": "config/settings.py", "root": "ROOT"},
        ),
        (
            "Find hard-coded passwords in `setup.cfg`.",
            "scan_path",
            {"path": "setup.cfg", "root": "ROOT"},
        ),
        ("Security audit of the repository", "scan_path", {"path": "ROOT", "root": "ROOT"}),
        (
            "Audit requirements.txt",
            "scan_requirements",
            {"path": "requirements.txt", "root": "ROOT"},
        ),
        ("Check the dependencies of this project", "scan_requirements", {"root": "ROOT"}),
        (
            "Are the requirements in /app/requirements-dev.txt pinned?",
            "scan_requirements",
            {"path": "/app/requirements-dev.txt", "root": "ROOT"},
        ),
        ("Fetch https://example.com/a.html.", "fetch", {"url": "https://example.com/a.html"}),
        (
            "Get the article at https://example.com/x?y=1",
            "web_scraping",
            {"url": "https://example.com/x?y=1"},
        ),
        (
            "Summarize https://example.com/a in 2 sentences",
            "summarize",
            {"url": "https://example.com/a", "sentences": 2},
        ),
        ('Summarize "It rained. Nobody came."', "summarize", {"text": "It rained. Nobody came."}),
    ],
)
def test_a_sub_task_finds_its_skill_and_all_its_arguments(
    resolver: Resolver, root: Path, text: str, name: str, arguments: dict[str, object]
) -> None:
    resolution = resolver.resolve_task(text, "Repository security audit")
    assert resolution.skill.name == name
    assert resolution.arguments == {
        key: str(root) if value == "ROOT" else value for key, value in arguments.items()
    }


def test_a_sub_task_that_only_names_a_path_is_what_the_whole_asks_for(
    resolver: Resolver, root: Path
) -> None:
    resolution = resolver.resolve_task("/src", "Repository security audit")
    assert (resolution.skill.name, resolution.arguments) == (
        "scan_path",
        {"path": "/src", "root": str(root)},
    )


@pytest.mark.parametrize(
    "description",
    [
        "",
        "hello",
        "42",
        "Bake a cake",
        "Translate to French",
        "delete all files",
        "Delete /src directory",
        "Translate article content",
        "Translate the article and summarize it",
        "Summarize the article and translate it",
        "Summarize in French",
        "Summarize the pages into a database",
        "Send a summary to Slack",
        "Summarize and email the result to Bob",
        "Post the summaries",
        "Write article content",
        "Generate an image of each article",
        "Rewrite each article in a funny tone",
        "Count the words in each article",
        "Extract all emails from each page",
        "Compute the sum of these numbers",
        "Check the weather",
        "Review the pull request",
        "Requirements gathering meeting",
        "Upgrade the dependencies",
        "Fix the security issues in /src",
        "Scan /src and bake a cake",
        "Do not scan /src",
        "Never fetch these pages",
        "What is the weather?",
    ],
)
def test_what_no_skill_does_is_refused_with_the_list_of_skills(
    resolver: Resolver, description: str
) -> None:
    for resolve in (resolver.resolve_map, resolver.resolve_task):
        with pytest.raises(
            UnknownSkillError, match=r"Known skills: fetch: .*scan_requirements: "
        ) as refused:
            resolve(description)
        assert repr(description) in refused.value.message


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (
            "Scan the directory and check dependencies",
            UnknownSkillError,
            "scan_path and scan_requirements",
        ),
        ("Scan /src and summarize https://example.com", UnknownSkillError, "more than one skill"),
        ("Run scan_path and scan_requirements", UnknownSkillError, "several skills"),
        ("Scan /src and /lib", InvalidInputError, "one path, not 2"),
        ("Scan", InvalidInputError, "path: Field required"),
        ("Summarize https://example.com to 0 sentences", InvalidInputError, "sentences"),
        ("Summarize https://example.com in 100 words", InvalidInputError, "100 words"),
        (
            "Summarize https://example.com in 2 sentences or 3 sentences",
            InvalidInputError,
            "2 and 3",
        ),
    ],
)
def test_what_fits_too_much_or_lacks_an_argument_is_refused(
    resolver: Resolver, text: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        resolver.resolve_task(text)


class ResizeInput(BaseModel):
    file: str
    width: int = 100


def test_any_skill_is_found_by_the_intents_that_it_declares() -> None:
    @skill(
        "Make an image smaller",
        name="resize_image",
        intents=("resize image", "shrink picture"),
        input=ResizeInput,
    )
    def resize_image(file: str, width: int = 100) -> None: ...

    @skill(
        "Say how a review feels",
        name="sentiment",
        intents=("sentiment", "rate review", "translate mood"),
    )
    def sentiment(text: str) -> None: ...

    resolver = Resolver([registered()["resize_image"], registered()["sentiment"]])
    resolution = resolver.resolve_map("Resize all images to width 64")
    assert (resolution.skill.name, resolution.arguments) == ("resize_image", {"width": 64})
    assert resolver.resolve_task("shrink the picture /data/a.png").arguments == {
        "file": "/data/a.png"
    }
    assert resolver.resolve_map("Sentiment of each review").skill.name == "sentiment"
    assert resolver.resolve_map("Translate the mood of these reviews").skill.name == "sentiment"
    with pytest.raises(UnknownSkillError):
        resolver.resolve_map("Translate the images")
    with pytest.raises(InvalidInputError, match="needs an argument"):
        resolver.resolve_task("Sentiment")


def test_two_skills_with_the_same_words_are_ambiguous() -> None:
    def rotate(image: str) -> None: ...

    for name in ("first_copy", "second_copy"):
        skill("Turn it around", name=name, intents=("rotate image",))(rotate)
    resolver = Resolver([registered()["first_copy"], registered()["second_copy"]])
    with pytest.raises(UnknownSkillError, match="first_copy, second_copy"):
        resolver.resolve_map("Rotate the image")


def test_without_any_skill_nothing_is_found() -> None:
    with pytest.raises(UnknownSkillError, match="Known skills: none"):
        Resolver([]).resolve_map("Summarize")
