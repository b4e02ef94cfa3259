"""Which message a thread works for."""

from __future__ import annotations

import threading
from typing import Any

from celery import Celery

from hive.broker import in_hand
from hive.broker.channel.header import Delivery, Header
from hive.broker.in_hand import request_in_hand

app = Celery("in_hand", broker="memory://")


@app.task
def says_who() -> Any:
    return getattr(request_in_hand(), "id", None)


@app.task
def calls_another() -> Any:
    return says_who()


def delivered() -> dict[str, Any]:
    delivery = Delivery("node@h", "node@h/1", "publish-id")
    return {
        "hive": Header({}).delivered_to(delivery, fresh_until=0.0, deaths=0, reserved=0.0),
        "id": "task-id",
    }


def test_a_program_works_for_none_nor_does_a_task_that_it_calls() -> None:
    assert request_in_hand() is None
    assert calls_another() is None
    assert calls_another.apply().get() is None


def test_a_tasks_code_works_for_its_message_and_so_does_a_task_that_it_calls() -> None:
    calls_another.push_request(**delivered())
    try:
        in_hand._task_stack.push(calls_another)
        assert says_who() == "task-id"
        assert calls_another() == "task-id"
    finally:
        in_hand._task_stack.pop()
        calls_another.pop_request()


def test_a_thread_works_for_the_message_that_its_process_has_begun() -> None:
    seen: list[Any] = []

    def in_a_thread() -> None:
        seen.append(says_who())
        in_hand.begins(app.Task())  # a task of a pool of threads: it is not the process's

    calls_another.push_request(**delivered())
    try:
        in_hand.begins(calls_another.request_stack.top)
        for _ in range(2):
            thread = threading.Thread(target=in_a_thread)
            thread.start()
            thread.join()
    finally:
        calls_another.pop_request()
    assert seen == ["task-id"] * 2
    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    assert seen[-1] is None, "it has ended"
