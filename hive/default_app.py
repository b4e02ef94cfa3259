"""Makes the ready application Celery's default, before Celery or it is there.

A program that imports a skill and sends it, or has `shared_task`s of its own, names no application:
Celery takes its default one. Until the first of that happens a stand-in holds that place; it makes
the ready application when anything is asked of it. Celery itself need not be imported for that: the
stand-in is put in its place as soon as Celery is.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from celery import Celery

STATE = "celery._state"
"""The module in which Celery keeps its default application."""


def stand_in() -> None:
    """Let Celery's default application be Hive's ready one, now or as soon as Celery is imported.

    One that the program has made the default already stays.
    """
    if STATE in sys.modules:
        # This waits for another thread that is importing the module just now.
        _take_place(importlib.import_module(STATE))
    elif not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())


def _take_place(state: Any) -> None:
    from celery.local import Proxy

    default = state.default_app
    if default is None or (type(default) is not Proxy and _is_fallback(default)):
        state.set_default_app(Proxy(_ready))


def _is_fallback(default: Any) -> bool:
    """Whether Celery made this default by itself, for somebody who asked before there was one."""
    return default.main == "default" and not default.set_as_current


def _ready() -> Celery:
    """The ready application; it becomes the default itself, in the stand-in's place."""
    from celery.local import Proxy

    from hive.celery import app

    state: Any = sys.modules[STATE]
    if type(state.default_app) is Proxy:
        state.set_default_app(app)
    return app


class _Watch:
    """Puts the stand-in in its place when Celery's module is imported, and is gone then.

    A finder at the head of `sys.meta_path` is what the import system offers for that; it finds
    nothing by itself, and the module's own loader loads it.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != STATE:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                own: Any = spec.loader
                if own is not None:
                    late: Any = _Loader(self, own)  # its two methods make it a loader
                    spec.loader = late
                return spec
        return None


class _Loader:
    """Loads Celery's module with the module's own loader, then puts the stand-in in its place."""

    def __init__(self, watch: _Watch, own: Loader) -> None:
        self._watch = watch
        self._own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._own
        module.__loader__ = self._own
        self._own.exec_module(module)
        _take_place(module)
        if self._watch in sys.meta_path:
            sys.meta_path.remove(self._watch)
