"""The built-in reduces, and that folding them in parts changes nothing."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hive.errors import InvalidInputError
from hive.jobs.state.reduce import BUILT_IN, reduce_values


@pytest.mark.parametrize(
    ("name", "value"), [("sum", 0), ("count", 0), ("list", []), ("concat", []), ("merge", {})]
)
def test_of_nothing_a_reduce_is_its_neutral_value(name: str, value: object) -> None:
    assert reduce_values(name, []) == value


def test_every_built_in_reduce_has_a_result() -> None:
    assert {
        name: reduce_values(name, [{"a": 1}])
        for name in BUILT_IN
        if name in ("list", "count", "merge")
    } == {
        "list": [{"a": 1}],
        "count": 1,
        "merge": {"a": 1},
    }


def test_sum_adds_whatever_starts_from_zero() -> None:
    assert reduce_values("sum", [Decimal("0.1"), Decimal("0.2")]) == Decimal("0.3")


@pytest.mark.parametrize("values", [["a", "b"], [[1], [2]], [timedelta(1)], [None]])
def test_sum_says_what_to_use_for_what_it_cannot_add(values: list[object]) -> None:
    with pytest.raises(InvalidInputError, match="concat"):
        reduce_values("sum", values)


def test_concat_joins_lists_or_texts_in_order() -> None:
    assert reduce_values("concat", [[1], [], [2, 3]]) == [1, 2, 3]
    assert reduce_values("concat", ["a", "", "b"]) == "ab"


@pytest.mark.parametrize("values", [["a", ["b"]], [1, 2], [{"a": 1}]])
def test_concat_refuses_a_mixture(values: list[object]) -> None:
    with pytest.raises(InvalidInputError, match="all lists or all texts"):
        reduce_values("concat", values)


def test_merge_lets_the_later_item_win() -> None:
    assert reduce_values("merge", [{"a": 1, "b": 1}, {"b": 2}]) == {"a": 1, "b": 2}


def test_merge_names_what_is_no_dict() -> None:
    with pytest.raises(InvalidInputError, match="of type int"):
        reduce_values("merge", [{"a": 1}, 7])


@given(st.lists(st.lists(st.integers())))
def test_a_sum_of_partial_sums_is_the_sum(parts: list[list[int]]) -> None:
    whole = [value for part in parts for value in part]
    assert reduce_values("sum", [reduce_values("sum", part) for part in parts]) == sum(whole)


@given(st.lists(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers()))))
def test_a_merge_of_partial_merges_is_the_merge(parts: list[list[dict[str, int]]]) -> None:
    whole = [value for part in parts for value in part]
    assert reduce_values(
        "merge", [reduce_values("merge", part) for part in parts]
    ) == reduce_values("merge", whole)
