"""A skill's arguments, out of the words of a description.

They are the numbers, addresses, paths and quoted texts that it names.
"""

from __future__ import annotations

import inspect
import typing
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from hive.agents.literals import numbers_value
from hive.agents.phrases import Clause, Word, canon, stem
from hive.errors import InvalidInputError
from hive.skills import Skill

ROOT_FIELD = "root"
"""A field of this name gets the caller's directory, under which a path is looked for."""

_KINDS = {
    "url": frozenset(["url", "address", "link", "uri", "page"]),
    "path": frozenset(["path", "file", "filename", "directory", "folder"]),
    "text": frozenset(["text", "content", "query", "prompt", "message"]),
}
# Words that mean the caller's directory itself, as in "scan the repository".
_WHOLE = frozenset(map(canon, ("repository", "codebase", "here", "everything")))
_LIMITING = frozenset(["in", "to", "into", "within", "under", "most", "max", "maximum", "least"])


def item_field(skill: Skill) -> str:
    """The name of a skill's first argument, which an item of a map is; "" when it is not known."""
    return next(iter(skill.input.model_fields), "") if skill.input is not None else ""


def has_argument(skill: Skill) -> bool:
    """Whether the function behind a skill without an input model needs an argument."""
    parameters = inspect.signature(skill.task.run).parameters.values()
    return any(
        parameter.default is parameter.empty and parameter.kind <= parameter.POSITIONAL_OR_KEYWORD
        for parameter in parameters
    )


def unit_words(skill: Skill) -> frozenset[str]:
    """What the names of a skill's arguments mean."""
    fields = skill.input.model_fields if skill.input is not None else ()
    return frozenset(canon(part) for field in fields for part in field.split("_"))


def arguments_of(skill: Skill, clause: Clause, root: Path | None) -> dict[str, Any]:
    """The arguments that the clause gives, by name.

    What it does not say is left to the skill's own defaults.

    root: the caller's directory; passed on to a skill that takes a `root`.

    Raises: InvalidInputError when it names two values for one argument, or bounds the outcome by a
        unit that is no argument.
    """
    if skill.input is None:
        return _of_function(skill, clause)
    fields = skill.input.model_fields
    numbers = _numbers(skill, fields, clause)
    given: dict[str, Any] = dict(numbers)
    for kind in _KINDS:
        values = list(
            dict.fromkeys(literal.value for literal in clause.literals if literal.kind == kind)
        )
        name = _field_for(kind, fields)
        if not values or name is None:
            continue
        if len(values) > 1:
            raise InvalidInputError(
                f"{skill.name} takes one {name}, not {len(values)} ({', '.join(values)}); give "
                "each its own sub-task."
            )
        given[name] = values[0]
    return given | _places(fields, given, clause, root)


def _of_function(skill: Skill, clause: Clause) -> dict[str, Any]:
    """Without an input model: the one value that was named, for the first parameter."""
    names = list(inspect.signature(skill.task.run).parameters)
    if not names or not clause.literals:
        return {}
    if len(clause.literals) > 1:
        raise InvalidInputError(
            f"{skill.name} takes one argument here, not {len(clause.literals)}; give each its own "
            "sub-task."
        )
    return {names[0]: clause.literals[0].value}


def _places(
    fields: dict[str, FieldInfo], given: dict[str, Any], clause: Clause, root: Path | None
) -> dict[str, Any]:
    """The path that a bare word names, and the directory under which it is looked for."""
    name = _field_for("path", fields)
    if name is None:
        return {}
    base = (root or Path.cwd()).absolute()
    places: dict[str, Any] = {ROOT_FIELD: str(base)} if ROOT_FIELD in fields else {}
    if name in given:
        return places
    below = next((word.written for word in reversed(clause.spoken) if _is_below(base, word)), None)
    if below is not None:
        return places | {name: below}
    if fields[name].is_required() and any(word.meaning in _WHOLE for word in clause.words):
        return places | {name: str(base)}
    return places


def _is_below(base: Path, word: Word) -> bool:
    try:
        return (base / word.written).exists()
    except OSError:
        return False


def _field_for(kind: str, fields: dict[str, FieldInfo]) -> str | None:
    return next((name for name in fields if name in _KINDS[kind]), None)


def _numbers(skill: Skill, fields: dict[str, FieldInfo], clause: Clause) -> dict[str, int]:
    """`3 sentences`, `three short sentences`, `sentences: 3` for an argument `sentences`."""
    counted = {stem(name): name for name, field in fields.items() if _is_number(field)}
    found: dict[str, int] = {}
    words = clause.words
    for position, word in enumerate(words):
        value = numbers_value(word.said)
        if value is None:
            continue
        unit = next(
            (later for later in words[position + 1 : position + 4] if later.stem in counted), None
        )
        before = words[position - 1] if position else None
        if unit is not None:
            name = counted[unit.stem]
        elif before is not None and before.stem in counted:
            name = counted[before.stem]
        else:
            _refuse_other_unit(skill, words, position)
            continue
        if found.setdefault(name, value) != value:
            raise InvalidInputError(
                f"{skill.name} takes one number of {name}, not {found[name]} and {value}."
            )
    return found


def _refuse_other_unit(skill: Skill, words: tuple[Word, ...], position: int) -> None:
    """`in 100 words` must not be left out silently where a skill cannot count words."""
    after = words[position + 1] if position + 1 < len(words) else None
    if (
        position
        and words[position - 1].said in _LIMITING
        and after is not None
        and after.counts
        and not after.literal
    ):
        names = ", ".join(skill.input.model_fields) if skill.input is not None else "none"
        raise InvalidInputError(
            f"{skill.name} cannot be told {words[position].said} {after.said}; its arguments are: "
            f"{names}."
        )


def _is_number(field: FieldInfo) -> bool:
    kinds = typing.get_args(field.annotation) or (field.annotation,)
    return any(kind in (int, float) for kind in kinds)
