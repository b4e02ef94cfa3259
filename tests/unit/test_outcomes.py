"""Outcomes on their way into the stream and back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from hive.jobs.state.outcomes import (
    Entry,
    Outcome,
    OutcomeList,
    Results,
    decode,
    error_text,
    successful_values,
)


def entry_of(results: Results, first: int = 0, entry_id: bytes = b"1-0") -> Entry:
    return Entry(entry_id, first, len(results.values), {b"d": results.encode("n@h", 2).encode()})


def good(values: list[Any]) -> Results:
    return Results(values, [7] * len(values), {})


def test_an_outcome_comes_back_as_it_was() -> None:
    results = Results(
        ["a", None, None],
        [10, 2_000_000, 3],
        {1: ("timeout", "too long"), 2: ("failed", "ValueError: no")},
    )
    assert list(decode(entry_of(results, first=40))) == [
        Outcome(40, "ok", "a", None, "n@h", 2, 0.00001),
        Outcome(41, "timeout", None, "too long", "n@h", 2, 2.0),
        Outcome(42, "failed", None, "ValueError: no", "n@h", 2, 0.000003),
    ]


def test_values_are_what_celery_would_return() -> None:
    values = [
        datetime(2024, 2, 29, tzinfo=UTC),
        Decimal("1.10"),
        UUID(int=5),
        b"\xff\x00",
        {"k": [1, 2.5, None, True]},
    ]
    assert successful_values(entry_of(good(values))) == values


class SaysNothing:
    def __json__(self) -> object:
        raise RuntimeError("never")


UNENCODABLE = {
    "set": {1, 2},
    "object": object(),
    "tuple keys": {(1, 2): 3},
    "mute": SaysNothing(),
    "huge": 10**5000,
}


@pytest.mark.parametrize("bad", UNENCODABLE.values(), ids=UNENCODABLE)
def test_a_value_that_json_cannot_hold_fails_alone(bad: object) -> None:
    first, second, third = decode(entry_of(good([1, bad, 3])))
    assert (first.status, third.status) == ("ok", "ok")
    assert (second.status, second.value) == ("failed", None)
    assert f"of type {type(bad).__name__}" in str(second.error)


def test_a_value_too_large_for_the_broker_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hive.jobs.state.outcomes.LARGEST", 1 << 20)
    first, second = decode(entry_of(good(["x" * (2 << 20), 3])))
    assert (first.status, second.value) == ("failed", 3)
    assert "takes 2 MiB as JSON, 1 at most" in str(first.error)


def test_a_circular_value_fails_alone() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert [outcome.status for outcome in decode(entry_of(good([loop, 2])))] == ["failed", "ok"]


def test_a_dict_that_only_looks_like_celerys_mark_stays_a_dict() -> None:
    looks = {"__type__": "nothing of the kind", "__value__": 1}
    assert successful_values(entry_of(good([looks, 2]))) == [looks, 2]


def test_one_entry_can_say_the_same_of_many_items() -> None:
    entry = Entry(b"1-0", 5, 3, {b"r": json.dumps(["cancelled", "stopped", 0, ""]).encode()})
    assert list(decode(entry)) == [
        Outcome(index, "cancelled", None, "stopped", None, 0, 0.0) for index in (5, 6, 7)
    ]
    assert successful_values(entry) == []


def test_only_successful_values_are_reduced() -> None:
    assert successful_values(entry_of(Results([1, None, 3], [1, 1, 1], {1: ("failed", "no")}))) == [
        1,
        3,
    ]


def test_counts_tell_every_status() -> None:
    results = Results(
        [1, None, None, None], [1] * 4, {1: ("failed", ""), 2: ("timeout", ""), 3: ("failed", "")}
    )
    assert results.counts() == [1, 2, 1, 0]


def test_a_part_keeps_its_own_errors() -> None:
    part = Results([1, None, 3, None], [1] * 4, {1: ("failed", "a"), 3: ("failed", "b")}).part(2, 4)
    assert (part.values, part.errors) == ([3, None], {1: ("failed", "b")})


def test_an_error_text_is_bounded_and_never_raises() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert error_text(MuteError()) == "MuteError"
    assert error_text(KeyError("x")) == "KeyError: 'x'"
    assert len(error_text(ValueError("y" * 10_000))) == 2_000


def outcome_list(
    parts: Iterable[tuple[int, list[Any]]], fetched: list[bytes] | None = None
) -> OutcomeList:
    entries = {
        b"%d-0" % number: entry_of(good(values), first, b"%d-0" % number)
        for number, (first, values) in enumerate(parts, 1)
    }

    def fetch(entry_id: bytes) -> Entry:
        if fetched is not None:
            fetched.append(entry_id)
        return entries[entry_id]

    outcomes = OutcomeList(fetch)
    outcomes.add(entries.values())
    return outcomes.arrange()


def test_a_list_of_outcomes_is_in_item_order() -> None:
    outcomes = outcome_list([(3, ["d", "e"]), (0, ["a"]), (1, ["b", "c"])])
    assert [outcome.value for outcome in outcomes] == list("abcde")
    assert [outcome.index for outcome in outcomes] == [0, 1, 2, 3, 4]
    assert (len(outcomes), outcomes[0].value, outcomes[-1].value, outcomes[2].value) == (
        5,
        "a",
        "e",
        "c",
    )
    assert [outcome.value for outcome in outcomes[1:4]] == ["b", "c", "d"]
    assert outcomes == list(outcomes)
    with pytest.raises(IndexError, match="5 outcomes"):
        outcomes[5]


def test_a_long_list_holds_only_its_first_megabytes() -> None:
    fetched: list[bytes] = []
    outcomes = outcome_list([(index, ["x" * (1 << 20)]) for index in range(6)], fetched)
    assert [len(outcome.value) for outcome in outcomes] == [1 << 20] * 6
    assert fetched == [b"4-0", b"5-0", b"6-0"]
