"""The watchdog: whom it declares dead and when, what it brings back, and that nothing stops it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, _state

import hive
from hive.broker.ledger.zombies import read_zombies
from hive.broker.link.client import BrokerClient, client_of
from hive.broker.nodes.process import Process, _began
from hive.broker.nodes.table import NodeTable
from hive.errors import DeadLetterError
from hive.foreman.watch.duty import Duty, Watch, duty_states
from hive.foreman.watch.watchdog import Watchdog
from tests.harness import BrokerServer, wait_until
from tests.integration.channel_steps import A1, B1, Steps, node_of, plain_message
from tests.nodes import BACKGROUND, make_facts, make_load, make_settings

INTERVAL = 0.3


class Cluster:
    """A watchdog in this process, and nodes that exist only in the broker."""

    def __init__(self, server: BrokerServer, **settings: Any) -> None:
        values = {"hive_heartbeat_interval": INTERVAL, "hive_max_retries": 1} | settings
        self.app = hive.install(
            Celery("watched", broker=server.url, set_as_current=False), make_settings(**values)
        )
        self.client: BrokerClient = client_of(self.app)
        self.steps = Steps(self.client)
        self.restored: list[str] = []
        self.watchdog = Watchdog(
            self.client, self.app, lambda _, restored: self.restored.extend(restored)
        )

    def beat(self, incarnation: str, held: str = "") -> None:
        """A heartbeat, later than all that was before it."""
        moment = self.steps.now()
        wait_until(lambda: self.steps.now() > moment)
        facts = make_facts(node_of(incarnation), incarnation=incarnation)
        NodeTable(self.client).beat(incarnation, make_load(), facts, held)

    def send(self, **options: Any) -> str:
        """A task that waits; returns its publish id."""
        result = self.app.send_task("some.task", **options)
        return str(self.client.redis.hget("venom:ids", result.id).decode())

    def result(self, publish_id: str) -> Any:
        return self.app.AsyncResult(self.steps.entry(publish_id).task_id)

    def close(self) -> None:
        for router in self.app.conf.task_routes:
            router.close()
        self.watchdog.client.close()
        self.client.close()


@pytest.fixture(autouse=True)
def _celery_as_it_was() -> Iterator[None]:
    default = _state.default_app
    yield
    _state.set_default_app(default)


@pytest.fixture
def cluster(broker: BrokerServer) -> Iterator[Cluster]:
    with closing(Cluster(broker)) as cluster:
        yield cluster


def test_a_silent_incarnation_is_missed_once_broker_and_nodes_were_heard_for_long_enough(
    cluster: Cluster,
) -> None:
    cluster.steps.attach(A1)
    cluster.steps.publish("p")
    cluster.steps.take(A1, 1)
    cluster.steps.attach(B1)

    def silent(beats: int) -> bool:
        """Whether A1 has been silent for so many beats, while B1 goes on."""
        cluster.beat(B1)
        last = cluster.client.redis.zscore("venom:beats", A1)
        return bool(cluster.steps.now() > last + 1_000 * INTERVAL * beats)

    wait_until(lambda: silent(4))
    began = time.monotonic()
    cluster.watchdog.tick()
    assert cluster.restored == [], "it has only just begun to listen"
    wait_until(lambda: silent(0) and (cluster.watchdog.tick() or cluster.restored))
    assert time.monotonic() - began >= 3 * INTERVAL
    assert cluster.restored == ["p"]
    assert (cluster.steps.waiting(BACKGROUND), cluster.steps.entry("p").deaths) == (["p"], 0)
    assert cluster.steps.reserve(A1, 1) == ["fenced"]


def test_a_lone_node_that_is_not_heard_is_not_missed(cluster: Cluster) -> None:
    """Nobody could take its work; and it may be the broker's own link that is down."""
    cluster.steps.attach(A1)
    cluster.steps.publish("p")
    cluster.steps.take(A1, 1)

    def ticked() -> bool:
        cluster.watchdog.tick()
        last = cluster.client.redis.zscore("venom:beats", A1)
        return bool(cluster.steps.now() > last + 9_000 * INTERVAL)

    wait_until(ticked)
    assert cluster.steps.hash("reserved", "a@h").keys() == {"p"}
    moment = cluster.steps.now()
    cluster.steps.attach(B1)
    wait_until(
        lambda: cluster.beat(B1) or cluster.watchdog.tick() or cluster.restored,
        what="another is heard",
    )
    assert cluster.steps.now() - moment >= 3_000 * INTERVAL, "and then for as long as a death takes"


def test_a_process_that_proc_hides_from_others_is_not_known_to_be_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As under the option hidepid, where the watchdog is another user's."""
    own = Process.own(make_settings())
    with monkeypatch.context() as hidden:
        hidden.setattr("hive.broker.nodes.process._began", lambda _: None)
        hidden.setattr("hive.broker.nodes.process._text", lambda _: "")
        assert not own.has_ended
    child = subprocess.Popen(["sleep", "60"])
    process = own.model_copy(update={"pid": child.pid, "began": _began(child.pid)})
    assert not process.has_ended
    child.kill()
    wait_until(lambda: process.has_ended, 10, "as a zombie, too")
    child.wait()
    assert process.has_ended


def test_a_process_that_has_ended_on_this_machine_is_known_to_be_dead(cluster: Cluster) -> None:
    process = Process.own(cluster.client.settings)
    ended = process.model_copy(update={"began": process.began - 1})
    assert (process.has_ended, ended.has_ended) == (False, True)
    for incarnation, who in ((A1, ended), (B1, process)):
        cluster.steps.attach(incarnation, process=who.model_dump_json())
        cluster.steps.publish(incarnation)
        cluster.steps.take(incarnation, 1)
    wait_until(lambda: cluster.watchdog.tick() or cluster.restored)
    assert cluster.restored == [A1], "no other node is heard: who lives is not missed"
    assert cluster.steps.entry(A1).deaths == 1


def test_who_beats_is_left_alone(cluster: Cluster) -> None:
    for incarnation in (A1, B1):
        cluster.steps.attach(incarnation)
    cluster.steps.publish("p")
    cluster.steps.take(A1, 1)

    def tick() -> bool:
        cluster.beat(A1, "p")
        cluster.watchdog.tick()
        return not cluster.client.redis.hexists("venom:epochs", B1)

    wait_until(tick, what="the other one is declared dead")
    assert cluster.client.redis.hexists("venom:epochs", A1)
    assert cluster.steps.hash("reserved", "a@h").keys() == {"p"}


def test_after_a_frozen_broker_nobody_who_lives_is_declared_dead(tmp_path: Path) -> None:
    server = BrokerServer(tmp_path / "broker").start()
    cluster = Cluster(server)
    stop = threading.Event()
    thread = threading.Thread(target=cluster.watchdog.run, args=(stop,))
    try:
        cluster.steps.attach(A1)
        cluster.beat(A1)
        thread.start()
        wait_until(lambda: cluster.watchdog.leads)
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        frozen = time.monotonic()
        wait_until(lambda: time.monotonic() > frozen + 6 * INTERVAL)
        seen = cluster.watchdog.last_tick
        server.process.send_signal(signal.SIGCONT)
        wait_until(
            lambda: cluster.watchdog.last_tick != seen,
            what="the watchdog looks before the node has beaten again",
        )
        thawed = time.monotonic()
        while time.monotonic() < thawed + 6 * INTERVAL:
            cluster.beat(A1)
            stop.wait(INTERVAL / 2)
        assert cluster.client.redis.hexists("venom:epochs", A1)
    finally:
        stop.set()
        thread.join(60)
        cluster.close()
        server.kill()


def test_only_who_holds_the_lease_acts(cluster: Cluster) -> None:
    other = Watchdog(cluster.client, cluster.app)
    cluster.watchdog.tick()
    other.tick()
    assert (cluster.watchdog.leads, other.leads) == (True, False)
    cluster.steps.attach(A1)
    cluster.steps.publish("p")
    cluster.steps.take(A1, 1)
    wait_until(
        lambda: (
            other.tick()
            or cluster.steps.now()
            > cluster.client.redis.zscore("venom:beats", A1) + 6_000 * INTERVAL
        )
    )
    assert cluster.client.redis.hexists("venom:epochs", A1)
    other.client.close()


def test_what_waits_a_second_at_a_live_node_goes_home(cluster: Cluster) -> None:
    cluster.steps.attach(A1)
    cluster.beat(A1)
    cluster.steps.publish("p", candidates=[("a@h", 2, 0)])
    cluster.watchdog.tick()
    assert cluster.steps.placed("a@h") == ["p"]
    wait_until(
        lambda: (
            cluster.beat(A1)
            or cluster.watchdog.tick()
            or cluster.steps.waiting(BACKGROUND) == ["p"]
        )
    )


def test_what_a_live_node_does_not_know_of_in_two_beats_is_a_zombie(cluster: Cluster) -> None:
    cluster.steps.attach(A1)
    for publish_id in ("known", "lost"):
        cluster.steps.publish(publish_id, task_id=f"task {publish_id}")
    cluster.steps.take(A1, 2)
    cluster.watchdog.tick()
    for _ in range(2):
        assert cluster.steps.waiting(BACKGROUND) == []
        cluster.beat(A1, "known")
        for _ in range(2):  # a beat counts once, however often it is looked at
            cluster.watchdog.tick()
    assert cluster.steps.waiting(BACKGROUND) == ["lost"]
    assert cluster.steps.entry("lost").deaths == 1
    assert cluster.steps.hash("reserved", "a@h").keys() == {"known"}
    [zombie] = read_zombies(cluster.client)
    assert (zombie, zombie.node, zombie.reason) == ("task lost", "a@h", "its node does not know it")
    age = datetime.now() - zombie.started_at  # noqa: DTZ005 - as users subtract it
    assert timedelta() < age < timedelta(minutes=1)


def test_what_is_unknown_once_and_then_known_is_none(cluster: Cluster) -> None:
    cluster.steps.attach(A1)
    cluster.steps.publish("p")
    cluster.steps.take(A1, 1)
    for held in ("", "p", "", "p"):
        cluster.beat(A1, held)
        cluster.watchdog.tick()
    assert cluster.steps.hash("reserved", "a@h").keys() == {"p"}


OVERDUE = (
    # The limits with which the task is sent, what its worker tells, whether 100 s are too long; the
    # zombie's time is 10 s
    ({"time_limit": 60}, "", True),
    ({"time_limit": 80}, "", False),
    ({"time_limit": 0}, "", False),
    ({}, "", True),
    ({}, ":60", True),
    ({}, ":80", False),
    ({}, ":0", False),
)


@pytest.mark.parametrize(("limits", "told", "zombie"), OVERDUE)
def test_what_runs_far_beyond_its_own_limit_is_a_zombie(
    broker: BrokerServer, limits: dict[str, Any], told: str, zombie: bool
) -> None:
    with closing(Cluster(broker, hive_zombie_task_timeout=10.0, hive_task_timeout=60.0)) as cluster:
        publish_id = cluster.send(**limits)
        cluster.steps.attach(A1)
        cluster.steps.take(A1, 1)
        cluster.client.redis.hset(
            "venom:reserved:a@h", publish_id, f"{A1}|{cluster.steps.now() - 100_000}"
        )
        cluster.beat(A1, publish_id + told)
        cluster.watchdog.tick()
        assert cluster.steps.waiting(BACKGROUND) == ([publish_id] if zombie else [])


def test_what_a_silent_node_holds_is_no_zombie_however_long_ago(broker: BrokerServer) -> None:
    """It comes home when its node is declared dead, or never: this began acknowledged early."""
    with closing(Cluster(broker, hive_zombie_task_timeout=10.0, hive_task_timeout=60.0)) as cluster:
        publish_id = cluster.send()
        cluster.steps.attach(A1)
        cluster.steps.take(A1, 1)
        cluster.beat(A1, publish_id)
        long_ago = cluster.steps.now() - 100_000
        cluster.client.redis.hset("venom:reserved:a@h", publish_id, f"{A1}|{long_ago}|early")
        cluster.client.redis.zadd("venom:beats", {A1: long_ago})
        cluster.watchdog.tick()
        assert cluster.steps.hash("reserved", "a@h").keys() == {publish_id}
        cluster.steps.attach(B1)
        wait_until(lambda: cluster.beat(B1) or cluster.watchdog.tick() or cluster.restored)
        assert cluster.steps.counters()["dropped"] == 1
        assert cluster.steps.hash("zombies") == {}


def test_who_waits_for_a_dead_letter_is_told(cluster: Cluster) -> None:
    cluster.steps.attach(A1)
    told, ignored = cluster.send(priority=9), cluster.send(ignore_result=True)
    for _ in range(2):
        taken = cluster.steps.take(A1, 2)
        cluster.steps.give_back(A1, *taken, most=1)
    cluster.watchdog.tick()
    with pytest.raises(
        DeadLetterError, match=r"some\.task\[.*\] died 2 times \(its process died\)"
    ):
        cluster.result(told).get(timeout=60)
    assert cluster.result(ignored).status == "PENDING"
    assert cluster.steps.hash("dead").keys() == {told, ignored}
    assert not cluster.client.redis.exists("venom:untold")


@pytest.mark.parametrize(
    "message",
    [
        plain_message("bad").replace("3", "0x3"),
        plain_message("bad").encode().replace(b"W10=", b"\xff"),
    ],
)
def test_a_message_that_cannot_be_read_does_not_stop_the_watchdog(
    cluster: Cluster, message: Any
) -> None:
    cluster.steps.attach(A1)
    cluster.client.redis.lpush(BACKGROUND, message)
    good = cluster.send()
    assert set(cluster.steps.take(A1, 2)) == {"bad", good}
    cluster.client.redis.hset("venom:reserved:a@h", "bad", f"{A1}|0")
    cluster.beat(A1, f"bad {good}")
    cluster.watchdog.tick()
    cluster.steps.give_back(A1, "bad", good, most=0)
    cluster.watchdog.tick()
    assert cluster.result(good).status == "FAILURE"
    assert not cluster.client.redis.exists("venom:untold")


@pytest.mark.parametrize("error", [SystemExit(1), asyncio.CancelledError()])
def test_not_even_a_duty_that_wants_to_end_the_thread_stops_the_watchdog(
    cluster: Cluster, error: BaseException
) -> None:
    def leave(_: Watch) -> None:
        raise error

    cluster.app.hive_duties = (Duty("leave", leave), Duty("last", lambda _: done.append(1)))
    done: list[int] = []
    watchdog = Watchdog(cluster.client, cluster.app)
    with closing(watchdog.client):
        watchdog.tick()
        watchdog.tick()
    assert len(done) == 2
    failing = [state.name for state in duty_states(cluster.client) if state.error]
    assert failing == ["leave"]


def test_an_outage_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = BrokerServer(tmp_path / "broker").start()
    cluster = Cluster(server)
    stop = threading.Event()
    thread = threading.Thread(target=cluster.watchdog.run, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: cluster.watchdog.last_tick)
        server.kill()
        wait_until(lambda: "watchdog_waits_for_broker" in caplog.text)
        seen = cluster.watchdog.last_tick
        server.start()
        wait_until(lambda: cluster.watchdog.last_tick != seen)
        assert cluster.watchdog.leads
    finally:
        stop.set()
        thread.join(60)
        assert cluster.client.redis.hget("venom:lease:foreman", "holder") is None, (
            "given up at the end"
        )
        cluster.close()
        server.kill()
