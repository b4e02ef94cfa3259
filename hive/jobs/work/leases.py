"""One lease of a puller: the items that it took, and what became of them so far."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from hive.errors import InvalidInputError
from hive.jobs.state.outcomes import Results, error_text, to_json
from hive.jobs.state.reduce import FOLDED, reduce_values
from hive.jobs.work.again import NEVER, Again, Retrial


@dataclass(slots=True)
class Lease:
    """Items `first` to `first + len(items)`, leased to one puller.

    The puller alone appends to `results` (micros last, so that its length counts complete items);
    `cut` asks it to start no further item. `committed` items, and only these, were committed by the
    keeper, under `lock`, before `closed`. `retrials` has, by offset, items that run again instead
    of having their outcome. `again`: what is known of a single item from runs that ended so.
    """

    id: bytes
    first: int
    attempt: int
    items: list[Any]
    again: Again = NEVER
    retrials: dict[int, Retrial] = field(default_factory=dict)
    results: Results = field(default_factory=lambda: Results([], [], {}))
    started: float = field(default_factory=time.perf_counter)
    cut: bool = False
    committed: int = 0
    closed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def close(self) -> None:
        """From here on the keeper leaves the lease alone."""
        with self.lock:
            self.closed = True

    @property
    def runs(self) -> int:
        """Runs that were begun of its items, with those now; where they died, or were retried."""
        return self.attempt + self.again.runs

    def next_retrial(self, start: int, stop: int) -> int | None:
        """The offset of the first item that runs again, from `start` to before `stop`."""
        return min((offset for offset in self.retrials if start <= offset < stop), default=None)

    @property
    def cost(self) -> float:
        """Mean seconds an item took; 0 when none has ended."""
        micros = self.results.micros
        return sum(micros) / len(micros) / 1e6 if micros else 0.0


@dataclass(frozen=True, slots=True)
class Commit:
    """What a script needs to write some of a lease's outcomes."""

    first: int
    n: int
    entry: str
    counts: list[int]
    micros: int
    partial: str

    def arguments(self) -> tuple[int | str, ...]:
        return (self.first, self.n, self.entry, *self.counts, self.micros, self.partial)


@dataclass(frozen=True, slots=True)
class PutOff:
    """What a script needs to write some of a lease's outcomes, and let the item behind them wait.

    ms: until it is due. again: what its next run has to know, as it is stored.
    """

    lease: bytes
    commit: Commit
    ms: int
    again: str

    def arguments(self) -> tuple[int | str | bytes, ...]:
        return (self.lease, *self.commit.arguments(), self.ms, self.again)


def commit_of(lease: Lease, start: int, stop: int, node: str, reduce: str | None) -> Commit:
    """The outcomes from offset `start` to before `stop` of a lease, and their part of the reduce.

    `encode` comes first: it turns what JSON cannot hold into failed items, which no reduce sees.
    """
    part = lease.results.part(start, stop)
    entry = part.encode(node, lease.runs)
    first = lease.first + start
    return Commit(
        first, stop - start, entry, part.counts(), sum(part.micros), _partial(first, part, reduce)
    )


def put_off(lease: Lease, start: int, offset: int, node: str, reduce: str | None) -> PutOff:
    """What the script needs that lets the item at `offset` wait, and commits those before it."""
    retrial = lease.retrials[offset]
    commit = commit_of(lease, start, offset, node, reduce)
    return PutOff(lease.id, commit, retrial.ms_left, retrial.again.stored())


def _partial(first: int, part: Results, reduce: str | None) -> str:
    values = part.successful() if reduce in FOLDED else []
    if reduce is None or not values:
        return ""
    try:
        return to_json([first, reduce_values(reduce, values), None])
    except InvalidInputError as error:
        return to_json([first, None, error.message])
    # The values are the application's own: adding them may raise anything.
    except Exception as error:  # noqa: BLE001
        return to_json([first, None, error_text(error)])
