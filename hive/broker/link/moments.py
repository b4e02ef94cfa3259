"""Times that a caller gives to a task: when it may start, when it is too late, how long it may run.

Celery calculates with them where the task is sent, or only where it would run.
"""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from decimal import Decimal
from numbers import Real

from celery.utils.time import maybe_iso8601

from hive.errors import InvalidInputError

LONGEST = 1e11
"""Seconds, some three thousand years: what is later is in no calendar."""


def checked_countdown(given: object) -> float | None:
    """A countdown in seconds; what is below zero starts at once. None is none.

    Raises: InvalidInputError for what is no number of seconds.
    """
    return None if given is None else _seconds("countdown is a number of seconds", given)


def checked_eta(given: object) -> date | None:
    """The moment at which a task may start, from a datetime or its text in ISO 8601. None is none.

    Raises: InvalidInputError for what is no moment.
    """
    return None if given is None else _moment("eta is a datetime, or its text in ISO 8601", given)


def checked_expires(given: object) -> float | datetime | None:
    """The moment at which a task is too late, or in how many seconds that is. None is never.

    Raises: InvalidInputError for what is neither.
    """
    rule = "expires is a number of seconds, a datetime, or its text in ISO 8601"
    if given is None:
        return None
    if isinstance(given, str | datetime):
        moment = _moment(rule, given)
        return moment if isinstance(moment, datetime) else None
    return _seconds(rule, given)


def checked_limit(name: str, given: object) -> float | None:
    """A time limit in seconds; 0 lifts it. None is the default. name: which one.

    Raises: InvalidInputError for what is no number of seconds.
    """
    if given is None:
        return None
    rule = f"{name} is a number of seconds, 0 for no limit"
    seconds = _seconds(rule, given)
    if seconds < 0:
        raise _refusal(rule, given)
    return seconds


def _seconds(rule: str, given: object) -> float:
    if type(given) is int or isinstance(given, Real | Decimal):
        try:
            seconds = given if isinstance(given, int | float) else float(given)
        except (OverflowError, ValueError):
            seconds = math.nan
        if -LONGEST < seconds < LONGEST:
            return seconds
    raise _refusal(rule, given)


def _moment(rule: str, given: object) -> date:
    try:
        moment = maybe_iso8601(given) if isinstance(given, str) else given
        if isinstance(moment, datetime):
            moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (OverflowError, TypeError, ValueError):
        moment = None
    if isinstance(moment, date):
        return moment
    raise _refusal(rule, given)


def _refusal(rule: str, given: object) -> InvalidInputError:
    return InvalidInputError(f"{rule}; it cannot be {given!r:.100}.")
