"""`hive health`, asked of real supervisors and a real nexus."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.harness import BrokerServer, WorkerProcess, wait_until
from tests.integration.cluster import REPOSITORY
from tests.integration.test_nexus import Nexus

SPORE = (sys.executable, "-m", "hive", "spore", "--concurrency", "1", "--name", "s")


class Asked:
    """What `hive health` says of a HIVE_HOME."""

    def __init__(self, home: Path) -> None:
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "HIVE_ENV_FILE"},
            "HIVE_HOME": str(home),
            "PYTHONPATH": str(REPOSITORY),
        }
        self.home = home

    def __call__(self, *arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "hive", "health", *arguments],
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=self.home.parent,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    def state(self) -> str:
        code, said = self("--json")
        return "" if code == 2 else str(json.loads(said.splitlines()[0])[0]["state"])


@pytest.fixture
def health(tmp_path: Path) -> Asked:
    (tmp_path / "home").mkdir()
    return Asked(tmp_path / "home")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BrokerServer]:
    made = BrokerServer(tmp_path / "broker").start()
    yield made
    made.kill()


def spore(health: Asked, **variables: str) -> WorkerProcess:
    return WorkerProcess(
        health.home.parent / "s.log", *SPORE, env=health.environment | variables, cwd=REPOSITORY
    )


def test_of_a_spore_from_its_start_to_its_end(health: Asked, server: BrokerServer) -> None:
    assert health()[0] == 2
    process = spore(health, HIVE_DRAIN_TIMEOUT="2", **server.environment)
    try:
        wait_until(lambda: health.state() == "starting", what="it starts")
        assert (health()[0], health("--ready")[0]) == (0, 1)
        wait_until(lambda: health.state() == "working", what="it takes work")
        assert health("s", "--ready") == (0, f"spore s@{os.uname().nodename} takes work.\n")
        # Its broker is away: that is nothing that a restart would mend.
        server.kill()
        wait_until(lambda: health.state() == "waiting", what="it waits for its broker")
        code, said = health("--ready")
        assert (code, f"127.0.0.1:{server.port}" in said) == (0, True)
        server.start()
        wait_until(lambda: health.state() == "working", what="it takes work again")
        # Drained, it is well and not ready.
        drain = [sys.executable, "-m", "hive", "node", "drain", "s"]
        subprocess.run(drain, env=health.environment | server.environment, check=True)
        wait_until(lambda: health.state() == "draining", what="it drains")
        assert (health()[0], health("--ready")[0]) == (0, 1)
        assert process.stop() == 0
        assert health()[0] == 2
    finally:
        process.kill()


def test_of_a_spore_without_hive(health: Asked, server: BrokerServer) -> None:
    process = spore(health, ENABLE_HIVE="false", **server.environment)
    try:
        wait_until(lambda: health("--ready")[0] == 0, what="it runs")
        assert process.stop() == 0
    finally:
        process.kill()
        end_all_of(health.home)


def end_all_of(home: Path) -> None:
    """A plain worker does not hear of its supervisor's end; its HIVE_HOME is this test's alone."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("HIVE_HOME") == str(home):
                process.kill()


def test_of_a_spore_whose_broker_does_not_let_it_in(health: Asked, tmp_path: Path) -> None:
    server = BrokerServer(tmp_path / "broker", password="right").start()
    process = spore(health, **server.environment | {"REDIS_PASSWORD": "wrong"})
    try:
        wait_until(lambda: health.state() == "waiting", what="it waits")
        assert "refuses REDIS_USERNAME and REDIS_PASSWORD" in health()[1]
    finally:
        process.kill()
        server.kill()


def test_of_a_supervisor_that_is_frozen_and_one_that_was_killed(
    health: Asked, server: BrokerServer
) -> None:
    process = spore(health, **server.environment)
    try:
        wait_until(lambda: health.state() == "working", what="it takes work")
        os.kill(process.pid, signal.SIGSTOP)
        wait_until(lambda: health()[0] == 1, what="it is said")
        assert "has not turned its loop" in health()[1]
        os.kill(process.pid, signal.SIGCONT)
        wait_until(lambda: health()[0] == 0, what="its loop turns")
        process.kill(signal.SIGKILL)
        wait_until(lambda: health()[0] == 1, what="its end is said")
        assert "has ended without a word" in health()[1]
    finally:
        process.kill()


def test_of_a_worker_that_ends_again_and_again(health: Asked, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import os\nos._exit(7)\n")
    process = WorkerProcess(
        tmp_path / "s.log",
        *SPORE,
        "--app",
        "broken",
        env=health.environment | {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"},
        cwd=tmp_path,
    )
    try:
        wait_until(lambda: health()[0] == 1, what="it is said")
        assert "is starting again (its worker ended with exit code 7)" in health()[1]
    finally:
        process.stop()


def test_of_a_nexus_that_waits_for_its_broker(health: Asked, tmp_path: Path) -> None:
    server = BrokerServer(tmp_path / "broker")
    nexus = Nexus(tmp_path, server, HIVE_HOME=str(health.home)).listening()
    try:
        wait_until(lambda: health.state() == "waiting", what="it waits")
        assert health("nexus", "--ready")[0] == 0
        assert nexus.health()[0] == 503
        server.start()
        wait_until(lambda: nexus.health()[0] == 200, what="it serves")
        wait_until(lambda: health.state() == "working", what="it works")
        assert nexus.process.stop() == 0
        assert health()[0] == 2
    finally:
        nexus.process.kill()
        server.kill()


def test_a_nexus_whose_broker_comes_late_with_data_it_cannot_serve_ends(
    health: Asked, tmp_path: Path
) -> None:
    server = BrokerServer(tmp_path / "broker").start()
    server.client().set("venom:format", 2)
    server.kill()
    nexus = Nexus(tmp_path, server, HIVE_HOME=str(health.home)).listening()
    try:
        wait_until(lambda: health.state() == "waiting", what="it waits")
        server.start()
        assert nexus.process.process.wait(60) == 2
        assert "hive: The hive's data has the format 2" in nexus.process.output()
        assert "Traceback" not in nexus.process.output()
    finally:
        nexus.process.kill()
        server.kill()


def test_it_costs_no_more_than_the_help(health: Asked) -> None:
    """Compared in turn, by the processor's time of the quickest of each."""

    def cost(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "hive", *arguments],
            capture_output=True,
            env=health.environment,
            cwd=health.home,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    rounds = [(cost("health"), cost("--help")) for _ in range(20)]
    assert min(ours for ours, _ in rounds) <= 1.1 * min(theirs for _, theirs in rounds)


def test_where_nothing_can_be_read_it_is_said_in_one_sentence(
    health: Asked, tmp_path: Path
) -> None:
    nothing = Asked(tmp_path / "nowhere")
    code, said = nothing()
    assert code == 2
    assert said.count("\n") == 1
    assert "There is no `hive spore` and no `hive nexus`" in said
