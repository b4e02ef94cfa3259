"""The container engine, by its command line: which programs are there, and how they are run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hive.errors import HiveError
from hive.stack.errors import EngineUnreachableError
from hive.stack.said import error_of

ANSWERS_WITHIN = 30.0
"""Seconds after which an engine that says nothing counts as away."""
LOOKS_WITHIN = 120.0
ENDS_WITHIN = 10.0

# A stack is what its directory says, whoever starts, scales or ends it. So only what clients need
# to find the engine goes on to compose: were REDIS_PASSWORD or HIVE_DRAIN_TIMEOUT of somebody's
# shell to win over the stack's own file, a `scale` would start its services anew with other values.
_PASSED_ON = (
    "DOCKER_",
    "BUILDKIT_",
    "BUILDX_",
    "XDG_",
    "SSL_CERT_",
    "LC_",
)
_PASSED_ON_EXACTLY = frozenset(
    {"PATH", "HOME", "USER", "LANG", "TMPDIR", "SSH_AUTH_SOCK", "TERM"}
    | {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"}
)


@dataclass(frozen=True, slots=True)
class Said:
    """What a program has answered."""

    code: int
    out: str
    err: str

    @property
    def all(self) -> str:
        return f"{self.out}\n{self.err}"


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that answers, and the compose that speaks with it."""

    compose_command: tuple[str, ...]
    """`docker compose`, or `docker-compose` of 1.29."""

    @classmethod
    def find(cls) -> Engine:
        """Look for client, engine and compose.

        Raises: EngineUnreachableError saying which is missing, and what to do.
        """
        if shutil.which("docker") is None:
            raise EngineUnreachableError(
                "There is no `docker` on the path: install Docker (Debian: apt install docker.io "
                "docker-compose), or add its directory to PATH."
            )
        answer = run(["docker", "version", "--format", "{{.Server.Version}}"], ANSWERS_WITHIN)
        if answer.code:
            known = error_of(answer.all, "No container engine answers")
            raise (
                known
                if isinstance(known, EngineUnreachableError)
                else EngineUnreachableError(known.message)
            )
        if run(["docker", "compose", "version", "--short"], ANSWERS_WITHIN).code == 0:
            return cls(("docker", "compose"))
        if shutil.which("docker-compose") is not None:
            return cls(("docker-compose",))
        raise EngineUnreachableError(
            "The container engine is there, compose is not: install the plugin for `docker "
            "compose`, or docker-compose 1.29 (Debian: apt install docker-compose)."
        )

    def docker(
        self, *arguments: str, doing: str | None = None, within: float = LOOKS_WITHIN
    ) -> Said:
        """Run `docker`.

        doing: what was not done if it fails, for the error; None: the caller looks at the code.
        Raises: HiveError.
        """
        return _checked(run(["docker", *arguments], within), doing)

    def compose(
        self, *arguments: str, doing: str | None = None, within: float = LOOKS_WITHIN
    ) -> Said:
        """Run compose; as `docker`."""
        return _checked(run([*self.compose_command, *arguments], within), doing)

    @staticmethod
    def error(said: Said, doing: str) -> HiveError:
        """The error that stands for a failed answer."""
        return error_of(said.all, doing)

    def inspect(self, *names: str) -> list[dict[str, Any]]:
        """What the engine knows of these containers; those that have just gone are left out."""
        if not names:
            return []
        said = self.docker("inspect", "--type", "container", *names)
        if said.code and "no such" not in said.err.lower():
            raise error_of(said.all, "The containers cannot be looked at")
        found: list[dict[str, Any]] = json.loads(said.out or "[]")
        return found


def _checked(said: Said, doing: str | None) -> Said:
    if said.code and doing is not None:
        raise error_of(said.all, doing)
    return said


def environment() -> dict[str, str]:
    """What is passed on to client and compose."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_PASSED_ON) or name.upper() in _PASSED_ON_EXACTLY
    }


def run(command: Sequence[str], within: float) -> Said:
    """Run a program to its end, or end it: also when this one is interrupted.

    It is in a session of its own: a Ctrl-C reaches it through here, once, and not before the
    question of what stands can be asked.

    Raises: OverdueError when it takes longer than `within` seconds.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment(),
            start_new_session=True,
        )
    except OSError as error:
        raise EngineUnreachableError(f"{command[0]} cannot be run: {error}.") from None
    with _ended(process):
        try:
            out, err = process.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            raise OverdueError(
                f"`{' '.join(command[:2])}` was not done within {within:g} s; the container engine "
                "may be overloaded, or hang."
            ) from None
    return Said(process.returncode, out, err)


class OverdueError(HiveError):
    """The container engine does not answer in time."""

    exit_code = 3


@contextlib.contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Ends a program, and what it has started, when the work with it ends early."""
    try:
        yield
    except BaseException:
        for number in (signal.SIGINT, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=ENDS_WITHIN)
                break
        raise
