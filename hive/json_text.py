"""JSON as every reader takes it: what is read is JSON, and so is what is written.

Python's own reads and writes NaN and Infinity, which JSON lacks; reads numbers that no float can
hold as Infinity or 0; and writes half a character (a lone surrogate) that no encoding has.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from datetime import date, datetime, time
from typing import Any

_LONE = re.compile("[\ud800-\udfff]")
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
_MANTISSA = re.compile(r"[1-9].*?(?=[eE]|$)")
TOO_DEEP = "it is nested too deeply to be written"


def read(text: str) -> Any:
    """What a JSON text says.

    Raises: ValueError for what is not JSON, or more deeply nested, or has a larger or smaller
        number, than can be kept.
    """
    try:
        return json.loads(text, parse_constant=_no_constant, parse_float=_float)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write(value: object, *, indent: int | None = None) -> str:
    """A value as JSON text. Half a character is written as JSON's escape for it.

    NaN and Infinity become null, and what JSON has no word for its text.
    """
    try:
        text = _dumped(value, indent)
    except RecursionError:
        text = _dumped(TOO_DEEP, indent)
    except (TypeError, ValueError):
        try:
            text = _dumped(_plain(value), indent)
        except RecursionError:
            text = _dumped(TOO_DEEP, indent)
    return sayable(text)


def in_encoding(text: str, encoding: str) -> str:
    """JSON text with escapes for what an encoding does not have."""
    try:
        text.encode(encoding)
    except (LookupError, UnicodeEncodeError):
        return _BEYOND_ASCII.sub(_escape, text)
    return text


def sayable(text: str) -> str:
    """A text that every encoding of Unicode has, with half characters as their escapes."""
    return text if text.isascii() else _LONE.sub(_escape, text)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _float(text: str) -> float:
    """Raises: ValueError for one that no float comes near: it would be read as Infinity, or 0."""
    number = float(text)
    if math.isinf(number) or (number == 0 and _MANTISSA.match(text.lstrip("-0."))):
        raise ValueError(f"{text:.50} is no number that can be kept; as a text it is in quotes")
    return number


def _dumped(value: object, indent: int | None) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent, default=_like_json)


def _plain(value: object) -> object:
    """The same with null for what is no number, and texts for keys that JSON cannot have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {
            key if isinstance(key, str) else str(key): _plain(one) for key, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, str | int):
        return value
    return _plain(_like_json(value))


def _like_json(value: object) -> object:
    """What stands in JSON for a value that JSON has no word for."""
    if isinstance(value, datetime | date | time):
        return value.isoformat().replace("+00:00", "Z")
    if hasattr(value, "model_dump"):  # pydantic's, which need not be imported for that
        return value.model_dump()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, set | frozenset):
        return list(value)
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return str(value)


def _escape(found: re.Match[str]) -> str:
    """`\\uXXXX`, twice for what takes two of them."""
    units = found.group().encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
