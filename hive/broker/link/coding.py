"""How bodies of messages are written and read: as JSON, compressed or not."""

# celery-types leaves kombu's registry of serializers out.
# mypy: disable-error-code="attr-defined"

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from kombu import compression
from kombu.serialization import registry
from kombu.utils.json import loads

from hive.errors import InvalidInputError

JSON = "application/json"
"""The one content type that every node and every tool of a hive reads."""

_KNOWN_COMPRESSIONS = ("gzip", "bzip2", "lzma", "zstd", "brotli")


def checked_serializer(name: object) -> None:
    """Make sure that what a serializer writes can be read: it writes JSON. None is the default.

    Raises: InvalidInputError for any other; nothing is sent then.
    """
    if name is None or name == "json":
        return
    if isinstance(name, str) and registry.name_to_type.get(name) == JSON:
        return
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
        return loads(body)
    except Exception as error:  # each compression raises errors of its own
        raise ValueError(f"its body cannot be read: {type(error).__name__}: {error}") from error
