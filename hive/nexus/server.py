"""The nexus: answers `/health` over HTTP and runs the Foreman's watchdog, in one process."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import redis
import uvicorn
from celery import Celery

from hive.broker.link.client import BrokerClient, client_of
from hive.broker.link.format import require_format, why_not_asked
from hive.errors import (
    PortInUseError,
    SettingsError,
)
from hive.foreman.watch.thread import WatchdogThread
from hive.logs import get_logger
from hive.nexus.context import BROKER_TIMEOUT, Nexus
from hive.nexus.health import TICK_OVERDUE
from hive.nexus.routes import application
from hive.process.lifeline import supervisor_fd, watch_supervisor
from hive.process.standing import Standing
from hive.settings import Settings

PORT_FILE = "HIVE_NEXUS_PORT_FILE"
STOP_WITHIN = 3
NAME = "nexus"
TURN = 1.0

log = get_logger(__name__)


def serve(app: Celery, settings: Settings, announce: Callable[[str, int], None]) -> None:
    """Listen on NEXUS_HOST:NEXUS_PORT and watch over the cluster until SIGTERM, SIGINT or the end
    of the supervisor.

    announce: called with the host and the port once it listens.

    Port 0 picks a free one. The chosen port is written to the file that HIVE_NEXUS_PORT_FILE names.
    The supervisor is the other end of the pipe that HIVE_SUPERVISOR_FD names. Blocks; call it from
    the main thread. A broker that is away is waited for, as a spore does.

    Raises: SettingsError for an address that is not loopback, PortInUseError, StoredFormatError for
    data that this release does not serve, BrokerAuthError when the broker refuses the credentials.
    """
    client = client_of(app)
    probe = client.with_timeout(BROKER_TIMEOUT)
    waits = why_not_asked(probe)
    if waits is not None:
        log.warning("nexus_waits_for_broker", error=waits)
    with _listen(settings.nexus_host, settings.nexus_port) as listener:
        port = int(listener.getsockname()[1])
        watchdog = WatchdogThread(client, app)
        page = application(Nexus(app, client, watchdog))
        server = _Server(
            uvicorn.Config(
                page,
                log_config=None,
                log_level="warning",
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=STOP_WITHIN,
            )
        )
        _stop_on_signals(server)
        _stop_with_supervisor(server)
        _publish_port(port)
        log.info("nexus_listening", host=settings.nexus_host, port=port)
        announce(settings.nexus_host, port)
        watchdog.start()
        turns = _Turns(Standing(settings.hive_home, "nexus", NAME), watchdog, probe)
        try:
            asyncio.run(_serve(server, listener, turns))
        finally:
            watchdog.stop(STOP_WITHIN)  # its lease ends by itself when this process does
            probe.close()
            log.info("nexus_stopped")


async def _serve(server: uvicorn.Server, listener: socket.socket, turns: _Turns) -> None:
    """Serve until the server is told to stop; beside it the loop shows that it turns.

    Raises: StoredFormatError.
    """
    turning = asyncio.create_task(turns.run(server))
    try:
        await server.serve(sockets=[listener])
        await turning
    finally:
        turns.end()


class _Turns:
    """Tells once a second how the nexus stands, until its server ends."""

    def __init__(self, standing: Standing, watchdog: WatchdogThread, probe: BrokerClient) -> None:
        """probe: by which it looks, once the broker is there, whether its data can be served."""
        self._standing = standing
        self._watchdog = watchdog
        self._probe = probe

    async def run(self, server: uvicorn.Server) -> None:
        """Raises: StoredFormatError, after the server was told to stop."""
        try:
            while not server.should_exit:
                self._tell()
                if not self._probe.format_served:
                    await asyncio.to_thread(self._look_at_format)
                await asyncio.sleep(TURN)
        finally:
            server.should_exit = True
            self._standing.turn("stopping")

    def end(self) -> None:
        self._standing.close()

    def _tell(self) -> None:
        if self._ticks():
            self._standing.turn("working")
        else:
            self._standing.turn("waiting", self._probe.address)

    def _look_at_format(self) -> None:
        with contextlib.suppress(redis.exceptions.RedisError):
            require_format(self._probe)

    def _ticks(self) -> bool:
        """Whether the watchdog has lately reached the broker."""
        tick = self._watchdog.last_tick
        return tick is not None and time.time() - tick < TICK_OVERDUE


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers.

    They would raise the signal again, so that the process did not end with 0.
    """

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _stop_on_signals(server: uvicorn.Server) -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def _stop_with_supervisor(server: uvicorn.Server) -> None:
    fd = supervisor_fd()
    if fd is None:
        return

    def stop() -> None:
        server.should_exit = True

    watch_supervisor(fd, stop)


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket on a loopback address."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
    except OSError as error:
        raise SettingsError(
            f"NEXUS_HOST cannot be {host!r}: {error.strerror}. Example: NEXUS_HOST=127.0.0.1"
        ) from None
    if not ipaddress.ip_address(str(address[0])).is_loopback:
        raise SettingsError(
            f"NEXUS_HOST cannot be {host!r}: the nexus asks nobody for a password, and so listens "
            "on loopback addresses only. Example: NEXUS_HOST=127.0.0.1"
        )
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(
                f"Port {port} of {host} is taken by another program; choose another NEXUS_PORT (0 "
                "picks a free one)."
            ) from None
        raise SettingsError(
            f"The nexus cannot listen on {host}:{port}: {error.strerror}. Choose another "
            "NEXUS_HOST or NEXUS_PORT."
        ) from None
    return listener


def _publish_port(port: int) -> None:
    """Write the port into the file that the environment names.

    The file appears whole or not at all: who waits for it never reads half a number.
    """
    named = os.environ.get(PORT_FILE)
    if named:
        draft = Path(f"{named}.{os.getpid()}")
        draft.write_text(f"{port}\n", "ascii")
        draft.replace(named)
