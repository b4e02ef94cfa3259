"""The node table: what every spore is, and how busy.

Heartbeats write it; routers read what changed.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Any, Literal

import redis
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hive.broker.link.client import BrokerClient
from hive.broker.link.scripts import Script
from hive.logs import get_logger

log = get_logger(__name__)

KNOWN_FOR = 24 * 3600.0
"""Seconds for which a silent node stays known."""

BEAT = Script("hive.broker.nodes", "beat", include=("hive.broker.nodes:hearing",))
DELTA = Script("hive.broker.nodes", "node_delta")
LEAVE = Script("hive.broker.nodes", "node_leave")


class Gpu(BaseModel):
    """One graphics processor of a node."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    memory_mb: int


class NodeFacts(BaseModel):
    """What a node is: sent by its heartbeat when it starts and when something of it changed.

    `node_id` is the Celery nodename, `incarnation` is `<node_id>/<tag>`, `cpus` the processors it
    may use (fractions come from quotas), `memory_mb` what it may use of the machine's, `started_at`
    unix seconds by the node's own clock, `dead_after` seconds without a heartbeat after which it
    wants to be missed.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    node_id: str
    node_name: str
    host: str
    pid: int
    incarnation: str
    slots: int = Field(ge=0)
    cpus: float
    memory_mb: int
    gpus: list[Gpu] = Field(default_factory=list)
    labels: dict[str, str] = Field(default_factory=dict)
    capabilities: list[str] = Field(default_factory=list)
    queues: list[str] = Field(default_factory=list)
    versions: dict[str, str] = Field(default_factory=dict)
    started_at: float
    dead_after: float = 0.0


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """How busy a node is.

    `cpu` and `memory` are on 0..1, `gpu` too or -1 where there is none; `active` counts tasks.
    """

    cpu: float
    memory: float
    memory_free_mb: int
    load1: float
    active: int
    processed: int
    draining: bool
    gpu: float = -1.0

    def packed(self) -> str:
        """The short text of the table's dynamic part."""
        return (
            f"{self.cpu:.3f} {self.memory:.3f} {self.memory_free_mb:d} {self.load1:.2f} "
            f"{self.active:d} {self.processed:d} {self.draining:d} {self.gpu:.3f}"
        )


@dataclass(frozen=True, slots=True)
class Node:
    """A node as the table knows it; `last_update` is unix seconds by the broker's clock."""

    facts: NodeFacts
    load: NodeLoad
    last_update: float
    online: bool

    @property
    def node_id(self) -> str:
        return self.facts.node_id

    @property
    def available(self) -> bool:
        """New tasks may be sent to it; it may still be full."""
        return self.online and not self.load.draining


@dataclass(frozen=True, slots=True)
class BeatReply:
    """What the broker said to a heartbeat.

    `fenced`: this incarnation was declared dead or left, and nothing was written. `need_facts`: the
    next beat must bring the facts. `now_ms`: the broker's clock. `requirements`: how many are
    registered.
    """

    status: Literal["ok", "fenced"]
    need_facts: bool
    now_ms: int
    requirements: int


class NodeTable:
    """Reads and writes the node table; safe to share between threads.

    redis-py's errors come through as they are.
    """

    def __init__(self, client: BrokerClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._epoch = ""
        self._version = 0
        # By node id: the version that wrote the facts, and the facts.
        self._facts: dict[str, tuple[str, NodeFacts | None]] = {}
        self._nodes: dict[str, Node] = {}

    def beat(
        self, incarnation: str, load: NodeLoad, facts: NodeFacts | None, held: str
    ) -> BeatReply:
        """Write one heartbeat, in one script call.

        facts: what the node is, at the first beat, after a change, and when the last reply asked
            for it.
        held: the publish ids that the worker knows of, in whatever form the watchdog reads.
        """
        node_id = incarnation.rpartition("/")[0]
        described = (f"{facts.started_at:.3f}", facts.model_dump_json()) if facts else ("", "")
        gap = self._client.settings.away_after_ms
        status, need, now_ms, known = self._run(
            BEAT, incarnation, node_id, load.packed(), held, *described, gap
        )
        return BeatReply("ok" if status == b"ok" else "fenced", bool(need), int(now_ms), int(known))

    def leave(self, node_id: str, incarnation: str) -> bool:
        """Mark an incarnation as gone; its node is offline at once, unless it has another one.

        Returns: whether the table knew it.
        """
        return bool(self._run(LEAVE, incarnation, node_id))

    def read(self) -> dict[str, Node]:
        """Every node seen within 24 hours, by id; one round trip, which brings only what changed.

        A node whose beats did not change keeps its Node object from one read to the next.
        """
        with self._lock:
            try:
                epoch, version, now_ms, whole, rows = self._run(DELTA, self._epoch, self._version)
            except redis.exceptions.RedisError:
                # The server may come back with some writes lost, and count past our version before
                # we ask again. So ask for the whole table.
                self._epoch = ""
                raise
            if whole:
                self._facts, self._nodes = {}, {}
            self._epoch, self._version = epoch.decode(), int(version)
            now = now_ms / 1000
            for position in range(0, len(rows), 3):
                self._take(rows[position].decode(), rows[position + 1], rows[position + 2], now)
            self._age(now)
            return dict(self._nodes)

    def _run(self, script: Script, *args: Any) -> Any:
        return self._client.run(script, (), (self._client.prefix, *args))

    def _take(self, node_id: str, lines: bytes | None, facts: bytes | None, now: float) -> None:
        """Put one row of the reply into the copy."""
        if lines is None:
            return
        parts = [line.split(" ") for line in lines.decode().split("\n")]
        written = parts[0][3]
        if facts is not None:
            self._facts[node_id] = written, _readable(node_id, facts)
        known_version, known = self._facts.get(node_id, ("", None))
        if written not in ("0", known_version):
            # We should have had these facts: the server has lost its last writes, and has counted
            # past our version again. So ask for the whole table.
            self._epoch = ""
        if known is None:
            self._nodes.pop(node_id, None)
        else:
            self._nodes[node_id] = _node(known, parts, now, self._client.settings.dead_after)

    def _age(self, now: float) -> None:
        """Nodes that sent nothing go offline, and after a day out of the table."""
        patience, known_after = self._client.settings.dead_after, now - KNOWN_FOR
        for node_id, node in list(self._nodes.items()):
            silent = now - node.last_update
            if node.online and silent > max(patience, node.facts.dead_after):
                self._nodes[node_id] = replace(node, online=False)
            elif node.last_update < known_after:
                del self._nodes[node_id]
                self._facts.pop(node_id, None)


def _readable(node_id: str, facts: bytes) -> NodeFacts | None:
    try:
        return NodeFacts.model_validate_json(facts)
    except ValidationError as error:
        log.warning("node_facts_unreadable", node_id=node_id, faults=error.error_count())
        return None


def _node(facts: NodeFacts, parts: list[list[str]], now: float, dead_after: float) -> Node:
    """One node from the lines of its incarnations.

    The first that lives gives the load; the numbers of tasks are added up.
    """
    patience = max(dead_after, facts.dead_after)
    living = [part for part in parts if float(part[0]) / 1000 >= now - patience]
    shown = living or parts[:1]
    cpu, memory, free, load1, _, _, draining, gpu = shown[0][4:12]
    load = NodeLoad(
        cpu=float(cpu),
        memory=float(memory),
        memory_free_mb=int(free),
        load1=float(load1),
        active=sum(int(part[8]) for part in shown),
        processed=sum(int(part[9]) for part in shown),
        draining=draining == "1",
        gpu=float(gpu),
    )
    return Node(facts, load, max(abs(float(part[0])) for part in shown) / 1000, bool(living))
