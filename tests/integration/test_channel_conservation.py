"""All of the channel's scripts at random, some of them called wrongly, with every message counted after each step."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from hive.broker import steps
from hive.broker.client import BrokerClient
from hive.broker.conservation import Conservation
from hive.broker.dead_letters import PURGE_DEAD, REVIVE
from hive.broker.priorities import queue_lists
from tests.harness import BrokerServer
from tests.integration.channel_steps import Steps, node_of, plain_message
from tests.nodes import BACKGROUND, HIGH, make_settings


class Walk:
    """Random calls of all scripts by several incarnations of several nodes, some of them wrong, and a count of what is where."""

    NODES = ("a@h", "b@h", "c@h")
    SLOTS = 3
    QUEUES = (HIGH, "video", BACKGROUND, "venom:pin:a@h")
    PRIORITIES = (None, 0, 10)
    DEATHS_ALLOWED = (0, 1)

    def __init__(self, channel: Steps, seed: int) -> None:
        self.channel = channel
        self.random = random.Random(seed)
        self.accepted: list[str] = []
        self.alive: dict[str, int] = {}
        self.fenced: list[str] = []
        self.calls: Counter[str] = Counter()
        self.conservation = Conservation(channel.client)
        self.moves = [move for move in dir(self) if move.startswith("do_")]
        self.weights = [4 if move in ("do_publish", "do_reserve", "do_acknowledge", "do_give_back") else 1 for move in self.moves]

    def step(self) -> None:
        move = self.random.choices(self.moves, self.weights)[0]
        self.calls[move] += 1
        getattr(self, move)()

    # what can happen

    def do_publish(self) -> None:
        known = self.random.random() < 0.1 and self.accepted
        publish_id = self.random.choice(self.accepted) if known else f"p{len(self.accepted)}"
        candidates = [(node, self.random.randint(1, self.SLOTS), self.random.uniform(-1, 1)) for node in self.random.sample(self.NODES, 2)]
        accepted, *bound = self.channel.publish(
            publish_id,
            home=self.random.choice(self.QUEUES),
            priority=self.random.choice(self.PRIORITIES),
            task_id=self.channel.task_ids.get(publish_id) or self.task_id(),
            delay=self.random.choice((0, 0, 0, 2, 20)),
            candidates=candidates if self.random.random() < 0.5 else (),
        )
        assert accepted == (0 if known else 1)
        assert {*bound} <= {"", *map(node_of, self.alive)}
        if not known:
            self.accepted.append(publish_id)

    def do_publish_as_plain_celery_does(self) -> None:
        tag = f"plain{self.calls['do_publish_as_plain_celery_does']}"
        self.channel.task_ids[tag] = task_id = self.task_id()
        name = self.random.choice(queue_lists(self.random.choice(self.QUEUES))[::5])
        self.channel.redis.lpush(self.channel.client.prefix + name, plain_message(tag, priority=self.random.choice((0, 3)), id=task_id))

    def do_start(self) -> None:
        if len(self.alive) < 5:
            incarnation = f"{self.random.choice(self.NODES)}/{self.calls['do_start']}"
            assert self.channel.attach(incarnation) == ["ok"]
            self.alive[incarnation] = 1

    def do_reserve(self) -> None:
        for incarnation in self.some(self.alive):
            epoch = self.alive[incarnation] - (self.random.random() < 0.1)
            done = self.random.sample(held := sorted(self.held(incarnation)), min(len(held), self.random.randint(0, 2)))
            reply = self.channel.reserve(incarnation, self.random.randint(0, self.SLOTS), *done, epoch=epoch, served=self.QUEUES)
            assert reply[0] == ("ok" if epoch == self.alive[incarnation] else "stale")

    def do_acknowledge(self) -> None:
        for incarnation in self.some([*self.alive, *self.fenced]):
            self.channel.acknowledge(incarnation, *self.ids(), outcome=self.random.choice(("completed", "failed", "retried", "revoked")))

    def do_give_back(self) -> None:
        for incarnation in self.some([*self.alive, *self.fenced]):
            self.channel.give_back(incarnation, *self.ids(), deaths=self.random.randint(0, 1), most=self.random.choice(self.DEATHS_ALLOWED))

    def do_attach_again(self) -> None:
        for incarnation in self.some(self.alive):
            self.alive[incarnation] += 1
            assert self.channel.attach(incarnation, self.alive[incarnation], *self.ids(), first=False)[0] == "ok"

    def do_act_after_death(self) -> None:
        for incarnation in self.some(self.fenced):
            assert self.channel.attach(incarnation, 99, *self.ids(), first=False) == ["fenced"]
            assert self.channel.reserve(incarnation, 3, *self.ids(), epoch=1) == ["fenced"]

    def do_mark_early(self) -> None:
        for incarnation in self.some(self.alive):
            for publish_id in self.ids():
                self.channel.run(steps.MARK_EARLY, node_of(incarnation), incarnation, publish_id)

    def do_die_or_leave(self) -> None:
        if self.random.random() < 0.5:
            for incarnation in self.some(self.alive):
                self.channel.restore(incarnation, deaths=self.random.randint(0, 1), most=self.random.choice(self.DEATHS_ALLOWED))
                del self.alive[incarnation]
                self.fenced.append(incarnation)

    def do_look_after_the_living(self) -> None:
        for incarnation in self.some(self.alive):
            assert self.channel.restore(incarnation, silence=60_000) == [-1]

    def do_unplace(self) -> None:
        self.channel.run(steps.UNPLACE, self.random.choice(self.NODES), self.random.choice((0, 5)))

    def do_release(self) -> None:
        self.channel.run(steps.RELEASE, self.random.choice(self.NODES))

    def do_assign(self) -> None:
        self.channel.run(steps.ASSIGN, self.task_id(), self.random.choice(self.NODES), *self.random.sample(self.NODES, 2))

    def do_revoke(self) -> None:
        self.channel.run(steps.REVOKE, 60, self.task_id())

    def do_revive(self) -> None:
        self.channel.run(REVIVE, self.random.choice([*sorted(self.channel.hash("dead")), "p0"]))

    def do_purge_dead_letters(self) -> None:
        if self.random.random() < 0.2:
            self.channel.run(PURGE_DEAD, *self.random.sample(dead := sorted(self.channel.hash("dead")), min(len(dead), 2)), *self.ids())

    def do_purge(self) -> None:
        if self.random.random() < 0.2:
            self.channel.run(steps.PURGE, 2, keys=[queue_lists(self.random.choice(self.QUEUES))[5]])

    def task_id(self) -> str:
        return f"t{self.random.randint(0, 40)}"

    def some(self, incarnations: Any) -> list[str]:
        return self.random.sample(sorted(incarnations), min(1, len(incarnations)))

    def ids(self) -> list[str]:
        """Ids that somebody holds, and one that perhaps nobody does."""
        held = [publish_id for node in self.NODES for publish_id in self.channel.hash("reserved", node)]
        return [*self.random.sample(held, min(len(held), 3)), f"p{self.random.randint(0, len(self.accepted))}"]

    def held(self, incarnation: str) -> set[str]:
        reserved = self.channel.hash("reserved", node_of(incarnation))
        return {publish_id for publish_id, value in reserved.items() if value.partition("|")[0] == incarnation}

    # what must hold

    def check(self) -> None:
        """Every accepted, unfinished message is in exactly one place, and the counters say the same."""
        key, prefix = self.channel.client.key, self.channel.client.prefix
        lists = [name for queue in self.QUEUES for name in queue_lists(queue)[::5]]
        with self.channel.redis.pipeline(transaction=True) as pipe:
            for name in lists:
                pipe.lrange(prefix + name, 0, -1)
            for node in self.NODES:
                pipe.zrange(key("placed", node), 0, -1)
                pipe.hgetall(key("reserved", node))
            pipe.zrange(key("delayed"), 0, -1).hkeys(key("dead")).hkeys(key("entries")).hgetall(key("counters"))
            pipe.hkeys(key("epochs")).hvals(key("ids"))
            *places, entries, counters, epochs, ids = pipe.execute()
        found = [publish_id for place in places for publish_id in place]
        plain = [element for element in found if element.startswith(b"{")]
        counted = {name.decode(): int(value) for name, value in counters.items()}
        assert sorted(set(found) - set(plain)) == sorted(entries), "each entry is somewhere, and nothing else is"
        assert len(found) == len(set(found)), "nothing is in two places"
        assert counted.get("accepted", 0) == len(entries) + counted.get("done", 0)
        ended = sum(counted.get(outcome, 0) for outcome in ("completed", "failed", "retried", "revoked", "dropped", "purged"))
        assert counted.get("done", 0) == ended
        held = [place for place in places if isinstance(place, dict)]
        assert all(len(place) <= self.SLOTS for place in held)
        holders = {value.split(b"|")[0].decode() for place in held for value in place.values()}
        assert holders <= self.alive.keys() == {incarnation.decode() for incarnation in epochs}
        assert set(ids) <= set(entries), "no way leads to a finished message"
        account = self.conservation.look(0).account
        if account.stranded > 0:  # a list that a plain producer began
            assert self.conservation.survey("0", 10_000) == "0"
            account = self.conservation.look(0).account
        assert (account.missing, account.stranded) == (0, 0), "the audit sees the same"


@pytest.mark.parametrize("seed", [1, 2])
def test_no_message_is_lost_or_doubled_whatever_happens(broker: BrokerServer, seed: int) -> None:
    client = BrokerClient(broker.url, make_settings(), prefix="tenant:" if seed % 2 else "")
    walk = Walk(Steps(client), seed)
    for _ in range(2_000):
        walk.step()
        walk.check()
    assert walk.channel.counters().keys() >= {"duplicates", "completed", "failed", "retried", "revoked", "dropped", "purged", "dead"}
    client.close()
