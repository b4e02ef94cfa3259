"""JSON that every reader takes."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

import pytest
from pydantic import BaseModel

from hive import json_text


def strictly(text: str) -> Any:
    """Read as programs do that know no NaN, out of bytes."""
    return json.loads(text.encode(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@dataclass
class Point:
    x: float


class Model(BaseModel):
    at: datetime


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (math.nan, None),
        ([math.inf, {"deep": (-math.inf, 1.5)}], [None, {"deep": [None, 1.5]}]),
        ({math.nan: 1, (1, 2): math.nan, None: 2}, {"nan": 1, "(1, 2)": None, "None": 2}),
        ({3: 1, True: 2.0}, {"3": 1, "true": 2.0}),
        (Point(math.nan), {"x": None}),
        (Model(at=datetime(2026, 1, 2, tzinfo=UTC)), {"at": "2026-01-02T00:00:00Z"}),
        ([Decimal("NaN"), PurePosixPath("/a"), {1}, b"\xff"], ["NaN", "/a", [1], "\\xff"]),
        ("half an emoji \ud83d", "half an emoji \ud83d"),
        ({"\udcff": "é \U0001f600"}, {"\udcff": "é \U0001f600"}),
        (10**400, 10**400),
    ],
)
def test_what_is_written_is_json_whatever_the_value(value: object, read: object) -> None:
    text = json_text.write(value)
    assert strictly(text) == read
    assert strictly(json_text.in_encoding(json_text.write(value, indent=2), "ascii")) == read


def test_a_value_that_is_nested_too_deeply_is_told_of() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    assert strictly(json_text.write(value)) == json_text.TOO_DEEP


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "ascii", "utf-8", "no-such-encoding"])
def test_an_encoding_gets_escapes_for_what_it_does_not_have(encoding: str) -> None:
    value = "é € \U0001f600 \x9b"
    text = json_text.in_encoding(json_text.write(value), encoding)
    known = "ascii" if encoding == "no-such-encoding" else encoding
    assert json.loads(text.encode(known).decode(known)) == value


@pytest.mark.parametrize(
    "text",
    [
        *("NaN", "-Infinity", "1e999", "[-12e45678]", "1e-999", "0.001e-999", "0123", "1_000"),
        *("[" * 100_000, "9" * 5_000, '{"a": 1e400}', ""),
    ],
)
def test_what_no_number_can_be_is_not_read_as_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        json_text.read(text)


@pytest.mark.parametrize(
    ("text", "value"), [("0e5", 0.0), ("-0.0e-999", 0.0), ("1e-300", 1e-300), ("12e3", 12e3)]
)
def test_a_number_stays_one(text: str, value: float) -> None:
    assert json_text.read(text) == value
