"""Running a coroutine to its end, out of code that is not asynchronous: how a worker runs an
`async def`.

Each thread has one event loop, made at its first use (so never before a fork) and kept: a client
that a process makes once stays usable. Nothing else stays of a coroutine that has ended: tasks that
it left running are cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Future
from typing import Any, TypeVar

from billiard import pool as processes
from celery.exceptions import SoftTimeLimitExceeded

from hive.errors import InvalidInputError
from hive.logs import get_logger

log = get_logger(__name__)

T = TypeVar("T")

TIDYING = 5.0
"""Seconds that what a coroutine left running has for its end, once it was cancelled."""


def is_coroutine_function(function: Any) -> bool:
    """Whether calling it may give a coroutine: it is an `async def`, or decorates one."""
    innermost = _innermost(function)
    return inspect.iscoroutinefunction(innermost) or inspect.iscoroutinefunction(
        getattr(innermost, "__call__", None)  # noqa: B004 - of an object that is called
    )


def refuse_generator(name: str, function: Any) -> None:
    """Raises: InvalidInputError where a task's function is an async generator."""
    if inspect.isasyncgenfunction(_innermost(function)):
        raise InvalidInputError(
            f"{name} is an async generator, which has no one result: gather what it yields in a "
            "list, and return that."
        )


def _innermost(function: Any) -> Any:
    while True:
        inner = function.func if isinstance(function, functools.partial) else function
        inner = inspect.unwrap(inner)
        if inner is function:
            return function
        function = inner


def run(awaitable: Awaitable[T]) -> T:
    """Run a coroutine to its end, and return its value.

    It runs in this thread's event loop, and sees a copy of this thread's context variables. Where
    a loop runs already in this thread (the caller was called by a coroutine), that is held up
    meanwhile, and the coroutine runs in a thread and a loop of its own, which end with it.
    What a signal's handler raises meanwhile, as the soft time limit's does, is raised in the
    coroutine where it waits, so that its `finally` and its `async with` are done.

    awaitable: a coroutine, or what else can be awaited.
    Raises: what the coroutine raises; InvalidInputError where the pool is one of greenlets.
    """
    coroutine = coroutine_of(awaitable)
    lent = _here.lent
    if lent is not None:
        value: T = lent(coroutine)
        return value
    if not runs_in_this_thread():
        return _run_elsewhere(coroutine)
    return _own_runner().run(coroutine)


def interrupt(error: BaseException) -> None:
    """Raise an error in what runs in this thread; for the handlers of signals.

    That is the coroutine that `run` runs here, or else whatever called this.
    """
    runner = _here.runner
    if runner is None or runner.main is None:
        raise error
    runner.interrupt(error)


def noted() -> BaseException | None:
    """What `interrupt` has kept in this thread to be raised as soon as the loop can; None for
    nothing.
    """
    runner = _here.runner
    return None if runner is None or runner.main is None else runner.main.thrown


class Interruptible(Coroutine[Any, Any, T]):
    """A coroutine into which another error than CancelledError can be thrown while it waits.

    An asyncio task can only be cancelled. `thrown` takes the place of the cancellation.
    """

    def __init__(self, inner: Coroutine[Any, Any, T]) -> None:
        self._inner = inner
        self.thrown: BaseException | None = None

    def send(self, value: Any) -> Any:
        return self._inner.send(value)

    def throw(self, error: Any, *rest: Any) -> Any:
        if self.thrown is not None and isinstance(error, asyncio.CancelledError):
            error, self.thrown = self.thrown, None
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
        return self._inner.throw(error)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, T]:
        return self._inner.__await__()


class Running:
    """A coroutine that runs as a task of a loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, T],
        context: contextvars.Context,
    ) -> None:
        self._coroutine = Interruptible(coroutine)
        self.task: asyncio.Task[Any] = loop.create_task(self._coroutine, context=context)

    @property
    def thrown(self) -> BaseException | None:
        """What is to be raised in it next."""
        return self._coroutine.thrown

    def throw(self, error: BaseException) -> None:
        """Raise an error in it where it waits; in the loop's own thread."""
        if not self.task.done():
            self._coroutine.thrown = error
            self.task.cancel()

    def note(self, error: BaseException, loop: asyncio.AbstractEventLoop) -> None:
        """The same, out of a signal's handler: as soon as the loop can."""
        self._coroutine.thrown = error
        loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        if self._coroutine.thrown is not None:
            self.task.cancel()


class Runner:
    """One event loop, for one thread, that runs one coroutine after the other."""

    def __init__(self) -> None:
        _refuse_greenlets()
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self.main: Running | None = None

    @property
    def usable(self) -> bool:
        return self.pid == os.getpid() and not self.loop.is_closed()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """As the module's."""
        self.main = main = Running(self.loop, coroutine, contextvars.copy_context())
        try:
            while True:
                try:
                    value: T = self.loop.run_until_complete(main.task)
                except BaseException as error:
                    if main.task.done():
                        raise
                    # A signal's handler has raised it while the loop waited.
                    main.throw(error)
                else:
                    return value
        finally:
            self.main = None
            self._tidy()

    def interrupt(self, error: BaseException) -> None:
        """Raise an error in the coroutine; called by a signal's handler, in the loop's thread."""
        main, current = self.main, asyncio.current_task(self.loop)
        if main is None or current is main.task:
            raise error
        main.note(error, self.loop)
        if current is not None:
            # One of the coroutine's own tasks is at work, perhaps for long. It ends first.
            raise asyncio.CancelledError

    def _tidy(self) -> None:
        """Leave nothing running for the next coroutine to find."""
        try:
            stay = self.loop.run_until_complete(_end_others())
        except BaseException:
            self.loop.close()  # the next one gets another
            raise
        if stay:
            log.warning("tasks_left_running", tasks=stay, seconds=TIDYING)
            self.loop.close()

    def __del__(self) -> None:
        # Its thread has ended, or its program.
        with contextlib.suppress(Exception):
            if self.usable and not self.loop.is_running():
                self.loop.close()

    def close(self) -> None:
        """End the loop, and what it has for its coroutines."""
        if not self.loop.is_closed():
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()


async def _end_others() -> list[str]:
    """Cancel all other tasks of this loop. Returns: those that go on all the same."""
    # An async generator that was left halfway ends in a task of its own, which is about to start.
    await asyncio.sleep(0)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if not others:
        return []
    for task in others:
        if inspect.iscoroutine(task.get_coro()):
            task.cancel()
    _, stay = await asyncio.wait(others, timeout=TIDYING)
    return [task.get_name() for task in stay]


class _Here(threading.local):
    """What a thread has: its loop; or one that is lent to it, as a function that runs in it."""

    runner: Runner | None = None
    lent: Callable[[Coroutine[Any, Any, Any]], Any] | None = None


_here = _Here()
_of_the_parent: list[Runner] = []
"""Kept, since a loop that is closed after a fork would take files from its parent's."""


def lend(runs: Callable[[Coroutine[Any, Any, Any]], Any] | None) -> None:
    """From now on this thread's coroutines are run by that function; None: by its own loop."""
    _here.lent = runs


def runs_in_this_thread() -> bool:
    """Whether `run`, called now, would run its coroutine in this thread."""
    if _here.lent is not None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


def own_loop() -> asyncio.AbstractEventLoop:
    """The loop of this thread, which `run` uses."""
    return _own_runner().loop


def _own_runner() -> Runner:
    runner = _here.runner
    if runner is None or not runner.usable:
        if runner is not None and runner.pid != os.getpid():
            _of_the_parent.append(runner)
        runner = _here.runner = Runner()
        asyncio.set_event_loop(runner.loop)
        if threading.current_thread() is threading.main_thread():
            _take_soft_limits()
    return runner


def _take_soft_limits() -> None:
    """Have a pool process's soft time limit raised in the coroutine, not in its loop."""
    if signal.getsignal(signal.SIGUSR1) is processes.soft_timeout_sighandler:
        signal.signal(signal.SIGUSR1, lambda _signal, _frame: interrupt(SoftTimeLimitExceeded()))


def _run_elsewhere(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run it in a thread of its own, and wait for that."""
    runner = Runner()
    outcome: Future[T] = Future()

    def work() -> None:
        _here.runner = runner
        try:
            outcome.set_result(runner.run(coroutine))
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            outcome.set_exception(error)
        finally:
            runner.close()

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(work,), name="hive-coroutine", daemon=True).start()
    return wait_for(
        outcome, lambda error: runner.loop.call_soon_threadsafe(_throw_in, runner, error)
    )


def _throw_in(runner: Runner, error: BaseException) -> None:
    if runner.main is not None:
        runner.main.throw(error)


def wait_for(outcome: Future[T], interrupted: Callable[[BaseException], object]) -> T:
    """Wait for what another thread runs. What is raised here meanwhile, by a signal's handler, is
    handed on to `interrupted`, and ends the wait only through it.
    """
    while True:
        try:
            return outcome.result()
        except BaseException as error:
            if outcome.done():
                raise
            interrupted(error)


def coroutine_of(awaitable: Awaitable[T]) -> Coroutine[Any, Any, T]:
    """The awaitable itself, where it is a coroutine; else one that awaits it."""
    return awaitable if isinstance(awaitable, Coroutine) else _awaited(awaitable)


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable


def _refuse_greenlets() -> None:
    """Raises: InvalidInputError where threads are greenlets, which cannot have a loop each."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if (gevent is not None and gevent.is_module_patched("threading")) or (
        eventlet is not None and eventlet.is_monkey_patched("thread")
    ):
        raise InvalidInputError(
            "An async task cannot run in a pool of greenlets (gevent, eventlet); start its worker "
            "with --pool prefork, threads or solo."
        )
