"""`hive flower` as a process: who may come in, what it keeps, what it waits for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from celery import Celery

import hive
from hive.broker.link.client import client_of
from hive.settings import Settings
from tests.harness import BrokerServer, wait_until
from tests.integration.cluster import REPOSITORY, Cluster
from tests.integration.flowers import FlowerProcess
from tests.integration.jobs import add_numbers

QUICK = "state_save_interval = 300\npurge_offline_workers = 1\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.close()


def refused(directory: Path, *options: str, **environment: str) -> str:
    """What a Flower says that ends with 2; it is one sentence on one line."""
    done = subprocess.run(
        [sys.executable, "-m", "hive", "flower", *options],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("hive: ")
    return done.stderr


@pytest.mark.slow
def test_a_flower_keeps_what_it_saw_and_is_alone_with_it(cluster: Cluster, tmp_path: Path) -> None:
    quick = tmp_path / "quick.py"
    quick.write_text(QUICK)
    environment, options = cluster.server.environment, ("--config=quick.py",)
    first = FlowerProcess(tmp_path, environment, *options)
    second = None
    try:
        cluster.spawn("a")
        cluster.wait_online("a")
        wait_until(lambda: first.workers().get("a@h"), what="the spore is shown")
        task = _run_until_seen(cluster, first)
        database = _database(first.home)
        wait_until(lambda: task.encode() in database.read_bytes(), what="it is saved")
        assert first.home.joinpath("flower").stat().st_mode & 0o777 == 0o700
        assert "Another hive flower keeps" in refused(
            tmp_path, "--port=0", HIVE_HOME=str(first.home), **environment
        )

        first.process.kill(signal.SIGKILL)
        second = FlowerProcess(tmp_path, environment, *options)
        assert second.states()[task] == "SUCCESS"

        another = _run_until_seen(cluster, second)
        assert second.process.stop() == 0
        assert "Traceback" not in second.process.output()
        assert another.encode() in database.read_bytes()

        database.write_bytes(b"no database" * 100)
        second = FlowerProcess(tmp_path, environment, *options)
        assert second.states() == {}
        said = [line for line in second.process.output().splitlines() if "moving it aside" in line]
        assert len(said) == 1
        assert database.with_name(f"{database.name}.corrupt").exists()
    finally:
        first.process.kill()
        if second is not None:
            second.process.kill()


def _run_until_seen(cluster: Cluster, flower: FlowerProcess) -> str:
    """Run tasks until Flower has seen one to its end: spores tell of tasks once they are asked to.

    Returns: the task's id.
    """

    def seen() -> str:
        task = cluster.app.send_task(add_numbers.name, (1, 2))
        assert task.get(timeout=30) == 3
        return str(task.id) if flower.states().get(task.id) == "SUCCESS" else ""

    return wait_until(seen, what="a task is seen")


def _database(home: Path) -> Path:
    """The file of the database's rows; one of Python's kinds has it in several."""
    named = home / "flower"
    (found,) = (
        path
        for path in named.iterdir()
        if path.suffix not in (".lock", ".dir", ".bak") and path.is_file()
    )
    return found


def test_a_broker_that_is_away_is_waited_for_and_used_again(tmp_path: Path) -> None:
    server = BrokerServer(tmp_path / "broker")
    settings = Settings.load(redis_host="127.0.0.1", redis_port=server.port)
    app = hive.install(Celery("away", set_as_current=False), settings)
    flower = FlowerProcess(tmp_path, server.environment)
    try:
        assert flower.ask("workers")[0] == 200
        assert "event=flower_waits_for_broker" in flower.process.output()
        assert flower.ask("api/queues/length")[0] == 503
        for worker in ("first@h", "second@h"):
            server.start()
            wait_until(
                lambda: flower.ask("api/queues/length")[0] == 200, what="the queues are shown"
            )
            wait_until(partial(_is_heard, app, flower, worker), what=f"{worker} is heard")
            server.kill()
            assert flower.ask("broker")[0] == 200
        # While threads of Flower's still try to reach it.
        flower.process.process.terminate()
        assert flower.process.process.wait(20) == 0
        said = flower.process.output()
        assert "event=flower_stopped" in said
        assert "Traceback" not in said
    finally:
        flower.process.kill()
        client_of(app).close()
        server.kill()


def _is_heard(app: Celery, flower: FlowerProcess, worker: str) -> bool:
    """Whether Flower sees a worker that says now that it lives."""
    with app.connection_for_write() as connection:
        app.events.Dispatcher(connection, hostname=worker).send("worker-heartbeat", freq=2)
    return worker in flower.workers()


def test_without_a_password_only_this_machine_is_answered(cluster: Cluster, tmp_path: Path) -> None:
    flower = FlowerProcess(tmp_path, cluster.server.environment, password="")
    try:
        assert flower.ask("workers")[0] == 200
        port = flower.url.rpartition(":")[2].strip("/")
        assert flower.ask("workers", headers={"Host": f"localhost:{port}"})[0] == 200
        status, said = flower.ask("workers", headers={"Host": f"rebound.example:{port}"})
        assert (status, "HIVE_FLOWER_PASSWORD" in said) == (403, True)
    finally:
        assert flower.process.stop() == 0


def test_nothing_is_shown_without_the_login_and_nothing_is_done_with_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    orders = ("api/worker/shutdown/a@h", "api/task/revoke/some-task", "api/task/apply/add_numbers")
    flower = FlowerProcess(tmp_path, cluster.server.environment)
    try:
        for order in orders:
            assert flower.ask(order, method="POST", login=None)[0] == 401
            assert flower.ask(order, method="POST")[0] == 403
        for page in (
            "",
            "workers",
            "tasks",
            "broker",
            "api/tasks",
            "metrics",
            "static/favicon.ico",
        ):
            assert flower.ask(page, login=None)[0] == 401, page
            assert flower.ask(page, login=f"hive:{flower.password}?")[0] == 401, page
            assert flower.ask(page)[0] == 200, page
        assert flower.ask("healthcheck", login=None) == (200, "OK")
        shown = Path(f"/proc/{flower.process.pid}/cmdline").read_bytes().decode()
        assert flower.password not in shown + flower.process.output()
    finally:
        assert flower.process.stop() == 0


def test_what_may_write_revokes_a_task(cluster: Cluster, tmp_path: Path) -> None:
    flower = FlowerProcess(tmp_path, cluster.server.environment, "--read-write")
    try:
        assert flower.ask("api/task/revoke/some-task", method="POST")[0] == 200
        with cluster.server.client() as client:
            assert client.zscore("venom:revoked", "some-task")
        elsewhere = {"Sec-Fetch-Site": "cross-site"}
        assert flower.ask("api/task/revoke/x", method="POST", headers=elsewhere)[0] == 403
    finally:
        assert flower.process.stop() == 0


def test_a_port_that_is_taken_is_told(cluster: Cluster, tmp_path: Path) -> None:
    port = cluster.server.port
    done = subprocess.run(
        [sys.executable, "-m", "hive", "flower", f"--port={port}", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **cluster.server.environment},
    )
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert f"Port {port} of 127.0.0.1 is taken" in json.loads(done.stdout)["error"]
