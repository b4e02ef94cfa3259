"""The heartbeat: one script call a beat.

It has a thread and a connection of its own, so that a busy worker still beats.
"""

from __future__ import annotations

import platform
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, cast

import redis
from celery import Celery
from celery.worker import state

from hive.broker.channel import steps
from hive.broker.channel.incarnation import Incarnation, boottime
from hive.broker.link.client import SPACE, client_of
from hive.broker.link.outage import passes, said
from hive.broker.link.unreadable import ask, skip
from hive.broker.nodes.requirements import Requirements
from hive.broker.nodes.table import NodeFacts, NodeLoad, NodeTable
from hive.errors import NodeNameTakenError
from hive.logs import get_logger
from hive.skills import registered
from hive.spore.machine.gpu import Gpus
from hive.spore.machine.telemetry import Sampler

log = get_logger(__name__)


def _software_info() -> dict[str, Any]:
    """The fields that Celery puts on every event of a worker.

    Hive's stand under one name, `hive`: event consumers have crashed on an extra field `id`.
    """
    return cast("dict[str, Any]", state.SOFTWARE_INFO)


class Heartbeat(threading.Thread):
    """Tells the node table every HIVE_HEARTBEAT_INTERVAL seconds what the node is and how busy.

    From the answers it learns which requirements the node meets.
    """

    def __init__(self, app: Celery, incarnation: Incarnation, slots: Callable[[], int]) -> None:
        super().__init__(name="hive-heartbeat", daemon=True)
        settings = client_of(app).settings
        self.app = app
        self.incarnation = incarnation
        self.slots = slots
        self.interval = settings.hive_heartbeat_interval
        # No retries, and no wait longer than a beat: the next beat is worth more than a late one.
        self.client = client_of(app).with_timeout(max(0.5, self.interval))
        self.table = NodeTable(self.client)
        self.sampler = Sampler()
        self.gpus = Gpus()
        self.started_at = time.time()
        self._ended = threading.Event()
        self._known_requirements = -1
        self._refused: dict[str, str] = {}
        self._facts_known: NodeFacts | None = None

    def prepare(self) -> None:
        """Make the field `hive` of Celery's event, before its own heartbeat reads the fields."""
        _software_info()["hive"] = {}

    def run(self) -> None:
        next_beat = time.monotonic()
        while not self._ended.wait(max(0.0, next_beat - time.monotonic())):
            next_beat = time.monotonic() + (self.interval if self.incarnation.attached else 0.05)
            away = self.incarnation.attached and self._is_away_for(self.beat)
            if not away and self.incarnation.has_unconfirmed:
                away = self._is_away_for(self.incarnation.flush)
            if away:
                next_beat = time.monotonic() + min(self.interval, 0.5)

    def _is_away_for(self, step: Callable[[], object]) -> bool:
        """Do a part of a beat, which must not end all beats whatever it meets: the node would be
        declared dead while it works. What the broker refuses is told once for each reason.

        Returns: whether the broker was away for it.
        """
        try:
            step()
        except redis.exceptions.RedisError as error:
            away, why = passes(error), said(error)
            if away or why != self._refused.get(step.__name__):
                log.warning("heartbeat_missed", node_id=self.incarnation.node_id, error=why)
            self._refused[step.__name__] = why
            return away
        except NodeNameTakenError as error:
            log.error("node_name_taken", node_id=self.incarnation.node_id, reason=error.message)
        except Exception:
            log.exception("heartbeat_failed", node_id=self.incarnation.node_id)
        else:
            self._refused.pop(step.__name__, None)
        return False

    def beat(self) -> None:
        incarnation = self.incarnation
        incarnation.slots = self.slots()
        # In this order: what a run takes meanwhile counts twice, not never.
        unused = self.unused_memory()
        identity, sent_at, load = incarnation.id, boottime(), self.load()
        facts = self.facts()
        unchanged = facts == self._facts_known
        reply = self.table.beat(
            identity, load, None if unchanged else facts, incarnation.held_line(), unused
        )
        if reply.status == "fenced":
            incarnation.come_back()
            return
        incarnation.confirmed_beat = sent_at
        if incarnation.draining:
            # Also of what was bound to it since: routers learn of the draining a little later.
            self.client.run(steps.RELEASE, (), (self.client.prefix, incarnation.node_id))
        self._facts_known = None if reply.need_facts else facts
        if reply.requirements != self._known_requirements or not unchanged:
            self.read_requirements(facts, reply.requirements)
        _software_info()["hive"] = {**facts.model_dump(mode="json"), **asdict(load)}

    def read_requirements(self, facts: NodeFacts, count: int) -> None:
        """Read which requirements there are, and serve the queues of those that this node meets.

        A node that does not know a demand cannot meet it: that queue is left to those that do.
        """
        key = self.client.key("requirements")
        known: dict[bytes, bytes] = ask(self.client, self.client.redis.hgetall, key) or {}
        queues = []
        for field, text in known.items():
            name = field.decode(errors="replace")
            if name.partition(":")[2] not in facts.queues:
                continue
            try:
                lacks = Requirements.stored(text).missing(facts)
            except ValueError as error:
                skip(self.client, key, name, error)
                continue
            if not lacks:
                queues.append(f"{SPACE}req:{name}")
        self.incarnation.requirement_queues = tuple(sorted(queues))
        self._known_requirements = count

    def facts(self) -> NodeFacts:
        """What the node is: it changes seldom, if at all, while the worker runs."""
        node_id = self.incarnation.node_id
        settings = self.client.settings
        tasks = self.app.tasks
        return NodeFacts(
            node_id=node_id,
            node_name=node_id.partition("@")[0],
            host=socket.gethostname(),
            pid=self.incarnation.pid,
            incarnation=self.incarnation.id,
            slots=self.incarnation.slots,
            cpus=self.sampler.limits.cpus,
            memory_mb=self.sampler.limits.memory_mb,
            gpus=self.gpus.inventory,
            labels=settings.hive_node_labels,
            capabilities=[name for name, skill in registered().items() if skill.task.name in tasks],
            queues=list(self.app.amqp.queues.consume_from),
            versions={
                "hive": version("venom-hive"),
                "celery": version("celery"),
                "python": platform.python_version(),
                "release": version("venom-hive"),
            },
            heartbeat_interval=self.interval,
            started_at=self.started_at,
            dead_after=settings.dead_after,
        )

    def load(self) -> NodeLoad:
        sample = self.sampler.sample()
        return NodeLoad(
            cpu=sample.cpu,
            memory=sample.memory,
            memory_free_mb=sample.memory_free_mb,
            load1=sample.load1,
            active=len(state.active_requests),
            processed=int(state.all_total_count[0]),
            draining=self.incarnation.draining or self.incarnation.stopping,
            gpu=self.gpus.utilisation(),
        )

    def unused_memory(self) -> dict[str, int]:
        """Of the runs that demand memory, by publish id, the MiB that they do not use yet."""
        while True:
            try:
                running = [(run, getattr(run, "footprint", None)) for run in state.active_requests]
            except RuntimeError:
                continue  # the event loop has started one, or ended one, meanwhile
            return {
                run.message.delivery_tag: footprint.unused_mb()
                for run, footprint in running
                if footprint is not None
            }

    def end(self) -> None:
        """Stop beating; returns when the beat under way is over."""
        self._ended.set()
        if self.is_alive():
            self.join(2 * self.interval + 1)

    def goodbye(self) -> None:
        """Mark the node offline at once. Raises redis errors."""
        self.table.leave(self.incarnation.node_id, self.incarnation.id)
        self.client.close()
