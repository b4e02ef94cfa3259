"""The roster of duties: what is due, and how each goes, by a clock that the test moves."""

from __future__ import annotations

from typing import Any

import pytest

from hive.errors import InvalidInputError
from hive.foreman.watch.duty import Duty, DutyState, Roster, duty_states


class Told:
    """The part of a broker client that a roster uses, kept in memory: the broker's own behaviour is
    tested in tests/integration/test_extending.py.
    """

    def __init__(self) -> None:
        self.written: list[dict[str, str]] = []
        self.redis = self

    def key(self, *parts: str) -> str:
        return ":".join(parts)

    def pipeline(self, **_: Any) -> Told:
        return self

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def delete(self, _key: str) -> Told:
        return self

    def hset(self, _key: str, mapping: dict[str, str]) -> Told:
        self.written.append(mapping)
        return self

    def expire(self, _key: str, _seconds: int) -> Told:
        return self

    def execute(self) -> None:
        return None

    def hgetall(self, _key: str) -> dict[bytes, bytes]:
        return {name.encode(): value.encode() for name, value in self.written[-1].items()}

    @property
    def states(self) -> dict[str, DutyState]:
        return {state.name: state for state in duty_states(self)}  # type: ignore[arg-type]


@pytest.fixture
def now() -> list[float]:
    return [100.0]


@pytest.fixture
def roster(now: list[float]) -> Roster:
    duties = [Duty("often", print), Duty("seldom", print, period=60)]
    return Roster(duties, clock=lambda: now[0])


def names(roster: Roster) -> list[str]:
    return [duty.name for duty in roster.due()]


def test_a_duty_is_due_at_every_tick_or_once_its_period_is_over(
    roster: Roster, now: list[float]
) -> None:
    assert names(roster) == ["often", "seldom"]
    for duty in roster.duties:
        roster.succeeded(duty)
    assert names(roster) == ["often"]
    now[0] += 61
    assert names(roster) == ["often", "seldom"]


def test_a_failure_is_told_at_once_and_its_end_too(roster: Roster, now: list[float]) -> None:
    often, seldom = roster.duties
    told = Told()
    roster.succeeded(often)
    roster.succeeded(seldom)
    roster.tell(told)  # type: ignore[arg-type]
    roster.failed(seldom, LookupError("nothing"))
    roster.tell(told)  # type: ignore[arg-type]
    failing = told.states["seldom"]
    assert failing.error == "LookupError: nothing"
    assert failing.failing_since is not None
    assert failing.last_success is not None
    assert "the duty seldom fails since" in failing.sentence
    assert not told.states["often"].error
    roster.succeeded(seldom)
    roster.tell(told)  # type: ignore[arg-type]
    assert not told.states["seldom"].error
    assert len(told.written) == 3


def test_without_news_the_broker_is_told_seldom(roster: Roster, now: list[float]) -> None:
    told = Told()
    for _ in range(25):
        roster.succeeded(roster.duties[0])
        roster.tell(told)  # type: ignore[arg-type]
        now[0] += 1
    assert len(told.written) == 3


def test_two_duties_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="Two duties are called 'a'"):
        Roster([Duty("a", print), Duty("b", print), Duty("a", print)])


class UnsayableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("caf\udce9"), "ValueError: caf\\udce9"),
        (UnsayableError(), "UnsayableError, which cannot be read"),
        (SystemExit(3), "SystemExit: 3"),
        (ValueError("two\n  lines"), "ValueError: two lines"),
    ],
)
def test_whatever_a_duty_raises_can_be_told(
    roster: Roster, error: BaseException, said: str
) -> None:
    told = Told()
    roster.failed(roster.duties[0], error)
    roster.tell(told)  # type: ignore[arg-type]
    assert told.states["often"].error == said


@pytest.mark.parametrize("since", ["1e300", "NaN", "-1", '"soon"'])
def test_a_row_that_nobody_can_read_is_passed_over(since: str) -> None:
    told = Told()
    told.written.append({"a": f'{{"name": "a", "error": "e", "failing_since": {since}}}'})
    assert told.states == {}
