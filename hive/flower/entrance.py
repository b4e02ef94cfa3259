"""Who may look at Flower: whoever has the password, or where there is none, this machine alone.

Flower compares a login with `hmac.compare_digest` as text, which fails with any letter beyond
ASCII, leaves `/metrics` open, and without a password answers whatever name it is asked by. So the
login is checked here, before Flower sees the request; Flower then compares a ticket of its own.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import secrets
import socket
from collections.abc import Sequence

from hive.errors import SettingsError
from hive.settings import SHORTEST_PASSWORD, Settings


def logins(settings: Settings) -> list[str]:
    """The value of Flower's option `basic_auth`: `user:password`, or nothing without a password.

    Raises: SettingsError, as `require_entrance`.
    """
    password = settings.hive_flower_password
    found = [f"{settings.hive_flower_user}:{password.get_secret_value()}"] if password else []
    require_entrance(settings.hive_flower_host, found)
    return found


def require_entrance(address: str, basic_auth: Sequence[str]) -> None:
    """Make sure that others than this machine need a good password.

    address: where Flower listens; an empty one is everywhere.

    Raises: SettingsError where they need none, or a weak one, or the address is none.
    """
    if _is_loopback(address):
        return
    passwords = [login.partition(":")[2] for login in basic_auth]
    if not passwords or any(len(password) < SHORTEST_PASSWORD for password in passwords):
        found = f"{min(map(len, passwords))} characters" if passwords else "no password"
        raise SettingsError(
            f"HIVE_FLOWER_HOST cannot be {address!r} with {found}: others than this machine could "
            f"see what tasks work on. Set HIVE_FLOWER_PASSWORD to {SHORTEST_PASSWORD} characters "
            "or more, or listen on loopback. Example: "
            "HIVE_FLOWER_PASSWORD=$(python3 -c 'import secrets; print(secrets.token_urlsafe(32))')"
        )


def _is_loopback(address: str) -> bool:
    if not address:
        return False
    try:
        found = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(
            f"HIVE_FLOWER_HOST cannot be {address!r}: {reason}. Example: HIVE_FLOWER_HOST=127.0.0.1"
        ) from None
    return all(
        ipaddress.ip_address(str(where[0]).partition("%")[0]).is_loopback for *_, where in found
    )


class Entrance:
    """Tells who may come in. Without logins it is whoever is on this machine and says so.

    logins: each `user:password`.
    ticket: the header that Flower is given instead, and knows as `stand_in`.
    """

    def __init__(self, logins: Sequence[str]) -> None:
        self._logins = [login.encode() for login in logins]
        self.stand_in = f"hive:{secrets.token_urlsafe(32)}"
        self.ticket = f"Basic {base64.b64encode(self.stand_in.encode()).decode()}"

    @property
    def asks(self) -> bool:
        return bool(self._logins)

    def knows(self, authorization: str | None) -> bool:
        """Whether the value of the header `Authorization` is a login; all are compared in full."""
        scheme, _, credentials = (authorization or "").partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            given = base64.b64decode(credentials.strip(), validate=True)
        except (binascii.Error, ValueError):
            return False
        return sum(hmac.compare_digest(given, login) for login in self._logins) > 0


def is_local_name(host: str) -> bool:
    """Whether a request's host name means this machine wherever it is resolved.

    A page of anybody's can have its own name resolved to 127.0.0.1 (DNS rebinding), and a browser
    lets it read what answers there.
    """
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
