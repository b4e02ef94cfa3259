"""Dead letters have a bound and an age, and a page of them costs what a page costs, however many
there are.
"""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import redis
from celery import Celery, _state
from celery.backends.base import Backend

import hive
from hive.broker.ledger.dead_letters import DeadLetters
from hive.broker.link.client import client_of
from hive.errors import DeadLetterError, HiveError
from hive.foreman.watch.dead_letters import PATIENCE
from hive.foreman.watch.duty import duty_states
from hive.foreman.watch.watchdog import Watchdog
from tests.harness import BrokerServer, free_port, wait_until
from tests.integration.test_cli import Cli
from tests.integration.test_dead_letters import Graveyard
from tests.nodes import BACKGROUND, make_settings

MANY = 100_000
SECOND = 1 / 86_400
"""In days."""


@pytest.fixture(autouse=True)
def _celery_as_it_was() -> Iterator[None]:
    default = _state.default_app
    yield
    _state.set_default_app(default)


@pytest.fixture
def three(broker: BrokerServer) -> Iterator[Graveyard]:
    """A cluster that keeps three dead letters."""
    with closing(Graveyard(broker, hive_dead_letters_max=3)) as cluster:
        yield cluster


def one_by_one(cluster: Graveyard, count: int, **options: Any) -> list[str]:
    """Task ids of so many dead letters, the oldest first."""
    return [cluster.bury(cluster.send(**options))[0] for _ in range(count)]


def kept(cluster: Graveyard) -> list[str]:
    return [letter.task_id for letter in cluster.letters.page(100)][::-1]


def in_order(cluster: Graveyard) -> bool:
    """Whether the order by time has all dead letters, each with its time, and nothing else."""
    order = dict(cluster.client.redis.zrange("venom:dead:order", 0, -1, withscores=True))
    rows = cluster.client.redis.hgetall("venom:dead")
    return order == {name: float(row.partition(b"|")[0]) for name, row in rows.items()}


def failing(cluster: Graveyard) -> dict[str, str]:
    return {state.name: state.error for state in duty_states(cluster.client) if state.error}


def test_of_too_many_the_oldest_are_purged_once_their_callers_are_told(
    three: Graveyard, caplog: pytest.LogCaptureFixture
) -> None:
    task_ids = one_by_one(three, 5)
    three.watchdog.tick()
    assert kept(three) == task_ids[2:]
    for task_id in task_ids:
        with pytest.raises(DeadLetterError):
            three.app.AsyncResult(task_id).get(timeout=10)
    counters = three.steps.counters()
    assert (counters["dead"], counters["purged"], counters["done"]) == (5, 2, 2)
    lines = [line for line in caplog.messages if "event=dead_letter_purged" in line]
    assert [line.split(" age=")[0] for line in lines] == [
        f"event=dead_letter_purged task_id={task_id} task=some.task" for task_id in task_ids[:2]
    ]
    assert in_order(three)
    assert not three.client.redis.exists("venom:untold")


def test_those_too_old_are_purged(broker: BrokerServer) -> None:
    with closing(Graveyard(broker, hive_dead_letters_days=SECOND)) as cluster:
        old = one_by_one(cluster, 2)
        cluster.watchdog.tick()
        assert kept(cluster) == old
        time.sleep(1)
        young = one_by_one(cluster, 1)
        cluster.watchdog.tick()
        assert kept(cluster) == young
        assert cluster.steps.counters()["purged"] == 2


def test_without_bounds_all_are_kept(broker: BrokerServer) -> None:
    with closing(Graveyard(broker, hive_dead_letters_max=0, hive_dead_letters_days=0)) as cluster:
        one_by_one(cluster, 3)
        cluster.client.redis.hset(
            "venom:dead", mapping=dict.fromkeys(cluster.steps.hash("dead"), "1|long ago")
        )
        for _ in range(3):
            cluster.watchdog.tick()
        assert cluster.letters.count() == 3


def test_one_that_was_sent_again_does_not_count(three: Graveyard) -> None:
    task_ids = one_by_one(three, 5)
    assert all(three.letters.retry(task_id) for task_id in task_ids[3:])
    three.watchdog.tick()
    assert kept(three) == task_ids[:3]
    assert in_order(three)
    again = three.bury(*three.steps.waiting(BACKGROUND))
    three.watchdog.tick()
    assert set(kept(three)) == {task_ids[2], *again}, "its time is that of its last death"


# -- what cannot be told


class Picky(Backend):
    """A result backend of an application's own, which fails for some tasks."""

    refused: ClassVar[set[str]] = set()
    stored: ClassVar[set[str]] = set()
    fault: ClassVar[Exception] = RuntimeError("the database is locked")

    def _store_result(self, task_id: str, *_: Any, **__: Any) -> None:
        if task_id in self.refused:
            raise self.fault
        self.stored.add(task_id)

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        return {"status": "FAILURE" if task_id in self.stored else "PENDING", "result": None}


@pytest.fixture
def picky() -> type[Picky]:
    Picky.refused.clear()
    Picky.stored.clear()
    return Picky


def test_one_that_can_never_be_stored_is_not_tried_again(
    three: Graveyard, picky: type[Picky], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picky, "fault", ValueError("this is no text that I can store"))
    picky.refused.update(one_by_one(three, 1))
    with with_backend(three, f"{__name__}:Picky") as watchdog:
        watchdog.tick()
        assert failing(three) == {}
    assert not three.client.redis.exists("venom:untold")


@contextmanager
def with_backend(cluster: Graveyard, backend: str, **settings: Any) -> Iterator[Watchdog]:
    """The watchdog of an application that keeps its results elsewhere."""
    own = Celery("own", broker=cluster.client.url, backend=backend, set_as_current=False)
    with pytest.warns(UserWarning, match="result_backend stays your own"):
        app = hive.install(own, make_settings(**settings))
    watchdog = Watchdog(client_of(app), app)
    yield watchdog
    watchdog.client.close()
    client_of(app).close()


def test_one_that_cannot_be_told_is_left_and_tried_again_and_others_go(
    three: Graveyard, picky: type[Picky]
) -> None:
    task_ids = one_by_one(three, 6)
    picky.refused.update(task_ids[:2])
    with with_backend(three, f"{__name__}:Picky", hive_dead_letters_max=3) as watchdog:
        for _ in range(3):
            watchdog.tick()
        assert picky.stored == set(task_ids[2:])
        assert kept(three) == [*task_ids[:2], *task_ids[3:]]
        assert failing(three) == {"dead_letters": "RuntimeError: the database is locked"}
        picky.refused.clear()
        later = one_by_one(three, 1)
        wait_until(lambda: watchdog.tick() or kept(three) == [*task_ids[4:], *later])
        assert picky.stored == {*task_ids, *later}
        assert failing(three) == {}


def test_one_whose_callbacks_fail_is_told_all_the_same(three: Graveyard) -> None:
    """They would fail again, and its caller has its result."""
    (task_id,) = one_by_one(three, 1, link_error=[{"task": "other", "subtask_type": "unknown"}])
    three.watchdog.tick()
    assert three.app.AsyncResult(task_id).status == "FAILURE"
    assert not three.client.redis.exists("venom:untold")


@pytest.mark.parametrize(
    "silent",
    [False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["refuses", "hangs"],
)
def test_a_result_backend_that_is_away_stops_neither_the_watchdog_nor_the_bound(
    three: Graveyard, silent: bool
) -> None:
    """Those without a result have nobody to be told, and go."""
    untellable = one_by_one(three, 2)
    *_, newest = one_by_one(three, 3, ignore_result=True)
    with closing(socket.create_server(("127.0.0.1", 0))) as deaf:
        port = deaf.getsockname()[1] if silent else free_port()
        address = f"redis://127.0.0.1:{port}/0"
        with with_backend(three, address, hive_dead_letters_max=1) as watchdog:
            ticks = []

            def tick() -> bool:
                began = time.monotonic()
                watchdog.tick()
                ticks.append(time.monotonic() - began)
                return kept(three) == [*untellable, newest] and len(ticks) > 5

            wait_until(tick)
            assert max(ticks) < PATIENCE + 1, "the lease is kept all the time"
            assert watchdog.leads
            assert [*failing(three)] == ["dead_letters"]
            assert three.client.redis.scard("venom:untold") == 2


def test_a_person_is_told_which_could_not_be_purged(three: Graveyard, picky: type[Picky]) -> None:
    task_ids = one_by_one(three, 3)
    picky.refused.update(task_ids[:1])
    with with_backend(three, f"{__name__}:Picky") as watchdog:
        letters = DeadLetters(watchdog.app)
        with pytest.raises(HiveError, match=r"the database is locked.* 1 of 3 dead letters"):
            letters.purge_all()
        assert kept(three) == task_ids[:1]
        picky.refused.clear()
        assert letters.purge(task_ids) == 1


# -- letters of the release before, which knows no order


@pytest.mark.parametrize("left", ["nothing", "some", "as many, of which some are gone", "no set"])
def test_letters_of_the_release_before_are_listed_and_bounded_in_their_order(
    three: Graveyard, left: str
) -> None:
    task_ids = one_by_one(three, 5)
    server = three.client.redis
    order = server.zrange("venom:dead:order", 0, -1)
    if left == "nothing":
        server.delete("venom:dead:order")
    elif left == "some":
        server.zrem("venom:dead:order", *order[:2])
    elif left == "no set":
        server.set("venom:dead:order", "somebody's")
    else:
        server.zrem("venom:dead:order", *order[:2])
        server.zadd("venom:dead:order", {"gone": 1, "gone too": 2})
    if not left.startswith("as many"):
        assert kept(three) == task_ids
    three.watchdog.tick()
    if left == "no set":
        assert kept(three) == task_ids
        server.delete("venom:dead:order")
        three.watchdog.tick()
    assert kept(three) == task_ids[2:]
    assert in_order(three)


def test_what_the_release_before_changes_meanwhile_is_followed(three: Graveyard) -> None:
    task_ids = one_by_one(three, 3)
    three.watchdog.tick()
    server = three.client.redis
    (first, *_) = server.zrange("venom:dead:order", 0, 0)
    moment = three.steps.now()
    server.hset("venom:dead", first, f"{moment + 1000}|it was sent again, and died again")
    assert kept(three) == [*task_ids[1:], task_ids[0]]
    three.watchdog.tick()
    assert kept(three) == [*task_ids[1:], task_ids[0]]
    assert in_order(three)
    server.hset("venom:dead", first, "no row of ours")
    assert set(kept(three)) == set(task_ids)
    three.watchdog.tick()
    assert set(kept(three)) == set(task_ids)


def test_what_is_swept_leaves_the_order(three: Graveyard) -> None:
    task_ids = one_by_one(three, 3)
    server = three.client.redis
    server.hset("venom:dead", "gone", "1|died")
    server.zadd("venom:dead:order", {"gone": 1})
    wait_until(lambda: three.watchdog.tick() or three.letters.count() == 3, what="it is swept")
    three.watchdog.tick()
    assert in_order(three)
    assert kept(three) == task_ids, "it counted for none of these"


# -- the cost


@pytest.fixture
def crowd(tmp_path: Path) -> Iterator[Callable[[int], Graveyard]]:
    """Makes a cluster with so many dead letters, on a server of its own."""
    server = BrokerServer(tmp_path / "broker", durable=False).start()
    clusters: list[Graveyard] = []

    def make(count: int, *, ordered: bool = True, **settings: Any) -> Graveyard:
        with server.client() as client:
            client.flushall()
        cluster = Graveyard(server, hive_dead_letters_days=0, **settings)
        clusters.append(cluster)
        one_by_one(cluster, 1, ignore_result=True)
        for router in cluster.app.conf.task_routes:
            router.close()  # it would go on reading the node table for some seconds
        cluster.watchdog.tick()
        cluster.client.redis.eval(COPY, 0, count - 1, int(ordered))
        assert cluster.letters.count() == count
        return cluster

    yield make
    for cluster in clusters:
        cluster.close()
    server.kill()


COPY = """
local id = redis.call('HKEYS', 'venom:dead')[1]
local entry, row = redis.call('HGET', 'venom:entries', id), redis.call('HGET', 'venom:dead', id)
local ms = tonumber(string.match(row, '^%d+'))
for i = 1, tonumber(ARGV[1]) do
  local copy = string.format('%024d', (i * 7919) % 1000003)
  redis.call('HSET', 'venom:entries', copy, entry)
  redis.call('HSET', 'venom:dead', copy, string.format('%d|a copy', ms - i))
  if ARGV[2] == '1' then redis.call('ZADD', 'venom:dead:order', ms - i, copy) end
end
redis.call('HINCRBY', 'venom:counters', 'accepted', ARGV[1])
"""


def cost(server: redis.Redis, step: Callable[[], object]) -> tuple[Counter[str], int]:
    """The commands that the server ran for a step, those in scripts too, and the bytes it sent."""
    step()  # connections and scripts are there
    server.config_resetstat()
    step()
    stats = server.info("commandstats")
    sent = int(server.info("stats")["total_net_output_bytes"])
    return Counter({name: used["calls"] for name, used in stats.items()}), sent


def test_a_page_among_very_many_costs_what_a_page_costs(
    crowd: Callable[..., Graveyard], tmp_path: Path
) -> None:
    def costs(count: int) -> list[tuple[Counter[str], int]]:
        cluster = crowd(count, hive_dead_letters_max=0)
        cli = Cli({"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(port_of(cluster))}, tmp_path)

        def by_program() -> None:
            assert len(cluster.letters.page(50, 25)) == 50

        def by_command() -> None:
            assert len(json.loads(cli("dead", "list", "--json").stdout)) == 50
            said = cli("dead", "list", "--limit", "20", "--offset", "20").stdout
            assert f"dead letters 21 to 40 of {count}" in said

        return [cost(cluster.client.redis, step) for step in (by_program, by_command)]

    for (few, few_bytes), (many, many_bytes) in zip(costs(100), costs(MANY), strict=True):
        assert many == few
        assert many_bytes < 1.05 * few_bytes


def port_of(cluster: Graveyard) -> int:
    return int(cluster.client.address.rpartition(":")[2])


def test_very_many_are_brought_into_order_and_within_the_bound_a_part_at_a_tick(
    crowd: Callable[..., Graveyard],
) -> None:
    cluster = crowd(MANY, ordered=False, hive_dead_letters_max=MANY - 800)
    newest = cluster.letters.publish_ids()
    server, ticks, most = cluster.client.redis, 0, 0
    while cluster.letters.count() > MANY - 800:
        server.config_resetstat()
        cluster.watchdog.tick()
        used = server.info("commandstats")
        most = max(most, sum(command["calls"] for command in used.values()))
        ticks += 1
        assert ticks < 40
    assert most < 60_000
    assert in_order(cluster)
    assert set(cluster.letters.publish_ids()) == set(newest[: MANY - 800]), "the oldest went"
    assert cluster.steps.counters()["purged"] == 800


def test_all_are_purged_or_sent_again_without_a_search_for_each(
    crowd: Callable[..., Graveyard],
) -> None:
    count = 2_000
    cluster = crowd(count, hive_dead_letters_max=0)
    server = cluster.client.redis
    server.config_resetstat()
    assert cluster.letters.purge_all() == count
    used = server.info("commandstats")
    assert used["cmdstat_evalsha"]["calls"] < 10
    assert used["cmdstat_hscan"]["calls"] < 10
    cluster = crowd(count, hive_dead_letters_max=0)
    server.config_resetstat()
    assert DeadLetters(cluster.app).retry_all() == count
    used = server.info("commandstats")
    assert used["cmdstat_hscan"]["calls"] < 10
    assert used["cmdstat_evalsha"]["calls"] < 2 * count + 10
