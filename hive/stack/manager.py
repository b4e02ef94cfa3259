"""`StackManager`: a hive in containers, for programs. Each method answers `(ok, value or message)`
and raises nothing for what an engine says.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hive.errors import HiveError
from hive.settings import Settings
from hive.stack.containers import Container, all_containers, counted
from hive.stack.directory import DEFAULT_NAME, stacks_in
from hive.stack.engine import Engine
from hive.stack.errors import StackError
from hive.stack.image import Say
from hive.stack.stack import SPORE, TAIL, TIMEOUT, Stack, Wishes

T = TypeVar("T")


def stacks_directory(directory: Path | None = None) -> Path:
    """Where the stacks are: that directory, else HIVE_HOME/stacks. Raises: SettingsError."""
    return directory or Settings.load().hive_home / "stacks"


class StackManager:
    """Starts, watches and ends stacks: hives, or whatever a compose file holds.

    A stack has a directory of its own with its compose file, its config/ and its secrets.
    """

    def __init__(self, directory: Path | None = None, *, say: Say = lambda _line: None) -> None:
        """directory: of all stacks; HIVE_HOME/stacks by default.
        say: is told in a line what takes long.
        """
        self._directory = directory
        self._say = say

    def deploy_default_hive_stack(
        self,
        name: str = DEFAULT_NAME,
        *,
        spores: int | None = None,
        timeout: float = TIMEOUT,
        build: bool = False,
        wheels: Path | None = None,
    ) -> tuple[bool, str]:
        """Start Hive's own stack: broker, nexus, spores and Flower; wait until all are healthy.

        Its secrets are made at the first start and kept, its image is built where it is missing.

        spores: how many; None for as many as run, else one.
        timeout: seconds for all to become healthy, once the image is there.
        build: build the image also where it is there.
        wheels: a folder of wheels for the build, on a machine without a network.
        Returns: whether all of it is healthy, and a sentence.
        """

        def deploy() -> str:
            stack = self._stack(name)
            if stack.directory.has_own_file():
                raise StackError(
                    f"The stack {name} has a compose file of its own: give Hive's another name."
                )
            return _told(stack.up(None, wishes), name)

        wishes = Wishes(spores, timeout, build, wheels)
        return _answered(deploy)

    def deploy_stack(
        self, content: str, name: str, *, timeout: float = TIMEOUT
    ) -> tuple[bool, str]:
        """Start a stack of a compose file of one's own; wait until all of it is healthy.

        content: the compose file's text. Paths in it are those of the stack's directory.
        Returns: whether all of it is healthy, and a sentence.
        """
        return _answered(
            lambda: _told(self._stack(name).up(content, Wishes(timeout=timeout)), name)
        )

    def destroy_stack(self, name: str = DEFAULT_NAME, *, volumes: bool = False) -> tuple[bool, str]:
        """End a stack; its spores finish what they run first.

        volumes: remove its data too, accepted tasks among them, and its secrets.
        Returns: whether nothing of it runs, and a sentence.
        """

        def destroy() -> str:
            kept = self._stack(name).down(volumes=volumes)
            return f"The stack {name} has ended." + (
                f" Its volumes are kept: {', '.join(kept)}." if kept else ""
            )

        return _answered(destroy)

    def scale_service(
        self, name: str, service: str = SPORE, number: int = 1, *, timeout: float = TIMEOUT
    ) -> tuple[bool, str]:
        """Run so many containers of a service; those too many finish what they run.

        Returns: whether they all are healthy, and a sentence.
        """

        def scale() -> str:
            found = self._stack(name).scale(service, number, timeout=timeout)
            return f"Of the stack {name} there run {counted(found) or f'{service} 0'}."

        return _answered(scale)

    def get_service_logs(
        self, stack: str = DEFAULT_NAME, service: str | None = None, tail: int = TAIL
    ) -> tuple[bool, str]:
        """The last lines of a service's log, or of all services'.

        tail: lines of each container.
        Returns: whether there is such a service, and the lines or a sentence.
        """
        return _answered(lambda: self._stack(stack).logs(service, tail))

    def get_running_stacks(self) -> tuple[bool, list[dict[str, Any]] | str]:
        """The stacks of this directory of which something runs.

        Returns: whether the engine answers, and a list of `name` `directory` `services`
            (containers that run, by service), or a sentence.
        """

        def look() -> list[dict[str, Any]]:
            directory = stacks_directory(self._directory)
            running = [one for one in all_containers(Engine.find()) if one.runs]
            stacks = [Stack(directory, name) for name in stacks_in(directory)]
            return [
                {
                    "name": stack.name,
                    "directory": str(stack.directory.path),
                    "services": services,
                }
                for stack in stacks
                if (services := _services(stack, running))
            ]

        return _answered(look)

    def get_stack_status(self, name: str = DEFAULT_NAME) -> tuple[bool, dict[str, Any] | str]:
        """The services of a stack with their containers.

        Returns: whether there is such a stack, and `name` `directory` `is_running` `is_healthy`
            `services` (each with `service` and `containers`), or a sentence.
        """
        return _answered(lambda: self._stack(name).status())

    def _stack(self, name: str) -> Stack:
        return Stack(stacks_directory(self._directory), name, self._say)


def _services(stack: Stack, running: list[Container]) -> dict[str, int]:
    services: dict[str, int] = {}
    for one in running:
        if one.stack == stack.name and one.directory == str(stack.directory.path):
            services[one.service] = services.get(one.service, 0) + 1
    return services


def _told(found: list[Container], name: str) -> str:
    return f"The stack {name} is up: {counted(found)}."


def _answered(do: Callable[[], T]) -> tuple[bool, T | str]:
    try:
        return True, do()
    except HiveError as error:
        return False, error.message
