"""Runs Flower: its options, its port, its end."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery
from flower import command as flowers_command
from flower.options import default_options
from flower.urls import settings as flowers_settings
from tornado.ioloop import IOLoop
from tornado.options import OptionParser

from hive.broker.link.client import client_of
from hive.broker.link.format import why_not_asked
from hive.errors import PortInUseError, SettingsError
from hive.flower.entrance import require_entrance
from hive.flower.history import kept_alone
from hive.flower.page import HiveFlower
from hive.logs import get_logger

log = get_logger(__name__)

SHIPPED = Path(__file__).with_name("flowerconfig.py")
PROBE_SECONDS = 2.0
SAID_AGAIN_AFTER = 60.0


def serve(app: Celery, options: Any, announce: Callable[[str, int | None], None]) -> None:
    """Run Flower until SIGTERM or SIGINT; what it saw is saved then.

    options: the `chosen` ones. announce: called with the address and the port once it listens; the
        port is None where that is a socket's file.

    A broker that is away is waited for. Blocks; call it from the main thread.

    Raises: SettingsError, PortInUseError, BrokerAuthError, StoredFormatError.
    """
    client = client_of(app)
    probe = client.with_timeout(PROBE_SECONDS)
    try:
        waits = why_not_asked(probe)
    finally:
        probe.close()
    if waits is not None:
        log.warning("flower_waits_for_broker", error=waits)
    _say_once("flower.events", "flower.inspector", "flower.views.broker")
    # Its lines have what was asked for, and a refused login says so by itself.
    logging.getLogger("tornado.access").setLevel(logging.CRITICAL)
    with kept_alone(Path(options.db)):
        _run(app, options, announce)


def chosen(own: Path | None, *, read_write: bool) -> OptionParser:
    """Flower's options: those of the shipped file, then those of one's own.

    own: a Flower configuration file that is read after Hive's.

    Raises: SettingsError for what cannot be used, or would let anybody in.
    """
    options: OptionParser = default_options
    for file in filter(None, (SHIPPED, own)):
        _read(options, file)
    if read_write:
        options.read_only = False
    if not options.unix_socket:
        require_entrance(options.address, options.basic_auth or ())
    if not (options.read_only or options.basic_auth or options.auth):
        raise SettingsError(
            "Flower acts on workers and tasks only for those who log in: set "
            "HIVE_FLOWER_PASSWORD, or leave out --read-write."
        )
    return options


def _read(options: OptionParser, file: Path) -> None:
    try:
        options.parse_config_file(str(file), final=False)
    except SettingsError:
        raise
    except Exception as error:
        raise SettingsError(
            f"{file} cannot be used as a configuration of Flower: {error}. It is a Python file "
            "with lines like max_tasks = 5000."
        ) from error


def _run(app: Celery, options: Any, announce: Callable[[str, int | None], None]) -> None:
    flowers_command.extract_settings()  # makes Tornado's of Flower's options
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    flower = HiveFlower(app, options, IOLoop.current(), **flowers_settings)
    try:
        port = flower.start_http_server()
    except OSError as error:
        raise _not_listening(error, options) from None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, flower.stop)
    url = _url(options, port, secure="ssl_options" in flowers_settings)
    log.info("flower_listening", url=url, read_only=options.read_only, login=flower.entrance.asks)
    announce(url, port)
    flower.start()
    log.info("flower_stopped")


def _url(options: Any, port: int | None, *, secure: bool) -> str:
    if port is None:
        return f"unix:{options.unix_socket}"
    host = f"[{options.address}]" if ":" in options.address else options.address or "*"
    prefix = f"/{options.url_prefix.strip('/')}" if options.url_prefix else ""
    return f"http{'s' if secure else ''}://{host}:{port}{prefix}/"


def _not_listening(error: OSError, options: Any) -> PortInUseError | SettingsError:
    where = options.unix_socket or f"{options.address}:{options.port}"
    if error.errno == errno.EADDRINUSE:
        return PortInUseError(
            f"Port {options.port} of {options.address} is taken by another program; choose another "
            "HIVE_FLOWER_PORT (0 picks a free one)."
        )
    return SettingsError(
        f"Flower cannot listen on {where}: {error.strerror}. Choose another HIVE_FLOWER_HOST or "
        "HIVE_FLOWER_PORT."
    )


def _say_once(*loggers: str) -> None:
    """Have these loggers say a thing once a minute at most.

    While the broker is away Flower says so with each of its tries, and with each look at a page.
    """
    for name in loggers:
        logging.getLogger(name).addFilter(_Once())


class _Once:
    """Lets a line pass that was not said lately, whatever its values."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = self._clock()
        if now - self._said.get(str(record.msg), -SAID_AGAIN_AFTER) < SAID_AGAIN_AFTER:
            return False
        self._said[str(record.msg)] = now
        return True
