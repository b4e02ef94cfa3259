"""The scanning process, seen from the task that has files to scan.

Why a process: a file must cost at most some seconds wherever the task runs, in a pool's process, a
thread or an item of a map, and whatever is in it. A regular expression and the parser are single
calls that nothing in their thread can end; a signal could end some, but only in a main thread,
whose alarms belong to the items there. A child has a main thread of its own and can be killed, and
where a file makes the parser overrun the stack, it is the child that dies.

A child scans many files: it starts in half a second, which one file is not worth.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

import psutil

from hive.errors import ScanError
from hive.tasks.findings import Finding, Skipped
from hive.tasks.scanner.cpu_limit import FILE_CPU

_LOOKS_EVERY = 200
"""Milliseconds between looks at what a file has cost so far."""
_COMMAND = (sys.executable, "-P", "-m", "hive.tasks.scanner.serving")
_idle: list[_ScanProcess] = []


def scan_file(file: Path) -> tuple[list[Finding], list[Skipped]]:
    """What the tools find in a file, and what they could not read of it, for at most 10 s of CPU.

    Raises: ScanError when no process for it can be started.
    """
    try:
        process = _idle.pop()
    except IndexError:
        process = _ScanProcess()
    findings: list[Finding] = []
    skipped: list[Skipped] = []
    try:
        for part in process.ask(file):
            findings += [Finding(**found) for found in part["findings"]]
            skipped += [Skipped(**left) for left in part["skipped"]]
    except BaseException:
        # A time limit, a revocation: its answer would be taken for the next file's.
        process.kill()
        raise
    if process.ended is None:
        _idle.append(process)
    else:
        skipped.append(Skipped(path=str(file), reason=process.ended, unread=True))
    return findings, skipped


class _ScanProcess:
    """One child. `ended`: why it ended in the midst of a file."""

    def __init__(self) -> None:
        self.ended: str | None = None
        path = os.pathsep.join(entry for entry in sys.path if entry)
        try:
            self._child = subprocess.Popen(
                _COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": path, "PYTHONUTF8": "1"},
            )
        except OSError as error:
            raise ScanError(f"The scanning process cannot be started: {error}.") from None
        self._paths = cast("IO[bytes]", self._child.stdin)
        self._answers = cast("IO[bytes]", self._child.stdout)

    def ask(self, file: Path) -> Iterator[dict[str, Any]]:
        """Have a file scanned: the parts of the answer as they come."""
        try:
            self._paths.write(json.dumps(str(file)).encode() + b"\n")
            self._paths.flush()
        except BrokenPipeError:
            self.ended = self._reason()
            return
        for line in self._lines():
            part: dict[str, Any] = json.loads(line)
            yield part
            if part["done"]:
                return
        self.ended = self.ended or self._reason()

    def _lines(self) -> Iterator[bytes]:
        """The lines that it writes, until it ends or has used up the CPU for a file."""
        began = self._cpu()
        ready = select.poll()
        ready.register(self._answers, select.POLLIN)
        rest = b""
        while True:
            while not ready.poll(_LOOKS_EVERY):
                if self._cpu() - began > FILE_CPU:
                    self.kill()
                    self.ended = f"not fully scanned: it takes more than {FILE_CPU} s of CPU"
                    return
            some = os.read(self._answers.fileno(), 1 << 20)
            if not some:
                return
            *lines, rest = (rest + some).split(b"\n")
            yield from lines

    def _cpu(self) -> float:
        """Seconds of CPU that it has used."""
        try:
            used = psutil.Process(self._child.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return used.user + used.system

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()
        self._close()

    def leave(self) -> None:
        """Let it go without waiting for it: it ends when its input does."""
        # There is no status to collect: in a process that was forked it is somebody else's child.
        self._child.returncode = 0
        self._close()

    def _close(self) -> None:
        for stream in (self._paths, self._answers):
            with suppress(OSError):
                stream.close()

    def _reason(self) -> str:
        code = self._child.wait()
        self._close()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        return f"not fully scanned: the scanning process {how}"


def end_all() -> None:
    """End the processes that wait for files."""
    while _idle:
        _idle.pop().kill()


def _leave_all() -> None:
    while _idle:
        _idle.pop().leave()


# A process that was forked has copies of the pipes; the children at their ends are not its own.
os.register_at_fork(after_in_child=_leave_all)
atexit.register(end_all)
