"""Reading a job's stream of outcomes: where the reader is, how much it takes, what it reads, and
whether what it would read next was dropped.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from redis.asyncio import Redis as AsyncRedis

from hive.broker.link.client import BrokerClient
from hive.errors import OutcomesDroppedError
from hive.jobs.state import steps
from hive.jobs.state.outcomes import Entry
from hive.logs import get_logger

log = get_logger(__name__)

_BATCH_BYTES = 1 << 20
_BATCH_ENTRIES = 512
_FIRST_BATCH = 8
START = b"0-0"

Raw = list[tuple[bytes, dict[bytes, bytes]]]
"""Entries as redis-py gives them: id and fields."""

Drops = deque[tuple[bytes, int]]
"""What was dropped of a stream: the last entry that went, and how many items did in all."""


class StreamPosition:
    """Where one reader is in a job's stream.

    It does no input or output, so that blocking and asyncio readers share it.
    """

    def __init__(self) -> None:
        self.last = START
        self.ended = False
        self.items = 0
        self.bytes = 0
        # Entries to read at once: about a megabyte, so that a large job takes no more memory.
        self.batch = _FIRST_BATCH

    def is_before(self, entry_id: bytes | None) -> bool:
        """Whether the reader has not come up to that entry; of None, whether it has none at all."""
        if entry_id is None:
            return self.last == START
        return _order(self.last) < _order(entry_id)

    def take(self, raw: Raw) -> list[Entry]:
        """Note what was read and return its entries; the mark at a job's end sets `ended`."""
        entries, before = [], self.bytes
        for entry_id, fields in raw:
            self.last = entry_id
            if b"end" in fields:
                self.ended = True
                continue
            try:
                entry = entry_of(entry_id, fields)
            except (KeyError, ValueError) as error:
                log.warning("outcomes_unreadable", entry=entry_id.decode(), error=repr(error))
                continue
            self.items += entry.n
            self.bytes += entry.size
            entries.append(entry)
        if entries:
            # Entries grow while a job finds its pace: what was read last says most.
            size = (self.bytes - before) // len(entries)
            longest = min(_BATCH_ENTRIES, max(_FIRST_BATCH, 2 * len(entries)))
            self.batch = max(1, min(longest, _BATCH_BYTES // max(size, 1)))
        return entries


def _order(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition(b"-")
    return int(milliseconds), int(sequence)


def entry_of(entry_id: bytes, fields: dict[bytes, bytes]) -> Entry:
    """One raw entry of the stream, its range read."""
    return Entry(entry_id, int(fields[b"first"]), int(fields[b"n"]), fields)


def from_reply(reply: Any) -> Raw:
    """The entries in XREAD's reply about one stream."""
    return list(reply[0][1]) if reply else []


class StreamReader:
    """Reads a job's stream for one reader, blocking or in an event loop.

    gapless: raise OutcomesDroppedError where outcomes that this reader has not read were dropped.
        Only of some jobs they are (`Plan.trims`).
    drops: where all that drops them is in this process, what it has dropped. Elsewhere the broker
        is asked, which takes one round trip more where nothing is there.
    """

    def __init__(
        self, client: BrokerClient, job_id: str, *, gapless: bool, drops: Drops | None = None
    ) -> None:
        self._client = client
        self._job_id = job_id
        self._key = steps.job_key(client, job_id, "outcomes")
        self._state = steps.job_key(client, job_id, "state")
        self._gapless = gapless
        self._drops = drops
        self.position = StreamPosition()

    def read(self, seconds: float) -> Raw:
        """The next entries; at most so many seconds are waited for them."""
        redis = self._client.redis
        if self._asks:
            with redis.pipeline(transaction=True) as both:
                raw = self._checked(self._ask_both(both).execute())
            if raw or seconds <= 0:
                return raw
        return self._without_own_drops(from_reply(redis.xread(**self._next(seconds))))

    async def read_async(self, redis: AsyncRedis, seconds: float) -> Raw:
        """The same, by a client for asyncio."""
        if self._asks:
            async with redis.pipeline(transaction=True) as both:
                raw = self._checked(await self._ask_both(both).execute())
            if raw or seconds <= 0:
                return raw
        return self._without_own_drops(from_reply(await redis.xread(**self._next(seconds))))

    def begin_behind_all(self) -> None:
        """Skip what is there, but for the mark at a job's end."""
        for entry_id, fields in self._client.redis.xrevrange(self._key, count=1):
            self.position.last = entry_id
            self.position.ended = b"end" in fields

    def begin_behind_dropped(self) -> None:
        """Begin with the first entry that is left; those that are gone count as read."""
        self.position.items = int(self._client.redis.hget(self._state, "trimmed") or 0)

    def _next(self, seconds: float) -> dict[str, Any]:
        block = max(1, int(seconds * 1000)) if seconds > 0 else None
        return {
            "streams": {self._key: self.position.last},
            "count": self.position.batch,
            "block": block,
        }

    @property
    def _asks(self) -> bool:
        """Whether the broker is asked for what was dropped; before the first entry always."""
        return self._gapless and (self._drops is None or self.position.last == START)

    def _without_own_drops(self, raw: Raw) -> Raw:
        drops = self._drops
        if not (self._gapless and raw and drops and self.position.is_before(drops[-1][0])):
            return raw
        # What was dropped before this was read is in the list: it is noted first, then dropped.
        for entry_id, items in tuple(drops):
            if self.position.is_before(entry_id) and _order(entry_id) < _order(raw[0][0]):
                raise dropped(self._job_id, items)
        return raw

    def _ask_both(self, pipeline: Any) -> Any:
        """At one moment: what was dropped, and what comes next."""
        return pipeline.hmget(self._state, "trimmed", "trimmed_to").xread(**self._next(0.0))

    def _checked(self, replies: list[Any]) -> Raw:
        (trimmed, trimmed_to), reply = replies
        if trimmed is not None and self.position.is_before(trimmed_to):
            raise dropped(self._job_id, int(trimmed))
        return from_reply(reply)


def dropped(job_id: str, count: int) -> OutcomesDroppedError:
    """The error that tells that a job's first outcomes are gone."""
    return OutcomesDroppedError(
        f"The first {count} outcomes of job {job_id} were dropped after its caller had read them, "
        "to bound their memory: no iteration can begin with them, or go on from there. "
        "`job.remaining()` yields those that are left. Keep what you need as it comes, and go on "
        "with the iterator that you have; the outcomes of a list are all kept."
    )


def read_now(client: BrokerClient, job_id: str, position: StreamPosition) -> list[Entry]:
    """The next entries that are there already."""
    key = steps.job_key(client, job_id, "outcomes")
    return position.take(from_reply(client.redis.xread({key: position.last}, count=position.batch)))
