"""What became of each item, as the stream holds it.

Pullers write an entry for a whole lease; it is read back as single outcomes.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, overload

from kombu.utils.json import loads

from hive.broker.link.coding import dumps

Status = Literal["ok", "failed", "timeout", "cancelled"]
STATUSES: tuple[Status, ...] = ("ok", "failed", "timeout", "cancelled")
_KEPT_BYTES = 4 << 20
_ERROR_LENGTH = 2_000
LARGEST = 64 << 20
"""Bytes that one item, or one result, may take as JSON; the broker itself takes up to 512 MiB."""


@dataclass(slots=True)
class Outcome:
    """What became of one item.

    index: its place in the input. value: what the skill returned, None unless status is "ok".
    error: why not, None if "ok". node: where it ran last, None if nowhere. attempts: runs that were
    begun, 0 if none. seconds: how long it ran.

    Not frozen: that alone would make reading a million of them half a second slower.
    """

    index: int
    status: Status
    value: Any
    error: str | None
    node: str | None
    attempts: int
    seconds: float


class Entry(NamedTuple):
    """One entry of the stream: outcomes of `n` items from `first` on."""

    id: bytes
    first: int
    n: int
    fields: Mapping[bytes, bytes]

    @property
    def size(self) -> int:
        return sum(map(len, self.fields.values()))


def to_json(value: Any) -> str:
    """JSON as Celery writes it: dates, decimals and UUIDs come back as they were, and so do dicts
    that look like the marks by which it writes them.

    Raises: whatever the value makes the encoder raise, TypeError and ValueError as a rule.
    """
    return dumps(value, separators=(",", ":"))


def from_json(text: bytes | str) -> Any:
    """The value that `to_json` wrote.

    A dict which only looks like one of Celery's own marks is left a dict.
    """
    try:
        return loads(text)
    except ValueError:
        return json.loads(text)


def error_text(error: BaseException) -> str:
    """`ValueError: what it says`, bounded; an exception that cannot even say so is named."""
    try:
        said = str(error)
    except Exception:  # noqa: BLE001 a foreign __str__ may raise anything
        said = ""
    kind = type(error).__name__
    return f"{kind}: {said}"[:_ERROR_LENGTH] if said else kind


def json_fault(value: Any) -> str:
    """Why a value cannot be passed on as JSON; "" when it can."""
    try:
        size = len(to_json(value))
    except Exception as error:  # noqa: BLE001 a value's own __json__ may raise anything
        return f"cannot be written as JSON ({error_text(error)})"
    return (
        ""
        if size <= LARGEST
        else f"takes {size >> 20} MiB as JSON, {LARGEST >> 20} at most: "
        "store it elsewhere and pass where"
    )


@dataclass(slots=True)
class Results:
    """Outcomes of consecutive items, as a puller gathers them.

    values and micros have an element for each item; errors are by the item's offset.
    """

    values: list[Any]
    micros: list[int]
    errors: dict[int, tuple[Status, str]]

    def part(self, start: int, stop: int) -> Results:
        """The outcomes from offset `start` to before `stop`."""
        errors = {
            offset - start: error
            for offset, error in self.errors.copy().items()
            if start <= offset < stop
        }
        return Results(self.values[start:stop], self.micros[start:stop], errors)

    def encode(self, node: str, attempts: int) -> str:
        """The entry's JSON.

        An item whose value JSON cannot hold becomes a failed one; the others are untouched.
        """
        try:
            text = self._encode(node, attempts)
        except Exception:  # noqa: BLE001 a value's own __json__ may raise anything
            text = ""
        if text and len(text) <= LARGEST:
            return text
        self._fail_unencodable()
        return self._encode(node, attempts)

    def _encode(self, node: str, attempts: int) -> str:
        return to_json([self.values, self.micros, self.errors or None, node, attempts])

    def _fail_unencodable(self) -> None:
        for offset, value in enumerate(self.values):
            fault = json_fault(value)
            if fault:
                self.values[offset] = None
                self.errors[offset] = (
                    "failed",
                    f"the result, of type {type(value).__name__}, {fault}",
                )

    def successful(self) -> list[Any]:
        if not self.errors:
            return self.values
        return [value for offset, value in enumerate(self.values) if offset not in self.errors]

    def counts(self) -> list[int]:
        """How many items have each of STATUSES."""
        statuses = [status for status, _ in self.errors.values()]
        return [
            len(self.values) - len(statuses),
            *(statuses.count(status) for status in STATUSES[1:]),
        ]


def decode(entry: Entry) -> Iterator[Outcome]:
    """The outcomes of an entry, in item order.

    What is behind the fields that this release knows is passed over. Of an entry that cannot be
    read at all the items have failed, as far as can be told here.
    """
    same = entry.fields.get(b"r")
    try:
        if same is not None:
            status, error, attempts, node, *_ = json.loads(same)
            yield from _alike(entry, status, error, node or None, attempts)
            return
        values, micros, errors, node, attempts, *_ = from_json(entry.fields[b"d"])
    except (KeyError, TypeError, ValueError) as fault:
        why = f"this release of Hive cannot read what became of it ({error_text(fault)})"
        yield from _alike(entry, "failed", why, None, 0)
        return
    if not errors:
        for index, (value, us) in enumerate(zip(values, micros, strict=True), entry.first):
            yield Outcome(index, "ok", value, None, node, attempts, us / 1e6)
        return
    for offset, (value, us) in enumerate(zip(values, micros, strict=True)):
        status, error = errors.get(str(offset), ("ok", None))
        yield Outcome(entry.first + offset, status, value, error, node, attempts, us / 1e6)


def _alike(
    entry: Entry, status: Status, error: str, node: str | None, attempts: int
) -> list[Outcome]:
    """An outcome for each of the entry's items, the same for all."""
    return [
        Outcome(index, status, None, error, node, attempts, 0.0)
        for index in range(entry.first, entry.first + entry.n)
    ]


def successful_values(entry: Entry) -> list[Any]:
    """The values of an entry's successful items, in item order.

    Raises: KeyError, TypeError, ValueError for an entry that this release cannot read.
    """
    if b"r" in entry.fields:
        return []
    values, _, errors, *_ = from_json(entry.fields[b"d"])
    return (
        [value for offset, value in enumerate(values) if str(offset) not in errors]
        if errors
        else values
    )


class OutcomeList(Sequence[Outcome]):
    """The outcomes of a job in item order.

    It decodes what is asked for, so that a million outcomes take no memory until used.

    The first 4 MiB are held; what is beyond is read from the broker again when it is used.
    """

    def __init__(self, fetch: Callable[[bytes], Entry]) -> None:
        """`fetch` reads one entry by its id."""
        self._fetch = fetch
        self._places: list[tuple[int, int, bytes, Entry | None]] = []
        self._starts: list[int] = []
        self._length = 0
        self._held_bytes = 0

    def add(self, entries: Iterable[Entry]) -> None:
        """Take entries, each once, in any order; call `arrange` after the last."""
        for entry in entries:
            self._held_bytes += entry.size
            self._places.append(
                (entry.first, entry.n, entry.id, entry if self._held_bytes <= _KEPT_BYTES else None)
            )
            self._length += entry.n

    def arrange(self) -> OutcomeList:
        """Put what was added into item order."""
        self._places.sort(key=lambda place: place[0])
        self._starts = []
        position = 0
        for _, n, _, _ in self._places:
            self._starts.append(position)
            position += n
        return self

    def _outcomes_at(self, place: int) -> Iterator[Outcome]:
        _, _, entry_id, held = self._places[place]
        return decode(held or self._fetch(entry_id))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Outcome]:
        for place in range(len(self._places)):
            yield from self._outcomes_at(place)

    @overload
    def __getitem__(self, index: int) -> Outcome: ...
    @overload
    def __getitem__(self, index: slice) -> list[Outcome]: ...
    def __getitem__(self, index: int | slice) -> Outcome | list[Outcome]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(self._length))]
        position = index + self._length if index < 0 else index
        if not 0 <= position < self._length:
            raise IndexError(f"there are {self._length} outcomes, none at {index}")
        place = bisect_right(self._starts, position) - 1
        return list(self._outcomes_at(place))[position - self._starts[place]]

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{self._length} outcomes>"
