"""The node table: what every spore is, and how busy.

Heartbeats write it; routers read what changed.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import redis
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hive.broker.link.client import BrokerClient
from hive.broker.link.format import check_format
from hive.broker.link.scripts import Script
from hive.broker.link.unreadable import skip

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
    may use (fractions come from quotas), `memory_mb` what it may use of the machine's,
    `heartbeat_interval` seconds, None where its release does not tell, `started_at` unix seconds by
    the node's own clock, `dead_after` seconds without a heartbeat after which it wants to be
    missed.

    A field that is added has a default: the rows of the release before do not have it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    node_id: str
    node_name: str
    host: str
    pid: int
    incarnation: str
    slots: int = Field(ge=0)
    cpus: float = Field(allow_inf_nan=False)
    memory_mb: int
    gpus: list[Gpu] = Field(default_factory=list)
    labels: dict[str, str] = Field(default_factory=dict)
    capabilities: list[str] = Field(default_factory=list)
    queues: list[str] = Field(default_factory=list)
    versions: dict[str, str] = Field(default_factory=dict)
    heartbeat_interval: float | None = Field(None, allow_inf_nan=False)
    started_at: float = Field(allow_inf_nan=False)
    dead_after: float = Field(0.0, allow_inf_nan=False)


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

    @classmethod
    def unpack(cls, fields: list[str]) -> NodeLoad:
        """Read what `packed` wrote, in its parts; later releases may append more.

        Raises: ValueError for too few, or what is no number.
        """
        cpu, memory, free, load1, active, processed, draining, gpu, *_ = fields
        load = cls(
            cpu=float(cpu),
            memory=float(memory),
            memory_free_mb=int(free),
            load1=float(load1),
            active=int(active),
            processed=int(processed),
            draining=draining == "1",
            gpu=float(gpu),
        )
        if not math.isfinite(load.cpu + load.memory + load.load1 + load.gpu):
            raise ValueError(f"no load is {' '.join(fields)}")
        return load


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
        self,
        incarnation: str,
        load: NodeLoad,
        facts: NodeFacts | None,
        held: str,
        unused: Mapping[str, int] | None = None,
    ) -> BeatReply:
        """Write one heartbeat, in one script call.

        facts: what the node is, at the first beat, after a change, and when the last reply asked
            for it.
        held: the publish ids that the worker knows of, in whatever form the watchdog reads.
        unused: of the runs that demand memory, by publish id, the MiB that they do not use yet.
        """
        node_id = incarnation.rpartition("/")[0]
        described = (f"{facts.started_at:.3f}", facts.model_dump_json()) if facts else ("", "")
        gap = self._client.settings.away_after_ms
        promised = [part for run in (unused or {}).items() for part in run]
        status, need, now_ms, known = self._run(
            BEAT, incarnation, node_id, load.packed(), held, *described, gap, *promised
        )
        return BeatReply("ok" if status == b"ok" else "fenced", bool(need), int(now_ms), int(known))

    def leave(self, node_id: str, incarnation: str) -> bool:
        """Mark an incarnation as gone; its node is offline at once, unless it has another one.

        Returns: whether the table knew it.
        """
        return bool(self._run(LEAVE, incarnation, node_id))

    def read(self) -> dict[str, Node]:
        """Every node seen within 24 hours, by id; one round trip, which brings only what changed.

        A node whose beats did not change keeps its Node object from one read to the next. One whose
        row cannot be read is left out, with a line in the log.

        Raises: StoredFormatError for a table that this release does not serve, redis errors.
        """
        with self._lock:
            try:
                reply = self._run(DELTA, self._epoch, self._version)
            except redis.exceptions.RedisError:
                # The server may come back with some writes lost, and count past our version before
                # we ask again. So ask for the whole table.
                self._epoch = ""
                raise
            epoch, version, now_ms, whole, rows, stored_format = reply
            check_format(stored_format)
            if whole:
                self._facts, self._nodes = {}, {}
            self._epoch, self._version = epoch.decode(errors="replace"), int(version)
            now = now_ms / 1000
            for position in range(0, len(rows), 3):
                node_id = rows[position].decode(errors="replace")
                self._take(node_id, rows[position + 1], rows[position + 2], now, whole=bool(whole))
            self._age(now)
            return dict(self._nodes)

    def _run(self, script: Script, *args: Any) -> Any:
        return self._client.run(script, (), (self._client.prefix, *args))

    def _take(
        self, node_id: str, raw: bytes | None, facts: bytes | None, now: float, *, whole: bool
    ) -> None:
        """Put one row of the reply into the copy; one that cannot be read leaves its node out."""
        lines = [] if raw is None else self._lines(node_id, raw)
        if not lines:
            self._nodes.pop(node_id, None)
            return
        written = lines[0].written
        if facts is not None:
            self._facts[node_id] = written, self._readable(node_id, facts)
        elif whole and written != "0":
            self._facts[node_id] = written, None
            self._skip("static", node_id, "it is missing")
        known_version, known = self._facts.get(node_id, ("", None))
        if written not in ("0", known_version):
            # We should have had these facts: the server has lost its last writes, and has counted
            # past our version again. So ask for the whole table.
            self._epoch = ""
        if known is None:
            self._nodes.pop(node_id, None)
        else:
            self._nodes[node_id] = _node(known, lines, now, self._client.settings.dead_after)

    def _lines(self, node_id: str, raw: bytes) -> list[_Line]:
        lines = []
        for text in raw.decode(errors="replace").split("\n"):
            try:
                lines.append(_Line.read(text))
            except ValueError as error:
                self._skip("dynamic", node_id, error)
        return lines

    def _readable(self, node_id: str, raw: bytes) -> NodeFacts | None:
        try:
            facts = NodeFacts.model_validate_json(raw)
        except ValidationError as error:
            fault = error.errors()[0]
            self._skip("static", node_id, f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}")
            return None
        if facts.node_id != node_id:
            self._skip("static", node_id, f"it is about the node {facts.node_id}")
            return None
        return facts

    def _skip(self, part: str, node_id: str, why: object) -> None:
        skip(self._client, self._client.key("nodes", part), node_id, why)

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


@dataclass(frozen=True, slots=True)
class _Line:
    """What the last beat of one incarnation wrote.

    at: unix seconds by the broker's clock, negative once it has left. written: the version that
    wrote the node's facts, "0" where this incarnation wrote none.
    """

    at: float
    written: str
    load: NodeLoad

    @classmethod
    def read(cls, text: str) -> _Line:
        """Raises: ValueError for one with too few fields, or what is no number."""
        at, _, _, written, *load = text.split(" ")
        line = cls(float(at) / 1000, written, NodeLoad.unpack(load))
        if not math.isfinite(line.at):
            raise ValueError(f"no beat was at {at}")
        return line


def _node(facts: NodeFacts, lines: list[_Line], now: float, dead_after: float) -> Node:
    """One node from the lines of its incarnations.

    The first that lives gives the load; the numbers of tasks are added up.
    """
    patience = max(dead_after, facts.dead_after)
    living = [line for line in lines if line.at >= now - patience]
    shown = living or lines[:1]
    load = shown[0].load
    if len(shown) > 1:
        load = replace(
            load,
            active=sum(line.load.active for line in shown),
            processed=sum(line.load.processed for line in shown),
        )
    return Node(facts, load, max(abs(line.at) for line in shown), bool(living))
