"""Which application is meant where several are about, and whose settings hold in it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, _state, shared_task

import hive
from hive.applications import application, application_of, running_application
from hive.broker.link.client import client_of
from hive.broker.message_broker import MessageBroker
from hive.cli.cluster import cluster_of
from hive.errors import FetchError, HiveError, UnknownJobError
from hive.settings import Settings, settings_of
from hive.tasks.web import fetch
from hive.testing import kept_registry
from tests.harness import BrokerServer
from tests.nodes import make_settings
from tests.unit.page_server import page_server


@pytest.fixture(autouse=True)
def _celery_as_it_was() -> Iterator[None]:
    default, current = _state.default_app, _state._tls.current_app
    _state._set_current_app(None)
    with kept_registry():
        yield
    _state.set_default_app(default)
    _state._set_current_app(current)


def same(x: int) -> int:
    return x


def installed(name: str, settings: Settings | None = None, **options: Any) -> Celery:
    return hive.install(Celery(name, **options), settings or make_settings())


def in_a_thread(ask: Any) -> Any:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(ask()))
    thread.start()
    thread.join()
    return answers[0]


# -- a second, plain application


@pytest.mark.parametrize("chosen", ["current", "default", "both", "neither"])
def test_a_plain_application_beside_it_is_passed_over(chosen: str) -> None:
    own = installed("own")
    plain = Celery("plain", set_as_current=chosen in ("current", "both"))
    if chosen in ("default", "both"):
        plain.set_default()
    assert application() is MessageBroker().app is own
    assert in_a_thread(application) is own
    assert application(plain) is plain, "what is given is meant"


def test_a_plain_application_that_was_there_before_is_passed_over() -> None:
    Celery("plain").set_default()
    own = installed("own", set_as_current=False)
    assert application() is own


def test_without_any_installation_a_plain_current_application_leaves_the_ready_one() -> None:
    code = (
        "from celery import Celery; from hive.applications import application; Celery('plain'); "
        "print(application().main)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "hive"


def test_a_map_and_a_job_find_their_way_beside_a_plain_application(broker: BrokerServer) -> None:
    own = installed("own", Settings.load(redis_host="127.0.0.1", redis_port=broker.port))

    @own.task(name="applications.double")
    def double(x: int) -> int:
        return 2 * x

    @shared_task(name="applications.triple")
    def triple(x: int) -> int:
        return 3 * x

    Celery("plain").set_default()
    for skill in (double, triple, "fetch", fetch):
        made: Any = hive.map(skill, [1, 2])
        assert client_of(own).redis.exists(client_of(own).key("job", made.id, "state"))
        assert hive.job(made.id).progress().total == 2
        assert in_a_thread(lambda sent=made: hive.job(sent.id).progress().total) == 2
    client_of(own).close()


def test_a_task_of_a_plain_application_is_not_sent_by_another() -> None:
    installed("own")
    plain = Celery("plain")
    task = plain.task(name="applications.alone", shared=False)(same)
    with pytest.raises(HiveError, match=r"not installed in the application 'plain'"):
        hive.map(task, [1])


def test_a_skill_is_sent_by_the_application_that_is_meant() -> None:
    own = installed("own")
    Celery("plain")
    assert fetch.app is own
    assert in_a_thread(lambda: fetch.app) is own


# -- several hives


def test_a_map_goes_to_the_broker_of_its_tasks_application(
    broker: BrokerServer, tmp_path: Any
) -> None:
    other = BrokerServer(tmp_path / "other").start()
    try:
        first, second = (
            installed(f"hive-{server.port}", Settings.load(redis_port=server.port))
            for server in (broker, other)
        )
        task = first.task(name="applications.ours", shared=False)(same)
        assert application() is second
        job = hive.map(task, [1])
        assert hive.job(job.id, app=first).progress().total == 1
        with pytest.raises(UnknownJobError):
            hive.job(job.id)
        first.set_current()
        assert hive.job(job.id).progress().total == 1
    finally:
        for app in (first, second):
            client_of(app).close()
        other.kill()


def test_in_a_task_its_own_application_is_meant() -> None:
    first = installed("first")
    second = installed("second")

    @first.task(shared=False)
    def whose() -> tuple[Celery, Celery, Celery]:
        return application(), running_application(), fetch.app

    assert application() is second
    assert whose() == (first, first, first)


def test_a_tasks_own_application_comes_first_whatever_is_current() -> None:
    first, second = installed("first"), installed("second")
    task = first.task(name="applications.first", shared=False)(same)
    assert application_of(task) is first
    assert application_of(task.s(1)) is first
    assert application_of(task, second) is second
    assert application_of("fetch") is second


def test_a_command_sends_by_the_application_that_it_names(broker: BrokerServer) -> None:
    named = installed("named", Settings.load(redis_port=broker.port))
    installed("other")
    with cluster_of(named) as cluster:
        assert cluster.skill("fetch").task.app is named


def test_an_items_limit_is_that_of_its_application(broker: BrokerServer) -> None:
    named = Celery("named")
    named.conf.task_annotations = {fetch.name: {"soft_time_limit": 7}}
    hive.install(named, Settings.load(redis_port=broker.port))
    installed("other")
    job = hive.map("fetch", [1], app=named)
    assert job._plan.item_limit == 7
    client_of(named).close()


# -- settings


@pytest.mark.parametrize("enabled", [True, False])
def test_settings_given_to_install_hold_in_the_skills_that_the_application_runs(
    enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_, shut = (
        Settings.load(enable_hive=enabled, hive_fetch_allow_private=allowed)
        for allowed in (True, False)
    )
    first, second = installed("first", open_), installed("second", shut)
    monkeypatch.setenv("HIVE_FETCH_ALLOW_PRIVATE", "false")
    with page_server() as server:
        url = server.page("/a", b"<p>text</p>")
        answer = first.tasks[fetch.name].apply((url,)).get()
        assert answer["text"] == "<p>text</p>"
        monkeypatch.setenv("HIVE_FETCH_ALLOW_PRIVATE", "true")
        with pytest.raises(FetchError):
            second.tasks[fetch.name].apply((url,)).get()
    assert (settings_of(first), settings_of(second)) == (open_, shut)


def test_who_gave_no_settings_has_those_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = hive.install(Celery("own"))
    monkeypatch.setenv("HIVE_FETCH_ALLOW_PRIVATE", "true")
    assert settings_of(app).hive_fetch_allow_private
    assert settings_of(Celery("plain")).hive_fetch_allow_private


# -- installing


def test_threads_that_install_at_once_install_once() -> None:
    app = Celery("own")
    barrier = threading.Barrier(8)

    def install() -> None:
        barrier.wait()
        hive.install(app, make_settings())

    threads = [threading.Thread(target=install) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert app.hive_installation.router._own is None  # type: ignore[attr-defined]
    assert len(app.conf.task_queues) == 2
