"""What asks before something is lost: wrong use is said before the broker is asked."""

from __future__ import annotations

import importlib
import io

import pytest

cli = importlib.import_module("hive.cli.main")


@pytest.mark.parametrize(
    "arguments",
    [
        ["dead", "purge", "--all"],
        ["dead", "purge", "id"],
        ["dead", "purge", "--yes"],
        ["dead", "purge", "id", "--all", "--yes"],
        ["dead", "retry"],
        ["dead", "retry", "id", "--all"],
        ["dead", "list", "--limit", "0"],
        ["dead", "show"],
        ["queue", "purge"],
        ["queue", "purge", "background"],
        ["node", "drain"],
        ["node", "drain", "a", "--timeout", "1"],
        ["node", "resume"],
        ["node", "forget"],
        ["node", "forget", "a"],
    ],
)
def test_wrong_use_is_said_before_the_broker_is_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert cli.execute(arguments) == 2
    assert "Error:" in capsys.readouterr().err
