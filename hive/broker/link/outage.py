"""Trying again while the broker is away: what counts as away, and the one loop that waits."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TypeVar

import redis

T = TypeVar("T")

AWAY = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)
"""What redis-py raises when the broker did not answer. A step that met one may have been done."""

PAUSE = 0.25
"""Seconds between two tries."""

READERS_WAIT = 120.0
"""Seconds for which who waits for a result, or reads a job, goes on trying to reach the broker."""

_REFUSALS = (
    "LOADING",
    "BUSY ",
    "READONLY",
    "MASTERDOWN",
    "NOREPLICAS",
    "MISCONF",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "UNBLOCKED",
    "NOAUTH",
)


def passes(error: BaseException) -> bool:
    """Whether an error says that the broker is away or refuses for now.

    It refuses for now while it loads its data, and when it has just become a replica, or ceased to
    be.
    """
    if isinstance(error, (*AWAY, redis.exceptions.InvalidResponse, OSError)):
        return True
    now = (
        redis.exceptions.ReadOnlyError,
        redis.exceptions.TryAgainError,
        redis.exceptions.ClusterDownError,
    )
    return isinstance(error, now) or (
        isinstance(error, redis.exceptions.ResponseError) and str(error).startswith(_REFUSALS)
    )


def comes_back(error: BaseException) -> bool:
    """As `passes`, for who asks in person: refused credentials are told, and not waited for."""
    return passes(error) and not (
        isinstance(error, redis.exceptions.AuthenticationError) or str(error).startswith("NOAUTH")
    )


_PLACE = re.compile(r" script: .*on @\S+$|^(?:WRONGTYPE|ERR) (?=The key )")


def said(error: BaseException) -> str:
    """What a refusal of the broker says to people, without a code and the script's place."""
    refused = isinstance(error, redis.exceptions.ResponseError)
    return _PLACE.sub("", str(error)) if refused else str(error)


class Outage:
    """How long the broker has been away, for a loop that asks it again and again.

    longest: seconds after which it is given up.
    """

    def __init__(self, longest: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._longest = longest
        self._clock = clock
        self._since: float | None = None

    def came(self, error: Exception) -> bool:
        """It did not answer.

        Returns: whether the outage has just begun. Raises: the error, once it has been away for too
            long.
        """
        now, begins = self._clock(), self._since is None
        self._since = now if self._since is None else self._since
        if now - self._since > self._longest:
            raise error
        return begins

    def over(self) -> None:
        """It answered."""
        self._since = None


def until_back(
    step: Callable[[], T],
    *,
    longest: float,
    waits: Callable[[Exception], object],
    away: Callable[[Exception], bool] = passes,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> T:
    """Do a step that may be repeated, again and again while the broker is away.

    longest: seconds for which it is tried. waits: called with the error before each pause.
    away: whether an error means that the broker is away.

    Returns: what the step returns. Raises: its last error once the time is over, any other at once.
    """
    outage = Outage(longest, clock=clock)
    while True:
        try:
            return step()
        except Exception as error:
            if not away(error):
                raise
            outage.came(error)
            waits(error)
            sleep(PAUSE)
