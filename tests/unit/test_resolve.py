"""From plain words to a skill and its arguments, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from hive.agents.literals import numbers_value
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
        ("Read these pages and give me the gist in two sentences", "summarize", {"sentences": 2}),
        ("Condense every document into four sentences", "summarize", {"sentences": 4}),
        ("Boil each page down to three sentences", "summarize", {"sentences": 3}),
        ("tl;dr in one sentence", "summarize", {"sentences": 1}),
        ("Give me the key points of each article in 5 sentences", "summarize", {"sentences": 5}),
        ("What is the gist of these articles?", "summarize", {}),
        ("What do these pages say, in two sentences?", "summarize", {"sentences": 2}),
        ("Shorten each text to twelve sentences", "summarize", {"sentences": 12}),
        ("Abridge the articles to twenty sentences", "summarize", {"sentences": 20}),
        ("Recap every news story in sixteen sentences", "summarize", {"sentences": 16}),
        ("A brief of each document in 7 sentences", "summarize", {"sentences": 7}),
        (
            "I need a digest of these news articles in eleven sentences",
            "summarize",
            {"sentences": 11},
        ),
        (
            "Go through these documents and condense them to two sentences each",
            "summarize",
            {"sentences": 2},
        ),
        (
            "Please read these articles and tell me the main points in four sentences",
            "summarize",
            {"sentences": 4},
        ),
        ("In three sentences: what is each page about?", "summarize", {"sentences": 3}),
        ("Using two sentences, give me the gist of every link", "summarize", {"sentences": 2}),
        ("In two sentences, write a summary of each page", "summarize", {"sentences": 2}),
        ("SUMMARIZE EACH PAGE IN TWO SENTENCES!!!", "summarize", {"sentences": 2}),
        ("Summarise every document in thirteen sentences", "summarize", {"sentences": 13}),
        ("Give me a one-sentence summary of each page", "summarize", {"sentences": 1}),
        ("Summarize each page in a sentence", "summarize", {"sentences": 1}),
        ("Summarize each page in 2-3 sentences", "summarize", {"sentences": 3}),
        ("Summarize each page in two to three sentences", "summarize", {"sentences": 3}),
        ("Summarize my meeting notes", "summarize", {}),
        ("Make these texts shorter", "summarize", {}),
        ("Extract the key points from each page", "summarize", {}),
        (
            "Pull out the main ideas of each document in five sentences",
            "summarize",
            {"sentences": 5},
        ),
        ("Scrape each article and boil it down to two sentences", "summarize", {"sentences": 2}),
        ("Extract the text of each article", "web_scraping", {}),
        ("Get the article text from each page", "web_scraping", {}),
        ("Grab the pages", "fetch", {}),
        ("Get each url", "fetch", {}),
        ("Download the documents", "fetch", {}),
        ("Get the gist of each page", "summarize", {}),
        ("Give a gist of each page in 2 sentences.", "summarize", {"sentences": 2}),
        ("Condense the text of each page into one sentence", "summarize", {"sentences": 1}),
        ("Please condense all documents to ten sentences.", "summarize", {"sentences": 10}),
        ("Could you boil down every report into four sentences?", "summarize", {"sentences": 4}),
        (
            "I want the key points of every article, seven sentences each",
            "summarize",
            {"sentences": 7},
        ),
        (
            "Sum up each of these documents in no more than three sentences",
            "summarize",
            {"sentences": 3},
        ),
        ("Summarize every document using exactly five sentences", "summarize", {"sentences": 5}),
        ("Summarize every document using at most five sentences", "summarize", {"sentences": 5}),
        ("Shorten every article to eight sentences", "summarize", {"sentences": 8}),
        ("Read every document and condense it to three sentences", "summarize", {"sentences": 3}),
        ("Look at these pages and summarize them in two sentences", "summarize", {"sentences": 2}),
        (
            "Look through these articles and give me a summary in two sentences",
            "summarize",
            {"sentences": 2},
        ),
        (
            "Read through each document and produce a digest of six sentences",
            "summarize",
            {"sentences": 6},
        ),
        ("Have a look at these pages and give me the gist", "summarize", {}),
        ("Give me a short recap of each article", "summarize", {}),
        ("Write a two sentence recap of each article", "summarize", {"sentences": 2}),
        ("Write a two-sentence gist of each article", "summarize", {"sentences": 2}),
        ("Produce a 4-sentence digest for each url", "summarize", {"sentences": 4}),
        ("A three sentence synopsis of each story", "summarize", {"sentences": 3}),
        ("Return the gist of each page", "summarize", {}),
        ("I need the gist of these pages", "summarize", {}),
        ("List the key points of each page", "summarize", {}),
        ("Briefly summarize each page", "summarize", {}),
        ("Give me a brief summary of each page in two sentences", "summarize", {"sentences": 2}),
        ("Concise summary, five sentences", "summarize", {"sentences": 5}),
        ("Can you summarize these pages in two sentences?", "summarize", {"sentences": 2}),
        ("What are these articles about, in two sentences?", "summarize", {"sentences": 2}),
        ("Summarise each of the texts in TWELVE sentences", "summarize", {"sentences": 12}),
        ("Reduce each document to two sentences", "summarize", {"sentences": 2}),
        ("Condense every page", "summarize", {}),
        ("Grab each page", "fetch", {}),
        ("Retrieve the pages", "fetch", {}),
        ("Get the pages at these addresses", "fetch", {}),
        ("Pull each page", "fetch", {}),
        ("Download each link", "fetch", {}),
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


@pytest.mark.parametrize(
    ("description", "name"),
    [
        ("Are these requirements secure?", "scan_requirements"),
        ("Are these dependencies vulnerable?", "scan_requirements"),
        ("Do any of these packages have known vulnerabilities?", "scan_requirements"),
        ("Are there any insecure packages in requirements.txt?", "scan_requirements"),
        ("Is anything in requirements.txt unsafe?", "scan_requirements"),
        ("Check if these requirements are safe to install", "scan_requirements"),
        ("Tell me if these requirements are safe to install", "scan_requirements"),
        ("Are the requirements OK to install?", "scan_requirements"),
        ("Vet the dependencies", "scan_requirements"),
        ("Verify that all requirements are pinned", "scan_requirements"),
        ("Security audit of the dependencies", "scan_requirements"),
        ("Check my requirements", "scan_requirements"),
        ("Inspect requirements.txt for unpinned packages", "scan_requirements"),
        ("Look for insecure dependencies", "scan_requirements"),
        ("Look for secrets in these folders", "scan_path"),
        ("Find hard-coded credentials in each file", "scan_path"),
        ("Check each directory for leaked secrets", "scan_path"),
        ("Are any secrets leaked in these files?", "scan_path"),
        ("Audit this repository", "scan_path"),
        ("Run a security scan on each folder", "scan_path"),
        ("Search the code for vulnerabilities", "scan_path"),
        ("Are these requirements safe to install?", "scan_requirements"),
        ("Are the packages in these requirements files secure?", "scan_requirements"),
        ("Is it safe to install these requirements?", "scan_requirements"),
        ("Check these dependencies for vulnerabilities", "scan_requirements"),
        ("Audit the dependencies", "scan_requirements"),
        ("Check dependencies", "scan_requirements"),
        ("Check the security of these packages", "scan_requirements"),
        ("Are my dependencies safe?", "scan_requirements"),
        ("Are the dependencies pinned?", "scan_requirements"),
        ("Which dependencies are insecure?", "scan_requirements"),
        ("Do these requirements have security problems?", "scan_requirements"),
        ("Are there vulnerabilities in these requirements?", "scan_requirements"),
        ("Find unpinned requirements", "scan_requirements"),
        ("Verify the pins and hashes of the requirements", "scan_requirements"),
        ("Review requirements.txt for risks", "scan_requirements"),
        ("Find secrets in each folder", "scan_path"),
        ("Are there secrets in these files?", "scan_path"),
        ("Are there any passwords in this folder?", "scan_path"),
        ("Do these files contain secrets?", "scan_path"),
        ("Does this directory contain credentials?", "scan_path"),
        ("Search these directories for API keys", "scan_path"),
        ("Look for leaked credentials in the source code", "scan_path"),
        ("Is this code secure?", "scan_path"),
        ("Is the code in these files safe?", "scan_path"),
        ("Are these files safe?", "scan_path"),
        ("Security check of each file", "scan_path"),
        ("Find security holes in each source file", "scan_path"),
        ("Find vulnerabilities in the code", "scan_path"),
        ("Analyze the code for security issues", "scan_path"),
        ("Detect hardcoded passwords in these files", "scan_path"),
        ("Check whether these packages are safe", "scan_requirements"),
        ("Audit these requirements files", "scan_requirements"),
        ("Check the packages for known vulnerabilities", "scan_requirements"),
        ("Dependency audit", "scan_requirements"),
        ("Scan the requirements for risks", "scan_requirements"),
        ("How safe are these dependencies?", "scan_requirements"),
        ("Is requirements.txt safe?", "scan_requirements"),
        ("Review the dependencies for security issues", "scan_requirements"),
        ("Scan for secrets", "scan_path"),
        ("Scan each folder for secrets and tokens", "scan_path"),
        ("Find leaked secrets in each repository", "scan_path"),
        ("Check the source code for passwords", "scan_path"),
        ("Inspect these files for vulnerabilities", "scan_path"),
        ("Is there a password in these files?", "scan_path"),
        ("Security review of each directory", "scan_path"),
    ],
)
def test_safety_is_asked_for_in_many_words(resolver: Resolver, description: str, name: str) -> None:
    assert resolver.resolve_map(description).skill.name == name


@pytest.mark.parametrize(
    "description",
    [
        "translate these pages",
        "draw a picture",
        "delete these files",
        "do not summarize",
        "Don't summarize these pages",
        "write a summary of my feelings",
        "Write a poem in two sentences",
        "Give me two sentences",
        "Read my mind",
        "Read these pages aloud",
        "Read these pages and translate them",
        "Read the pages and tell me a joke",
        "Give me the gist of my life",
        "Install these requirements",
        "Are these pages safe to visit?",
        "Install the packages safely",
        "Is it safe to eat this?",
        "Are these mushrooms safe to eat?",
        "Condense milk into four bottles",
        "Boil an egg",
        "Boil these eggs down in two minutes",
        "Shorten my trousers",
        "Shorten these urls",
        "Key points of the football match",
        "Make the pages shorter and email them",
        "Print these pages",
        "Open the door",
        "Open these files",
        "Brief the team",
        "Recap the meeting",
        "Upgrade these packages",
        "Pin the dependencies",
        "Fix the vulnerabilities",
        "Remove secrets from these files",
        "Hide the secrets",
        "Encrypt these files",
        "Tell me a secret",
        "Keep my secret",
        "Buy packages",
        "Ship these packages",
        "Are my packages delivered?",
        "Is the weather safe?",
        "Are we safe?",
        "Is the house secure?",
        "Secure the house",
        "Generate a key",
        "Generate key pairs",
        "What are the opening hours?",
        "What do you think of these pages?",
        "What is the meaning of life?",
        "Read the thermometer",
        "Read my email",
        "Compare these pages",
        "Rate each page",
        "Classify these documents",
        "Write documents",
        "Create a document in two sentences",
        "Convert each document into PDF",
        "Count the sentences in each document",
        "Condense every document into a haiku",
        "Give me the price of each page",
        "Never read these pages",
        "Without summarizing, translate the pages",
        "Avoid summarizing these pages",
        "Stop summarizing",
        "Refuse to summarize",
        "Can you dance?",
        "Who wrote these pages?",
        "Summarize my feelings",
        "Give me a gist of the universe",
        "Scan the horizon",
        "Check the oil",
        "Audit the accounts",
        "Find my keys",
        "Find a restaurant",
        "Look for love",
        "Get a life",
        "Get me a coffee",
        "Grab a beer",
        "Download more RAM",
        "Load the truck",
        "Pull the trigger",
        "Fetch the stick",
        "Review the movie",
        "Analyze the market",
        "Check my pulse",
        "Summarize my day",
        "Summarize the match",
        "Give me an overview of my finances",
        "Digest my lunch",
        "Outline my novel plot",
        "Condense steam",
        "Recap last night",
        "Distill whisky",
        "Abridge my holiday",
        "Read these pages and give me a quiz",
        "Read these pages and answer my questions",
        "Tell me a story",
        "Tell me the news",
        "Give me the news",
        "Write an essay",
        "Write a report",
        "Write a report in five sentences",
        "Give me five sentences about dogs",
        "Make a document",
        "Make these pages prettier",
        "Make these pictures smaller",
        "Fetch my slippers",
        "Get me tickets",
        "Scan my passport",
        "Check my homework",
        "Audit my taxes",
        "Find bugs in my garden",
        "Install safe packages",
        "Deliver the packages",
        "Track these packages",
        "Are these toys safe?",
        "Is it safe to swim?",
        "Is swimming safe?",
        "Find the secret of happiness",
        "Share my secrets",
        "Publish these pages",
        "Paraphrase these pages",
        "Proofread each document",
        "Sort the documents",
        "Merge these documents",
        "Rank these articles",
        "Describe these pictures",
        "Extract the images from each page",
        "Extract phone numbers from each page",
        "Which page is the best?",
        "How many pages are there?",
        "Who is the author of each page?",
        "Open the pages and click every link",
        "Reduce my debts",
        "Look at these pages",
        "Read these pages",
        "Return these pages",
        "Is it ok to leave?",
        "Are these pages ok?",
        "Are these documents safe?",
        "Are these links safe?",
        "Scan the repository and translate it",
        "Find leaked water",
        "Package these files",
        "Document this code",
        "Comment this code",
        "Book a table",
        "Report these pages",
        "Code a website",
        "Program a robot",
        "Check these pages for typos",
        "Check these documents for plagiarism",
        "Search these pages for bees",
        "Analyze these documents",
        "Analyze the sentiment of each article",
        "Check if these links are broken",
        "Look for typos in each file",
        "Find duplicates in each directory",
        "Search these directories for images",
        "Count the files in each directory",
        "Download and delete each page",
        "Get the weather for each page",
        "Get the price of each product page",
        "Extract prices from each page",
        "What language is each page in?",
        "Is each page in English?",
        "Are these pages in French?",
        "Does each page load fast?",
        "Give me two sentences about each page's author",
        "Ask each author for two sentences",
        "Rewrite each page in two sentences",
        "Continue each story in two sentences",
        "Answer each question in two sentences",
        "Reply to each letter in two sentences",
        "Write two sentences",
        "Compose two sentences about each page",
        "Translate two sentences of each page",
        "Delete two sentences from each page",
        "Make each page two sentences longer",
        "Criticize each article in three sentences",
        "Explain each page in two sentences",
        "Illustrate each story",
        "Digest these pizzas",
        "Are these dependencies up to date?",
        "Update the requirements",
        "Are these requirements met?",
        "Gather requirements",
        "Write requirements",
        "Generate requirements.txt",
        "Install requirements.txt",
        "Delete requirements.txt",
        "Create a requirements file",
        "Sort the requirements",
        "In two sentences, write a report",
        "In two sentences, write a poem about each page",
        "In five sentences, describe your feelings",
        "Fetch each page and email me the gist",
        "Summarize each page and translate the gist",
        "Gist of the universe in two sentences",
    ],
)
def test_words_that_sound_like_a_skills_are_not_taken_for_it(
    resolver: Resolver, description: str
) -> None:
    with pytest.raises((UnknownSkillError, InvalidInputError)):
        resolver.resolve_map(description)


def test_a_skill_that_names_no_things_takes_any() -> None:
    def wrap(content: str) -> None: ...

    skill("Wrap a parcel", name="wrap_up", intents=("wrap", "pack gift"))(wrap)
    resolver = Resolver([registered()["wrap_up"]])
    assert resolver.resolve_map("Wrap the vase").skill.name == "wrap_up"


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


@pytest.mark.parametrize("number", ["²", "9" * 5_000, "①"])
def test_digits_that_count_nothing_are_words(number: str) -> None:
    assert numbers_value(number) is None
    assert numbers_value("٣") == 3
