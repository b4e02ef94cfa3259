"""`hive up`, `hive down` and `hive spore` with all their processes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from hive.broker.link.client import BrokerClient
from hive.broker.nodes.table import Node, NodeTable
from hive.local.embedded import HOST, claim_port
from hive.local.state_directory import MARK, StateDirectory
from hive.settings import Settings
from tests.harness import wait_until

ROOT = Path(__file__).parents[2]


class Machine:
    """A machine to run `hive` on: a working directory with the state of one hive in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = StateDirectory(directory / "state")
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HIVE_", "REDIS_", "NEXUS_"))
        }
        self.environment = {**kept, "PYTHONPATH": str(ROOT)}
        self._background: list[subprocess.Popen[str]] = []

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "hive", *arguments, "--state", str(self.state.path)]

    def hive(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end.

        Its output goes to files: a pipe would be held open by a hive that stays behind.
        """
        out, err = self.directory / "out.txt", self.directory / "err.txt"
        with out.open("w") as stdout, err.open("w") as stderr:
            done = subprocess.run(
                self.command(*arguments),
                cwd=self.directory,
                env=self.environment,
                stdout=stdout,
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                timeout=90,
            )
        return subprocess.CompletedProcess(
            done.args, done.returncode, out.read_text(), err.read_text()
        )

    def up(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.hive(
            "up", "--redis-port", "0", "--http-port", "0", "--concurrency", "1", *arguments
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Run `hive up` in the foreground, its output in a pipe."""
        command = self.command(
            "up", "--redis-port", "0", "--http-port", "0", "--concurrency", "1", *arguments
        )
        process = subprocess.Popen(
            command,
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self._background.append(process)
        return process

    @property
    def variables(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.state.env_file.read_text().splitlines())

    def settings(self) -> Settings:
        return Settings.load(**{name.lower(): value for name, value in self.variables.items()})

    def nodes(self) -> list[Node]:
        """The nodes that are online."""
        settings = self.settings()
        client = BrokerClient(settings.redis_url, settings)
        try:
            return [node for node in NodeTable(client).read().values() if node.online]
        finally:
            client.close()

    def health(self) -> int:
        connection = http.client.HTTPConnection(HOST, int(self.variables["NEXUS_PORT"]), timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status
        finally:
            connection.close()

    def process(self, *words: str) -> psutil.Process:
        """The process of this hive with these words on its command line, and the smallest pid of
        such.
        """
        found = [
            process for process in self.state.processes() if set(words) <= set(process.cmdline())
        ]
        return min(found, key=lambda process: process.pid)

    def end(self) -> None:
        for process in self._background:
            process.kill()
            process.communicate()
        holder = self.state.holder()
        if holder is not None:
            holder.kill()
        self.state.end_processes(patience=0, within=20)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.end()


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def answers_again(machine: Machine) -> bool:
    try:
        return machine.health() == 200
    except OSError:
        return False


def test_up_returns_when_all_nodes_are_online_and_down_ends_everything(machine: Machine) -> None:
    done = machine.up("--spores", "2", "--detach", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (
        {node.facts.node_name for node in machine.nodes()}
        == set(told["nodes"])
        == {"spore-1", "spore-2"}
    )
    assert all(node.facts.slots == 1 for node in machine.nodes())
    assert machine.health() == 200
    variables = machine.variables
    assert stat.S_IMODE(machine.state.env_file.stat().st_mode) == 0o600
    assert told["broker"] == f"{variables['REDIS_HOST']}:{variables['REDIS_PORT']}"
    assert (
        {variables["NEXUS_URL"]} == {told["nexus"]} == {f"http://{HOST}:{variables['NEXUS_PORT']}"}
    )
    homes = {
        process.environ()["HIVE_HOME"]
        for process in machine.state.processes()
        if "spore" in process.cmdline()
    }
    assert homes == {str(machine.state.home_of(name)) for name in told["nodes"]}
    secret = variables["REDIS_PASSWORD"]
    assert not any(secret in " ".join(process.cmdline()) for process in machine.state.processes())

    second = machine.up("--spores", "0")
    assert second.returncode == 1
    assert second.stderr.startswith(("Starting", "hive: Another `hive up`"))
    assert (
        f"Another `hive up` runs in {machine.state.path} (process {told['pid']})" in second.stderr
    )
    assert machine.health() == 200, "the first hive is left in peace"

    ended = machine.hive("down", "--json")
    assert (ended.returncode, json.loads(ended.stdout)["was_running"]) == (0, True), ended.stderr
    assert machine.state.processes() == []
    assert gone(told["pid"])
    assert not machine.state.env_file.exists()
    assert not (machine.state.path / "hive.pid").exists()
    for name in ("REDIS_PORT", "NEXUS_PORT"):
        claim_port(int(variables[name]))
    again = machine.hive("down")
    assert (again.returncode, again.stdout) == (0, f"No hive runs in {machine.state.path}.\n")


def test_what_dies_is_started_again_where_it_was(machine: Machine) -> None:
    assert machine.up("--spores", "1", "--detach").returncode == 0
    settings = machine.settings()
    with contextlib.closing(redis.Redis.from_url(settings.redis_url)) as client:
        client.set("kept", "yes")
        broker = client.info("server")["process_id"]

    machine.process("nexus").kill()
    wait_until(lambda: not answers_again(machine))
    wait_until(lambda: answers_again(machine), what="the nexus answers on its port again")

    (before,) = machine.nodes()
    machine.process("spore").kill()
    wait_until(
        lambda: any(node.facts.pid != before.facts.pid for node in machine.nodes()),
        what="a new worker is online",
    )
    wait_until(lambda: gone(before.facts.pid), what="the old worker is gone")

    os.kill(broker, signal.SIGKILL)

    def kept() -> bytes | None:
        with contextlib.closing(redis.Redis.from_url(settings.redis_url)) as client:
            return client.get("kept")

    def online_again() -> bool:
        try:
            return kept() == b"yes" and len(machine.nodes()) == 1 and machine.health() == 200
        except (OSError, redis.exceptions.RedisError):
            return False

    wait_until(online_again, what="broker, node and nexus are there again")
    assert machine.hive("down").returncode == 0
    assert machine.state.processes() == []


@pytest.mark.slow
def test_a_killed_up_leaves_no_orphan_and_can_be_repeated(machine: Machine) -> None:
    told = json.loads(machine.up("--spores", "2", "--detach", "--json").stdout)
    with contextlib.closing(redis.Redis.from_url(machine.settings().redis_url)) as client:
        client.set("kept", "yes")
    os.kill(told["pid"], signal.SIGKILL)
    wait_until(lambda: machine.state.processes() == [], what="all of the hive is gone by itself")
    assert machine.up("--spores", "1", "--detach").returncode == 0
    with contextlib.closing(redis.Redis.from_url(machine.settings().redis_url)) as client:
        assert client.get("kept") == b"yes"
    assert {node.facts.node_name for node in machine.nodes()} == {"spore-1"}
    # Once more, and this time with the supervisors too: what is left is found by `down`.
    killed = [
        process
        for process in machine.state.processes()
        if {"spore", "nexus"} & set(process.cmdline())
    ]
    holder = machine.state.holder()
    assert holder is not None
    for process in (holder, *killed):
        process.kill()
    assert machine.hive("down").returncode == 0
    assert machine.state.processes() == []
    assert not machine.state.env_file.exists()


SHOP = """
import os, time
from celery import Celery
import hive

app = hive.install(Celery("shop"))

@app.task
def long_work():
    with open("runs.txt", "a") as file:
        print(os.getpid(), file=file)
    time.sleep(120)
"""


@pytest.mark.slow
def test_a_task_longer_than_the_stopping_runs_again_at_the_next_start(machine: Machine) -> None:
    (machine.directory / "shop.py").write_text(SHOP)
    runs = machine.directory / "runs.txt"
    start = ("--spores", "1", "--app", "shop", "--detach")
    assert machine.up(*start).returncode == 0
    environment = {**machine.environment, "HIVE_ENV_FILE": str(machine.state.env_file)}
    send = [sys.executable, "-c", "import shop; shop.long_work.delay()"]
    subprocess.run(send, cwd=machine.directory, env=environment, check=True, timeout=60)
    wait_until(runs.exists, what="the task runs")
    began = time.monotonic()
    assert machine.hive("down").returncode == 0
    assert time.monotonic() - began < 30
    assert machine.state.processes() == []
    done = machine.up(*start)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: len(runs.read_text().splitlines()) == 2, what="the task runs again")


def test_ctrl_c_stops_a_hive_in_the_foreground(machine: Machine) -> None:
    process = machine.start("--spores", "1", "--json")
    assert process.stdout is not None
    told = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    assert json.loads(told)["nodes"] == ["spore-1"]
    assert machine.state.processes() == []


@pytest.mark.parametrize("options", [(), ("--detach",)])
def test_ctrl_c_while_it_starts_leaves_nothing(machine: Machine, options: tuple[str, ...]) -> None:
    process = machine.start("--spores", "2", *options)
    wait_until(
        lambda: len(machine.state.processes()) >= 4 or process.poll() is not None,
        what="broker, nexus and spores are starting",
    )
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert machine.state.processes() == []
    assert not machine.state.env_file.exists()


@pytest.mark.parametrize("option", ["--redis-port", "--http-port"])
def test_a_taken_port_is_named_and_nothing_is_left(machine: Machine, option: str) -> None:
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        done = machine.up("--spores", "0", "--detach", option, str(port))
    assert done.returncode == 1
    assert f"hive: Port {port} is taken by another program." in done.stderr
    assert "Traceback" not in done.stderr
    assert machine.state.processes() == []


@pytest.mark.parametrize("options", [(), ("--detach",)])
def test_a_state_directory_that_cannot_be_used(machine: Machine, options: tuple[str, ...]) -> None:
    machine.state.path.write_text("a file in the way")
    done = machine.up("--spores", "0", *options)
    assert done.returncode == 1
    assert f"hive: {machine.state.path} cannot be used" in done.stderr
    assert "Traceback" not in done.stderr
    assert machine.hive("down").returncode == 0


def test_an_application_that_does_not_exist(machine: Machine) -> None:
    done = machine.up("--spores", "1", "--detach", "--app", "no_such_module:app")
    assert done.returncode == 2
    # The nexus gets the application as well: whichever looks for it first.
    ended = r"(spore-1|nexus) ended with exit code 2 while it was starting\."
    assert re.search(ended, done.stderr)
    assert "no_such_module" in done.stderr
    assert machine.state.processes() == []


def test_what_a_task_left_behind_is_ended_too(machine: Machine) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('deaf', flush=True); time.sleep(600)"
    )
    environment = {**os.environ, MARK: str(machine.state.path)}
    with subprocess.Popen(
        [sys.executable, "-c", deaf],
        env=environment,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as left:
        assert left.stdout is not None
        left.stdout.readline()
        assert [process.pid for process in machine.state.processes()] == [left.pid]
        machine.state.end_processes(patience=0.2, within=10)
    assert left.returncode == -signal.SIGKILL
