"""What CONTRIBUTING shows is right: its files, put into a copy of Hive, pass its tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import blocks_of
from tests.house import ROOT

DELAYED = '    "delayed": lambda name, _: Duty(name, look_at_the_delayed, period=60.0),\n'
DUTY = "from hive.foreman.watch.duty import"
COMMANDS = '    "hive.spore.draining",\n'
JOINED = (
    (
        "hive/foreman/watch/duties.py",
        (DUTY, f"from hive.foreman.watch.delayed import look_at_the_delayed\n{DUTY}"),
        ('    "sweep": _sweep,\n', f'    "sweep": _sweep,\n{DELAYED}'),
    ),
    (
        "hive/nexus/routes.py",
        ("from hive.nexus import health", "from hive.nexus import depth, health"),
        ("= (health.ROUTES,)", "= (health.ROUTES, depth.ROUTES)"),
    ),
    ("hive/configuration.py", (COMMANDS, f'{COMMANDS}    "hive.spore.counting",\n')),
    (
        "hive/celery.py",
        ("from hive.spore import control", "from hive.spore import control, drafts"),
        ("= (recovery.RECOVERY,)", "= (recovery.RECOVERY, drafts.RECOVERY)"),
    ),
)
"""The edits of a line that the page describes: the file, and what is written in place of what."""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Hive and its tests, with all that the page shows in them."""
    for folder in ("hive", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name, *edits in JOINED:
        text = (tmp_path / name).read_text()
        for before, after in edits:
            assert text.count(before) == 1
            text = text.replace(before, after)
        (tmp_path / name).write_text(text)
    for name, text in shown().items():
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_text(text)
    return tmp_path


def shown() -> dict[str, str]:
    """The files that the page shows, by their path."""
    blocks = blocks_of((ROOT / "CONTRIBUTING.md").read_text())
    return {block.note[1]: block.text for block in blocks if block.note and block.note[0] == "file"}


def test_what_contributing_shows_passes_its_own_tests(copy: Path) -> None:
    tests = [name for name in shown() if name.startswith("tests/")]
    assert len(tests) == 6
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
