"""This process's view of the node table.

It is refreshed in the background while tasks are being routed, and only then.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref

import redis

from hive.broker.link.client import BrokerClient
from hive.broker.nodes.requirements import Requirements
from hive.broker.nodes.table import NodeTable
from hive.errors import HiveError, NoEligibleNodeError
from hive.foreman.policy import Policy
from hive.foreman.ranking import Candidate, Rankings
from hive.logs import get_logger

log = get_logger(__name__)

REFRESH_EVERY = 0.25
IDLE_AFTER = 10.0
READ_TIMEOUT = 0.5


class Snapshot:
    """Rankings over a node table at most 250 ms old; safe between threads and across forks.

    The first use, in each process and after each pause of 10 s, reads the table in line and starts
    the refresher; every other use costs no round trip. While the table cannot be read, whatever the
    reason, it counts as empty: tasks wait in their queues, and the refresher goes on.
    """

    def __init__(self, client: BrokerClient, policy: Policy) -> None:
        self._client = client
        self._policy = policy
        self._refresher = _Refresher(client, policy)

    def decide(
        self,
        queue: str | None,
        requirements: Requirements | None = None,
        affinity: str | None = None,
    ) -> list[Candidate]:
        """At most five candidates `[node id, slots, score]` for a task of `queue`, the best first;
        none without a queue.

        Raises: NoEligibleNodeError when no known node can ever satisfy the requirements. The table
            is read once more before.
        """
        refresher = self._refresher
        # A fork takes neither threads nor connections along, and may copy a held lock.
        if refresher.pid != os.getpid():
            refresher = self._refresher = _Refresher(self._client, self._policy)
        try:
            return refresher.rankings().decide(queue, requirements, affinity)
        except NoEligibleNodeError:
            refresher.refresh()  # one that can may have come a moment ago
            return refresher.rankings().decide(queue, requirements, affinity)

    def close(self) -> None:
        """End the refresher and its connection; a later use starts them again."""
        self._refresher.close()


class _Refresher:
    """The thread of one process, its connection and what it read last."""

    def __init__(self, client: BrokerClient, policy: Policy) -> None:
        self.pid = os.getpid()
        self._client = client.with_timeout(READ_TIMEOUT)
        self._table = NodeTable(self._client)
        self._policy = policy
        self._rankings = Rankings({}, policy)
        self._readable = True
        self._used_at = 0.0
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._waking = threading.Lock()
        self._reading = threading.Lock()
        # Closed before the interpreter is taken apart: hiredis may fail during that.
        atexit.register(_close_at_exit, weakref.ref(self))

    def rankings(self) -> Rankings:
        """What is known now; wakes the refresher where it sleeps."""
        self._used_at = time.monotonic()
        thread = self._thread
        if thread is None or not thread.is_alive():
            self._wake()
        return self._rankings

    def refresh(self) -> None:
        """Read what changed, and swap the new rankings in. It raises nothing: neither what another
        release wrote nor an application's policy may end the refresher, or fail a publication.
        """
        with self._reading:
            try:
                self._rankings = self._rankings.following(self._table.read())
            except Exception as error:  # noqa: BLE001
                self._unreadable(error)
            else:
                self._readable = True

    def _unreadable(self, error: Exception) -> None:
        """Route by an empty table; the log is told once, until it can be read again."""
        if self._readable:
            # What is neither an outage nor told by Hive is a defect, here or in a policy.
            known = isinstance(error, redis.exceptions.RedisError | OSError | HiveError)
            log.warning(
                "node_table_unreadable", error=str(error), exc_info=None if known else error
            )
        self._readable = False
        self._rankings = Rankings({}, self._policy)

    def close(self) -> None:
        with self._waking:
            thread, self._thread = self._thread, None
            self._stop.set()
        if thread is not None:
            thread.join(3 * READ_TIMEOUT)
        self._client.close()

    def _wake(self) -> None:
        with self._waking:
            if self._thread is not None and self._thread.is_alive():
                return
            self.refresh()
            self._stop = threading.Event()
            self._thread = threading.Thread(
                target=self._run, args=(self._stop,), name="hive-node-table", daemon=True
            )
            self._thread.start()

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(REFRESH_EVERY):
            with self._waking:
                if stop.is_set():
                    return
                if time.monotonic() - self._used_at > IDLE_AFTER:
                    self._thread = None
                    self._client.close()
                    return
            self.refresh()


def _close_at_exit(reference: weakref.ref[_Refresher]) -> None:
    refresher = reference()
    if refresher is not None and refresher.pid == os.getpid():
        refresher.close()
