"""How the engine's programs are found and run, on a machine that may have none."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hive.stack.engine import Engine, OverdueError, run
from hive.stack.errors import EngineUnreachableError
from hive.stack.said import error_of
from tests.harness import wait_until

needs_docker = pytest.mark.skipif(shutil.which("docker") is None, reason="docker is missing")


def program(directory: Path, name: str, script: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_without_docker_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineUnreachableError, match="There is no `docker` on the path: install"):
        Engine.find()


@needs_docker
def test_without_an_engine_it_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(EngineUnreachableError, match="No container engine answers: start it"):
        Engine.find()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
@needs_docker
def test_without_the_right_to_its_socket_it_says_who_has_it() -> None:
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
        Path(directory).chmod(0o755)
        listener.bind(f"{directory}/docker.sock")
        Path(directory, "docker.sock").chmod(0o600)
        listener.listen()
        client = shutil.which("docker") or ""
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", client]
        env = {"DOCKER_HOST": f"unix://{directory}/docker.sock", "HOME": "/"}
        told = subprocess.run(
            [*command, "version", "--format", "x"], env=env, capture_output=True, text=True
        )
    assert "may not open the container engine's socket" in error_of(told.stderr, "").message


def test_an_engine_without_compose_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program(tmp_path, "docker", '[ "$1" = version ] && echo 20.10 || exit 1')
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setattr(shutil, "which", lambda name: name == "docker" or None)
    with pytest.raises(EngineUnreachableError, match="compose is not: install the plugin"):
        Engine.find()


def test_the_plugin_is_preferred_and_the_program_does_as_well(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    program(tmp_path, "docker-compose", "exit 0")
    program(tmp_path, "docker", "exit 0")
    assert Engine.find().compose_command == ("docker", "compose")
    program(tmp_path, "docker", '[ "$1" = version ]')
    assert Engine.find().compose_command == ("docker-compose",)


def test_an_engine_that_is_silent_counts_as_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program(tmp_path, "docker", "exec sleep 60")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr("hive.stack.engine.ANSWERS_WITHIN", 0.3)
    with pytest.raises(OverdueError, match=r"`docker version` was not done within 0\.3 s"):
        Engine.find()
    assert OverdueError.exit_code == 3


def test_the_settings_of_a_shell_do_not_reach_a_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_PASSWORD", "HIVE_DRAIN_TIMEOUT", "COMPOSE_FILE", "COMPOSE_PROJECT_NAME"):
        monkeypatch.setenv(name, "of the shell")
    monkeypatch.setenv("DOCKER_HOST", "unix:///engine")
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    told = run(["env"], 10).out
    assert "of the shell" not in told
    assert "DOCKER_HOST=unix:///engine" in told
    assert "https_proxy=http://proxy:3128" in told
    assert "PATH=" in told


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_what_it_runs_ends_with_it(tmp_path: Path, sig: signal.Signals) -> None:
    code = (
        "import signal; from hive.stack.engine import run; "
        "signal.signal(signal.SIGTERM, signal.default_int_handler); "
        "run(['sh', '-c', 'sleep 100 & echo $! > pid; wait'], 100)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.PIPE)
    pid = tmp_path / "pid"
    wait_until(lambda: pid.exists() and pid.read_text().strip(), what="it runs")
    process.send_signal(sig)
    process.communicate(timeout=30)
    child = Path(f"/proc/{pid.read_text().strip()}/stat")
    wait_until(lambda: not child.exists() or child.read_text().split()[2] == "Z", what="it ends")
