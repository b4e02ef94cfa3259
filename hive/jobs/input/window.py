"""How far a job's input is taken ahead of its outcomes, and how long its caller may be silent."""

from __future__ import annotations

from hive.settings import Settings

WINDOW_BYTES = 16 << 20
SHORTEST_PAUSE, LONGEST_PAUSE = 0.002, 0.05
_WINDOW_ITEMS = 20_000
_WINDOW_SECONDS = 2.0


def window(slots: int, done: int, micros: int, chunk: int = 0) -> int:
    """How many items may be taken and not done: as many as two seconds' work.

    So a slow skill does not drain its input far ahead.

    done, micros: items that have their outcomes, and how long they ran in all. chunk: items of a
        lease, where that is fixed; a block of it has to fit.
    """
    least = 4 * slots * max(1, chunk)
    if not done:
        return least
    seconds = slots * _WINDOW_SECONDS / max(micros / done / 1e6, 1e-9)
    return int(max(least, min(_WINDOW_ITEMS, seconds)))


def until_room(window: int, slots: int, done: int, micros: int) -> float:
    """Seconds after which it is worth asking whether a full window has room again: a quarter of
    what it holds is done then. Never longer than 0.05, which is also said of a job that has no
    outcome yet.
    """
    if not done:
        return LONGEST_PAUSE
    return max(SHORTEST_PAUSE, min(LONGEST_PAUSE, window * micros / done / 1e6 / slots / 4))


def caller_ms(settings: Settings) -> int:
    """Milliseconds for which a sign of life of a job's caller lasts: ten heartbeats.

    It counts as gone after three times that (lua/lib.lua).
    """
    return int(settings.hive_heartbeat_interval * 10_000)


def patience(settings: Settings) -> float:
    """Seconds after which a job ends with what was sent, since nobody asks for it."""
    return 3 * caller_ms(settings) / 1000
