"""Running a coroutine to its end, out of code that is not asynchronous."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest

import hive
from hive import coroutines
from hive.errors import InvalidInputError

here: contextvars.ContextVar[str] = contextvars.ContextVar("here", default="nowhere")


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


async def loop_of() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def test_a_thread_keeps_its_loop() -> None:
    assert coroutines.run(loop_of()) is coroutines.run(loop_of())
    others: list[Any] = []
    thread = threading.Thread(target=lambda: others.append(coroutines.run(loop_of())))
    thread.start()
    thread.join()
    assert others[0] is not coroutines.run(loop_of())


def test_what_can_be_awaited_is_awaited() -> None:
    class Later:
        def __await__(self) -> Any:
            return double(2).__await__()

    assert coroutines.run(Later()) == 4


def test_a_coroutine_sees_the_callers_context_and_leaves_it() -> None:
    async def look() -> str:
        before = here.get()
        here.set("inside")
        return before

    token = here.set("outside")
    try:
        assert coroutines.run(look()) == "outside"
        assert here.get() == "outside"
    finally:
        here.reset(token)


def test_code_that_a_coroutine_calls_can_run_another() -> None:
    async def outer() -> list[Any]:
        token = here.set("outer")
        try:
            threads = threading.get_ident(), coroutines.run(thread_of())
            return [coroutines.run(double(21)), coroutines.run(context_of()), *threads]
        finally:
            here.reset(token)

    async def thread_of() -> int:
        return threading.get_ident()

    async def context_of() -> str:
        return here.get()

    value, context, own, other = coroutines.run(outer())
    assert (value, context) == (42, "outer")
    assert own != other


def test_an_error_there_is_raised_here() -> None:
    async def outer() -> None:
        coroutines.run(fails())

    async def fails() -> None:
        raise LookupError("here")

    with pytest.raises(LookupError, match="here"):
        coroutines.run(outer())


@pytest.fixture
def alarm() -> Any:
    """Raises an error in a tenth of a second, as the handler of a signal."""

    def after(error: BaseException, how: Callable[[BaseException], None]) -> None:
        signal.signal(signal.SIGALRM, lambda *_: how(error))
        signal.setitimer(signal.ITIMER_REAL, 0.1)

    before = signal.getsignal(signal.SIGALRM)
    yield after
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def throw(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("how", [coroutines.interrupt, throw])
@pytest.mark.parametrize("where", ["here", "in a thread of its own"])
@pytest.mark.parametrize("error", [TimeoutError("late"), SystemExit(3)], ids=repr)
def test_what_a_signal_raises_is_raised_where_the_coroutine_waits(
    alarm: Any, how: Callable[[BaseException], None], where: str, error: BaseException
) -> None:
    seen: list[BaseException] = []

    async def waits() -> str:
        try:
            await asyncio.sleep(30)
        except BaseException as told:  # noqa: BLE001
            seen.append(told)
            await asyncio.sleep(0)
        return "tidied"

    async def outer() -> str:
        return coroutines.run(waits())

    alarm(error, how)
    assert coroutines.run(waits() if where == "here" else outer()) == "tidied"
    assert seen == [error]


def test_an_error_out_of_no_coroutine_is_raised_at_once() -> None:
    with pytest.raises(TimeoutError):
        coroutines.interrupt(TimeoutError())


def test_a_task_that_will_not_end_does_not_meet_the_next_coroutine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(coroutines, "TIDYING", 0.05)

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                continue

    kept: list[asyncio.Task[None]] = []

    async def leaves_it() -> None:
        kept.append(asyncio.create_task(stubborn()))
        await asyncio.sleep(0)

    async def others() -> int:
        return len(asyncio.all_tasks()) - 1

    coroutines.run(leaves_it())
    assert coroutines.run(others()) == 0


def test_a_fork_gets_a_loop_of_its_own() -> None:
    coroutines.run(double(1))
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, str(coroutines.run(double(21))).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 10) == b"42"
    assert coroutines.run(double(2)) == 4
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("gevent.monkey", SimpleNamespace(is_module_patched=lambda _name: True)),
        ("eventlet.patcher", SimpleNamespace(is_monkey_patched=lambda _name: True)),
    ],
)
def test_a_pool_of_greenlets_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, module: Any
) -> None:
    monkeypatch.setitem(sys.modules, name, module)
    refused: list[BaseException] = []

    def work() -> None:
        coroutine = double(1)
        try:
            coroutines.run(coroutine)
        except InvalidInputError as error:
            refused.append(error)
        coroutine.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "--pool prefork" in str(refused[0])


async def numbers() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("function", [numbers, functools.partial(numbers)])
def test_an_async_generator_is_refused_where_it_stands(function: Any) -> None:
    with pytest.raises(InvalidInputError, match="is an async generator"):
        hive.skill("Give numbers", name="numbers")(function)


@pytest.mark.parametrize(
    ("function", "is_one"),
    [(double, True), (functools.partial(double, 1), True), (numbers, False), (len, False)],
)
def test_a_coroutine_function_is_known(function: Any, is_one: bool) -> None:
    assert coroutines.is_coroutine_function(function) == is_one
