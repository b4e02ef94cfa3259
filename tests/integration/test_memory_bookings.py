"""`memory_mb` must also be free: what was promised to tasks is subtracted, on every way that a
message takes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hive.testing
from hive.broker.channel import steps
from hive.broker.ledger.records import TaskRecords, TaskStatus
from hive.broker.ledger.waiting import MEMORY, free_memory, memory_waits
from hive.broker.link.client import BrokerClient, client_of
from hive.broker.nodes.table import NodeTable
from hive.testing import Cluster
from tests.chaos.conservation import look
from tests.harness import BrokerServer, wait_until
from tests.integration import jobs
from tests.integration.channel_steps import A1, A2, B1, PIN, Steps, node_of
from tests.integration.jobs_app import JOBS
from tests.nodes import BACKGROUND, make_facts, make_load, make_settings

FREE = 1_000


class Nodes(Steps):
    """The channel's scripts, of nodes that measure 1,000 MiB of free memory."""

    def join(self, *incarnations: str, free: int = FREE) -> None:
        for incarnation in incarnations:
            self.attach(incarnation)
            self.beat(incarnation, free=free)

    def beat(self, incarnation: str, *, free: int = FREE, **unused: int) -> None:
        facts = make_facts(node_of(incarnation), incarnation=incarnation)
        load = make_load(memory_free_mb=free)
        NodeTable(self.client).beat(incarnation, load, facts, "", unused)

    def send(self, publish_id: str, memory: int, *nodes: str, **options: Any) -> str:
        """Returns: the node where it was placed."""
        home, demands = f"venom:req:d{memory}:{BACKGROUND}", json.dumps({"memory_mb": memory})
        offered = [(node, 9, 0.0) for node in nodes]
        told = {"home": home, "demands": demands, **options}
        return str(self.publish(publish_id, candidates=offered, **told)[1])

    def homes(self, *memories: int) -> list[str]:
        return [PIN, *(f"venom:req:d{memory}:{BACKGROUND}" for memory in memories), BACKGROUND]

    def free_memory(self, node: str) -> int:
        return int(self.run(MEMORY, 0, node)[0][0])


@pytest.fixture
def nodes(broker: BrokerServer) -> Iterator[Nodes]:
    client = BrokerClient(broker.url, make_settings())
    yield Nodes(client)
    client.close()


def test_two_placements_never_promise_the_same_memory(nodes: Nodes) -> None:
    nodes.join(A1, B1)
    placed = [nodes.send(f"p{number}", 600, "a@h", "b@h") for number in range(3)]
    assert sorted(placed) == ["", "a@h", "b@h"]
    on_a = nodes.placed("a@h")
    assert nodes.take(A1, 9, served=nodes.homes(600)) == on_a
    assert nodes.take(A1, 9, served=nodes.homes(600)) == []
    assert nodes.waiting(f"venom:req:d600:{BACKGROUND}") == ["p2"]


def test_two_slots_and_two_incarnations_never_take_the_same_memory(nodes: Nodes) -> None:
    nodes.join(A1, A2)
    for number in range(3):
        nodes.send(f"p{number}", 600)
    assert nodes.take(A1, 9, served=nodes.homes(600)) == ["p0"]
    assert nodes.take(A1, 9, served=nodes.homes(600)) == []
    assert nodes.take(A2, 9, served=nodes.homes(600)) == []
    assert nodes.waiting(f"venom:req:d600:{BACKGROUND}") == ["p1", "p2"]
    assert nodes.take(A1, 9, "p0", served=nodes.homes(600)) == ["p1"], "with its end"


def test_what_does_not_fit_holds_up_nothing_that_does(nodes: Nodes) -> None:
    nodes.join(A1)
    nodes.send("runs", 600)
    nodes.take(A1, 9, served=nodes.homes(600))
    for name, memory in (("big", 700), ("small", 300), ("least", 100), ("next", 100)):
        nodes.send(name, memory)
    nodes.publish("plain")
    served = nodes.homes(700, 600, 300, 100)
    assert nodes.take(A1, 9, served=served) == ["small", "least", "plain"]
    assert nodes.waiting(f"venom:req:d700:{BACKGROUND}") == ["big"]
    assert nodes.waiting(f"venom:req:d100:{BACKGROUND}") == ["next"]


def test_what_waits_for_memory_keeps_its_order(nodes: Nodes) -> None:
    nodes.join(A1, free=50)
    for number in range(4):
        nodes.send(f"p{number}", 100)
    nodes.send("urgent", 100, priority=9)
    home = f"venom:req:d100:{BACKGROUND}"
    before = nodes.waiting(home)
    assert nodes.take(A1, 3, served=nodes.homes(100)) == []
    assert nodes.waiting(home) == before == ["urgent", "p0", "p1", "p2", "p3"]
    nodes.beat(A1, free=250)
    assert nodes.take(A1, 9, served=nodes.homes(100)) == ["urgent", "p0"], "woken by a beat"


def test_a_pinned_message_that_waits_for_memory_holds_up_no_other_of_its_node(
    nodes: Nodes,
) -> None:
    nodes.join(A1)

    def pin(name: str, memory: int) -> None:
        envelope = {"headers": {"id": name, "hive": {"req": {"memory_mb": memory}}}}
        nodes.run(steps.PUBLISH, name, PIN, 5, name, 0, "", 0.3, json.dumps(envelope), 0, "")

    for name, memory in (("a", 700), ("b", 700), ("c", 0), ("d", 200)):
        pin(name, memory)
    assert nodes.take(A1, 1) == ["a"]
    assert nodes.take(A1, 2) == ["c"]
    assert nodes.take(A1, 9) == ["d"]
    assert nodes.waiting(PIN) == ["b"]
    assert nodes.take(A1, 9, "a") == ["b"]


def test_memory_that_a_run_already_uses_is_counted_once(nodes: Nodes) -> None:
    nodes.join(A1)
    nodes.send("p", 600)
    nodes.take(A1, 9, served=nodes.homes(600))
    assert nodes.free_memory("a@h") == 400, "nothing of it is used yet"
    nodes.beat(A1, free=400, p=0)
    assert nodes.free_memory("a@h") == 400, "all of it is used"
    nodes.beat(A1, free=700, p=300)
    assert nodes.free_memory("a@h") == 400, "half of it is used"
    nodes.run(steps.MARK_EARLY, "a@h", A1, "p")
    nodes.beat(A1, free=400, p=0)
    assert nodes.hash("reserved", "a@h")["p"].endswith("|0MB|early")
    nodes.acknowledge(A1, "p")
    assert nodes.free_memory("a@h") == 400, "what it used is free once a beat has measured it"
    nodes.beat(A1)
    assert nodes.free_memory("a@h") == FREE


def test_a_beat_changes_no_promise_of_another_incarnation(nodes: Nodes) -> None:
    nodes.join(A1, A2)
    nodes.send("p", 600)
    nodes.take(A1, 9, served=nodes.homes(600))
    nodes.beat(A2, p=0)
    assert nodes.free_memory("a@h") == 400


LEAVE: dict[str, Any] = {
    "acknowledged": lambda nodes: nodes.acknowledge(A1, "p"),
    "given back": lambda nodes: nodes.give_back(A1, "p"),
    "dead": lambda nodes: nodes.give_back(A1, "p", most=0),
    "postponed by a rate limit": lambda nodes: nodes.postpone(A1, "p", task="t"),
    "its incarnation died": lambda nodes: nodes.restore(A1),
    "its incarnation left": lambda nodes: nodes.restore(A1, "left"),
    "its incarnation is silent": lambda nodes: nodes.fall_silent(A1),
    "unknown to its process": lambda nodes: nodes.attach(A1, 2, first=False),
}


@pytest.mark.parametrize("how", LEAVE)
def test_whatever_ends_a_reservation_ends_its_promise(nodes: Nodes, how: str) -> None:
    nodes.join(A1, A2)
    nodes.send("p", 600, task_id="t")
    assert nodes.take(A1, 9, served=nodes.homes(600)) == ["p"]
    assert nodes.free_memory("a@h") == 400
    LEAVE[how](nodes)
    assert nodes.free_memory("a@h") == FREE


UNPLACE: dict[str, Any] = {
    "it waited too long": lambda nodes: nodes.run(steps.UNPLACE, -1, 9, "a@h"),
    "its node drains": lambda nodes: nodes.run(steps.RELEASE, "a@h"),
    "it is assigned elsewhere": lambda nodes: nodes.run(steps.ASSIGN, "p", "b@h", "a@h", "b@h"),
}


@pytest.mark.parametrize("how", UNPLACE)
def test_whatever_ends_a_placement_ends_its_promise(nodes: Nodes, how: str) -> None:
    nodes.join(A1, B1)
    assert nodes.send("p", 600, "a@h", task_id="p") == "a@h"
    assert nodes.free_memory("a@h") == 400
    UNPLACE[how](nodes)
    assert nodes.free_memory("a@h") == FREE


def test_a_placed_message_has_its_memory_however_late_it_is_taken(nodes: Nodes) -> None:
    nodes.join(A1)
    assert nodes.send("p", 600, "a@h") == "a@h"
    nodes.send("q", 600)
    assert nodes.take(A1, 9, served=nodes.homes(600)) == ["p"]
    assert nodes.free_memory("a@h") == 400


def test_what_is_assigned_waits_at_its_node_for_the_memory(nodes: Nodes) -> None:
    nodes.join(A1)
    nodes.send("runs", 600)
    nodes.send("p", 600, task_id="p")
    nodes.take(A1, 1, served=nodes.homes(600))
    nodes.send("small", 300, "a@h")
    nodes.run(steps.ASSIGN, "p", "a@h", "a@h")
    assert nodes.take(A1, 9, served=nodes.homes(600)) == ["small"]
    assert nodes.placed("a@h") == ["p"]
    assert nodes.take(A1, 9, "runs", served=nodes.homes(600)) == ["p"]


def test_what_is_its_own_again_has_its_promise_again(nodes: Nodes) -> None:
    nodes.join(A1, A2)
    for name in ("p", "early"):
        nodes.send(name, 300)
    nodes.take(A1, 9, served=nodes.homes(300))
    nodes.run(steps.MARK_EARLY, "a@h", A1, "p")
    nodes.attach(A1, 2, "p", "early", first=False)
    assert nodes.free_memory("a@h") == 400
    nodes.acknowledge(A1, "p")
    nodes.fall_silent(A1)
    assert nodes.free_memory("a@h") == FREE
    nodes.attach(A1, 3, "early", first=False)
    assert nodes.free_memory("a@h") == 700


def test_a_revoked_message_needs_no_memory_to_be_told_of(nodes: Nodes) -> None:
    nodes.join(A1, free=0)
    nodes.send("p", 600, task_id="t")
    nodes.run(steps.REVOKE, 60, "t")
    assert nodes.take(A1, 9, served=nodes.homes(600)) == ["p"]


def test_a_node_that_has_not_measured_gives_no_memory(nodes: Nodes) -> None:
    nodes.attach(A1)
    assert nodes.send("p", 1, "a@h") == ""
    assert nodes.take(A1, 9, served=nodes.homes(1)) == []
    nodes.beat(A1)
    assert nodes.take(A1, 9, served=nodes.homes(1)) == ["p"]


def test_foreign_keys_in_the_place_of_the_bookings_lose_nothing(nodes: Nodes) -> None:
    nodes.join(A1)
    nodes.redis.set(nodes.client.key("booked", "a@h"), "x")
    assert nodes.send("p", 600, "a@h") == "a@h"
    nodes.redis.delete(nodes.client.key("booked", "a@h"))
    nodes.redis.set(nodes.client.key("booked", "a@h"), "x")
    nodes.send("q", 100)
    assert nodes.take(A1, 9, served=nodes.homes(600, 100)) == ["p", "q"]
    assert sorted(look(nodes.client).where("venom:reserved")) == ["p", "q"]


# -- with real spores


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with hive.testing.cluster(JOBS, concurrency=3, hive_heartbeat_interval=0.3) as started:
        yield started


def free_at(cluster: Cluster) -> int:
    """What the cluster's only node could give now."""
    client = client_of(cluster.app)
    ((node_id, node),) = NodeTable(client).read().items()
    return min(node.load.memory_free_mb, free_memory(client, [node_id])[node_id])


def test_the_second_of_two_tasks_that_do_not_fit_together_waits_and_says_why(
    cluster: Cluster, tmp_path: Path
) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    demanded = int(free_at(cluster) * 0.6)
    sent = [
        jobs.wait_for.apply_async((str(begun), str(go)), requirements={"memory_mb": demanded})
        for _ in range(2)
    ]
    assert jobs.plain.apply_async(ignore_result=False).get(timeout=20), "other slots are free"
    records = TaskRecords(cluster.app)

    def seen() -> dict[str, TaskStatus]:
        read = [records.read(task.id) for task in sent]
        return {status.status: status for status in read if status is not None}

    waiting = wait_until(lambda: seen() if set(seen()) == {"running", "pending"} else {})
    why = waiting["pending"].waits_for
    assert why is not None
    assert f"{demanded} MB of memory must be free" in why
    assert waiting["running"].waits_for is None
    client = client_of(cluster.app)
    beats = NodeTable(client).read
    (before,) = (node.last_update for node in beats().values())
    wait_until(lambda: next(iter(beats().values())).last_update > before + 1)
    assert begun.read_text() == "x", "however often its node beats and asks"
    (wait,) = memory_waits(client, beats())
    assert wait.sentence.startswith(f"1 task waits: {demanded} MB of memory must be free")
    go.touch()
    assert [task.get(timeout=20) for task in sent] == ["went on", "went on"]
    assert begun.read_text() == "xx"
    assert memory_waits(client, beats()) == []


def test_what_a_run_has_taken_of_its_memory_is_not_subtracted_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    client = client_of(cluster.app)
    sent = jobs.keep_memory.apply_async((300, str(begun), str(go)), requirements={"memory_mb": 320})

    def promised() -> int:
        """MiB that the only reservation says to be not used yet."""
        (node_id,) = NodeTable(client).read()
        held = client.redis.hvals(client.key("reserved", node_id))
        found = [int(match[1]) for value in held if (match := re.search(rb"\|(\d+)MB", value))]
        return found[0] if found else -1

    wait_until(begun.exists)
    assert wait_until(lambda: 0 < promised() < 100)
    go.touch()
    assert sent.get(timeout=20) == 300 * 1024 * 1024
    assert wait_until(lambda: promised() == -1)


def test_a_map_runs_as_many_items_at_once_as_there_is_memory_for(
    cluster: Cluster, tmp_path: Path
) -> None:
    demanded = int(free_at(cluster) * 0.4)
    items = [str(tmp_path / str(number)) for number in range(12)]
    job = hive.map(
        jobs.overlap, items, requirements={"memory_mb": demanded}, chunk=1, app=cluster.app
    )
    assert max(outcome.value for outcome in job) == 2, "of three slots"
