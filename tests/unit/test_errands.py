"""The turns that a job's asker gives its errands."""

from __future__ import annotations

import asyncio
from math import inf

from hive.jobs.answer.errands import Turns


class Work:
    """An errand that takes `seconds` a turn, and wants the next after `pause`."""

    def __init__(self, clock: list[float], seconds: float, pause: float) -> None:
        self.clock = clock
        self.seconds = seconds
        self.pause = pause
        self.turns = 0
        self.askers = 0
        self.over = False

    def asked(self) -> None:
        self.askers += 1

    def turn(self) -> float:
        self.turns += 1
        self.clock[0] += self.seconds
        return self.pause

    async def turn_async(self) -> float:
        return self.turn()

    def left(self, *, over: bool) -> None:
        self.askers -= 1
        self.over = over


def test_who_has_no_errands_waits_as_long_as_it_likes() -> None:
    turns = Turns([])
    assert turns.give() == inf
    assert not turns.due


def test_who_has_nothing_to_hand_out_waits_as_long_as_its_most_pressing_errand_may() -> None:
    clock = [0.0]
    works = [Work(clock, 0.1, 5.0), Work(clock, 0.1, 0.5)]
    turns = Turns(works, clock=lambda: clock[0])
    assert turns.give() == 0.5
    assert asyncio.run(turns.give_async()) == 0.5
    assert [work.turns for work in works] == [2, 2]


def test_outcomes_that_are_there_have_as_much_time_as_the_errands_took() -> None:
    clock = [0.0]
    work = Work(clock, 2.0, 0.0)
    turns = Turns([work], clock=lambda: clock[0])
    turns.give()
    assert turns.give(idle=False) == 0.0
    assert (work.turns, turns.due) == (1, False)
    clock[0] += 2.0
    assert turns.due
    turns.give(idle=False)
    assert work.turns == 2


def test_errands_are_told_who_asks_and_whether_the_job_is_over() -> None:
    work = Work([0.0], 0.0, 0.0)
    with Turns([work]) as turns:
        assert work.askers == 1
        turns.over = True
    assert (work.askers, work.over) == (0, True)
