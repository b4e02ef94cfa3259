"""Celery's consumer, except that a lost connection drops nothing."""

from __future__ import annotations

from celery.worker.consumer import Consumer as CeleryConsumer

NAME = "hive.spore.consumer:Consumer"


class Consumer(CeleryConsumer):
    """Named in the setting `worker_consumer`."""

    def on_close(self) -> None:
        """Keep everything: Celery forgets what it holds, since a delivery tag dies with its channel; Hive's belong to the process."""
