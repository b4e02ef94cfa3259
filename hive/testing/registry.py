"""Forgets the skills and tasks that a test made, which belong to the whole process otherwise."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import _state

from hive import skills


@contextmanager
def kept_registry() -> Iterator[None]:
    """Forget, at the end, the skills and tasks that were made inside, by whichever decorator:
    applications do not have them any more, nor do those that are used later, and a skill that was
    replaced is back.

    What a module registered that was imported inside stays, since an import registers once.
    """
    state: Any = _state  # where Celery keeps what `shared_task` made, for applications to come
    makers, modules = set(state._on_app_finalizers), set(sys.modules)
    known = {app: set(app._tasks) for app in state._get_active_apps() if app.finalized}

    def is_gone(made: Any) -> bool:
        return made.__module__ in modules or made.__module__ not in sys.modules

    with skills.kept():
        try:
            yield
        finally:
            made = {maker: function_of(maker) for maker in state._on_app_finalizers - makers}
            gone = {maker: function for maker, function in made.items() if is_gone(function)}
            state._on_app_finalizers.difference_update(gone)
            for app in list(state._get_active_apps()):
                for name in app._tasks.keys() - known.get(app, set()):
                    task = app._tasks[name]
                    is_own = app in known and is_gone(task)
                    if is_own or getattr(task, "__wrapped__", None) in gone.values():
                        del app._tasks[name]


def function_of(maker: Any) -> Any:
    """What Celery's maker of a shared task makes it of."""
    return inspect.getclosurevars(maker).nonlocals.get("fun", maker)
