"""`hive stack` and StackManager: the whole life of a hive in containers, and all that may be wrong.

The stacks are Hive's own, with checks every three seconds instead of every twenty, and the
application of shop.py.
"""

from __future__ import annotations

import contextlib
import json
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hive.stack import StackManager
from tests import base
from tests.docker.engine import Engine
from tests.docker.images import BASE, REPOSITORY, SHOP
from tests.harness import wait_until

PATIENCE = 90
PROJECT = "com.docker.compose.project"
CHECK = "{interval: 3s, start_period: 60s}"
OVERRIDE = f"""
services:
  redis: {{healthcheck: {CHECK}}}
  nexus: {{healthcheck: {CHECK}}}
  spore: {{healthcheck: {CHECK}}}
  flower: {{healthcheck: {CHECK}}}
"""
SETTINGS = {"HIVE_IMAGE": SHOP, "HIVE_APP": "shop:app", "HIVE_CONCURRENCY": "2"}
SEND = "from shop import *; print(*[wait.delay(0).id for _ in range(5)])"
GET = (
    "import sys; from shop import *; "
    "print(*[app.AsyncResult(id).get(timeout=60) for id in sys.argv[1:]])"
)


class Machine:
    """A machine with an engine, one of the composes, and a HIVE_HOME with one stack prepared.

    tool: "1" is docker-compose 1.29, "2" the plugin of docker.
    """

    def __init__(self, engine: Engine, directory: Path, tool: str = "2") -> None:
        self.engine = engine
        self.name = f"stack{tool}"
        client = directory / "client"
        (client / "cli-plugins").mkdir(parents=True)
        if tool == "2":
            (client / "cli-plugins" / "docker-compose").symlink_to(base.compose_plugin())
        self.environment = engine.environment | {
            "DOCKER_CONFIG": str(client),
            "HIVE_HOME": str(directory / "home"),
            "PYTHONPATH": str(REPOSITORY),
            # What a shell may have is no setting of the stack.
            "REDIS_PASSWORD": "of-the-shell",
        }
        self.directory = directory / "home" / "stacks" / self.name
        self.directory.mkdir(parents=True)
        self.env_file = self.directory / ".env"
        self.set(**SETTINGS)
        (self.directory / "docker-compose.override.yml").write_text(OVERRIDE)

    def set(self, **settings: str) -> None:
        """Settings of the stack; the last of a name counts."""
        with self.env_file.open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in settings.items())

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "hive", "stack", *arguments, "--name", self.name]

    def hive_stack(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.engine.run(*self.command(*arguments), env=self.environment, check=False)

    def told(self, *arguments: str) -> Any:
        """The JSON of a command that succeeds."""
        done = self.hive_stack(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def refused(self, *arguments: str, code: int) -> str:
        """The one line of a command that fails."""
        done = self.hive_stack(*arguments)
        said = done.stderr.strip().splitlines()[-1]
        assert (done.returncode, said.startswith("hive: ")) == (code, True), done.stderr
        assert "Traceback" not in done.stderr
        return said

    def labelled(self, kind: str, *options: str) -> list[str]:
        label = f"label={PROJECT}={self.name}"
        return self.engine.docker(kind, *options, "--quiet", "--filter", label).stdout.split()

    def left(self) -> list[str]:
        """The containers, networks and volumes that there are of it."""
        return [
            *self.labelled("ps", "--all"),
            *self.labelled("network", "ls"),
            *self.labelled("volume", "ls"),
        ]

    def containers(self) -> list[str]:
        return self.labelled("ps", "--all")

    def in_nexus(self, *command: str, **options: Any) -> str:
        [nexus] = [
            one
            for one in self.labelled("ps")
            if self.engine.inspect(one)[0]["Config"]["Labels"]["com.docker.compose.service"]
            == "nexus"
        ]
        ways = ["--interactive"] if "input" in options else []
        return self.engine.docker("exec", *ways, nexus, *command, **options).stdout

    def map(self, items: int) -> set[str]:
        """Run a job, of which every answer is right; the nodes that took part."""
        told = self.in_nexus(
            *("hive", "map", "double", "-", "--app", "shop:app", "--json", "--timeout", "120"),
            input="".join(f"{n}\n" for n in range(items)),
        )
        outcomes = sorted(json.loads(told)["outcomes"], key=lambda one: one["index"])
        assert [one["value"] for one in outcomes] == [2 * n for n in range(items)]
        return {one["node"] for one in outcomes}

    def remove(self) -> None:
        """Nothing of it is left, however its test ended."""
        if every := self.containers():
            self.engine.docker("rm", "--force", "--volumes", *every)
        for kind in ("network", "volume"):
            if named := self.labelled(kind, "ls"):
                self.engine.docker(kind, "rm", *named)


@pytest.fixture
def machine(engine: Engine, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Machine]:
    made = Machine(engine, tmp_path, getattr(request, "param", "2"))
    try:
        yield made
    finally:
        made.remove()


@contextlib.contextmanager
def taken(engine: Engine) -> Iterator[None]:
    """Another program of the engine's machine listens at Flower's port."""
    # It ends with its input: killing what has entered the namespaces for it would not end it.
    listen = "import socket, sys; s = socket.create_server(('127.0.0.1', 5555)); sys.stdin.read()"
    command = engine.enter("python3", "-c", listen)
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=engine.environment):
        wait_until(lambda: "127.0.0.1:5555" in engine.listening(), PATIENCE, "it listens")
        yield
    assert "127.0.0.1:5555" not in engine.listening()


def spores(status: dict[str, Any]) -> list[dict[str, Any]]:
    [found] = [one["containers"] for one in status["services"] if one["service"] == "spore"]
    return list(found)


@pytest.mark.parametrize("machine", ["1"], indirect=True)
def test_the_life_of_a_stack_by_the_command_line(machine: Machine) -> None:
    up = machine.told("up", "--spores", "3")
    assert up["is_healthy"]
    assert [one["service"] for one in up["services"]] == ["redis", "nexus", "spore", "flower"]
    assert len(spores(up)) == 3
    packaged = (REPOSITORY / "docker-compose.yml").read_bytes()
    assert (machine.directory / "docker-compose.yml").read_bytes() == packaged
    secrets = machine.env_file.read_text()
    assert stat.S_IMODE(machine.env_file.stat().st_mode) == 0o600
    assert machine.engine.listening() == {"127.0.0.1:5555"}

    assert len(machine.map(60)) == 3
    assert len(spores(machine.told("scale", "5"))) == 5
    assert len(spores(machine.told("scale", "spore=2"))) == 2
    assert len(machine.map(20)) == 2
    assert machine.told("status")["is_healthy"]
    lines = machine.told("logs", "spore", "--tail", "50")["lines"]
    assert any(line.startswith("spore-1 | ") and "ready" in line for line in lines)
    assert "no service 'nope'" in machine.refused("logs", "nope", code=2)
    assert "no service 'nope'" in machine.refused("scale", "nope=2", code=2)
    assert "There is one broker" in machine.refused("scale", "redis=2", code=2)

    machine.told("scale", "0")
    ids = machine.in_nexus("python3", "-c", SEND).split()
    kept = machine.told("down")["kept_volumes"]
    assert f"{machine.name}_broker" in kept
    assert machine.containers() == machine.labelled("network", "ls") == []
    assert not machine.told("status")["is_running"]
    assert len(spores(machine.told("up"))) == 1
    assert len(machine.in_nexus("python3", "-c", GET, *ids).split()) == 5
    assert machine.env_file.read_text() == secrets

    assert machine.told("down", "--volumes", "--yes")["kept_volumes"] == []
    assert machine.left() == []
    assert [path.name for path in machine.directory.iterdir()] == ["docker-compose.override.yml"]
    assert "There is no stack" in machine.refused("down", code=1)


def test_the_life_of_a_stack_by_stack_manager(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in machine.environment.items():
        monkeypatch.setenv(name, value)
    manager, name = StackManager(), machine.name
    assert manager.get_running_stacks() == (True, [])
    ok, said = manager.deploy_default_hive_stack(name, spores=3)
    assert (ok, said) == (True, f"The stack {name} is up: flower 1, nexus 1, redis 1, spore 3.")
    assert len(machine.map(60)) == 3
    assert manager.scale_service(name, "spore", 5)[0]
    assert manager.scale_service(name, "spore", 2) == (
        True,
        f"Of the stack {name} there run spore 2.",
    )
    ok, running = manager.get_running_stacks()
    assert ok
    assert running == [
        {
            "name": name,
            "directory": str(machine.directory),
            "services": {"flower": 1, "nexus": 1, "redis": 1, "spore": 2},
        }
    ]
    ok, status = manager.get_stack_status(name)
    assert ok
    assert isinstance(status, dict)
    assert len(spores(status)) == 2
    ok, log = manager.get_service_logs(name, "nexus", tail=5)
    assert ok
    assert "lease_taken" in log
    assert manager.get_service_logs(name, "nope")[0] is False
    assert manager.deploy_stack("services: [", name)[0] is False

    manager.scale_service(name, "spore", 0)
    ids = machine.in_nexus("python3", "-c", SEND).split()
    ok, said = manager.destroy_stack(name)
    assert ok
    assert f"{name}_broker" in said
    assert machine.containers() == []
    assert manager.deploy_default_hive_stack(name)[0]
    assert len(machine.in_nexus("python3", "-c", GET, *ids).split()) == 5
    assert manager.destroy_stack(name, volumes=True) == (True, f"The stack {name} has ended.")
    assert machine.left() == []


def test_a_compose_file_of_ones_own_is_a_stack_as_well(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in machine.environment.items():
        monkeypatch.setenv(name, value)
    (machine.directory / "docker-compose.override.yml").unlink()
    service = "{image: '%s', command: ['sh', '-c', '%s'], stop_grace_period: 1s}"
    good = "services:\n  web: " + service % (BASE, "echo begun; exec sleep 1000")
    manager = StackManager()
    assert manager.deploy_stack(good, machine.name)[0]
    assert manager.get_service_logs(machine.name, "web") == (True, "begun\n")
    ok, said = manager.deploy_default_hive_stack(machine.name)
    assert not ok
    assert "has a compose file of its own" in said
    before = machine.containers()
    assert machine.told("up")["is_healthy"], "it is the stack's from then on"
    assert machine.containers() == before
    assert manager.destroy_stack(machine.name)[0]

    bad = "services:\n  web: " + service % (BASE, "echo this is why; exit 3")
    (tmp_path / "bad.yml").write_text(bad)
    said = machine.refused("up", "--file", str(tmp_path / "bad.yml"), code=1)
    assert "Service web is not healthy (exited, exit code 3)" in said
    assert "Its log ends with: this is why" in said
    assert machine.left() == []


def test_what_is_wrong_is_one_sentence_before_anything_starts(
    machine: Machine, tmp_path: Path
) -> None:
    def env(**settings: str) -> None:
        machine.env_file.unlink(missing_ok=True)
        machine.set(**SETTINGS, **settings)

    env(REDIS_PASSWORD="weak")
    said = machine.refused("up", code=2)
    assert "REDIS_PASSWORD has 4 characters, and needs at least 32" in said
    env(HIVE_DRAIN_TIMEOUT="60")
    said = machine.refused("up", code=2)
    assert "killed 20 s after" in said
    assert "its tasks get 60 s" in said
    env()
    machine.set(HIVE_IMAGE="nosuch:1")
    said = machine.refused("up", code=1)
    assert "The image nosuch:1 (HIVE_IMAGE) is not on this machine: build it" in said
    env()
    missing = "services: {web: {image: 'nosuch:2'}}"
    (tmp_path / "missing.yml").write_text(missing)
    override = machine.directory / "docker-compose.override.yml"
    override.rename(tmp_path / "override.yml")
    said = machine.refused("up", "--file", str(tmp_path / "missing.yml"), code=1)
    assert "The image nosuch:2 is not on this machine and cannot be fetched" in said
    (tmp_path / "missing.yml").write_text("services: {web: {image: a, nonsense: 1}}")
    said = machine.refused("up", "--file", str(tmp_path / "missing.yml"), code=2)
    assert "nonsense" in said
    (tmp_path / "override.yml").rename(override)

    with taken(machine.engine):
        said = machine.refused("up", code=1)
    assert "What service flower publishes is taken (127.0.0.1, port 5555)" in said
    assert "HIVE_FLOWER_PORT" in said
    assert machine.left() == []


def test_data_of_another_version_are_told_and_left_as_they_are(machine: Machine) -> None:
    machine.told("up", "--spores", "0")
    values = dict(
        line.split("=", 1) for line in machine.env_file.read_text().splitlines() if "=" in line
    )
    login = ("env", f"REDISCLI_AUTH={values['REDIS_ADMIN_PASSWORD']}", "redis-cli", "-h", "redis")
    [redis] = [one for one in machine.labelled("ps") if "redis" in _name(machine, one)]
    told = machine.engine.docker(
        "exec", redis, *login, "--user", "admin", "set", "venom:format", "99"
    )
    assert told.stdout.strip() == "OK"
    machine.told("down")
    said = machine.refused("up", code=1)
    assert "The hive's data has the format 99" in said
    assert "Nothing of the stack was left running; its data are kept" in said
    assert machine.containers() == []

    newer = "printf 0099 | dd of=$(ls /data/appendonlydir/*.base.rdb) bs=1 seek=5 conv=notrunc"
    volume = f"{machine.name}_broker:/data"
    machine.engine.docker("run", "--rm", "--volume", volume, BASE, "sh", "-c", newer)
    said = machine.refused("up", code=1)
    assert "The broker's data are of a newer Redis than this one (RDB format 99)" in said
    assert machine.containers() == []
    assert f"{machine.name}_broker" in machine.labelled("volume", "ls")


def _name(machine: Machine, container: str) -> str:
    return str(machine.engine.inspect(container)[0]["Name"])


def test_a_stack_of_another_directory_is_not_taken_over(machine: Machine, tmp_path: Path) -> None:
    labels = [f"{PROJECT}={machine.name}", f"{PROJECT}.working_dir=/srv/elsewhere"]
    options = [word for label in labels for word in ("--label", label)]
    machine.engine.docker("run", "--detach", *options, BASE, "sleep", "600")
    for arguments in (("up",), ("down",), ("status",)):
        said = machine.refused(*arguments, code=1)
        assert "was started from /srv/elsewhere" in said
    assert len(machine.containers()) == 1


def test_the_image_is_built_where_it_is_missing(machine: Machine) -> None:
    image = "venom-hive:built-by-the-test"
    machine.set(HIVE_IMAGE=image, HIVE_APP="")
    before = set(machine.engine.docker("ps", "--all", "--quiet").stdout.split())

    interrupted = subprocess.Popen(
        machine.command("up", "--wheels", str(base.wheels())),
        env=machine.environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(
        lambda: set(machine.engine.docker("ps", "--quiet").stdout.split()) - before,
        PATIENCE,
        "it builds",
    )
    interrupted.send_signal(signal.SIGINT)
    _, said = interrupted.communicate(timeout=60)
    assert interrupted.returncode == 130
    assert f"Nothing of the stack {machine.name} runs." in said
    wait_until(
        lambda: set(machine.engine.docker("ps", "--all", "--quiet").stdout.split()) == before,
        PATIENCE,
        "the build's container is gone",
    )
    assert not list(Path(tempfile.gettempdir()).glob("hive-image-*"))

    assert machine.told("up", "--wheels", str(base.wheels()))["is_healthy"]
    assert machine.engine.docker("image", "inspect", image).returncode == 0
    assert "summarize" in machine.in_nexus("hive", "skills")


def test_an_interrupted_start_says_what_stands(machine: Machine) -> None:
    starting = subprocess.Popen(
        machine.command("up"), env=machine.environment, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: machine.labelled("ps"), PATIENCE, "the broker runs")
    starting.send_signal(signal.SIGINT)
    _, said = starting.communicate(timeout=60)
    assert starting.returncode == 130
    assert f"Of the stack {machine.name} there run " in said
    assert "redis 1" in said
    assert machine.told("up")["is_healthy"]
