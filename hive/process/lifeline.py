"""The lifeline: a pipe that tells a process of its parent's end, however that ended.

The supervisor alone holds the write end and never writes; the kernel closes it even when the
supervisor is killed, and the child reads end of file. PR_SET_PDEATHSIG would not do: it fires when
the thread that started the child ends.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable

from hive.logs import get_logger

log = get_logger(__name__)

FD_VARIABLE = "HIVE_SUPERVISOR_FD"


class Lifeline:
    """The supervisor's side, one for each child: start the child with `environment` and `pass_fds`,
    then call `handed_over`.
    """

    def __init__(self) -> None:
        # A child inherits only descriptors that are named to it (PEP 446): none holds a write end.
        self._reader, self._writer = os.pipe()

    @property
    def environment(self) -> dict[str, str]:
        return {FD_VARIABLE: str(self._reader)}

    @property
    def pass_fds(self) -> tuple[int, ...]:
        return (self._reader,)

    def handed_over(self) -> None:
        """Close the read end here; the child has its own."""
        os.close(self._reader)

    def cut(self) -> None:
        """Tell the child to drain and end."""
        os.close(self._writer)


def supervisor_fd() -> int | None:
    """The read end that this process's supervisor passed on; None for a process without one."""
    return inherited_fd(FD_VARIABLE)


def inherited_fd(variable: str) -> int | None:
    """The pipe whose descriptor an environment variable names; None without one."""
    number = os.environ.get(variable, "")
    if not number.isdigit():
        return None
    try:
        return int(number) if stat.S_ISFIFO(os.fstat(int(number)).st_mode) else None
    except OSError:
        return None


def watch_supervisor(fd: int, on_eof: Callable[[], object]) -> threading.Thread:
    """Call `on_eof` once, in a thread of its own, when the supervisor is gone.

    fd: the read end, as given by HIVE_SUPERVISOR_FD; not inherited any further from here.

    Returns: the thread, already running; it never keeps the process alive.
    """

    def watch() -> None:
        # Nothing is ever written to the pipe. Any end of the reading, an error too, means that
        # nobody watches over this process.
        try:
            os.set_inheritable(fd, False)
            while os.read(fd, 64):
                pass
        except OSError as error:
            log.warning("lifeline_lost", fd=fd, error=str(error))
        log.info("supervisor_gone", fd=fd)
        on_eof()

    # The lifeline is the worker's alone: a pool process, or what a task starts there, must not find
    # the variable and take some other pipe of that number for its own.
    os.register_at_fork(after_in_child=lambda: os.environ.pop(FD_VARIABLE, None))
    thread = threading.Thread(target=watch, name="hive-lifeline", daemon=True)
    thread.start()
    return thread
