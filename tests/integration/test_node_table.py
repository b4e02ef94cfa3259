"""The node table on a real broker: heartbeats, fencing, goodbyes, two incarnations, reading by
deltas, forgetting.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from hive.broker.link.client import BrokerClient
from hive.broker.nodes.table import BeatReply, NodeTable
from tests.harness import BrokerServer, wait_until
from tests.nodes import make_facts, make_load, make_settings

NODE, OLD, NEW = "spore-1@h", "spore-1@h/0000aaaa", "spore-1@h/0000bbbb"
DAY_MS = 86_400_000


@pytest.fixture(params=["", "tenant:"])
def client(broker: BrokerServer, request: pytest.FixtureRequest) -> Iterator[BrokerClient]:
    client = BrokerClient(
        broker.url, make_settings(hive_heartbeat_interval=1.0), prefix=request.param
    )
    yield client
    client.close()


@pytest.fixture
def table(client: BrokerClient) -> NodeTable:
    return NodeTable(client)


def join(
    client: BrokerClient, incarnation: str, *, started_at: float = 100.0, **values: Any
) -> BeatReply:
    """What a worker's start does: the channel gives it an epoch, and its first beat brings its
    facts.
    """
    client.redis.hset(client.key("epochs"), incarnation, 1)
    node_id = incarnation.rpartition("/")[0]
    facts = make_facts(node_id, incarnation=incarnation, started_at=started_at, **values)
    return NodeTable(client).beat(incarnation, make_load(), facts, "")


def age(client: BrokerClient, node_id: str, milliseconds: int) -> None:
    """Move a node's last beats into the past, as if it had been silent since."""
    lines = client.redis.hget(client.key("nodes", "dynamic"), node_id).decode().split("\n")
    moved = []
    for line in lines:
        stamp, rest = line.split(" ", 1)
        moved.append(f"{int(stamp) - milliseconds} {rest}")
    client.redis.hset(client.key("nodes", "dynamic"), node_id, "\n".join(moved))


def test_a_beat_shows_the_node_as_it_is(client: BrokerClient, table: NodeTable) -> None:
    facts = make_facts(
        incarnation=NEW,
        gpus=[{"name": "H200", "memory_mb": 140_000}],
        labels={"zone": "a b|c\nd"},
        capabilities=["fetch"],
        versions={"hive": "1"},
    )
    load = make_load(
        cpu=0.25,
        memory=0.5,
        memory_free_mb=123,
        load1=1.5,
        active=1,
        processed=7,
        draining=True,
        gpu=0.75,
    )
    client.redis.hset(client.key("epochs"), NEW, 1)
    before = client.redis.time()[0]
    reply = table.beat(NEW, load, facts, "p1 p2")
    node = table.read()[NODE]
    assert (reply.status, reply.need_facts) == ("ok", False)
    assert before * 1000 <= reply.now_ms <= (client.redis.time()[0] + 1) * 1000
    assert (node.facts, node.load, node.online) == (facts, load, True)
    assert node.last_update == reply.now_ms / 1000
    assert client.redis.zscore(client.key("beats"), NEW) == reply.now_ms
    assert client.redis.hget(client.key("held"), NEW) == b"p1 p2"


def test_an_incarnation_without_an_epoch_is_fenced_and_changes_nothing(
    client: BrokerClient, table: NodeTable
) -> None:
    assert table.beat(NEW, make_load(), make_facts(incarnation=NEW), "p1").status == "fenced"
    assert client.redis.keys("*") == []


def test_a_beat_tells_how_many_requirements_are_registered(client: BrokerClient) -> None:
    client.redis.hset(client.key("requirements"), mapping={"d1": "{}", "d2": "{}"})
    assert join(client, NEW).requirements == 2


def test_a_reader_gets_what_changed_and_keeps_the_rest(
    client: BrokerClient, table: NodeTable
) -> None:
    join(client, "a@h/01")
    join(client, "b@h/01")
    first = table.read()
    NodeTable(client).beat("b@h/01", make_load(cpu=0.5), None, "")
    second = table.read()
    assert second["a@h"] is first["a@h"]
    assert second["b@h"].load.cpu == 0.5
    assert second["b@h"].facts is first["b@h"].facts
    assert table.read() == second
    assert NodeTable(client).read() == second


def test_a_delta_costs_one_round_trip_and_carries_only_what_changed(
    client: BrokerClient, table: NodeTable
) -> None:
    for number in range(20):
        join(client, f"n{number}@h/01")
    table.read()
    NodeTable(client).beat("n3@h/01", make_load(cpu=0.5), None, "")
    before = client.redis.info("stats")
    table.read()
    after = client.redis.info("stats")
    assert after["total_commands_processed"] - before["total_commands_processed"] < 20
    assert after["total_net_output_bytes"] - before["total_net_output_bytes"] < 20_000


def test_changed_facts_reach_every_reader(client: BrokerClient, table: NodeTable) -> None:
    join(client, NEW)
    table.read()
    join(client, NEW, slots=8, queues=["video"])
    facts = table.read()[NODE].facts
    assert (facts.slots, facts.queues) == (8, ["video"])


def test_after_a_lost_table_the_reader_starts_over_and_facts_are_asked_for(
    client: BrokerClient, table: NodeTable
) -> None:
    join(client, "a@h/01")
    join(client, "b@h/01")
    assert set(table.read()) == {"a@h", "b@h"}
    client.redis.flushall()
    client.redis.hset(client.key("epochs"), "a@h/01", 1)
    assert table.beat("a@h/01", make_load(), None, "").need_facts
    assert table.read() == {}
    assert not join(client, "a@h/01").need_facts
    assert set(table.read()) == {"a@h"}


def test_a_table_that_fell_behind_the_reader_is_read_whole(
    client: BrokerClient, table: NodeTable
) -> None:
    """As after a server's crash: its last second of writes is gone, its epoch is not."""
    join(client, "a@h/01")
    join(client, "b@h/01")
    table.read()
    client.redis.hdel(client.key("nodes", "dynamic"), "b@h")
    client.redis.zrem(client.key("nodes", "versions"), "b@h")
    client.redis.set(client.key("nodes", "version"), 1)
    assert set(table.read()) == {"a@h"}


def test_facts_lost_with_a_crash_that_the_reader_did_not_notice_are_read_again(
    client: BrokerClient, table: NodeTable
) -> None:
    join(client, "a@h/01")
    join(client, "b@h/01")
    table.read()
    client.redis.set(client.key("nodes", "version"), 0)
    join(client, "c@h/01")
    for _ in range(2):
        # Counts past the reader's version.
        NodeTable(client).beat("c@h/01", make_load(), None, "")
    table.read()
    assert set(table.read()) == {"a@h", "b@h", "c@h"}


def test_after_an_unanswered_read_the_whole_table_is_read(client: BrokerClient) -> None:
    impatient = client.with_timeout(0.2)
    table = NodeTable(impatient)
    join(client, "a@h/01")
    join(client, "b@h/01")
    table.read()
    client.redis.client_pause(500)
    with pytest.raises(redis.exceptions.TimeoutError):
        table.read()
    # The table changes without a version that the reader could see.
    client.redis.hdel(client.key("nodes", "dynamic"), "b@h")
    client.redis.zrem(client.key("nodes", "versions"), "b@h")
    assert set(table.read()) == {"a@h"}
    impatient.close()


def test_goodbye_takes_a_node_offline_at_once_and_it_stays_known(
    client: BrokerClient, table: NodeTable
) -> None:
    join(client, NEW)
    last = table.read()[NODE].last_update
    assert table.leave(NODE, NEW)
    node = table.read()[NODE]
    assert (node.online, node.last_update) == (False, last)
    assert client.redis.hget(client.key("held"), NEW) is None
    assert table.leave(NODE, NEW)
    assert not table.read()[NODE].online
    assert not table.leave("nobody@h", "nobody@h/01")


@pytest.mark.parametrize(("silent_ms", "online"), [(2_000, True), (3_500, False)])
def test_a_node_is_online_for_three_heartbeats(
    client: BrokerClient, table: NodeTable, silent_ms: int, online: bool
) -> None:
    join(client, NEW)
    age(client, NODE, silent_ms)
    assert table.read()[NODE].online is online


def test_a_node_that_falls_silent_goes_offline_for_a_reader_that_knows_it(
    broker: BrokerServer,
) -> None:
    client = BrokerClient(broker.url, make_settings(hive_heartbeat_interval=0.5))
    table = NodeTable(client)
    join(client, NEW)
    assert table.read()[NODE].online
    wait_until(lambda: not table.read()[NODE].online)
    client.close()


def test_a_node_not_seen_for_a_day_is_forgotten_by_readers(
    client: BrokerClient, table: NodeTable
) -> None:
    join(client, "gone@h/01")
    join(client, "rare@h/01")
    age(client, "gone@h", DAY_MS + 1_000)
    age(client, "rare@h", DAY_MS - 60_000)
    assert set(table.read()) == {"rare@h"}


def test_beats_remove_what_was_not_seen_for_a_day_from_the_server(
    client: BrokerClient, table: NodeTable
) -> None:
    join(client, "gone@h/01")
    join(client, "rare@h/01")
    age(client, "gone@h", DAY_MS + 1_000)
    age(client, "rare@h", DAY_MS - 60_000)
    join(client, NEW)
    for _ in range(64):
        table.beat(NEW, make_load(), None, "")
    for part in ("static", "dynamic"):
        assert set(client.redis.hkeys(client.key("nodes", part))) == {b"rare@h", NODE.encode()}
    assert set(client.redis.zrange(client.key("nodes", "versions"), 0, -1)) == {
        b"rare@h",
        NODE.encode(),
    }


def test_every_key_of_the_table_has_a_time_to_live(client: BrokerClient) -> None:
    join(client, NEW)
    keys = [
        client.key("nodes", part) for part in ("static", "dynamic", "versions", "version", "epoch")
    ] + [client.key("held")]
    assert all(DAY_MS < client.redis.pttl(key) <= 2 * DAY_MS for key in keys)


def test_the_newest_incarnation_speaks_for_its_node_and_tasks_are_added_up(
    client: BrokerClient, table: NodeTable
) -> None:
    join(client, OLD, started_at=100.0, pid=1)
    join(client, NEW, started_at=200.0, pid=2)
    table.beat(OLD, make_load(cpu=0.9, active=2, processed=10, draining=True), None, "")
    table.beat(NEW, make_load(cpu=0.1, active=1, processed=5), None, "")
    table.beat(
        OLD,
        make_load(cpu=0.9, active=2, processed=11, draining=True),
        make_facts(incarnation=OLD, started_at=100.0, pid=1),
        "",
    )
    node = table.read()[NODE]
    assert (node.facts.pid, node.facts.incarnation) == (2, NEW)
    assert (node.load.cpu, node.load.draining, node.load.active, node.load.processed) == (
        0.1,
        False,
        3,
        16,
    )


def test_the_old_incarnations_goodbye_leaves_the_new_one_online(
    client: BrokerClient, table: NodeTable
) -> None:
    join(client, OLD, started_at=100.0)
    table.beat(OLD, make_load(active=2), None, "")
    join(client, NEW, started_at=200.0)
    table.leave(NODE, OLD)
    node = table.read()[NODE]
    assert (node.online, node.facts.incarnation, node.load.active) == (True, NEW, 0)


def test_the_old_incarnation_speaks_again_when_the_new_one_has_gone(
    client: BrokerClient, table: NodeTable
) -> None:
    join(client, OLD, started_at=100.0, pid=1)
    join(client, NEW, started_at=200.0, pid=2)
    table.leave(NODE, NEW)
    client.redis.hdel(client.key("epochs"), NEW)
    assert table.read()[NODE].online
    assert table.beat(OLD, make_load(), None, "").need_facts
    assert not table.beat(
        OLD, make_load(), make_facts(incarnation=OLD, started_at=100.0, pid=1), ""
    ).need_facts
    node = table.read()[NODE]
    assert (node.online, node.facts.pid) == (True, 1)


def test_a_node_that_restarts_after_a_crash_is_one_node(
    client: BrokerClient, table: NodeTable
) -> None:
    join(client, OLD, started_at=100.0)
    client.redis.hdel(client.key("epochs"), OLD)  # the watchdog declared it dead
    join(client, NEW, started_at=50.0)  # its clock was set back meanwhile
    assert list(table.read()) == [NODE]
    assert table.read()[NODE].facts.incarnation == NEW
    assert b"\n" not in client.redis.hget(client.key("nodes", "dynamic"), NODE)


def test_facts_that_cannot_be_read_hide_their_node_and_no_other(
    client: BrokerClient, table: NodeTable
) -> None:
    join(client, "a@h/01")
    join(client, "b@h/01")
    client.redis.hset(client.key("nodes", "static"), "a@h", '{"node_id": 1}')
    assert set(table.read()) == {"b@h"}


def test_a_table_of_thousands_is_read_in_one_call(client: BrokerClient, table: NodeTable) -> None:
    join(client, "n0@h/01")
    names = [f"n{number}@h" for number in range(2_500)]
    for part in ("static", "dynamic"):
        key = client.key("nodes", part)
        known = client.redis.hget(key, "n0@h")
        client.redis.hset(
            key, mapping={name: known.replace(b"n0@h", name.encode()) for name in names}
        )
    client.redis.zadd(client.key("nodes", "versions"), dict.fromkeys(names, 1))
    assert set(table.read()) == set(names)
