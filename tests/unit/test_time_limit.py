"""Interrupting items by the timer, in this process's main thread."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from hive.jobs.work.time_limit import ItemInterrupted, TimeLimit


@pytest.fixture(autouse=True)
def _handler_of_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.signal(signal.SIGALRM, before)


def run(limit: TimeLimit, seconds: float) -> str:
    """One item, as SkillCalls runs it."""
    try:
        limit.started = time.perf_counter()
        try:
            time.sleep(seconds)
        finally:
            limit.started = None
    except ItemInterrupted as stopped:
        return f"{stopped.status}: {stopped}"
    return "ok"


def test_an_item_over_its_limit_is_interrupted_and_the_next_has_a_limit_of_its_own() -> None:
    with TimeLimit(0.5) as limit:
        assert [
            run(limit, 0.3),
            run(limit, 0.3),
            run(limit, 5),
            run(limit, 0.3),
            run(limit, 5),
        ] == [
            "ok",
            "ok",
            "timeout: ran longer than 0.5 s",
            "ok",
            "timeout: ran longer than 0.5 s",
        ]


def test_a_deadline_interrupts_and_nothing_is_started_after_it() -> None:
    with TimeLimit(60) as limit:
        limit.set_deadline(0.5)
        assert run(limit, 0.01) == "ok"
        assert not limit.over
        assert run(limit, 5) == "timeout: the job's deadline passed while it ran"
        assert limit.over


def test_a_deadline_that_passes_between_items_is_seen() -> None:
    with TimeLimit(60) as limit:
        limit.set_deadline(0.05)
        time.sleep(0.1)
        assert limit.over


def test_another_thread_may_cancel_the_item_that_runs() -> None:
    with TimeLimit(60) as limit:
        threading.Timer(0.1, limit.cancel).start()
        assert run(limit, 5) == "cancelled: the job was cancelled while it ran"
        assert limit.over


def test_the_interruption_is_celerys_soft_limit_to_a_skill() -> None:
    with TimeLimit(0.05) as limit:
        limit.started = time.perf_counter()
        with pytest.raises(SoftTimeLimitExceeded):
            time.sleep(5)


def test_a_signal_on_its_way_when_the_run_ends_does_no_harm() -> None:
    with TimeLimit(60) as limit:
        pass
    limit.cancel()
    time.sleep(0.01)


def test_a_limit_holds_while_the_item_uses_the_alarm_itself() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    with TimeLimit(0.3) as limit:
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert run(limit, 5) == "timeout: ran longer than 0.3 s"
        signal.alarm(60)
        assert run(limit, 5) == "timeout: ran longer than 0.3 s"


def test_the_applications_own_handlers_are_back_afterwards() -> None:
    heard: list[int] = []
    numbers = (signal.SIGALRM, signal.SIGURG)
    before = [signal.signal(number, lambda number, _: heard.append(number)) for number in numbers]
    try:
        with TimeLimit(60) as limit:
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            limit.leftovers.put_back()
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.01)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    assert heard == list(numbers)


def test_an_alarm_that_an_item_left_strikes_nothing_else() -> None:
    heard: list[int] = []
    with TimeLimit(60) as limit:
        before = signal.signal(signal.SIGALRM, lambda number, _: heard.append(number))
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        limit.leftovers.put_back()
        assert signal.getsignal(signal.SIGALRM) is before
        assert run(limit, 0.1) == "ok"
    assert heard == []


def test_an_alarm_that_rang_unheard_is_dropped() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # it would end this process
    with TimeLimit(60) as limit:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        signal.raise_signal(signal.SIGALRM)  # at this thread; another has not blocked it
        limit.leftovers.put_back()
        assert signal.SIGALRM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with TimeLimit(0.1) as limit:
        assert run(limit, 5) == "timeout: ran longer than 0.1 s"


def test_an_alarm_of_a_task_that_is_over_is_turned_off_and_a_profilers_goes_on() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGALRM, lambda number, _: heard.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    with TimeLimit(60) as limit:
        assert run(limit, 0.1) == "ok"
        assert heard == []
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    try:
        with TimeLimit(60) as limit:
            limit.leftovers.put_back()
            assert run(limit, 0.1) == "ok"
            assert len(heard) > 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def test_outside_the_main_thread_nothing_is_enforced() -> None:
    outcomes: list[str] = []

    def in_a_pool_thread() -> None:
        with TimeLimit(0.05) as limit:
            outcomes.append(run(limit, 0.1))
            limit.cancel()
            outcomes.append(run(limit, 0.01))

    thread = threading.Thread(target=in_a_pool_thread)
    thread.start()
    thread.join(5)
    assert outcomes == ["ok", "ok"]
