"""What the broker tab shows: how many messages are where, counted in the broker."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hive.broker.link.client import BrokerClient
from hive.broker.link.priorities import SEPARATOR, queue_lists
from hive.broker.nodes.requirements import Requirements
from hive.broker.nodes.table import Node, NodeTable

_REQUIREMENTS = "venom:req:"
_PIN = "venom:pin:"
_ANSWERS_WITHIN = 2.0


@dataclass(frozen=True, slots=True)
class Depth:
    """A row of the tab.

    messages: all; ready: those that a free slot would take now; running: those that a node has
    taken. consumers: the nodes that would take one. note: what its name does not tell.
    """

    name: str
    messages: int
    ready: int
    running: int | None = None
    consumers: int | None = None
    note: str = ""


class Depths:
    """Counts in one broker; safe to share between threads, and waits two seconds at most.

    queues: those that are shown also when they are empty.
    """

    def __init__(self, client: BrokerClient, queues: Iterable[str]) -> None:
        self._client = client.with_timeout(_ANSWERS_WITHIN)
        self._table = NodeTable(self._client)
        self._queues = frozenset(queues)

    def queues(self) -> list[Depth]:
        """Every queue that nodes take from or the settings name, and then those of pins and
        requirements, and of nobody, that have messages.

        All of a queue's priorities are counted. Raises: StoredFormatError, redis errors.
        """
        nodes = [node for node in self._table.read().values() if node.available]
        shown = self._queues.union(*(node.facts.queues for node in nodes))
        names = [*sorted(shown), *sorted(self._noted() - shown)]
        pipe = self._client.redis.pipeline(transaction=False)
        for name in names:
            for queue_list in queue_lists(name):
                pipe.llen(self._client.prefix + queue_list)
        lengths = iter(_counts(pipe.execute(raise_on_error=False)))
        waiting = {name: sum(next(lengths) for _ in queue_lists(name)) for name in names}
        demands = self._demands(names)
        return [
            Depth(
                name,
                waiting[name],
                waiting[name],
                consumers=sum(_serves(node, name, demands.get(name)) for node in nodes),
                note=_said(demands.get(name)),
            )
            for name in names
            if waiting[name] or name in shown
        ]

    def elsewhere(self) -> list[Depth]:
        """The messages that wait in no queue. Raises: StoredFormatError, redis errors."""
        nodes = self._table.read()
        client = self._client
        pipe = client.redis.pipeline(transaction=False)
        pipe.zcard(client.key("delayed"))
        pipe.hlen(client.key("dead"))
        for node_id in nodes:
            pipe.zcard(client.key("placed", node_id))
            pipe.hlen(client.key("reserved", node_id))
        delayed, dead, *held = _counts(pipe.execute(raise_on_error=False))
        placed, running = sum(held[::2]), sum(held[1::2])
        online = sum(node.available for node in nodes.values())
        return [
            Depth("(at nodes)", placed + running, placed, running, online, note="bound or running"),
            Depth("(delayed)", delayed, 0, note="countdown, eta, retry or rate limit"),
            Depth("(dead letters)", dead, 0, note="hive dead list"),
        ]

    def close(self) -> None:
        self._client.close()

    def _noted(self) -> set[str]:
        """The queues in which messages wait, as the channel notes them: a list each priority."""
        prefix = self._client.prefix
        lists = self._client.redis.smembers(self._client.key("queues"))
        return {
            str(name.decode(errors="replace").removeprefix(prefix).partition(SEPARATOR)[0])
            for name in lists
        }

    def _demands(self, names: Iterable[str]) -> dict[str, bytes]:
        """What the tasks of each queue of requirements require, as JSON."""
        wanted = [name for name in names if name.startswith(_REQUIREMENTS)]
        if not wanted:
            return {}
        found = self._client.redis.hmget(
            self._client.key("requirements"),
            [name.removeprefix(_REQUIREMENTS) for name in wanted],
        )
        return {name: text for name, text in zip(wanted, found, strict=True) if text}


def _serves(node: Node, queue: str, demands: bytes | None) -> bool:
    """Whether the node takes from that queue, when it has a slot for it."""
    if queue.startswith(_PIN):
        return node.node_id == queue.removeprefix(_PIN)
    if not queue.startswith(_REQUIREMENTS):
        return queue in node.facts.queues
    own = queue.removeprefix(_REQUIREMENTS).partition(":")[2]
    if demands is None or own not in node.facts.queues:
        return False
    try:
        return not Requirements.stored(demands).missing(node.facts)
    except ValueError:
        return False  # a later release's


def _said(demands: bytes | None) -> str:
    """What is required, for people: {"gpu": true} is `requires gpu=true`."""
    if demands is None:
        return ""
    try:
        asked: Any = json.loads(demands)
        return "requires " + ", ".join(
            f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in asked.items()
        )
    except (ValueError, AttributeError):
        return "requires what cannot be read"


def _counts(replies: Iterable[object]) -> list[int]:
    """The broker's answers as numbers; a key of another type has no messages.

    Raises: what the broker raised else.
    """
    found = []
    for reply in replies:
        if isinstance(reply, Exception) and "WRONGTYPE" not in str(reply):
            raise reply
        found.append(reply if isinstance(reply, int) else 0)
    return found
