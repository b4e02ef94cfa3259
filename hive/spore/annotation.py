"""What Hive sets on every task of an application, beside the application's own annotations."""

from __future__ import annotations

import inspect
from operator import itemgetter
from typing import Any

from celery.app.annotations import prepare, resolve_all

from hive.broker.channel.time_limits import fitting
from hive.broker.results import failure, repeating
from hive.coroutines import is_coroutine_function, refuse_generator
from hive.spore import strategy
from hive.spore.before_start import fenced
from hive.spore.request import NAME as REQUEST
from hive.spore.run.awaited import awaited


class PlainAnnotation:
    """For Celery's setting `task_annotations`, in an application without Hive: a task that is an
    `async def` runs there, too.

    own: the application's own value of the setting. Of a list of annotations Celery takes the first
        that answers, so an own "*" would hide Hive's. Therefore this one stands alone, and asks the
        application's itself.
    """

    def __init__(self, own: Any) -> None:
        self._own = prepare(own)

    def annotate(self, task: Any) -> dict[str, Any]:
        """The attributes to set on a task, as Celery calls it.

        Raises: InvalidInputError where the task is an async generator.
        """
        attributes: dict[str, Any] = {}
        answers: Any = resolve_all(self._own, task)
        for answer in answers:
            attributes |= answer
        return attributes | _awaited(task)


class Annotation(PlainAnnotation):
    """The same, in an application of the hive."""

    def annotate(self, task: Any) -> dict[str, Any]:
        attributes = super().annotate(task)
        hard = attributes.get("time_limit", task.time_limit)
        hard, soft = fitting(
            hard, attributes.get("soft_time_limit", task.soft_time_limit), task.app.conf
        )
        before_start = fenced(attributes.get("before_start", task.before_start))
        around = {
            "@retry": repeating.retry,
            "@replace": repeating.replace,
            "@add_to_chord": repeating.add_to_chord,
            "@update_state": failure.update_state,
        }
        own = {
            "Request": REQUEST,
            "time_limit": hard,
            "soft_time_limit": soft,
            "before_start": before_start,
        }
        if attributes.get("Strategy", task.Strategy) == strategy.CELERYS:
            own["Strategy"] = strategy.NAME
        return around | attributes | own


def _awaited(task: Any) -> dict[str, Any]:
    """What is set on a task whose `run` is an `async def`.

    Raises: InvalidInputError where it is an async generator.
    """
    run = inspect.getattr_static(task, "run", None)
    is_static = isinstance(run, staticmethod)
    function = run.__func__ if isinstance(run, staticmethod) else run
    refuse_generator(task.name, function)
    if getattr(function, "hive_awaits", False) or not is_coroutine_function(function):
        return {}
    # Celery annotates the task's class; who runs needs the task.
    awaiting = awaited(
        function, (lambda _: task.app.tasks[task.name]) if is_static else itemgetter(0)
    )
    awaiting.hive_awaits = True  # type: ignore[attr-defined]
    return {"run": staticmethod(awaiting) if is_static else awaiting}
