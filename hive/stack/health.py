"""Waits until every service of a stack is healthy, and says why one is not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from hive.stack.containers import Container, containers_of, log_of
from hive.stack.engine import Engine
from hive.stack.errors import StackError, StackPartlyError
from hive.stack.said import reason_in_log

LOOK_EVERY = 0.5
RESTARTS_THAT_TELL = 2
"""A service that ends by itself that often while one waits does not become healthy."""
SETTLED_AFTER = 3.0
"""Seconds that one must have run which no check looks at: it may end as soon as it has begun."""
UNHEALTHY_FOR = 30.0
"""Seconds after which one has failed that its check finds unhealthy. Where a machine is overloaded
checks take too long, and then pass again.
"""
LOG_LINES = 40


class Watch:
    """Judges a stack's containers by what it has seen of them so far."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = set(services)
        self._restarts: dict[str, int] = {}
        self._since: dict[tuple[str, str], float] = {}
        self._unhealthy_since: dict[str, float] = {}

    def of_interest(self, found: Sequence[Container]) -> list[Container]:
        return [one for one in found if one.service in self._services]

    def missing(self, found: Sequence[Container]) -> list[str]:
        """The services of which there is no container."""
        return sorted(self._services - {one.service for one in found})

    def late(self, found: Sequence[Container], now: float) -> list[Container]:
        """Those that do not serve yet."""
        return [one for one in found if not (one.is_done or self._serves(one, now))]

    def failed(self, found: Sequence[Container], now: float) -> list[Container]:
        """Those that will not serve."""
        return [one for one in found if self._has_failed(one, now)]

    def _serves(self, one: Container, now: float) -> bool:
        since = self._since.setdefault((one.id, one.started_at), now)
        return one.serves and (one.health is not None or now - since >= SETTLED_AFTER)

    def _has_failed(self, one: Container, now: float) -> bool:
        if one.health == "unhealthy":
            return now - self._unhealthy_since.setdefault(one.id, now) >= UNHEALTHY_FOR
        self._unhealthy_since.pop(one.id, None)
        restarted = one.restarts - self._restarts.setdefault(one.id, one.restarts)
        ended = one.state in ("exited", "dead") and not one.is_done
        return ended or restarted >= RESTARTS_THAT_TELL


def wait_healthy(
    engine: Engine,
    stack: str,
    services: Iterable[str],
    until: float,
    *,
    now: Callable[[], float] = time.monotonic,
    pause: Callable[[float], object] = time.sleep,
) -> list[Container]:
    """Wait for the containers of these services.

    until: of the clock `now`.
    Returns: the containers.
    Raises: StackError for one that ends, or that its check finds unhealthy for a while, with the
        last line of its log; StackPartlyError for one that does not serve when the time is over.
    """
    watch = Watch(services)
    while True:
        found = watch.of_interest(containers_of(engine, stack))
        late, missing = watch.late(found, now()), watch.missing(found)
        for one in watch.failed(found, now()):
            raise StackError(not_healthy(engine, one))
        if not late and not missing:
            return found
        if now() >= until:
            raise StackPartlyError(
                not_healthy(engine, late[0])
                if late
                else f"Of service {missing[0]} nothing runs; say `hive stack up` again."
            )
        pause(LOOK_EVERY)


def not_healthy(engine: Engine, one: Container) -> str:
    """The sentence on a container that does not serve."""
    state = one.health if one.state == "running" and one.health else one.state
    if state == "exited" or one.restarts:
        state = f"{state}, exit code {one.exit_code}"
    said = reason_in_log(log_of(engine, one, LOG_LINES))
    return f"Service {one.service} is not healthy ({state}). Its log ends with: {said}"


def why_not_started(engine: Engine, stack: str) -> str | None:
    """The sentence on the container of a stack that has failed; None where none has.

    Compose itself says only that something is unhealthy.
    """
    late = [one for one in containers_of(engine, stack) if not (one.serves or one.is_done)]
    ended = [one for one in late if one.state in ("exited", "dead", "restarting")]
    ill = [one for one in late if one.health == "unhealthy"]
    # One that ends again and again may just have been started once more.
    again = [one for one in late if one.restarts]
    culprits = [*ended, *ill, *again]
    return not_healthy(engine, culprits[0]) if culprits else None
