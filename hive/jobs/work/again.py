"""An item that is to run again, as its task asked by `self.retry` or `autoretry_for`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeGuard

from celery import Celery
from celery.exceptions import Retry
from celery.utils.time import maybe_make_aware

from hive.errors import InvalidInputError
from hive.jobs.state.outcomes import from_json, json_fault, to_json

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
_LONGEST = 10 * 365 * 86_400.0


@dataclass(frozen=True, slots=True)
class Again:
    """What an item's next run has to know of those before.

    runs: that ended in a retry. retries: those that its task counts, `self.request.retries`.
    arguments: other ones than the item's, which the task gave to its retry.
    """

    runs: int = 0
    retries: int = 0
    arguments: Arguments | None = None

    def stored(self) -> str:
        """As the job's scripts keep it, which read the number of runs."""
        return f"{self.runs}:{self.retries}:{to_json(self.arguments) if self.arguments else ''}"

    @classmethod
    def read(cls, stored: bytes) -> Again:
        """Nothing is an item that was not retried."""
        if not stored:
            return NEVER
        runs, retries, arguments = stored.split(b":", 2)
        if not arguments:
            return cls(int(runs), int(retries))
        args, kwargs = from_json(arguments)
        return cls(int(runs), int(retries), (tuple(args), kwargs))


NEVER = Again()


@dataclass(frozen=True, slots=True)
class Retrial:
    """A run that ended in a retry. due: when the next may begin, in seconds of time.monotonic()."""

    again: Again
    due: float

    @property
    def ms_left(self) -> int:
        return max(0, round((self.due - time.monotonic()) * 1000))


def is_sent_again(error: BaseException) -> TypeGuard[Retry]:
    """Whether a run ended so that a task would have been sent again.

    Who raises Retry without `self.retry` has sent nothing in a task either.
    """
    return isinstance(error, Retry) and getattr(error, "sig", None) is not None


def retrial_of(app: Celery, error: Retry, before: Again, own: Arguments) -> Retrial:
    """What the error of a run that is sent again asks for.

    before: what was known of the item. own: the arguments with which it ran.
    Raises: InvalidInputError for a time that is none, and arguments that JSON cannot hold.
    """
    signature = getattr(error, "sig")  # noqa: B009 celery-types does not know it
    arguments: Arguments | None = (tuple(signature.args or ()), dict(signature.kwargs or {}))
    if arguments == own:
        arguments = before.arguments
    elif fault := json_fault(arguments):
        raise InvalidInputError(f"The arguments of its retry {fault}.")
    retries = int(signature.options.get("retries", before.retries + 1))
    seconds = _seconds_until(app, error.when)
    return Retrial(Again(before.runs + 1, retries, arguments), time.monotonic() + seconds)


def _seconds_until(app: Celery, when: Any) -> float:
    """when: a countdown in seconds, or a point in time."""
    try:
        if isinstance(when, datetime):
            return (maybe_make_aware(when, app.timezone) - datetime.now(UTC)).total_seconds()
        seconds = float(when or 0)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"Its retry is due at no time ({error}).") from None
    if not seconds < _LONGEST:
        raise InvalidInputError(f"Its retry is due in {seconds} s, which is beyond ten years.")
    return seconds
