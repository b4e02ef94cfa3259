"""Built-in reduces: `sum` and `merge` fold each commit as it comes, `count` is counted, `list` and
`concat` take the values at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Final

from hive.errors import InvalidInputError

FOLDED: Final = ("sum", "merge")
BUILT_IN: Final = ("sum", "list", "count", "concat", "merge")


def _sum(values: Sequence[Any]) -> Any:
    try:
        return sum(values)
    except TypeError as error:
        raise InvalidInputError(
            f'reduce="sum" cannot add these values ({error}); use "concat" for lists and texts, or '
            "a task."
        ) from None


def _count(values: Sequence[Any]) -> int:
    return len(values)


def _merge(values: Sequence[Any]) -> dict[Any, Any]:
    merged: dict[Any, Any] = {}
    for value in values:
        if not isinstance(value, Mapping):
            raise InvalidInputError(
                f'reduce="merge" merges dicts, and a value is of type {type(value).__name__}.'
            )
        merged.update(value)
    return merged


def _concat(values: Sequence[Any]) -> list[Any] | str:
    if values and all(isinstance(value, str) for value in values):
        return "".join(values)
    if not all(isinstance(value, list) for value in values):
        raise InvalidInputError('reduce="concat" joins values that are all lists or all texts.')
    return list(chain.from_iterable(values))


_WHOLE: Final[dict[str, Callable[[Sequence[Any]], Any]]] = {
    "sum": _sum,
    "count": _count,
    "merge": _merge,
    "list": list,
    "concat": _concat,
}


def reduce_values(name: str, values: Sequence[Any]) -> Any:
    """Reduce the values of successful items, in item order, by a built-in reduce.

    Where keys of `merge` meet, the later item's wins. Of nothing: 0, 0, {}, [] and [].
    `sum` and `merge` of partial results, in item order, are those of all.

    Raises: InvalidInputError when the values are not of a kind that the reduce takes.
    """
    return _WHOLE[name](values)
