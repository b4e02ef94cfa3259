"""From the bytes of a page to its text.

A byte order mark decides, then the HTTP header, a declaration in the page, and detection.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

# UTF-32 first: its little-endian mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED = re.compile(
    rb"""<(?:meta\b[^>]*?\bcharset|\?xml\b[^>]*?\bencoding)\s*=\s*["']?\s*([\w:.-]+)""",
    re.IGNORECASE,
)
_DECLARED_WITHIN = 4096
_SAMPLE = 65536
# A page with a few broken bytes is still in the charset it declares; one with more is in another.
_BAD_SHARE = 0.01

# Labels that browsers read as another charset: https://encoding.spec.whatwg.org/#names-and-labels
_READ_AS = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
}


def decode(body: bytes, declared: str | None) -> tuple[str, str]:
    """The text of a page, and the charset it was read in (a codec's name).

    declared: the charset of the Content-Type header, if it has one. A charset that does not fit the
    bytes, or does not exist, is passed over; when none fits, what is unreadable becomes U+FFFD.
    """
    candidates = list(_candidates(body, declared))
    for charset in candidates:
        try:
            return body.decode(charset), charset
        except (LookupError, ValueError):
            continue
    text = body.decode(candidates[0], errors="replace")
    if len(candidates) > 1 and text.count("\ufffd") <= _BAD_SHARE * len(text):
        return text, candidates[0]
    detected = _detected(body)
    return body.decode(detected, errors="replace"), detected


def marked_charset(body: bytes) -> str | None:
    """The charset of which a byte order mark at the begin tells; it reads over the mark."""
    return next((charset for mark, charset in _MARKS if body.startswith(mark)), None)


def _candidates(body: bytes, declared: str | None) -> Iterator[str]:
    """Charsets that something speaks for, the weightiest first; UTF-8 ends the list."""
    if marked := marked_charset(body):
        yield marked
    if declared and (named := _codec(declared)):
        yield named
    match = _DECLARED.search(body, 0, _DECLARED_WITHIN)
    if (
        match
        and (named := _codec(match[1].decode("ascii", "replace")))
        and not named.startswith(("utf-16", "utf-32"))
    ):
        # A declaration that can be read as ASCII does not stand in UTF-16.
        yield named
    yield "utf-8"


def _codec(label: str) -> str | None:
    try:
        name = codecs.lookup(label.strip()).name
        b"".decode(name)
    except (LookupError, ValueError):
        return None
    return _READ_AS.get(name, name)


def _detected(body: bytes) -> str:
    from charset_normalizer import from_bytes

    sample = body
    if len(body) > _SAMPLE:
        # Cut before a tag or at a line's end, never within a character.
        sample = body[: max(body.rfind(b"<", 0, _SAMPLE), body.rfind(b"\n", 0, _SAMPLE))] or body
    best = from_bytes(sample).best()
    return _codec(best.encoding) or "utf-8" if best else "utf-8"
