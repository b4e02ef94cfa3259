"""Flower with Hive's entrance and Hive's queues."""

# Flower ships no types.
# mypy: disable-error-code="misc"

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from celery import Celery
from flower.api.tasks import GetQueueLengths
from flower.app import Flower
from flower.views.broker import BrokerView
from redis.exceptions import RedisError
from tornado.httputil import HTTPServerRequest
from tornado.ioloop import IOLoop
from tornado.web import HTTPError, RequestHandler, url

from hive.broker.link.client import client_of
from hive.errors import HiveError
from hive.flower.depths import Depth, Depths
from hive.flower.entrance import Entrance, is_local_name
from hive.flower.history import KeptEvents
from hive.logs import get_logger

log = get_logger(__name__)

OPEN = "/healthcheck"
"""What nobody has to log in for: it says OK, and nothing else."""


class HiveFlower(Flower):
    """Flower for an application in which Hive is installed.

    options: Flower's, whose `basic_auth` becomes the entrance's stand-in.
    more: what Tornado's application takes.
    """

    # A look at all workers sends eight questions at once and waits a second for the answers, as one
    # at a single worker does; Python's own number, that of the processors and four, is too few.
    max_workers = 24

    def __init__(self, app: Celery, options: Any, io_loop: IOLoop, **more: Any) -> None:
        self.entrance = Entrance(options.basic_auth or ())
        if self.entrance.asks:
            options.basic_auth = [self.entrance.stand_in]
        events = KeptEvents(
            app,
            db=options.db,
            persistent=options.persistent,
            state_save_interval=options.state_save_interval,
            enable_events=options.enable_events,
            io_loop=io_loop,
            max_workers_in_memory=options.max_workers,
            max_tasks_in_memory=options.max_tasks,
        )
        super().__init__(options, app, events, io_loop, **more)
        self.depths = Depths(client_of(app), app.amqp.queues)
        self._prefix = f"/{prefix}" if (prefix := (options.url_prefix or "").strip("/")) else ""
        self.add_handlers(
            ".*",
            [
                url(rf"{self._prefix}/broker", BrokerTab),
                url(rf"{self._prefix}/api/queues/length", QueueLengths),
            ],
        )

    @property
    def broker_uri(self) -> str:
        """The broker's address for the pages, without its password; one over TLS says so."""
        shown: str = super().broker_uri
        return shown.replace("redis:", "rediss:", 1) if client_of(self.capp).tls else shown

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        """Tornado's way to a request's handler: who may not come in gets none of Flower's."""
        if request.path.removeprefix(self._prefix) == OPEN:
            return super().find_handler(request, **kwargs)
        if self.entrance.asks:
            given = request.headers.get("Authorization")
            if not self.entrance.knows(given):
                if given is not None:
                    log.warning("flower_login_refused", address=request.remote_ip)
                return self.get_handler_delegate(request, Refusal, {"login": True})
            request.headers["Authorization"] = self.entrance.ticket
        elif not (self.options.auth or is_local_name(request.host_name)):
            return self.get_handler_delegate(request, Refusal, {"login": False})
        return super().find_handler(request, **kwargs)

    def stop(self) -> None:
        """Save what was seen, and let `start` return."""
        super().stop()
        self.depths.close()


class Refusal(RequestHandler):
    """Answers who may not come in, whatever was asked."""

    def initialize(self, login: bool) -> None:
        self._login = login

    def check_xsrf_cookie(self) -> None:
        """Nothing is done here that anybody could be made to ask for."""

    def prepare(self) -> None:
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        if self._login:
            self.set_status(401)
            self.set_header("WWW-Authenticate", 'Basic realm="Flower", charset="UTF-8"')
            self.finish("Flower asks for HIVE_FLOWER_USER and HIVE_FLOWER_PASSWORD.\n")
        else:
            self.set_status(403)
            self.finish(
                "Flower has no password here, and so answers to 127.0.0.1 and localhost alone; "
                "set HIVE_FLOWER_PASSWORD to reach it by another name.\n"
            )


class Counting:
    """What Flower asks for the lengths of queues, in place of its own client of the broker."""

    def __init__(self, count: Callable[[], Awaitable[list[dict[str, Any]]]]) -> None:
        self._count = count

    async def queues(self, _names: object) -> list[dict[str, Any]]:
        """As Flower's brokers answer. Raises: HTTPError 503 while Hive's does not."""
        try:
            return await self._count()
        except (RedisError, HiveError) as error:
            raise HTTPError(503, f"The broker does not tell its queues: {error}") from None


class BrokerTab(BrokerView):
    """The tab: every queue, and what waits in none."""

    def get_broker(self) -> Counting:
        return Counting(self._rows)

    async def _rows(self) -> list[dict[str, Any]]:
        depths = self.application.depths
        found = [*await _read(depths.queues), *await _read(depths.elsewhere)]
        return [_row(depth, noted=True) for depth in found]


class QueueLengths(GetQueueLengths):
    """The same for programs, as far as it is queues."""

    def get_broker(self) -> Counting:
        return Counting(self._rows)

    async def _rows(self) -> list[dict[str, Any]]:
        return [_row(depth) for depth in await _read(self.application.depths.queues)]


async def _read(count: Callable[[], list[Depth]]) -> list[Depth]:
    return await IOLoop.current().run_in_executor(None, count)


def _row(depth: Depth, *, noted: bool = False) -> dict[str, Any]:
    """A queue in the words that Flower's page has from RabbitMQ."""
    return {
        "name": f"{depth.name} – {depth.note}" if noted and depth.note else depth.name,
        "messages": depth.messages,
        "messages_ready": depth.ready,
        "messages_unacknowledged": depth.running,
        "consumers": depth.consumers,
    }
