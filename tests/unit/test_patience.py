"""What waits for a broker that is away or refuses, and what is told at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis
from billiard.exceptions import SoftTimeLimitExceeded

from hive.broker.channel import patience
from hive.broker.channel.patience import Patience
from hive.broker.channel.publishing import following_up
from hive.broker.link.outage import passes

PASSING = (
    redis.exceptions.ConnectionError("refused"),
    redis.exceptions.TimeoutError("silent"),
    redis.exceptions.BusyLoadingError("loading"),
    redis.exceptions.AuthenticationError("Authentication required."),
    redis.exceptions.ReadOnlyError("a replica"),
    redis.exceptions.MasterDownError("a replica without its master"),
    redis.exceptions.ResponseError("BUSY Redis is busy running a script."),
    redis.exceptions.ResponseError("NOREPLICAS Not enough good replicas to write."),
    redis.exceptions.InvalidResponse("half an answer"),
    ConnectionResetError(),
)
LASTING = (
    redis.exceptions.ResponseError(
        "WRONGTYPE Operation against a key holding the wrong kind of value"
    ),
    redis.exceptions.OutOfMemoryError("used memory > 'maxmemory'"),
    redis.exceptions.NoPermissionError("no permissions"),
    redis.exceptions.DataError("not a string"),
    ValueError(),
)


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_PAUSE", 0.0)


def failing(*errors: BaseException) -> Callable[[], str]:
    """Something that fails with one error after the other, and then succeeds."""
    left = list(errors)

    def do() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return do


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_accepted_work_waits_while_the_broker_is_away_or_refuses(error: Exception) -> None:
    assert passes(error)
    failures: list[Exception] = []
    with following_up():
        assert Patience().call_with_retry(failing(*[error] * 5), failures.append) == "done"
    assert failures == [error] * 5


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_what_waiting_does_not_mend_is_told_at_once(error: Exception) -> None:
    assert not passes(error)
    with following_up(), pytest.raises(type(error)):
        Patience().call_with_retry(failing(error), lambda _: None)


def test_a_caller_tries_a_second_time_and_is_told() -> None:
    error = redis.exceptions.ConnectionError("refused")
    assert Patience().call_with_retry(failing(error), lambda _: None) == "done"
    with pytest.raises(redis.exceptions.ConnectionError):
        Patience().call_with_retry(failing(error, error), lambda _: None)


def test_a_soft_time_limit_does_not_fail_what_waits_for_its_broker() -> None:
    away, limit = redis.exceptions.ConnectionError("refused"), SoftTimeLimitExceeded()
    with following_up():
        assert Patience().call_with_retry(failing(away, limit, away), lambda _: None) == "done"
        with pytest.raises(SoftTimeLimitExceeded):
            Patience().call_with_retry(failing(limit), lambda _: None)
