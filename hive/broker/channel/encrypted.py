"""The transport of a hive that speaks TLS, and nothing else.

kombu turns TLS on by the name of the transport, `rediss`, or by `broker_use_ssl`. This one has
another name, and without the setting kombu would silently send everything in plain text. Therefore
every connection made here is one over TLS, whatever becomes of the settings.
"""

# celery-types leaves most of kombu's Redis transport out.
# mypy: disable-error-code="misc"

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import redis

from hive.broker.channel import transport
from hive.broker.link.client import BrokerClient, is_about_tls
from hive.errors import SettingsError

NAME = "hive.broker.channel.encrypted:Transport"
_PROBE_SECONDS = 2.0


class Channel(transport.Channel):
    """Hive's channel over TLS; without parameters of its own it trusts the system's authorities."""

    connection_class = redis.SSLConnection


class Transport(transport.Transport):
    """Named in `broker_transport` where REDIS_TLS is set; the address stays a redis:// one."""

    Channel = Channel


def refuse_plain_broker(client: BrokerClient) -> None:
    """Make sure, on a real connection, that a broker for which TLS was asked speaks it.

    A broker that is away is left to be waited for.

    Raises: SettingsError when it answers in plain text. Nothing secret is sent to find out.
    """
    if client.tls is None:
        return
    probe = client.with_timeout(_PROBE_SECONDS)
    try:
        probe.redis.ping()
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
        if is_about_tls(error) and _answers_in_plain_text(client.url):
            raise SettingsError(
                f"TLS was asked for, and the broker at {client.address} speaks plain text there. "
                "Set REDIS_PORT to the port of its TLS (tls-port), or give it one; REDIS_TLS=false "
                "sends everything, the password too, in plain text."
            ) from error
    except redis.exceptions.RedisError:
        pass  # it refuses the credentials, but over TLS; who uses it will be told
    finally:
        probe.close()


def _answers_in_plain_text(url: str) -> bool:
    parts = urlsplit(url)
    try:
        with socket.create_connection(
            (parts.hostname or "localhost", parts.port or 6379), _PROBE_SECONDS
        ) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(1) in (b"+", b"-")
    except OSError:
        return False
