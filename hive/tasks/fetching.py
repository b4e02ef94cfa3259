"""Fetch one page over HTTP within limits of time, size, redirects and reach."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from socket import socket
from typing import Any, Literal

import requests
import urllib3
from pydantic import BaseModel, ConfigDict
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

from hive.errors import FetchError
from hive.tasks.addresses import Deadline, Door, checked_url
from hive.tasks.charset import decode
from hive.tasks.headers import codings, content_type, redirect_target

_HEADERS = {
    "User-Agent": "venom-hive",
    "Accept": "text/html,application/xhtml+xml,text/*;q=0.8,*/*;q=0.5",
    "Accept-Encoding": "gzip, deflate",
    # Each hop of a redirect has a connection, and so a check, of its own.
    "Connection": "close",
}
_HTML = frozenset({"text/html", "application/xhtml+xml"})
_PROSE = frozenset({"text/markdown", "text/plain", "text/x-markdown", "text/x-rst"})
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
# A page with a few stray NULs is text, in which browsers pass over them; one with more is none.
_NUL_SHARE = 0.01

Wanted = Literal["text", "prose", "html"]
"""What a page may be: any text; HTML or a text that people read; HTML."""
_CALLED = {"text": "text", "prose": "HTML or plain text", "html": "HTML"}


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

    @property
    def is_html(self) -> bool:
        """Whether it is HTML, by its content type, else by its looks."""
        if self.content_type:
            return self.content_type in _HTML
        return "<" in self.text[:_SNIFFED]


def fetch_page(
    url: str, *, allow_private: bool = False, wanted: Wanted = "text", limits: Limits | None = None
) -> Page:
    """Fetch a page of text. No proxy, cookie store or password file of the machine is used.

    allow_private: whether loopback, private and other addresses that are not public may be reached.
    wanted: what the page may be; anything else is refused.

    Returns: the page, its text decoded.
    Raises: FetchError that names the address and says why: unknown host, refused address, status
        400 and above, a limit, not what is wanted, empty, an answer that cannot be read.
    """
    limits = limits or Limits()
    address = checked_url(url)
    with Deadline(limits.total) as deadline, _Session() as session:
        session.trust_env = False
        door = Door(deadline, allow_private=allow_private, connect_timeout=limits.connect)
        for scheme in ("http://", "https://"):
            session.mount(scheme, _CheckedAdapter(door))
        for hop in range(limits.redirects + 1):
            try:
                with _request(session, door, address, limits) as response:
                    if not response.is_redirect:
                        return _read_page(response, hop, wanted, limits, deadline)
                    location = response.headers["Location"]
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                raise FetchError(f"{address}: {_fault(error, limits, deadline)}.") from None
            address = _next(address, location)
        raise FetchError(f"{url}: more than {limits.redirects} redirects, the last to {address}.")


class _Session(requests.Session):
    """Follows no redirect, and reads none: it takes every Location for UTF-8."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None, whatever the answer."""


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


def _next(address: str, location: str) -> str:
    """Where a redirect leads. Raises: FetchError when that is no address to fetch."""
    try:
        target = redirect_target(address, location)
    except ValueError as error:
        raise FetchError(
            f"{address}: the server redirects to {location[:200]!r}, which is not an address: "
            f"{error}."
        ) from None
    return checked_url(target)


def _read_page(
    response: requests.Response, redirects: int, wanted: Wanted, limits: Limits, deadline: Deadline
) -> Page:
    address, status = response.url, response.status_code
    if not 200 <= status < 300:
        raise FetchError(
            f"{address}: the server answered {status} {response.reason or ''}".rstrip() + "."
        )
    kind, stated = content_type(response.headers.get("Content-Type", ""))
    if kind and not _acceptable(kind, wanted):
        raise FetchError(f"{address}: the page is {kind}, not {_CALLED[wanted]}.")
    body = _read_body(response, address, limits)
    if deadline.passed:
        # A connection that was cut looks like the end of a page that states no length.
        raise TimeoutError
    if not body.strip():
        raise FetchError(f"{address}: the page is empty.")
    if not kind and wanted == "html" and b"<" not in body[:_SNIFFED]:
        raise FetchError(f"{address}: the page states no content type and does not look like HTML.")
    text, charset = decode(body, stated)
    if text.count("\0") > _NUL_SHARE * len(text):
        raise FetchError(f"{address}: the page is binary, not text.")
    return Page(
        url=address,
        status=status,
        content_type=kind,
        charset=charset,
        size=len(body),
        redirects=redirects,
        text=text.replace("\0", ""),
    )


def _acceptable(kind: str, wanted: Wanted) -> bool:
    if wanted != "text":
        return kind in _HTML or (wanted == "prose" and kind in _PROSE)
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
    applied, unknown = codings(response.headers.get("Content-Encoding", ""))
    if unknown:
        raise FetchError(
            f"{address}: the page is compressed with {unknown}, which was not asked for."
        )
    # urllib3 takes every name in a list for one of a compression.
    response.raw.headers["Content-Encoding"] = ",".join(applied)
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
