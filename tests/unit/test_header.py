"""The header `hive`: what it reads, what it makes, and that nobody else does."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hive.broker.channel.header import Delivery, Header

ROOT = Path(__file__).parents[2] / "hive"
WISHES = {"home": "venom:req:d1", "req": {"gpu": True}, "aff": "model-7"}


def test_a_message_without_the_header_has_none() -> None:
    assert Header.of_message({"task": "t"}) is None
    assert Header.of_message(None) is None
    assert not Header.read({"hive": "a header of the application's own"})
    assert Header.of_request(SimpleNamespace(hive={})) is None
    assert Header.of_task(None) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", 7),
        ("home", b"x"),
        ("req", "gpu"),
        ("due", "soon"),
        ("due", float("inf")),
        ("due", float("nan")),
        ("created", 10**30),
        ("deaths", "2"),
        ("deaths", -(10**18)),
        ("unknown", 1),
    ],
)
def test_what_a_stranger_wrote_is_passed_over(field: str, value: Any) -> None:
    assert not Header.read({"hive": {field: value}})
    assert Header.read({"hive": {field: value, "aff": "a"}}).affinity == "a"


def test_what_is_marked_keeps_its_wishes_and_loses_what_is_no_header() -> None:
    assert Header.marked(None) == {"hive": {}}
    assert Header.marked({"hive": WISHES, "x": 1}) == {"hive": WISHES, "x": 1}
    assert Header.marked({"hive": "mine"}) == {"hive": {}}


def test_it_is_published_with_its_wishes_and_nothing_of_an_earlier_delivery() -> None:
    delivered = Header({**WISHES, "id": "p", "created": 1.0}).delivered_to(
        Delivery("a@h", "a@h/1", "p"), fresh_until=5.0, deaths=2, reserved=3.0
    )
    sent = Header(delivered).published("q", "p", 9.5, None)
    assert sent == {**WISHES, "id": "q", "of": "p", "created": 9.5}


def test_a_delivery_is_told_by_its_incarnation() -> None:
    header = Header({"id": "p"})
    assert header.delivery is None
    stamped = header.delivered_to(
        Delivery("a@h", "a@h/1", "p"), fresh_until=5.0, deaths=0, reserved=3.0
    )
    assert Header(stamped).delivery == ("a@h", "a@h/1", "p")


def test_that_a_node_holds_it_is_noted_where_the_task_looks_next() -> None:
    request = SimpleNamespace(hive={"id": "p", "inc": "a@h/1", "node": "a@h", "at": 1.0})
    header = Header.of_request(request)
    assert header is not None
    header.note_certain(8.0)
    again = Header.of_request(request)
    assert again is not None
    assert again.fresh_until == 8.0


def test_only_an_id_makes_a_kept_one() -> None:
    assert Header.read(Header.under_id("p")).keeps_id
    assert Header(Header({"id": "p", "due": 7.0}).again()).keeps_id
    assert not Header({"keep": True}).keeps_id


def test_nobody_else_reads_the_header_raw() -> None:
    raw = re.compile(r"""headers[^\n]*["']hive["']|request[^\n]*["']hive["']|request\.hive\b""")
    found = {
        str(file.relative_to(ROOT)): raw.findall(file.read_text())
        for file in ROOT.rglob("*.py")
        if file.name != "header.py"
    }
    assert {name: lines for name, lines in found.items() if lines} == {}
