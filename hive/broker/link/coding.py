"""How bodies of messages are written and read: as JSON, compressed or not.

kombu's JSON has dates, decimals, UUIDs and bytes, each as an object of the two keys `__type__` and
`__value__`. Data that has such an object itself would be taken for one of those, or could not be
read at all. Hive writes it as one more of them, `hive.dict`, so that it comes back as it was.
"""

# celery-types leaves kombu's registry of serializers out.
# mypy: disable-error-code="attr-defined"

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from kombu import compression, serialization
from kombu.serialization import registry
from kombu.utils import json

from hive.errors import InvalidInputError

JSON = "application/json"
"""The one content type that every node and every tool of a hive reads."""

SERIALIZER = "hive.json"
"""kombu's name of the serializer that writes what `dumps` writes; each that reads JSON reads it."""

_MARKS = {"__type__", "__value__"}
_MARK = '"__type__"'
_DICT = "hive.dict"
_PROBE = '{"__type__": "hive.dict", "__value__": [1, 2]}'

_KNOWN_COMPRESSIONS = ("gzip", "bzip2", "lzma", "zstd", "brotli")


def dumps(value: Any, **form: Any) -> str:
    """JSON that kombu's `loads` reads back, also where data looks like kombu's own marks.

    form: as of the standard library's `json.dumps`.

    Raises: whatever the value makes the encoder raise, TypeError and ValueError as a rule.
    """
    text = str(json.dumps(value, **form))
    return str(json.dumps(_as_it_is(value), **form)) if _MARK in text else text


def _encode(body: Any) -> Any:
    """The same, by what the program has registered as "json", which perhaps knows no marks."""
    encode = registry._encoders["json"].encoder  # kombu's own dumps would cost as much again
    payload: Any = encode(body)
    mark: Any = _MARK if isinstance(payload, str) else _MARK.encode()
    if mark not in payload or _decode(_PROBE) != {"__type__": 1, "__value__": 2}:
        return payload
    return encode(_as_it_is(body))


def _decode(body: Any) -> Any:
    return serialization.loads(body, JSON, "utf-8", accept={JSON})


def _as_it_is(value: Any) -> Any:
    """A copy in which no object of the data's own looks like one of kombu's marks."""
    if isinstance(value, dict):
        copy = {key: _as_it_is(part) for key, part in value.items()}
        if set(copy) != _MARKS:
            return copy
        return {"__type__": _DICT, "__value__": [copy["__type__"], copy["__value__"]]}
    if isinstance(value, list | tuple):
        return [_as_it_is(part) for part in value]
    write = getattr(value, "__json__", None)
    return value if write is None else _as_it_is(write())


class _Dict:
    """A dict with kombu's marks, which no program makes: kombu wants a class for each mark."""


def _as_it_was(said: Any) -> Any:
    kind, value = said
    return {"__type__": kind, "__value__": value}


json.register_type(_Dict, _DICT, vars, _as_it_was)
registry.register(SERIALIZER, _encode, None, JSON, "utf-8")
registry.type_to_name[JSON] = "json"  # by which errors call it


def checked_serializer(name: object) -> str:
    """The serializer that writes what a program wants written by this one: JSON. None is "json".

    Raises: InvalidInputError for any other; nothing is sent then.
    """
    if name is None or name == "json":
        return SERIALIZER
    if isinstance(name, str) and registry.name_to_type.get(name) == JSON:
        return name
    raise InvalidInputError(
        f'serializer is "json", since nodes accept nothing else; it cannot be {name!r:.100}. Send '
        "what JSON can hold, or store the rest elsewhere and send where it is."
    )


def checked_compression(name: Any) -> None:
    """Make sure that this process can compress so; None and "" are without.

    Raises: InvalidInputError; nothing is sent then.
    """
    if not name or _can_compress(name):
        return
    known = ", ".join(filter(_can_compress, _KNOWN_COMPRESSIONS))
    raise InvalidInputError(f"compression is one of {known}; it cannot be {name!r:.100}.")


def _can_compress(name: Any) -> bool:
    try:
        compression.get_encoder(name)
    except (KeyError, TypeError):
        return False
    return True


def body_of(message: Mapping[str, Any]) -> Any:
    """What is in the body of a kombu message, as it lies in the broker.

    Raises: ValueError for a body that nobody can read; a stranger may have sent it.
    """
    content_type = message.get("content-type") or JSON
    if content_type != JSON:
        raise ValueError(f"its content type is {content_type!a:.100}")
    try:
        body, packed_by = message["body"], (message.get("headers") or {}).get("compression")
        if (message.get("properties") or {}).get("body_encoding") == "base64":
            body = base64.b64decode(body)
        if packed_by:
            body = compression.decompress(body, packed_by)
        return _decode(body)
    except Exception as error:  # each compression raises errors of its own
        raise ValueError(f"its body cannot be read: {type(error).__name__}: {error}") from error
