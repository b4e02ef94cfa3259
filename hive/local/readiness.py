"""Whether the processes of a starting hive serve, asked from outside, as a user would."""

from __future__ import annotations

import contextlib
import http.client
from types import TracebackType

import psutil
import redis

from hive.broker.link.client import BrokerClient
from hive.broker.nodes.table import NodeTable
from hive.settings import Settings

TIMEOUT = 2.0


class Readiness:
    """Asks a hive's broker and nexus; used as a context, which closes its connections."""

    def __init__(self, settings: Settings) -> None:
        self._client = BrokerClient(settings.redis_url, settings, timeout=TIMEOUT)
        self._table = NodeTable(self._client)
        self._nexus = settings.nexus_host, settings.nexus_port
        self._nexus_answered = False

    def __enter__(self) -> Readiness:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def nexus_answers(self) -> bool:
        """Whether `/health` has answered 200 once."""
        if not self._nexus_answered:
            connection = http.client.HTTPConnection(*self._nexus, timeout=TIMEOUT)
            try:
                connection.request("GET", "/health")
                self._nexus_answered = connection.getresponse().status == http.client.OK
            except (OSError, http.client.HTTPException):
                return False
            finally:
                connection.close()
        return self._nexus_answered

    def supervisors_online(self) -> set[int]:
        """The pids of the supervisors whose workers are online.

        Known by the worker's parent, not by the node's name: after a crash the table may still tell
        of a node of that name.
        """
        try:
            nodes = self._table.read().values()
        except redis.exceptions.RedisError:
            return set()
        parents = set()
        for node in nodes:
            if node.online:
                with contextlib.suppress(psutil.Error):
                    parents.add(psutil.Process(node.facts.pid).ppid())
        return parents
