"""Which hive a command is about when nobody named one: that of `./.hive`, while it runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hive.cli.discovery import discover
from hive.settings import Settings

SAID = "using .hive/hive.env (set HIVE_ENV_FILE to choose another hive)\n"


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The working directory, in which a hive runs, and an environment that names no broker."""
    for name in [name for name in os.environ if name.startswith(("REDIS_", "HIVE_", "CELERY_"))]:
        monkeypatch.delenv(name)
    # So that it is taken away again after the test.
    monkeypatch.setenv("HIVE_ENV_FILE", "")
    monkeypatch.delenv("HIVE_ENV_FILE")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".hive").mkdir()
    (tmp_path / ".hive" / "hive.env").write_text("REDIS_PORT=7001\n")
    return tmp_path


def finds(*arguments: str) -> bool:
    discover(arguments)
    return "HIVE_ENV_FILE" in os.environ and bool(os.environ["HIVE_ENV_FILE"])


def test_a_command_uses_the_hive_of_its_directory_and_says_so_once(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finds("status", "--json")
    assert os.environ["HIVE_ENV_FILE"] == str(here / ".hive" / "hive.env")
    assert Settings.load().redis_port == 7001
    discover(["status"])  # by now it is named
    assert capsys.readouterr() == ("", SAID)


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("up",),
        ("up", "--detach"),
        ("down",),
        ("demo",),
        ("status", "--help"),
        ("node", "list", "-h"),
        ("run", "summarize", "--help"),
    ],
    ids=" ".join,
)
def test_what_is_about_another_hive_or_only_helps_does_not_look(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert not finds(*command)
    assert capsys.readouterr() == ("", "")


def test_a_directory_of_another_user_is_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> os.stat_result:
        raise PermissionError

    # Root may enter every directory, so the system's answers are given here.
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(os, "stat", refused)
    monkeypatch.setattr(Path, "stat", refused)
    assert not finds("status")


def test_help_after_two_dashes_is_an_argument() -> None:
    assert finds("run", "summarize", "--", "--help")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HIVE_ENV_FILE", ""),
        ("HIVE_ENV_FILE", "other.env"),
        ("REDIS_HOST", "broker.example"),
        ("REDIS_DB", "0"),
        ("redis_port", "7000"),
        ("CELERY_BROKER_URL", "redis://broker.example/0"),
    ],
)
def test_a_broker_that_the_environment_names_is_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    discover(["status"])
    assert os.environ.get("HIVE_ENV_FILE", "") == (value if name == "HIVE_ENV_FILE" else "")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("dotenv", "found"),
    [
        ("", True),
        ("HIVE_NODE_NAME=gpu-1\nNOT_REDIS_HOST=x\n# REDIS_HOST=x\n", True),
        ("REDIS_HOST=broker.example\n", False),
        ("export redis_port = 7000\n", False),
        ("HIVE_ENV_FILE=other.env\n", False),
    ],
)
def test_a_broker_that_dotenv_names_is_used(here: Path, dotenv: str, found: bool) -> None:
    (here / ".env").write_text(dotenv)
    assert finds("status") is found


def test_a_dotenv_that_cannot_be_read_is_left_for_the_settings_to_tell(here: Path) -> None:
    (here / ".env").write_bytes("REDIS_HOST=caf\xe9\n".encode("latin-1"))
    assert not finds("status")


def test_where_no_hive_runs_nothing_is_found(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / ".hive" / "hive.env").unlink()  # it has stopped
    assert not finds("status")
    (here / ".hive" / "hive.env").mkdir()
    assert not finds("status")
    assert capsys.readouterr() == ("", "")
