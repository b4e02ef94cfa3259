"""Data that looks like the marks of kombu's JSON is carried as it is, wherever it travels."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, _state, chain, chord
from celery.exceptions import NotRegistered
from kombu import serialization

import hive
from hive.broker.ledger.records import TaskRecords
from hive.broker.link.client import client_of
from hive.broker.message_broker import MessageBroker
from tests.integration import map_skills as skills
from tests.integration.map_cluster import MapCluster, map_cluster


def marked(kind: Any, value: Any = 1) -> dict[str, Any]:
    return {"__type__": kind, "__value__": value}


DATA: dict[str, Any] = {
    "a type of nobody": marked("nobodys"),
    "a type of kombu's": marked("datetime", "2026-01-01T00:00:00"),
    "one whose value is none": marked("uuid", {"hex": 7}),
    "a type that is no text": marked([1], None),
    "the type by which it travels": marked("hive.dict", [1, 2]),
    "one in another": marked(marked("bytes", "b"), [marked("date", "soon")]),
    "beside what kombu marks": [
        marked("x"),
        datetime(2026, 1, 2, tzinfo=UTC),
        uuid.UUID(int=7),
        Decimal("1.50"),
        b"\xff",
    ],
    "among many": {"rows": [{"n": 1}, marked("x"), {"deep": [{"er": marked("y")}]}]},
    "the text of one": '{"__type__": "nobodys", "__value__": 1}',
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MapCluster]:
    with map_cluster(tmp_path_factory.mktemp("carried"), "one") as cluster:
        yield cluster


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_arguments_and_results_come_as_they_were_sent(cluster: MapCluster, data: Any) -> None:
    sent = skills.echo.delay(data)
    assert sent.get(timeout=30) == data
    assert sent.args == [data], "and are kept so"
    assert skills.echo.apply_async(kwargs={"value": data}).get(timeout=30) == data


def test_named_arguments_may_have_these_names(cluster: MapCluster) -> None:
    sent = skills.named.apply_async(kwargs=marked("nobodys", 7))
    assert sent.get(timeout=30) == marked("nobodys", 7)


def test_they_go_through_a_canvas(cluster: MapCluster) -> None:
    data = marked("nobodys", marked("date", "soon"))
    parts = chain(skills.echo.s(data), skills.echo.s(), skills.echo.s())
    assert parts.apply_async().get(timeout=30) == data
    together = chord([skills.echo.s(data), skills.echo.s([data])])(skills.echo.s())
    assert together.get(timeout=30) == [data, [data]]
    later = chain(skills.echo.si(1), skills.echo.si(data)).apply_async(countdown=0.1)
    assert later.get(timeout=30) == data


def test_a_stamp_may_be_one(cluster: MapCluster) -> None:
    stamped = skills.echo.s(1)
    stamped.stamp(who=marked("nobodys"))
    assert stamped.apply_async().get(timeout=30) == 1


def test_items_and_outcomes_may_be_such(cluster: MapCluster) -> None:
    items = [*DATA.values(), *range(10)]
    result = hive.map(skills.echo, items, "list", app=cluster.app).result(60)
    assert [outcome.value for outcome in result.outcomes] == items
    assert result.value == items
    kept = hive.map(skills.echo, items, skills.echo, app=cluster.app).result(60)
    assert kept.value == items


def test_a_record_has_them_while_the_task_waits_and_after(cluster: MapCluster) -> None:
    data, records = marked("nobodys"), TaskRecords(cluster.app)
    later = skills.echo.apply_async((data,), countdown=600)
    waiting = records.read(later.id)
    assert waiting is not None
    assert waiting.payload == {"args": [data]}
    later.revoke()
    broker = MessageBroker(cluster.app)
    hive.skill("Say it again", name="carried_echo")(say)
    task_id = asyncio.run(broker.enqueue_task("carried_echo", {"x": data}, task_id="carried"))
    with pytest.raises(NotRegistered):
        cluster.app.AsyncResult(task_id).get(timeout=30)
    asyncio.run(broker.update_task_status(task_id, "completed", result=data))
    ended = asyncio.run(broker.get_task_status(task_id))
    assert ended is not None
    assert (ended.payload, ended.result) == ({"x": data}, data)


def test_the_arguments_of_a_command_may_be_such(cluster: MapCluster) -> None:
    broker = MessageBroker(cluster.app)
    replies = asyncio.run(broker.broadcast_control("PING", {"x": marked("nobodys")}))
    assert replies["one@h"] == {"ok": "pong"}


def test_a_result_backend_of_ones_own_keeps_them(cluster: MapCluster, tmp_path: Path) -> None:
    app = Celery("own", backend=f"file://{tmp_path}", set_as_current=False)
    default = _state.default_app
    app.conf.result_serializer = "json"
    with pytest.warns(UserWarning, match="hive.install: result_backend stays your own [^;]*$"):
        hive.install(app, cluster.settings)
    _state.set_default_app(default)
    with closing(client_of(app)):
        app.backend.store_result("kept", [*DATA.values()], "SUCCESS")
        assert app.AsyncResult("kept").get(timeout=10) == [*DATA.values()]


@pytest.fixture
def own_json() -> Iterator[None]:
    """A program that has registered another "json", which knows no marks."""
    registry: Any = serialization.registry  # type: ignore[attr-defined]
    before = registry._encoders["json"], registry._decoders["application/json"]
    serialization.register(
        "json", lambda value: json.dumps(value).encode(), json.loads, "application/json"
    )
    yield
    registry._encoders["json"], registry._decoders["application/json"] = before


@pytest.mark.usefixtures("own_json")
def test_a_programs_own_json_writes_and_reads_its_messages(cluster: MapCluster) -> None:
    data = {"when": marked("nobodys"), "text": "ä"}
    sent = skills.echo.apply_async((data,), countdown=600)
    waiting = TaskRecords(cluster.app).read(sent.id)
    sent.revoke()
    assert waiting is not None
    assert waiting.payload == {"args": [data]}
    assert skills.echo.delay({"text": "ä"}).get(timeout=30) == {"text": "ä"}


def say(x: Any) -> Any:
    return x
