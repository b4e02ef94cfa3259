"""The containers of a stack, found by the labels that compose puts on them: their names, and the
output of `compose ps`, differ from version to version.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hive.stack.engine import Engine
from hive.stack.errors import StackError

PROJECT = "com.docker.compose.project"
SERVICE = "com.docker.compose.service"
_DIRECTORY = "com.docker.compose.project.working_dir"
_ONE_OFF = "com.docker.compose.oneoff"
_NUMBER = "com.docker.compose.container-number"
GRACE = 10
"""Seconds that the engine gives a container that says nothing."""


@dataclass(frozen=True, slots=True)
class Container:
    """A container of a stack, as the engine tells of it."""

    id: str
    name: str
    stack: str
    service: str
    number: int
    """Of those of its service."""
    image: str
    state: str
    """created, running, paused, restarting, removing, exited or dead."""
    health: str | None
    """starting, healthy or unhealthy; None where its image has no check."""
    exit_code: int
    restarts: int
    started_at: str
    ports: tuple[str, ...]
    """As 127.0.0.1:5555->5555/tcp."""
    directory: str
    """The one that its compose project was started from."""
    grace: int
    """Seconds that it has to stop."""

    @property
    def runs(self) -> bool:
        return self.state in ("running", "restarting", "paused")

    @property
    def serves(self) -> bool:
        return self.state == "running" and self.health in (None, "healthy")

    @property
    def is_done(self) -> bool:
        """Whether it has ended as one that is to end does."""
        return self.state == "exited" and self.exit_code == 0

    def described(self) -> dict[str, Any]:
        """For programs."""
        mine = asdict(self)
        for name in ("stack", "service", "number", "directory", "grace"):
            del mine[name]
        return {**mine, "ports": list(self.ports)}


def containers_of(engine: Engine, stack: str) -> list[Container]:
    """All containers of a stack, also those that have ended; by service and number.

    Raises: HiveError.
    """
    return _containers(engine, f"{PROJECT}={stack}")


def all_containers(engine: Engine) -> list[Container]:
    """Those of all compose projects of the engine."""
    return _containers(engine, PROJECT)


def _containers(engine: Engine, label: str) -> list[Container]:
    said = engine.docker(
        *("ps", "--all", "--no-trunc", "--filter", f"label={label}", "--format", "{{.ID}}"),
        doing="The containers cannot be listed",
    )
    found = [_container(one) for one in engine.inspect(*said.out.split()) if not _is_one_off(one)]
    return sorted(found, key=lambda one: (one.stack, one.service, one.number))


def _is_one_off(inspected: dict[str, Any]) -> bool:
    """Whether somebody's `compose run` has made it."""
    return str(_labels(inspected).get(_ONE_OFF)).lower() == "true"


def _labels(inspected: dict[str, Any]) -> dict[str, str]:
    return inspected["Config"].get("Labels") or {}


def _container(inspected: dict[str, Any]) -> Container:
    labels, state = _labels(inspected), inspected["State"]
    number, grace = labels.get(_NUMBER, "1"), inspected["Config"].get("StopTimeout")
    return Container(
        id=inspected["Id"],
        name=inspected["Name"].lstrip("/"),
        stack=labels.get(PROJECT, ""),
        service=labels.get(SERVICE, ""),
        number=int(number) if number.isdigit() else 1,
        image=inspected["Config"].get("Image", ""),
        state=state["Status"],
        health=(state.get("Health") or {}).get("Status"),
        exit_code=int(state.get("ExitCode", 0)),
        restarts=int(inspected.get("RestartCount", 0)),
        started_at=state.get("StartedAt", ""),
        ports=tuple(_ports(inspected)),
        directory=labels.get(_DIRECTORY, ""),
        grace=GRACE if grace is None else int(grace),
    )


def _ports(inspected: dict[str, Any]) -> list[str]:
    bound = (inspected.get("NetworkSettings") or {}).get("Ports") or {}
    return [
        f"{one.get('HostIp', '')}:{one.get('HostPort', '')}->{inside}"
        for inside, outside in sorted(bound.items())
        for one in outside or ()
    ]


def check_same_directory(containers: list[Container], directory: Path) -> None:
    """Refuse a compose project of this name that another directory has started: its containers,
    networks and volumes would be taken over.

    Raises: StackError.
    """
    for one in containers:
        if one.directory and Path(one.directory).resolve() != directory:
            raise StackError(
                f"A compose project called {one.stack} was started from {one.directory}, and is "
                f"not the stack of {directory}: end it there (`docker compose down`), or give this "
                "one another --name."
            )


def log_of(engine: Engine, container: Container, tail: int, *, times: bool = False) -> str:
    """The last lines that a container has written, those of stderr after those of stdout.

    times: each line begins with its time, by which they can be put in order.
    """
    options = ["--tail", str(tail), *(["--timestamps"] if times else [])]
    said = engine.docker("logs", *options, container.id)
    return said.out + said.err


def longest_grace(containers: Iterable[Container]) -> int:
    """Seconds that stopping any of them may take, each beside the others."""
    return max((one.grace for one in containers), default=0)


def counted(containers: list[Container]) -> str:
    """As `flower 1, redis 1, spore 3`."""
    names = sorted({one.service for one in containers})
    return ", ".join(f"{name} {sum(one.service == name for one in containers)}" for name in names)
