"""Trying again while the broker is away, by a clock that the test moves."""

from __future__ import annotations

import pytest
import redis

from hive.broker.link.outage import PAUSE, Outage, until_back


class Broker:
    """Away for so many seconds of its own clock."""

    def __init__(self, seconds: float, error: Exception | None = None) -> None:
        self.now = 100.0
        self.back_at = self.now + seconds
        self.error = error or redis.exceptions.ConnectionError("away")
        self.waited: list[str] = []

    def step(self) -> str:
        if self.now < self.back_at:
            raise self.error
        return "answered"

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def ask(self, longest: float) -> str:
        return until_back(
            self.step,
            longest=longest,
            waits=lambda error: self.waited.append(str(error)),
            clock=lambda: self.now,
            sleep=self.sleep,
        )


def test_a_step_is_repeated_until_the_broker_is_back() -> None:
    broker = Broker(seconds=3 * PAUSE)
    assert broker.ask(longest=60) == "answered"
    assert broker.waited == ["away"] * 3


def test_one_that_stays_away_raises_its_own_error() -> None:
    broker = Broker(seconds=600)
    with pytest.raises(redis.exceptions.ConnectionError, match="away"):
        broker.ask(longest=5)
    assert 105 < broker.now < 106


def test_what_is_no_outage_is_raised_at_once() -> None:
    broker = Broker(seconds=600, error=redis.exceptions.ResponseError("WRONGTYPE"))
    with pytest.raises(redis.exceptions.ResponseError):
        broker.ask(longest=60)
    assert broker.waited == []


def test_an_answer_in_between_begins_the_time_anew() -> None:
    now = 0.0
    outage = Outage(10, clock=lambda: now)
    outage.came(OSError())
    now = 9.0
    outage.over()
    outage.came(OSError())
    now = 18.0
    outage.came(OSError())
    now = 20.0
    with pytest.raises(OSError):  # noqa: PT011 - it is the very error
        outage.came(OSError())
