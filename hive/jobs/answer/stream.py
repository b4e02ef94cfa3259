"""Reading a job's stream of outcomes: where the reader is, how much it takes, what it reads."""

from __future__ import annotations

from typing import Any

from hive.broker.link.client import BrokerClient
from hive.jobs.state import steps
from hive.jobs.state.outcomes import Entry
from hive.logs import get_logger

log = get_logger(__name__)

_BATCH_BYTES = 1 << 20
_BATCH_ENTRIES = 512
START = b"0-0"


class StreamPosition:
    """Where one reader is in a job's stream.

    It does no input or output, so that blocking and asyncio readers share it.
    """

    def __init__(self) -> None:
        self.last = START
        self.ended = False
        self.items = 0
        self.bytes = 0
        self._entries = 0

    @property
    def batch(self) -> int:
        """Entries to read at once: about a megabyte, so that a large job takes no more memory."""
        if not self._entries:
            return 8
        return max(1, min(_BATCH_ENTRIES, _BATCH_BYTES * self._entries // max(self.bytes, 1)))

    def take(self, raw: list[tuple[bytes, dict[bytes, bytes]]]) -> list[Entry]:
        """Note what was read and return its entries; the mark at a job's end sets `ended`."""
        entries = []
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
            self._entries += 1
            entries.append(entry)
        return entries


def entry_of(entry_id: bytes, fields: dict[bytes, bytes]) -> Entry:
    """One raw entry of the stream, its range read."""
    return Entry(entry_id, int(fields[b"first"]), int(fields[b"n"]), fields)


def from_reply(reply: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """The entries in XREAD's reply about one stream."""
    return list(reply[0][1]) if reply else []


def read_now(client: BrokerClient, job_id: str, position: StreamPosition) -> list[Entry]:
    """The next entries that are there already."""
    key = steps.job_key(client, job_id, "outcomes")
    return position.take(from_reply(client.redis.xread({key: position.last}, count=position.batch)))
