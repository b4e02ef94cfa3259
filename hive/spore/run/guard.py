"""Around the tasks of a worker: one that calls `sys.exit` has ended, and has not died."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from types import CoroutineType
from typing import Any

from celery import Task

from hive.exits import ended
from hive.spore.run.awaited import value_of


def guard(tasks: Iterable[Any]) -> None:
    """Let whatever these tasks raise be their result, and not their process's end.

    It is done before the pool forks, and before Celery prepares to run them. It lies around all
    else, so that `autoretry_for=(Exception,)` takes an exit for no Exception, as in plain Celery.
    """
    for task in tasks:
        # Celery itself replaces `Task.__call__` in a worker, so it is asked for what it has now.
        if type(task).__call__ is not Task.__call__:
            type(task).__call__ = _guarded(task, type(task).__call__)
        else:
            task.run = _guarded(task, task.run)


def _guarded(task: Any, run: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            value = run(*args, **kwargs)
            # It is an `async def` under a decorator that does not say so.
            return value_of(task, value) if type(value) is CoroutineType else value
        except Exception:
            raise
        except BaseException as error:
            request = task.request_stack.top
            if request is None or request.called_directly:
                raise  # another task calls it like a function, and hears what a function raises
            return ended(error)

    return guarded
