"""The number of the stored format: who notes it, and who refuses to serve another one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery, group

import hive
from hive.broker.link.client import client_of
from hive.broker.link.format import FORMAT
from hive.broker.nodes.table import NodeTable
from hive.errors import StoredFormatError
from hive.settings import Settings
from tests.harness import BrokerServer, WorkerProcess, wait_until
from tests.integration.cluster import REPOSITORY
from tests.integration.test_cli import Cli
from tests.integration.test_nexus import Nexus

LIBRARY = REPOSITORY / "hive/broker/channel/lua/lib.lua"
KEY = "venom:format"


@pytest.fixture
def app(broker: BrokerServer) -> Iterator[Celery]:
    settings = Settings.load(redis_host="127.0.0.1", redis_port=broker.port)
    app = hive.install(Celery("formats"), settings)
    yield app
    client_of(app).close()


def test_lua_and_python_mean_the_same_format() -> None:
    assert f"local FORMAT = '{FORMAT.decode()}'" in LIBRARY.read_text()


def test_the_first_task_of_a_hive_notes_the_format(app: Celery, broker: BrokerServer) -> None:
    app.send_task("nobody.knows.it")
    assert broker.client().get(KEY) == FORMAT


def test_the_first_spore_of_a_hive_notes_the_format(broker: BrokerServer, tmp_path: Path) -> None:
    spore = WorkerProcess.celery(tmp_path, "first", env=broker.environment)
    try:
        wait_until(lambda: broker.client().get(KEY) == FORMAT, 30, "it is noted")
    finally:
        spore.kill()


@pytest.mark.parametrize("stored", [b"2", b"1.5", b"banana", b"", b"\xff\xfe", b"9" * 500])
def test_sending_to_a_hive_of_another_format_is_refused(
    app: Celery, broker: BrokerServer, stored: bytes
) -> None:
    client = broker.client()
    client.set(KEY, stored)
    with pytest.raises(StoredFormatError, match="serves 1 only") as refused:
        app.send_task("nobody.knows.it")
    assert (refused.value.exit_code, "\n" in refused.value.message) == (2, False)
    assert len(refused.value.message) < 300
    with pytest.raises(StoredFormatError):
        group(app.signature("nobody.knows.it") for _ in range(3)).apply_async()
    assert (client.hlen("venom:entries"), client.get(KEY)) == (0, stored)


def test_a_sender_refuses_also_when_the_format_changes_under_it(
    app: Celery, broker: BrokerServer
) -> None:
    app.send_task("nobody.knows.it")
    broker.client().set(KEY, 2)
    with pytest.raises(StoredFormatError, match="the format 2"):
        app.send_task("nobody.knows.it")


def test_reading_a_hive_of_another_format_is_refused(app: Celery, broker: BrokerServer) -> None:
    broker.client().set(KEY, 2)
    message_broker = hive.MessageBroker(app)
    for look in (
        lambda: asyncio.run(message_broker.get_task_status("id")),
        lambda: asyncio.run(message_broker.get_queue_stats()),
        lambda: hive.Foreman(message_broker).get_cluster_status(),
        lambda: asyncio.run(hive.Foreman(message_broker).start()),
        lambda: NodeTable(client_of(app)).read(),
        lambda: hive.job("0" * 32, app=app),
    ):
        with pytest.raises(StoredFormatError, match="the format 2"):
            look()


def test_a_key_of_another_type_is_no_format(app: Celery, broker: BrokerServer) -> None:
    client = broker.client()
    client.hset(KEY, "a", "b")
    app.send_task("nobody.knows.it")
    assert NodeTable(client_of(app)).read() == {}
    assert (client.hlen("venom:entries"), client.hgetall(KEY)) == (1, {b"a": b"b"})
    assert client.llen("venom:aside") == 1


@pytest.mark.parametrize(
    "command", ["status", "account", "node list", "queue stats", "dead list", "job 0123", "nexus"]
)
def test_commands_say_so_in_one_sentence(
    broker: BrokerServer, tmp_path: Path, command: str
) -> None:
    broker.client().set(KEY, 2)
    cli = Cli({**broker.environment, "NEXUS_PORT": "0"}, tmp_path)
    done = cli(*command.split(), code=2)
    assert done.stderr.startswith("hive: The hive's data has the format 2, and this release")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("supervised", [False, True])
def test_a_spore_says_so_and_is_not_started_again(
    broker: BrokerServer, tmp_path: Path, *, supervised: bool
) -> None:
    broker.client().set(KEY, 2)
    if supervised:
        command = (sys.executable, "-m", "hive", "spore", "--name", "s", "--concurrency", "1")
        spore = WorkerProcess(tmp_path / "s.log", *command, env=broker.environment)
    else:
        spore = WorkerProcess.celery(tmp_path, "s", env=broker.environment)
    try:
        assert spore.process.wait(40) == 2
    except subprocess.TimeoutExpired:
        pytest.fail(spore.output())
    finally:
        spore.kill()
    said = spore.output()
    assert "event=worker_cannot_start" in said
    assert "The hive's data has the format 2" in said
    assert "Traceback" not in said
    assert broker.client().keys("venom:*") == [KEY.encode()]


def test_the_health_page_says_so(broker: BrokerServer, tmp_path: Path) -> None:
    nexus = Nexus(tmp_path, broker).listening()
    try:
        wait_until(lambda: nexus.health()[0] == 200)
        broker.client().set(KEY, 2)
        status, health = nexus.health()
        assert (status, health["broker_reachable"]) == (503, True)
        assert "the format 2" in health["refused"]
    except urllib.error.URLError:
        pytest.fail(nexus.process.output())
    finally:
        nexus.process.kill()
