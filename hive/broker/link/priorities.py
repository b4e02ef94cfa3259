"""Hive's priorities: a word chooses the queue, a number the place in it.

Numbers are 0..10 with 10 the most urgent. kombu's list index is the number turned around: index 0
is the bare list, and the most urgent.
"""

from __future__ import annotations

from hive.errors import InvalidInputError
from hive.settings import Settings

HIGHEST = 10
DEFAULT = 5
INDEXES = tuple(range(HIGHEST + 1))
SEPARATOR = "\x06\x16"


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
    if isinstance(priority, int) and not isinstance(priority, bool) and 0 <= priority <= HIGHEST:
        return settings.hive_background_queue, priority
    raise InvalidInputError(
        f'priority is "background", "high_priority" or a number 0..{HIGHEST}; it cannot be '
        f"{priority!r}."
    )


def list_index(priority: int | None) -> int:
    """The list index of a Hive priority; unset is 5, what is out of range is clamped."""
    return HIGHEST - max(0, min(HIGHEST, DEFAULT if priority is None else priority))


def queue_lists(queue: str) -> list[str]:
    """The names of a queue's lists, most urgent first (without kombu's global prefix)."""
    return [f"{queue}{SEPARATOR}{index}" if index else queue for index in INDEXES]
