"""Tasks that are an `async def`: Celery gets their value instead of a coroutine."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from celery._state import _task_stack  # type: ignore[attr-defined]  # as Task.__call__ does
from pydantic import BaseModel

from hive import coroutines

_CELERYS_MAPS = frozenset({"celery.map", "celery.starmap"})


def awaited(
    run: Callable[..., Any], task_of: Callable[[tuple[Any, ...]], Any]
) -> Callable[..., Any]:
    """The function of a task, which gives Celery a value instead of a coroutine.

    run: an `async def`, or what decorates one. task_of: whose it is, from the arguments of a call.

    Who calls the task like a function gets what the function gives: a coroutine to await. The
    values come where Celery runs it: in a worker, as a job's item, and in place (`apply`).
    """

    @functools.wraps(run)
    def run_awaited(*args: Any, **kwargs: Any) -> Any:
        return value_of(task_of(args), run(*args, **kwargs))

    return run_awaited


def value_of(task: Any, returned: Any) -> Any:
    """What a task gives Celery when its `run` has returned that: of a coroutine its value."""
    if not inspect.isawaitable(returned):
        return returned
    request = _celerys_request(task)
    if request is None:
        return returned
    coroutine = coroutines.coroutine_of(returned)
    if not coroutines.runs_in_this_thread():
        coroutine = _Elsewhere(coroutine, task)
    request.hive_awaited = True
    try:
        value = coroutines.run(coroutine)
    finally:
        request.hive_awaited = False
    # Celery's option `pydantic` has looked at the coroutine, and found no model.
    is_model = isinstance(value, BaseModel) and task._dump_pydantic_arguments is not None
    return value.model_dump(mode="json") if is_model else value


def _celerys_request(task: Any) -> Any:
    """The request for which Celery calls the task; None where it is called like a function.

    A `__call__` that calls Celery's adds a request of its own, and so does a function call; what
    Celery runs for a request, it runs once, but for its own maps (`task.map`, `starmap`, `chunks`),
    which call their task like a function for each of their items, one after the other.
    """
    for request in reversed(task.request_stack.stack):
        if not request.called_directly:
            return _not_awaited(request)
    for caller in reversed(_task_stack.stack):
        if caller.name != task.name:
            return _not_awaited(caller.request_stack.top) if caller.name in _CELERYS_MAPS else None
    return None


def _not_awaited(request: Any) -> Any:
    return None if getattr(request, "hive_awaited", False) else request


class _Elsewhere(Coroutine[Any, Any, Any]):
    """A task's coroutine in another thread, where the task has its request, too, and is the current
    task: Celery keeps both by the thread. Other coroutines may have their turns in between.
    """

    def __init__(self, inner: Coroutine[Any, Any, Any], task: Any) -> None:
        self._inner = inner
        self._task = task
        self._request = task.request_stack.top

    def send(self, value: Any) -> Any:
        return self._step(self._inner.send, value)

    def throw(self, *error: Any) -> Any:
        return self._step(self._inner.throw, *error)

    def _step(self, step: Callable[..., Any], *given: Any) -> Any:
        _task_stack.push(self._task)
        self._task.request_stack.push(self._request)
        try:
            return step(*given)
        finally:
            self._task.request_stack.pop()
            _task_stack.pop()

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner.__await__()
