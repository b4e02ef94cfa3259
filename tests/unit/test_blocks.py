"""Items on their way into a job."""

from __future__ import annotations

import json
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hive.errors import InvalidInputError
from hive.jobs.input.blocks import (
    BLOCK_BYTES,
    LARGEST_BLOCK,
    BlockBuilder,
    encode_all,
    growing_sizes,
)
from hive.jobs.input.window import until_room, window

ITEMS = st.lists(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.lists(st.integers(), max_size=3)
)


def test_blocks_begin_small_and_grow() -> None:
    assert list(islice(growing_sizes(4), 6)) == [
        4,
        32,
        256,
        LARGEST_BLOCK,
        LARGEST_BLOCK,
        LARGEST_BLOCK,
    ]


def test_blocks_of_fixed_leases_hold_whole_ones() -> None:
    assert list(islice(growing_sizes(4, chunk=10), 4)) == [10, 30, 250, 2_000]
    assert list(islice(growing_sizes(4, chunk=5_000), 2)) == [5_000, 5_000]


@given(ITEMS, st.integers(1, 5))
def test_blocks_hold_all_items_in_order(items: list[object], slots: int) -> None:
    blocks = encode_all(items, slots)
    assert [item for block in blocks for item in json.loads(block.text)] == items
    assert all(block.n == len(json.loads(block.text)) for block in blocks)


def test_large_items_make_small_blocks() -> None:
    blocks = encode_all(["x" * 50_000] * 40, 40)
    assert all(len(block.text) <= BLOCK_BYTES for block in blocks)
    assert sum(block.n for block in blocks) == 40


def test_an_item_larger_than_a_block_is_one_alone() -> None:
    assert [block.n for block in encode_all(["x" * 2 * BLOCK_BYTES, 1], 2)] == [1, 1]


def test_an_item_too_large_for_the_broker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hive.jobs.input.blocks.LARGEST", 3 << 20)
    monkeypatch.setattr("hive.jobs.state.outcomes.LARGEST", 3 << 20)
    for items in ([1, "x" * (4 << 20)], [1, ["x" * (4 << 20)]]):
        with pytest.raises(
            InvalidInputError, match=r"Item 1, of type .*takes 4 MiB as JSON, 3 at most"
        ):
            encode_all(items, 2)
    with pytest.raises(InvalidInputError, match="Item 7, of type list, takes 4 MiB"):
        BlockBuilder().add(["x" * (4 << 20)], 7)


def test_the_item_that_json_cannot_hold_is_named() -> None:
    with pytest.raises(InvalidInputError, match="Item 70, of type set"):
        encode_all([*range(70), {1}, *range(9)], 2)


@given(ITEMS)
def test_items_gathered_one_by_one_are_the_same(items: list[object]) -> None:
    builder = BlockBuilder()
    for index, item in enumerate(items):
        builder.add(item, index)
    block = builder.take()
    assert json.loads(block.text) == items
    assert (block.n, builder.n, builder.bytes) == (len(items), 0, 0)


def test_an_item_is_taken_as_it_is_at_that_moment() -> None:
    builder = BlockBuilder()
    reused = {"n": 0}
    for number in range(3):
        reused["n"] = number
        builder.add(reused, number)
    assert json.loads(builder.take().text) == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_a_refused_item_leaves_the_others() -> None:
    builder = BlockBuilder()
    builder.add(1, 0)
    with pytest.raises(InvalidInputError, match="Item 1, of type object"):
        builder.add(object(), 1)
    assert json.loads(builder.take().text) == [1]


def test_the_window_is_two_seconds_of_work_within_its_bounds() -> None:
    assert window(2, 0, 0) == 8
    assert window(2, 100, 100 * 1_000_000) == 8
    assert window(4, 50, 50 * 20_000) == 400
    assert window(4, 1_000, 1_000) == 20_000


def test_a_full_window_is_asked_for_once_a_quarter_of_it_is_done() -> None:
    assert until_room(window(4, 0, 0), 4, 0, 0) == 0.05, "nobody knows how long an item takes"
    assert until_room(20_000, 4, 100, 100) == 0.002
    assert until_room(20_000, 4, 100, 1_600) == 0.02
    assert until_room(16, 4, 1, 10_000_000) == 0.05
