"""A command's way to the cluster: application, broker, and the wait for a spore."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from celery import Celery

from hive.broker.link.client import BrokerClient, broker_errors, client_of
from hive.broker.link.format import require_format
from hive.broker.nodes.table import Node, NodeTable
from hive.cli.output import note
from hive.errors import InvalidInputError, NoNodeOnlineError
from hive.skills import Skill, find_skill

POLL = 0.25
NOBODY_ONLINE = "no spore is online; waiting for one … start one with `hive spore`"


@dataclass(frozen=True, slots=True)
class Cluster:
    """An application in which Hive is installed, and its broker."""

    app: Celery
    client: BrokerClient
    table: NodeTable

    def nodes(self) -> dict[str, Node]:
        """All known nodes by node id. Raises: BrokerUnreachableError."""
        with broker_errors(self.client.address):
            return self.table.read()

    def skill(self, name: str) -> Skill:
        """The skill or task of that name, as the application has it.

        Raises: UnknownSkillError.
        """
        task = self.app.tasks.get(name)
        known = find_skill(name if task is None else task)
        return replace(known, task=self.app.tasks.get(known.task.name, known.task))

    def online(self) -> list[Node]:
        return [node for node in self.nodes().values() if node.online]


@contextmanager
def connected(application: str | None = None) -> Iterator[Cluster]:
    """The cluster of the environment's settings; its connections are closed at the end.

    application: `module:app` of the user's own application, None for Hive's.

    Raises: SettingsError, BrokerUnreachableError, BrokerAuthError, InvalidInputError.
    """
    with cluster_of(load_application(application)) as cluster:
        yield cluster


@contextmanager
def cluster_of(app: Celery) -> Iterator[Cluster]:
    """The cluster of an application.

    Raises: StoredFormatError, BrokerUnreachableError, BrokerAuthError.
    """
    client = client_of(app)
    cluster = Cluster(app, client, NodeTable(client))
    with broker_errors(client.address):
        require_format(client)
    try:
        yield cluster
    finally:
        app.close()
        client.close()


def load_application(name: str | None) -> Celery:
    """Import `module:app` from the working directory or the path; None is Hive's ready application.

    Without an attribute it is looked for as `celery -A` does: `app`, `celery`, or `module.celery`.

    Raises: InvalidInputError when there is no such module or no Celery application in it.
    """
    if name is None:
        from hive.celery import app as ready

        ready.loader.import_default_modules()
        return ready
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = _found(module, attribute)
    except ImportError as error:
        raise InvalidInputError(f"--app {name}: {error}. Example: --app shop.tasks:app") from error
    if not isinstance(found, Celery):
        raise InvalidInputError(
            f"--app {name}: {module} has no Celery application {attribute or 'app'!r}. Example: "
            "--app shop.tasks:app"
        )
    found.set_default()
    found.loader.import_default_modules()
    return found


def _found(module: str, attribute: str) -> object:
    from celery.app.utils import find_app

    if attribute:
        return getattr(importlib.import_module(module), attribute, None)
    importlib.import_module(module)
    try:
        found: object = find_app(module)
    except (AttributeError, ImportError):
        return None
    return found


class Attendance:
    """Says, once each time, that no spore is online any more, and that one is again.

    say: how; by default a note on stderr.
    """

    def __init__(self, cluster: Cluster, say: Callable[[str], None] = note) -> None:
        self._cluster = cluster
        self._say = say
        self._alone = False

    def look(self) -> None:
        """Look now. Raises: BrokerUnreachableError."""
        if self._alone != (not self._cluster.online()):
            self._alone = not self._alone
            self._say(NOBODY_ONLINE if self._alone else "a spore is online again")


def wait_for_spore(cluster: Cluster, timeout: float | None) -> float | None:
    """Wait, with a visible reason, until a spore is online.

    timeout: seconds to wait at most; None waits for ever.

    Returns: the seconds that are left of the timeout, 0.1 at least. Raises: NoNodeOnlineError when
        the time is over.
    """
    start = time.monotonic()
    told = False
    while not cluster.online():
        if not told:
            told = True
            note(NOBODY_ONLINE)
        if timeout is not None and time.monotonic() - start >= timeout:
            raise NoNodeOnlineError(
                f"No spore came online within {timeout:g} s; start one with `hive spore`."
            )
        time.sleep(POLL)
    return None if timeout is None else max(0.1, timeout - (time.monotonic() - start))
