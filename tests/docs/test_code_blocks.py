"""What README and docs show is what runs: their code blocks against one hive of two spores on free
ports.

Each file's blocks run in order in one empty directory. `<!-- not run: reason -->` directly before a
block leaves it out, `<!-- file: name -->` writes it to that file of the directory.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from tests.docs.blocks import blocks_of, run_block
from tests.docs.keys import documented_keys

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
DOCUMENTS = [page for page in PAGES if any(block.runs for block in blocks_of(page.read_text()))]
BIN = Path(sys.executable).parent
MARK = "HIVE_TEST_DOCUMENT"
"""Every process that a fixture or a document's blocks start inherits this variable, so that none
outlives its test.
"""


@pytest.fixture(scope="module")
def hive_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which a reader's commands find `hive` and a running hive."""
    state = tmp_path_factory.mktemp("hive") / "state"
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HIVE_", "REDIS_", "NEXUS_", "FOREMAN_"))
    }
    env = {**kept, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", MARK: str(state)}
    ports = ("--redis-port", "0", "--http-port", "0")
    up = (
        "hive",
        "up",
        "--detach",
        "--spores",
        "2",
        "--concurrency",
        "1",
        *ports,
        "--state",
        str(state),
    )
    try:
        _hive(up, env, state.parent)
        yield {**env, "HIVE_ENV_FILE": str(state / "hive.env")}
    finally:
        try:
            _hive(("hive", "down", "--state", str(state)), env, state.parent)
        finally:
            _end_marked(str(state))


def _hive(command: tuple[str, ...], env: dict[str, str], directory: Path) -> None:
    with (directory / "command.out").open("w+b") as out:
        done = subprocess.run(
            [BIN / command[0], *command[1:]],
            env=env,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            timeout=60,
        )
        out.seek(0)
        assert done.returncode == 0, f"{' '.join(command)}\n{out.read().decode(errors='replace')}"


@pytest.fixture
def block_environment(hive_environment: dict[str, str], tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of one document's blocks; what they leave running is ended."""
    # setproctitle, where it is installed, would write a worker's title over the environment by
    # which it is known.
    yield {**hive_environment, MARK: str(tmp_path), "SPT_NOENV": "1"}
    _end_marked(str(tmp_path))


def _end_marked(value: str) -> None:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == value:
                process.kill()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_code_blocks_of_a_document_run(
    document: Path, block_environment: dict[str, str], tmp_path: Path
) -> None:
    for block in blocks_of(document.read_text()):
        if block.runs:
            fault = run_block(block, tmp_path, block_environment, limit=120)
            assert fault is None, f"{document.relative_to(ROOT)}:{block.line}: {fault}"


def test_the_broker_holds_only_keys_that_the_keys_page_names(
    hive_environment: dict[str, str],
) -> None:
    """After all the blocks above; their type counts, too."""
    known = documented_keys((ROOT / "docs" / "keys.md").read_text())
    lines = Path(hive_environment["HIVE_ENV_FILE"]).read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines)
    with redis.Redis(
        settings["REDIS_HOST"], int(settings["REDIS_PORT"]), password=settings["REDIS_PASSWORD"]
    ) as client:
        held = {key.decode(): client.type(key).decode() for key in client.scan_iter(count=1000)}
    assert {
        key: kind
        for key, kind in held.items()
        if not any(kind in entry.types and entry.matches(key) for entry in known)
    } == {}


def test_a_block_runs_unless_a_comment_directly_before_it_says_why_not() -> None:
    text = "<!-- not run: it needs a GPU -->\n\n```python\na\n```\ntext\n```bash\nb\n```\n"
    text += "<!-- not run: far away -->\ntext\n~~~sh\nc\n~~~\n```json\n{}\n```\n"
    assert [(block.line, block.text, block.runs) for block in blocks_of(text)] == [
        (3, "a\n", False),
        (7, "b\n", True),
        (12, "c\n", True),
        (15, "{}\n", False),
    ]


@pytest.mark.parametrize(
    "text", ["```python\nprint()\n", "<!-- not run: -->\n```bash\nfalse\n```\n"]
)
def test_a_fence_without_end_and_a_comment_without_reason_are_errors(text: str) -> None:
    with pytest.raises(ValueError, match="line 1"):
        blocks_of(text)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("```bash\necho seen; false; true\n```", "exit code 1\nseen\n"),
        ("```python\nprint('seen', flush=True); 1 / 0\n```", "exit code 1\nseen\nTraceback"),
        ("```bash\necho seen; sleep 60\n```", "still running after 1 s\nseen\n"),
        (
            (
                "<!-- file: tasks.py -->\n```python\nanswer = 42\n```\n"
                "```python\nimport tasks; assert tasks.answer == 42\n```"
            ),
            None,
        ),
    ],
)
def test_a_failing_or_endless_block_is_reported_with_its_output(
    text: str, fault: str | None, tmp_path: Path
) -> None:
    faults = [
        run_block(block, tmp_path, {"PATH": os.environ["PATH"]}, limit=1 if "sleep" in text else 30)
        for block in blocks_of(text)
    ]
    assert faults[-1] is None if fault is None else (faults[-1] or "").startswith(fault)
