"""Which addresses may be fetched, and sockets that go to checked addresses only.

A name is resolved once for each connection, every address that it has is checked, and the socket
goes to one of these very addresses. A name server that answers differently the second time (DNS
rebinding) gains nothing by it.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from urllib.parse import urlsplit, urlunsplit

from hive.errors import FetchError
from hive.tasks.headers import escaped

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolved = tuple[
    socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
]

# RFC 6052: the last 32 bits are the IPv4 address that is really reached.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# All that IANA has given out for the public internet.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_ADDRESS_CHARACTERS = 8192
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def checked_url(url: str) -> str:
    """The address as it may be requested: http or https, with a host and without a user name.

    Blanks and what else may not stand in an address are percent-encoded behind the host.

    Raises: FetchError saying what is wrong with it.
    """
    url = url.strip()
    shown = url if len(url) <= 200 else f"{url[:200]}…"
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
        requested = urlunsplit(
            (*parts[:2], escaped(parts.path), escaped(parts.query), escaped(parts.fragment))
        )
    except ValueError as error:
        raise FetchError(f"{shown!r} is not an address: {error}.") from None
    if parts.scheme not in ("http", "https"):
        raise FetchError(f"{shown!r} cannot be fetched: only http:// and https:// addresses can.")
    if "@" in parts.netloc:
        # The address ends up in results and logs; it is not repeated here either.
        raise FetchError(
            "An address with a user name or password in it is not fetched: results and logs would "
            "show them."
        )
    if (
        not host
        or port == 0
        or len(url) > _ADDRESS_CHARACTERS
        or _CONTROL.search(url)
        or not host.isprintable()
        or " " in parts.netloc
    ):
        raise FetchError(f"{shown!r} is not an address. Example: https://example.org/page.html")
    return requested


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet.

    Private, loopback, link-local, shared, multicast and reserved addresses are not.
    """
    ip: Address = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip not in _GLOBAL_UNICAST:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


class Deadline:
    """The time that a whole fetch may take.

    When it is over, the watched connections are cut, whatever they wait for.

    A read timeout bounds a single wait only: a server that sends one byte every few seconds, of its
    headers for instance, would hold a worker for hours.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds
        self._watched: list[socket.socket] = []
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    @property
    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - time.monotonic())

    @property
    def passed(self) -> bool:
        return self.remaining == 0

    def watch(self, connection: socket.socket) -> None:
        # A duplicate: TLS takes the original over, and shutting down the copy ends the connection
        # all the same.
        with self._lock:
            self._watched.append(connection.dup())

    def __enter__(self) -> Deadline:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        with self._lock:
            for connection in self._watched:
                connection.close()
            self._watched.clear()

    def _cut(self) -> None:
        with self._lock:
            for connection in self._watched:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class Door:
    """Opens the sockets of one fetch.

    allow_private: whether addresses that are not public may be reached.
    connect_timeout: seconds for one address of the host.
    """

    def __init__(self, deadline: Deadline, *, allow_private: bool, connect_timeout: float) -> None:
        self.opened = 0
        self._deadline = deadline
        self._allow_private = allow_private
        self._connect_timeout = connect_timeout

    def open(self, host: str, port: int) -> socket.socket:
        """Connect to `host`, after all of its addresses were checked, at the first that answers.

        Raises: FetchError for an unknown host, a refused address, no answer.
        """
        addresses = self._resolve(host, port)
        if not self._allow_private:
            for _, address in addresses:
                if not is_public(str(address[0])):
                    shown = host if host.strip("[]") == address[0] else f"{host} ({address[0]})"
                    raise FetchError(
                        f"{shown} is not on the public internet, and is not fetched. "
                        "HIVE_FETCH_ALLOW_PRIVATE=true on the node allows it."
                    )
        fault = "no time was left"
        for family, address in addresses:
            connection = socket.socket(family, socket.SOCK_STREAM)
            try:
                connection.settimeout(
                    max(0.001, min(self._connect_timeout, self._deadline.remaining))
                )
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.connect(address)
                self._deadline.watch(connection)
            except OSError as error:
                connection.close()
                fault = (
                    "no answer in time"
                    if isinstance(error, TimeoutError)
                    else (error.strerror or str(error))
                )
                continue
            except BaseException:
                connection.close()
                raise
            self.opened += 1
            return connection
        raise FetchError(f"{host} port {port} cannot be reached: {fault}.")

    def _resolve(self, host: str, port: int) -> list[Resolved]:
        """All addresses of `host`.

        The look-up has a thread of its own, since the system's takes no timeout.
        """
        found: list[Resolved] = []
        faults: list[str] = []

        def look_up() -> None:
            try:
                entries = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                faults.append(getattr(error, "strerror", None) or str(error))
            else:
                found.extend((entry[0], entry[4]) for entry in entries)

        thread = threading.Thread(target=look_up, daemon=True)
        thread.start()
        thread.join(self._deadline.remaining)
        if not found:
            raise FetchError(
                f"The host {host} is not known: "
                f"{faults[0] if faults else 'the name server did not answer in time'}."
            )
        return found
