"""For which message a thread works: that of its task, or of the task that started it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

from celery._state import _task_stack  # type: ignore[attr-defined]  # what current_task reads

from hive.broker.channel.header import Header

_begun: Callable[[], Any] = bool
"""The request of what the main thread has begun last; a pool process does one after the other. It
is gone when that has ended.
"""


def begins(request: Any) -> None:
    """A task begins to run in this thread."""
    global _begun  # noqa: PLW0603 - there is one main thread
    if threading.current_thread() is threading.main_thread():
        _begun = weakref.ref(request)


def request_in_hand() -> Any:
    """The request of the message that this thread works for: a task's own, or a puller's whose item
    runs. In another thread of a pool process it is that of the process's task.

    None outside of workers, also for a task that a program calls by itself.
    """
    for task in reversed(_task_stack.stack or ()):
        for request in reversed(task.request_stack.stack or ()):
            if _is_delivered(request):
                return request
    begun = None if threading.current_thread() is threading.main_thread() else _begun()
    return begun if begun and _is_delivered(begun) else None


def _is_delivered(request: Any) -> bool:
    header = Header.of_request(request)
    return header is not None and header.is_delivered
