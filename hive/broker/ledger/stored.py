"""Results as an application's result backend has them, whichever that is.

Hive's own tells all that Celery's interface can ask. An application may have kept another, and not
every one answers everybody: what cannot be asked is refused in a sentence.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery, states
from celery.backends.base import DisabledBackend
from celery.backends.redis import RedisBackend
from celery.backends.rpc import RPCBackend
from celery.exceptions import SecurityError, TimeoutError

from hive.broker.link.client import client_of
from hive.broker.link.scripts import Script
from hive.errors import HiveError, TaskFailedError
from hive.logs import get_logger

log = get_logger(__name__)

FORGET_RESULT = Script("hive.broker.ledger", "forget_result")
NO_FAILURE = (ValueError, TypeError, KeyError, AttributeError, SecurityError)
"""What Celery raises for a stored failure that is none to it."""
_INSTEAD = "leave result_backend unset for Hive's, or choose one that keeps results"


def require_results(app: Celery, what: str) -> None:
    """Raise HiveError where what needs the results of tasks cannot have them.

    what: the call that needs them.
    """
    why = _unreadable(app)
    if why is not None:
        raise HiveError(f"{what} needs the results of tasks, but {why}; {_INSTEAD}.")


def stored_meta(app: Celery, task_id: str) -> dict[str, Any] | None:
    """The stored result's meta, as Celery decodes it.

    None when nothing is stored, or the result backend tells nobody (`require_results`).

    Raises: HiveError when it cannot be asked; redis-py's errors where that is the broker.
    """
    if _unreadable(app) is not None:
        return None
    backend: Any = app.backend
    try:
        with asking(app):
            meta: dict[str, Any] = backend.get_task_meta(task_id, cache=False)
    except NO_FAILURE as odd:
        error = TaskFailedError(f"What it stored of its failure cannot be read ({odd}).")
        return {"task_id": task_id, "status": states.FAILURE, "result": error}
    return meta if _is_there(backend, meta) else None


def _is_there(backend: Any, meta: dict[str, Any]) -> bool:
    """Whether something is stored: of what is not there Celery says PENDING, some backends with all
    fields, empty.
    """
    return "task_id" in meta and (
        isinstance(backend, RedisBackend) or meta["status"] != states.PENDING
    )


@contextmanager
def asking(app: Celery) -> Iterator[None]:
    """Within, the application's result backend is asked.

    Raises: HiveError for what a backend that is not on the broker raises when it is away.
    """
    try:
        yield
    except HiveError:
        raise
    except (TimeoutError, *NO_FAILURE):
        raise
    except Exception as error:
        if getattr(app.backend, "url", None) == client_of(app).url:
            raise  # it is the broker that is away
        raise HiveError(
            f"The application's result backend {_name(app)} cannot be asked "
            f"({type(error).__name__}: {error})."
        ) from error


def stored_result(app: Celery, task_id: str) -> Any:
    """What the result backend holds for a task, for `forget_failure`; None when nothing is."""
    backend: Any = app.backend
    if isinstance(backend, RedisBackend):
        with asking(app):
            return backend.get(backend.get_key_for_task(task_id))
    return stored_meta(app, task_id)


def decoded(app: Celery, stored: Any) -> dict[str, Any]:
    """The meta in what `stored_result` gave."""
    backend: Any = app.backend
    meta: dict[str, Any] = (
        backend.decode_result(stored) if isinstance(backend, RedisBackend) else stored
    )
    return meta


def forget_failure(app: Celery, task_id: str, stored: Any) -> None:
    """Forget a stored failure that was read before: who waits for the new run would get it.

    A success is kept, and one that was stored meanwhile: the new run is on its way already.
    """
    backend: Any = app.backend
    if isinstance(backend, RedisBackend):
        if decoded(app, stored)["status"] != states.SUCCESS:
            with asking(app):
                FORGET_RESULT(backend.client, (backend.get_key_for_task(task_id),), (stored,))
        return
    now = stored_meta(app, task_id)
    if now is None or now["status"] == states.SUCCESS or not _is_same(now, stored):
        return
    try:
        backend.forget(task_id)
    except Exception as error:  # noqa: BLE001 - not every backend can; the task is sent already
        log.warning("failure_not_forgotten", task_id=task_id, error=str(error))


def _is_same(now: dict[str, Any], before: dict[str, Any]) -> bool:
    return all(now.get(name) == before.get(name) for name in ("status", "date_done"))


def _unreadable(app: Celery) -> str | None:
    """Why a task's result cannot be read by its id, in this process; None where it can."""
    try:
        backend: Any = app.backend
    except Exception as error:  # noqa: BLE001 - one that cannot be made raises anything
        return f"the application's result backend cannot be used ({error})"
    if isinstance(backend, DisabledBackend):
        return "the application's result backend is disabled"
    if isinstance(backend, RPCBackend):
        return "rpc:// gives a result only to the program that sent the task"
    if getattr(backend, "backend", None) == "memory":
        return f"{_name(app)} keeps a result in the memory of the process that ran the task"
    return None


def _name(app: Celery) -> str:
    """The backend's address, without a password."""
    return str(app.backend.as_uri())
