"""Keys and rows that only a person, a disk or another release could have left: each is put aside,
nothing else is hindered, and no message is lost with it.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from celery.backends.base import BaseBackend

import hive
from hive.broker.channel import steps
from hive.broker.channel.incarnation import Incarnation
from hive.broker.ledger.account import Ledger
from hive.broker.ledger.aside import put_aside
from hive.broker.ledger.dead_letters import DeadLetters
from hive.broker.link.client import BrokerClient, client_of
from hive.broker.link.priorities import queue_lists
from hive.foreman.watch.account import AccountWatch
from hive.foreman.watch.duty import Watch, duty_states
from hive.foreman.watch.restore import Restorer
from hive.foreman.watch.sweep import Sweeper
from hive.foreman.watch.thread import WatchdogThread
from hive.foreman.watch.watchdog import Watchdog
from hive.nexus import health
from hive.nexus.context import Nexus
from hive.process.liveness import PATIENCE
from hive.settings import Settings
from hive.spore.proof_of_life import STALE
from tests.harness import BrokerServer, WorkerProcess, wait_until
from tests.integration import jobs
from tests.integration.channel_steps import A1, B1, Steps
from tests.integration.cluster import REPOSITORY, Cluster
from tests.integration.test_cli import Cli
from tests.nodes import BACKGROUND, make_settings

US = "\x1f"
GOOD = US.join(["0", BACKGROUND, "5", "", "task", "1", "{}"])
BAD_ENTRIES = {
    "an older release's priority 2.5": US.join(["0", BACKGROUND, "7.5", "", "task", "1", "{}"]),
    "a priority of no list": US.join(["0", BACKGROUND, "11", "", "task", "1", "{}"]),
    "a negative priority": US.join(["0", BACKGROUND, "-1", "", "task", "1", "{}"]),
    "no home": US.join(["0", "", "5", "", "task", "1", "{}"]),
    "deaths that are no number": US.join(["x", BACKGROUND, "5", "", "task", "1", "{}"]),
    "no time": US.join(["0", BACKGROUND, "5", "", "task", "", "{}"]),
    "a separator too many": US.join(["0", BACKGROUND, "5", "", "ta", "sk", "1", "{}"]),
    "half of it": GOOD[:12],
    "nothing": "",
    "no text": b"\xff\xfe\x00",
    "JSON": '{"deaths": 0}',
}


class Hive:
    """One broker, the channel's scripts, the account's and the sweep's watch over it."""

    def __init__(self, server: BrokerServer) -> None:
        self.client = BrokerClient(server.url, make_settings())
        self.redis = self.client.redis
        self.steps = Steps(self.client)
        self.ledger = Ledger(self.client)
        self.watch = AccountWatch(self.client)
        self.sweeper = Sweeper(self.client, forget_after=0)

    def aside(self) -> list[str]:
        return [noted.sentence for noted in put_aside(self.client)]

    def look(self, times: int = 6) -> None:
        for _ in range(times):
            self.watch.look()

    def drain(self, incarnation: str = A1) -> list[str]:
        """Take and acknowledge whatever there is."""
        taken: list[str] = []
        while got := self.steps.take(incarnation, 3):
            self.steps.acknowledge(incarnation, *got)
            taken += got
        return taken

    def balances(self) -> bool:
        self.look()
        account = self.ledger.look().account
        return self.ledger.alarm() is None and (account.missing, account.stranded) == (0, 0)

    def close(self) -> None:
        self.client.close()


@pytest.fixture
def here(broker: BrokerServer) -> Iterator[Hive]:
    with closing(Hive(broker)) as here:
        yield here


# -- entries that cannot be read


def put(here: Hive, place: str, publish_id: str) -> None:
    """Into one of the places in which messages are."""
    key = here.client.key
    if place == "a queue":
        here.redis.lpush(queue_lists(BACKGROUND)[5], publish_id)
    elif place == "placed":
        here.redis.zadd(key("placed", "a@h"), {publish_id: 1})
    elif place == "delayed":
        here.redis.zadd(key("delayed"), {publish_id: 1})
    elif place == "reserved":
        here.redis.hset(key("reserved", "b@h"), publish_id, f"{B1}|1")
    elif place == "dead":
        here.redis.hset(key("dead"), publish_id, "1|died")


@pytest.mark.parametrize("place", ["a queue", "placed", "delayed", "reserved", "dead", "nowhere"])
@pytest.mark.parametrize("row", BAD_ENTRIES.values(), ids=BAD_ENTRIES)
def test_an_entry_that_cannot_be_read_hinders_no_other_and_is_told_until_it_is_settled(
    here: Hive, row: str | bytes, place: str
) -> None:
    for incarnation in (A1, B1):
        here.steps.attach(incarnation)
    for number in range(4):
        here.steps.publish(f"good{number}")
    here.redis.hset("venom:entries", "bad", row)
    here.redis.hincrby("venom:counters", "accepted", 1)
    put(here, place, "bad")
    here.steps.publish("good4")
    here.steps.restore(B1)
    assert sorted(here.drain()) == [f"good{number}" for number in range(5)]
    for _ in range(3):
        here.sweeper.sweep()
    assert here.redis.hexists("venom:entries", "bad"), "it is never dropped by itself"
    if place != "dead":
        here.look()
        alarm = here.ledger.alarm()
        assert alarm is not None
        assert alarm.stranded == 1
        assert [one for one in here.aside() if "no entry that Hive can read" in one]
    assert here.ledger.settle() == (0, 1)
    assert here.balances()
    assert here.redis.hget("venom:unreadable", "bad") == (
        row if isinstance(row, bytes) else row.encode()
    )
    assert here.redis.hlen("venom:entries") == 0
    here.steps.publish("another")
    assert here.drain() == ["another"]
    assert here.balances()


def test_what_an_older_release_sent_with_a_fractional_priority_is_no_secret(here: Hive) -> None:
    """It lies in a list that no node reads."""
    here.steps.attach(A1)
    here.redis.hset("venom:entries", "bad", BAD_ENTRIES["an older release's priority 2.5"])
    here.redis.hincrby("venom:counters", "accepted", 1)
    unread = f"{BACKGROUND}\x06\x167.5"
    here.redis.lpush(unread, "bad")
    here.redis.sadd("venom:queues", unread)
    here.look()
    alarm = here.ledger.alarm()
    assert alarm is not None
    assert alarm.stranded == 1
    assert here.ledger.settle() == (0, 1)
    assert here.balances()
    assert not here.redis.exists(unread)


def test_a_history_of_deaths_that_cannot_be_read_begins_anew(here: Hive) -> None:
    here.steps.attach(A1)
    here.redis.hset("venom:entries", "bad", "2[[not JSON" + GOOD[1:])
    here.redis.lpush(queue_lists(BACKGROUND)[5], "bad")
    assert here.steps.take(A1, 1) == ["bad"]
    assert here.steps.entry("bad").history == ()
    here.steps.give_back(A1, "bad", most=9)
    assert here.steps.entry("bad").deaths == 3
    assert [death.reason for death in here.steps.entry("bad").history] == ["its process died"]
    assert "history of deaths" in here.aside()[0]


@pytest.mark.parametrize("value", ["", "no bar", "|1", "a@h/1", "gone@h/9|x"])
def test_a_reservation_of_nobody_sends_its_message_home(here: Hive, value: str) -> None:
    here.steps.attach(A1)
    for name in ("p", "q"):
        here.steps.publish(name)
    assert here.steps.take(A1, 2) == ["p", "q"]
    here.redis.hset("venom:reserved:a@h", "q", value)
    for _ in range(3):
        here.sweeper.sweep()
    assert here.steps.waiting(BACKGROUND) == ["q"]
    here.steps.acknowledge(A1, "p")
    assert here.drain() == ["q"]
    assert here.balances()


@pytest.mark.parametrize(
    "message",
    [
        "{",
        "{}",
        '{"properties": 1}',
        '{"properties": {"delivery_tag": 5}}',
        '{"properties": {"delivery_tag": "a\\u001fb"}, "headers": {"id": "x\\u001fy"}}',
        '{"properties": {"delivery_tag": ""}, "headers": {"id": "x", "eta": "9'
        + "9" * 300
        + '-01-01T00:00:00"}}',
        '{"properties": {"delivery_tag": "t"}, "headers": [1]}',
    ],
)
def test_a_strangers_message_takes_nothing_down_with_it(here: Hive, message: str) -> None:
    here.steps.attach(A1)
    for number in range(3):
        here.steps.publish(f"good{number}")
        here.redis.lpush(queue_lists(BACKGROUND)[5], message)
    taken = here.drain()
    assert {name for name in taken if name.startswith("good")} == {"good0", "good1", "good2"}
    assert here.redis.hlen("venom:entries") == 0


# -- keys of another type


def make(client: redis.Redis, key: str, kind: str) -> None:
    client.delete(key)
    makers: dict[str, Callable[[], object]] = {
        "string": lambda: client.set(key, "x"),
        "list": lambda: client.rpush(key, "x"),
        "hash": lambda: client.hset(key, "x", "y"),
        "set": lambda: client.sadd(key, "x"),
        "zset": lambda: client.zadd(key, {"x": 1}),
        "stream": lambda: client.xadd(key, {"x": "y"}),
    }
    makers[kind]()


REPLACED = {
    "counters": "hash",
    "account": "hash",
    "queues": "set",
    "wake:venom:tasks:background": "list",
    "wake:node:a@h": "list",
    "revoked": "zset",
    "finished:*": "set",
    "requirements:idle": "zset",
    "absences": "hash",
    "processes": "hash",
}
HINDERS = {
    "entries": "hash",
    "ids": "hash",
    "delayed": "zset",
    "dead": "hash",
    "untold": "set",
    "epochs": "hash",
    "beats": "zset",
    "held": "hash",
    "incarnations:a@h": "set",
    "reserved:a@h": "hash",
    "placed:a@h": "zset",
    "reserved:nobody@h": "hash",
    "placed:nobody@h": "zset",
    "incarnations:nobody@h": "set",
    "requirements": "hash",
    "sent:p0": "set",
    "tasks:background\x06\x165": "list",
    "tasks:background": "list",
    "pin:a@h": "list",
    "zombies": "hash",
    "pullers": "hash",
    "aside": "list",
    "lease:foreman": "hash",
    "duties": "hash",
    "heard_since": "string",
    "dead:order": "zset",
    "limited:venom:tasks:background:slow": "zset",
    "waits:venom:tasks:background": "zset",
}
TYPES = REPLACED | HINDERS
KINDS = ["string", "list", "hash", "set", "zset", "stream"]


def attempt(here: Hive, step: Callable[[], object], key: str) -> bool:
    """Do it. One that fails for the sake of the key says so."""
    try:
        step()
    except redis.exceptions.ResponseError as error:
        said = str(error)
    else:
        return True
    assert "WRONGTYPE" in said
    assert key in said, "it names the key"
    return False


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in TYPES for kind in KINDS if kind != TYPES[name]]
)
def test_a_key_of_another_type_loses_no_message_and_is_over_with_the_key(
    here: Hive, name: str, kind: str
) -> None:
    channel = here.steps
    for incarnation in (A1, B1):
        channel.attach(incarnation)
    for number in range(6):
        channel.publish(f"p{number}", task_id=f"t{number}")
    assert channel.take(A1, 1) == ["p0"]
    assert channel.take(B1, 1) == ["p1"]
    key = f"venom:{name}".replace("*", str(channel.now() // 120_000))
    kept = here.redis.dump(key)
    make(here.redis, key, kind)

    hooks: list[Callable[[], object]] = [
        lambda: channel.publish("new", task_id="new", candidates=[("a@h", 9, 0), ("b@h", 9, 1)]),
        lambda: channel.publish("later", task_id="later", delay=1),
        lambda: channel.publish("child", task_id="t0", parent="p0"),
        lambda: channel.reserve(A1, 2, "p0"),
        lambda: channel.give_back(B1, "p1", most=0),
        lambda: channel.run(steps.POSTPONE, "a@h", A1, "slow", f"p0{US}0{US}9", f"p2{US}0{US}0"),
        lambda: channel.run(steps.CALL_UP, "a@h", 3, "slow", 9, BACKGROUND),
        lambda: channel.reserve(B1, 2),
        lambda: silence(channel, B1),
        lambda: channel.attach(B1, 2, first=False),
        lambda: channel.run(steps.LONG_ABSENT, 0, 9, "away"),
        lambda: channel.run(steps.REVOKE, 60, "t5"),
        lambda: channel.run(steps.RELEASE, "b@h"),
        lambda: channel.run(steps.ASSIGN, "t4", "a@h", "a@h", "b@h"),
        lambda: channel.attach(A1, 2, "p0", first=False),
        lambda: channel.restore(B1, "left"),
        here.sweeper.sweep,
        here.watch.look,
        lambda: here.ledger.survey("0", 100),
    ]
    went = [attempt(here, step, key) for step in hooks]
    if name in REPLACED:
        assert all(went)
        assert here.redis.type(key).decode() != kind
    elif name not in ("entries", "epochs", "beats"):
        assert sum(went) >= len(went) - 3, "all else goes on"
    if name != "entries":
        assert len(here.aside()) <= 5, "each fault once"

    # The key is as it was: what it held is Hive's own, and the rest comes by itself.
    if here.redis.type(key).decode() == kind:
        here.redis.delete(key)
        if kept is not None and name not in REPLACED:
            here.redis.restore(key, 0, kept)
    all_is_delivered_in_the_end(here)


def silence(channel: Steps, incarnation: str) -> None:
    with contextlib.suppress(redis.exceptions.ResponseError):
        channel.redis.zadd("venom:beats", {incarnation: 1, A1: channel.now()})
    channel.restore(incarnation, 1_000)


def all_is_delivered_in_the_end(here: Hive) -> None:
    """Every message but `p1`, which has become a dead letter where that was possible."""
    channel = here.steps
    for incarnation, epoch in ((A1, 9), (B1, 9)):
        channel.attach(incarnation, epoch)
    here.ledger.settle()
    for publish_id, due in here.redis.zrange("venom:delayed", 0, -1, withscores=True):
        assert due < channel.now() + 90_000, "a minute, for a rate limit"
        here.redis.zadd("venom:delayed", {publish_id: 1})
    while True:
        taken = [*take(channel, A1), *take(channel, B1)]
        if not taken:
            break
    for publish_id in here.redis.hkeys("venom:dead"):
        assert publish_id == b"p1", "the only one that died"
        here.redis.hdel("venom:dead", publish_id)
        here.redis.hdel("venom:entries", publish_id)
        here.redis.hincrby("venom:counters", "done", 1)
    assert here.redis.hkeys("venom:entries") == [], "each message was delivered"
    here.ledger.settle()
    assert here.balances()


def take(channel: Steps, incarnation: str) -> list[str]:
    got = channel.take(incarnation, 5, epoch=9)
    channel.acknowledge(incarnation, *got)
    return got


def test_what_died_of_silences_stays_in_its_queue_while_no_dead_letters_can_be_kept(
    here: Hive,
) -> None:
    for incarnation in (A1, B1):
        here.steps.attach(incarnation)
    here.steps.publish("p")
    assert here.steps.take(A1, 1) == ["p"]
    here.steps.fall_silent(A1)
    make(here.redis, "venom:dead", "string")
    wait_until(lambda: here.steps.run(steps.LONG_ABSENT, 0, 0, "away") == 1)
    here.redis.delete("venom:dead")
    assert here.steps.take(B1, 1) == ["p"]


@pytest.mark.parametrize("value", ["list", "many"])
def test_the_silent_are_restored_though_nobody_can_read_since_when_the_others_are_heard(
    here: Hive, value: str
) -> None:
    for incarnation in (A1, B1):
        here.steps.attach(incarnation)
    here.steps.publish("p")
    assert here.steps.take(B1, 1) == ["p"]
    here.redis.set("venom:heard_since", value)
    if value == "list":
        make(here.redis, "venom:heard_since", value)
    here.redis.zadd("venom:beats", {A1: here.steps.now(), B1: 1})
    assert Restorer().restore(Watch(here.client, None, answering=60)) == 1
    assert here.steps.waiting(BACKGROUND) == ["p"]


def test_what_is_pinned_to_a_node_goes_home_though_its_incarnations_cannot_be_read(
    here: Hive,
) -> None:
    here.steps.attach(A1)
    here.steps.publish("p", task_id="t")
    assert here.steps.run(steps.ASSIGN, "t", "a@h", "a@h") == ["moved", "a@h"]
    make(here.redis, "venom:incarnations:a@h", "string")
    here.steps.restore(A1)
    assert here.steps.waiting(BACKGROUND) == ["p"]


@pytest.mark.parametrize("value", ["many", "1.5", "", "9223372036854775807"])
def test_a_counter_that_is_no_number_stops_nothing(here: Hive, value: str) -> None:
    here.steps.attach(A1)
    for name in ("accepted", "done", "completed", "written_off"):
        here.redis.hset("venom:counters", name, value)
    here.steps.publish("p")
    assert here.drain() == ["p"]
    here.look()
    here.ledger.settle()
    assert here.balances()
    assert any("venom:counters" in noted for noted in here.aside())


def test_what_is_put_aside_is_bounded_and_told_once(here: Hive) -> None:
    here.steps.attach(A1)
    for number in range(300):
        here.redis.lpush(queue_lists(BACKGROUND)[5], f"{{{number}")
    here.drain()
    assert len(here.aside()) == 100
    for _ in range(5):
        here.redis.lpush(queue_lists(BACKGROUND)[5], "{again")
        here.drain()
    assert sum("{again" in noted for noted in here.aside()) == 1


# -- the whole hive


def test_bad_rows_and_stray_keys_do_not_keep_the_watchdog_from_bringing_work_home(
    tmp_path: Path,
) -> None:
    with closing(Cluster(tmp_path, hive_heartbeat_interval=0.4)) as cluster:
        client = client_of(cluster.app)
        stray = client.redis
        stray.hset("venom:entries", "bad", BAD_ENTRIES["an older release's priority 2.5"])
        stray.hincrby("venom:counters", "accepted", 1)
        stray.lpush(f"{BACKGROUND}\x06\x167.5", "bad")
        stray.sadd("venom:queues", f"{BACKGROUND}\x06\x167.5")
        for key in (
            "reserved:foo",
            "placed:foo",
            "incarnations:foo",
            "zombies",
            "duties",
            "queues",
            "absences",
            "processes",
        ):
            stray.delete(f"venom:{key}")
            stray.set(f"venom:{key}", "bar")
        watchdog = WatchdogThread(client, cluster.app)
        watchdog.start()
        try:
            victim = cluster.spawn("a", concurrency=1)
            cluster.wait_online("a")
            begun, go = tmp_path / "begun", tmp_path / "go"
            result = jobs.wait_for.delay(begun=str(begun), go=str(go))
            wait_until(begun.exists, 20)
            victim.kill()
            cluster.spawn("b", concurrency=1)
            wait_until(lambda: begun.read_text() == "xx", 30, "it runs again")
            go.touch()
            assert result.get(timeout=20) == "went on"
            wait_until(lambda: Ledger(client).alarm(), 20, "the alarm tells of the stranded one")
            cli = Cli(cluster.server.environment, tmp_path)
            told = json.loads(cli("status", "--json").stdout)
            assert told["put_aside"] >= 1
            assert "entry" in str(told["last_put_aside"]) or "Hive does not" in str(
                told["last_put_aside"]
            )
            assert "PUT ASIDE" in cli("status").stdout
            page = health._examine(Nexus(cluster.app, client, watchdog))
            assert (page.broker_reachable, page.put_aside) == (True, told["put_aside"])
            for command in (("queue", "stats"), ("queue", "purge", "--yes"), ("dead", "list")):
                cli(*command)
            cli("account", code=1)
            assert "1 written off" in cli("account", "--settle", "--yes").stdout
            cli("account")
        finally:
            watchdog.stop(10)


@pytest.mark.parametrize("name", ["entries", "epochs", "beats"])
def test_a_key_that_all_needs_is_named_and_when_it_is_gone_work_goes_on_by_itself(
    tmp_path: Path, name: str
) -> None:
    with closing(Cluster(tmp_path, hive_heartbeat_interval=0.4)) as cluster:
        client = client_of(cluster.app)
        watchdog = WatchdogThread(client, cluster.app)
        watchdog.start()
        try:
            cluster.spawn("a", concurrency=1)
            cluster.wait_online("a")
            make(client.redis, f"venom:{name}", "string")

            def named() -> bool:
                return any(f"venom:{name} is a string" in s.error for s in duty_states(client))

            wait_until(named, 20, "a duty says which key is in the way")
            page = health._examine(Nexus(cluster.app, client, watchdog))
            assert page.broker_reachable
            assert any(f"venom:{name}" in said for said in page.failing_duties or [])
            client.redis.delete(f"venom:{name}")
            result = jobs.add_numbers.delay(1, 2)
            assert result.get(timeout=30) == 3
            wait_until(lambda: not any(s.error for s in duty_states(client)), 20, "all duties go")
        finally:
            watchdog.stop(10)


# -- an application's own result backend that is down


class OfNobody(BaseBackend):
    """A result backend on another server, which is away in its own words."""

    raises: type[BaseException] = OSError

    def mark_as_failure(self, *_: Any, **__: Any) -> None:
        raise self.raises("the database is away")


class OwnError(Exception):
    """As a database's driver has it."""


@pytest.mark.parametrize("raises", [OSError, ConnectionError, OwnError, TimeoutError])
def test_a_result_backend_that_is_down_fails_one_duty_alone(
    broker: BrokerServer, monkeypatch: pytest.MonkeyPatch, raises: type[BaseException]
) -> None:
    settings = Settings.load(
        redis_host="127.0.0.1",
        redis_port=broker.port,
        hive_heartbeat_interval=0.3,
        hive_max_retries=0,
    )
    app = hive.install(Celery("own", set_as_current=False), settings)
    client = client_of(app)
    with closing(client):
        channel = Steps(client)
        backend = OfNobody(app)
        monkeypatch.setattr(OfNobody, "raises", raises)
        monkeypatch.setattr(type(app), "backend", backend)
        channel.attach(A1)
        channel.attach(B1)
        untold = app.send_task("of.nobody").id
        ignored = app.send_task("of.nobody", ignore_result=True).id
        taken = channel.take(A1, 2)
        channel.give_back(A1, *taken, most=0)
        channel.publish("held")
        assert channel.take(B1, 1) == ["held"]
        watchdog = Watchdog(client, app)

        def tick() -> bool:
            client.redis.zadd("venom:beats", {A1: channel.now()})  # another node is heard
            watchdog.tick()
            return not client.redis.hexists("venom:epochs", B1)

        wait_until(tick, 20, "the dead node's work is brought home")
        failing = {state.name for state in duty_states(client) if state.error}
        assert failing == {"dead_letters"}
        assert watchdog.leads
        left = {raw.decode() for raw in client.redis.smembers("venom:untold")}
        ids = channel.hash("ids")
        assert ids[untold] in left
        assert ids[ignored] not in left, "others are told"
        monkeypatch.undo()
        wait_until(lambda: watchdog.tick() or not client.redis.smembers("venom:untold"), 10)
        assert app.AsyncResult(untold).state == "FAILURE"
        for router in app.conf.task_routes:
            router.close()
        watchdog.client.close()


# -- dead letters beside rows that cannot be read


def test_dead_letters_are_listed_beside_rows_that_cannot_be_read(
    broker: BrokerServer, here: Hive
) -> None:
    settings = Settings.load(redis_host="127.0.0.1", redis_port=broker.port)
    app = hive.install(Celery("letters", set_as_current=False), settings)
    with closing(client_of(app)), contextlib.ExitStack() as stack:
        for router in app.conf.task_routes:
            stack.callback(router.close)
        here.steps.attach(A1)
        here.steps.publish("good")
        here.steps.give_back(A1, *here.steps.take(A1, 1), most=0)
        here.redis.hset("venom:entries", "bad", "x")
        here.redis.hset("venom:dead", "bad", "soon|died")
        letters = DeadLetters(app)
        assert {letter.publish_id for letter in letters.page(10)} == {"good", "bad"}
        assert letters.find("bad") is not None
        assert not letters.retry("bad")
        assert letters.purge(["bad"]) == 1


@pytest.mark.slow
def test_a_worker_to_which_the_broker_refuses_work_is_not_taken_for_one_that_hangs(
    tmp_path: Path,
) -> None:
    """Its supervisor would end it, and what it runs with it."""
    server = BrokerServer(tmp_path / "broker").start()
    command = (sys.executable, "-m", "hive", "spore", "--name", "a", "--concurrency", "2")
    where = {**server.environment, "PYTHONPATH": str(REPOSITORY)}
    spore = WorkerProcess(tmp_path / "spore.log", *command, env=where, cwd=tmp_path)
    client = BrokerClient(server.url, make_settings())
    try:
        wait_until(lambda: client.redis.exists("venom:beats"), 30, "it is there")
        make(client.redis, "venom:entries", "string")
        refused = time.monotonic()
        wait_until(lambda: "venom:entries is a string" in spore.output(), 20)
        wait_until(lambda: time.monotonic() - refused > PATIENCE + STALE + 3, 40)
        assert "worker_hangs" not in spore.output()
        assert spore.output().count("worker_started") <= 1
    finally:
        spore.stop()
        client.close()
        server.kill()


def test_an_acknowledgement_that_the_broker_refuses_holds_no_other_back(here: Hive) -> None:
    names = ["good0", "bad", "good1"]
    for name in names:
        here.steps.publish(name)
    # A user whose rights lack one key: nothing else makes the broker refuse a single message.
    rights = ("~venom:[^s]*", "~venom:s[^e]*", "~venom:sent:good*", "+@all")
    here.redis.acl_setuser("few", enabled=True, nopass=True, keys=[], reset=True)
    here.redis.execute_command("ACL", "SETUSER", "few", *rights)
    few = BrokerClient(here.client.url.replace("//", "//few:x@"), here.client.settings)
    try:
        worker = Incarnation(few, "a@h", 3)
        epoch = worker.attach()
        taken = here.steps.reserve(worker.id, 3, epoch=epoch)[3:]
        assert taken[::7] == names
        assert worker.hold(epoch, [(taken[at], "", int(taken[at + 4])) for at in (0, 7, 14)])
        for name in names:
            worker.acknowledge(name)
        worker.flush_quietly()
        assert here.redis.hlen("venom:reserved:a@h") == 0
        assert not here.redis.hexists("venom:entries", "good1")
        assert "good1" not in worker.held_line()
    finally:
        few.close()
        here.redis.acl_deluser("few")
