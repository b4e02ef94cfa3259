"""The watchdog's look: what it names of many nodes, and that their number costs no round trip."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from hive.broker.channel.steps import UNPLACE
from hive.broker.ledger.queue_stats import queue_stats
from hive.broker.ledger.records import TaskRecords
from hive.broker.link.client import BrokerClient
from hive.foreman.watch.duty import duty_states
from hive.foreman.watch.look import look
from hive.foreman.watch.zombies import ZombieFinder
from tests.harness import BrokerServer, wait_until
from tests.integration.channel_steps import A1, A2, B1, Steps
from tests.integration.test_watchdog import Cluster, _celery_as_it_was  # noqa: F401 - a fixture
from tests.nodes import BACKGROUND, make_settings

SILENCE = 3000


@pytest.fixture
def steps(broker: BrokerServer) -> Iterator[Steps]:
    settings = make_settings(hive_heartbeat_interval=1.0, hive_zombie_task_timeout=10.0)
    with closing(BrokerClient(broker.url, settings)) as client:
        yield Steps(client)


@pytest.fixture
def cluster(broker: BrokerServer) -> Iterator[Cluster]:
    with closing(Cluster(broker)) as cluster:
        yield cluster


def taken(steps: Steps, incarnation: str, publish_id: str, *, age: int = 0) -> None:
    """A task that the incarnation has reserved so many ms ago."""
    steps.publish(publish_id)
    assert steps.take(incarnation, 99) == [publish_id]
    reserved = steps.client.key("reserved", incarnation.partition("/")[0])
    steps.redis.hset(reserved, publish_id, f"{incarnation}|{steps.now() - age}")


def told(steps: Steps, incarnation: str, line: str) -> None:
    """Its last beat, a moment after all that was before."""
    steps.redis.hset(steps.client.key("held"), incarnation, line)
    steps.redis.zadd(steps.client.key("beats"), {incarnation: steps.now() + 1})


def test_it_names_the_silent_and_the_newest_beat_of_all(steps: Steps) -> None:
    assert look(steps.client).newest_beat == 0
    for incarnation in (A1, B1):
        steps.attach(incarnation)
    newest = steps.redis.zscore("venom:beats", B1)
    steps.redis.zadd("venom:beats", {A1: newest - SILENCE - 1})
    seen = look(steps.client)
    assert (seen.silent, seen.newest_beat) == ((A1,), newest)
    assert newest <= seen.now <= steps.now()


@pytest.mark.parametrize(
    ("line", "suspicious"),
    [
        ("", True),
        ("p", False),
        ("p:60 other", False),
        ("other p:60", False),
        ("other?", True),  # an id, and no unread answer
        ("?", False),
        ("other ?", False),
        ("pp xp p2", True),
        ("pp p", False),
    ],
)
def test_a_reservation_that_the_last_beat_did_not_tell_of_is_a_suspect(
    steps: Steps, line: str, suspicious: bool
) -> None:
    steps.attach(A1)
    taken(steps, A1, "p")
    told(steps, A1, line)
    suspects = look(steps.client).suspects
    assert [(run.publish_id, run.unknown) for run in suspects] == [("p", True)] * suspicious


@pytest.mark.parametrize(
    ("line", "limit"),
    [("p", None), ("p:60", 60.0), ("p:0", 0.0), ("p:much", None), ("p:nan", None)],
)
def test_a_run_that_takes_long_is_a_suspect_with_the_limit_that_its_worker_told(
    steps: Steps, line: str, limit: float | None
) -> None:
    steps.attach(A1)
    taken(steps, A1, "p", age=11_000)
    told(steps, A1, line)
    (run,) = look(steps.client).suspects
    assert (run.publish_id, run.node_id, run.incarnation) == ("p", "a@h", A1)
    assert (run.unknown, run.limit) == (False, limit)


def test_nothing_is_suspicious_of_an_incarnation_that_is_silent_or_has_told_nothing(
    steps: Steps,
) -> None:
    for incarnation in (A1, B1):
        steps.attach(incarnation)
        taken(steps, incarnation, f"of {incarnation}", age=60_000)
    told(steps, A1, "")
    steps.redis.zadd("venom:beats", {A1: steps.now() - SILENCE - 1})
    assert look(steps.client).suspects == ()


def test_what_is_unknown_once_here_and_once_there_is_no_zombie(steps: Steps) -> None:
    finder = ZombieFinder(steps.client)
    steps.publish("p")
    for incarnation in (A1, A2):
        steps.attach(incarnation)
        assert steps.take(incarnation, 1) == ["p"]
        told(steps, incarnation, "")
        assert [finder.find(look(steps.client)) for _ in range(3)] == [[], [], []]
        steps.give_back(incarnation, "p", deaths=0)


def commands_of(client: BrokerClient, call: Callable[[], object]) -> list[str]:
    """The commands that a call sends, scripts by their SHA, without those inside of scripts."""
    sent: list[str] = []
    with client.redis.monitor() as monitor:
        call()
        client.redis.echo("that is all")
        while True:
            heard = monitor.next_command()
            words = heard["command"].split()
            if words[0] == "ECHO":
                return sent
            if heard["client_type"] != "lua" and words[0] != "CLIENT":
                sent.append(" ".join(words[:2]) if words[0] == "EVALSHA" else words[0])


def crowd(cluster: Cluster, nodes: int) -> None:
    """So many nodes that are gone, and so many that live, each with a task that runs long, as its
    own limit allows, and with one that waits for it for too long.
    """
    steps, redis, key = cluster.steps, cluster.client.redis, cluster.client.key
    for number in range(nodes):
        redis.hset(key("nodes", "static"), f"gone-{number}@h", "{}")
        node, incarnation = f"n{number}@h", f"n{number}@h/1"
        publish_id = cluster.send(time_limit=0)
        steps.attach(incarnation)
        assert steps.take(incarnation, 1) == [publish_id]
        long_ago = steps.now() - 100_000
        redis.hset(key("reserved", node), publish_id, f"{incarnation}|{long_ago}")
        told(steps, incarnation, publish_id)
        steps.publish(f"placed {number}", candidates=[(node, 2, 0)])
        redis.zadd(key("placed", node), {f"placed {number}": long_ago})


def test_a_tick_sends_as_many_commands_for_forty_nodes_as_for_two(broker: BrokerServer) -> None:
    sent = []
    for nodes in (2, 40):
        broker.client().flushall()
        settings = {"hive_heartbeat_interval": 5.0, "hive_zombie_task_timeout": 10.0}
        with closing(Cluster(broker, **settings)) as cluster:
            # What the server has to load, and is told every ten seconds, is not counted.
            cluster.steps.run(UNPLACE, 0, 1)
            cluster.watchdog.tick()
            crowd(cluster, nodes)
            for router in cluster.app.conf.task_routes:
                router.close()  # its thread reads the node table now and then
            sent.append(commands_of(cluster.client, cluster.watchdog.tick))
            assert cluster.steps.counters().get("dead", 0) == 0
            assert len(cluster.steps.waiting(BACKGROUND)) == nodes, "all that waited is home"
            again = commands_of(cluster.client, cluster.watchdog.tick)
            assert "HMGET" not in again, "what a message says of its limit is read once"
    assert sent[0] == sent[1]
    assert len(sent[0]) < 10


@pytest.mark.parametrize("node", ["foo", "a@h"])
@pytest.mark.parametrize("kind", ["reserved", "placed"])
def test_a_nodes_key_of_another_type_hinders_no_other_nodes_recovery(
    cluster: Cluster, kind: str, node: str
) -> None:
    key = cluster.client.key(kind, node)
    for incarnation in (A1, B1, "foo/1"):
        cluster.steps.attach(incarnation)
    cluster.client.redis.hset("venom:nodes:static", node, "{}")
    cluster.client.redis.set(key, "bar")
    taken(cluster.steps, B1, "lost")
    cluster.steps.publish("waits", task_id="waits", candidates=[("b@h", 2, 0)])

    def ticks(*places: str) -> bool:
        for incarnation in (A1, "foo/1"):
            cluster.beat(incarnation)
        cluster.beat(B1)
        cluster.watchdog.tick()
        return set(cluster.steps.waiting(BACKGROUND)) == set(places)

    wait_until(lambda: ticks("lost", "waits"), what="zombies are found, what waits goes home")
    noted = [json.loads(raw) for raw in cluster.client.redis.lrange("venom:aside", 0, -1)]
    assert [row[:2] for row in noted if row[0] == key] == [[key, ""]]
    assert queue_stats(cluster.client)["tasks_running"] == 0
    place = TaskRecords(cluster.app).locate("waits")
    assert place is not None
    assert place.name == "queued"
    failing = {state.name for state in duty_states(cluster.client) if state.error}
    assert not failing & {"restore", "unplace", "zombies", "account"}


def test_what_lies_where_zombies_are_noted_hinders_none_from_going_home(cluster: Cluster) -> None:
    cluster.client.redis.set("venom:zombies", "x")
    cluster.steps.attach(A1)
    taken(cluster.steps, A1, "lost")
    for _ in range(3):
        cluster.beat(A1)
        cluster.watchdog.tick()
    assert cluster.steps.waiting(BACKGROUND) == ["lost"]


def test_a_zombie_whose_entry_cannot_be_read_hinders_no_other(cluster: Cluster) -> None:
    cluster.steps.attach(A1)
    names = [f"unreadable {number}" for number in range(9)]
    for publish_id in (*names, "lost"):
        taken(cluster.steps, A1, publish_id)
    for name in names:
        cluster.client.redis.hset(cluster.client.key("entries"), name, "garbage")
    for _ in range(3):
        cluster.beat(A1)
        cluster.watchdog.tick()
    assert cluster.steps.waiting(BACKGROUND) == ["lost"]


def test_a_reservation_that_cannot_be_read_hinders_no_other(cluster: Cluster) -> None:
    cluster.steps.attach(A1)
    taken(cluster.steps, A1, "lost")
    reserved = cluster.client.key("reserved", "a@h")
    for row, value in (("alone", "x"), ("when", f"{A1}|soon"), (b"\xff", f"{A1}|1")):
        cluster.client.redis.hset(reserved, row, value)

    def ticks() -> bool:
        cluster.beat(A1)
        cluster.watchdog.tick()
        return "lost" in cluster.steps.waiting(BACKGROUND)

    wait_until(ticks)
    noted = [json.loads(raw)[:2] for raw in cluster.client.redis.lrange("venom:aside", 0, -1)]
    assert {(reserved, "alone x"), (reserved, f"when {A1}|soon")} == {
        (key, head) for key, head in noted
    }
