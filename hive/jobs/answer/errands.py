"""What a job's asker does while it waits for outcomes: it feeds the job, or works on it.

Errands have their turns in the asker's own thread, between the outcomes that are handed out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import inf
from types import TracebackType
from typing import Protocol, Self


class Errand(Protocol):
    """One thing that an asker does meanwhile. Several askers, in threads of their own, may share
    one.
    """

    def asked(self) -> None:
        """Somebody begins to ask: an iteration, or a wait for the result."""

    def turn(self) -> float:
        """Do a bit of work, without waiting for what is not there.

        Returns: seconds until another turn is worth it; 0: at once, inf: never again.
        """

    async def turn_async(self) -> float:
        """The same for an asker in an event loop, which must not be held up."""

    def left(self, *, over: bool) -> None:
        """That one asks no more. over: since the job has ended."""


class Turns:
    """The errands of one asker, while it asks: the body of a `with`.

    What is there is handed out between turns. They take at most about half of the time then, so
    that outcomes which are there do not wait for a slow errand, nor an errand for the outcomes.
    """

    def __init__(
        self, errands: Sequence[Errand], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._errands = errands
        self._clock = clock
        self.due_at = clock() if errands else inf
        self.over = False

    def __enter__(self) -> Self:
        for errand in self._errands:
            errand.asked()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for errand in self._errands:
            errand.left(over=self.over)

    @property
    def due(self) -> bool:
        """Whether a turn is due although there are outcomes to be handed out."""
        return self._clock() >= self.due_at

    @property
    def busy(self) -> bool:
        """Whether there are errands at all."""
        return bool(self._errands)

    def give(self, *, idle: bool = True) -> float:
        """Give every errand a turn.

        idle: nothing is there to be handed out; else they get one only when it is due.
        Returns: seconds for which the asker may wait for outcomes.
        """
        if not self._errands:
            return inf
        if not idle and not self.due:
            return 0.0
        began = self._clock()
        return self._rest(began, min(errand.turn() for errand in self._errands))

    async def give_async(self, *, idle: bool = True) -> float:
        """The same in an event loop."""
        if not self._errands:
            return inf
        if not idle and not self.due:
            return 0.0
        began = self._clock()
        return self._rest(began, min([await errand.turn_async() for errand in self._errands]))

    def _rest(self, began: float, pause: float) -> float:
        now = self._clock()
        self.due_at = now + max(pause, now - began)
        return pause
