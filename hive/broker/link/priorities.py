"""Hive's priorities: a word chooses the queue, a number the place in it.

Numbers are 0..10 with 10 the most urgent. kombu's list index is the number turned around: index 0
is the bare list, and the most urgent.
"""

from __future__ import annotations

import math
from numbers import Real

from hive.errors import InvalidInputError
from hive.settings import Settings

HIGHEST = 10
DEFAULT = 5
INDEXES = tuple(range(HIGHEST + 1))
SEPARATOR = "\x06\x16"


RULE = f"a whole number from 0 to {HIGHEST}, {HIGHEST} the most urgent"


def checked(priority: object) -> int | None:
    """A priority as it is sent; None is unset. What equals a whole number, such as 5.0, is one.

    Raises: InvalidInputError for anything else; nothing is sent then.
    """
    number = usable(priority)
    if number is None and priority is not None:
        raise InvalidInputError(f"priority is {RULE}; it cannot be {priority!r:.100}.")
    return number


def usable(priority: object) -> int | None:
    """The priority that somebody gave; None where it is none, or unset."""
    if type(priority) is int:
        return priority if 0 <= priority <= HIGHEST else None
    if isinstance(priority, bool) or not isinstance(priority, Real):
        return None
    number = float(priority)
    return int(number) if number in INDEXES else None


def clamped(priority: object) -> int:
    """The priority for which a stranger's counts, who may have sent anything."""
    number = usable(priority)
    if number is None and isinstance(priority, Real) and not math.isnan(priority):
        number = int(max(0.0, min(float(HIGHEST), float(priority))))
    return DEFAULT if number is None else number


def queue_of(priority: str | int, settings: Settings) -> tuple[str, int | None]:
    """The queue, and the priority within it (None: unset), that a caller means.

    priority: high_priority or background, which choose the queue, or a number 0..10 in the
        background queue.

    Raises: InvalidInputError for anything else.
    """
    if priority == "high_priority":
        return settings.hive_high_priority_queue, None
    if priority == "background":
        return settings.hive_background_queue, None
    number = usable(priority)
    if number is None:
        raise InvalidInputError(
            f'priority is "background", "high_priority" or {RULE}; it cannot be {priority!r:.100}.'
        )
    return settings.hive_background_queue, number


def list_index(priority: int | None) -> int:
    """The list index of a Hive priority; unset is 5, what is out of range is clamped."""
    return HIGHEST - max(0, min(HIGHEST, DEFAULT if priority is None else priority))


def queue_lists(queue: str) -> list[str]:
    """The names of a queue's lists, most urgent first (without kombu's global prefix)."""
    return [f"{queue}{SEPARATOR}{index}" if index else queue for index in INDEXES]
