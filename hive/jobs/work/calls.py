"""Calling a skill for each item of a lease.

The task's context is pushed once; then each item costs little more than its own run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from celery import Celery
from celery._state import _task_stack  # type: ignore[attr-defined]  # as Task.__call__ does
from celery.app.task import Context
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from hive.broker.channel.header import Header
from hive.errors import InvalidInputError, TaskExitError
from hive.exits import ended
from hive.jobs.state.outcomes import Status, error_text
from hive.jobs.state.plan import Call
from hive.jobs.work.again import Arguments, is_sent_again, retrial_of
from hive.jobs.work.in_place import InPlace, is_noticed, request_in_place
from hive.jobs.work.lease_size import OVERDUE
from hive.jobs.work.leases import Lease
from hive.jobs.work.leftovers import FEW, LONG
from hive.jobs.work.time_limit import ItemInterrupted, TimeLimit
from hive.skills import find_skill


class SkillCalls:
    """Runs a skill's task for items as a worker runs it for messages. A context manager.

    Where nobody would notice the difference only the task's `run` is called, under one request that
    goes from item to item; else each item has all of it (InPlace).
    """

    def __init__(
        self,
        app: Celery,
        call: Call,
        job_id: str,
        node: str,
        limit: TimeLimit,
        *,
        header: Header,
    ) -> None:
        """header: of the puller's message, under which the items run.

        Raises: KeyError when this process does not know the task.
        """
        self._task: Any = app.tasks[call.name]
        self._app = app
        self._skill = find_skill(self._task)
        self._shared = call
        self._job_id = job_id
        self._limit = limit
        self._request = request_in_place(job_id, node, header)
        self._in_place = InPlace(self._task) if is_noticed(self._task) else None

    def __enter__(self) -> SkillCalls:
        if self._in_place is not None:
            self._in_place.__enter__()
            return self
        _task_stack.push(self._task)
        self._task.request_stack.push(self._request)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._in_place is not None:
            self._in_place.__exit__(kind, error, traceback)
            return
        self._task.request_stack.pop()
        _task_stack.pop()

    def work(self, lease: Lease, *, whole: bool) -> None:
        """Run the lease's items until all are done, or it is cut, or (unless `whole`) overdue.

        Returns: nothing; `lease.results` has what was done.
        """
        call = self._call(lease)
        values, micros = lease.results.values, lease.results.micros
        limit, clock = self._limit, time.perf_counter
        put_back, few = limit.leftovers.put_back, len(lease.items) <= FEW
        overdue = lease.started + OVERDUE
        last = clock()
        for offset, item in enumerate(lease.items):
            if lease.cut or limit.over:
                return
            try:
                limit.started = last
                try:
                    value = call(item, lease.first + offset)
                finally:
                    limit.started = None
            # An item's error never sinks the rest; _failure raises again what has to stop the
            # process.
            except BaseException as error:  # noqa: BLE001
                if limit.outer_error is not None:
                    return  # it is no failure of the item, which others run
                value = None
                self._note(lease, offset, error)
            now = clock()
            if few or now - last > LONG:
                put_back()
            values.append(value)
            micros.append(int((now - last) * 1e6))
            last = now
            if now > overdue and not whole:
                return

    def _note(self, lease: Lease, offset: int, error: BaseException) -> None:
        """Note what became of an item that raised: it has failed, or is to run again."""
        try:
            if is_sent_again(error):
                own = self._arguments(lease)(lease.items[offset])
                lease.retrials[offset] = retrial_of(self._app, error, lease.again, own)
                return
        except InvalidInputError as fault:
            error = fault
        failure = _failure(error)
        if failure is not None:
            lease.results.errors[offset] = failure

    def _arguments(self, lease: Lease) -> Callable[[Any], Arguments]:
        """How the items of a lease are turned into arguments."""
        own, shared, again = self._skill.arguments, self._shared, lease.again.arguments
        if again is not None:
            return lambda _: again
        return lambda item: shared.with_own(*own(item))

    def _call(self, lease: Lease) -> Callable[[Any, int], Any]:
        run, context, job_id = self._task.run, self._request, self._job_id
        arguments = self._arguments(lease)
        context.retries = lease.again.retries

        def call_plain(item: Any, index: int) -> Any:
            context.id = f"{job_id}:{index}"
            context.args = (item,)
            return run(item)

        def call_with_arguments(item: Any, index: int) -> Any:
            context.id = f"{job_id}:{index}"
            context.args, context.kwargs = arguments(item)
            return run(*context.args, **context.kwargs)

        if self._in_place is not None:
            run_in_place = self._in_place.run

            def call_in_place(item: Any, index: int) -> Any:
                args, kwargs = arguments(item)
                own = {"id": f"{job_id}:{index}", "args": args, "kwargs": kwargs}
                return run_in_place(Context(context.__dict__, **own))

            return call_in_place
        is_plain = self._skill.input is None and not self._shared.arguments
        return call_plain if is_plain and lease.again.arguments is None else call_with_arguments


def _failure(error: BaseException) -> tuple[Status, str] | None:
    """An item's error as its outcome; None for `sys.exit(0)`, which is no failure.

    Raises: the error itself when it is the pool's way of ending the process.
    """
    if not isinstance(error, Exception):
        try:
            ended(error)
        except TaskExitError as exited:
            error = exited
        else:
            return None
    if isinstance(error, TaskExitError):
        return "failed", error_text(error.__cause__ or error)
    if isinstance(error, ItemInterrupted):
        return error.status, error.why
    if isinstance(error, SoftTimeLimitExceeded):
        return "timeout", error_text(error)
    if isinstance(error, Retry | Ignore | Reject):
        what = "an item of a job cannot be ignored or rejected as a message, nor sent again as one"
        return "failed", f"{type(error).__name__}: {what}"
    return "failed", error_text(error)
