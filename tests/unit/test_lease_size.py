"""How many items a puller asks for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hive.jobs.work.lease_size import COMMIT_BYTES, GROWTH, LONGEST, TARGET, lease_length


def test_a_lease_takes_about_the_target_time() -> None:
    assert lease_length(10, 0.01, 0.01, 100) == 10
    assert lease_length(100, 0.002, 0.001, 1000) == 50


def test_long_items_go_one_by_one() -> None:
    assert lease_length(1, 30.0, 30.0, 50) == 1
    assert lease_length(1, TARGET * 1.01, 0.0, 50) == 1


def test_the_first_leases_grow_step_by_step() -> None:
    """The first item says nothing yet about the others."""
    lengths = [1]
    for _ in range(5):
        lengths.append(lease_length(lengths[-1], 1e-6, 1e-6, 10 * lengths[-1]))
    assert lengths == [1, 16, 256, 4096, LONGEST, LONGEST]


def test_a_slow_job_keeps_a_quick_run_short() -> None:
    assert lease_length(1000, 0.0001, 0.01, 1000) == 10


def test_a_slow_run_shortens_the_next_lease() -> None:
    assert lease_length(1000, 0.05, 0.0001, 1000) == 2


def test_items_that_return_much_make_small_commits() -> None:
    assert lease_length(4, 1e-6, 1e-6, 4 << 20) == COMMIT_BYTES >> 20
    assert lease_length(1, 1e-6, 1e-6, 100 << 20) == 1


@given(st.integers(1, LONGEST), st.floats(0, 1e6), st.floats(0, 1e6), st.integers(0, 1 << 30))
def test_every_length_is_within_its_bounds(last: int, own: float, job: float, size: int) -> None:
    assert 1 <= lease_length(last, own, job, size) <= min(LONGEST, GROWTH * last)
