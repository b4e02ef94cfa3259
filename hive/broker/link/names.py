"""Names that become parts of keys and of packed rows: which text can be one, and ids as text."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

from hive.errors import InvalidInputError

LONGEST = 1000
"""Characters of a name, since names are parts of keys in the broker."""

_UNUSABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters, some of which separate fields and names; half of a surrogate pair, which
nothing can encode.
"""
_PUBLISH_ID = re.compile(r"[A-Za-z0-9_.-]{1,200}")
"""Heartbeats list publish ids with blanks and colons between; and a message begins with a brace."""


def checked_name(what: str, name: object) -> str:
    """A name that a caller gave. what: of what, for the error.

    Raises: InvalidInputError for what is no text that can be one.
    """
    if isinstance(name, str) and is_name(name):
        return name
    raise InvalidInputError(
        f"{what} is a text of 1 to {LONGEST} characters, none of them a control character or half "
        f"a surrogate pair; it cannot be {name!a:.100}."
    )


def id_text(given: Any) -> Any:
    """An id as programs hand it around: a UUID is its text, anything else stays what it is."""
    return str(given) if isinstance(given, UUID) else given


def asked_id(given: object) -> str:
    """The id of a task that somebody asks for.

    Raises: InvalidInputError for what is neither a text nor a UUID.
    """
    text = id_text(given)
    if isinstance(text, str):
        return text
    raise InvalidInputError(f"A task_id is a text or a UUID; it cannot be {given!a:.100}.")


def is_name(text: str) -> bool:
    """Whether a text can be part of keys and rows."""
    return 0 < len(text) <= LONGEST and (text.isprintable() or not _UNUSABLE.search(text))


def is_encodable(text: object) -> bool:
    """Whether it is a text that can be sent at all; with half a surrogate pair in it, it cannot."""
    if not isinstance(text, str):
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def checked_publish_id(publish_id: str) -> str:
    """A publish id that a caller gave.

    Raises: InvalidInputError for what cannot be one.
    """
    if _PUBLISH_ID.fullmatch(publish_id):
        return publish_id
    raise InvalidInputError(
        "A publish id is a text of 1 to 200 letters, digits and ._- in ASCII; it cannot be "
        f"{publish_id!a:.100}."
    )
