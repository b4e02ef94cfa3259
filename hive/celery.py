"""`install(app)` gives any Celery application Hive's transport, queues, router and bootsteps; `app`
is one that has them already.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import kombu

# What hive.logs imports at the first line: a worker's process must have it before the worker forks,
# since a child waits for ever for a module that a thread of its parent was about to import.
import structlog  # noqa: F401
from celery import Celery, signals

from hive.broker.channel import amqp, encrypted, publishing
from hive.broker.link.client import BrokerClient, broker_url, client_of
from hive.broker.results.waiting import patient
from hive.configuration import TRANSPORT, configuration, configure, prefixed_results, tls
from hive.errors import InvalidInputError
from hive.foreman.policy import LoadScore, Policy
from hive.foreman.router import Router
from hive.foreman.watch.duties import with_more
from hive.foreman.watch.duty import Duty
from hive.jobs.work import recovery
from hive.logs import get_logger, tell_levels_to_journal
from hive.security.tls import tls_parameters
from hive.settings import Settings
from hive.spore import control
from hive.spore.annotation import PlainAnnotation
from hive.spore.bootsteps import SporeConsumerStep, SporeStep

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

log = get_logger(__name__)


class Installation(NamedTuple):
    """What `install` found in an application, and what it made of it; so it can be undone.

    nth: its place among all installations of this process. own, made: the settings that the
    application itself held, before and after. classes: its `amqp_cls` and `control_cls` before.
    send_task: the one that it had of its own, if it had one.
    """

    nth: int
    router: Router
    own: dict[str, Any]
    made: dict[str, Any]
    classes: tuple[Any, Any]
    send_task: Any


class Additions(NamedTuple):
    """What an application adds to Hive, for `hive_policy`, `hive_duties` and `hive_routes`."""

    policy: Policy | None
    duties: tuple[Duty, ...]
    routes: tuple[BaseRoute, ...]


def install(
    app: Celery,
    settings: Settings | None = None,
    *,
    policy: Policy | None = None,
    duties: Iterable[Duty] = (),
    routes: Iterable[BaseRoute] = (),
) -> Celery:
    """Make `app` an application of the hive, and Celery's default.

    settings: what to use instead of the environment's. They are this process's; skills that run in
        it for this application go by them, too.
    policy: how nodes are ranked for its tasks; the load score by default.
    duties: what the watchdog does besides its own, in a nexus started with `--app`, and in the
        application's spores while there is no nexus.
    routes: Starlette routes that such a nexus serves besides its own.

    What the application configured itself wins, except for FORCED; one warning names every
    conflict.
    With ENABLE_HIVE=false the application only gets the broker's address, where it has none, and
    stays plain Celery, but for tasks that are an `async def`: these run all the same.

    Installing it again in the same application only adds duties and routes.

    Returns: `app`. Raises: SettingsError when a setting is wrong or the application's broker is not
        Redis or Valkey; InvalidInputError for what is no policy, duty or route, a policy that
        comes too late, and a duty with the name of another.
    """
    app.conf.get("broker_url")  # reads its configuration, which may import a module that installs
    with _making:
        added = _additions(app, policy, duties, routes)
        if not isinstance(getattr(app, "hive", None), BrokerClient):
            app.hive_settings = settings  # type: ignore[attr-defined]
            _equip(app, settings or Settings.load(), added.policy)
            app.set_default()
        app.hive_policy, app.hive_duties, app.hive_routes = added  # type: ignore[attr-defined]
    return app


def _equip(app: Celery, settings: Settings, policy: Policy | None) -> None:
    """All of `install` but what the application adds, and Celery's default application."""
    url = broker_url(app.conf.broker_url, settings)
    if not settings.enable_hive:
        if url == settings.redis_url:
            ssl = tls_parameters(settings)
            secured = {} if ssl is None else {"broker_use_ssl": ssl, "redis_backend_use_ssl": ssl}
            configure(app, {"broker_url": url, "result_backend": url, **secured})
        app.conf.task_annotations = PlainAnnotation(app.conf.task_annotations)
        return
    secured = tls(app, settings)
    prefix = (app.conf.broker_transport_options or {}).get("global_keyprefix", "")
    changes: Any = app.conf.changes
    own = dict(changes)
    configure(app, configuration(settings, url, app) | secured | prefixed_results(app, prefix))
    parameters = secured.get("broker_use_ssl")
    client = BrokerClient(url, settings, prefix=prefix, tls=parameters)
    router = Router(app, client, policy or LoadScore.of(settings))
    app.conf.task_routes = [router]
    app.hive_recoveries = (recovery.RECOVERY,)  # type: ignore[attr-defined]
    app.hive_installation = Installation(  # type: ignore[attr-defined]
        next(_numbers),
        router,
        own,
        dict(changes),
        (app.amqp_cls, app.control_cls),
        vars(app).get("send_task"),
    )
    vars(app)["send_task"] = publishing.telling_ids_apart(app.send_task)
    _use(app, amqp.NAME, control.NAME)
    app.AsyncResult = patient(app.AsyncResult)  # type: ignore[misc]
    for signal in (signals.after_setup_logger, signals.after_setup_task_logger):
        signal.connect(tell_levels_to_journal, weak=False, dispatch_uid="hive.journal")
    app.steps["worker"].add(SporeStep)
    app.steps["consumer"].add(SporeConsumerStep)
    for transport in (TRANSPORT, encrypted.NAME):
        # Flower asks for the broker's kind by these names.
        kombu.Connection.resolve_aliases[transport] = "redis"
    publishing.connect()
    app.hive = client  # type: ignore[attr-defined]  # last: who sees Hive in it sees all of it


def uninstall(app: Celery) -> None:
    """Take Hive out of an application again; nothing happens where Hive is not in it.

    Its settings become what they were before `install`, or what it made of them since.

    Its policy, duties and routes stay for the next `install`, Celery's default application stays,
    and a task that was used meanwhile keeps its options.
    """
    done: Installation | None = getattr(app, "hive_installation", None)
    if done is None:
        return
    done.router.close()
    client_of(app).close()
    changes: Any = app.conf.changes
    for name, value in done.made.items():
        if name in done.own and changes.get(name) is value:
            changes[name] = done.own[name]
        elif changes.get(name) is value:
            del changes[name]
    _use(app, *done.classes)
    del vars(app)["send_task"]
    if done.send_task is not None:
        vars(app)["send_task"] = done.send_task
    app.__dict__.pop("AsyncResult", None)
    app.steps["worker"].discard(SporeStep)
    app.steps["consumer"].discard(SporeConsumerStep)
    for name in ("hive", "hive_settings", "hive_results", "hive_installation", "hive_recoveries"):
        vars(app).pop(name, None)


def _use(app: Celery, amqp_cls: Any, control_cls: Any) -> None:
    app.amqp_cls, app.control_cls = amqp_cls, control_cls
    for made_before in ("amqp", "control"):
        app.__dict__.pop(made_before, None)


def _additions(
    app: Any, policy: Policy | None, duties: Iterable[Duty], routes: Iterable[BaseRoute]
) -> Additions:
    """What the application adds to Hive, with what it has added before; nothing is noted yet.

    Raises: InvalidInputError for what cannot be added.
    """
    if policy is not None and not isinstance(policy, Policy):
        raise InvalidInputError(
            f"policy is an object of a class made from hive.foreman.policy.Policy, not {policy!r}."
        )
    weight: object = policy.tasks_weight if policy is not None else 0.0
    if not (isinstance(weight, int | float) and 0 <= weight < math.inf):
        raise InvalidInputError(
            f"A policy's tasks_weight is a number, 0 or more; it cannot be {weight!r}."
        )
    if policy is not None and isinstance(getattr(app, "hive", None), BrokerClient):
        raise InvalidInputError(
            f"Hive is installed in the application {app.main!r} already, and routes its tasks; "
            "give the policy to the first hive.install."
        )
    all_duties = with_more(getattr(app, "hive_duties", ()), duties)
    all_routes = (*getattr(app, "hive_routes", ()), *routes)
    for route in all_routes:
        if not callable(getattr(route, "matches", None)):
            raise InvalidInputError(f"routes are Starlette's, such as a Route, not {route!r}.")
    return Additions(policy or getattr(app, "hive_policy", None), all_duties, all_routes)


app: Celery
"""The ready application: `celery -A hive worker`. It is made at its first use, which raises
SettingsError when a setting is wrong. It is Celery's default unless the program chose another one,
and never takes the place of the current one.
"""

_making = threading.RLock()
"""Held while an application is made or installed."""
_numbers = itertools.count()


def __getattr__(name: str) -> Celery:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    global app  # noqa: PLW0603  # a module's attribute that is made late is a global
    with _making:
        if "app" not in globals():
            made = Celery("hive", set_as_current=False)
            _equip(made, Settings.load(), None)
            app = made
        return app


def _unlocked() -> None:
    """Make the lock anew in the child of a fork, where nobody is left who would let go of it."""
    global _making  # noqa: PLW0603
    _making = threading.RLock()


os.register_at_fork(after_in_child=_unlocked)
