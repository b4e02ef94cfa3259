"""What tests of several processes share: a real broker, real workers, waiting for a condition with
a deadline.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import redis

T = TypeVar("T")


def wait_until(condition: Callable[[], T], deadline: float = 60.0, what: str = "") -> T:
    """Poll `condition` until it is true; return its value.

    Raises AssertionError after `deadline` seconds.
    """
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(
                f"not within {deadline} s: {what or getattr(condition, '__name__', 'condition')}"
            )
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@functools.cache
def server_binary() -> str:
    """The server that tests run on: the one of HIVE_TEST_SERVER, else the one that `hive up` would
    start.
    """
    # Asked of another process: importing Hive reads the settings, which some callers have still to
    # make.
    find = "from hive.local.server_program import find_server; print(find_server())"
    named = os.environ.get("HIVE_TEST_SERVER")
    return (
        named
        or subprocess.run(
            [sys.executable, "-c", find], check=True, capture_output=True, text=True
        ).stdout.strip()
    )


class BrokerServer:
    """A private server on a free loopback port, in a directory of its own.

    durable: every write is on the disk before it is answered (appendonly, fsync always); without
        it, nothing is written, as benches have it.
    options: further ones of the server's command line.
    """

    def __init__(
        self,
        directory: Path,
        *,
        binary: str | None = None,
        password: str | None = None,
        durable: bool = True,
        options: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.port = free_port()
        self.binary = binary or server_binary()
        self.password = password
        self.durable = durable
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        login = f":{self.password}@" if self.password else ""
        return f"redis://{login}127.0.0.1:{self.port}/0"

    @property
    def environment(self) -> dict[str, str]:
        env = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(self.port), "REDIS_DB": "0"}
        return env | ({"REDIS_PASSWORD": self.password} if self.password else {})

    def client(self, db: int = 0) -> redis.Redis:
        return redis.Redis(
            host="127.0.0.1", port=self.port, db=db, password=self.password, socket_timeout=10
        )

    def start(self) -> BrokerServer:
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [
            self.binary,
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self.directory),
            "--save",
            "",
        ]
        command += (
            ["--appendonly", "yes", "--appendfsync", "always"]
            if self.durable
            else ["--appendonly", "no"]
        )
        command += ["--requirepass", self.password] if self.password else []
        command += self.options
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_until(self._answers, what="the broker answers")
        except BaseException:
            self.kill()
            raise
        return self

    def _answers(self) -> bool:
        try:
            with self.client() as probe:
                return bool(probe.ping())
        except redis.exceptions.RedisError:
            return False

    def kill(self, sig: int = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(sig)
            self.process.wait(60)
            self.process = None


class WorkerProcess:
    """A `celery worker` (or any command) in a process group of its own, its output in a file."""

    def __init__(
        self,
        log: Path,
        *command: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.log = log
        self.command = command
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command,
                stdout=out,
                stderr=out,
                cwd=cwd,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(env or {})},
            )

    @classmethod
    def celery(
        cls,
        directory: Path,
        name: str,
        *,
        app: str = "hive",
        concurrency: int = 2,
        env: Mapping[str, str] | None = None,
        options: tuple[str, ...] = (),
    ) -> WorkerProcess:
        """A plain `celery -A app worker -n name@h -c concurrency`; modules are found in
        `directory`.
        """
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            app,
            "worker",
            "-n",
            f"{name}@h",
            "-c",
            str(concurrency),
            "-l",
            "info",
            *options,
        ]
        paths = os.pathsep.join(p for p in (str(directory), os.environ.get("PYTHONPATH", "")) if p)
        return cls(
            directory / f"{name}.log",
            *command,
            env={"PYTHONPATH": paths, **(env or {})},
            cwd=directory,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self, sig: int = signal.SIGKILL) -> None:
        """Send a signal to the whole process group; SIGKILL also waits for the end."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, sig)
        if sig == signal.SIGKILL:
            self.process.wait(60)

    def stop(self, timeout: float = 60.0) -> int:
        """Warm shutdown; killed when it takes longer."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                return self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                pass
            finally:
                self.kill()
        self.kill()
        return self.process.returncode
