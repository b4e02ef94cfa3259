"""What the pages of the nexus work with."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

from celery import Celery
from starlette.requests import Request

from hive.broker.link.client import BrokerClient
from hive.broker.nodes.table import NodeTable
from hive.foreman.watch.thread import WatchdogThread

BROKER_TIMEOUT = 2.0


@dataclass(frozen=True)
class Nexus:
    """One nexus: its application, the application's broker client, and its watchdog.

    A page finds it with `nexus_of(request)`.
    """

    app: Celery
    client: BrokerClient
    watchdog: WatchdogThread

    @cached_property
    def probe(self) -> BrokerClient:
        """A connection with a short timeout: a page must answer while the broker does not."""
        return self.client.with_timeout(BROKER_TIMEOUT)

    @cached_property
    def threads(self) -> ThreadPoolExecutor:
        """For Hive's own pages: slow ones of an application may hold all of Starlette's."""
        return ThreadPoolExecutor(4, "hive-pages")

    @cached_property
    def table(self) -> NodeTable:
        """The node table, read through `probe`. Reading it blocks: do it in a thread."""
        return NodeTable(self.probe)


def nexus_of(request: Request) -> Nexus:
    """The nexus that serves a request."""
    found: Nexus = request.app.state.nexus
    return found
