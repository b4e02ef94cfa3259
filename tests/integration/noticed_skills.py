"""Tasks that notice how they are run, and listeners; workers get them by `-I`.

Each says what happened to it, a line each, in the file that its first argument names.
"""

from __future__ import annotations

import json
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from celery import Task, shared_task, signals

OPENED: ContextVar[str] = ContextVar("opened")


def say(args: Any, what: str, *more: Any) -> None:
    with Path(args[0]["log"]).open("a") as log:
        log.write(json.dumps([what, *map(str, more)]) + "\n")


class Opening(Task):  # type: ignore[type-arg]
    """As Flask's recipe has it: whatever runs finds the application's context."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        token = OPENED.set("open")
        try:
            return self.run(*args, **kwargs)
        finally:
            OPENED.reset(token)


class OpeningByCelery(Opening):
    """The same, by Celery's own `__call__`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        token = OPENED.set("open")
        try:
            return Task.__call__(self, *args, **kwargs)
        finally:
            OPENED.reset(token)


class Hooked(Task):  # type: ignore[type-arg]
    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        say(args, "before_start")

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        say(args, "on_success", retval)
        raise RuntimeError("a hook that fails changes nothing")

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        say(args, "on_failure", exc, "no luck" in einfo.traceback)

    def on_retry(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        say(args, "on_retry", exc)

    def after_return(self, status: str, retval: Any, *rest: Any) -> None:
        say(rest[1], "after_return", status, retval)


@shared_task(base=Opening)
def finds_it_open(number: int) -> str:
    return f"{number} {OPENED.get('closed')}"


@shared_task(base=OpeningByCelery, bind=True)
def finds_it_open_by_celery(self: Any, number: int) -> list[Any]:
    return [OPENED.get("closed"), self.request.id, list(self.request.args)]


@shared_task(base=Opening)
def reduces_in_the_open(values: list[Any]) -> str:
    return f"{len(values)} {OPENED.get('closed')}"


def does(item: dict[str, Any]) -> str:
    say([item], "run")
    if item["do"] == "retry" and Path(item["log"]).read_text().count('"run"') == 1:
        raise KeyError("no luck yet")
    if item["do"] == "fail":
        raise ValueError("no luck")
    if item["do"] == "sleep":
        time.sleep(30)
    return "done"


@shared_task(base=Hooked, autoretry_for=(KeyError,), default_retry_delay=0.1)
def hooked(item: dict[str, Any]) -> str:
    return does(item)


@shared_task(soft_time_limit=1, autoretry_for=(KeyError,), default_retry_delay=0.1)
def heard(item: dict[str, Any]) -> str:
    return does(item)


@shared_task(soft_time_limit=20)
def long_reduce(values: list[Any]) -> int:
    time.sleep(3.5)
    return len(values)


@shared_task(soft_time_limit=1)
def short_reduce(values: list[Any]) -> int:
    time.sleep(30)
    return len(values)


@shared_task(bind=True)
def tells_limits(self: Any, values: list[Any]) -> Any:
    """The limits of the message under which a reduce runs."""
    return self.app.tasks["hive.finish"].request.timelimit


@signals.task_prerun.connect
def prerun(task: Any, task_id: str, args: Any, **_: Any) -> None:
    if task.name == heard.name:
        say(args, "prerun", task.request.id == task_id)


@signals.task_postrun.connect
def postrun(task: Any, args: Any, retval: Any, state: str, **_: Any) -> None:
    if task.name == heard.name:
        say(args, "postrun", state, retval)


@signals.task_success.connect
def success(sender: Any, result: Any, **_: Any) -> None:
    if sender.name == heard.name:
        say(sender.request.args, "success", result)


@signals.task_failure.connect
def failure(sender: Any, exception: Exception, args: Any, einfo: Any, **_: Any) -> None:
    if sender.name == heard.name:
        say(args, "failure", type(exception).__mro__[-4], "does" in einfo.traceback)


@signals.task_retry.connect
def retried(sender: Any, request: Any, reason: Any, **_: Any) -> None:
    if sender.name == heard.name:
        say(request.args, "retry", reason.exc)
