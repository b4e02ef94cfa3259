"""A duty of the watchdog: what it does, how often, and how it goes, which `hive status` reads."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import redis
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hive.broker.link.client import BrokerClient
from hive.broker.link.outage import said as refusal_said
from hive.broker.link.unreadable import ask, skip
from hive.errors import InvalidInputError
from hive.foreman.watch.look import Look, look
from hive.logs import get_logger

log = get_logger(__name__)

TOLD_EVERY = 10.0
"""Seconds after which the broker is told of last successes; of a failure it is told at once."""
KEPT_FOR = 3600
"""Seconds for which the broker keeps what the last watchdog told of its duties."""
_LONGEST_ERROR = 500


@dataclass(frozen=True)
class Watch:
    """What a duty is given, at one tick.

    client: a connection to the broker for this watchdog alone, on which nothing waits longer than a
        heartbeat. app: the application whose watchdog this is. answering: seconds for which the
        broker has answered in time, without a break.
    """

    client: BrokerClient
    app: Any
    answering: float

    @cached_property
    def look(self) -> Look:
        """How all incarnations are: looked at once a tick, for the first duty that asks.

        Raises: redis errors, to each duty that asks: no other depends on it.
        """
        return look(self.client)


@dataclass(frozen=True, slots=True)
class Duty:
    """One thing that the watchdog does, while it holds the lease.

    name: by which `hive status`, `/health` and the logs call it; one word, or several with dots.
    act: does it once, in the watchdog's thread, where no other duty runs meanwhile; it has to be
        over in a second or two. Whatever it raises is its own failure, and hinders no other duty.
    period: seconds from one time to the next; 0: at every tick, once a second.
    witness: done instead, at every tick, while another watchdog holds the lease.

    Raises: InvalidInputError for a name or a period that cannot be.
    """

    name: str
    act: Callable[[Watch], object]
    period: float = 0.0
    witness: Callable[[Watch], object] | None = None

    def __post_init__(self) -> None:
        if not _is_word(self.name):
            raise InvalidInputError(
                f"A duty's name is a word such as 'stock.check'; it cannot be {self.name!r}."
            )
        if not callable(self.act):
            raise InvalidInputError(
                f"The duty {self.name} needs a function that takes a Watch, not {self.act!r}."
            )
        period: object = self.period
        if not (isinstance(period, int | float) and period >= 0):
            raise InvalidInputError(
                f"The period of the duty {self.name} is a number of seconds, 0 for every tick; "
                f"it cannot be {self.period!r}."
            )


_Time = Annotated[float, Field(ge=0, lt=1e11)]


class DutyState(BaseModel):
    """How a duty goes. Times are in unix seconds by the clock of the watchdog's machine.

    failing_since, error: of the failures since its last success; None and "" while there is none.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    last_success: _Time | None = None
    failing_since: _Time | None = None
    error: str = ""

    @property
    def sentence(self) -> str:
        """What fails, for people."""
        before = "it has never succeeded" if self.last_success is None else "it had succeeded"
        when = time.strftime("%H:%M:%S UTC", time.gmtime(self.failing_since))
        return f"the duty {self.name} fails since {when} ({before} before): {self.error}"


class Roster:
    """The duties of one watchdog: which are due, and how each went."""

    def __init__(self, duties: list[Duty], *, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises: InvalidInputError when two have one name."""
        self.duties = duties
        self._clock = clock
        self._states = {duty.name: DutyState(name=duty.name) for duty in duties}
        refuse_twice([duty.name for duty in duties])
        self._due: dict[str, float] = {}
        self._told: dict[str, DutyState] = {}
        self._told_at = -TOLD_EVERY

    def due(self) -> list[Duty]:
        """Those whose time has come, in the order in which they were given."""
        now = self._clock()
        return [duty for duty in self.duties if now >= self._due.get(duty.name, now)]

    def succeeded(self, duty: Duty) -> None:
        self._due[duty.name] = self._clock() + duty.period
        before = self._states[duty.name]
        if before.error:
            log.info("duty_restored", duty=duty.name)
        self._states[duty.name] = DutyState(name=duty.name, last_success=time.time())

    def failed(self, duty: Duty, error: BaseException) -> None:
        """It raised; it is tried again when it is due next."""
        self._due[duty.name] = self._clock() + duty.period
        before = self._states[duty.name]
        said = _said(error)
        if said != before.error:
            log.error("duty_failed", duty=duty.name, error=said, exc_info=error)
        since = before.failing_since or time.time()
        changed = {"failing_since": since, "error": said}
        self._states[duty.name] = before.model_copy(update=changed)

    def tell(self, client: BrokerClient) -> None:
        """Tell the broker how the duties go, when there is news. Raises: redis errors."""
        failing = [state.error for state in self._states.values()]
        news = failing != [state.error for state in self._told.values()]
        if not news and self._clock() - self._told_at < TOLD_EVERY:
            return
        key = client.key("duties")
        try:
            # No transaction: a server without memory refuses one.
            with client.redis.pipeline(transaction=False) as pipe:
                if not self._told:
                    pipe.delete(key)  # an earlier watchdog may have had other duties
                states = {name: state.model_dump_json() for name, state in self._states.items()}
                pipe.hset(key, mapping=states).expire(key, KEPT_FOR).execute()
        except redis.exceptions.OutOfMemoryError:
            return  # this is only for people; the duties themselves go on
        except redis.exceptions.ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            self._told = {}  # somebody's key is in the way: the next time it is replaced
            return
        self._told, self._told_at = dict(self._states), self._clock()

    def forget_told(self) -> None:
        """Another watchdog told of its own duties meanwhile: tell all of them anew."""
        self._told = {}


def refuse_twice(names: list[str]) -> None:
    """Raises: InvalidInputError when two duties have one name."""
    for name in names:
        if names.count(name) > 1:
            raise InvalidInputError(f"Two duties are called {name!r}; give one another name.")


def _is_word(name: object) -> bool:
    return isinstance(name, str) and name.isprintable() and bool(name) and " " not in name


def _said(error: BaseException) -> str:
    """What it says, in one line that can be stored; foreign code may have made it of anything."""
    name = type(error).__name__
    try:
        said = f"{name}: {refusal_said(error)}"
    except Exception:  # noqa: BLE001 - whatever goes wrong in it, the duty has failed
        said = f"{name}, which cannot be read"
    said = " ".join(said[:_LONGEST_ERROR].split())
    return said.encode(errors="backslashreplace").decode()


def duty_states(client: BrokerClient) -> list[DutyState]:
    """How the duties of the watchdog that leads go, by name; none while nobody has led for an hour.

    Blocks for one round trip. Raises: redis errors.
    """
    key = client.key("duties")
    told: Mapping[bytes, bytes] = ask(client, client.redis.hgetall, key) or {}
    states = []
    for name, text in told.items():
        try:
            states.append(DutyState.model_validate_json(text))
        except ValidationError as error:
            skip(client, key, name.decode(errors="replace"), error.errors()[0]["msg"])
    return sorted(states, key=lambda state: state.name)
