"""The watchdog in a thread of its own, started again when it breaks."""

from __future__ import annotations

import threading

from celery import Celery

from hive.broker.link.client import BrokerClient
from hive.foreman.watch.rooms import OnRestored
from hive.foreman.watch.watchdog import Watchdog
from hive.logs import get_logger

log = get_logger(__name__)

_RESTART_PAUSE = 1.0


class WatchdogThread:
    """Runs a watchdog from `start` to `stop`; it never keeps the process alive.

    client, app, on_restored: as for the watchdog.
    """

    def __init__(
        self,
        client: BrokerClient,
        app: Celery,
        on_restored: OnRestored | None = None,
    ) -> None:
        self._client = client
        self._app = app
        self._on_restored = on_restored
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._keep_running, name="hive-watchdog", daemon=True
        )
        self._watchdog: Watchdog | None = None

    @property
    def last_tick(self) -> float | None:
        """Unix seconds of the last tick that reached the broker; None before the first since the
        watchdog was started.
        """
        return self._watchdog.last_tick if self._watchdog else None

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float | None = None) -> None:
        """Have the watchdog give its lease up, and wait for its end, at most `timeout` seconds."""
        self._stop.set()
        self._thread.join(timeout)

    def _keep_running(self) -> None:
        while not self._stop.is_set():
            try:
                self._watchdog = Watchdog(self._client, self._app, self._on_restored)
                self._watchdog.run(self._stop)
            # Whatever broke the watchdog, it has to go on: without one the cluster waits on its
            # dead for ever.
            except Exception:
                log.exception("watchdog_broke")
                self._stop.wait(_RESTART_PAUSE)
