"""A hive in the background: `hive up --detach` starts one, `hive down` ends one."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

from hive import errors
from hive.errors import HiveError
from hive.local.state_directory import StateDirectory
from hive.local.state_files import directory_errors, last_lines
from hive.logs import get_logger

log = get_logger(__name__)

READY_FD = "HIVE_READY_FD"

# In seconds, as all that follow. A start has deadlines of its own, which are shorter.
READY_WITHIN = 600.0
STOP_WITHIN = 22.0
KILL_WITHIN = 4.0
# How long the spores of a killed `hive up` may drain by themselves.
DRAIN_WITHIN = 20.0


class ReadyPipe:
    """The detached process's side: tells the command that waits for it how the start went."""

    def __init__(self) -> None:
        number = os.environ.pop(READY_FD, "")
        self._fd = int(number) if number.isdigit() else None

    @property
    def detached(self) -> bool:
        return self._fd is not None

    def ready(self, told: Mapping[str, Any]) -> None:
        self._tell({"ready": told})

    def failed(self, error: HiveError) -> None:
        self._tell({"error": {"kind": type(error).__name__, "message": error.message}})

    def _tell(self, message: Mapping[str, Any]) -> None:
        if self._fd is not None:
            os.write(self._fd, json.dumps(message).encode())
            os.close(self._fd)
            self._fd = None


def start_detached(state: StateDirectory, arguments: Sequence[str]) -> dict[str, Any]:
    """Run `hive up` with these arguments in a session of its own, its output in hive.log, and wait
    until it is ready.

    The new process has no terminal, and the system's first process adopts it when this command
    ends: that is what a double fork is for.

    Returns: what the new process told when it was ready. Raises: the error with which it failed. An
        interrupt ends the new process.
    """
    state.prepare()
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "hive", "up", *arguments]
    with directory_errors(state.path):
        output = state.log_file.open("ab")
    with output:
        process = subprocess.Popen(
            command,
            env={**os.environ, READY_FD: str(writer)},
            pass_fds=(writer,),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    os.close(writer)
    try:
        message = _hear(reader)
    except BaseException:
        process.terminate()
        _wait_for(process)
        raise
    finally:
        os.close(reader)
    if "ready" in message:
        # The new process lives on; with a return code set, subprocess does not wait for it.
        process.returncode = 0
        ready: dict[str, Any] = message["ready"]
        return ready
    _wait_for(process)
    raise _error(message.get("error"), state)


def end(state: StateDirectory) -> bool:
    """End the hive of a state directory, and what a killed one left behind, within 30 seconds.

    Returns: whether anything ran. Raises: HiveError when something could not be ended.
    """
    ran = state.in_use()
    if ran and not _end_holder(state):
        raise HiveError(
            f"The `hive up` of {state.path} could not be ended; {state.log_file} may say why."
        )
    left = state.processes()
    # A `hive up` that ends by itself ends all its processes. Those still there are what a killed
    # one left: they drain by themselves, but are not waited for for ever.
    state.end_processes(
        patience=0.0 if ran else DRAIN_WITHIN, within=(0.0 if ran else DRAIN_WITHIN) + KILL_WITHIN
    )
    if not state.in_use():
        state.forget()
    return ran or bool(left)


def _end_holder(state: StateDirectory) -> bool:
    """Ask the `hive up` that holds the lock to stop, then kill it. Returns: whether it is gone."""
    asked: psutil.Process | None = None
    start = time.monotonic()
    while state.in_use() or _lives(asked):
        waited = time.monotonic() - start
        if waited > STOP_WITHIN + KILL_WITHIN:
            return False
        holder = state.holder()
        try:
            if holder is not None and waited > STOP_WITHIN:
                log.warning("hive_up_killed", pid=holder.pid)
                holder.kill()
            elif holder is not None and holder != asked:
                holder.terminate()
                asked = holder
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.05)
    return True


def _lives(process: psutil.Process | None) -> bool:
    """Whether a process still runs: the lock is free a moment before its holder is gone."""
    try:
        return (
            process is not None
            and process.is_running()
            and process.status() != psutil.STATUS_ZOMBIE
        )
    except psutil.NoSuchProcess:
        return False


def _hear(reader: int) -> dict[str, Any]:
    """Read the one message; an empty one when the process ended without a word.

    Raises: HiveError when none comes in time.
    """
    text = b""
    end = time.monotonic() + READY_WITHIN
    while select.select([reader], [], [], max(0.0, end - time.monotonic()))[0]:
        part = os.read(reader, 65536)
        if not part:
            heard: dict[str, Any] = json.loads(text) if text else {}
            return heard
        text += part
    raise HiveError(f"The hive was not ready within {READY_WITHIN:.0f} s.")


def _wait_for(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_WITHIN)


def _error(told: Mapping[str, str] | None, state: StateDirectory) -> HiveError:
    if told is None:
        return HiveError(f"The hive ended while it was starting. {last_lines(state.log_file)}")
    kind = getattr(errors, told["kind"], HiveError)
    made: HiveError = kind(told["message"])
    return made
