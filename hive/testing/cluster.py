"""`cluster`: an application on a broker of its own, with real spores, for the length of a block."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from celery import Celery
from pydantic import SecretStr

from hive.broker.link.client import client_of
from hive.broker.nodes.table import Node, NodeTable
from hive.errors import HiveError, InvalidInputError
from hive.foreman.watch.thread import WatchdogThread
from hive.local.embedded import EmbeddedBroker
from hive.local.state_files import last_lines
from hive.process.child import Child
from hive.settings import Settings
from hive.testing.application import named, on_broker

HOST = "test"
HEARTBEAT = 0.5
WITHIN = 60.0
_POLL = 0.02

_INSTALLING = (
    "import sys, celery.__main__, celery.app.utils, hive; "
    "hive.install(celery.app.utils.find_app(sys.argv[2])); celery.__main__.main()"
)
"""Celery's command, for an application whose own module does not install Hive."""


@contextmanager
def cluster(
    app: Celery | str,
    *,
    spores: int = 1,
    concurrency: int = 2,
    watch: bool = True,
    directory: str | Path | None = None,
    **settings: Any,
) -> Iterator[Cluster]:
    """Run an application on a broker and spores of its own, and take all of it away afterwards.

    app: the application as `celery -A` takes it, "module:app", or itself: the module where it lives
        is looked for then. Spores are processes: they import it, and its tasks, by the `sys.path`
        of this one.
    spores: how many are started, "spore-1", "spore-2", …; they are online when the block begins.
    concurrency: slots of each. watch: whether this process runs the watchdog, by which others get
        what a dead spore held.
    directory: where the broker's data and the logs are written, and stay; if not given, a temporary
        one that is removed at the end.
    settings: fields of `hive.settings.Settings`, such as `hive_max_retries=0`. They win over the
        environment. Heartbeats come every 0.5 s if nothing else is said.

    In the block the application's broker and results are there, it is Celery's default and current
    application, and it sends its tasks even where it is configured with `task_always_eager`.
    Afterwards its configuration, a Hive that was installed in it, Celery's default and current
    application and this process's environment are as they were. Tasks that were used in the block
    for the first time keep the options that they got from the configuration.

    Raises: HiveError when the application cannot be found, or a spore ends or does not come online
        (with the last lines of its log); InvalidInputError for what is no setting; SettingsError;
        BrokerStartError. Nothing is left then.
    """
    with ExitStack() as stack:
        name, application = named(app)
        _check(settings)
        _check_number("spores", spores, least=0)
        _check_number("concurrency", concurrency, least=1)
        if not isinstance(directory, str | Path | None):
            raise InvalidInputError(f"directory is a path; it cannot be {directory!r:.100}.")
        place = Path(directory or stack.enter_context(_temporary_directory())).absolute()
        broker = EmbeddedBroker(place)
        stack.callback(broker.stop)
        broker.start()
        address = {field.lower(): value for field, value in broker.environment.items()}
        loaded = Settings.load(**{"hive_heartbeat_interval": HEARTBEAT, **settings, **address})
        own = {field: getattr(loaded, field) for field in ("hive_heartbeat_interval", *settings)}
        installs = hasattr(application, "hive")
        variables = stack.enter_context(on_broker(application, loaded))
        started = Cluster(
            application,
            name,
            place,
            {"ENABLE_HIVE": "true", **variables, **broker.environment, **_as_variables(own)},
            command=("-m", "celery") if installs else ("-c", _INSTALLING),
            concurrency=concurrency,
            lifeline=broker.lifeline,
        )
        stack.callback(started._end)
        if watch:
            stack.enter_context(watched(application))
        names = [f"spore-{number}" for number in range(1, spores + 1)]
        for spore in names:
            started.start(spore, wait=False)
        started.wait_online(*names)
        yield started


class Cluster:
    """What `cluster` has started. Spores have the names "spore-1", "spore-2", …, or that with which
    they were started; their node ids are these names with `@test`.

    app: the application. environment: the variables by which another process finds this hive (a
    `hive status`, say), the broker's password included.
    """

    def __init__(
        self,
        app: Celery,
        name: str,
        directory: Path,
        environment: Mapping[str, str],
        *,
        command: Sequence[str],
        concurrency: int,
        lifeline: int,
    ) -> None:
        self.app = app
        self.environment = dict(environment)
        self._command = (*command, "-A", name, "worker", "--without-gossip", "--without-mingle")
        self._directory = directory
        self._concurrency = concurrency
        self._lifeline = lifeline
        self._table = NodeTable(client_of(app))
        self._spores: dict[str, Child] = {}

    @property
    def settings(self) -> Settings:
        """With what the application has Hive installed."""
        return client_of(self.app).settings

    def nodes(self) -> dict[str, Node]:
        """The spores as the node table has them, by node id; also what is offline, for a day."""
        return self._table.read()

    def start(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        environment: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        wait: bool = True,
    ) -> None:
        """Start a spore: one more, or one anew that was killed or stopped.

        concurrency: its slots, if others than the cluster's. environment: further variables.
        options: further ones of `celery worker`. wait: whether to return only once it is online.

        Raises: HiveError when it runs already, ends, or does not come online.
        """
        known = self._spores.get(name)
        if known is not None and known.ended() is None:
            raise HiveError(f"The spore {name!r} runs already.")
        slots = str(concurrency or self._concurrency)
        command = (sys.executable, *self._command, "-n", f"{name}@{HOST}", "-c", slots, *options)
        inherited = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
            "TMPDIR": str(self._directory),
        }
        self._spores[name] = Child(
            command,
            {**inherited, **self.environment, **(environment or {})},
            output=self._log_file(name),
            keeps=(self._lifeline,),
        )
        if wait:
            self.wait_online(name)

    def kill(self, name: str) -> None:
        """Kill a spore with all its processes (SIGKILL), as a machine that loses its power."""
        spore = self._spore(name)
        spore.signal_group(signal.SIGKILL)
        self._wait(lambda: spore.ended() is not None, f"{name!r} did not end")

    def stop(self, name: str) -> None:
        """Tell a spore to end (SIGTERM): it finishes what it runs, and leaves.

        Raises: HiveError when it has not ended after a minute; it goes on then.
        """
        spore = self._spore(name)
        spore.signal(signal.SIGTERM)
        self._wait(lambda: spore.ended() is not None, f"{name!r} did not end", name)

    def log(self, name: str) -> str:
        """What a spore has printed."""
        self._spore(name)
        return self._log_file(name).read_text(errors="replace")

    def wait_online(self, *names: str) -> dict[str, Node]:
        """Wait until these spores are online, all that run if none is named.

        Returns: the nodes. Raises: HiveError when one has ended, or after a minute.
        """
        wanted = {name: self._spore(name) for name in names or self._running()}

        def missing() -> list[str]:
            nodes = self.nodes()
            for name, spore in wanted.items():
                if (code := spore.ended()) is not None:
                    raise HiveError(
                        f"The spore {name!r} ended with exit code {code}. "
                        f"{last_lines(self._log_file(name))}"
                    )
            return [name for name, spore in wanted.items() if not _runs_in(nodes, name, spore)]

        self._wait(lambda: not missing(), "not all spores came online", *missing()[:1])
        return self.nodes()

    def wait_idle(self) -> None:
        """Wait until nothing that was sent is waiting, due later or running, but for dead letters.

        Raises: HiveError after a minute.
        """
        client = client_of(self.app)

        def is_idle() -> bool:
            accepted, dead = (client.redis.hlen(client.key(key)) for key in ("entries", "dead"))
            return bool(accepted == dead)

        self._wait(is_idle, "the hive still has work")

    def _running(self) -> list[str]:
        return [name for name, spore in self._spores.items() if spore.ended() is None]

    def _spore(self, name: str) -> Child:
        try:
            return self._spores[name]
        except KeyError:
            known = ", ".join(self._spores) or "none"
            raise HiveError(f"No spore has the name {name!r}; there are: {known}.") from None

    def _log_file(self, name: str) -> Path:
        return self._directory / f"{name}.log"

    def _wait(self, condition: Callable[[], bool], fault: str, log_of: str | None = None) -> None:
        end = time.monotonic() + WITHIN
        while not condition():
            if time.monotonic() > end:
                said = f" {last_lines(self._log_file(log_of))}" if log_of else ""
                raise HiveError(f"Within {WITHIN:.0f} s {fault}.{said}")
            time.sleep(_POLL)

    def _end(self) -> None:
        for spore in self._spores.values():
            spore.signal_group(signal.SIGKILL)
        for name in self._running():
            self.kill(name)


def _runs_in(nodes: Mapping[str, Node], name: str, spore: Child) -> bool:
    """Whether the node is online, and this very process."""
    node = nodes.get(f"{name}@{HOST}")
    return node is not None and node.online and node.facts.pid == spore.pid


def _check(settings: Mapping[str, object]) -> None:
    unknown = sorted(settings.keys() - Settings.model_fields.keys())
    if unknown:
        raise InvalidInputError(f"{', '.join(unknown)}: no setting of Hive has this name.")
    fixed = sorted(name for name in settings if name.startswith(("redis_", "enable_hive")))
    if fixed:
        raise InvalidInputError(
            f"{', '.join(fixed)}: a cluster for a test has a broker of its own, and Hive on it."
        )


def _check_number(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InvalidInputError(f"{name} is a number from {least} on; it cannot be {value!r:.100}.")


def _as_variables(settings: Mapping[str, object]) -> dict[str, str]:
    """Settings as a process reads them from its environment; what is None is not set."""
    return {name.upper(): _as_text(value) for name, value in settings.items() if value is not None}


def _as_text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return json.dumps(value) if isinstance(value, dict) else str(value)


@contextmanager
def _temporary_directory() -> Iterator[str]:
    # The processes that wrote there have been killed, and may be ending still.
    with tempfile.TemporaryDirectory(prefix="hive-", ignore_cleanup_errors=True) as directory:
        yield directory


@contextmanager
def watched(app: Celery) -> Iterator[None]:
    """Let this process run the watchdog: it brings back what dead nodes held, as a nexus does."""
    watchdog = WatchdogThread(client_of(app), app)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.stop()
