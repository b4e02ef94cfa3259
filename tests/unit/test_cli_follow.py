"""How a job's outcomes are counted and printed."""

from __future__ import annotations

import pytest

from hive.cli.follow import code_of, counts_of, outcome_line
from hive.cli.output import seconds, short
from hive.jobs.answer.job import Progress
from hive.jobs.state.outcomes import Outcome, Status


def outcome(
    status: Status = "ok", *, value: object = None, error: str | None = None, attempts: int = 1
) -> Outcome:
    return Outcome(3, status, value, error, "spore-1@h", attempts, 0.25)


@pytest.mark.parametrize(
    ("completed", "failed", "cancelled", "code"),
    [(2, 0, 0, 0), (1, 1, 0, 4), (1, 0, 1, 4), (0, 1, 1, 1), (0, 0, 0, 0)],
)
def test_the_exit_code_tells_all_from_some_from_none(
    completed: int, failed: int, cancelled: int, code: int
) -> None:
    assert code_of(Progress(2, completed, failed, cancelled, 0, 0)) == code


def test_a_line_in_a_pipe_has_the_whole_value_on_one_line() -> None:
    line = outcome_line(outcome(value={"text": "ä\n" + "x" * 500}))
    assert line.startswith("     3  ok         spore-1@h  0.25 s  {")
    assert "ä" in line
    assert "x" * 500 in line
    assert "\n" not in line


def test_a_line_on_a_terminal_is_cut() -> None:
    line = outcome_line(outcome(value="x" * 500), 80)
    assert len(line) < 80
    assert line.endswith("x…")


def test_a_line_tells_a_second_attempt_and_an_error() -> None:
    line = outcome_line(outcome("failed", error="ValueError: no", attempts=2), 200)
    assert "failed" in line
    assert "attempt 2" in line
    assert line.endswith("ValueError: no")


def test_counts_leave_out_what_is_nought() -> None:
    assert counts_of(Progress(20, 20, 0, 0, 0, 0)) == "20 of 20 items done"
    assert (
        counts_of(Progress(None, 3, 1, 0, 2, 4))
        == "3 of ? items done, 1 failed, 2 running, 4 waiting"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.314, "0.31 s"),
        (12.34, "12.3 s"),
        (125, "2 min 05 s"),
        (19_230, "5 h 20 min"),
        (273_700, "3 d 04 h"),
    ],
)
def test_durations_are_for_people(value: float, text: str) -> None:
    assert seconds(value) == text


def test_short_is_one_line() -> None:
    assert short("a\n  b") == "a b"
    assert short({"a": "b" * 200}, 20) == '{"a": "bbbbbbbbbbbb…'
