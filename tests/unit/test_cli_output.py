"""What commands print, where it could harm the one who reads it."""

from __future__ import annotations

import importlib
import io
import json

import pytest
from rich.console import Console

from hive.cli.follow import JsonDocument, outcome_line
from hive.cli.output import Bar, ends_json_by, note, seen, short, table
from hive.errors import BrokerUnreachableError
from hive.jobs.state.outcomes import Outcome

NASTY = "\x1b]0;title\x07\x1b[2J\x9b31m\x7f\u202egnp\ud83d"
SEEN = r"\x1b]0;title\x07\x1b[2J\x9b31m\x7f\u202egnp\ud83d"


def test_what_a_terminal_would_obey_is_shown_instead(capsys: pytest.CaptureFixture[str]) -> None:
    assert seen(NASTY) == SEEN
    assert seen("a\tb\nc é \u2028 \U0001f600") == "a\tb\nc é \u2028 \U0001f600"
    assert short(NASTY) == SEEN
    assert SEEN in outcome_line(Outcome(0, "ok", NASTY, None, "a@h", 1, 0.1), 200)
    assert SEEN in outcome_line(Outcome(0, "failed", None, NASTY, "a@h", 1, 0.1), 200)
    screen = io.StringIO()
    Console(file=screen, width=200).print(table(NASTY and "t", ("what",), [[NASTY]]))
    assert SEEN in screen.getvalue()
    assert "\x1b" not in screen.getvalue()
    note(NASTY)
    assert capsys.readouterr().err == SEEN + "\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_live_bar_is_drawn_on_any_terminal(encoding: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace")
    screen = Console(file=stream, force_terminal=True, width=80)
    with Bar("é € \U0001f600", out=screen) as bar:
        bar.progress(1, 3, 1)
        bar.line(NASTY + "€")
        bar.note(NASTY)
        bar.progress(3, 3, 1)
    stream.flush()
    assert b"gnp" in raw.getvalue()


@pytest.mark.parametrize("done", [0, 2])
def test_outcomes_that_are_cut_off_are_a_whole_document(
    capsys: pytest.CaptureFixture[str], done: int
) -> None:
    document = JsonDocument("j1")
    for index in range(done):
        document.outcome(Outcome(index, "ok", float("nan"), None, "a@h", 1, 0.1), Bar("x"))
    complain = importlib.import_module("hive.cli.main").complain
    assert complain(BrokerUnreachableError("it is gone")) == 3
    told = json.loads(capsys.readouterr().out)
    assert [outcome["value"] for outcome in told["outcomes"]] == [None] * done
    assert (told["completed"], told["total"], told["over"]) == (done, None, False)
    assert told["error"] == "it is gone"
    assert complain(BrokerUnreachableError()) == 3
    assert capsys.readouterr().out == "", "it is ended once"
    ends_json_by(None)
