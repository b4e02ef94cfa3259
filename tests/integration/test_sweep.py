"""The sweep: each kind of leftover goes, what a gone node holds goes home,
and accepted work stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from hive.broker.channel.fence import TAKEN_AWAY
from hive.broker.ledger.account import Ledger
from hive.broker.link.client import BrokerClient
from hive.broker.nodes.table import NodeTable
from hive.foreman.watch import sweep
from hive.foreman.watch.sweep import Sweeper
from hive.jobs.work.recovery import RECOVERY
from tests.chaos.conservation import look
from tests.harness import BrokerServer
from tests.integration.channel_steps import A1, B1, Steps
from tests.nodes import BACKGROUND, make_facts, make_load, make_settings

DIGEST = "0123456789abcdef"
HOME = f"venom:req:{DIGEST}:{BACKGROUND}"
FIELD = f"{DIGEST}:{BACKGROUND}"


class Swept:
    """A broker with prefix, as one hive of several has it,
    and a sweeper that finds everything old.
    """

    def __init__(self, server: BrokerServer, prefix: str = "tenant:") -> None:
        self.client = BrokerClient(server.url, make_settings(), prefix=prefix)
        self.steps = Steps(self.client)
        self.redis = self.client.redis
        self.sweeper = Sweeper(self.client, rows=RECOVERY.rows, forget_after=0)

    def sweep(self) -> int:
        """Until everything was looked at, twice over."""
        return sum(self.sweeper.sweep() for _ in range(2 * sweep.REST + 100))

    def beat(self) -> int:
        """The number by which a node sees that there are new requirements."""
        facts = make_facts("a@h", incarnation=A1)
        return NodeTable(self.client).beat(A1, make_load(), facts, "").requirements

    def close(self) -> None:
        self.client.close()


@pytest.fixture
def swept(broker: BrokerServer) -> Iterator[Swept]:
    with closing(Swept(broker)) as swept:
        yield swept


def test_what_is_owned_stays(swept: Swept) -> None:
    steps = swept.steps
    for incarnation in (A1, B1):
        steps.attach(incarnation)
    for name in ("done", "dies", "runs"):
        steps.publish(name, task_id=f"t{name}")
    steps.take(A1, 3)
    swept.beat()
    steps.acknowledge(A1, "done")
    steps.give_back(A1, "dies", most=0)
    steps.publish("placed", task_id="t1", candidates=[("b@h", 1, 0.5)])
    steps.publish("delayed", task_id="t2", delay=60_000)
    steps.publish("waits", task_id="t3")
    steps.publish("needs", task_id="t4", home=HOME, demands='{"gpu": true}')
    steps.publish("pinned to one long gone", task_id="t5", home="venom:pin:gone@h")
    swept.redis.hset(swept.client.key("pullers"), "runs", "job")
    before, names = look(swept.client), set(swept.redis.keys("*"))
    before.check()
    assert swept.sweep() == 0
    assert look(swept.client) == before
    assert set(swept.redis.keys("*")) | {swept.client.key("requirements", "idle").encode()} >= names
    assert steps.hash("requirements") == {FIELD: '{"gpu": true}'}
    assert steps.hash("epochs").keys() == {A1, B1}


def leave_ids(swept: Swept) -> None:
    swept.redis.hset(swept.client.key("ids"), "task", "gone")


def leave_dead(swept: Swept) -> None:
    swept.redis.hset(swept.client.key("dead"), "gone", "1|died")
    swept.redis.sadd(swept.client.key("untold"), "gone")


def leave_pullers(swept: Swept) -> None:
    swept.redis.hset(swept.client.key("pullers"), "gone", "job")


def leave_held(swept: Swept) -> None:
    swept.redis.hset(swept.client.key("held"), "gone@h/1", "p")


def leave_incarnations(swept: Swept) -> None:
    swept.redis.sadd(swept.client.key("incarnations", "gone@h"), "gone@h/1")


LEFTOVERS = [leave_ids, leave_dead, leave_pullers, leave_held, leave_incarnations]


@pytest.mark.parametrize("leave", LEFTOVERS, ids=lambda leave: leave.__name__)
def test_rows_that_nobody_owns_go(swept: Swept, leave: Callable[[Swept], None]) -> None:
    before = set(swept.redis.keys("*"))
    leave(swept)
    assert set(swept.redis.keys("*")) > before
    assert swept.sweep() == 1
    assert set(swept.redis.keys("*")) == before


def test_a_prefix_is_no_pattern(broker: BrokerServer) -> None:
    with (
        closing(Swept(broker, prefix="tenant[1]*:")) as swept,
        closing(Swept(broker, prefix="tenant1:")) as other,
    ):
        leave_incarnations(swept)
        leave_incarnations(other)
        assert swept.sweep() == 1
        assert len(other.redis.keys("*")) == 1, "another hive's"


def test_many_rows_go_a_part_at_a_time(swept: Swept) -> None:
    swept.redis.hset(
        swept.client.key("ids"), mapping={f"task{number}": "gone" for number in range(5000)}
    )
    once = swept.sweeper.sweep()
    assert 0 < once < 2500
    assert once + swept.sweep() == 5000


def test_what_a_node_held_that_is_gone_goes_home(swept: Swept) -> None:
    steps = swept.steps
    steps.attach(A1)
    for name in ("placed", "reserved"):
        steps.publish(name)
    assert sorted(steps.take(A1, 2)) == ["placed", "reserved"]
    swept.redis.delete(swept.client.key("reserved", "a@h"))
    swept.redis.hset(swept.client.key("reserved", "gone@h"), "reserved", "gone@h/1|1")
    swept.redis.zadd(swept.client.key("placed", "gone@h"), {"placed": 1})
    swept.redis.sadd(swept.client.key("incarnations", "gone@h"), "gone@h/1")
    assert Ledger(swept.client).look().account.stranded == 2
    swept.sweep()
    assert sorted(steps.waiting(BACKGROUND)) == ["placed", "reserved"]
    look(swept.client).check()
    assert Ledger(swept.client).look().account.stranded == 0


def test_a_run_whose_node_has_yet_to_attach_keeps_its_message(swept: Swept) -> None:
    """It asked first, once its machine was heard again."""
    steps = swept.steps
    for incarnation in (A1, B1):
        steps.attach(incarnation)
    steps.publish("p")
    assert steps.take(A1, 1) == ["p"]
    steps.fall_silent(A1)
    assert steps.run(TAKEN_AWAY, "a@h", A1, "p") == 0
    swept.sweep()
    assert steps.waiting(BACKGROUND) == []
    assert steps.attach(A1, 2, "p", first=False)[:3] == ["ok", [], []]


def test_an_incarnation_that_nobody_would_ever_find_silent_is_found(swept: Swept) -> None:
    swept.steps.attach(A1)
    swept.redis.zrem(swept.client.key("beats"), A1)
    swept.sweeper.sweep()
    assert swept.redis.zscore(swept.client.key("beats"), A1) == 0


def test_wake_tokens_go_by_themselves(swept: Swept) -> None:
    swept.steps.publish("p", home="nobody-reads-it")
    assert 0 < swept.redis.ttl(swept.client.key("wake", "nobody-reads-it")) <= 60
    swept.redis.rpush(swept.client.key("wake", "older"), "1")
    swept.sweep()
    assert 0 < swept.redis.ttl(swept.client.key("wake", "older")) <= 60


def test_requirements_are_forgotten_once_no_message_has_them(swept: Swept) -> None:
    steps = swept.steps
    steps.attach(A1)
    none = swept.beat()
    steps.publish("waits", home=HOME, demands='{"gpu": true}')
    registered = swept.beat()
    assert registered == none + 1
    swept.sweep()
    assert steps.hash("requirements"), "a message has them"
    assert steps.take(A1, 1, served=[HOME]) == ["waits"]
    swept.sweep()
    assert steps.hash("requirements"), "it may come home"
    steps.acknowledge(A1, "waits")
    swept.sweep()
    assert steps.hash("requirements") == {}
    assert not swept.redis.exists(swept.client.key("requirements", "idle"))
    assert swept.beat() == registered, "no node has to read them anew"
    steps.publish("again", home=HOME, demands='{"gpu": true}')
    assert swept.beat() == registered + 1, "every node learns of them"
    assert steps.hash("requirements") == {FIELD: '{"gpu": true}'}


def test_requirements_that_are_sent_while_the_entries_are_surveyed_stay(
    swept: Swept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever in its rounds that happens,
    and though the survey may have passed the place already.
    """
    monkeypatch.setattr(sweep, "REST", 0)
    monkeypatch.setattr(sweep, "SWEPT", 10)
    steps = swept.steps
    for number in range(1000):
        steps.publish(f"other{number}")
    steps.attach(A1)
    for after in range(0, 130, 7):
        steps.publish(f"first{after}", home=HOME, demands='{"gpu": true}')
        steps.take(A1, 1, served=[HOME])
        steps.acknowledge(A1, f"first{after}")
        for _ in range(after):
            swept.sweeper.sweep()
        steps.publish(f"second{after}", home=HOME, demands='{"gpu": true}')
        for _ in range(300):
            swept.sweeper.sweep()
        assert steps.hash("requirements"), f"after {after} steps"
        steps.take(A1, 1, served=[HOME])
        steps.acknowledge(A1, f"second{after}")


def test_requirements_are_kept_for_a_day(swept: Swept) -> None:
    swept.sweeper = Sweeper(swept.client, rows=RECOVERY.rows)
    swept.steps.attach(A1)
    swept.steps.publish("p", home=HOME, demands='{"gpu": true}')
    swept.steps.take(A1, 1, served=[HOME])
    swept.steps.acknowledge(A1, "p")
    swept.sweep()
    assert swept.steps.hash("requirements")
    swept.redis.zadd(
        swept.client.key("requirements", "idle"), {FIELD: swept.steps.now() - 86_400_000}
    )
    swept.sweep()
    assert swept.steps.hash("requirements") == {}
