"""Which application a program means, wherever Hive asks: here and nowhere else."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery


def has_hive(app: Any) -> bool:
    """Whether Hive is installed in an application."""
    return getattr(app, "hive", None) is not None


def application(app: Celery | None = None) -> Celery:
    """The application that is meant: the one given, else the first of these that Hive is in.

    The application of the task that runs in this thread; this thread's current one; Celery's
    default one; the last in which Hive was installed. A plain `Celery()` somewhere in the program
    is passed over. Where Hive is in none, it is Celery's default, which is Hive's ready application
    unless the program has chosen another.

    Raises: SettingsError when the ready application has to be made and a setting is wrong.
    """
    if app is not None:
        return app
    from celery import _state

    state: Any = _state  # its variables have no types
    running, default = state.get_current_task(), state.default_app
    # A stand-in is not asked while there is another: it makes the ready application.
    made = None if _stands_in(default) else default
    for known in (getattr(running, "app", None), state._tls.current_app, made):
        if has_hive(known):
            return itself(known)
    return _last_installed(state) or itself(state.current_app if default is None else default)


def running_application() -> Celery:
    """The application of the task that runs in this thread, with or without Hive; elsewhere the one
    that is meant.
    """
    from celery._state import get_current_task

    running = getattr(get_current_task(), "app", None)
    return application() if running is None else itself(running)


def application_of(wanted: Any, app: Celery | None = None) -> Celery:
    """The application for a call about a task: the one given, else the task's own.

    wanted: a task, a signature or a skill; what has no application, such as a name, belongs to the
        one that is meant. So does a task of an application without Hive that the one that is meant
        knows as well: a `shared_task` belongs to whichever is current.
    """
    own = getattr(getattr(wanted, "task", None), "app", None) or getattr(wanted, "app", None)
    if app is not None or own is None:
        return application(app)
    if not has_hive(own):
        meant = application()
        if has_hive(meant) and getattr(wanted, "name", None) in meant.tasks:
            return meant
    return itself(own)


def _last_installed(state: Any) -> Celery | None:
    apps = [app for app in list(state._get_active_apps()) if has_hive(app)]
    return max(apps, key=lambda app: app.hive_installation.nth, default=None)


def _stands_in(app: Any) -> bool:
    return app is None or type(app) is sys.modules["celery.local"].Proxy


def itself(app: Any) -> Celery:
    """The application behind Celery's proxies of it; what is no proxy as it is."""
    while (get := getattr(type(app), "_get_current_object", None)) is not None:
        app = get(app)
    found: Celery = app
    return found
