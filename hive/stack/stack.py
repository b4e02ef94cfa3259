"""One stack: up, down, scaled, looked at. What goes wrong is raised, in a sentence."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hive.errors import HiveError, InvalidInputError
from hive.stack import compose_file
from hive.stack.containers import (
    Container,
    check_same_directory,
    containers_of,
    counted,
    log_of,
    longest_grace,
)
from hive.stack.directory import StackDirectory, packaged_compose
from hive.stack.engine import Engine, OverdueError
from hive.stack.errors import StackError, StackPartlyError, UnknownStackError
from hive.stack.health import wait_healthy, why_not_started
from hive.stack.image import Say, Source, provide
from hive.stack.ports import check_free
from hive.stack.removal import (
    remove_containers,
    remove_networks,
    remove_volumes,
    volumes_of,
)

SPORE = "spore"
BROKER = "redis"
TAIL = 100
MOST_CONTAINERS = 100
TIMEOUT = 180.0
"""Seconds for all services to become healthy, once the images are there."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """How a stack is started."""

    spores: int | None = None
    """None: as many as run, else one."""
    timeout: float = TIMEOUT
    build: bool = False
    wheels: Path | None = None


class Stack:
    """A stack of a name, in the directory of stacks."""

    def __init__(self, stacks: Path, name: str, say: Say = lambda _line: None) -> None:
        """say: is told in a line what takes long.

        Raises: InvalidInputError for a name that compose would not take.
        """
        self.directory = StackDirectory(stacks, name)
        self.name = name
        self._say = say

    def up(self, content: str | None, wishes: Wishes) -> list[Container]:
        """Start the stack, or change the one that runs to what its directory says now.

        content: a compose file of one's own; None for Hive's, or for the one given before.
        Returns: its containers, all of them healthy.
        Raises: HiveError. A stack of which nothing was there is then not there either, but for
            StackPartlyError: it runs, and something of it is still starting.
        """
        own = content is not None or self.directory.has_own_file()
        if content is None:
            content = self.directory.text() if own else packaged_compose()
        file = compose_file.read(content)
        if wishes.spores is not None:
            compose_file.known_service(file, SPORE)
        engine = Engine.find()
        with self.directory.locked():
            before = self._containers(engine)
            with self.directory.prepared(content, own=own) as candidate:
                resolved = self._checked(engine, candidate)
                options = self.directory.options(candidate)
                source = Source(
                    build=wishes.build,
                    wheels=wishes.wheels,
                    applications=self.directory.values().get("HIVE_IMAGE"),
                )
                provide(engine, resolved, options, source, self._say)
                check_free(engine, resolved, before)
            for name in self.directory.edited():
                self._say(f"{self.directory.path / name} was edited, and stays as it is.")
            return self._start(engine, resolved, before, wishes)

    def down(self, *, volumes: bool = False) -> list[str]:
        """End the stack: its containers and networks go, its spores finish what they run first.

        volumes: remove the volumes too, and the stack's directory with its secrets.
        Returns: the volumes that are still there.
        Raises: UnknownStackError, HiveError.
        """
        engine = Engine.find()
        self._known(engine)
        with self.directory.locked():
            self._remove(engine)
            if volumes:
                remove_volumes(engine, self.name)
                self.directory.remove()
        return volumes_of(engine, self.name)

    def scale(self, service: str, number: int, *, timeout: float = TIMEOUT) -> list[Container]:
        """Run so many containers of a service; those that are too many finish what they run.

        timeout: seconds for those that are there then to become healthy.
        Returns: the containers of the service.
        Raises: InvalidInputError, UnknownStackError, HiveError.
        """
        engine = Engine.find()
        before = self._known(engine)
        if not before:
            raise StackError(f"The stack {self.name} is down: `hive stack up` starts it.")
        compose_file.known_service(self._file(), service)
        if not 0 <= number <= MOST_CONTAINERS:
            raise InvalidInputError(f"A service has 0 to {MOST_CONTAINERS} containers.")
        if service == BROKER and number > 1:
            raise InvalidInputError("There is one broker: two would write to the same data.")
        with self.directory.locked():
            self._say(f"Scaling {service} to {number} …")
            engine.compose(
                *self.directory.options(),
                *("up", "--detach", "--no-deps", "--no-recreate", "--no-build"),
                *("--scale", f"{service}={number}", service),
                doing=f"Service {service} could not be scaled",
                # Those that are too many have their time to stop.
                within=timeout + longest_grace(before),
            )
            until = time.monotonic() + timeout
            return wait_healthy(engine, self.name, [service] if number else [], until)

    def logs(self, service: str | None, tail: int = TAIL) -> str:
        """The last lines of a service, or of all, in the order of their times; where they are of
        several containers, each has its container's name before it.

        Raises: InvalidInputError, UnknownStackError, HiveError.
        """
        engine = Engine.find()
        found = self._known(engine)
        if service is not None:
            names = {one.service for one in found}
            if service not in names:
                compose_file.known_service(self._file(), service)
            found = [one for one in found if one.service == service]
        lines = []
        for one in found:
            who = f"{one.service}-{one.number} | " if len(found) > 1 else ""
            for line in log_of(engine, one, tail, times=True).splitlines():
                when, _, said = line.partition(" ")
                lines.append((when, f"{who}{said}"))
        lines.sort(key=lambda line: line[0])
        return "".join(f"{line}\n" for _, line in lines)

    def status(self) -> dict[str, Any]:
        """The services with their containers. Raises: UnknownStackError, HiveError."""
        engine = Engine.find()
        found = self._known(engine)
        return self._described(found)

    def standing(self) -> str:
        """What of the stack stands now, in a sentence, for who has been interrupted."""
        try:
            found = self._containers(Engine.find())
        except HiveError as error:
            return f"What of the stack {self.name} stands is not known: {error.message}"
        running = [one for one in found if one.runs]
        if not running:
            return f"Nothing of the stack {self.name} runs."
        return (
            f"Of the stack {self.name} there run {counted(running)}; `hive stack up --name "
            f"{self.name}` goes on, `hive stack down --name {self.name}` ends them."
        )

    def _described(self, found: list[Container]) -> dict[str, Any]:
        names = [one.service for one in found]
        if self.directory.exists():
            names = [*compose_file.services(self._file()), *names]
        return {
            "name": self.name,
            "directory": str(self.directory.path),
            "is_running": any(one.runs for one in found),
            "is_healthy": bool(found) and all(one.serves or one.is_done for one in found),
            "services": [
                {
                    "service": name,
                    "containers": [one.described() for one in found if one.service == name],
                }
                for name in dict.fromkeys(names)
            ],
        }

    def _file(self) -> dict[str, Any]:
        return compose_file.read(self.directory.text())

    def _containers(self, engine: Engine) -> list[Container]:
        found = containers_of(engine, self.name)
        check_same_directory(found, self.directory.path)
        return found

    def _known(self, engine: Engine) -> list[Container]:
        """The containers of a stack that is there, though it may be down."""
        found = self._containers(engine)
        if not found and not self.directory.exists():
            raise UnknownStackError(
                f"There is no stack {self.name} in {self.directory.path.parent}; "
                "`hive stack up` starts one."
            )
        return found

    def _checked(self, engine: Engine, candidate: Path) -> dict[str, Any]:
        """The compose file with all values in their places, and in order."""
        said = engine.compose(*self.directory.options(candidate), "config")
        if said.code:
            raise compose_file.refused(said.all)
        resolved = compose_file.read(said.out)
        compose_file.check_grace(resolved)
        compose_file.check_paths(resolved, self.directory.path)
        return resolved

    def _start(
        self, engine: Engine, resolved: dict[str, Any], before: list[Container], wishes: Wishes
    ) -> list[Container]:
        services = compose_file.services(resolved)
        scale = []
        if SPORE in services:
            now = sum(one.service == SPORE and one.runs for one in before)
            spores = wishes.spores if wishes.spores is not None else max(1, now)
            scale = ["--scale", f"{SPORE}={spores}"]
            services = [name for name in services if name != SPORE or spores]
        self._say(f"Starting the stack {self.name} …")
        # Those that run may be replaced, and have their time to stop first.
        within = wishes.timeout + longest_grace(before)
        until = time.monotonic() + within
        with self._nothing_half_started(engine, new=not before):
            self._compose_up(engine, scale, within)
            return wait_healthy(engine, self.name, services, until)

    def _compose_up(self, engine: Engine, scale: list[str], timeout: float) -> None:
        up = ["up", "--detach", "--no-build", "--remove-orphans", *scale]
        doing = f"The stack {self.name} could not be started"
        try:
            said = engine.compose(*self.directory.options(), *up, within=timeout)
        except OverdueError:
            late = [one.service for one in self._containers(engine) if not one.serves]
            raise StackPartlyError(
                f"The stack {self.name} was not up within {timeout:g} s; it waits for "
                f"{', '.join(sorted(set(late))) or 'the engine'}. `hive stack status` shows how "
                "far it is, --timeout waits longer."
            ) from None
        if said.code:
            why = why_not_started(engine, self.name)
            raise StackError(why) if why else engine.error(said, doing)

    @contextlib.contextmanager
    def _nothing_half_started(self, engine: Engine, *, new: bool) -> Iterator[None]:
        """Take down what a failed first start has left; what ran before stays as it is."""
        try:
            yield
        except StackPartlyError:
            raise
        except HiveError as error:
            if not new:
                raise
            self._remove(engine)
            raise type(error)(
                f"{error.message} Nothing of the stack was left running; its data are kept."
            ) from None

    def _remove(self, engine: Engine) -> None:
        found = self._containers(engine)
        if found:
            self._say(f"Ending the stack {self.name}; its spores finish what they run …")
        remove_containers(engine, found, last=BROKER)
        remove_networks(engine, self.name)
