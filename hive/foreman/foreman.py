"""The Foreman as programs use it.

It says which node is best, puts a task there, tells how the cluster is, and can run the watchdog.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

from hive.broker.channel import steps
from hive.broker.channel.header import Header
from hive.broker.ledger.waiting import free_memory
from hive.broker.link.client import broker_errors
from hive.broker.link.names import asked_id
from hive.broker.message_broker import MessageBroker
from hive.broker.nodes.requirements import Requirements
from hive.broker.nodes.table import Node
from hive.errors import UnknownTaskError
from hive.foreman.cluster import cluster_status, select_best_node
from hive.foreman.policy import policy_of
from hive.foreman.watch.rooms import OnRestored
from hive.foreman.watch.thread import WatchdogThread


class Foreman:
    """Answers questions about the cluster, and runs the watchdog between `start` and `stop`.

    Every nexus runs a watchdog; one of them acts, the one that holds the lease. `start` is for
    clusters without a nexus.

    on_restored: called with the publish ids of what a dead node held, once it is back in its
        queues.
    """

    def __init__(
        self, broker: MessageBroker, *, on_restored: Callable[[list[str]], object] | None = None
    ) -> None:
        self._broker = broker
        self._on_restored = on_restored
        self._policy = policy_of(broker.app, broker.settings)
        self._watchdog: WatchdogThread | None = None

    async def start(self) -> None:
        """Run the watchdog in a thread of this process. Starting twice changes nothing.

        A broker that is away is waited for. Raises: StoredFormatError.
        """
        if self._watchdog is None:
            await self._broker.connect()  # raises where this release cannot serve what is stored
            told = self._on_restored
            hook: OnRestored | None = None if told is None else lambda _, restored: told(restored)
            self._watchdog = WatchdogThread(self._broker.client, self._broker.app, hook)
            self._watchdog.start()

    async def stop(self) -> None:
        """End the watchdog, which gives its lease up; returns when it has ended."""
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:
            await asyncio.to_thread(watchdog.stop)

    def select_best_node(self, task_requirements: Mapping[str, Any] | None = None) -> str | None:
        """The least loaded node that is online, has a free slot and satisfies the requirements.

        A draining node is left out.

        task_requirements: as for `apply_async(requirements=…)`.

        Returns: its id, or None when there is none. Blocks for one round trip.
        Raises: InvalidInputError for unknown requirements, BrokerUnreachableError.
        """
        wanted = Requirements.parse(task_requirements)
        return select_best_node(self._nodes_for(wanted), wanted, self._policy)

    async def assign_task(
        self, task_id: str | UUID, task_requirements: Mapping[str, Any] | None = None
    ) -> str | None:
        """Move a waiting task to the best node, and pin it there while that node lives.

        task_requirements: what the node must have besides the task's own requirements.

        Returns: the node that has the task now; the one that took or ran it, when it had left its
            queue already; None when no node is free for it, or it is not due yet.
        Raises: UnknownTaskError, InvalidInputError for unknown requirements,
            BrokerUnreachableError.
        """
        wanted = Requirements.parse(task_requirements)
        return await asyncio.to_thread(self._assign, asked_id(task_id), wanted)

    def get_cluster_status(self) -> dict[str, Any]:
        """How the cluster is: the numbers of nodes, averages in percent, and every node, as in
        `hive status --json`, but with the load by the application's own policy.

        Blocks for one round trip. Raises: BrokerUnreachableError.
        """
        return cluster_status(self._nodes(), self._policy)

    def _nodes(self) -> dict[str, Node]:
        with broker_errors():
            return self._broker.nodes.read()

    def _nodes_for(self, *demands: Requirements | None) -> dict[str, Node]:
        """The nodes; of each the memory that is free beside what it has promised to tasks, where
        some is demanded.
        """
        nodes = self._nodes()
        if not any(demanded.memory_mb for demanded in demands if demanded is not None):
            return nodes
        with broker_errors():
            free = free_memory(self._broker.client, nodes)
        return {
            node_id: replace(node, load=replace(node.load, memory_free_mb=free[node_id]))
            for node_id, node in nodes.items()
        }

    def _assign(self, task_id: str, wanted: Requirements | None) -> str | None:
        with broker_errors():
            place = self._broker.records.locate(task_id)
        if place is None:
            return self._where_it_ran(task_id)
        if place.name == "reserved":
            return place.node
        own = Requirements.parse(Header.read(place.entry.headers).requirements)
        nodes = self._nodes_for(own, wanted)
        able = {node_id: node for node_id, node in nodes.items() if own is None or own.fits(node)}
        while (best := select_best_node(able, wanted, self._policy)) is not None:
            with broker_errors():
                status, *node = self._broker.client.run(
                    steps.ASSIGN, (), (self._broker.client.prefix, task_id, best, *nodes)
                )
            if status in (b"moved", b"running"):
                return str(node[0].decode())
            if status == b"unknown":
                return self._where_it_ran(task_id)
            if status != b"offline":
                return None
            del able[best]  # it died since the node table was read
        return None

    def _where_it_ran(self, task_id: str) -> str | None:
        with broker_errors():
            known = self._broker.records.read(task_id)
        if known is None:
            raise UnknownTaskError(f"No task has the id {task_id!r}, or its record has expired.")
        return known.assigned_node
