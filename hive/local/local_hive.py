"""A whole hive on one machine: broker, nexus and spores start, run and stop together."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from hive.errors import HiveError, InvalidInputError
from hive.local.embedded import HOST, EmbeddedBroker, claim_port
from hive.local.readiness import Readiness
from hive.local.state_directory import StateDirectory
from hive.local.state_files import last_lines
from hive.logs import get_logger
from hive.process.child import Backoff, Child, Respawning
from hive.process.signal_events import Signals
from hive.settings import Settings

log = get_logger(__name__)

NEXUS = "nexus"
POLL = 0.1

# In seconds. What stopping takes at most adds up to less than the 30 that `hive down` promises.
START_WITHIN = 60.0
START_WITHIN_PER_SPORE = 4.0
REMAINS_WITHIN = 25.0
DRAIN_WITHIN = 10.0
FORCED_WITHIN = 4.0
NEXUS_WITHIN = 2.0
BROKER_WITHIN = 3.0
STRAYS_WITHIN = 2.0


class InterruptedStartError(HiveError):
    """The hive was told to stop while it was starting."""

    exit_code = 130


class LocalHive:
    """Starts the processes of a hive and keeps them running.

    `run` does it all; `start` and `stop` serve programs of another shape.

    Spores look after their workers themselves. Spores, nexus and broker that end are started again
    here, the broker on the same port with the same data. Each of them ends when this process is
    gone, even killed: spores and nexus read a lifeline, the broker's guardian another one, which
    the spores hold too, so that the broker is the last to end.
    """

    def __init__(
        self,
        state: Path,
        *,
        spores: int = 2,
        concurrency: int = 2,
        redis_port: int = 0,
        http_port: int = 0,
        app: str = "hive",
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing happens yet.

        state: the directory for data, logs and secrets.
        spores: how many (0 too); concurrency: slots of each.
        redis_port, http_port: 0 picks a free one.
        app: the application as `celery -A` takes it, `module` or `module:app`.
        variables: further environment variables for all processes, which inherit this one's
            environment besides.
        """
        self.state = StateDirectory(state)
        self.broker = EmbeddedBroker(self.state.path, redis_port)
        self.http_port = http_port
        self.concurrency = concurrency
        self.app = app
        self.spores = tuple(f"spore-{number}" for number in range(1, spores + 1))
        self._variables = dict(variables or {})
        self._children = {
            name: Respawning(partial(self._launch, name)) for name in (NEXUS, *self.spores)
        }
        self._broker_backoff = Backoff()
        self._broker_started_at = 0.0
        self._broker_start_at: float | None = None
        # A function that waits some seconds and returns how many signals to stop came meanwhile.
        self._pause: Callable[[float], int] = _sleep

    @property
    def nexus_url(self) -> str:
        return f"http://{HOST}:{self.http_port}"

    @property
    def environment(self) -> dict[str, str]:
        """The settings by which programs find this hive, the broker's password included; hive.env
        holds the same.
        """
        nexus = {"NEXUS_URL": self.nexus_url, "NEXUS_HOST": HOST, "NEXUS_PORT": str(self.http_port)}
        return {**self.broker.environment, **nexus}

    @property
    def settings(self) -> Settings:
        """The same, for this process."""
        return Settings.load(**{name.lower(): value for name, value in self.environment.items()})

    def run(self, on_ready: Callable[[LocalHive], object], on_stop: Callable[[], object]) -> None:
        """Start, keep everything running until SIGINT, SIGTERM or SIGHUP, and stop.

        It must be called by the main thread.

        on_ready: called once all nodes are online. on_stop: called when the first signal came; a
            second one shortens the stopping.

        Raises: what `start` raises.
        """
        with Signals() as signals:
            self._pause = lambda seconds: signals.wait(seconds)[0]
            self.start()
            try:
                on_ready(self)
                with contextlib.suppress(InterruptedStartError):
                    while not signals.wait(self._next_in())[0]:
                        self.tend()
                on_stop()
            finally:
                self.stop()

    def start(self) -> None:
        """Start the broker, the nexus and the spores, wait until the nexus answers and every spore
        is online, write hive.env.

        What a hive that was killed left running in this directory is ended first.

        Raises: StateDirectoryError, PortInUseError, BrokerStartError, HiveError with the last lines
        of its log when a process ends or is not ready in time, InterruptedStartError. Nothing runs
        then.
        """
        self.state.acquire()
        try:
            self.state.end_processes(
                patience=REMAINS_WITHIN - 5, within=REMAINS_WITHIN, pause=self._moment
            )
            self.state.turn_logs((NEXUS, *self.spores))
            self.http_port = claim_port(self.http_port)
            self.broker.start(pause=self._moment)
            self._broker_started_at = time.monotonic()
            self._wait_until_ready()
            self.state.publish(self.environment)
        except BaseException:
            self.stop()
            raise

    def tend(self) -> None:
        """Start again what has ended, when its time has come; to be called often."""
        if not self.broker.running:
            self._restart_broker()
        for name, code in self._tend_children():
            log.warning(
                "process_ended", process=name, exit_code=code, log=str(self.state.log_of(name))
            )

    def stop(self) -> None:
        """Stop everything, the broker last: spores drain for DRAIN_WITHIN seconds, then give back
        what they run.
        """
        with contextlib.suppress(OSError):
            self.state.env_file.unlink()
        spores = self._living(self.spores)
        if not self._end(spores, DRAIN_WITHIN):
            log.warning("spores_hurried", why="they still run tasks, which go back to the queue")
            self._end(spores, FORCED_WITHIN)
        self._end(self._living((NEXUS,)), NEXUS_WITHIN)
        for child in self._living(self._children):
            child.signal_group(signal.SIGKILL)
        self.broker.stop(BROKER_WITHIN)
        try:
            # For instance a worker whose spore was killed, or a program that a task left behind.
            self.state.end_processes(patience=0.0, within=STRAYS_WITHIN)
        finally:
            self._living(self._children)
            self.state.release()

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + START_WITHIN + START_WITHIN_PER_SPORE * len(self.spores)
        with Readiness(self.settings) as readiness:
            while True:
                for name, code in self._tend_children():
                    kind = InvalidInputError if code == InvalidInputError.exit_code else HiveError
                    raise kind(
                        f"{name} ended with exit code {code} while it was starting. "
                        f"{last_lines(self.state.log_of(name))}"
                    )
                waiting = self._not_ready(readiness)
                if not waiting:
                    return
                if time.monotonic() > end:
                    raise HiveError(
                        f"{', '.join(waiting)}: not ready in time. "
                        f"{last_lines(self.state.log_of(waiting[0]))}"
                    )
                self._moment(POLL)

    def _not_ready(self, readiness: Readiness) -> list[str]:
        nexus = [] if readiness.nexus_answers() else [NEXUS]
        supervisors = readiness.supervisors_online() if self.spores else set()
        return nexus + [
            name
            for name in self.spores
            if (child := self._children[name].child) is None or child.pid not in supervisors
        ]

    def _launch(self, name: str) -> Child:
        home = self.state.nexus_home if name == NEXUS else self.state.home_of(name)
        home.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            **self._variables,
            **self.environment,
            **self.state.mark,
            "HIVE_HOME": str(home),
        }
        if name == NEXUS:
            command = [sys.executable, "-m", "hive", "nexus", "--app", self.app]
            return Child(command, environment, output=self.state.log_of(name))
        own = {"HIVE_NODE_NAME": name, "HIVE_CONCURRENCY": str(self.concurrency)}
        command = [sys.executable, "-m", "hive", "spore", "--app", self.app]
        return Child(
            command,
            {**environment, **own},
            output=self.state.log_of(name),
            keeps=(self.broker.lifeline,),
        )

    def _tend_children(self) -> list[tuple[str, int]]:
        """Name and exit code of each child that has just ended."""
        ended = [(name, respawning.tend()) for name, respawning in self._children.items()]
        return [(name, code) for name, code in ended if code is not None]

    def _restart_broker(self) -> None:
        now = time.monotonic()
        if self._broker_start_at is None:
            log.warning("process_ended", process="broker", log=str(self.broker.log_file))
            self._broker_start_at = now + self._broker_backoff.delay_after(
                now - self._broker_started_at
            )
        if now < self._broker_start_at:
            return
        try:
            self.broker.start(pause=self._moment)
        except InterruptedStartError:
            raise
        except HiveError as error:
            self._broker_start_at = now + self._broker_backoff.delay_after(0.0)
            log.error("broker_not_restarted", error=error.message)
        else:
            self._broker_started_at = now
            self._broker_start_at = None

    def _next_in(self) -> float | None:
        """Seconds until something is due to be started; None while all run."""
        waits = [
            wait
            for respawning in self._children.values()
            if (wait := respawning.due_in()) is not None
        ]
        if not self.broker.running:
            waits.append(
                0.0 if self._broker_start_at is None else self._broker_start_at - time.monotonic()
            )
        return min(waits, default=None)

    def _living(self, names: Sequence[str] | Mapping[str, object]) -> list[Child]:
        return [
            child
            for name in names
            if (child := self._children[name].child) is not None and child.ended() is None
        ]

    def _end(self, children: Sequence[Child], within: float) -> bool:
        """Tell them to stop and wait; a signal to this process cuts the waiting short.

        Returns: whether all have ended.
        """
        for child in children:
            child.signal(signal.SIGTERM)
        end = time.monotonic() + within
        hurried = 0
        while any(child.ended() is None for child in children):
            if hurried or time.monotonic() > end:
                return False
            hurried = self._pause(POLL)
        return True

    def _moment(self, seconds: float) -> None:
        """Wait; raises InterruptedStartError when told to stop meanwhile."""
        if self._pause(seconds):
            raise InterruptedStartError


def _sleep(seconds: float) -> int:
    time.sleep(seconds)
    return 0
