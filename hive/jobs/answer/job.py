"""A job as its callers see it: progress, outcomes as they complete, the result, cancel.

Any process can open one by its id.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from celery import Celery

from hive.applications import application
from hive.broker.link.client import broker_errors, client_of
from hive.broker.link.format import require_format
from hive.broker.link.names import is_encodable
from hive.broker.link.outage import PAUSE, READERS_WAIT, Outage, comes_back, until_back
from hive.broker.link.unreadable import ask, skip
from hive.errors import InvalidInputError, UnknownJobError
from hive.jobs.answer.errands import Errand, Turns
from hive.jobs.answer.helping import helping
from hive.jobs.answer.stream import Drops, Raw, StreamPosition, StreamReader, dropped, entry_of
from hive.jobs.answer.trim import KEPT_BYTES, StreamTrim
from hive.jobs.answer.value import built_in_value
from hive.jobs.answer.watch import JobWatch
from hive.jobs.input.async_feeder import AsyncFeeder
from hive.jobs.input.feeder import Feeder
from hive.jobs.state import steps
from hive.jobs.state.outcomes import Entry, Outcome, OutcomeList, decode, from_json
from hive.jobs.state.plan import Plan, stored_plan
from hive.jobs.state.reduce import BUILT_IN
from hive.logs import get_logger

log = get_logger(__name__)

T = TypeVar("T")

_BLOCK = 1.0
_DROPS = 64
"""How many of the last drops are known to the other readers of the same job."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is, in items. total: None until an iterator has ended.

    completed: ok. failed: failed or timed out. running: under a lease. pending: sent, not leased,
    or waiting for its retry.
    """

    total: int | None
    completed: int
    failed: int
    cancelled: int
    running: int
    pending: int

    @property
    def over(self) -> bool:
        """Whether every item has its outcome."""
        return (
            self.total is not None and self.completed + self.failed + self.cancelled >= self.total
        )


@dataclass(frozen=True, slots=True)
class JobResult:
    """What came of a job, all of it or, when waiting timed out, what is there so far.

    outcomes: in item order.
    value: what the reduce made of the successful items' values. Before the end it is a built-in
        reduce's value so far, and None for a reduce task.
    error: what went wrong with the job as a whole (its input ended early, its reduce failed), or
        None.
    complete: whether the job has ended, and with all of its input. It is not where waiting timed
        out, nor where items never came, as their source raised, or its process was gone or could
        not send them: `error` says so then.
    """

    outcomes: OutcomeList
    value: Any
    error: str | None
    complete: bool


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What a job came to as a whole.

    value, error, complete: as in JobResult, but that dropped outcomes are no error. dropped: how
    many of the first outcomes are gone, since the job's caller had read them.
    """

    value: Any
    error: str | None
    complete: bool
    dropped: int


class Job:
    """One map-reduce.

    Iterate over it for outcomes as they complete, `async for` too; `await job` is `job.result()`.

    Every iteration begins with the first outcome, or raises OutcomesDroppedError where it is gone.
    While the broker is away, iterations and `result` wait for it, two minutes at most
    (READERS_WAIT) and no longer than their own timeout; then they
    raise BrokerUnreachableError, and may be called again. `progress` and `cancel` raise it at once.
    All raise UnknownJobError when the job's results have expired.
    """

    def __init__(
        self,
        app: Celery,
        job_id: str,
        plan: Plan,
        *,
        caller: bool = False,
        feeder: Feeder | AsyncFeeder | None = None,
    ) -> None:
        """Jobs are made by `map` and opened by `job`.

        caller: this is the job of its maker, whose reading may drop outcomes of an endless input.
        feeder: what reads its input while somebody asks.
        """
        self.id = job_id
        self._app = app
        self._client = client_of(app)
        self._plan = plan
        self._caller = caller
        self._drops: Drops | None = deque(maxlen=_DROPS) if caller else None
        self._feeder = feeder
        self._errands: list[Errand] = [] if feeder is None else [feeder]
        self._polled: list[Errand] | None = None

    def __repr__(self) -> str:
        return f"<Job {self.id} {self._plan.call.name}>"

    def progress(self) -> Progress:
        """How far the job is: one round trip.

        Where the caller reads the input, a part of it is read. A task that asks its own map again
        works on it meanwhile, as one that waits for it does.
        """
        if self._feeder is not None:
            self._feeder.glance()
        self._help_if_polled()
        with broker_errors():
            raw = self._client.redis.hmget(
                self._state,
                "pushed",
                "done",
                "ok",
                "failed",
                "timeout",
                "cancelled",
                "waiting",
                "eof",
                "later",
            )
        if raw[0] is None:
            raise self._unknown()
        pushed, done, ok, failed, timeout, cancelled, waiting, eof, later = (
            int(field or 0) for field in raw
        )
        return Progress(
            pushed if eof else None,
            ok,
            failed + timeout,
            cancelled,
            max(0, pushed - done - waiting - later),
            waiting + later,
        )

    def _help_if_polled(self) -> None:
        if not self._caller:
            return
        if self._polled is None:
            with broker_errors():
                self._polled = helping(self._app, self.id, self._plan)
            return
        for errand in self._polled:
            errand.turn()

    def cancel(self) -> None:
        """Run nothing more of the job.

        Items that wait become `cancelled`, and so do those that run where they can be interrupted.
        A job that has ended stays as it is.
        """
        with broker_errors():
            steps.run(
                self._client,
                steps.STOP,
                self.id,
                "cancelled",
                "the job was cancelled before it ran",
                0,
            )

    def wait(self, timeout: float | None = None) -> Conclusion:
        """Wait for the job to end, without reading its outcomes.

        timeout: seconds to wait (None: until it ends); then the value is the one so far.
        """
        reader = self._reader()
        _asked(reader.begin_behind_all)
        until = None if timeout is None else time.monotonic() + max(timeout, 0.0)
        with self._turns() as turns:
            for _ in self._batches(reader, until, turns):
                pass
        return self._told(ended=reader.position.ended, until=until)

    def result(self, timeout: float | None = None) -> JobResult:
        """Wait for the job to end.

        timeout: seconds to wait (None: until it ends); then the result has what is there so far.
            The job goes on either way.
        """
        outcomes = OutcomeList(self._fetch)
        reader = self._reader()
        until = None if timeout is None else time.monotonic() + max(timeout, 0.0)
        with self._turns() as turns:
            for batch in self._batches(reader, until, turns):
                outcomes.add(batch)
        return self._result(outcomes, ended=reader.position.ended, until=until)

    def __iter__(self) -> Iterator[Outcome]:
        return self._outcomes(self._reader(gapless=True))

    def remaining(self) -> Iterator[Outcome]:
        """Iterate over the outcomes that were not dropped: all of them, as a rule.

        Of an iterator's job whose caller has read more than 64 MiB of outcomes the first are gone
        (map.md); an iteration over the job raises OutcomesDroppedError then.
        """
        reader = self._reader()
        _asked(reader.begin_behind_dropped)
        return self._outcomes(reader)

    def _outcomes(self, reader: StreamReader) -> Iterator[Outcome]:
        trim = self._trim()
        clock = time.monotonic
        with self._turns() as turns:
            busy = turns.busy
            for batch in self._batches(reader, None, turns):
                for entry in batch:
                    for outcome in decode(entry):
                        yield outcome
                        if busy and clock() >= turns.due_at:
                            turns.give(idle=False)
                if trim is not None and trim.passed(reader.position):
                    trim.drop()
                if self._all_seen(reader.position):
                    return

    def __await__(self) -> Generator[Any, None, JobResult]:
        return self._result_async().__await__()

    async def __aiter__(self) -> AsyncIterator[Outcome]:
        reader, trim = self._reader(gapless=True), self._trim()
        with self._turns() as turns:
            async with aclosing(self._batches_async(reader, turns)) as batches:
                async for batch in batches:
                    for entry in batch:
                        for outcome in decode(entry):
                            yield outcome
                            if turns.busy and turns.due:
                                await turns.give_async(idle=False)
                    if trim is not None and trim.passed(reader.position):
                        await asyncio.to_thread(trim.drop)
                    if self._all_seen(reader.position):
                        return

    # -- reading the stream

    @property
    def _state(self) -> str:
        return steps.job_key(self._client, self.id, "state")

    def _turns(self) -> Turns:
        """What this asker does while it waits."""
        helps = _asked(lambda: helping(self._app, self.id, self._plan))
        return Turns([*self._errands, *helps])

    def _reader(self, *, gapless: bool = False) -> StreamReader:
        gapless = gapless and self._plan.trims
        return StreamReader(self._client, self.id, gapless=gapless, drops=self._drops)

    def _trim(self) -> StreamTrim | None:
        """What drops the outcomes that an iteration has handed out, where that is the caller's."""
        if self._drops is None or not self._plan.trims:
            return None
        return StreamTrim(self._client, self.id, KEPT_BYTES, self._drops)

    def _batches(
        self, reader: StreamReader, until: float | None, turns: Turns
    ) -> Iterator[list[Entry]]:
        """The stream's entries as they come, until its end or that time (monotonic seconds)."""
        watch = JobWatch(self._app, self.id, self._plan)
        outage = Outage(READERS_WAIT)
        idle = True
        while not reader.position.ended:
            longest = min(_BLOCK, turns.give(idle=idle))
            left = longest if until is None else min(longest, until - time.monotonic())
            try:
                raw = reader.read(left)
                if not raw and watch.due:
                    watch.look()
            except Exception as error:  # noqa: BLE001 _came raises what is no outage
                _came(outage, error, until)
                time.sleep(PAUSE)
                raw = []
            else:
                outage.over()
            idle = not raw
            if raw:
                yield self._taken(reader, raw)
            elif until is not None and time.monotonic() >= until:
                return
        turns.over = True

    async def _batches_async(
        self, reader: StreamReader, turns: Turns
    ) -> AsyncGenerator[list[Entry], None]:
        watch = JobWatch(self._app, self.id, self._plan)
        outage = Outage(READERS_WAIT)
        idle = True
        async with self._client.asyncio_redis() as client:
            while not reader.position.ended:
                left = min(_BLOCK, await turns.give_async(idle=idle))
                try:
                    raw = await reader.read_async(client, left)
                    if not raw and watch.due:
                        await asyncio.to_thread(watch.look)
                except Exception as error:  # noqa: BLE001 _came raises what is no outage
                    _came(outage, error)
                    await asyncio.sleep(PAUSE)
                    raw = []
                else:
                    outage.over()
                idle = not raw
                if raw:
                    yield self._taken(reader, raw)
        turns.over = True

    def _taken(self, reader: StreamReader, raw: Raw) -> list[Entry]:
        """What was read, as entries; the feeder learns how far the job is."""
        entries = reader.position.take(raw)
        if self._feeder is not None:
            self._feeder.seen(reader.position.items)
        return entries

    def _all_seen(self, position: StreamPosition) -> bool:
        """Whether a reader has all outcomes of a job of known size, and need not wait for the
        reduce.
        """
        return self._plan.total is not None and position.items >= self._plan.total

    def _fetch(self, entry_id: bytes) -> Entry:
        """Raises: OutcomesDroppedError, UnknownJobError."""
        key = steps.job_key(self._client, self.id, "outcomes")
        found: Any = _asked(lambda: self._client.redis.xrange(key, entry_id, entry_id))
        if not found:
            trimmed = _asked(lambda: self._client.redis.hget(self._state, "trimmed"))
            if trimmed is not None:
                raise dropped(self.id, int(trimmed))
            raise UnknownJobError(f"The outcomes of job {self.id} have expired.")
        return entry_of(*found[0])

    async def _result_async(self) -> JobResult:
        outcomes = OutcomeList(self._fetch)
        reader = self._reader()
        with self._turns() as turns:
            async for batch in self._batches_async(reader, turns):
                outcomes.add(batch)
        return await asyncio.to_thread(self._result, outcomes, ended=reader.position.ended)

    def _result(
        self, outcomes: OutcomeList, *, ended: bool, until: float | None = None
    ) -> JobResult:
        outcomes.arrange()
        told = self._told(ended=ended, until=until)
        faults = [told.error] if told.error else []
        if told.dropped:
            faults.append(
                f"The first {told.dropped} outcomes were dropped after the job's caller had read "
                "them, to bound their memory."
            )
        return JobResult(outcomes, told.value, " ".join(faults) or None, told.complete)

    def _told(self, *, ended: bool, until: float | None) -> Conclusion:
        """What is said of the job as a whole. Raises: BrokerUnreachableError."""

        def ask() -> Conclusion:
            error, trimmed, cut = self._client.redis.hmget(self._state, "error", "trimmed", "cut")
            value = self._value(ended=ended)
            return Conclusion(
                value, steps.text(error) or None, ended and not cut, int(trimmed or 0)
            )

        return _asked(ask, until)

    def _value(self, *, ended: bool) -> Any:
        if ended:
            key = steps.job_key(self._client, self.id, "value")
            raw: bytes | None = ask(self._client, self._client.redis.get, key)
            try:
                return None if raw is None else from_json(raw)
            except ValueError as error:
                skip(self._client, key, "", error)
                return None
        if self._plan.reduce in BUILT_IN:
            try:
                return built_in_value(self._client, self.id, self._plan.reduce)
            except InvalidInputError:
                return None
        return None

    def _unknown(self) -> UnknownJobError:
        return UnknownJobError(f"No job has the id {self.id!r}, or its results have expired.")


def _came(outage: Outage, error: Exception, until: float | None = None) -> None:
    """Raises: what is no outage; BrokerUnreachableError when it has lasted too long, or until then.

    Nobody can tell what is there of the job while the broker does not answer.
    """
    with broker_errors():
        if not comes_back(error) or (until is not None and time.monotonic() >= until):
            raise error
        if outage.came(error):
            log.warning("job_waits_for_broker", error=str(error), at_most=READERS_WAIT)


def _asked(ask: Callable[[], T], until: float | None = None) -> T:
    """Ask the broker; while it is away, until that time. Raises: BrokerUnreachableError."""
    longest = READERS_WAIT if until is None else until - time.monotonic()

    def waits(error: Exception) -> None:
        log.info("reader_waits_for_broker", error=str(error))

    with broker_errors():
        return until_back(ask, longest=longest, waits=waits, away=comes_back)


def job(job_id: str, *, app: Celery | None = None) -> Job:
    """Open a job by its id, from any process, also after its caller died.

    app: the Celery application that Hive is installed in; by default the one that is meant
        (hive.applications): this thread's current one, or the last in which Hive was installed.

    Raises: UnknownJobError when no such job is known (any more), or another release made it that
        this one cannot read; StoredFormatError, BrokerUnreachableError.
    """
    meant = application(app)
    client = client_of(meant)
    with broker_errors():
        require_format(client)
        plan = stored_plan(client, job_id) if is_encodable(job_id) else None
    if plan is None:
        raise UnknownJobError(f"No job has the id {job_id!r}, or its results have expired.")
    return Job(meant, job_id, plan)
