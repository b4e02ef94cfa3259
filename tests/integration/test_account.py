"""The account of all messages: the alarm when something is lost says what, and never cries wolf."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hive.broker.ledger.account import Alarm, Ledger
from hive.broker.link.client import BrokerClient
from hive.foreman.watch import account as watch
from hive.foreman.watch.account import AccountWatch
from hive.foreman.watch.sweep import Sweeper
from tests.chaos.conservation import look
from tests.harness import BrokerServer
from tests.integration.channel_steps import A1, B1, Steps, plain_message
from tests.integration.test_cli import Cli
from tests.nodes import BACKGROUND, HIGH, make_settings


class Watched:
    """One broker, the channel's steps on it, and a watch over its account."""

    def __init__(self, server: BrokerServer) -> None:
        self.client = BrokerClient(server.url, make_settings())
        self.steps = Steps(self.client)
        self.ledger = Ledger(self.client)
        self.watch = AccountWatch(self.client)

    def alarm(self, looks: int = 4) -> Alarm | None:
        """What stands after so many looks: the first of them may have to make itself acquainted
        with unknown lists.
        """
        for _ in range(looks):
            self.watch.look()
        return self.ledger.alarm()

    def close(self) -> None:
        self.client.close()


@pytest.fixture
def watched(broker: BrokerServer) -> Iterator[Watched]:
    with closing(Watched(broker)) as watched:
        yield watched


def at_every_place(steps: Steps) -> None:
    """Ten messages: waiting (two queues), placed, reserved, delayed, dead, done."""
    for incarnation in (A1, B1):
        steps.attach(incarnation)
    for name in ("done", "dies", "runs"):
        steps.publish(name)
    assert steps.take(A1, 3) == ["done", "dies", "runs"]
    steps.acknowledge(A1, "done")
    steps.give_back(A1, "dies", most=0)
    steps.publish("placed", candidates=[("b@h", 1, 0.5)])
    steps.publish("delayed", delay=60_000)
    for number in range(4):
        steps.publish(f"waits{number}", priority=number, home=HIGH if number else "of-its-own")
    steps.publish("pinned", home="venom:pin:a@h", priority=10)


def test_the_account_balances_wherever_messages_are(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    at_every_place(watched.steps)
    assert watched.alarm() is None
    account = watched.ledger.look().account
    assert (account.accepted, account.done, account.entries) == (10, 1, 9)
    assert (account.queued, account.placed, account.reserved, account.delayed, account.dead) == (
        5,
        1,
        1,
        1,
        1,
    )
    assert (account.missing, account.stranded) == (0, 0)
    assert "conservation" not in caplog.text


@pytest.mark.parametrize("waiting", [3, 1500])
def test_messages_of_plain_celery_producers_are_no_loss_and_hide_none(
    watched: Watched, waiting: int
) -> None:
    """A list that they began is not known to the account at first, nor how many of its elements are
    theirs.
    """
    watched.steps.redis.lpush(
        "of-its-own", *(plain_message(f"plain{number}") for number in range(waiting))
    )
    for name in ("p", "q", "r"):
        watched.steps.publish(name, home="of-its-own", priority=10)
    assert watched.alarm() is None
    assert watched.ledger.look().account.queued == 3
    if waiting < 1000:
        watched.steps.redis.lrem("of-its-own", 1, "q")
        alarm = watched.alarm()
        assert alarm is not None
        assert alarm.stranded == 1


def test_what_an_older_release_left_waiting_is_no_loss(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "SURVEYED", 10)
    monkeypatch.setattr(watch, "SURVEY_STEPS", 1)
    for number in range(1000):
        watched.steps.publish(f"p{number}", home=f"queue{number % 50}")
    watched.steps.redis.delete("venom:queues")
    assert watched.alarm(400) is None, "not even while the survey has not seen all"
    assert watched.ledger.look().account.queued == 1000


def test_a_lost_message_raises_the_alarm_until_people_settle_it(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    at_every_place(watched.steps)
    for name in ("waits0", "runs"):
        watched.steps.redis.hdel("venom:entries", name)
    assert watched.alarm(1) is None, "one look is none"
    alarm = watched.alarm()
    assert alarm is not None
    assert alarm.missing == 2
    assert "2 messages accepted and gone" in alarm.sentence
    assert caplog.text.count("event=conservation_alarm") == 1
    assert "missing=2" in caplog.text
    watched.steps.publish("another")
    assert watched.alarm() == alarm, "what happens meanwhile does not end it"
    assert watched.ledger.settle() == (0, 2)
    assert watched.alarm() is None
    assert watched.steps.counters()["written_off"] == 2
    watched.steps.redis.hdel("venom:entries", "another")
    again = watched.alarm()
    assert again is not None
    assert again.missing == 1, "the next loss is one of its own"


def test_a_message_in_no_place_raises_the_alarm_and_is_sent_home(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    at_every_place(watched.steps)
    steps = watched.steps
    assert steps.redis.rpop("venom:pin:a@h") == b"pinned"
    steps.redis.hset("venom:reserved:a@h", "runs", "a@h/never-attached|1")
    steps.redis.zrem("venom:delayed", "delayed")
    steps.redis.zrem("venom:placed:b@h", "placed")
    steps.redis.zadd("venom:placed:gone@h", {"placed": 1})
    alarm = watched.alarm()
    assert alarm is not None
    assert (alarm.missing, alarm.stranded) == (0, 3), (
        "the reservation is a place, if one that nobody looks after"
    )
    assert watched.ledger.settle() == (4, 0)
    look(watched.client).check()
    sweeper = Sweeper(watched.client)
    assert sum(sweeper.sweep() for _ in range(20)) == 0, (
        "nothing is left that would go home a second time"
    )
    assert steps.waiting("venom:pin:a@h") == ["pinned"]
    assert sorted(steps.waiting(BACKGROUND)) == ["delayed", "placed", "runs"]
    assert watched.alarm() is None
    steps.redis.lrem(BACKGROUND + "\x06\x165", 1, "delayed")
    assert watched.alarm() is not None
    steps.redis.rpush(BACKGROUND + "\x06\x165", "delayed")
    assert watched.alarm(1) is None, "it ends by itself when the account balances again"
    assert "event=conservation_restored" in caplog.text


def test_settling_what_balances_changes_nothing(watched: Watched) -> None:
    at_every_place(watched.steps)
    before = look(watched.client)
    before.check()
    assert watched.ledger.settle() == (0, 0)
    assert look(watched.client) == before


@pytest.fixture
def everysec(tmp_path: Path) -> Iterator[BrokerServer]:
    server = BrokerServer(tmp_path / "broker", options=("--appendfsync", "everysec")).start()
    yield server
    server.kill()


def lose_what_follows(server: BrokerServer, size: int) -> None:
    """Kill the server, and its file ends where it ended before: what a machine loses that goes down
    before it has written all.
    """
    server.kill()
    file = incremental_file(server)
    assert file.stat().st_size > size + 40
    with file.open("rb+") as written:
        written.truncate(size + 40)  # some bytes of the next command: it was being written
    server.start()


def incremental_file(server: BrokerServer) -> Path:
    (file,) = server.directory.glob("appendonlydir/*.incr.aof")
    return file


def test_a_broker_that_lost_its_last_second_is_told_and_how_much_is_gone(
    everysec: BrokerServer, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Watched(everysec)) as watched:
        steps = watched.steps
        for number in range(5):
            steps.publish(f"kept{number}")
        assert watched.alarm() is None
        size = incremental_file(everysec).stat().st_size
        for number in range(3):
            steps.publish(f"lost{number}")
        steps.attach(A1)
        steps.take(A1, 1)
        steps.acknowledge(A1, "kept0")
        watched.watch.look()
        began = time.time()
        lose_what_follows(everysec, size)
        steps.publish("new")
        alarm = watched.alarm(1)
        assert alarm is not None
        assert alarm.went_back is not None
        assert alarm.went_back.fewer == 2, (
            "three were lost, one is new: as many as the counters tell"
        )
        assert 0 < alarm.went_back.lost_since < alarm.went_back.seen <= began + 1
        assert "the broker has lost what it confirmed" in alarm.sentence
        assert caplog.text.count("event=conservation_alarm") == 1
        assert (alarm.missing, alarm.stranded) == (0, 0), "counters and entries went back together"
        assert watched.alarm() == alarm, "nobody but people ends it"
        assert sorted(steps.waiting(BACKGROUND)) == [
            *(f"kept{number}" for number in range(5)),
            "new",
        ], "kept0 runs again"
        assert watched.ledger.settle() == (0, 0)
        assert watched.alarm() is None


def test_whoever_has_only_watched_knows_it_too(everysec: BrokerServer) -> None:
    """The nexus that led may have gone down with the broker."""
    with closing(Watched(everysec)) as watched:
        other = AccountWatch(watched.client)
        watched.steps.publish("kept")
        watched.watch.look()
        size = incremental_file(everysec).stat().st_size
        watched.steps.publish("lost")
        watched.watch.look()
        other.witness()
        lose_what_follows(everysec, size)
        other.look()
        alarm = watched.ledger.alarm()
        assert alarm is not None
        assert alarm.went_back is not None
        watched.ledger.settle()
        assert watched.alarm() is None, "marks rise from what was seen: nobody tells it twice"


def test_a_broker_that_lost_nothing_is_not_suspected(everysec: BrokerServer) -> None:
    with closing(Watched(everysec)) as watched:
        watched.steps.publish("p")
        assert watched.alarm() is None
        everysec.kill()
        everysec.start()
        assert watched.alarm() is None
        assert AccountWatch(watched.client).look() is None
        assert watched.ledger.alarm() is None


def test_people_see_the_alarm_and_settle_it(
    broker: BrokerServer, watched: Watched, tmp_path: Path
) -> None:
    cli = Cli(broker.environment, tmp_path)
    at_every_place(watched.steps)
    assert json.loads(cli("account", "--json").stdout)["alarm"] is None
    watched.steps.redis.hdel("venom:entries", "waits0")
    watched.alarm()
    told = json.loads(cli("account", "--json", code=1).stdout)
    assert (told["missing"], told["alarm"]["missing"]) == (1, 1)
    assert "ALARM: 1 message accepted and gone" in cli("status").stdout
    assert json.loads(cli("status", "--json").stdout)["alarm"]["missing"] == 1
    assert "--yes" in cli("account", "--settle", code=2).stderr, "nobody can be asked here"
    said = cli("account", "--settle", "--yes").stdout
    assert "0 sent home, 1 written off" in said
    assert "ALARM" not in said
    assert watched.ledger.alarm() is None


@pytest.mark.parametrize(("theirs", "kept"), [(7, 7), (2, 5)])
def test_what_a_release_before_wrote_is_taken_over(
    watched: Watched, theirs: int, kept: int
) -> None:
    alarm = Alarm(since=1.0, missing=3)
    redis = watched.client.redis
    redis.hset("venom:audit", mapping={"mark": theirs, "at": 1, "alarm": alarm.model_dump_json()})
    if kept != theirs:
        redis.hset("venom:account", mapping={"mark": kept, "at": 2})
    look = watched.ledger.look(0)
    assert look.found[0] == kept
    assert look.alarm == (alarm if kept == theirs else None)
    assert not redis.exists("venom:audit")


def test_who_only_looks_leaves_an_older_nexus_its_marks(watched: Watched) -> None:
    """Until version 0.2 their key was `venom:audit`; a nexus of then would think them lost."""
    redis, old = watched.client.redis, watched.client.key("audit")
    alarm = Alarm(since=1, missing=1).model_dump_json()
    redis.hset(old, mapping={"mark": 7, "at": 1000, "alarm": alarm})
    look = watched.ledger.look()
    assert (look.found, look.alarm) == ((7, 1.0), Alarm(since=1, missing=1))
    watched.ledger.settle()
    assert watched.ledger.look().alarm is None
    assert redis.hgetall(old) == {b"mark": b"7", b"at": b"1000"}
    watched.watch.look()
    assert not redis.exists(old)
    assert watched.ledger.mark()[0] == 8


@pytest.mark.parametrize("mark", ["", "garbage", None])
def test_an_old_key_that_nobody_can_read_does_not_end_the_account(
    watched: Watched, mark: str | None
) -> None:
    redis, old = watched.client.redis, watched.client.key("audit")
    redis.set(old, "x") if mark is None else redis.hset(old, "mark", mark)
    assert watched.ledger.look().found == (0, 0.0)
    assert watched.alarm() is None
    assert watched.ledger.mark()[0] > 0
