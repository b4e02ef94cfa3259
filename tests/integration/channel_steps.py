"""The channel's scripts as Python functions, and a look at what lies in the broker."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hive.broker.channel import steps
from hive.broker.channel.entries import Entry, reservation
from hive.broker.link.client import BrokerClient
from hive.broker.link.priorities import list_index, queue_lists
from hive.broker.link.scripts import Script
from tests.nodes import BACKGROUND, HIGH

PIN, REQUIREMENT = "venom:pin:a@h", "venom:req:d1"
SERVED = (PIN, REQUIREMENT, HIGH, "video", BACKGROUND)
A1, A2, B1 = "a@h/1", "a@h/2", "b@h/1"


class Steps:
    """The scripts as the channel calls them, and what lies in the broker afterwards."""

    def __init__(self, client: BrokerClient) -> None:
        self.client = client
        self.redis = client.redis
        self.task_ids: dict[str, str] = {}

    def run(self, script: Script, *args: Any, keys: Sequence[str] = ()) -> Any:
        return _text(
            self.client.run(
                script, [self.client.prefix + key for key in keys], (self.client.prefix, *args)
            )
        )

    def publish(
        self,
        publish_id: str,
        *,
        home: str = BACKGROUND,
        priority: int | None = None,
        task_id: str = "",
        delay: int = 0,
        demands: str = "",
        limit: int = 0,
        candidates: Sequence[tuple[str, int, float]] = (),
        parent: str = "",
    ) -> Any:
        envelope = json.dumps(
            {"body": "", "headers": {"id": task_id}, "properties": {"delivery_tag": publish_id}}
        )
        offered = [part for candidate in candidates for part in candidate]
        self.task_ids[publish_id] = task_id
        return self.run(
            steps.PUBLISH,
            publish_id,
            home,
            list_index(priority),
            task_id,
            delay,
            demands,
            0.3,
            envelope,
            limit,
            parent,
            *offered,
        )

    def attach(
        self,
        incarnation: str,
        epoch: int = 1,
        *held: str,
        first: bool = True,
        process: str = "",
        gap: int = 1_500,
    ) -> Any:
        told = (epoch, "1" if first else "0", process, gap)
        return self.run(steps.ATTACH, node_of(incarnation), incarnation, *told, *held)

    def reserve(
        self,
        incarnation: str,
        slots: int,
        *done: str,
        epoch: int = 1,
        served: Sequence[str] = SERVED,
        outcome: str = "completed",
    ) -> Any:
        lists = [name for queue in served for name in queue_lists(queue)]
        wakes = [
            self.client.key("wake", f"node:{node_of(incarnation)}"),
            *(self.client.key("wake", queue) for queue in served),
        ]
        triples = self.triples(done, outcome)
        return self.run(
            steps.RESERVE,
            node_of(incarnation),
            incarnation,
            epoch,
            slots,
            "\n".join(wakes),
            *triples,
            keys=lists,
        )

    def take(self, incarnation: str, slots: int, *done: str, **options: Any) -> list[str]:
        """Reserve; the ids that were handed over, in their order."""
        reply = self.reserve(incarnation, slots, *done, **options)
        assert reply[0] == "ok"
        return list(reply[3::7])

    def acknowledge(self, incarnation: str, *publish_ids: str, outcome: str = "completed") -> Any:
        return self.run(
            steps.ACKNOWLEDGE,
            node_of(incarnation),
            incarnation,
            *self.triples(publish_ids, outcome),
        )

    def triples(self, publish_ids: Sequence[str], outcome: str) -> list[str]:
        return [
            field
            for publish_id in publish_ids
            for field in (publish_id, self.task_ids.get(publish_id, ""), outcome)
        ]

    def give_back(self, incarnation: str, *publish_ids: str, deaths: int = 1, most: int = 3) -> Any:
        return self.run(
            steps.GIVE_BACK,
            node_of(incarnation),
            incarnation,
            deaths,
            most,
            "its process died",
            *publish_ids,
        )

    def postpone(
        self, incarnation: str, *publish_ids: str, task: str = "", ms: int = 0, late: bool = False
    ) -> Any:
        """late: what is named has been reserved again since."""
        node = node_of(incarnation)
        held = self.hash("reserved", node)
        stamps = [1 if late else held.get(name, "|0").split("|")[1] for name in publish_ids]
        named = zip(publish_ids, stamps, strict=True)
        waits = [reservation(reservation(name, int(stamp)), ms) for name, stamp in named]
        return self.run(steps.POSTPONE, node, incarnation, task, *waits)

    def call_up(
        self, node: str, task: str, *, slots: int = 3, most: int = 1, served: Sequence[str] = SERVED
    ) -> tuple[int, int]:
        called, left = self.run(steps.CALL_UP, node, slots, task, most, *served)
        return called, left

    def restore(self, incarnation: str, known: str | int = "died", *, most: int = 3) -> Any:
        """known: "died", "left", or for how many ms it must have been silent."""
        return self.run(steps.RESTORE, node_of(incarnation), incarnation, known, most, "node died")

    def fall_silent(self, incarnation: str, *, most: int = 3) -> Any:
        """Nothing was heard of it for long, while another node was heard."""
        self.redis.zadd(self.client.key("beats"), {incarnation: 1, "other@h/0": self.now()})
        self.redis.set(self.client.key("heard_since"), 1)
        reply = self.restore(incarnation, 1_000, most=most)
        self.redis.zrem(self.client.key("beats"), "other@h/0")
        return reply

    def hash(self, *key: str) -> dict[str, str]:
        return {
            name.decode(): value.decode()
            for name, value in self.redis.hgetall(self.client.key(*key)).items()
        }

    def counters(self) -> dict[str, int]:
        return {name: int(value) for name, value in self.hash("counters").items()}

    def entry(self, publish_id: str) -> Entry:
        return Entry.unpack(publish_id, self.redis.hget(self.client.key("entries"), publish_id))

    def now(self) -> int:
        """The broker's clock in milliseconds."""
        seconds, microseconds = self.redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    def placed(self, node: str) -> list[str]:
        return list(_text(self.redis.zrange(self.client.key("placed", node), 0, -1)))

    def waiting(self, queue: str) -> list[str]:
        """The ids of a queue in the order in which they will be taken."""
        return [
            _text(raw)
            for name in queue_lists(queue)
            for raw in reversed(self.redis.lrange(self.client.prefix + name, 0, -1))
        ]

    def tokens(self, name: str) -> int:
        return int(self.redis.llen(self.client.key("wake", name)))


def _text(reply: Any) -> Any:
    if isinstance(reply, list):
        return [_text(part) for part in reply]
    return reply.decode(errors="replace") if isinstance(reply, bytes) else reply


def node_of(incarnation: str) -> str:
    return incarnation.rpartition("/")[0]


def plain_message(tag: str, *, priority: int = 3, **headers: Any) -> str:
    """A message as a plain Celery producer pushes it: its priority is 0 where nobody gave one."""
    return json.dumps(
        {
            "body": "W10=",
            "headers": headers,
            "properties": {"delivery_tag": tag, "priority": priority},
        }
    )
