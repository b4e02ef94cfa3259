"""The channel's scripts under histories that hypothesis makes up, against a model of what they
promise.

Several nodes with several incarnations start, take, finish, give back, die, come back and are
fenced, while tasks of all priorities are sent, placed, delayed, retried, pinned, postponed, called,
revoked, buried, revived and purged, some of them by calls that have no right to it. After each step
every message is exactly where the model has it, with the deaths that it should have; and what a
node takes is foretold.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hive.broker.channel import steps
from hive.broker.channel.entries import Entry
from hive.broker.ledger.dead_letters import PURGE_DEAD, REVIVE
from hive.broker.link.client import BrokerClient
from hive.broker.link.priorities import list_index, queue_lists
from tests.chaos.conservation import look
from tests.chaos.forms import FORM, LONG
from tests.harness import BrokerServer
from tests.integration.channel_steps import Steps, node_of, plain_message
from tests.nodes import BACKGROUND, HIGH, make_settings

NODES = ("a@h", "b@h", "c@h")
SLOTS = 3
PINNED, DEMANDING = "venom:pin:a@h", "venom:req:d1"
SERVED = {
    "a@h": (PINNED, DEMANDING, HIGH, "video", BACKGROUND),
    "b@h": (DEMANDING, HIGH, BACKGROUND),
    "c@h": (HIGH, "video", BACKGROUND),
}
"""A node's queues, in the order in which it serves them."""
LATER = 3_600_000
DEFAULT_INDEX = list_index(None)

some_node = st.sampled_from(NODES)
some_home = st.sampled_from((BACKGROUND, BACKGROUND, BACKGROUND, HIGH, "video", PINNED, DEMANDING))
some_priority = st.sampled_from((None, None, None, 0, 9))
some = st.integers(1, 999)
"""Which of those that there are just now."""
most_deaths = st.sampled_from((0, 1, 3))


@dataclass
class Message:
    home: str
    index: int
    task_id: str
    deaths: int = 0
    pin: str = ""
    place: str = "queue"
    """queue, delayed, dead, `placed <node>` or `reserved <incarnation>`."""
    early: bool = False
    superseded: bool = False
    absences: dict[str, bool] = field(default_factory=dict)
    """The silent incarnations that it went home from → whether another has begun it since."""

    @property
    def list(self) -> str:
        return queue_lists(self.home)[self.index]


class Channel(RuleBasedStateMachine):
    """The scripts and the model of them, step by step."""

    client: BrokerClient

    def __init__(self) -> None:
        super().__init__()
        self.client.redis.flushall()
        self.channel = Steps(self.client)
        self.messages: dict[str, Message] = {}
        self.queues: dict[str, list[str]] = defaultdict(list)  # as they will be taken
        self.to_front: dict[str, set[str]] = defaultdict(set)
        self.done: set[str] = set()
        self.alive: dict[str, int] = {}
        self.fenced: list[str] = []
        self.beyond: dict[str, int] = defaultdict(int)
        """What a node holds beyond its slots since one of its processes came back."""
        self.revoked: set[str] = set()
        self.newest: dict[str, str] = {}
        self.sent: dict[str, set[str]] = defaultdict(set)
        self.plain: dict[str, tuple[str, str, bool]] = {}
        self.limited: set[str] = set()  # postponed by a rate limit, and not called since
        self.named = 0

    # -- the model

    def at(self, place: str) -> list[str]:
        return sorted(name for name, message in self.messages.items() if message.place == place)

    def busy(self, node: str) -> int:
        return sum(
            message.place.startswith(f"reserved {node}/") for message in self.messages.values()
        )

    def lives(self, node: str) -> bool:
        return any(node_of(incarnation) == node for incarnation in self.alive)

    def wait(self, name: str) -> None:
        """Behind all others of its priority."""
        message = self.messages[name]
        message.place = "queue"
        self.queues[message.list].append(name)

    def finish(self, name: str) -> None:
        message = self.messages.pop(name)
        self.done.add(name)
        self.sent.pop(name, None)
        if self.newest.get(message.task_id) == name:
            del self.newest[message.task_id]

    def go_home(self, name: str, deaths: int = 0, most: int = 0, absent: str = "") -> None:
        message = self.messages[name]
        message.early = False
        if message.superseded:
            self.finish(name)
            return
        message.deaths += deaths
        if absent:
            message.absences[absent] = False
        missed = absent and len(message.absences) > 10 * max(1, most)
        if missed or ((deaths or absent) and message.deaths > most):
            message.place = "dead"
            message.pin = ""
        elif message.pin and self.lives(message.pin):
            message.place = f"placed {message.pin}"
        else:
            message.pin = ""
            message.place = "queue"
            self.to_front[message.list].add(name)

    # -- drawing

    def one(self, number: int, names: Any) -> list[str]:
        """One of them, or none where there is none."""
        known = sorted(names)
        return [known[number % len(known)]] if known else []

    def few(self, number: int, names: Any) -> list[str]:
        known = sorted(names)
        return [name for at, name in enumerate(known) if (number >> at) & 1]

    def reserved(self) -> list[str]:
        return [
            name for name, message in self.messages.items() if message.place.startswith("reserved ")
        ]

    def new_name(self) -> str:
        self.named += 1
        return f"p{self.named:04}"

    # -- sending

    @initialize(homes=st.lists(some_home, min_size=4, max_size=8))
    def begin(self, homes: list[str]) -> None:
        """A hive at work: an empty one has little to get wrong."""
        for node in ("a@h", "b@h", "a@h"):
            self.start(node)
        for home in homes:
            self.publish(home, [None, 9], 0, [])

    @rule(
        home=some_home,
        priorities=st.lists(some_priority, min_size=1, max_size=3),
        delay=st.sampled_from((0, 0, 0, LATER)),
        offers=st.lists(
            st.tuples(some_node, st.integers(1, SLOTS), st.sampled_from((-1.0, 0.1, 0.4))),
            max_size=3,
            unique_by=lambda o: o[0],
        ),
    )
    def publish(
        self,
        home: str,
        priorities: list[int | None],
        delay: int,
        offers: list[tuple[str, int, float]],
    ) -> None:
        for priority in priorities:
            name = self.new_name()
            self.accept(
                name,
                Message(home, list_index(priority), f"t{name}"),
                priority,
                delay,
                offers=offers,
            )

    def accept(
        self,
        name: str,
        message: Message,
        priority: int | None,
        delay: int,
        *,
        offers: Any = (),
        parent: str = "",
    ) -> None:
        free = []
        for node, slots, score in offers:
            taken = self.busy(node) + len(self.at(f"placed {node}"))
            if self.lives(node) and taken < slots:
                free.append((score + 0.3 * taken / slots, node))
        lowest = min(score for score, _ in free) if free else 0.0
        best = next((node for score, node in free if score == lowest), "")
        reply = self.channel.publish(
            name,
            home=message.home,
            priority=priority,
            task_id=message.task_id,
            delay=delay,
            candidates=offers,
            parent=parent,
        )
        assert reply == [1, "" if delay else best]
        self.messages[name] = message
        self.newest[message.task_id] = name
        if delay:
            message.place = "delayed"
        elif best:
            message.place = f"placed {best}"
        else:
            self.wait(name)

    @rule(number=some)
    def publish_again(self, number: int) -> None:
        """A lost reply: the same publication comes twice, perhaps after its task has run."""
        for name in self.one(number, {*self.messages, *self.done}):
            if not name.startswith("plain"):
                assert self.channel.publish(name, task_id=self.channel.task_ids[name]) == [0]

    @rule(number=some, delay=st.sampled_from((0, LATER)))
    def publish_from_a_run(self, number: int, delay: int) -> None:
        for parent in self.one(number, self.reserved()):
            name = self.new_name()
            self.accept(
                name, Message(BACKGROUND, list_index(None), f"t{name}"), None, delay, parent=parent
            )
            self.sent[parent].add(name)

    @rule(number=some, delay=st.sampled_from((0, LATER)))
    def retry(self, number: int, delay: int) -> None:
        """A run sends its task again, under the same task id; it has still to be acknowledged."""
        for parent in self.one(number, self.reserved()):
            message, name = self.messages[parent], self.new_name()
            first = self.newest.get(message.task_id) == parent
            self.accept(
                name,
                Message(message.home, message.index, message.task_id),
                10 - message.index,
                delay,
                parent=parent,
            )
            self.sent[parent].add(name)
            message.superseded = message.superseded or first

    @rule(ended=some)
    def repeat_all_runs(self, ended: int) -> None:
        """Some of what they sent has ended.

        Minutes later it is forgotten which messages were finished, but not what these have sent.
        """
        for incarnation in list(self.alive):
            sent = {name for names in self.sent.values() for name in names}
            over = [
                name for name in self.few(ended, sent) if name in self.at(f"reserved {incarnation}")
            ]
            self.channel.acknowledge(incarnation, *over)
            for name in over:
                self.finish(name)
        for key in self.client.redis.keys(self.client.key("finished", "*")):
            self.client.redis.delete(key)
        self.done.clear()
        for parent in self.reserved():
            for name in self.sent[parent]:
                assert self.channel.publish(
                    name, task_id=self.channel.task_ids[name], parent=parent
                ) == [0]

    @rule(
        queue=st.sampled_from((HIGH, "video", BACKGROUND)),
        index=st.sampled_from((0, 0, 5, 10)),
        priority=st.sampled_from((0, 3)),
    )
    def publish_as_plain_celery_does(self, queue: str, index: int, priority: int) -> None:
        name = f"plain{self.new_name()}"
        self.channel.task_ids[name] = task_id = f"t{name}"
        raw = plain_message(name, priority=priority, id=task_id)
        key = queue_lists(queue)[index]
        self.client.redis.lpush(self.client.prefix + key, raw)
        self.plain[name] = (queue, raw, index == 0 and priority == 0)
        self.queues[key].append(name)

    @rule()
    def become_due(self) -> None:
        for name in self.at("delayed"):
            if self.messages[name].pin:
                continue
            self.client.redis.zadd(self.client.key("delayed"), {name: 1})

    # -- nodes

    @precondition(lambda self: len(self.alive) < 5)
    @rule(node=some_node)
    def start(self, node: str) -> None:
        incarnation = f"{node}/{len(self.alive) + len(self.fenced)}"
        assert self.channel.attach(incarnation) == ["ok", [], [], 0]
        self.alive[incarnation] = 1

    @rule(
        number=some,
        slots=st.integers(1, SLOTS),
        finished=some,
        stale=st.sampled_from((False, False, False, True)),
    )
    def reserve(self, number: int, slots: int, finished: int, stale: bool) -> None:
        for incarnation in self.one(number, self.alive):
            node, epoch = node_of(incarnation), self.alive[incarnation]
            done = self.few(finished, self.at(f"reserved {incarnation}"))
            due = {
                raw.decode()
                for raw in self.client.redis.zrangebyscore(self.client.key("delayed"), 0, 1)
            } - {*done}
            placed = self.channel.placed(node)
            for name in done:
                self.finish(name)
            reply = self.channel.reserve(
                incarnation, slots, *done, epoch=epoch - stale, served=SERVED[node]
            )
            if stale:
                assert reply == ["stale"]
                continue
            for name in sorted(due):  # all of one instant, then by name
                self.wait(name)
            want = slots - self.busy(node)
            foretold = self.foretell(node, want, placed)
            assert (reply[0], reply[1], reply[3::7]) == ("ok", want - len(foretold), foretold)
            for at in range(3, len(reply), 7):
                self.hand_over(incarnation, reply[at : at + 6])

    def foretell(self, node: str, want: int, placed: list[str]) -> list[str]:
        """What a node takes: what is placed on it, then its queues in their order, the most urgent
        and the oldest first.
        """
        taken = placed[: max(0, want)]
        keys = [key for queue in SERVED[node] for key in queue_lists(queue)]
        while len(taken) < want and (key := next((key for key in keys if self.queues[key]), "")):
            popped = self.queues[key][: want - len(taken)]
            del self.queues[key][: len(popped)]
            for name in popped:
                if name in self.plain:
                    self.enter(name, key)
                if self.messages[name].list == key:
                    taken.append(name)
                else:
                    self.wait(name)
        return taken

    def enter(self, name: str, key: str) -> None:
        """A plain producer's message becomes an entry; where nobody gave it a priority, it waits
        behind those of the default one.
        """
        queue, _, unset = self.plain.pop(name)
        task_id = self.channel.task_ids[name]
        self.messages[name] = Message(
            queue, DEFAULT_INDEX if unset else queue_lists(queue).index(key), task_id
        )
        self.newest[task_id] = name

    def hand_over(self, incarnation: str, fields: list[Any]) -> None:
        name, home, deaths, revoked, _, task_id = fields
        message = self.messages[name]
        message.place = f"reserved {incarnation}"
        message.absences = dict.fromkeys(message.absences, True)
        before = message.deaths + len(message.absences)
        assert (home, int(deaths), task_id) == (message.home, before, message.task_id)
        assert revoked == str(int(task_id in self.revoked))

    @rule(number=some, finished=some)
    def fill(self, number: int, finished: int) -> None:
        """What nodes do most of the time."""
        self.reserve(number, SLOTS, finished, stale=False)

    @rule(
        number=some,
        which=some,
        outcome=st.sampled_from(("completed", "failed", "retried", "revoked")),
    )
    def acknowledge(self, number: int, which: int, outcome: str) -> None:
        for incarnation in self.one(number, [*self.alive, *self.fenced]):
            names = self.few(which, {*self.reserved(), *self.missed(incarnation)})
            ended = self.end(incarnation, names)
            assert self.channel.acknowledge(incarnation, *names, outcome=outcome) == ended

    @rule(number=some, which=some, deaths=st.integers(0, 1), most=most_deaths)
    def give_back(self, number: int, which: int, deaths: int, most: int) -> None:
        for incarnation in self.one(number, [*self.alive, *self.fenced]):
            names = self.few(which, self.reserved())
            own = {*names} & {*self.at(f"reserved {incarnation}")}
            reply = self.channel.give_back(incarnation, *names, deaths=deaths, most=most)
            for name in own:
                self.go_home(name, deaths, most)
            fates = {
                name: 3
                if name not in self.messages
                else 2
                if self.messages[name].place == "dead"
                else 1
                for name in own
            }
            assert dict(zip(reply[::2], reply[1::2], strict=True)) == fates

    @rule(number=some, which=some, limited=st.booleans())
    def postpone(self, number: int, which: int, limited: bool) -> None:
        """Only what has not started is."""
        for incarnation in self.one(number, [*self.alive, *self.fenced]):
            names = [
                name
                for name in self.few(which, self.reserved())
                if not self.messages[name].superseded and (limited or name not in self.limited)
            ]
            own = {*names} & {*self.at(f"reserved {incarnation}")}
            reply = self.channel.postpone(
                incarnation, *names, task="limited" if limited else "", ms=LATER
            )
            assert reply == len(own)
            for name in own:
                self.messages[name].place, self.messages[name].early = "delayed", False
                if limited:
                    self.limited.add(name)

    @rule(node=some_node, most=st.integers(1, 3))
    def call_up(self, node: str, most: int) -> None:
        could = {
            name
            for name in self.limited & {*self.at("delayed")}
            if self.messages[name].pin == node
            or (not self.messages[name].pin and self.messages[name].home in SERVED[node])
        }
        free = SLOTS - self.busy(node) - len(self.at(f"placed {node}"))
        called, left = self.channel.call_up(node, "limited", most=most, served=SERVED[node])
        assert called == min(most, len(could))
        assert left >= len(could) - called
        delayed = {
            raw.decode() for raw in self.client.redis.zrange(self.client.key("delayed"), 0, -1)
        }
        placed = {*self.channel.placed(node)}
        moved = could - delayed
        assert len(moved) == called
        assert len(moved & placed) >= min(max(0, free), called)
        for name in moved:
            self.limited.discard(name)
            if name in placed:
                self.messages[name].place = f"placed {node}"
            else:
                self.go_home(name)

    @rule(number=some, which=some)
    def mark_early(self, number: int, which: int) -> None:
        for incarnation in self.one(number, self.alive):
            for name in self.one(which, self.reserved()):
                own = self.messages[name].place == f"reserved {incarnation}"
                assert (
                    self.channel.run(steps.MARK_EARLY, node_of(incarnation), incarnation, name)
                    == own
                )
                self.messages[name].early = self.messages[name].early or own

    @rule(number=some, keep=some)
    def connect_again(self, number: int, keep: int) -> None:
        for incarnation in self.one(number, self.alive):
            self.alive[incarnation] += 1
            own = self.at(f"reserved {incarnation}")
            kept = self.few(keep, own)
            reply = self.channel.attach(incarnation, self.alive[incarnation], *kept, first=False)
            assert (reply[0], {*reply[1]}, reply[2:]) == ("ok", {*own} - {*kept}, [[], 0])
            for name in {*own} - {*kept}:
                self.go_home(name)

    @rule(
        number=some,
        known=st.sampled_from(("died", "left", "silent", "silent", "silent")),
        most=most_deaths,
    )
    def die_or_leave_or_fall_silent(self, number: int, known: str, most: int) -> None:
        for incarnation in self.one(number, self.alive):
            node = node_of(incarnation)
            del self.alive[incarnation]
            self.fenced.append(incarnation)
            own = self.at(f"reserved {incarnation}")
            for name in own:
                if self.messages[name].early:
                    self.finish(name)
                else:
                    absent = incarnation if known == "silent" else ""
                    self.go_home(name, int(known == "died"), most, absent)
            if not self.lives(node):
                for name in self.at(f"placed {node}"):
                    self.go_home(name)
            if known == "silent":
                reply = self.channel.fall_silent(incarnation, most=most)
            else:
                reply = self.channel.restore(incarnation, known, most=most)
            assert {*reply[2:]} == {*own}

    @rule(number=some, which=some)
    def act_after_death(self, number: int, which: int) -> None:
        """It does not know yet: only what it has ended, and nobody else has begun, is done."""
        for incarnation in self.one(number, self.fenced):
            names = self.few(which, {*self.reserved(), *self.missed(incarnation)})
            assert self.channel.reserve(incarnation, SLOTS, *names) == ["fenced"]
            self.end(incarnation, names)
            assert self.channel.give_back(incarnation, *names) == []

    def missed(self, incarnation: str) -> list[str]:
        return [name for name, message in self.messages.items() if incarnation in message.absences]

    def waits(self, message: Message) -> bool:
        pinned = message.pin and message.place == f"placed {message.pin}"
        return bool(message.place == "queue" or pinned)

    def take_out(self, name: str, place: str) -> None:
        message = self.messages[name]
        if message.place == "queue":
            self.queues[message.list].remove(name)
        message.place = place

    def is_own_again(self, incarnation: str, name: str) -> bool:
        """It is taken out of where it waits then; what another has begun stays that one's."""
        message = self.messages[name]
        begun = message.absences.pop(incarnation, True)
        if begun or not self.waits(message):
            return False
        self.take_out(name, f"reserved {incarnation}")
        return True

    def end(self, incarnation: str, names: list[str]) -> int:
        """Its acknowledgements arrive. Returns how many end a message."""
        own = [
            name
            for name in names
            if self.messages[name].place == f"reserved {incarnation}"
            or self.is_own_again(incarnation, name)
        ]
        for name in own:
            self.finish(name)
        return len(own)

    @precondition(lambda self: len(self.alive) < 5)
    @rule(number=some, which=some, others=some)
    def come_back(self, number: int, which: int, others: int) -> None:
        """It was taken for dead, and lives: what nobody else has begun is its own again."""
        for incarnation in self.one(number, self.fenced):
            node = node_of(incarnation)
            held = self.few(which, self.missed(incarnation))
            held += [name for name in self.few(others, self.reserved()) if name not in held]
            lost = [name for name in held if not self.is_own_again(incarnation, name)]
            for name in self.missed(incarnation):
                del self.messages[name].absences[incarnation]
            self.fenced.remove(incarnation)
            self.alive[incarnation] = 99
            self.beyond[node] = max(self.beyond[node], self.busy(node) - SLOTS)
            reply = self.channel.attach(incarnation, 99, *held, first=False)
            assert reply[:3] == ["ok", [], lost]

    @rule(number=some, most=most_deaths)
    def a_silence_was_a_death(self, number: int, most: int) -> None:
        for incarnation in self.one(number, self.fenced):
            for name in self.missed(incarnation):
                message = self.messages[name]
                del message.absences[incarnation]
                message.deaths += 1
                if message.deaths > most and self.waits(message):
                    self.take_out(name, "dead")
            assert self.channel.restore(incarnation, "died", most=most) == [0, 0]

    @rule(number=some)
    def look_after_the_living(self, number: int) -> None:
        for incarnation in self.one(number, self.alive):
            assert self.channel.restore(incarnation, 600_000) == [-1]

    # -- the watchdog and people

    @rule(node=some_node)
    def unplace(self, node: str) -> None:
        moved = [name for name in self.at(f"placed {node}") if not self.messages[name].pin]
        told = [node, len(moved)] if moved else []
        assert self.channel.run(steps.UNPLACE, 0, 1000, node) == told
        for name in moved:
            self.go_home(name)

    @rule(node=some_node)
    def release(self, node: str) -> None:
        self.channel.run(steps.RELEASE, node)
        for name in self.at(f"placed {node}"):
            self.messages[name].pin = ""
            self.go_home(name)

    @rule(number=some, node=some_node, waiting=st.booleans())
    def assign(self, number: int, node: str, waiting: bool) -> None:
        queued = (
            [
                task_id
                for task_id, name in self.newest.items()
                if self.messages[name].place == "queue"
            ]
            if waiting
            else []
        )
        for task_id in self.one(number, queued or self.newest):
            name = self.newest[task_id]
            message = self.messages[name]
            reply = self.channel.run(steps.ASSIGN, task_id, node, *NODES)
            if message.place in ("dead", "delayed"):
                assert reply == [message.place]
            elif message.place.startswith("reserved "):
                assert reply == ["running", node_of(message.place.removeprefix("reserved "))]
            elif not self.lives(node):
                assert reply == ["offline"]
            else:
                assert reply == ["moved", node]
                if message.place == "queue":
                    self.queues[message.list].remove(name)
                message.place, message.pin = f"placed {node}", node

    @rule(number=some)
    def revoke(self, number: int) -> None:
        for task_id in self.one(number, self.newest):
            assert self.channel.run(steps.REVOKE, 600, task_id) == 1
            self.revoked.add(task_id)
            name = self.newest[task_id]
            if self.messages[name].place == "delayed":
                self.go_home(name)

    @rule(number=some)
    def revive(self, number: int) -> None:
        for name in self.one(number, self.at("dead") or self.messages):
            dead = self.messages[name].place == "dead"
            assert self.channel.run(REVIVE, name) == dead
            if dead:
                self.messages[name].deaths = 0
                self.messages[name].absences.clear()
                self.sent.pop(name, None)
                self.go_home(name)

    @rule(which=some)
    def purge_dead_letters(self, which: int) -> None:
        names = self.few(which, self.messages)
        dead = [name for name in names if self.messages[name].place == "dead"]
        if dead:
            assert self.channel.run(PURGE_DEAD, *names) == len(dead)
            for name in dead:
                self.finish(name)

    @rule(
        queue=st.sampled_from((HIGH, "video", BACKGROUND)),
        index=st.sampled_from((0, 5)),
        most=st.integers(1, 3),
    )
    def purge(self, queue: str, index: int, most: int) -> None:
        key = queue_lists(queue)[index]
        taken = self.queues[key][:most]
        if any(name in self.plain for name in taken):
            return  # it has no entry yet, and so is not counted
        assert self.channel.run(steps.PURGE, most, keys=[key]) == len(taken)
        del self.queues[key][:most]
        for name in taken:
            self.finish(name)

    # -- what must hold after each step

    def settle_lists(self) -> None:
        """Take over the order in which a step has put several messages to the front; all else is as
        it was, which is looked at below.
        """
        for key, names in self.to_front.items():
            first = self.client.redis.lrange(self.client.prefix + key, -len(names), -1)
            self.queues[key] = [
                *(raw.decode() for raw in reversed(first) if raw.decode() in names),
                *self.queues[key],
            ]
        self.to_front.clear()

    def name_of(self, raw: bytes) -> str:
        text = raw.decode()
        return next((name for name, (_, plain, _) in self.plain.items() if plain == text), text)

    @invariant()
    def everything_is_where_it_should_be(self) -> None:
        self.settle_lists()
        sight = look(self.client)
        sight.check()
        assert {
            name: [self.key_of(message)] for name, message in self.messages.items()
        } == sight.places
        for key, names in self.queues.items():
            assert [
                self.name_of(raw)
                for raw in reversed(self.client.redis.lrange(self.client.prefix + key, 0, -1))
            ] == names
        for name, packed in sight.entries.items():
            entry, message = Entry.unpack(name, packed), self.messages[name]
            assert (entry.deaths, entry.home, entry.pin) == (
                message.deaths,
                message.home,
                message.pin,
            )
        assert self.channel.hash("ids") == self.newest
        assert {*self.channel.hash("epochs")} == self.alive.keys()
        for node in NODES:
            holders = self.channel.hash("reserved", node)
            assert len(holders) <= SLOTS + self.beyond[node]
            assert {name: value.partition("|")[0] for name, value in holders.items()} == {
                name: message.place.removeprefix("reserved ")
                for name, message in self.messages.items()
                if message.place.startswith(f"reserved {node}/")
            }

    def key_of(self, message: Message) -> str:
        if message.place == "queue":
            return self.client.prefix + message.list
        kind, _, where = message.place.partition(" ")
        parts = {"placed": (kind, where), "reserved": (kind, node_of(where))}.get(kind, (kind,))
        return self.client.key(*parts)

    def teardown(self) -> None:
        """In the end a new node finishes all that waits, each once."""
        for incarnation in list(self.alive):
            self.channel.restore(incarnation, "left")
        for name in self.at("dead"):
            self.channel.run(REVIVE, name)
        for name in self.at("delayed"):
            self.client.redis.zadd(self.client.key("delayed"), {name: 1})
        self.channel.attach("fresh@h/1")
        taken = self.channel.take(
            "fresh@h/1", 1_000, served=(PINNED, DEMANDING, HIGH, "video", BACKGROUND)
        )
        assert len(taken) == len({*taken})
        self.channel.acknowledge("fresh@h/1", *taken)
        sight = look(self.client)
        sight.check()
        assert not sight.entries
        assert not sight.plain
        assert not self.client.redis.keys(self.client.key("sent", "*"))
        assert not self.client.redis.exists(self.client.key("absences"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    server = BrokerServer(tmp_path_factory.mktemp("broker"), durable=False).start()
    yield server
    server.kill()


PROFILE = settings(
    max_examples=400 if FORM is LONG else 30,
    stateful_step_count=120 if FORM is LONG else 60,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink) if FORM is LONG else (Phase.generate,),
)


@pytest.mark.slow
@pytest.mark.timeout(FORM.timeout)
@pytest.mark.parametrize("prefix", ["", "tenant:"])
def test_the_channel_keeps_its_promises_whatever_happens(server: BrokerServer, prefix: str) -> None:
    Channel.client = BrokerClient(server.url, make_settings(), prefix=prefix)
    try:
        run_state_machine_as_test(Channel, settings=PROFILE)
    finally:
        Channel.client.close()
