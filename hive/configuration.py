"""Hive's values of Celery's settings, and how they go together with the application's own."""

from __future__ import annotations

import warnings
from typing import Any

from celery import Celery
from celery.app.defaults import NAMESPACES, flatten
from kombu import Exchange, Queue

from hive.broker.channel import amqp, encrypted
from hive.broker.channel.time_limits import hard_limit
from hive.broker.link.coding import SERIALIZER
from hive.broker.link.priorities import INDEXES
from hive.broker.link.silence import SILENCE, keepalive
from hive.security.tls import agreed_parameters
from hive.settings import Settings
from hive.spore import consumer
from hive.spore.annotation import Annotation
from hive.tasks import MODULES as SKILL_MODULES

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
"""Settings whose value below already contains the application's own."""

_DEFAULTS: dict[str, Any] = {
    name: option.default for name, option in dict(flatten(NAMESPACES)).items()
}


def tls(app: Celery, settings: Settings) -> dict[str, Any]:
    """The values of Celery's settings that differ where the broker speaks TLS; none where not."""
    names = ["broker_use_ssl"]
    if not _is_configured(app, "result_backend"):  # its own may be on another server
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


def prefixed_results(app: Celery, prefix: str) -> dict[str, Any]:
    """Give the results' keys the prefix of all others; to Celery that is another setting."""
    if not prefix or _is_configured(app, "result_backend"):
        return {}
    return {
        "result_backend_transport_options": {
            "global_keyprefix": prefix,
            **app.conf.result_backend_transport_options,
        }
    }


def configuration(settings: Settings, url: str, app: Celery) -> dict[str, Any]:
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
        # What a broker answers while it loads its data, or as a replica, must not end a worker.
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
        # A result backend of one's own is made by Celery, and writes by this.
        "result_serializer": SERIALIZER if _is_configured(app, "result_backend") else "json",
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
        # Seconds until a killed pool process counts as lost; Celery's 10 would hold its slot.
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


def configure(app: Celery, values: dict[str, Any]) -> None:
    """Apply `values` but where the application has its own; one warning names every conflict."""
    conflicts = []
    for name, ours in values.items():
        theirs = getattr(app.conf, name)
        same = theirs == ours or (theirs, ours) == ("json", SERIALIZER)
        if name not in MERGED and not same and _is_configured(app, name):
            if name not in FORCED:
                conflicts.append(_stays(name, theirs, ours))
                continue
            conflicts.append(f"{name} becomes {ours!r} (was {theirs!r})")
        setattr(app.conf, name, ours)
    if conflicts:
        warnings.warn(f"hive.install: {'; '.join(conflicts)}.", stacklevel=4)


def _is_configured(app: Celery, name: str) -> bool:
    """Whether the application set this itself, if only to Celery's default.

    An environment variable of Celery's counts, too.
    """
    return bool(app.conf.value_set_for(name)) or getattr(app.conf, name) != _DEFAULTS.get(name)


def _stays(name: str, theirs: Any, ours: Any) -> str:
    if name == "result_backend":  # addresses hold passwords
        return (
            "result_backend stays your own (its results do not tell node and attempt, as Hive's do)"
        )
    return f"{name} stays {theirs!r} (Hive's is {ours!r})"
