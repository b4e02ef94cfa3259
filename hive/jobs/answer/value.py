"""What the outcomes of a job come to so far: values in item order, or a built-in reduce of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hive.broker.link.client import BrokerClient
from hive.broker.link.unreadable import ask
from hive.errors import InvalidInputError
from hive.jobs.answer.stream import StreamPosition, read_now
from hive.jobs.state import steps
from hive.jobs.state.outcomes import from_json, successful_values
from hive.jobs.state.reduce import FOLDED, reduce_values


def ordered_values(client: BrokerClient, job_id: str) -> list[Any]:
    """The values of the items that succeeded so far, in item order."""
    position = StreamPosition()
    parts: list[tuple[int, list[Any]]] = []
    while entries := read_now(client, job_id, position):
        parts += [(entry.first, successful_values(entry)) for entry in entries]
    parts.sort(key=lambda part: part[0])
    return [value for _, values in parts for value in values]


def built_in_value(client: BrokerClient, job_id: str, name: str) -> Any:
    """The value, so far, of a built-in reduce.

    Raises: InvalidInputError when the values are not of a kind that the reduce takes, or a partial
        value cannot be read.
    """
    if name == "count":
        return int(client.redis.hget(steps.job_key(client, job_id, "state"), "ok") or 0)
    if name not in FOLDED:
        return reduce_values(name, ordered_values(client, job_id))
    key = steps.job_key(client, job_id, "partials")
    raw = ask(client, client.redis.lrange, key, 0, -1) or ()
    try:
        partials = sorted(_partial(part) for part in raw)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"This release of Hive cannot read a partial value of the job: {error}."
        ) from None
    faults = [partial.error for partial in partials if partial.error]
    if faults:
        raise InvalidInputError(faults[0])
    return reduce_values(name, [partial.value for partial in partials])


@dataclass(order=True, slots=True)
class _Partial:
    """What a puller made of its items from `first` on."""

    first: int
    value: Any = field(compare=False)
    error: str = field(compare=False)


def _partial(stored: bytes) -> _Partial:
    """Raises: TypeError, ValueError for what this release cannot read."""
    first, value, error, *_ = from_json(stored)
    return _Partial(int(first), value, error)
