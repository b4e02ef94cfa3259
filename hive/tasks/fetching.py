"""Fetch one page over HTTP within limits of time, size, redirects and reach."""

from __future__ import annotations

from dataclasses import dataclass
from email.message import Message
from functools import partial
from socket import socket
from typing import Any
from urllib.parse import urljoin

import requests
import urllib3
from pydantic import BaseModel, ConfigDict
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

from hive.errors import FetchError
from hive.tasks.addresses import Deadline, Door, checked_url
from hive.tasks.charset import decode

_HEADERS = {
    "User-Agent": "venom-hive",
    "Accept": "text/html,application/xhtml+xml,text/*;q=0.8,*/*;q=0.5",
    "Accept-Encoding": "gzip, deflate",
    # Each hop of a redirect has a connection, and so a check, of its own.
    "Connection": "close",
}
_HTML = frozenset({"text/html", "application/xhtml+xml"})
_TEXTUAL = frozenset(
    {
        "application/json",
        "application/xml",
        "application/javascript",
        "application/x-javascript",
        "application/yaml",
    }
)
_CHUNK = 65536
_SNIFFED = 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """How far one fetch may go: `connect`, `read` (one wait) and `total` in seconds, `size` in
    bytes after decompression.
    """

    connect: float = 5.0
    read: float = 10.0
    total: float = 30.0
    size: int = 10 * 1024 * 1024
    redirects: int = 5


class Page(BaseModel):
    """A fetched page.

    `url` is where it was found after `redirects` redirects, `size` its bytes after decompression.
    """

    model_config = ConfigDict(frozen=True)

    url: str
    status: int
    content_type: str
    charset: str
    size: int
    redirects: int
    text: str


def fetch_page(
    url: str, *, allow_private: bool = False, html: bool = False, limits: Limits | None = None
) -> Page:
    """Fetch a page of text. No proxy, cookie store or password file of the machine is used.

    allow_private: whether loopback, private and other addresses that are not public may be reached.
    html: whether anything but HTML is refused.

    Returns: the page, its text decoded.
    Raises: FetchError that names the address and says why: unknown host, refused address, status
        400 and above, a limit, not text (or not HTML), empty.
    """
    limits = limits or Limits()
    address = checked_url(url)
    with Deadline(limits.total) as deadline, requests.Session() as session:
        session.trust_env = False
        door = Door(deadline, allow_private=allow_private, connect_timeout=limits.connect)
        for scheme in ("http://", "https://"):
            session.mount(scheme, _CheckedAdapter(door))
        for hop in range(limits.redirects + 1):
            try:
                with _request(session, door, address, limits) as response:
                    target = session.get_redirect_target(response)
                    if target is None:
                        return _read_page(response, hop, html, limits, deadline)
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                raise FetchError(f"{address}: {_fault(error, limits, deadline)}.") from None
            address = checked_url(urljoin(address, target))
        raise FetchError(f"{url}: more than {limits.redirects} redirects, the last to {address}.")


class _CheckedHTTPConnection(HTTPConnection):
    """A connection whose socket comes from the door; host name, Host header and TLS server name
    stay as they are.
    """

    def __init__(self, *args: Any, door: Door, **options: Any) -> None:
        super().__init__(*args, **options)
        self._door = door

    def _new_conn(self) -> socket:
        return self._door.open(self._dns_host, self.port)


class _CheckedHTTPSConnection(HTTPSConnection):
    """The same over TLS."""

    def __init__(self, *args: Any, door: Door, **options: Any) -> None:
        super().__init__(*args, **options)
        self._door = door

    def _new_conn(self) -> socket:
        return self._door.open(self._dns_host, self.port)


class _CheckedHTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _CheckedHTTPConnection


class _CheckedHTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _CheckedHTTPSConnection


class _CheckedAdapter(HTTPAdapter):
    """Makes every connection of a session through one door."""

    def __init__(self, door: Door) -> None:
        super().__init__()
        pools = {"http": _CheckedHTTPPool, "https": _CheckedHTTPSPool}
        self.poolmanager.pool_classes_by_scheme = {
            scheme: partial(pool, door=door) for scheme, pool in pools.items()
        }


def _request(
    session: requests.Session, door: Door, address: str, limits: Limits
) -> requests.Response:
    before = door.opened
    response = session.get(
        address,
        headers=_HEADERS,
        stream=True,
        allow_redirects=False,
        timeout=(limits.connect, limits.read),
    )
    if door.opened == before:
        # The door hangs on a hook inside urllib3. Should a version of it stop calling the hook,
        # nothing is fetched unchecked.
        response.close()
        raise FetchError(f"{address}: the connection did not go through the address check.")
    return response


def _read_page(
    response: requests.Response, redirects: int, html: bool, limits: Limits, deadline: Deadline
) -> Page:
    address, status = response.url, response.status_code
    if not 200 <= status < 300:
        raise FetchError(
            f"{address}: the server answered {status} {response.reason or ''}".rstrip() + "."
        )
    header = Message()
    header["Content-Type"] = response.headers.get("Content-Type", "")
    kind = header.get_content_type() if header["Content-Type"] else ""
    if kind and not _acceptable(kind, html):
        raise FetchError(f"{address}: the page is {kind}, not {'HTML' if html else 'text'}.")
    body = _read_body(response, address, limits)
    if deadline.passed:
        # A connection that was cut looks like the end of a page that states no length.
        raise TimeoutError
    if not body.strip():
        raise FetchError(f"{address}: the page is empty.")
    if not kind and html and b"<" not in body[:_SNIFFED]:
        raise FetchError(f"{address}: the page states no content type and does not look like HTML.")
    text, charset = decode(body, header.get_content_charset())
    if "\0" in text:
        raise FetchError(f"{address}: the page is binary, not text.")
    return Page(
        url=address,
        status=status,
        content_type=kind,
        charset=charset,
        size=len(body),
        redirects=redirects,
        text=text,
    )


def _acceptable(kind: str, html: bool) -> bool:
    if html:
        return kind in _HTML
    return (
        kind in _HTML
        or kind in _TEXTUAL
        or kind.startswith("text/")
        or kind.endswith(("+json", "+xml"))
    )


def _read_body(response: requests.Response, address: str, limits: Limits) -> bytes:
    """The decompressed body, refused as soon as it is known to be too large."""
    too_large = FetchError(f"{address}: the page is larger than {limits.size / 1024 / 1024:g} MiB.")
    stated = response.headers.get("Content-Length", "")
    if stated.isdecimal() and int(stated) > limits.size:
        raise too_large
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding not in ("identity", "gzip", "x-gzip", "deflate"):
        raise FetchError(
            f"{address}: the page is compressed with {encoding}, which was not asked for."
        )
    body = bytearray()
    # read1 hands over what has arrived, where read and iter_content would wait for a full chunk.
    while chunk := response.raw.read1(_CHUNK, decode_content=True):
        body += chunk
        if len(body) > limits.size:
            raise too_large
    return bytes(body)


def _fault(error: BaseException, limits: Limits, deadline: Deadline) -> str:
    if deadline.passed:
        return f"it took longer than {limits.total:g} s in all"
    if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError)):
        return f"the server sent nothing for {limits.read:g} s"
    cause = error
    while cause.__context__ is not None:
        cause = cause.__context__
    kind = (
        "the secure connection failed"
        if isinstance(error, requests.exceptions.SSLError)
        else "the connection failed"
    )
    return f"{kind}: {str(cause).rstrip('.') or type(cause).__name__}"
