"""A Docker engine that leaves nothing behind: whatever it makes is in namespaces of its own.

Its bridges, rules and ports are in a network namespace, its mounts in a mount namespace, and all
processes of it and its containers in a process namespace, whose end is the end of all of them. On
the disk it has one directory, and one control group.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.harness import wait_until

CONTROL_GROUPS = Path("/sys/fs/cgroup")
PATIENCE = 60

# $1 is the engine's directory, $2 its control group. The tmpfs hides a containerd of this machine,
# which the engine would use, and is where iptables keeps its lock.
START = """
set -e
mount -t tmpfs tmpfs /run
ip link set lo up
exec dockerd --config-file "$1/daemon.json" --data-root "$1/data" --exec-root "$1/exec" \
    --pidfile "$1/pid" --host "unix://$1/socket" --cgroup-parent "/$2" \
    --exec-opt native.cgroupdriver=cgroupfs
"""
NAMESPACES = ("--mount", "--net", "--pid", "--fork", "--kill-child=KILL", "--mount-proc")


class Engine:
    """A running engine; `docker` and `inside` are what a test does with it.

    directory: all that it keeps.
    environment: what a client needs to find this engine and no other.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.group = f"hive-test-{secrets.token_hex(4)}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "DOCKER_CONTEXT"},
            "DOCKER_HOST": f"unix://{directory}/socket",
            "DOCKER_CONFIG": str(directory / "client"),
            # The builder that needs nothing beside the engine.
            "DOCKER_BUILDKIT": "0",
        }
        for name in ("client/cli-plugins", "data", "exec"):
            (directory / name).mkdir(parents=True)
        (directory / "daemon.json").write_text("{}")
        self.log = directory / "dockerd.log"
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", *NAMESPACES]
        # The first process of the namespace reaps what the engine's helpers leave.
        command += [str(Path(sys.executable).with_name("dumb-init")), "--single-child"]
        command += ["sh", "-c", START, "sh", str(directory), self.group]
        # Where containerd writes its stacks, should the engine find it slow to answer.
        environment = os.environ | {"TMPDIR": str(directory)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        try:
            wait_until(self._answers, PATIENCE, "the engine answers")
        except BaseException as error:
            self.end()
            error.add_note(self.log.read_text()[-4000:])
            raise

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError("the engine ended")
        return self.docker("version", check=False).returncode == 0

    @property
    def first(self) -> int:
        """The first process of its namespaces, as this machine counts."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(children.read_text())

    def run(
        self, *command: str, check: bool = True, env: dict[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """A client's command on this machine, which means this engine by `docker`."""
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=self.environment | (env or {}),
            check=False,
            **{"timeout": 300, "stdin": None if "input" in options else subprocess.DEVNULL}
            | options,
        )
        if check and done.returncode != 0:
            said = f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
        return done

    def docker(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.run("docker", *arguments, **options)

    def enter(self, *command: str) -> tuple[str, ...]:
        """A command as it is run among the engine's processes, in its network."""
        namespaces = ("--mount", "--net", "--pid")
        return ("nsenter", "--target", str(self.first), *namespaces, *command)

    def inside(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command there: it sees the containers' processes, and the published ports."""
        return self.run(*self.enter(*command), **options)

    def inspect(self, *names: str) -> list[Any]:
        """What the engine knows of containers, images, networks or volumes."""
        return json.loads(self.docker("inspect", *names).stdout) if names else []

    def kill(self, container: str, sig: int = signal.SIGKILL) -> None:
        """A signal to a container's first process, as the kernel sends one when memory is short:
        the engine takes it for a crash, unlike what `docker kill` does.
        """
        self.inside("kill", f"-{int(sig)}", str(self.first_of(container)))

    def first_of(self, container: str) -> int:
        """The pid of a container's first process, as `inside` sees it."""
        [known] = self.inspect(container)
        return int(known["State"]["Pid"])

    def listening(self) -> set[str]:
        """The TCP addresses at which the engine's machine, not a container, listens."""
        told = self.inside("ss", "-Hltn").stdout
        return {line.split()[3] for line in told.splitlines()}

    def end(self) -> None:
        """Every process and container of it is gone, and all that it had on the disk."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)
        # One for each controller, or one for all of them (control groups v2).
        for group in (*CONTROL_GROUPS.glob(f"*/{self.group}"), CONTROL_GROUPS / self.group):
            for path, _, _ in os.walk(group, topdown=False):
                wait_until(lambda path=path: _removed(path), PATIENCE, f"{path} is empty")
        shutil.rmtree(self.directory)


def _removed(group: str) -> bool:
    """A control group can be removed once the kernel has cleared away its last process."""
    try:
        os.rmdir(group)  # noqa: PTH106 - one path of os.walk
    except OSError:
        return False
    return True


@contextlib.contextmanager
def engine_running() -> Iterator[Engine]:
    """An engine, in a directory with a name short enough for a socket."""
    directory = Path(tempfile.mkdtemp(prefix="hive-engine-", dir="/tmp"))
    engine = Engine(directory)
    try:
        yield engine
    finally:
        engine.end()
