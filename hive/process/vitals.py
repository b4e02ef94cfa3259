"""The vitals of a supervisor or a nexus: one small file in HIVE_HOME that it writes anew at each
turn of its loop, for `hive health`.

Whoever reads them asks nobody: neither the process, which may be busy, nor its broker, which may be
away. That the process lives is told by the kernel, which holds the file's lock for just as long
(flock(2)); so no record is wrong after a crash, and no process id is taken for that of another. A
file has a fixed length and is written in place, which a full disk does not hinder.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

DIRECTORY = "vitals"
LENGTH = 1024
TURN_WITHIN = 15.0
"""Seconds within which a loop turns at least; it never waits longer than 5 in one go."""
LOCK_WITHIN = 1.0
MACHINES_OWN = "pid:[4026531836]"
"""The namespace of pids outside of all containers, by the kernel's fixed number."""

Kind = Literal["spore", "nexus"]
State = Literal[
    "starting", "working", "waiting", "draining", "stopping", "restarting", "hanging", "ended"
]

SICK: frozenset[State] = frozenset({"restarting", "hanging", "ended"})
READY: frozenset[State] = frozenset({"working", "waiting"})
"""While its broker is away a process is as ready as it can be: a new one would wait as well."""

_WORDS: dict[State, str] = {
    "starting": "is starting",
    "working": "takes work",
    "waiting": "waits for its broker",
    "draining": "drains, and takes nothing until `hive node resume`",
    "stopping": "was told to stop, and finishes what it runs",
    "restarting": "is starting again",
    "hanging": "hangs, and is ended and started again",
    "ended": "has ended without a word; start it again",
}


class Vitals(NamedTuple):
    """What one process has left.

    node: `name@host`. space: the machine or container in which it runs, by which those of other
    containers that share HIVE_HOME are known. detail: why, or for what; "" where nothing is to be
    added. turned: when its loop last turned, in seconds of `time.monotonic`.
    """

    kind: Kind
    node: str
    pid: int
    space: str
    state: State
    detail: str
    turned: float

    @property
    def name(self) -> str:
        return self.node.partition("@")[0]

    @property
    def frozen_for(self) -> float:
        """Seconds beyond what a loop may take for a turn; 0 where it turns."""
        silence = time.monotonic() - self.turned
        return silence if silence > TURN_WITHIN and self.state != "ended" else 0.0

    @property
    def healthy(self) -> bool:
        return self.state not in SICK and not self.frozen_for

    @property
    def ready(self) -> bool:
        """Whether it is healthy, and neither starts nor drains."""
        return self.healthy and self.state in READY

    @property
    def sentence(self) -> str:
        """How it is, for people."""
        if self.frozen_for:
            words = f"has not turned its loop for {self.frozen_for:.0f} s (pid {self.pid})"
        else:
            words = in_words(self.state, self.detail)
        return f"{self.kind} {self.node} {words}."


def in_words(state: State, detail: str = "") -> str:
    """What a process does, without its name."""
    return _WORDS[state] + (f" ({detail})" if detail else "")


class VitalsFile:
    """The writer's side: `write` at each turn, `close` at an end in good order."""

    def __init__(
        self,
        home: Path,
        kind: Kind,
        name: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """home: HIVE_HOME. name: the node's, with or without "@host".

        Where the file cannot be had the process goes on without, and says so in its log.
        """
        node = name if "@" in name else f"{name}@{os.uname().nodename}"
        self._first = Vitals(kind, node, os.getpid(), _space(), "starting", "", clock())
        self._path = home / DIRECTORY / f"{node}.{kind}.json"
        self._clock = clock
        self._warned = ""
        self._fd: int | None = None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = _locked(self._path)
            if self._fd is None:
                self._warn("vitals_taken", "another process writes them")
            else:
                _sweep(self._path.parent)
        except OSError as error:
            self._warn("vitals_not_kept", str(error))

    def write(self, state: State, detail: str = "") -> None:
        """Say that the loop turns, and in which state the process is."""
        if self._fd is None:
            return
        told = self._first._replace(state=state, detail=detail, turned=self._clock())
        try:
            os.pwrite(self._fd, _packed(told), 0)
        except OSError as error:
            self._warn("vitals_not_kept", str(error))

    def _warn(self, event: str, why: str) -> None:
        """Say it once. Logging is imported here: who only reads vitals has no use for it, and would
        cost half as much again.
        """
        if why != self._warned:
            from hive.logs import get_logger

            self._warned = why
            get_logger(__name__).warning(event, path=str(self._path), error=why)

    def close(self) -> None:
        """Take the file away: the process ends because it was told to."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(self._fd)
            self._fd = None


def read(home: Path) -> list[Vitals]:
    """What the processes of this machine, or this container, have left in a HIVE_HOME, by name.

    Raises: OSError where it is there and cannot be read.
    """
    found = (_read(path) for path in sorted((home / DIRECTORY).glob("*.json")))
    return [vitals for vitals in found if vitals is not None and vitals.space == _space()]


def _read(path: Path) -> Vitals | None:
    """One file; None where it has just gone, or is nobody's."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        try:
            vitals = Vitals(**json.loads(os.pread(file.fileno(), LENGTH, 0)))
        except (ValueError, TypeError):
            return None  # begun and not yet written, or another release's
        return vitals if _is_held(file.fileno()) else vitals._replace(state="ended", detail="")


def _packed(vitals: Vitals) -> bytes:
    """It in LENGTH bytes: a detail that is too long loses its end."""
    for keep in (LENGTH, LENGTH // 2, LENGTH // 4, LENGTH // 8, 0):
        cut = vitals._replace(detail=vitals.detail[:keep])
        line = json.dumps(cut._asdict(), ensure_ascii=False).encode(errors="replace")
        if len(line) <= LENGTH:
            return line.ljust(LENGTH)
    raise OSError(f"The node's name is too long: {vitals.node!r:.80}")


def _locked(path: Path) -> int | None:
    """The file, locked for this process; None where another one holds it.

    A reader holds the lock for the moment in which it looks whether somebody else does.
    """
    for _ in _tries():
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_ino == path.stat().st_ino:  # nobody has swept it away meanwhile
                return fd
        os.close(fd)
    return None


def _tries() -> Iterator[None]:
    end = time.monotonic() + LOCK_WITHIN
    yield
    while time.monotonic() < end:
        time.sleep(0.02)
        yield


def _is_held(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _sweep(directory: Path) -> None:
    """Remove what containers have left that are gone, and what is of an earlier boot."""
    for path in directory.glob("*.json"):
        vitals = _read(path)
        if vitals is None or vitals.state != "ended":
            continue
        if vitals.space != _space() or vitals.turned > time.monotonic():
            with contextlib.suppress(OSError):
                path.unlink()


def _space() -> str:
    """The machine or container of this process: its namespace of pids, and of a container its host
    name, too, since the kernel gives the number of a namespace that is gone to the next one.
    """
    try:
        pids = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
    return pids if pids == MACHINES_OWN else f"{pids}@{os.uname().nodename}"
