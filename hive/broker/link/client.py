"""The process's own connection to the broker, for all of Hive but kombu's channel."""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import redis
from redis import Redis, asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from hive.broker.link.outage import passes
from hive.broker.link.scripts import Script
from hive.broker.link.silence import SILENCE, keepalive
from hive.errors import (
    BrokerAuthError,
    BrokerMemoryError,
    BrokerUnreachableError,
    HiveError,
    SettingsError,
)
from hive.security.tls import tls_parameters
from hive.settings import Settings

if TYPE_CHECKING:
    from celery import Celery

SPACE = "venom:"


class BrokerClient:
    """A redis-py client for one broker, made anew after a fork; safe to share between threads.

    Commands are not retried behind the caller's back: a script that was sent may have run.
    """

    def __init__(
        self,
        url: str,
        settings: Settings,
        *,
        prefix: str = "",
        timeout: float = 15.0,
        tls: Mapping[str, Any] | None = None,
    ) -> None:
        """tls: redis-py's parameters of the connection where they are not those of the settings.
        timeout: in seconds.
        """
        self.url = url
        self.settings = settings
        self.prefix = prefix
        self.timeout = timeout
        self.tls = tls_parameters(settings) if tls is None else dict(tls)
        self.format_served = False
        self._lock = threading.Lock()
        self._client: tuple[int, Redis] | None = None

    @property
    def redis(self) -> Any:
        """The `redis.Redis` of this process, whose replies are bytes.

        Typed loosely: redis-py types replies for all settings at once.
        """
        current = self._client
        if current is None or current[0] != os.getpid():
            with self._lock:
                current = self._client
                if current is None or current[0] != os.getpid():
                    current = self._client = (os.getpid(), self._new_redis())
        return current[1]

    @property
    def address(self) -> str:
        """The broker's host:port, without the password."""
        parts = urlsplit(self.url)
        host = parts.hostname or "localhost"
        return f"{f'[{host}]' if ':' in host else host}:{parts.port or 6379}"

    def with_timeout(self, seconds: float) -> BrokerClient:
        """A client of the same broker with connections of its own; close it.

        It is for those who must not wait as long as the others.
        """
        return BrokerClient(
            self.url, self.settings, prefix=self.prefix, timeout=seconds, tls=self.tls
        )

    def asyncio_redis(self) -> asyncio.Redis:
        """A client for asyncio with connections of its own; the caller closes it."""
        tls = {} if self.tls is None else {**self.tls, "connection_class": asyncio.SSLConnection}
        return asyncio.Redis.from_url(
            self.url,
            **tls,
            socket_timeout=self.timeout,
            socket_connect_timeout=min(self.timeout, SILENCE),
            retry=AsyncRetry(NoBackoff(), 0),
            protocol=2,
        )

    def _new_redis(self) -> Redis:
        tls = {} if self.tls is None else {**self.tls, "connection_class": redis.SSLConnection}
        return Redis.from_url(
            self.url,
            **tls,
            socket_timeout=self.timeout,
            socket_connect_timeout=min(self.timeout, SILENCE),
            socket_keepalive=True,
            socket_keepalive_options=keepalive(),
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
            protocol=2,
        )

    def key(self, *parts: str) -> str:
        """`key("nodes", "static")` is the full name of `venom:nodes:static`."""
        return f"{self.prefix}{SPACE}{':'.join(parts)}"

    def now_ms(self) -> int:
        """The broker's clock, in unix ms: one round trip. Raises: redis errors."""
        seconds, microseconds = self.redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    def run(self, script: Script, keys: Sequence[Any] = (), args: Iterable[Any] = ()) -> Any:
        return script(self.redis, keys, args)

    def close(self) -> None:
        """Close the connections of this process.

        Explicit, since hiredis may fail while the interpreter is ending.
        """
        current, self._client = self._client, None
        if current is not None and current[0] == os.getpid():
            current[1].close()


@contextmanager
def broker_errors(where: str = "") -> Iterator[None]:
    """Turn redis-py's and kombu's errors of a broker that is away, or refuses for now, into Hive's.

    They become BrokerAuthError, BrokerMemoryError or BrokerUnreachableError; that a key is of a
    type which Hive does not store there becomes a HiveError.

    `where` (host:port, no password) is put into the message.
    """
    at = f" at {where}" if where else ""
    try:
        with _library_errors():
            yield
    except (redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise BrokerAuthError(
            f"The broker{at} refused the credentials ({error}); check REDIS_USERNAME and "
            "REDIS_PASSWORD."
        ) from error
    except redis.exceptions.OutOfMemoryError as error:
        raise BrokerMemoryError from error
    except redis.exceptions.InvalidResponse as error:
        raise BrokerUnreachableError(
            f"What answers{at} is neither Redis nor Valkey ({error}); check REDIS_HOST and "
            "REDIS_PORT."
        ) from error
    except redis.exceptions.ResponseError as error:
        if str(error).startswith(("NOAUTH", "WRONGPASS")):
            raise BrokerAuthError(
                f"The broker{at} refused the credentials ({error}); check REDIS_USERNAME and "
                "REDIS_PASSWORD."
            ) from error
        if passes(error):
            raise BrokerUnreachableError(
                f"The broker{at} refuses for now ({error}): it loads its data, is a replica, or "
                "cannot write. Try again when it is ready."
            ) from error
        if "WRONGTYPE" in str(error):
            raise HiveError(
                f"A key of the hive{at} is of another type than Hive stores there ({error}); "
                "somebody else has written it."
            ) from error
        raise
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
        if is_about_tls(error):
            raise BrokerUnreachableError(
                f"The broker{at} and this program do not agree on TLS ({error}); check REDIS_TLS, "
                "REDIS_TLS_CA, REDIS_TLS_CERT, and that the broker's certificate is for REDIS_HOST."
            ) from error
        raise BrokerUnreachableError(
            f"The broker{at} does not answer ({error}); check REDIS_HOST, REDIS_PORT and that the "
            "server runs."
        ) from error


def is_about_tls(error: BaseException | None) -> bool:
    """Whether a connection failed since the two sides could not agree on TLS."""
    seen: set[int] = set()  # an error may be in its own context
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        # A server without TLS takes the handshake for half a command, and waits for the rest.
        if isinstance(error, ssl.SSLError) or "handshake" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def _library_errors() -> Iterator[None]:
    """Raise the error of redis-py that kombu has wrapped while publishing."""
    try:
        yield
    except Exception as error:
        from kombu.exceptions import OperationalError  # commands that only look need no kombu

        if not isinstance(error, OperationalError):
            raise
        if isinstance(error.__cause__, redis.exceptions.RedisError):
            raise error.__cause__ from None
        raise redis.exceptions.ConnectionError(str(error)) from error


def client_of(app: Celery) -> BrokerClient:
    """The broker client that `hive.install` gave to an application.

    Raises: HiveError when Hive was not installed into it.
    """
    client = getattr(app, "hive", None)
    if not isinstance(client, BrokerClient):
        raise _not_installed(app.main)
    return client


def ready_client(settings: Settings) -> BrokerClient:
    """A broker client like the ready application's, for what needs no application.

    Raises: HiveError where ENABLE_HIVE is false, SettingsError.
    """
    if not settings.enable_hive:
        raise _not_installed("hive")
    return BrokerClient(broker_url(os.environ.get("CELERY_BROKER_URL"), settings), settings)


def broker_url(own: Any, settings: Settings) -> str:
    """The broker's address: the one that an application has for itself (the first of several; an
    environment variable of Celery's counts), or else that of the settings.

    Raises: SettingsError when it is not Redis or Valkey.
    """
    if not own or own == settings.redis_url:
        return settings.redis_url
    url = str(own[0] if isinstance(own, list | tuple) else own)
    if settings.enable_hive and urlsplit(url).scheme != "redis":
        hint = " and REDIS_TLS=true" if urlsplit(url).scheme == "rediss" else ""
        raise SettingsError(
            f"The application's broker_url is a {urlsplit(url).scheme}:// address; Hive needs "
            f"redis://host:port/db{hint}."
        )
    return url


def _not_installed(name: str | None) -> HiveError:
    return HiveError(
        f"Hive is not installed in the application {name!r}; call hive.install(app) first "
        "(ENABLE_HIVE=false installs nothing)."
    )
