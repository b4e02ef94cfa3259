"""How many items a puller asks for.

They are enough to make the round trip cheap, and few enough that outcomes flow and nobody waits
long for the last.

The script gives less where the block has less left, and near the end only a share of what waits.
"""

from __future__ import annotations

TARGET = 0.1
"""Seconds that a lease should take (T)."""
OVERDUE = 1.5 * TARGET
"""Seconds after which a puller commits what is done of its lease and gives the rest back."""
STUCK = 2.0 * TARGET
"""Seconds after which the keeper does so while an item is still running."""
GROWTH = 16
LONGEST = 20_000
COMMIT_BYTES = 4 << 20
"""Bytes of outcomes that one commit should not exceed: an item may return much in no time."""


def lease_length(last: int, own_cost: float, job_cost: float, entry_bytes: int) -> int:
    """Items to ask for next.

    last: items of the lease just done; own_cost, job_cost: mean seconds an item took in it and in
    the whole job so far; entry_bytes: size of its outcomes as JSON. Cost is the larger mean: after
    a run of quick items a slow one is met with a short lease.
    """
    by_cost = TARGET / max(own_cost, job_cost, TARGET / LONGEST)
    by_bytes = COMMIT_BYTES * last / max(entry_bytes, 1)
    return max(1, int(min(by_cost, by_bytes, GROWTH * last, LONGEST)))
