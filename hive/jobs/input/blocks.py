"""Items as JSON blocks.

They are encoded when they are taken, so that what a generator does to them later does not matter.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from hive.errors import InvalidInputError
from hive.jobs.state.outcomes import LARGEST, json_fault, to_json

LARGEST_BLOCK = 2_000
GROWTH = 8
BLOCK_BYTES = 256 << 10
_PLAIN = frozenset((int, float, str, bool, type(None)))


class Block(NamedTuple):
    """Consecutive items: a JSON list, and how many they are."""

    text: str
    n: int


def growing_sizes(slots: int, chunk: int = 0) -> Iterator[int]:
    """Sizes of a job's blocks: small ones first, so that every slot has work at once.

    chunk: items of a lease, where that is fixed. A lease ends with its block, so blocks are
        multiples of it.
    """
    step = max(1, chunk)
    size = max(1, slots)
    while True:
        yield max(step, size // step * step)
        size = min(size * GROWTH, LARGEST_BLOCK)


def encode_all(items: Iterable[Any], slots: int, chunk: int = 0) -> list[Block]:
    """All items of a list as blocks; `slots` and `chunk` as for `growing_sizes`.

    Raises: InvalidInputError naming the first item that JSON cannot hold.
    """
    blocks: list[Block] = []
    rest = iter(items)
    start = 0
    for size in growing_sizes(slots, chunk):
        part = list(islice(rest, size))
        if not part:
            break
        blocks += _encoded(part, start)
        start += len(part)
    return blocks


def _encoded(items: list[Any], start: int) -> Iterator[Block]:
    try:
        text = to_json(items)
    except Exception:  # noqa: BLE001 an item's own __json__ may raise anything
        text = f"[{','.join(encode_item(item, index) for index, item in enumerate(items, start))}]"
    if len(items) == 1 and len(text) > LARGEST:
        raise _refusal(items[0], start)
    if len(text) <= BLOCK_BYTES or len(items) == 1:
        yield Block(text, len(items))
        return
    half = len(items) // 2
    yield from _encoded(items[:half], start)
    yield from _encoded(items[half:], start + half)


def encode_item(item: Any, index: int) -> str:
    """One item as JSON. Raises: InvalidInputError when JSON cannot hold it, or it is too large."""
    try:
        text = to_json(item)
    except Exception:  # noqa: BLE001 an item's own __json__ may raise anything
        raise _refusal(item, index) from None
    if len(text) > LARGEST:
        raise _refusal(item, index)
    return text


def _refusal(item: Any, index: int) -> InvalidInputError:
    return InvalidInputError(f"Item {index}, of type {type(item).__name__}, {json_fault(item)}.")


class BlockBuilder:
    """Gathers items one by one.

    Plain numbers and texts are encoded together at the end, which is twenty times cheaper.
    """

    def __init__(self) -> None:
        self.n = 0
        self.bytes = 0
        self._parts: list[str] = []
        self._plain: list[Any] = []

    def add(self, item: Any, index: int) -> None:
        """Take one item. Raises: InvalidInputError when JSON cannot hold it."""
        kind = type(item)
        if kind in _PLAIN:
            self._plain.append(item)
            self.bytes += len(item) if kind is str else 8
        else:
            text = encode_item(item, index)
            self._close_plain()
            self._parts.append(text)
            self.bytes += len(text)
        self.n += 1

    def _close_plain(self) -> None:
        if self._plain:
            self._parts.append(json.dumps(self._plain, separators=(",", ":"))[1:-1])
            self._plain = []

    def take(self) -> Block:
        """What was gathered; the builder is empty afterwards."""
        self._close_plain()
        block = Block(f"[{','.join(self._parts)}]", self.n)
        self.n = self.bytes = 0
        self._parts = []
        return block
