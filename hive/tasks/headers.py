"""What a server says of its page, read as browsers read it: servers say it in many wrong ways."""

from __future__ import annotations

import re
from urllib.parse import quote, urljoin

_TYPE = re.compile(r"[\w.+!#$&^-]+/[\w.+!#$&^-]+", re.ASCII)
_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([^\s\"';,]+)", re.IGNORECASE)
_APPLIED = frozenset({"gzip", "x-gzip", "deflate"})
# Compressions there are, which were not asked for: what comes under these names cannot be read.
_NOT_ASKED_FOR = frozenset(
    {"br", "bzip2", "compress", "dcb", "dcz", "lzma", "x-compress", "xz", "zstd"}
)


def content_type(header: str) -> tuple[str, str | None]:
    """The type of a Content-Type header in lower case, and its charset.

    Of several types the last that is one counts (WHATWG fetch, "extract a MIME type").

    Returns: "" for the type where the header names none; then the page itself has to tell.
    """
    kind, charset = "", None
    for part in header.split(","):
        match = _TYPE.match(part.strip())
        if match is None or match[0] == "*/*":
            continue
        named = _CHARSET.search(part)
        if match[0].lower() != kind or named:
            charset = named[1] if named else None
        kind = match[0].lower()
    return kind, charset


def codings(header: str) -> tuple[list[str], str]:
    """How a body is compressed.

    Returns: the codings in the order in which they were applied, and "" or the one that cannot be
        undone. What is no compression, as "utf-8" or "none", is passed over.
    """
    named = [coding.strip() for coding in header.lower().split(",")]
    unknown = next((coding for coding in named if coding in _NOT_ASKED_FOR), "")
    return [coding for coding in named if coding in _APPLIED], unknown


def redirect_target(address: str, header: str) -> str:
    """The address that a Location header leads to from `address`.

    header: as the HTTP library has it, which reads its bytes as Latin-1. What must be encoded in an
        address is, byte by byte, since servers write UTF-8 and Latin-1.

    Raises: ValueError for what is no address.
    """
    location = re.sub(r"[\t\r\n]", "", header).strip(" ")
    path = re.split(r"[?#]", location, maxsplit=1)[0]
    raw = (path.replace("\\", "/") + location[len(path) :]).encode("latin-1")
    match = re.match(rb"([a-zA-Z][a-zA-Z0-9+.-]*:)?//[^/?#]*", raw)
    host, rest = (match[0], raw[match.end() :]) if match else (b"", raw)
    target = host.decode("utf-8") + escaped(rest)
    # urljoin takes an address without a host for a path.
    return target if match and match[1] else urljoin(address, target)


def escaped(part: str | bytes) -> str:
    """A part of an address behind its host, with what may not stand in one percent-encoded."""
    return quote(part, safe="!#$%&'()*+,/:;=?@[]~")
