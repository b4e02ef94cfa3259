"""Hive's result backend for Hive's own tasks, whatever result backend the application has.

A job's pullers are a chord, which not every backend can end: rpc:// refuses one, cache+memory://
forgets it, and with db+…:// a task asks once a second.
"""

# celery-types leaves most of Celery's Redis backend out.
# mypy: disable-error-code="attr-defined"

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery

from hive.broker.link.client import client_of
from hive.broker.results.backend import Backend
from hive.logs import get_logger

log = get_logger(__name__)

_DAY = 86_400


class BrokerBackend(Backend):
    """Results on the broker of the application, which keeps its own results elsewhere."""

    connparams: dict[str, Any]

    def __init__(self, app: Celery) -> None:
        client = client_of(app)
        # What nobody asks for must not stay, also where the application's own results do.
        super().__init__(app=app, url=client.url, expires=app.conf.result_expires or _DAY)
        # Celery's settings about a connection to results speak of the application's own server.
        own = ("connection_class", "credential_provider")
        kept = {
            name: value
            for name, value in self.connparams.items()
            if name not in own and not name.startswith("ssl_")
        }
        if client.tls is not None:
            kept |= {**client.tls, "connection_class": self.connection_class_ssl}
        self.connparams = kept

    def _add_global_keyprefix(self) -> None:
        """Celery would take the prefix of the application's own results."""
        prefix = client_of(self.app).prefix
        if prefix and not prefix.endswith((":", "_", "-", ".")):
            prefix += "_"  # as Celery has it
        for name in ("task_keyprefix", "group_keyprefix", "chord_keyprefix"):
            setattr(self, name, f"{prefix}{getattr(self, name)}")

    def on_chord_part_return(self, *args: Any, **kwargs: Any) -> None:
        with self._in_place():
            super().on_chord_part_return(*args, **kwargs)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """Within, it is the application's own in this thread: there Celery looks for a chord."""
        of_thread: dict[str, Any] = self.app._local.__dict__
        own = of_thread.get("backend")
        of_thread["backend"] = self
        try:
            yield
        finally:
            if own is None:
                del of_thread["backend"]
            else:
                of_thread["backend"] = own


def results_on_broker(app: Celery) -> Backend:
    """Hive's result backend on the application's broker: its own one where that is Hive's, else one
    for this thread.
    """
    try:
        own = app.backend
    except Exception as error:  # noqa: BLE001 - one that cannot be made raises anything
        log.info("result_backend_unusable", error=str(error))
    else:
        if isinstance(own, Backend):
            return own
    of_thread = vars(app).setdefault("hive_results", threading.local())
    if getattr(of_thread, "backend", None) is None:
        of_thread.backend = BrokerBackend(app)
    made: Backend = of_thread.backend
    return made


ON_BROKER: dict[str, Any] = {"backend": property(lambda task: results_on_broker(task.app))}
"""The option of a task whose results are on the broker."""
