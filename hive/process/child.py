"""Child processes under supervision: in sessions of their own, and started again when they end."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hive.logs import get_logger
from hive.process.lifeline import Lifeline

log = get_logger(__name__)

FIRST_DELAY = 0.25
LONGEST_DELAY = 30.0
HEALTHY_AFTER = 60.0


class Backoff:
    """How long to wait before a process that ended is started again (seconds)."""

    def __init__(self) -> None:
        self._failures = 0

    def delay_after(self, ran_for: float) -> float:
        """The next delay: doubled with each early end up to LONGEST_DELAY, from the start again
        after HEALTHY_AFTER seconds of life.

        The upper half is random, so that the spores of a machine whose broker vanished do not all
        come back in the same instant.
        """
        if ran_for >= HEALTHY_AFTER:
            self._failures = 0
        longest = min(LONGEST_DELAY, FIRST_DELAY * 2.0**self._failures)
        self._failures = min(self._failures + 1, 16)
        return longest * random.uniform(0.5, 1.0)


class Child:
    """One process in a session of its own.

    A session of its own keeps a terminal's Ctrl-C and hang-up away from it (its supervisor hears
    them and decides), and makes it a process group that can be ended whole.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        output: Path | None = None,
        keeps: Sequence[int] = (),
    ) -> None:
        """Start it.

        environment: the whole environment; the lifeline's variable is added.
        output: file that its output is added to; None: this process's own.
        keeps: further descriptors that it inherits.

        Raises: OSError when the command cannot be started.
        """
        self._lifeline = Lifeline()
        try:
            self._process = _start(
                command,
                {**environment, **self._lifeline.environment},
                output,
                (*self._lifeline.pass_fds, *keeps),
            )
        except OSError:
            self._lifeline.cut()
            raise
        finally:
            self._lifeline.handed_over()
        self._code: int | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    def ended(self) -> int | None:
        """The exit code (negative: the signal's number) once it has ended, None before.

        What is left of its group is killed then: a pool process that outlived its worker would go
        on with a task that the cluster has already given to another node.
        """
        if self._code is None and self._is_over():
            # The group is killed before its leader is reaped, while its number is nobody else's.
            self.signal_group(signal.SIGKILL)
            self._code = self._process.wait()
            self._lifeline.cut()
        return self._code

    def signal(self, number: int) -> None:
        """Send a signal to the process alone; nothing when it has ended."""
        if self._code is None:
            # Popen.send_signal would not do, since it may reap the process. Until it is reaped, its
            # number belongs to no other.
            os.kill(self._process.pid, number)

    def signal_group(self, number: int) -> None:
        """Send a signal to the whole process group; nothing when the process has ended."""
        if self._code is None:
            # macOS answers EPERM for a group of which only the unreaped leader is left.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _is_over(self) -> bool:
        return (
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        )


class Respawning:
    """A child that is started anew whenever it ends; `tend` it in a loop."""

    def __init__(self, start: Callable[[], Child]) -> None:
        self._start = start
        self._backoff = Backoff()
        self._started_at = 0.0
        self._start_at = 0.0
        self.child: Child | None = None

    def tend(self, *, restart: bool = True) -> int | None:
        """Take note of an end, start the child when its time has come.

        restart: false once all is to end.

        Returns: the exit code of a child that has just ended, None when nothing happened.
        """
        now = time.monotonic()
        if self.child is not None:
            code = self.child.ended()
            if code is not None:
                self.child = None
                self._start_at = now + self._backoff.delay_after(now - self._started_at)
            return code
        if restart and now >= self._start_at:
            try:
                self.child = self._start()
                self._started_at = now
            except OSError as error:
                # The system has no process or no memory left just now.
                self._start_at = now + self._backoff.delay_after(0.0)
                log.error("child_not_started", error=str(error))
        return None

    def due_in(self) -> float | None:
        """Seconds until it is to be started again; None while it runs."""
        return None if self.child is not None else max(0.0, self._start_at - time.monotonic())


def _start(
    command: Sequence[str],
    environment: Mapping[str, str],
    output: Path | None,
    fds: tuple[int, ...],
) -> subprocess.Popen[bytes]:
    with contextlib.nullcontext() if output is None else output.open("ab") as file:
        return subprocess.Popen(
            command,
            env=environment,
            pass_fds=fds,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=None if file is None else subprocess.STDOUT,
        )
