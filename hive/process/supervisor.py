"""The process of `hive spore`: keeps one Celery worker running, and ends in good order with it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time

from hive.logs import get_logger
from hive.process.child import Child, Respawning
from hive.process.lifeline import supervisor_fd
from hive.process.liveness import DRAINS, REFUSED, WAITS, WORKS, Signs
from hive.process.signal_events import Signals, at_end
from hive.process.standing import Standing
from hive.process.vitals import State
from hive.settings import Settings

log = get_logger(__name__)

# The exit code of Celery's command line for a wrong option or an application that cannot be loaded.
WRONG_SETTINGS = 2
# Seconds that a worker has to give its tasks back after it was told to stop at once.
FORCED_GRACE = 3.0


class Supervisor:
    """Runs `celery worker` as a child and starts it anew when it ends, whatever its exit code,
    until it is told to stop.

    The first SIGTERM, SIGINT or SIGHUP lets the worker finish its tasks, which takes
    HIVE_DRAIN_TIMEOUT at most; the second makes it give them back and end; a third kills it. A
    worker that ends with exit code 2 (wrong settings, no such application) is not started again.
    """

    def __init__(
        self,
        app_name: str = "hive",
        settings: Settings | None = None,
        *,
        concurrency: int,
        node_name: str | None = None,
    ) -> None:
        """app_name: the application as `celery -A` takes it, `module` or `module:app`.

        concurrency: slots. node_name: the node's name, with or without "@host"; HIVE_NODE_NAME or
            "spore" when None.
        """
        settings = settings or Settings.load()
        self.app_name = app_name
        self.node_name = node_name or settings.hive_node_name or "spore"
        self.concurrency = concurrency
        self._home = settings.hive_home
        self._broker = f"{settings.redis_host}:{settings.redis_port}"
        self._drain_timeout = settings.hive_drain_timeout
        # A plain Celery worker tells nothing of itself: that it runs is all that can be known.
        self._gives_signs = settings.enable_hive
        self._worker = Respawning(self._start)
        self._parent: int | None = None
        # How many times it was told to stop, and when (monotonic seconds) it goes one step further
        # without being told.
        self._stops = 0
        self._force_at: float | None = None
        self._signs: Signs | None = None
        self._kill_at: float | None = None
        self._ended_with: int | None = None

    def worker_command(self) -> list[str]:
        """The worker's command line.

        It goes without gossip and mingle. By them each worker listens to the events of all others,
        which grows with the square of the nodes, and waits a second for their greetings at every
        start. What they carry (revoked tasks, who is there) Hive's nodes find in the broker.
        """
        name = self.node_name if "@" in self.node_name else f"{self.node_name}@%h"
        worker = [
            "worker",
            "-n",
            name,
            "-c",
            str(self.concurrency),
            "-l",
            "info",
            "--without-gossip",
            "--without-mingle",
        ]
        return [sys.executable, "-m", "celery", "-A", self.app_name, *worker]

    def run(self) -> int:
        """Supervise until told to stop; must be called by the main thread.

        Returns: the exit code: 0 after the worker has ended by itself, 1 when it had to be ended, 2
            when its settings are wrong.
        """
        self._parent = supervisor_fd()
        standing = Standing(self._home, "spore", self.node_name)
        with Signals() as signals:
            while True:
                code = self._tend()
                if code is not None:
                    standing.close()
                    return code
                standing.turn(*self._state())
                stops, ready = signals.wait(self._next_in(), self._fds())
                for _ in range(stops):
                    self._stop_harder()
                if self._parent is not None and self._parent in ready and at_end(self._parent):
                    self._orphaned()

    def _fds(self) -> list[int]:
        fds = [] if self._parent is None else [self._parent]
        return fds if self._signs is None else [*fds, self._signs.reader]

    def _tend(self) -> int | None:
        """Do what is due. Returns: the supervisor's exit code once all is over."""
        code = self._worker.tend(restart=not self._stops)
        if code is not None:
            self._ended_with = code
            log.log(
                logging.INFO if self._stops else logging.WARNING,
                "worker_ended",
                node=self.node_name,
                exit_code=code,
            )
            self._forget_signs()
        hangs = self._signs is not None and self._signs.look()
        if self._stops:
            if self._worker.child is None:
                return 0 if self._stops == 1 else 1
            if self._force_at is not None and time.monotonic() >= self._force_at:
                self._stop_harder()
            return None
        if code == WRONG_SETTINGS:
            log.error(
                "worker_cannot_start",
                node=self.node_name,
                app=self.app_name,
                reason="its settings or its application are wrong",
            )
            return WRONG_SETTINGS
        self._end_what_hangs(hangs=hangs)
        return None

    def _state(self) -> tuple[State, str]:
        """How this spore stands, for `hive health` and systemd."""
        if self._stops:
            return "stopping", ""
        if self._kill_at is not None:
            return "hanging", "its worker gives no sign of life"
        last = b"" if self._signs is None else self._signs.last
        if last == WORKS:
            return "working", ""
        if last == WAITS:
            return "waiting", self._broker
        if last == REFUSED:
            return "waiting", f"{self._broker} refuses REDIS_USERNAME and REDIS_PASSWORD"
        if last == DRAINS:
            return "draining", ""
        if not self._gives_signs and self._worker.child is not None:
            return "working", ""
        if self._ended_with is None:
            return "starting", ""
        return "restarting", f"its worker ended with exit code {self._ended_with}"

    def _end_what_hangs(self, *, hangs: bool) -> None:
        """End a worker that has fallen silent.

        It gets the time to give back what it runs, and is killed when it does not end by then.
        """
        child = self._worker.child
        if child is None:
            return
        if self._kill_at is not None:
            if time.monotonic() >= self._kill_at:
                child.signal_group(signal.SIGKILL)
        elif hangs:
            log.error("worker_hangs", node=self.node_name, pid=child.pid)
            child.signal(signal.SIGTERM)
            self._kill_at = time.monotonic() + self._drain_timeout + FORCED_GRACE

    def _forget_signs(self) -> None:
        if self._signs is not None:
            self._signs.close()
        self._signs = self._kill_at = None

    def _start(self) -> Child:
        signs = Signs()
        try:
            child = Child(
                self.worker_command(), {**os.environ, **signs.environment}, keeps=signs.pass_fds
            )
        except OSError:
            signs.close()
            raise
        finally:
            signs.handed_over()
        self._signs = signs
        log.info("worker_started", node=self.node_name, pid=child.pid, slots=self.concurrency)
        return child

    def _stop_harder(self) -> None:
        """Take the next step of stopping: let it drain, have it give back what it runs, kill it."""
        self._stops += 1
        self._force_at = None
        child = self._worker.child
        if child is None:
            return
        if self._stops == 1:
            log.info("worker_draining", node=self.node_name, pid=child.pid)
            child.signal(signal.SIGTERM)
            # The worker keeps to its grace period by itself (grace.py), unless it hangs.
            self._force_at = time.monotonic() + self._drain_timeout + FORCED_GRACE
        elif self._stops == 2:
            # Told again, the worker gives its tasks back; a kill would count a death against them.
            log.warning("worker_stopping", node=self.node_name, pid=child.pid)
            child.signal(signal.SIGTERM)
            self._force_at = time.monotonic() + FORCED_GRACE
        else:
            child.signal_group(signal.SIGKILL)

    def _orphaned(self) -> None:
        """Stop: the process that started this supervisor is gone, and can send no second signal."""
        log.warning("supervisor_orphaned", node=self.node_name)
        self._parent = None
        if not self._stops:
            self._stop_harder()

    def _next_in(self) -> float | None:
        """Seconds until something is due by itself."""
        if self._stops:
            return None if self._force_at is None else self._force_at - time.monotonic()
        return self._worker.due_in() if self._kill_at is None else self._kill_at - time.monotonic()
