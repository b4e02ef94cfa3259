"""Bounding the outcomes of an endless input.

What its caller has read is dropped from the stream, far behind the reader.
"""

from __future__ import annotations

from collections import deque

from hive.broker.link.client import BrokerClient
from hive.broker.link.outage import passes
from hive.jobs.answer.stream import Drops, StreamPosition
from hive.jobs.state import steps
from hive.logs import get_logger

log = get_logger(__name__)

KEPT_BYTES = 64 << 20
_MARK_BYTES = 1 << 20


class StreamTrim:
    """Follows the reader of a caller's own iteration, and keeps the last 64 MiB that it read."""

    def __init__(self, client: BrokerClient, job_id: str, kept_bytes: int, drops: Drops) -> None:
        """drops: what the job's readers in this process have dropped, for them to know."""
        self._client = client
        self._job_id = job_id
        self._kept_bytes = kept_bytes
        self._drops = drops
        self._marks: deque[tuple[int, bytes, int]] = deque()
        self._marked = 0

    def passed(self, position: StreamPosition) -> bool:
        """The reader has handed out everything up to `position`. Returns: whether to `drop`."""
        if position.bytes - self._marked < min(_MARK_BYTES, self._kept_bytes):
            return False
        self._marked = position.bytes
        self._marks.append((position.bytes, position.last, position.items))
        return self._is_behind(self._marks[0])

    def drop(self) -> None:
        """Drop what is far behind the reader. Raises: redis errors."""
        behind = self._marks[0]
        while self._is_behind(self._marks[0]):
            behind = self._marks.popleft()
        _, entry_id, items = behind
        milliseconds, _, sequence = entry_id.partition(b"-")
        stays = b"%s-%d" % (milliseconds, int(sequence) + 1)
        self._drops.append((entry_id, items))
        try:
            steps.run(self._client, steps.TRIM, self._job_id, stays, items, entry_id)
        except Exception as error:
            if not passes(error):
                raise
            # The next call drops these, too.
            log.info("outcomes_not_trimmed", job_id=self._job_id, error=str(error))

    def _is_behind(self, mark: tuple[int, bytes, int]) -> bool:
        return self._marked - mark[0] >= self._kept_bytes
