"""The application under test: how spores find it, and how it gets another broker for a while."""

from __future__ import annotations

import ast
import inspect
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import kombu.pools
from celery import Celery, _state
from celery.app.utils import find_app

from hive.applications import itself
from hive.broker.link.client import client_of
from hive.celery import Installation, install, uninstall
from hive.configuration import BACKEND
from hive.errors import HiveError
from hive.settings import Settings

_ADDRESSES = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL")
_RESULTS = "CELERY_RESULT_BACKEND"
_HELD = (
    "hive",
    "hive_settings",
    "hive_results",
    "hive_installation",
    "hive_recoveries",
    "hive_policy",
    "hive_duties",
    "hive_routes",
    "amqp_cls",
    "control_cls",
    "amqp",
    "control",
    "annotations",
    "_pool",
    "_backend_cache",
    "_local",
)
"""What a Celery application holds that depends on its broker, besides its configuration."""


def named(app: Celery | str) -> tuple[str, Celery]:
    """The application's name, as `celery -A` takes it, and the application.

    Raises: HiveError when one cannot be found by the other.
    """
    if isinstance(app, str):
        return app, _imported(app)
    found: Any = itself(app)  # celery.current_app is a proxy
    if not isinstance(found, Celery):
        raise HiveError(
            f'{found!r:.200} is no Celery application; pass one, or its name as "module:app", such '
            'as "shop.tasks:app".'
        )
    homes = [
        (module, attribute)
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] not in ("__main__", "celery")
        for attribute, value in list(getattr(module, "__dict__", {}).items())
        if value is found and _is_importable(name)
    ]
    if not homes:
        raise HiveError(
            f"No module that spores could import has the application {found.main!r}; pass its name "
            'as "module:app", such as "shop.tasks:app".'
        )
    # Of several modules that have it, the one whose source makes it; the others have only imported
    # it.
    module, attribute = next((home for home in homes if _assigns(*home)), homes[0])
    return f"{module.__name__}:{attribute}", found


def _imported(text: str) -> Celery:
    try:
        found = find_app(text)
    except (ImportError, AttributeError, ValueError) as error:
        raise HiveError(
            f'The application {text!r} cannot be imported ({error}); pass "module:app", such as '
            '"shop.tasks:app".'
        ) from error
    if not isinstance(found, Celery):
        raise HiveError(
            f'{text!r} is no Celery application; pass "module:app", such as "shop.tasks:app".'
        )
    return found


def _is_importable(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _assigns(module: ModuleType, attribute: str) -> bool:
    """Whether the module's own source gives the name its value."""
    try:
        statements = ast.parse(inspect.getsource(module)).body
    except (OSError, TypeError, SyntaxError):
        return False
    targets = [
        target
        for statement in statements
        if isinstance(statement, ast.Assign)
        for target in statement.targets
    ] + [statement.target for statement in statements if isinstance(statement, ast.AnnAssign)]
    return any(isinstance(target, ast.Name) and target.id == attribute for target in targets)


@contextmanager
def on_broker(app: Celery, settings: Settings) -> Iterator[dict[str, str]]:
    """Install Hive into an application for the broker of these settings, and leave it as it was.

    Yields: the variables by which a process that imports the application uses that broker, too,
    whatever the application's configuration says.
    """
    with ExitStack() as stack:
        celery: Any = _state
        stack.callback(celery.set_default_app, celery.default_app)
        stack.callback(celery._set_current_app, celery._tls.current_app)
        stack.enter_context(_without_addresses())
        stack.enter_context(_as_it_was(app))
        uninstall(app)
        url = settings.redis_url
        variables = dict.fromkeys(_ADDRESSES, url)
        if app.conf.result_backend:
            variables[_RESULTS] = f"{BACKEND}+{url}"
            app.conf.update(result_backend=variables[_RESULTS])
        app.conf.update(broker_url=url, broker_read_url=url, broker_write_url=url)
        app.conf.update(task_always_eager=False)
        install(app, settings)
        stack.callback(_close, app)
        app.set_current()
        yield variables


@contextmanager
def _without_addresses() -> Iterator[None]:
    """Put aside the variables that win over an application's configuration."""
    kept = {name: os.environ.pop(name, None) for name in (*_ADDRESSES, _RESULTS)}
    try:
        yield
    finally:
        os.environ.update({name: value for name, value in kept.items() if value is not None})


@contextmanager
def _as_it_was(app: Celery) -> Iterator[None]:
    """Give the application's settings, and what it holds for its broker, back at the end; inside,
    what it holds is made anew.
    """
    app.conf.finalize()
    changes: Any = app.conf.changes
    settings = dict(changes)
    steps = {kind: set(classes) for kind, classes in app.steps.items()}
    state = vars(app)
    held = {name: state[name] for name in _HELD if name in state}
    for name in ("amqp", "control", "annotations"):
        state.pop(name, None)
    state.update(_pool=None, _backend_cache=None, _local=threading.local())
    try:
        yield
    finally:
        for name in _HELD:
            state.pop(name, None)
        state.update(held)
        for kind in list(app.steps):
            app.steps[kind] = steps.get(kind, set())
        changes.clear()
        changes.update(settings)


def _close(app: Celery) -> None:
    """Close the connections of this process to the broker that is about to end."""
    installation: Installation = app.hive_installation  # type: ignore[attr-defined]
    installation.router.close()
    client_of(app).close()
    backend: Any = app.backend
    backend.result_consumer.stop()
    backend.client.close()
    connection = app.connection_for_write()
    for group in (kombu.pools.producers, kombu.pools.connections):
        group[connection].force_close_all()
        del group[connection]
