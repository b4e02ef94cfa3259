"""What it means when a task raises what is no Exception.

`sys.exit` is how command lines end (click's, argparse's), and so how a task ends that wraps one.
Celery passes it on to the pool, which takes the process for lost: the task would run again.
"""

from __future__ import annotations

from billiard.common import terminate_handler_fired  # type: ignore[attr-defined]
from celery.exceptions import WorkerShutdown, WorkerTerminate

from hive.errors import TaskExitError


def ended(error: BaseException) -> None:
    """The value of a task that ended by `sys.exit()` or `sys.exit(0)`: None.

    error: what it raised.
    Raises: TaskExitError for another exit code, and for whatever else is no Exception;
        the error itself for an Exception, and where the process was told to end.
    """
    if isinstance(error, Exception) or ends_the_process(error):
        raise error
    if isinstance(error, SystemExit) and not error.code and not isinstance(error.code, str):
        return
    raise TaskExitError(_said(error)) from error


def ends_the_process(error: BaseException) -> bool:
    """Whether the pool or the worker told this process to end, and not the task itself."""
    if isinstance(error, WorkerShutdown | WorkerTerminate):
        return True
    return isinstance(error, SystemExit) and terminate_handler_fired()


def _said(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        code = error.code
        if isinstance(code, int):
            return f"The task exited with code {code} (SystemExit)."
        # So Python ends a program: it prints the text, and its exit code is 1.
        return f"The task exited with code 1 (SystemExit): {code}"
    kind = type(error).__name__
    return f"The task raised {kind}: {error}" if str(error) else f"The task raised {kind}."
