"""Each test file has the tasks and applications that it makes or imports, and no others.

Celery keeps what `@shared_task`, `@hive.skill` and `@app.task` make for every application of the
process, of whichever file it is. Tasks of another file's would answer for this one's, or hide that
a worker does not know one.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, _state

from hive import skills
from hive.testing import kept_registry
from hive.testing.registry import function_of

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def _tasks_of_a_file(request: pytest.FixtureRequest) -> Iterator[None]:
    """Hide what other files have imported; at the end, look at the applications of this one."""
    state: Any = _state
    own = {request.module.__name__, *imported_by(request.path)}
    others = sys.modules.keys() - own
    hidden = {
        maker
        for maker in state._on_app_finalizers
        if is_foreign(function_of(maker).__module__, others)
    }
    before = {app: set(app._tasks) for app in _active()}
    state._on_app_finalizers.difference_update(hidden)
    try:
        with kept_applications(own), skills.kept(), kept_registry():
            for name, skill in skills.registered().items():
                if is_foreign(skill.module, others):
                    skills.forget(name)
            for app in [app for app in _active() if app.finalized]:
                for maker in list(state._on_app_finalizers):
                    if function_of(maker).__module__ in own:
                        maker(app)  # it was hidden when the application was first used
            yield
            foreign = {
                f"{name} in {app}"
                for app in _active()
                for name in app._tasks.keys() - before.get(app, set())
                if is_foreign(app._tasks[name].__module__, others)
            }
            assert not foreign, "tasks of another file"
    finally:
        state._on_app_finalizers.update(hidden)


@contextmanager
def kept_applications(own: Set[str]) -> Iterator[None]:
    """Let Celery forget the applications of a file at its end: Hive would find them in the next.

    own: the modules that it imports; those of their applications that an earlier file imported are
        known again.
    """
    state: Any = _state
    known, default, current = set(_active()), state.default_app, state._tls.current_app
    for module in own & sys.modules.keys():
        for value in list(vars(sys.modules[module]).values()):
            if type(value) is Celery:
                state._register_app(value)
    try:
        yield
    finally:
        # The ready application is the program's, like Celery itself.
        ready = getattr(sys.modules.get("hive.celery"), "app", None)
        for app in set(_active()) - known - {ready}:
            state._deregister_app(app)
        state.default_app, state._tls.current_app = default, current


def _active() -> list[Celery]:
    state: Any = _state
    return list(state._get_active_apps())


@pytest.fixture(autouse=True)
def _tasks_of_a_test() -> Iterator[None]:
    with kept_registry():
        yield


def is_foreign(module: str, others: Set[str]) -> bool:
    """Whether a task is of a module that was there before a file began and that it does not import;
    Celery's and Hive's are for all.
    """
    return module in others and not f"{module}.".startswith(("celery.", "hive."))


@functools.cache
def imported_by(path: Path) -> frozenset[str]:
    """The modules of the tests that a file of them imports, and those that they import."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    paths = {name: ROOT / f"{name.replace('.', '/')}.py" for name in names}
    found = {name for name, path in paths.items() if name.startswith("tests.") and path.is_file()}
    return frozenset(found).union(*(imported_by(paths[name]) for name in found))
