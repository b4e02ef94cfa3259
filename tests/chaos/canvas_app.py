"""An application whose tasks tell what they did in a file, and whose pool processes die where a
message's header `variant` says.

A variant is `scenario|task|n`: the first run of that task that comes to its n-th command is killed
right before the broker gets it, or, as `scenario|task|n|node`, its whole worker is. `scenario||`
kills nobody and notes every command.
"""

from __future__ import annotations

import json
import os
import signal
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from celery import Celery, chain, chord, current_task, group, signals

import hive
from tests.chaos.dying import watch

app = hive.install(Celery("canvas"))
DIRECTORY = Path(os.environ["CANVAS_DIRECTORY"])
sending: ContextVar[str] = ContextVar("sending", default="")
"""The variant of what this process sends."""


class Run:
    """The run that is under way in this pool process."""

    variant = ""
    task = ""
    what = ""
    sent = 0


@signals.before_task_publish.connect
def _hand_on(headers: dict[str, Any], **_: Any) -> None:
    request = getattr(current_task, "request", None)
    headers["variant"] = getattr(request, "variant", None) or sending.get()


@signals.worker_process_init.connect
def _mortal(**_: Any) -> None:
    watch(_die_here, _die)


@signals.task_prerun.connect
def _begin(task: Any, args: Any, kwargs: Any, **_: Any) -> None:
    if task.request.is_eager:
        return  # an item of a job is a part of its puller's run
    Run.variant = getattr(task.request, "variant", None) or ""
    Run.task, Run.sent = task.name.removeprefix(f"{__name__}."), 0
    Run.what = what(*args)


@signals.task_postrun.connect
def _end(task: Any, **_: Any) -> None:
    """All is done and stored, and the worker has not heard of it."""
    if not task.request.is_eager and _die_here("end"):
        _die()


def _die_here(name: str) -> str | None:
    scenario, _, point = Run.variant.partition("|")
    # Of a process's first publication, and of a broker's first call.
    if not scenario or name in ("bind", "EVAL"):
        return None
    at, Run.sent = Run.sent, Run.sent + 1
    if point == "|":
        note("commands", f"{scenario}|{Run.task}|{at} {name}")
        return None
    task, _, number = point.partition("|")
    if task != Run.task or at != int(number.split("|")[0]):
        return None
    try:
        with (DIRECTORY / "died" / Run.variant).open("x") as died:
            died.write(Run.what)
    except FileExistsError:
        return None
    return "before"


def _die() -> None:
    if Run.variant.endswith("|node"):
        os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def note(file: str, line: str) -> None:
    """Add a line to a file, in one write."""
    with (DIRECTORY / file).open("ab", buffering=0) as log:
        log.write(f"{line}\n".encode())


def what(*args: Any) -> str:
    """The run in words; random ids and the order in which a chord's results came are left out."""
    told = [sorted(arg) if isinstance(arg, list) else arg for arg in args]
    return f"{Run.task} {'' if Run.task == 'told' else told} {current_task.request.retries}"


def ran(*args: Any) -> None:
    """A side effect outside of Hive: it says what ran."""
    note("ran", json.dumps([Run.variant, what(*args)]))


@app.task
def add(x: int, y: int) -> int:
    ran(x, y)
    return x + y


@app.task
def total(numbers: list[int]) -> int:
    ran(numbers)
    return sum(numbers)


@app.task
def fails(x: int) -> None:
    ran(x)
    raise ValueError(x)


@app.task
def told(task_id: str) -> None:
    """A callback of an error, which gets the id of the task that failed."""
    ran()


@app.task(bind=True)
def again(self: Any, x: int) -> int:
    """Succeeds at its third attempt."""
    ran(x)
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return x


@app.task(bind=True)
def lucky(self: Any, x: int) -> int:
    """Fails and is retried, but succeeds when it is delivered again."""
    ran(x)
    if self.request.retries or self.request.hive["deaths"]:
        return x
    raise self.retry(countdown=0)


@app.task(bind=True)
def becomes_one(self: Any, x: int) -> Any:
    ran(x)
    return self.replace(add.s(x, 1))


@app.task(bind=True)
def becomes_chain(self: Any, x: int) -> Any:
    ran(x)
    return self.replace(chain(add.s(x, 1), add.s(10)))


@app.task(bind=True)
def becomes_group(self: Any, x: int) -> Any:
    ran(x)
    return self.replace(group(add.s(x, y) for y in range(3)))


@app.task(bind=True)
def becomes_chord(self: Any, x: int) -> Any:
    ran(x)
    return self.replace(chord([add.s(x, y) for y in range(3)], total.s()))


@app.task(bind=True)
def adds_to_chord(self: Any, x: int) -> int:
    ran(x)
    self.add_to_chord(add.s(x, 100))
    self.add_to_chord(add.s(x, 200))
    return x


@app.task
@hive.idempotent(key=lambda x: f"{x} {Run.variant}")
def once(x: int) -> int:
    ran(x)
    return x


@hive.skill("Double a number", name="double")
def double(x: int) -> int:
    # In the pool process that ran it: what was not committed runs again.
    Run.what = f"double {x}"
    note("ran", json.dumps([Run.variant, Run.what]))
    return 2 * x


def leave() -> None:
    """Hear no signals any more: this process has other applications."""
    signals.before_task_publish.disconnect(_hand_on)
    signals.worker_process_init.disconnect(_mortal)
    signals.task_prerun.disconnect(_begin)
    signals.task_postrun.disconnect(_end)
