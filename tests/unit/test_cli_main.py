"""What the command line does for every command: help, errors as one line, exit codes."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import kombu.exceptions
import pytest
import redis

from hive.errors import (
    BrokerAuthError,
    BrokerUnreachableError,
    HiveError,
    InvalidInputError,
    NoNodeOnlineError,
)

cli = importlib.import_module("hive.cli.main")  # the package's own `main` is the function


@pytest.fixture(autouse=True)
def _where_no_hive_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def raising(error: BaseException) -> click.Command:
    @click.command()
    def command() -> None:
        raise error

    return command


@pytest.fixture
def run_raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    def run(error: BaseException) -> int:
        monkeypatch.setattr(cli.LazyGroup, "get_command", lambda *_: raising(error))
        return cli.execute(["status"])

    return run


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (HiveError("it broke"), 1, "hive: it broke"),
        (InvalidInputError("two\nlines"), 2, "hive: two lines"),
        (BrokerUnreachableError(), 3, "hive: The broker does not answer"),
        (BrokerAuthError(), 3, "hive: The broker refused the credentials"),
        (NoNodeOnlineError(), 3, "hive: No node is online"),
        (redis.exceptions.ConnectionError("refused"), 3, "does not answer (refused)"),
        (redis.exceptions.TimeoutError("timed out"), 3, "does not answer (timed out)"),
        (redis.exceptions.AuthenticationError("wrong"), 3, "refused the credentials"),
        (redis.exceptions.ResponseError("OOM command not allowed"), 1, "refused a command: OOM"),
        (kombu.exceptions.OperationalError("refused"), 3, "does not answer (refused)"),
        (PermissionError(13, "Permission denied", "/root/x"), 1, "Permission denied"),
        (UnicodeEncodeError("utf-8", "x\udcff", 1, 2, "no"), 2, r"'x\udcff' is no text"),
        (click.UsageError("what?"), 2, "Error: what?"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(
    run_raising: Callable[[BaseException], int],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    said: str,
) -> None:
    assert run_raising(error) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err
    if isinstance(error, HiveError | redis.exceptions.RedisError):
        assert captured.err.count("\n") == 1


def test_a_defect_keeps_its_traceback(run_raising: Callable[[BaseException], int]) -> None:
    with pytest.raises(ZeroDivisionError):
        run_raising(ZeroDivisionError())


def test_a_reader_that_went_away_is_told_nothing() -> None:
    program = (
        "import sys; from hive.cli import main; sys.argv = ['hive', 'skills', '--json']; main()"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, timeout=60
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_an_unknown_command_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(["fly"]) == 2
    assert "No such command 'fly'" in capsys.readouterr().err


def test_the_help_names_every_command_without_importing_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for module in {target.partition(":")[0] for target, _ in cli.COMMANDS.values()}:
        sys.modules.pop(module, None)
    assert cli.execute(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in cli.COMMANDS)
    assert not any(target.partition(":")[0] in sys.modules for target, _ in cli.COMMANDS.values())


def commands() -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    for name, (target, _) in cli.COMMANDS.items():
        module, _, attribute = target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        found.append((name, command))
        if isinstance(command, click.Group):
            found += [(f"{name} {sub}", member) for sub, member in command.commands.items()]
    return found


def test_every_command_has_an_example_and_speaks_json() -> None:
    for name, command in commands():
        assert "Example:" in (command.help or ""), name
        if not isinstance(command, click.Group):
            assert any("--json" in parameter.opts for parameter in command.params), name


def test_the_groups_short_helps_are_the_commands_own() -> None:
    assert {
        name: command.get_short_help_str(100)
        for name, command in commands()
        if name in cli.COMMANDS
    } == {name: text for name, (_, text) in cli.COMMANDS.items()}


@pytest.mark.parametrize("priority", ["11", "-1", "urgent", "5.5"])
def test_a_priority_that_is_none_is_wrong_use(
    capsys: pytest.CaptureFixture[str], priority: str
) -> None:
    assert cli.execute(["map", "summarize", "a", f"--priority={priority}"]) == 2
    assert "high_priority" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["map", "summarize"],
        ["map"],
        ["run"],
        ["job"],
        ["scan", "/no/such/tree"],
        ["map", "summarize", "a", "--timeout", "0"],
        ["map", "summarize", "a", "--timeout", "inf"],
        ["run", "summarize", "a", "--timeout", "nan"],
        ["scan", ".", "--timeout", "1e300"],
        ["node", "drain", "a", "--wait", "--timeout", "nan"],
        ["job", "x", "--follow", "--cancel"],
    ],
)
def test_wrong_use_is_said_before_the_broker_is_asked(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert cli.execute(arguments) == 2
    assert "Error:" in capsys.readouterr().err
