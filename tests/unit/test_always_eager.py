"""Celery's `task_always_eager`: what runs in place, and what says that it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, _state, chord, group
from pydantic import BaseModel

import hive
from hive.broker.link.client import client_of
from hive.errors import HiveError, InvalidInputError
from hive.testing import kept_registry
from tests.harness import free_port
from tests.nodes import make_settings


class Parcel(BaseModel):
    content: str
    times: int = 1


@pytest.fixture
def app() -> Iterator[Celery]:
    """An application whose broker nobody answers for."""
    default, current = _state.default_app, _state._tls.current_app
    with kept_registry():
        app = Celery("eager")
        app.conf.task_always_eager = True
        yield hive.install(app, make_settings(redis_port=free_port(), hive_publish_timeout=0.1))
    client_of(app).close()
    app.conf.task_routes[0].close()
    _state.set_default_app(default)
    _state._set_current_app(current)


@pytest.fixture
def pack(app: Celery) -> Any:
    @hive.skill("Pack a parcel", name="eager_pack", input=Parcel)
    def eager_pack(content: str, times: int = 1) -> str:
        return f"[{content * times}]"

    return eager_pack


def test_a_skill_runs_in_place(app: Celery, pack: Any) -> None:
    assert pack.delay("tea").get() == "[tea]"
    assert pack.apply_async((), {"content": "tea", "times": "2"}).get() == "[teatea]"
    assert pack.s("tea").apply_async(countdown=60).get() == "[tea]"


def test_wishes_about_nodes_mean_nothing(app: Celery, pack: Any) -> None:
    wishes = {"requirements": {"gpu": True}, "affinity": "x", "priority": 9, "queue": "far"}
    assert pack.apply_async(("tea",), **wishes).get() == "[tea]"


def test_wrong_input_fails_the_task_as_it_does_on_a_spore(app: Celery, pack: Any) -> None:
    with pytest.raises(InvalidInputError, match="eager_pack cannot use its input"):
        pack.delay("tea", "often").get()


def test_canvas_runs_in_place(app: Celery, pack: Any) -> None:
    @app.task(shared=False)
    def joined(parts: list[str]) -> str:
        return "".join(parts)

    assert group(pack.s(part) for part in "ab").apply_async().get() == ["[a]", "[b]"]
    assert chord([pack.s("a"), pack.s("b")])(joined.s()).get() == "[a][b]"
    assert (pack.s("a") | pack.s(2)).apply_async().get() == "[[a][a]]"


def test_a_map_says_that_it_needs_a_broker_before_anything_is_sent(app: Celery, pack: Any) -> None:
    with pytest.raises(HiveError, match=r"hive\.map needs a broker.*hive\.testing\.cluster"):
        hive.map(pack, ["tea"])


def test_enqueue_task_says_that_it_needs_a_broker(app: Celery, pack: Any) -> None:
    broker = hive.MessageBroker(app)
    with pytest.raises(HiveError, match=r"enqueue_task needs a broker.*hive\.testing\.cluster"):
        asyncio.run(broker.enqueue_task("eager_pack", {"content": "tea"}))


@pytest.fixture
def parcel(app: Celery) -> Any:
    @hive.skill("Pack a parcel, slowly", name="eager_parcel", input=Parcel)
    async def eager_parcel(content: str, times: int = 1) -> str:
        await asyncio.sleep(0)
        return f"[{content * times}]"

    return eager_parcel


def test_an_async_skill_runs_in_place(app: Celery, parcel: Any) -> None:
    assert parcel.delay("tea").get() == parcel.apply(("tea",)).get() == "[tea]"
    assert group(parcel.s("tea"), parcel.s("pot"))().get() == ["[tea]", "[pot]"]


def test_so_it_does_where_a_loop_runs(app: Celery, parcel: Any) -> None:
    async def handler() -> Any:
        return parcel.delay("tea").get()

    assert asyncio.run(handler()) == "[tea]"


def test_who_calls_an_async_skill_like_a_function_awaits_it(app: Celery, parcel: Any) -> None:
    assert asyncio.run(parcel("tea")) == asyncio.run(parcel.run("tea", times=1)) == "[tea]"
    with pytest.raises(InvalidInputError):
        parcel("tea", times="many")


def test_an_async_generator_is_refused_when_its_task_is_made(app: Celery) -> None:
    @app.task
    async def eager_numbers() -> Any:
        yield 1

    with pytest.raises(InvalidInputError, match="eager_numbers is an async generator"):
        eager_numbers.delay()


def test_an_async_skill_runs_in_plain_celery_too() -> None:
    with kept_registry():
        app = Celery("plain", set_as_current=False)
        app.conf.task_always_eager = True
        app.conf.task_annotations = {"*": {"rate_limit": "9/s"}}
        hive.install(app, make_settings(enable_hive=False))

        @app.task
        async def eager_plain(content: str) -> str:
            await asyncio.sleep(0)
            return content

        assert eager_plain.delay("tea").get() == "tea"
        assert asyncio.run(eager_plain("tea")) == "tea"
        assert eager_plain.rate_limit == "9/s"
