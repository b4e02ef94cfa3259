"""`install(app)` gives any Celery application Hive's transport, queues, router and bootsteps; `app`
is one that has them already.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import kombu
from celery import Celery
from celery.app.defaults import NAMESPACES, flatten
from kombu import Exchange, Queue

from hive.broker.channel import amqp, encrypted, publishing
from hive.broker.channel.time_limits import hard_limit
from hive.broker.link.client import BrokerClient, broker_url, client_of
from hive.broker.link.priorities import INDEXES
from hive.broker.link.silence import SILENCE, keepalive
from hive.errors import InvalidInputError
from hive.foreman.policy import Policy, policy_of
from hive.foreman.router import Router
from hive.foreman.watch.duty import Duty
from hive.jobs.work import recovery
from hive.logs import get_logger
from hive.security.tls import agreed_parameters, tls_parameters
from hive.settings import Settings
from hive.spore import consumer, control
from hive.spore.annotation import Annotation
from hive.spore.bootsteps import SporeConsumerStep, SporeStep
from hive.tasks import MODULES as SKILL_MODULES

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

log = get_logger(__name__)

TRANSPORT = "hive.broker.channel.transport:Transport"
BACKEND = "hive.broker.results.backend:Backend"
TASK_MODULES = (
    *SKILL_MODULES,
    "hive.jobs.work.puller",
    "hive.jobs.answer.finishing",
    "hive.spore.commands",
    "hive.spore.draining",
)

FORCED = frozenset(
    {
        "broker_transport",
        "task_serializer",
        "result_serializer",
        "result_compression",
        "accept_content",
        "task_acks_late",
        "task_reject_on_worker_lost",
    }
)
"""Settings that Hive's promises rest on: the application's own value gives way, with a warning."""

_DEFAULTS: dict[str, Any] = {
    name: option.default for name, option in dict(flatten(NAMESPACES)).items()
}


class Installation(NamedTuple):
    """What `install` found in an application and what it made of it, so that it can be undone.

    own, made: the settings that the application itself held, before and after. classes: its
    `amqp_cls` and `control_cls` before.
    """

    router: Router
    own: dict[str, Any]
    made: dict[str, Any]
    classes: tuple[Any, Any]


def install(
    app: Celery,
    settings: Settings | None = None,
    *,
    policy: Policy | None = None,
    duties: Iterable[Duty] = (),
    routes: Iterable[BaseRoute] = (),
) -> Celery:
    """Make `app` an application of the hive, and Celery's default.

    settings: what to use instead of the environment's.
    policy: how nodes are ranked for its tasks; the load score by default.
    duties: what the watchdog does besides its own, in a nexus started with `--app`, and in the
        application's spores while there is no nexus.
    routes: Starlette routes that such a nexus serves besides its own.

    What the application configured itself wins, except for FORCED; one warning names every
    conflict.
    With ENABLE_HIVE=false the application only gets the broker's address, where it has none, and
    stays plain Celery.

    Installing it again in the same application only adds duties and routes.

    Returns: `app`. Raises: SettingsError when a setting is wrong or the application's broker is not
        Redis or Valkey; InvalidInputError for what is no policy, or one that comes too late.
    """
    _extend(app, policy, duties, routes)
    if not isinstance(getattr(app, "hive", None), BrokerClient):
        _equip(app, settings or Settings.load())
        app.set_default()
    return app


def _equip(app: Celery, settings: Settings) -> None:
    """All of `install` but the choice of Celery's default application."""
    url = broker_url(app.conf.broker_url, settings)
    if not settings.enable_hive:
        if url == settings.redis_url:
            ssl = tls_parameters(settings)
            secured = {} if ssl is None else {"broker_use_ssl": ssl, "redis_backend_use_ssl": ssl}
            _configure(app, {"broker_url": url, "result_backend": url, **secured})
        return
    tls = _tls(app, settings)
    prefix = (app.conf.broker_transport_options or {}).get("global_keyprefix", "")
    changes: Any = app.conf.changes
    own = dict(changes)
    _configure(app, _configuration(settings, url, app) | tls | _prefixed_results(app, prefix))
    client = BrokerClient(url, settings, prefix=prefix, tls=tls.get("broker_use_ssl"))
    router = Router(app, client, policy_of(app, settings))
    app.conf.task_routes = [router]
    app.hive = client  # type: ignore[attr-defined]
    app.hive_recoveries = (recovery.RECOVERY,)  # type: ignore[attr-defined]
    app.hive_installation = Installation(  # type: ignore[attr-defined]
        router, own, dict(changes), (app.amqp_cls, app.control_cls)
    )
    _use(app, amqp.NAME, control.NAME)
    app.steps["worker"].add(SporeStep)
    app.steps["consumer"].add(SporeConsumerStep)
    for transport in (TRANSPORT, encrypted.NAME):
        # So that Flower recognises the broker.
        kombu.Connection.resolve_aliases[transport] = "redis"
    publishing.connect()


def uninstall(app: Celery) -> None:
    """Take Hive out of an application again: its settings are its own, as they were before
    `install` or as it changed them since. Nothing where Hive is not in it.

    Celery's default application stays, and a task that was used meanwhile keeps its options.
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
    app.steps["worker"].discard(SporeStep)
    app.steps["consumer"].discard(SporeConsumerStep)
    del app.hive, app.hive_installation  # type: ignore[attr-defined]


def _use(app: Celery, amqp_cls: Any, control_cls: Any) -> None:
    app.amqp_cls, app.control_cls = amqp_cls, control_cls
    for made_before in ("amqp", "control"):
        app.__dict__.pop(made_before, None)


def _extend(
    app: Any, policy: Policy | None, duties: Iterable[Duty], routes: Iterable[BaseRoute]
) -> None:
    """Note on the application what it adds to Hive."""
    if policy is not None and not isinstance(policy, Policy):
        raise InvalidInputError(
            f"policy is an object of a class made from hive.foreman.policy.Policy, not {policy!r}."
        )
    if policy is not None and isinstance(getattr(app, "hive", None), BrokerClient):
        raise InvalidInputError(
            f"Hive is installed in the application {app.main!r} already, and routes its tasks; "
            "give the policy to the first hive.install."
        )
    if policy is not None:
        app.hive_policy = policy
    app.hive_duties = (*getattr(app, "hive_duties", ()), *duties)
    app.hive_routes = (*getattr(app, "hive_routes", ()), *routes)


def _tls(app: Celery, settings: Settings) -> dict[str, Any]:
    """What of Celery's settings differs where the broker speaks TLS; nothing where it does not."""
    names = ["broker_use_ssl"]
    if not _is_configured(app, "result_backend"):  # theirs may be another server
        names.append("redis_backend_use_ssl")
    found = {
        name: agreed_parameters(
            settings, name, app.conf[name], own_is_set=_is_configured(app, name)
        )
        for name in names
    }
    if found["broker_use_ssl"] is None:
        return {}
    return {
        "broker_transport": encrypted.NAME,
        **{name: found[name] or found["broker_use_ssl"] for name in names},
    }


def _prefixed_results(app: Celery, prefix: str) -> dict[str, Any]:
    """Let the results' keys begin as all the others do; to Celery that is another setting."""
    if not prefix or _is_configured(app, "result_backend"):
        return {}
    return {
        "result_backend_transport_options": {
            "global_keyprefix": prefix,
            **app.conf.result_backend_transport_options,
        }
    }


def _configuration(settings: Settings, url: str, app: Celery) -> dict[str, Any]:
    """Hive's values of Celery's settings."""
    timeout = settings.hive_task_timeout
    queues = [_queue(settings.hive_high_priority_queue), _queue(settings.hive_background_queue)]
    default_queue = app.conf.task_default_queue
    if not _is_configured(app, "task_default_queue"):
        default_queue = settings.hive_background_queue
    elif not app.conf.task_queues:
        queues.append(_queue(default_queue))
    own_queues = list(app.conf.task_queues or ())
    waits = max(1.0, settings.hive_publish_timeout / 2) if settings.hive_wait_replicas else 0.0
    values: dict[str, Any] = {
        "broker_url": url,
        "broker_transport": TRANSPORT,
        "broker_transport_options": {
            "priority_steps": list(INDEXES),
            "socket_timeout": min(SILENCE, max(1.0, settings.hive_publish_timeout)) + waits,
            "socket_connect_timeout": SILENCE,
            "socket_keepalive": True,
            "socket_keepalive_options": keepalive(),
            "wait_replicas": settings.hive_wait_replicas,
            "wait_timeout": waits,
            **(app.conf.broker_transport_options or {}),
        },
        "broker_connection_retry_on_startup": True,
        "task_publish_retry_policy": amqp.retry_policy(settings.hive_publish_timeout),
        "broker_connection_max_retries": None,
        # What a broker answers that loads its data, or became a replica, ends no worker.
        "broker_channel_error_retry": True,
        "redis_socket_timeout": SILENCE,
        "redis_socket_connect_timeout": SILENCE,
        "redis_socket_keepalive": True,
        "result_backend": f"{BACKEND}+{url}",
        "result_extended": True,
        "task_queues": [
            *own_queues,
            *(queue for queue in queues if queue.name not in {_name(own) for own in own_queues}),
        ],
        "task_default_queue": default_queue,
        "task_serializer": "json",
        "result_serializer": "json",
        "result_compression": None,  # the broker's scripts read a result's state
        "accept_content": ["json"],
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_track_started": True,
        "task_soft_time_limit": timeout,
        "task_time_limit": hard_limit(timeout),
        "task_annotations": [Annotation(app.conf.task_annotations)],
        "worker_prefetch_multiplier": 1,
        "worker_consumer": consumer.NAME,
        # Seconds until a killed pool process is noticed; Celery's 10 would hold its slot.
        "worker_lost_wait": 1.0,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_enable_prefetch_count_reduction": False,
        "control_exchange": settings.hive_broadcast_channel,
        "imports": [*(app.conf.imports or ()), *TASK_MODULES],
    }
    if settings.hive_concurrency is not None:
        values["worker_concurrency"] = settings.hive_concurrency
    return values


def _queue(name: str) -> Queue:
    return Queue(name, Exchange(name, type="direct"), routing_key=name)


def _name(queue: Any) -> str:
    return str(getattr(queue, "name", queue))


MERGED = frozenset(
    {
        "broker_url",
        "broker_transport_options",
        "result_backend_transport_options",
        "task_queues",
        "task_default_queue",
        "task_annotations",
        "imports",
    }
)
"""Settings whose value above already contains the application's own."""


def _configure(app: Celery, values: dict[str, Any]) -> None:
    """Apply `values`, leaving what the application set itself; one warning names every conflict."""
    conflicts = []
    for name, ours in values.items():
        theirs = getattr(app.conf, name)
        if name not in MERGED and theirs != ours and _is_configured(app, name):
            if name not in FORCED:
                conflicts.append(_stays(name, theirs, ours))
                continue
            conflicts.append(f"{name} becomes {ours!r} (was {theirs!r})")
        setattr(app.conf, name, ours)
    if conflicts:
        warnings.warn(f"hive.install: {'; '.join(conflicts)}.", stacklevel=4)


def _is_configured(app: Celery, name: str) -> bool:
    """Whether the application set this itself, if only to Celery's default; an environment variable
    of Celery's counts too.
    """
    return bool(app.conf.value_set_for(name)) or getattr(app.conf, name) != _DEFAULTS.get(name)


def _stays(name: str, theirs: Any, ours: Any) -> str:
    if name == "result_backend":  # addresses hold passwords
        return (
            "result_backend stays your own (its results do not tell node and attempt, as Hive's do)"
        )
    return f"{name} stays {theirs!r} (Hive's is {ours!r})"


app: Celery
"""The ready application: `celery -A hive worker`. It is made at its first use, which raises
SettingsError when a setting is wrong. It is Celery's default unless the program chose another one,
and never takes the place of the current one.
"""

_making = threading.RLock()


def __getattr__(name: str) -> Celery:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    global app  # noqa: PLW0603  # a module's attribute that is made late is a global
    with _making:
        if "app" not in globals():
            made = Celery("hive", set_as_current=False)
            _equip(made, Settings.load())
            app = made
        return app


def _unlocked() -> None:
    """In the child of a fork nobody is left who would let go of the lock."""
    global _making  # noqa: PLW0603
    _making = threading.RLock()


os.register_at_fork(after_in_child=_unlocked)
