"""What `hive.install` makes of an application, and what it leaves as it was."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, _state
from kombu import Exchange, Queue

import hive
from hive.broker.channel.entries import Entry
from hive.broker.channel.time_limits import LIFTED
from hive.broker.link.client import BrokerClient, client_of
from hive.errors import HiveError, SettingsError
from hive.settings import Settings
from tests.harness import BrokerServer
from tests.nodes import BACKGROUND, HIGH, make_settings

REPOSITORY = Path(__file__).parents[2]
ADDRESS = "redis://broker.example:6379/3"


@pytest.fixture(autouse=True)
def _celery_as_it_was() -> Iterator[None]:
    """Installing makes an application Celery's default."""
    default, current = _state.default_app, getattr(_state._tls, "current_app", None)
    yield
    _state.set_default_app(default)
    _state._set_current_app(current)


def install(
    broker: str | None = ADDRESS, *, settings: Settings | None = None, **conf: Any
) -> tuple[Celery, list[str]]:
    """An installed application and the warnings that this gave."""
    app = Celery("mine", broker=broker)
    app.conf.update(conf)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert hive.install(app, settings or make_settings()) is app
    return app, [str(warning.message) for warning in caught]


def run_python(code: str, *, env: Mapping[str, str] | None = None) -> Any:
    """What a program of its own prints as JSON in its last line."""
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "", **(env or {})}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def names(queues: Any) -> list[str]:
    return [queue.name for queue in queues]


# -- what the hive brings


def test_an_application_without_configuration_gets_all_of_the_hive_silently() -> None:
    app, told = install(None)
    assert told == []
    conf = app.conf
    assert (conf.broker_url, conf.broker_transport) == (
        "redis://localhost:6379/0",
        "hive.broker.channel.transport:Transport",
    )
    assert conf.result_backend == "hive.broker.results.backend:Backend+redis://localhost:6379/0"
    assert (names(conf.task_queues), conf.task_default_queue) == ([HIGH, BACKGROUND], BACKGROUND)
    assert (conf.task_serializer, conf.result_serializer, conf.accept_content) == (
        "json",
        "json",
        ["json"],
    )
    assert conf.result_compression is None
    assert (
        conf.task_acks_late,
        conf.task_reject_on_worker_lost,
        conf.task_track_started,
        conf.result_extended,
    ) == (True,) * 4
    assert (conf.worker_prefetch_multiplier, conf.task_soft_time_limit, conf.task_time_limit) == (
        1,
        300,
        330,
    )
    assert conf.control_exchange == "venom:broadcast"
    assert app.connection_for_write().transport.driver_type == "redis"
    assert conf.result_expires, "results have a time to live"


def test_settings_become_configuration() -> None:
    settings = make_settings(
        redis_host="h",
        hive_task_timeout=10.0,
        hive_concurrency=3,
        hive_high_priority_queue="now",
        hive_broadcast_channel="all",
    )
    conf = install(None, settings=settings)[0].conf
    assert conf.broker_url == "redis://h:6379/0"
    assert (conf.task_soft_time_limit, conf.task_time_limit, conf.worker_concurrency) == (10, 11, 3)
    assert (names(conf.task_queues), conf.control_exchange) == (["now", BACKGROUND], "all")


def test_the_applications_own_address_is_the_hives() -> None:
    app, told = install()
    assert client_of(app).url == app.conf.broker_url == ADDRESS
    assert told == []


@pytest.mark.parametrize(
    "address", ["amqp://h//", "sqs://", "rediss://h:6379/0", "memory://", ["amqp://h//", ADDRESS]]
)
def test_another_broker_than_redis_is_refused(address: Any) -> None:
    with pytest.raises(SettingsError, match=r"Hive needs redis://host:port/db"):
        install(address)


def test_a_refused_address_is_not_printed_with_its_password() -> None:
    with pytest.raises(SettingsError) as caught:
        install("amqp://user:hunter2@h//")
    assert "hunter2" not in str(caught.value)


def test_who_did_not_install_is_told_so() -> None:
    with pytest.raises(HiveError, match=r"call hive\.install\(app\) first"):
        client_of(Celery("other", set_as_current=False))


# -- what the application had


def test_what_the_application_configured_wins_with_one_warning_naming_every_conflict() -> None:
    own = {
        "task_track_started": False,
        "worker_prefetch_multiplier": 8,
        "task_soft_time_limit": None,
        "result_extended": True,
    }
    app, [told] = install(**own)
    assert {name: app.conf[name] for name in own} == own
    conflicts = (
        "task_track_started stays False (Hive's is True)",
        "task_soft_time_limit stays None (Hive's is 300.0)",
    )
    stays = "worker_prefetch_multiplier stays 8 (Hive's is 1)"
    assert told == f"hive.install: {'; '.join(conflicts)}; {stays}."


def test_serializer_and_acknowledgement_give_way_with_a_warning() -> None:
    app, told = install(
        task_serializer="pickle",
        result_serializer="yaml",
        result_compression="gzip",
        accept_content=["pickle", "json"],
        task_acks_late=False,
        task_reject_on_worker_lost=False,
    )
    conf = app.conf
    assert (conf.task_serializer, conf.result_serializer, conf.accept_content) == (
        "json",
        "json",
        ["json"],
    )
    assert conf.result_compression is None
    assert (conf.task_acks_late, conf.task_reject_on_worker_lost) == (True, True)
    assert len(told) == 1
    for fragment in (
        "task_serializer becomes 'json' (was 'pickle')",
        "result_serializer becomes",
        "accept_content becomes",
    ):
        assert fragment in told[0]
    for fragment in (
        "task_acks_late becomes True (was False)",
        "task_reject_on_worker_lost becomes True (was False)",
    ):
        assert fragment in told[0]


def test_configuration_from_an_object_counts_as_the_applications_own() -> None:
    app = Celery("mine")
    app.config_from_object(
        {"CELERY_BROKER_URL": ADDRESS, "CELERY_TASK_TIME_LIMIT": 5}, namespace="CELERY"
    )
    with pytest.warns(UserWarning, match=r"task_time_limit stays 5 \(Hive's is 330\.0\)"):
        hive.install(app, make_settings())
    assert (app.conf.broker_url, app.conf.task_time_limit) == (ADDRESS, 5)


def test_an_own_result_backend_stays_and_its_address_is_not_printed() -> None:
    app, told = install(result_backend="redis://:hunter2@results:6379/1")
    assert app.conf.result_backend == "redis://:hunter2@results:6379/1"
    assert len(told) == 1
    assert "result_backend stays your own" in told[0]
    assert "hunter2" not in told[0]


def test_celerys_own_environment_variables_count_as_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", ADDRESS)
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://results:6379/1")
    app, told = install(None)
    assert client_of(app).url == app.conf.broker_url == ADDRESS
    assert app.conf.result_backend == "redis://results:6379/1"
    assert len(told) == 1


def test_own_queues_are_kept_beside_the_hives() -> None:
    video = Queue("video", Exchange("media", type="topic"), routing_key="video.#")
    own = Queue(HIGH, Exchange("special"), routing_key="special")
    app, told = install(task_queues=[video, own], task_default_queue="video")
    assert told == []
    assert app.conf.task_queues == [
        video,
        own,
        Queue(BACKGROUND, Exchange(BACKGROUND, type="direct"), routing_key=BACKGROUND),
    ]
    assert app.conf.task_default_queue == "video"
    assert list(app.amqp.queues.consume_from) == ["video", HIGH, BACKGROUND]


@pytest.mark.parametrize("name", ["jobs", "celery"])
def test_an_own_default_queue_is_kept_and_consumed(name: str) -> None:
    app, told = install(task_default_queue=name)
    assert told == []
    assert app.conf.task_default_queue == name
    assert list(app.amqp.queues.consume_from) == [HIGH, BACKGROUND, name]


def test_failures_are_kept_as_long_as_the_application_says(broker: BrokerServer) -> None:
    app, _ = install(broker_url=broker.url, result_expires=60, result_failure_expires=600)
    app.backend.store_result("done", 1, "SUCCESS")
    app.backend.store_result("broken", KeyError("x"), "FAILURE")
    with broker.client() as client:
        assert (
            0
            < client.ttl("celery-task-meta-done")
            <= 60
            < client.ttl("celery-task-meta-broken")
            <= 600
        )


@pytest.mark.parametrize(
    "own",
    [
        {"*": {"rate_limit": "1/s"}},
        {"mine.add": {"rate_limit": "1/s"}},
        [{"mine.add": {"rate_limit": "1/s"}}],
    ],
)
def test_own_annotations_are_kept_beside_the_hives(own: Any) -> None:
    app, told = install(task_annotations=own)
    assert told == []
    add = task_of(app)
    assert (add.rate_limit, add.Request) == ("1/s", "hive.spore.request:Request")


def task_of(app: Celery, **options: Any) -> Any:
    @app.task(name="mine.add", shared=False, **options)
    def add() -> None: ...

    return add


@pytest.mark.parametrize(
    ("declared", "annotated", "limits"),
    [
        ({}, {}, (300, 330)),
        ({"time_limit": 60}, {}, (60, 60)),
        ({"time_limit": 400}, {}, (300, 400)),
        ({"soft_time_limit": 60}, {}, (60, 330)),
        ({"soft_time_limit": 3600}, {}, (3600, 3630)),
        ({"soft_time_limit": 5, "time_limit": 9}, {}, (5, 9)),
        ({"soft_time_limit": 0, "time_limit": 0}, {}, (LIFTED, LIFTED)),
        ({"soft_time_limit": 0}, {}, (LIFTED, LIFTED + 30)),
        ({"time_limit": 0}, {}, (300, LIFTED)),
        ({}, {"mine.add": {"time_limit": 60}}, (60, 60)),
        ({"time_limit": 60}, {"*": {"soft_time_limit": 20}}, (20, 60)),
    ],
)
def test_a_limit_that_a_task_declares_wins_over_the_hives_other_one(
    broker: BrokerServer,
    declared: dict[str, Any],
    annotated: dict[str, Any],
    limits: tuple[Any, Any],
) -> None:
    """Celery refuses to send a task whose soft limit is above its hard one."""
    app, _ = install(broker.url, task_annotations=annotated)
    add = task_of(app, **declared)
    app.finalize()
    assert (add.soft_time_limit, add.time_limit) == limits
    add.apply_async()
    assert sent_limits(broker) == limits


@pytest.mark.parametrize(
    ("call", "limits"),
    [
        ({}, (300, 330)),
        ({"time_limit": 60}, (60, 60)),
        ({"soft_time_limit": 3600}, (3600, 3630)),
        ({"soft_time_limit": 9, "time_limit": 5}, (9, 5)),
        ({"soft_time_limit": 0, "time_limit": 0}, (LIFTED, LIFTED)),
    ],
)
def test_a_limit_that_a_call_gives_wins_over_the_hives_other_one(
    broker: BrokerServer, call: dict[str, Any], limits: tuple[Any, Any]
) -> None:
    """Celery's pool would look at the hard one only when the soft one has passed."""
    app, _ = install(broker.url)
    task_of(app).apply_async(**call)
    assert sent_limits(broker) == limits
    with broker.client() as client:
        client.flushall()
    app.send_task("somebodys.task", **call)
    assert sent_limits(broker) == (limits if call else (None, None)), (
        "by name: what is not given is the task's own"
    )


def test_a_limit_that_was_lifted_is_told_as_such(broker: BrokerServer) -> None:
    """The watchdog takes a task without limit for no zombie."""
    app, _ = install(broker.url, task_time_limit=None, task_soft_time_limit=None)
    task_of(app).apply_async()
    assert sent_limits(broker) == (None, 0)


def sent_limits(broker: BrokerServer) -> tuple[Any, Any]:
    [entry] = read_entries(broker).values()
    hard, soft = entry.headers["timelimit"]
    return soft, hard


def test_transport_options_and_imports_are_merged() -> None:
    app, told = install(
        broker_transport_options={"global_keyprefix": "tenant:"}, imports=["mine.tasks"]
    )
    assert told == []
    assert (
        app.conf.broker_transport_options["global_keyprefix"] == client_of(app).prefix == "tenant:"
    )
    assert app.conf.imports[0] == "mine.tasks"
    assert "hive.tasks.web" in app.conf.imports


def test_results_keys_get_the_same_prefix_unless_they_have_their_own() -> None:
    app, told = install(broker_transport_options={"global_keyprefix": "tenant:"})
    assert app.backend.get_key_for_task("x") == b"tenant:celery-task-meta-x"
    other, _ = install(
        broker_transport_options={"global_keyprefix": "tenant:"},
        result_backend_transport_options={"global_keyprefix": "results:"},
    )
    assert other.backend.get_key_for_task("x") == b"results:celery-task-meta-x"
    assert told == []


def test_installing_twice_is_harmless() -> None:
    app, _ = install()
    client, routes = client_of(app), app.conf.task_routes
    queues = list(app.conf.task_queues)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hive.install(app, make_settings(redis_host="elsewhere"))
    assert client_of(app) is client
    assert (app.conf.task_routes, app.conf.task_queues) == (routes, queues)


def test_publishing_is_prepared_once_however_many_applications_are_installed(
    broker: BrokerServer,
) -> None:
    app, _ = install(broker.url)
    other, _ = install(broker.url)
    app.send_task("mine.add", task_id="one")
    other.send_task("mine.add", task_id="two")
    entries = read_entries(broker)
    assert sorted(entry.task_id for entry in entries.values()) == ["one", "two"]


def test_other_applications_of_the_process_stay_as_they_are(broker: BrokerServer) -> None:
    install(broker.url)
    plain = Celery("plain", broker=broker.url, set_as_current=False)
    plain.send_task("their.add", countdown=60, priority=None)
    with broker.client() as client:
        message = json.loads(client.lindex("celery", 0))
    assert message["headers"]["eta"]
    assert "hive" not in message["headers"]


def test_what_was_sent_before_installing_does_not_keep_the_application_from_it(
    broker: BrokerServer,
) -> None:
    app = Celery("mine", broker=broker.url)
    app.send_task("mine.add", task_id="before")
    hive.install(app, make_settings())
    app.send_task("mine.add", task_id="after")
    assert [entry.task_id for entry in read_entries(broker).values()] == ["after"]


def read_entries(broker: BrokerServer) -> dict[str, Entry]:
    with broker.client() as client:
        return {
            raw.decode(): Entry.unpack(raw.decode(), packed)
            for raw, packed in client.hgetall("venom:entries").items()
        }


# -- ENABLE_HIVE=false


def test_a_disabled_hive_leaves_plain_celery(broker: BrokerServer) -> None:
    app, told = install(
        None,
        settings=make_settings(enable_hive=False, redis_host="127.0.0.1", redis_port=broker.port),
    )
    assert told == []
    assert not isinstance(getattr(app, "hive", None), BrokerClient)
    assert (app.conf.broker_url, app.conf.broker_transport, app.conf.task_routes) == (
        broker.url,
        None,
        None,
    )
    assert (app.conf.task_default_queue, app.conf.task_acks_late) == ("celery", False)
    app.send_task("mine.add", countdown=60)
    with broker.client() as client:
        assert client.llen("celery") == 1
        assert client.keys("venom:*") == []
        assert json.loads(client.lindex("celery", 0))["headers"]["eta"]


def test_a_disabled_hive_works_with_any_broker_and_touches_nothing() -> None:
    app, told = install(
        "amqp://h//", settings=make_settings(enable_hive=False), task_serializer="yaml"
    )
    assert told == []
    assert (app.conf.broker_url, app.conf.result_backend, app.conf.task_serializer) == (
        "amqp://h//",
        None,
        "yaml",
    )


# -- whose application shared tasks belong to

WHOSE = """
import json, threading
from celery import Celery, shared_task, current_app
answers = []
def whose():
    answers.append(current_app.main)
    thread = threading.Thread(target=lambda: answers.append(current_app.main))
    thread.start(); thread.join()
"""


def test_importing_hive_does_not_take_the_place_of_an_application_and_installing_does() -> None:
    code = (
        WHOSE
        + "mine = Celery('mine'); import hive; whose(); hive.install(mine); whose(); "
        + "print(json.dumps(answers))"
    )
    assert run_python(code) == ["mine", "hive", "mine", "mine"], (
        "(here, in another thread) before and after"
    )


def test_a_ready_application_is_the_default_of_who_has_none() -> None:
    assert run_python(WHOSE + "import hive; whose(); print(json.dumps(answers))") == [
        "hive",
        "hive",
    ]


@pytest.mark.parametrize("enabled", ["true", "false"])
def test_importing_a_skill_is_enough_to_send_it(broker: BrokerServer, enabled: str) -> None:
    code = (
        "import json\nfrom hive.tasks.web import summarize\n"
        "print(json.dumps(summarize.delay('http://a.example').id))"
    )
    task_id = run_python(code, env={**broker.environment, "ENABLE_HIVE": enabled})
    with broker.client() as client:
        if enabled == "false":
            assert json.loads(client.lindex("celery", 0))["headers"]["id"] == task_id
            return
        assert client.llen(f"{BACKGROUND}\x06\x165") == 1
    [entry] = read_entries(broker).values()
    assert (entry.task_id, entry.home, entry.body()[0]) == (
        task_id,
        BACKGROUND,
        ["http://a.example"],
    )


def test_a_wrong_setting_stops_the_program_with_one_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import hive; hive.app"],
        env={"PYTHONPATH": str(REPOSITORY), "REDIS_PORT": "abc"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "REDIS_PORT cannot be 'abc'" in done.stderr.splitlines()[-1]
