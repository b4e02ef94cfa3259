"""Rows that another release, or a stranger, wrote: a reader that does not know one passes it over,
with a line in the log, and goes on with all others.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

import hive
import hive.testing
from hive.agents.parallel_skill import ParallelSkill
from hive.broker.control.draining import DRAIN
from hive.broker.control.mailbox import HIVE_COMMAND
from hive.broker.ledger.account import Ledger
from hive.broker.link.client import client_of
from hive.broker.nodes.table import NodeTable
from hive.errors import HiveError, UnknownJobError
from hive.foreman.policy import LoadScore
from hive.foreman.snapshot import Snapshot
from hive.settings import Settings
from hive.testing import Cluster
from tests.harness import BrokerServer, wait_until
from tests.integration.jobs import add_numbers, plain
from tests.integration.jobs_app import JOBS
from tests.integration.test_cli import Cli
from tests.integration.test_nexus import Nexus
from tests.nodes import BACKGROUND, make_facts, make_load

STATIC, DYNAMIC = "venom:nodes:static", "venom:nodes:dynamic"
FACTS = make_facts("odd@h", incarnation="odd@h/01").model_dump()
GOOD_LINE = f"{time.time() * 1000:.0f} 01 100.000 1 {make_load().packed()}"
UNKNOWN_FACTS = {
    "a field fewer": json.dumps({name: FACTS[name] for name in FACTS if name != "slots"}),
    "a field of another type": json.dumps(FACTS | {"labels": ["a"]}),
    "no number": json.dumps(FACTS | {"cpus": float("inf")}),
    "another node's": json.dumps(FACTS | {"node_id": "other@h"}),
    "a list": "[]",
    "no JSON": "{",
    "nothing": "",
    "no text": b"\xff\xfe",
}
UNKNOWN_LINES = {
    "a field fewer": GOOD_LINE.rpartition(" ")[0],
    "two fields": "1 01",
    "one word": "odd",
    "nothing": "",
    "no number": GOOD_LINE.replace(" 0.000 ", " much ", 1),
    "not a number": GOOD_LINE.replace(" 0.000 ", " nan ", 1),
    "an endless time": f"inf {GOOD_LINE.partition(' ')[2]}",
    "no version": GOOD_LINE.replace(" 1 ", " one ", 1).rpartition(" ")[0],
    "JSON": '{"at": 1}',
    "no text": b"\xff\xfe \xff",
}
JUNK_ALARMS = ["", "{", "[]", "1e999", '{"since": "soon"}', '{"since": 1e300}', '{"missing": 1}']


@pytest.fixture
def app(broker: BrokerServer) -> Iterator[Celery]:
    settings = Settings.load(
        redis_host="127.0.0.1", redis_port=broker.port, hive_heartbeat_interval=5.0
    )
    app = hive.install(Celery("unknown"), settings)
    yield app
    client_of(app).close()


def join(app: Celery, node_id: str) -> None:
    """A node that is online and free."""
    client, incarnation = client_of(app), f"{node_id}/01"
    client.redis.hset("venom:epochs", incarnation, 1)
    client.redis.sadd(f"venom:incarnations:{node_id}", incarnation)
    facts = make_facts(node_id, incarnation=incarnation)
    assert NodeTable(client).beat(incarnation, make_load(), facts, "").status == "ok"


def write(app: Celery, *, facts: str | bytes | None, line: str | bytes | None) -> None:
    """The row of the node odd@h."""
    redis = client_of(app).redis
    if facts is not None:
        redis.hset(STATIC, "odd@h", facts)
    if line is not None:
        redis.hset(DYNAMIC, "odd@h", line)
    redis.zadd("venom:nodes:versions", {"odd@h": redis.incr("venom:nodes:version")})


ROWS = [
    *(pytest.param(facts, GOOD_LINE, id=f"facts: {name}") for name, facts in UNKNOWN_FACTS.items()),
    *(
        pytest.param(json.dumps(FACTS), line, id=f"line: {name}")
        for name, line in UNKNOWN_LINES.items()
    ),
    pytest.param(None, GOOD_LINE, id="the static row is missing"),
    pytest.param(json.dumps(FACTS), None, id="the dynamic row is missing"),
]


@pytest.mark.parametrize(("facts", "line"), ROWS)
def test_a_node_whose_row_cannot_be_read_is_left_out_and_the_others_are_routed_to(
    app: Celery, facts: str | bytes | None, line: str | bytes | None
) -> None:
    join(app, "good@h")
    snapshot = Snapshot(client_of(app), LoadScore())
    try:
        assert [candidate[0] for candidate in snapshot.decide(BACKGROUND)] == ["good@h"]
        write(app, facts=facts, line=line)
        join(app, "later@h")
        wait_until(
            lambda: (
                {candidate[0] for candidate in snapshot.decide(BACKGROUND)} == {"good@h", "later@h"}
            ),
            5,
            "the refresher goes on",
        )
        assert app.send_task("nobody.knows.it").id
        assert set(NodeTable(client_of(app)).read()) == {"good@h", "later@h"}
    finally:
        snapshot.close()


def test_a_row_that_cannot_be_read_is_told_once_and_does_not_cost_the_whole_table(
    app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    join(app, "good@h")
    table = NodeTable(client_of(app))
    table.read()
    write(app, facts=None, line=GOOD_LINE)
    table.read()
    read = [table.read() for _ in range(5)]
    assert caplog.text.count("event=row_unreadable") == 1
    assert "row=odd@h" in caplog.text
    assert read[0]["good@h"] is read[-1]["good@h"], "only changes were read"


def test_a_row_of_a_later_release_is_read_without_what_it_adds(app: Celery) -> None:
    facts = json.dumps(FACTS | {"colour": "red"})
    write(app, facts=facts, line=f"{GOOD_LINE} 17 more")
    node = NodeTable(client_of(app)).read()["odd@h"]
    assert (node.facts, node.load) == (make_facts("odd@h", incarnation="odd@h/01"), make_load())


@pytest.mark.parametrize(
    "name",
    [
        *("held", "requirements", "counters"),
        *(f"nodes:{part}" for part in ("static", "dynamic", "versions", "version", "epoch")),
    ],
)
def test_a_node_beats_though_another_key_is_in_the_way(app: Celery, name: str) -> None:
    join(app, "good@h")
    client = client_of(app)
    for make in (client.redis.set, client.redis.lpush):
        client.redis.delete(f"venom:{name}")
        make(f"venom:{name}", "many")
        join(app, "good@h")
        assert set(NodeTable(client).read()) == {"good@h"}


def test_a_node_whose_facts_are_gone_is_asked_for_them_again(app: Celery) -> None:
    join(app, "good@h")
    client = client_of(app)
    client.redis.hdel(STATIC, "good@h")
    table = NodeTable(client)
    assert table.read() == {}
    assert table.beat("good@h/01", make_load(), None, "").need_facts
    join(app, "good@h")
    assert set(table.read()) == {"good@h"}


@pytest.mark.parametrize(
    "key", [STATIC, DYNAMIC, *(f"venom:nodes:{part}" for part in ("versions", "version", "epoch"))]
)
def test_a_key_of_another_type_leaves_an_empty_table(app: Celery, key: str) -> None:
    client = client_of(app)
    client.redis.delete(key)
    client.redis.sadd(key, "foreign")
    assert NodeTable(client).read() == {}
    assert app.send_task("nobody.knows.it").id


def test_the_refresher_outlives_whatever_fails_in_it(
    app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    class Fails(LoadScore):
        """An application's own, which fails where Hive does not expect it."""

        @property
        def tasks_weight(self) -> float:  # type: ignore[override]
            if failing:
                raise LookupError("no weight is known")
            return 0.3

        @tasks_weight.setter
        def tasks_weight(self, _: float) -> None: ...

    failing: list[int] = []
    join(app, "good@h")
    snapshot = Snapshot(client_of(app), Fails())
    try:
        assert snapshot.decide(BACKGROUND)
        failing.append(1)
        wait_until(lambda: "node_table_unreadable" in caplog.text, 5, "it has failed")
        failing.clear()
        wait_until(lambda: snapshot.decide(BACKGROUND), 5, "it routes again")
    finally:
        snapshot.close()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with hive.testing.cluster(JOBS, spores=0, hive_heartbeat_interval=0.3) as started:
        yield started


def test_a_spore_learns_all_requirements_but_those_that_it_does_not_know(cluster: Cluster) -> None:
    redis = client_of(cluster.app).redis
    rows = {
        "a": '{"quantum": true}',
        "b": '{"cpus": "many"}',
        "c": "{",
        "d": "[]",
        b"\xff": b"\xff",
    }
    for digest, text in rows.items():
        name = digest if isinstance(digest, bytes) else digest.encode()
        redis.hset("venom:requirements", name + b":" + BACKGROUND.encode(), text)
    redis.hset("venom:requirements", "e", "{}")
    sent = plain.apply_async(requirements={"labels": {"zone": "x"}})
    cluster.start("learns", environment={"HIVE_NODE_LABELS": "zone=x"})
    sent.get(timeout=20)
    log = cluster.log("learns")
    assert "Traceback" not in log
    assert log.count("event=row_unreadable") == len(rows)
    assert "quantum: there is no such requirement" in log


def test_a_node_answers_what_it_does_not_know_in_a_sentence(cluster: Cluster) -> None:
    cluster.start("asked")
    broker = hive.MessageBroker(cluster.app)

    def answer(command: str, arguments: dict[str, Any]) -> str:
        (reply,) = asyncio.run(broker.broadcast_control(command, arguments)).values()
        return str(reply.get("error", ""))

    assert "knows no argument 'until', 'why' of DRAIN; it knows: none" in answer(
        DRAIN, {"until": 3, "why": "x"}
    )
    assert "knows no command 'UPGRADE'" in answer("UPGRADE", {"to": "2"})
    assert answer(DRAIN, {}) == answer("RESUME", {}) == answer("PING", {"n": 1}) == ""
    assert "Traceback" not in cluster.log("asked")


def test_a_subscriber_outlives_what_it_cannot_read(cluster: Cluster) -> None:
    async def scene() -> dict[str, Any]:
        broker = hive.MessageBroker(cluster.app)
        async with await broker.subscribe_broadcast() as subscription, asyncio.timeout(20):
            await asyncio.to_thread(publish_raw, cluster.app)
            await broker.broadcast_control("PING", {"n": 1}, wait_timeout=0.1)
            return await anext(subscription.listen())

    heard = asyncio.run(scene())
    assert (heard["command"], heard["arguments"]) == ("PING", {"n": 1})


def publish_raw(app: Celery) -> None:
    """A command of another form than Hive's."""
    mailbox = app.control.mailbox  # type: ignore[attr-defined]
    with app.amqp.producer_pool.acquire(block=True) as producer:
        for arguments in ([1, 2], "text", 7, True):
            producer.publish(
                {"method": HIVE_COMMAND, "arguments": arguments, "destination": ["nobody"]},
                exchange=mailbox.exchange.name,
                declare=[mailbox.exchange],
                serializer="json",
            )


@pytest.mark.parametrize("alarm", JUNK_ALARMS)
def test_an_alarm_that_cannot_be_read_is_passed_over(
    app: Celery, broker: BrokerServer, tmp_path: Path, alarm: str
) -> None:
    client_of(app).redis.hset("venom:account", mapping={"mark": 3, "at": 5, "alarm": alarm})
    ledger = Ledger(client_of(app))
    assert (ledger.alarm(), ledger.look().alarm) == (None, None)
    if alarm == JUNK_ALARMS[1]:
        cli = Cli(broker.environment, tmp_path)
        assert json.loads(cli("status", "--json").stdout)["alarm"] is None
        assert json.loads(cli("account", "--json").stdout)["alarm"] is None


@pytest.mark.parametrize("junk", [{"mark": "x", "at": "y"}, {"mark": "1.5"}, None])
def test_marks_that_cannot_be_read_count_as_none(app: Celery, junk: dict[str, str] | None) -> None:
    redis = client_of(app).redis
    if junk is None:
        redis.set("venom:account", "x")
    else:
        redis.hset("venom:account", mapping=junk)
    assert Ledger(client_of(app)).mark() == (0, 0.0)


def test_status_and_health_pass_over_keys_of_another_type(
    app: Celery, broker: BrokerServer, tmp_path: Path
) -> None:
    redis = client_of(app).redis
    for key in ("zombies", "duties", "requirements", "nodes:static", "subtasks:x"):
        redis.sadd(f"venom:{key}", "foreign")
    cli = Cli(broker.environment, tmp_path)
    assert json.loads(cli("status", "--json").stdout)["nodes"] == []
    message_broker = hive.MessageBroker(app)
    assert asyncio.run(message_broker.detect_zombie_tasks()) == []
    told = json.loads(asyncio.run(ParallelSkill(message_broker).get_task_status("x")))
    assert "No job or task has the id 'x'" in told["error"]
    nexus = Nexus(tmp_path, broker).listening()
    try:
        wait_until(lambda: nexus.health()[1]["lease_holder"], what="it leads")
        redis.hset("venom:lease:foreman", "until", "never")
        status, health = nexus.health()
        assert (health["broker_reachable"], health["nodes_total"]) == (True, 0)
    finally:
        nexus.process.kill()
    assert "Traceback (most recent call last)" not in json.dumps([status, health])


@pytest.mark.parametrize("stored", ["{", "{}", '"ids"', "[1, 2]", "7"])
def test_subtasks_that_cannot_be_read_are_not_known(app: Celery, stored: str) -> None:
    client_of(app).redis.set("venom:subtasks:abc", stored)
    told = asyncio.run(ParallelSkill(hive.MessageBroker(app)).get_task_status("abc"))
    assert "No job or task has the id 'abc'" in json.loads(told)["error"]


ADDED: list[Any] = [
    "text",
    7,
    ["a"],
    {"node": 5, "attempt": "often", "created": "soon", "started": [1], "priority": "x"},
    {"created": 1e300, "started": -5, "queue": {}, "req": [1], "stated": "?", "more": 1},
]


@pytest.mark.parametrize("added", ADDED)
def test_what_another_release_added_to_a_result_is_left_out(app: Celery, added: Any) -> None:
    meta = {"status": "SUCCESS", "result": 3, "task_id": "t", "name": "n", "hive": added}
    client_of(app).redis.set("celery-task-meta-t", json.dumps(meta))
    status = asyncio.run(hive.MessageBroker(app).get_task_status("t"))
    assert status is not None
    assert (status.status, status.result, status.started_at) == ("completed", 3, None)


PLANS = ['{"task": "t"}', "{", "[]", "x", None]


@pytest.mark.parametrize("stored", PLANS)
def test_a_job_that_cannot_be_read_is_told_in_a_sentence(
    app: Celery, broker: BrokerServer, tmp_path: Path, stored: str | None
) -> None:
    redis = client_of(app).redis
    if stored is None:
        redis.set("venom:job:abc:state", "foreign")
    else:
        redis.hset("venom:job:abc:state", "plan", stored)
    with pytest.raises(UnknownJobError) as told:
        hive.job("abc", app=app)
    assert stored is None or "cannot read what the job abc is asked to do" in told.value.message
    if stored == PLANS[0]:
        said = Cli(broker.environment, tmp_path)("job", "abc", code=1).stderr
        assert len(said.splitlines()) == 1


def test_a_job_of_a_later_release_waits_for_a_node_that_can_read_it(cluster: Cluster) -> None:
    """Its plan is made unreadable, and readable again once a node has declined it."""
    redis = client_of(cluster.app).redis
    job = hive.map(add_numbers, [{"a": n, "b": 1} for n in range(5)], "sum", app=cluster.app)
    state = f"venom:job:{job.id}:state"
    plan = json.loads(redis.hget(state, "plan"))
    redis.hset(state, "plan", json.dumps(plan | {"reduce": "median", "colour": "red"}))
    cluster.start("reads")
    wait_until(lambda: "event=unreadable_job" in cluster.log("reads"), 30, "it has declined")
    redis.hset(state, "plan", json.dumps(plan | {"colour": "red"}))
    result = job.result(30)
    assert (result.complete, result.error, result.value) == (True, None, 15)
    log = cluster.log("reads")
    assert "reduce: Value error, there is no reduce 'median'" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("stored", ["{", "", b"\xff", None])
def test_a_jobs_value_that_cannot_be_read_is_none(app: Celery, stored: str | bytes | None) -> None:
    redis = client_of(app).redis
    job = hive.map(add_numbers, [{"a": 1, "b": 1}], "sum", app=app)
    value, partials, outcomes = (
        f"venom:job:{job.id}:{part}" for part in ("value", "partials", "outcomes")
    )
    if stored is None:
        redis.sadd(value, "foreign")
        redis.sadd(partials, "foreign")
    else:
        redis.set(value, stored)
        redis.rpush(partials, stored)
    assert job.result(0).value in (None, 0)
    redis.xadd(outcomes, {"first": 0})
    redis.xadd(outcomes, {"end": 1})
    result = job.result(1)
    assert (result.complete, result.value, list(result.outcomes)) == (True, None, [])


def test_counters_that_are_no_numbers_count_as_none(
    app: Celery, broker: BrokerServer, tmp_path: Path
) -> None:
    client_of(app).redis.hset("venom:counters", mapping={"completed": "x", "accepted": "y"})
    cli = Cli(broker.environment, tmp_path)
    assert json.loads(cli("queue", "stats", "--json").stdout)["tasks_completed"] == 0
    assert json.loads(cli("account", "--json").stdout)["accepted"] == 0


def test_a_key_of_another_type_is_told_in_a_sentence(app: Celery, broker: BrokerServer) -> None:
    client_of(app).redis.set("venom:ids", "foreign")
    with pytest.raises(HiveError, match="is of another type than Hive stores there"):
        asyncio.run(hive.MessageBroker(app).get_task_status("t"))
