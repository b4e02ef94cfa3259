"""Connections to the broker over TLS.

What REDIS_TLS and the settings beside it mean to redis-py, to kombu and to Celery.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from hive.errors import SettingsError
from hive.settings import Settings


def tls_parameters(settings: Settings) -> dict[str, Any] | None:
    """What redis-py's TLS connections are made with; also the value of Celery's `broker_use_ssl`.

    Returns: None where TLS was not asked for.

    The broker's certificate is always verified, and its name compared with REDIS_HOST.
    """
    if not settings.redis_tls:
        return None
    files = {
        "ssl_ca_certs": settings.redis_tls_ca,
        "ssl_certfile": settings.redis_tls_cert,
        "ssl_keyfile": settings.redis_tls_key,
    }
    named = {name: str(path) for name, path in files.items() if path is not None}
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True, **named}


def agreed_parameters(
    settings: Settings, name: str, own: object, *, own_is_set: bool
) -> dict[str, Any] | None:
    """The TLS parameters that an application's connections use.

    They are those of the application's own setting of that name, else those of REDIS_TLS.

    Raises: SettingsError where TLS was asked for and the application's setting would send
        everything in plain text.
    """
    asked = tls_parameters(settings)
    if not own_is_set:
        return asked
    if isinstance(own, Mapping) and own:
        return dict(own)
    if asked is not None or own:
        # kombu takes anything but a mapping, True too, for no TLS at all.
        raise SettingsError(
            f"TLS was asked for, and the application's {name}={own!r} would send everything in "
            "plain text. "
            f"Remove {name} and set REDIS_TLS=true, or make it a dict: {{'ssl_cert_reqs': "
            f"ssl.CERT_REQUIRED, 'ssl_ca_certs': '/path'}}."
        )
    return None
