"""Failures that tasks state in their own words, as `update_state(state="FAILURE", meta={…})` does.

Celery stores the meta as it comes, and whoever then asks for the result gets an error about it. A
stated failure is stored here with what makes it an exception to Celery, too, and one that another
program stored is read as one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from celery.states import EXCEPTION_STATES

from hive.errors import TaskFailedError

_ADDED = ("exc_type", "exc_message", "exc_module")


def as_failure(result: Any, state: Any) -> Any:
    """What to store for a state: of a failure that is no exception, one that also is.

    A meta's own fields stay beside what is added.
    """
    if state not in EXCEPTION_STATES or isinstance(result, BaseException) or _is_exception(result):
        return result
    fields = result if isinstance(result, dict) else {"meta": result}
    error = TaskFailedError(_text(result))
    added = (type(error).__name__, [error.message], type(error).__module__)
    return {**fields, **dict(zip(_ADDED, added, strict=True))}


def as_exception(stored: Any, to_python: Callable[[Any], Any]) -> Any:
    """The exception that is stored for a failure, whoever stored it, and in what form.

    to_python: Celery's own reading.
    """
    if isinstance(stored, BaseException):
        return to_python(stored)
    if not _is_exception(stored):
        return TaskFailedError(_text(stored), meta=stored)
    try:
        error = to_python(stored)
    except Exception as refused:  # noqa: BLE001 - it names what is no exception, or is no name
        return TaskFailedError(str(refused), meta=stored)
    if isinstance(error, TaskFailedError):
        fields = {name: value for name, value in stored.items() if name not in _ADDED}
        error.meta = fields.get("meta") if fields.keys() == {"meta"} else fields or None
    return error


def update_state(original: Callable[..., Any]) -> Callable[..., Any]:
    """Around `Task.update_state`, for result backends that are not Hive's."""

    def update_state(
        self: Any, task_id: Any = None, state: Any = None, meta: Any = None, **options: Any
    ) -> Any:
        return original(self, task_id, state, as_failure(meta, state), **options)

    return update_state


def _is_exception(stored: Any) -> bool:
    """Whether Celery can make an exception of it."""
    return isinstance(stored, dict) and isinstance(stored.get("exc_type"), str)


def _text(meta: Any) -> str | None:
    """What a person reads of a meta; None where it says nothing."""
    if isinstance(meta, str):
        return meta or None
    if meta is None or meta == {}:
        return None
    try:
        return json.dumps(meta, ensure_ascii=False, default=str)
    except (TypeError, ValueError):
        return str(meta)
