"""`hive nexus` as a process: its health page, its port, its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import BrokerServer, WorkerProcess, wait_until
from tests.integration.cluster import REPOSITORY


class Nexus:
    """A nexus on a free port."""

    def __init__(self, directory: Path, broker: BrokerServer, **variables: str) -> None:
        self.port_file = directory / "nexus.port"
        env = {
            **broker.environment,
            "NEXUS_PORT": "0",
            "HIVE_NEXUS_PORT_FILE": str(self.port_file),
            "PYTHONPATH": str(REPOSITORY),
            **variables,
        }
        self.process = WorkerProcess(
            directory / "nexus.log", sys.executable, "-m", "hive", "nexus", env=env
        )

    def listening(self) -> Nexus:
        wait_until(self.port_file.exists, what="the port is written")
        return self

    @property
    def port(self) -> int:
        return int(self.port_file.read_text())

    def health(self) -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}/health", timeout=10
            ) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


@pytest.fixture
def nexus(tmp_path: Path, broker: BrokerServer) -> Iterator[Nexus]:
    nexus = Nexus(tmp_path, broker).listening()
    yield nexus
    nexus.process.kill()


def test_health_tells_of_the_broker_the_nodes_and_the_watchdog(nexus: Nexus) -> None:
    wait_until(lambda: nexus.health()[0] == 200, what="the watchdog has ticked")
    status, health = nexus.health()
    assert status == 200
    assert health["status"] == "ok"
    assert health["broker_reachable"] is True
    assert (health["nodes_online"], health["nodes_total"]) == (0, 0)
    assert health["lease_holder"].startswith(f"{socket.gethostname()}:")
    assert health["version"]
    assert abs(health["watchdog_last_tick"] - time.time()) < 10


def test_health_says_so_while_the_broker_is_away_and_again_when_it_is_back(tmp_path: Path) -> None:
    server = BrokerServer(tmp_path / "broker").start()
    nexus = Nexus(tmp_path, server).listening()
    try:
        wait_until(lambda: nexus.health()[0] == 200)
        server.kill()
        status, health = nexus.health()
        assert (status, health["status"], health["broker_reachable"], health["nodes_online"]) == (
            503,
            "degraded",
            False,
            None,
        )
        server.start()
        wait_until(lambda: nexus.health()[0] == 200, what="healthy again")
    finally:
        nexus.process.kill()
        server.kill()


def test_of_two_one_holds_the_lease_and_the_other_takes_it_over(
    nexus: Nexus, broker: BrokerServer, tmp_path: Path
) -> None:
    wait_until(lambda: nexus.health()[1]["lease_holder"])
    (tmp_path / "second").mkdir()
    second = Nexus(tmp_path / "second", broker).listening()
    try:
        first_holder = nexus.health()[1]["lease_holder"]
        assert second.health()[1]["lease_holder"] == first_holder
        assert nexus.process.stop() == 0
        wait_until(
            lambda: (holder := second.health()[1]["lease_holder"]) and holder != first_holder,
            what="the second leads",
        )
    finally:
        second.process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order_and_soon(nexus: Nexus, number: signal.Signals) -> None:
    # An idle client does not hold it up.
    with socket.create_connection(("127.0.0.1", nexus.port)):
        os.kill(nexus.process.pid, number)
        assert nexus.process.process.wait(30) == 0
    assert "Traceback" not in nexus.process.output()


def test_a_taken_port_is_said(nexus: Nexus, broker: BrokerServer, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    second = Nexus(tmp_path / "second", broker, NEXUS_PORT=str(nexus.port))
    assert second.process.process.wait(60) == 1
    said = second.process.output()
    assert f"hive: Port {nexus.port} of 127.0.0.1 is taken" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "no.such.host.invalid"])
def test_it_listens_on_loopback_only(broker: BrokerServer, tmp_path: Path, host: str) -> None:
    refused = Nexus(tmp_path, broker, NEXUS_HOST=host)
    assert refused.process.process.wait(60) == 2
    assert f"hive: NEXUS_HOST cannot be '{host}'" in refused.process.output()


def test_it_ends_with_its_supervisor(broker: BrokerServer, tmp_path: Path) -> None:
    program = """
import os, subprocess, sys
reader, writer = os.pipe()
environment = {**os.environ, "HIVE_SUPERVISOR_FD": str(reader)}
command = [sys.executable, "-m", "hive", "nexus"]
child = subprocess.Popen(command, pass_fds=[reader], env=environment)
print(child.pid, flush=True)
child.wait()
"""
    port_file = tmp_path / "port"
    env = {
        **broker.environment,
        "NEXUS_PORT": "0",
        "HIVE_NEXUS_PORT_FILE": str(port_file),
        "PYTHONPATH": str(REPOSITORY),
    }
    supervisor = WorkerProcess(tmp_path / "log", sys.executable, "-c", program, env=env)
    wait_until(port_file.exists)
    nexus_pid = int(supervisor.output().split()[0])
    os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.process.wait(60)
    try:
        wait_until(lambda: not _alive(nexus_pid), what="the nexus ended")
    finally:
        supervisor.kill()


def _alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
