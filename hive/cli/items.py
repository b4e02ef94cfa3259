"""What a person types for a skill, read as values: JSON where it parses as JSON, text elsewhere."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import click
from pydantic import BaseModel, ValidationError

from hive import json_text
from hive.errors import InvalidInputError
from hive.skills import Skill

LIST_SUFFIXES = frozenset({".json", ".jsonl", ".ndjson", ".txt", ".lst"})
BLANK = " \t\r\n"
"""What JSON takes for blank; all else belongs to a text."""
_NAMED = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)


def value_of(text: str) -> Any:
    """`3` is a number, `{"url": …}` a dict, `https://…` the text itself; NaN and Infinity, which
    JSON lacks, are text, and so is what looks like a number that none can be (`12e45678`).
    """
    try:
        return json_text.read(text)
    except ValueError:
        return text


def split_arguments(words: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """Words of `hive run`: `name=value` is a named argument, anything else a positional one.

    A text that looks like `name=value` and is meant as it stands is written as JSON: `'"a=b"'`.
    """
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for word in words:
        match = _NAMED.fullmatch(word)
        if match is None:
            positional.append(value_of(word))
        elif match[1] in named:
            raise InvalidInputError(f"{match[1]} is given twice.")
        else:
            named[match[1]] = value_of(match[2])
    return positional, named


class Priority(click.ParamType[str | int]):
    """`high_priority` and `background` choose the queue; a number from 0 to 10 (10 the most urgent)
    the place in the background queue.
    """

    name = "priority"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | int:
        if value in ("high_priority", "background"):
            return value
        if str(value).isdecimal() and len(str(value)) <= 10 and int(value) <= 10:
            return int(value)
        return self.fail(
            f"{value!r} is neither high_priority nor background nor a number from 0 to 10.",
            param,
            ctx,
        )


class Seconds(click.FloatRange):
    """How long to wait at most: a number above 0."""

    def __init__(self) -> None:
        super().__init__(min=0, max=1_000_000_000, min_open=True)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return seconds


def json_object(text: str | None, option: str) -> dict[str, Any] | None:
    """The JSON object given to an option such as `--requirements`.

    Raises: InvalidInputError when the text is anything else.
    """
    if text is None:
        return None
    try:
        value = json_text.read(text)
    except ValueError as error:
        raise InvalidInputError(
            f"{option} is not JSON ({error}). Example: {option} '{{\"gpu\": true}}'"
        ) from None
    if not isinstance(value, dict):
        raise InvalidInputError(
            f"{option} takes a JSON object. Example: {option} '{{\"gpu\": true}}'"
        )
    return value


def read_items(words: Sequence[str], stdin: TextIO | None = None) -> Iterable[Any]:
    """The items of `hive map`: a list, or an iterator over the lines of stdin.

    words: `-` for stdin, one name of a file (a JSON list, or an item a line), or the items
        themselves. Lines end at LF or CR LF, as JSON Lines has it, and at nothing else.

    Raises: InvalidInputError for a file that is missing, unreadable or not what its name says, and
        for an empty list.
    """
    if list(words) == ["-"]:
        stream = _from_stream(stdin or _strict_stdin())
        # Reading the first item here tells what is wrong from the start before anything is sent.
        return chain([next(stream)], stream)
    items = (
        _from_file(Path(words[0]))
        if len(words) == 1 and _is_file(words[0])
        else [value_of(word) for word in words]
    )
    if not items:
        raise InvalidInputError("There are no items: the list is empty.")
    return items


def _strict_stdin() -> TextIO:
    """Standard input as UTF-8 whatever the locale says, with no byte taken for what it is not.

    Raises: InvalidInputError where there is none.
    """
    try:
        descriptor = sys.stdin.fileno()
    except (AttributeError, ValueError):  # the shell's `<&-` leaves None
        raise InvalidInputError("There are no items: stdin is closed.") from None
    return open(descriptor, encoding="utf-8-sig", newline="\n", closefd=False)


def _is_file(word: str) -> bool:
    try:
        if Path(word).is_file():
            return True
    except (OSError, ValueError):  # a long URL or a JSON text is no possible file name
        return False
    if (
        "://" not in word
        and Path(word).suffix in LIST_SUFFIXES
        and not word.lstrip(BLANK).startswith(("[", "{", '"'))
    ):
        raise InvalidInputError(
            f"There is no file {word!r}. To use that text as an item, write it as JSON: "
            f"'\"{word}\"'"
        )
    return False


def _from_file(path: Path) -> list[Any]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start})."
        ) from None
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror or error}.") from None
    if path.suffix == ".json":
        return _list_of(text, str(path))
    return list(_from_stream(iter(text.split("\n")), str(path))) if text.strip(BLANK) else []


def _from_stream(lines: Iterable[str], name: str = "stdin") -> Iterator[Any]:
    """An item a line, as the lines come.

    A text that opens a JSON list and does not close it on its first line is one JSON list.
    """
    stream = _decoded(lines, name)
    written = (line for line in stream if line)
    first = next(written, None)
    if first is None:
        raise InvalidInputError(f"There are no items: {name} is empty.")
    if not first.startswith("["):
        yield value_of(first)
    elif isinstance(opened := value_of(first), list):
        second = next(written, None)
        if second is None:
            yield from _checked(opened, name)
            return
        yield opened
        yield value_of(second)
    else:
        yield from _list_of("\n".join([first, *stream]), name)
        return
    yield from map(value_of, written)


def _decoded(lines: Iterable[str], name: str) -> Iterator[str]:
    """The lines without the blank around them. Raises: InvalidInputError."""
    try:
        yield from (line.strip(BLANK) for line in lines)
    except OSError as error:
        raise InvalidInputError(f"{name} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"{name} is not UTF-8 text ({error.reason} at byte {error.start})."
        ) from None


def _list_of(text: str, name: str) -> list[Any]:
    try:
        value = json_text.read(text)
    except ValueError as error:
        raise InvalidInputError(f"{name} is not a JSON list: {error}.") from None
    if not isinstance(value, list):
        raise InvalidInputError(
            f"{name} holds JSON, but not a list: items are a JSON list, or one a line in a file "
            "without .json."
        )
    return _checked(value, name)


def _checked(value: list[Any], name: str) -> list[Any]:
    if not value:
        raise InvalidInputError(f"There are no items: {name} holds an empty list.")
    return value


def with_fields(skill: Skill, items: Iterable[Any], settings: Mapping[str, Any]) -> Iterable[Any]:
    """Add fields of the skill's input model (`--set sentences=2`) to every item.

    An item's own field wins.

    Raises: InvalidInputError for a skill without an input model, an unknown field, or a value that
        the field cannot have.
    """
    if not settings:
        return items
    if skill.input is None:
        raise InvalidInputError(
            f"--set: {skill.name} has no input model, so an item is its one argument."
        )
    fields = skill.input.model_fields
    for name, value in settings.items():
        if name not in fields:
            raise InvalidInputError(
                f"--set: {skill.name} has no field {name!r}. Its fields: {', '.join(fields)}."
            )
        _check_field(skill.input, name, value)
    subject = next(iter(fields))
    merged = (
        {**settings, **(item if isinstance(item, Mapping) else {subject: item})} for item in items
    )
    return list(merged) if isinstance(items, list) else merged


def _check_field(model: type[BaseModel], name: str, value: object) -> None:
    """Refuse a value that no item could repair, before anything is sent."""
    try:
        model.model_validate({name: value})
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            if fault["loc"] and fault["loc"][0] == name:
                raise InvalidInputError(f"--set {name}: {fault['msg']}.") from None
