"""Running a task in place, without a message of its own, as Celery's tracer runs one for a message.

That takes some tens of microseconds, so it is done where somebody would notice the difference: the
task's class has a `__call__` or hooks of its own, or somebody listens to signals of tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import Task, signals, states
from celery._state import _task_stack  # type: ignore[attr-defined]  # as Task.__call__ does
from celery.app.task import Context
from celery.exceptions import Ignore, Reject, Retry

from hive.broker.channel.header import Header
from hive.logs import get_logger

log = get_logger(__name__)

_HOOKS = ("before_start", "on_success", "on_failure", "on_retry", "after_return")
_SIGNALS = (
    signals.task_prerun,
    signals.task_postrun,
    signals.task_success,
    signals.task_failure,
    signals.task_retry,
)


def is_noticed(task: Any) -> bool:
    """Whether somebody would notice that a task's `run` is called and nothing around it."""
    return (
        _is_own(task, "__call__")
        or any(_is_own(task, hook) for hook in _HOOKS)
        or any(signal.receivers for signal in _SIGNALS)
    )


def _is_own(task: Any, name: str) -> bool:
    """Whether a task has a method that is neither Celery's nor Hive's.

    Celery itself replaces `Task.__call__` in a worker, so it is asked for what it has now.
    """
    holder: Any = type(task) if name == "__call__" else task
    found = getattr(holder, name)
    found = getattr(found, "__func__", found)
    return getattr(found, "hive_covers", found) is not getattr(Task, name)


def request_in_place(task_id: str, node: str, header: Header) -> Context:
    """The request of a task that runs in place, without a message of its own.

    header: of the message under which it does. It says is_eager, as that of `Task.apply`, so that
    `self.retry` sends nothing.
    """
    return Context(
        id=task_id,
        hostname=node,
        args=(),
        kwargs={},
        root_id=task_id,
        called_directly=False,
        is_eager=True,
        delivery_info={"is_eager": True},
        **header.for_request(),
    )


class InPlace:
    """Runs one task in this thread, under one request after the other. A context manager.

    What the task's hooks raise is logged: it changes nothing of what became of the task.
    """

    def __init__(self, task: Any) -> None:
        self._task = task
        # Celery, too, calls `run` itself where a task has no `__call__` of its own.
        self._body: Callable[..., Any] = task if _is_own(task, "__call__") else task.run
        self._hooks = {hook: getattr(task, hook) for hook in _HOOKS if _is_own(task, hook)}
        self._covered: list[Context] = []

    def __enter__(self) -> InPlace:
        # A `__call__` that calls Celery's in turn keeps its request if that is the only one. There
        # are others where a task works on a job of itself.
        stack = self._task.request_stack
        while stack.stack:
            self._covered.append(stack.pop())
        _task_stack.push(self._task)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _task_stack.pop()
        while self._covered:
            self._task.request_stack.push(self._covered.pop())

    def run(self, request: Context) -> Any:
        """Returns: what the task returns. Raises: what it raises."""
        task, told = self._task, _told(request)
        args, kwargs = request.args or (), request.kwargs or {}
        state: str = states.FAILURE
        retval: Any = None
        task.request_stack.push(request)
        try:
            _send(signals.task_prerun, task, task=task, **told)
            try:
                if "before_start" in self._hooks:
                    task.before_start(*told.values())
                retval = self._body(*args, **kwargs)
            except Exception as error:
                retval = error
                state = self._tell_error(error, request)
                raise
            state = states.SUCCESS
            self._hook("on_success", retval, *told.values())
            _send(signals.task_success, task, result=retval)
            self._hook("after_return", state, retval, *told.values(), None)
            return retval
        finally:
            _send(signals.task_postrun, task, task=task, retval=retval, state=state, **told)
            task.request_stack.pop()

    def _tell_error(self, error: Exception, request: Context) -> str:
        """Returns: the state of a task that raised this."""
        if isinstance(error, Reject):
            return states.REJECTED
        if isinstance(error, Ignore):
            return states.IGNORED
        if isinstance(error, Retry):
            self._tell_retry(error, request)
            return states.RETRY
        self._tell_failure(error, request)
        return states.FAILURE

    def _tell_retry(self, reason: Retry, request: Context) -> None:
        if signals.task_retry.receivers or "on_retry" in self._hooks:
            info = _info(reason)
            self._hook("on_retry", reason.exc, *_told(request).values(), info)
            _send(signals.task_retry, self._task, request=request, reason=reason, einfo=info)

    def _tell_failure(self, error: Exception, request: Context) -> None:
        told = _told(request)
        if signals.task_failure.receivers or "on_failure" in self._hooks:
            info = _info(error)
            self._hook("on_failure", error, *told.values(), info)
            seen = {"exception": error, "traceback": error.__traceback__, "einfo": info}
            _send(signals.task_failure, self._task, **seen, **told)
        self._hook("after_return", states.FAILURE, error, *told.values(), None)

    def _hook(self, name: str, *args: Any) -> None:
        hook = self._hooks.get(name)
        if hook is None:
            return
        try:
            hook(*args)
        except Exception:
            log.exception("task_hook_failed", task=self._task.name, hook=name)


def _told(request: Context) -> dict[str, Any]:
    """What every hook and nearly every signal is told, in the hooks' order."""
    return {"task_id": request.id, "args": request.args, "kwargs": request.kwargs}


def _send(signal: Any, sender: Any, **told: Any) -> None:
    if signal.receivers:
        signal.send(sender=sender, **told)


def _info(error: BaseException) -> ExceptionInfo:
    return ExceptionInfo((type(error), error, error.__traceback__))
