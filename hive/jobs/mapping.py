"""`hive.map`: a skill over many items, on all nodes at once."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sized
from numbers import Real
from typing import Any, Literal, TypeVar, cast, get_args

import redis
from celery import Celery, Signature, Task

from hive.applications import application_of
from hive.broker.application import require_sending
from hive.broker.link.client import BrokerClient, broker_errors, client_of
from hive.broker.link.outage import comes_back, until_back
from hive.broker.link.priorities import queue_of
from hive.coroutines import is_coroutine_function
from hive.errors import BrokerMemoryError, InvalidInputError, QueueFullError
from hive.jobs.answer.job import Job
from hive.jobs.input.asked import LIMITS, WISHES, Asked, asked
from hive.jobs.input.async_feeder import AsyncFeeder
from hive.jobs.input.blocks import Block, encode_all
from hive.jobs.input.feeder import Feeder
from hive.jobs.input.launch import launch
from hive.jobs.input.sender import Sender
from hive.jobs.input.slots import eligible_slots
from hive.jobs.input.window import caller_ms
from hive.jobs.state import steps
from hive.jobs.state.ending import conclude
from hive.jobs.state.plan import Plan, time_to_live
from hive.jobs.state.reduce import BUILT_IN
from hive.logs import get_logger
from hive.skills import Skill

log = get_logger(__name__)

T = TypeVar("T")
Reduce = Task[Any, Any] | Signature[Any] | Literal["sum", "list", "count", "concat", "merge"]
Feed = Literal["caller", "thread"]
_PRIORITY = "background"
_PUSH_BYTES = 1 << 20
_READS_AT_ONCE = 0.1
"""Seconds for which an iterator is read before `map` returns."""
_LONGEST = 1_000_000_000
"""Seconds of a deadline: thirty years. The broker cannot count to any number."""
MOST_AT_ONCE = 1000
"""Each item at a time has a thread of its own in the worker's process."""


def map(  # noqa: A001 the name is the public contract's
    skill: str | Task[Any, Any] | Skill | Signature[Any],
    items: Iterable[Any] | AsyncIterable[Any],
    reduce: Reduce | None = None,
    *,
    priority: str | int = _PRIORITY,
    requirements: dict[str, Any] | None = None,
    timeout: float | None = None,
    chunk: int | Literal["auto"] = "auto",
    feed: Feed = "caller",
    concurrency: int = 1,
    app: Celery | None = None,
) -> Job:
    """Call a skill for each item, on all nodes that can, and reduce the results.

    skill: a task, a skill's name, or a task's signature, whose own arguments stand behind each item
        (`scale.s(factor=3)`). It may have a priority, requirements and limits; other options are
        refused.
    items: any iterable of what JSON can hold; an item is the
        skill's one argument, and for a skill with an input model a dict is its fields. What has a
        length is stored whole before this returns (an empty one is a job that has ended); any other
        iterable is read while the job runs, never far ahead of it (see `feed`).
    reduce: a task, or its signature, that gets the list of the successful values in item order,
        once, or "sum", "list", "count", "concat" or "merge".
    priority: "background", "high_priority", or 0..10 (10 the
    most urgent) within the background queue.
    requirements: what a node must have, as for `apply_async`. timeout: the job's deadline in
        seconds; what is not done then has the outcome "timeout". One item may run as long as its
        task's own limit, HIVE_TASK_TIMEOUT if it has none.
    chunk: items that a worker takes at once; "auto" sizes it so that outcomes flow.
    feed: who reads an iterator. "caller": the thread that asks. It is read here for 0.1 s at most,
        then while somebody iterates over the job or waits for its result, and by `progress()`; when
        nobody has asked for thirty heartbeat intervals, the job ends with what was sent. An async
        iterable is read by `async for` and `await`. "thread": a thread of its own, in a copy of the
        caller's context.
    concurrency: items at a time in one slot, for a skill that is an `async def` and mostly waits,
        as for pages. Each has its own time limit and its own outcome.
    app: the Celery application that Hive is installed in; by default the task's own, and for a
        name or a skill the one that is meant (hive.applications).

    Returns: the job, running. One item's failure is its outcome and never sinks the rest.
    Raises: InvalidInputError, UnknownSkillError, NoEligibleNodeError when no known node can ever do
        it, QueueFullError, BrokerMemoryError, BrokerUnreachableError, HiveError with
        `task_always_eager`.
    """
    application = application_of(skill, app)
    client = client_of(application)
    require_sending(application, "hive.map")
    called = asked(application, skill, does="the skill of a map", allowed=(*WISHES, *LIMITS))
    reduced = _reduce_task(application, reduce)
    _check(items, timeout, chunk)
    _check_feed(feed)
    requirements = _wish(called, "requirements", requirements, unset=None)
    queue, number = queue_of(_wish(called, "priority", priority, unset=_PRIORITY), client.settings)
    with broker_errors():
        slots = _waited_for(client, lambda: eligible_slots(client, requirements))
    longest = client.settings.hive_task_timeout
    task, task_call = called.call.stored()
    reduce_task, reduce_task_call = reduced.call.stored() if reduced else (None, None)
    listed = items if isinstance(items, Iterable) and isinstance(items, Sized) else None
    plan = Plan(
        task=task,
        task_call=task_call,
        reduce=reduce if reduce is None or isinstance(reduce, str) else "task",
        reduce_task=reduce_task,
        reduce_task_call=reduce_task_call,
        item_limit=called.limits(application, longest)[0],
        reduce_limits=reduced.limits(application, longest) if reduced else None,
        slots=slots,
        chunk=0 if chunk == "auto" else chunk,
        queue=queue,
        priority=number,
        requirements=requirements,
        total=None if listed is None else len(listed),
        concurrency=_concurrency(concurrency, called.skill),
    )
    job_id = uuid.uuid4().hex
    if listed is None:
        feeder = _feeder(Sender(application, job_id, plan), items, job_id)
        with broker_errors():
            _create(application, client, job_id, plan, timeout)
        if feed == "thread":
            feeder.read_in_thread()
            return Job(application, job_id, plan, caller=True)
        feeder.read_at_once(_READS_AT_ONCE)
        return Job(application, job_id, plan, caller=True, feeder=feeder)
    blocks = encode_all(listed, slots, plan.chunk)
    with broker_errors():
        _create(application, client, job_id, plan, timeout)
        _store(application, client, job_id, plan, blocks)
    return Job(application, job_id, plan, caller=True)


def _feeder(
    sender: Sender, items: Iterable[Any] | AsyncIterable[Any], job_id: str
) -> Feeder | AsyncFeeder:
    if isinstance(items, Iterable):
        return Feeder(sender, iter(items), job_id)
    return AsyncFeeder(sender, items, job_id)


def _concurrency(wanted: object, skill: Skill) -> int:
    """Raises: InvalidInputError where the skill's items cannot run so many at a time."""
    if not isinstance(wanted, int) or isinstance(wanted, bool) or not 1 <= wanted <= MOST_AT_ONCE:
        raise InvalidInputError(
            f"concurrency is a number of items, 1 to {MOST_AT_ONCE}; it cannot be {wanted!r}."
        )
    if wanted > 1 and not is_coroutine_function(skill.task.run):
        raise InvalidInputError(
            f"{skill.name} is no async def, and so runs one item at a time in each slot; leave "
            "concurrency out, and give the nodes more slots (HIVE_CONCURRENCY)."
        )
    return wanted


def _waited_for(client: BrokerClient, step: Callable[[], T]) -> T:
    """Do a step that may be repeated, and wait for the broker as long as a task's sender does."""
    return until_back(
        step,
        longest=client.settings.hive_publish_timeout,
        waits=lambda error: log.warning("job_waits_for_broker", error=str(error)),
        away=comes_back,
    )


def _check(items: object, timeout: float | None, chunk: int | str) -> None:
    if isinstance(items, str | bytes | bytearray | Mapping):
        kind = type(items).__name__
        raise InvalidInputError(
            f"The items of a map are a list or another iterable, not a {kind}; for one item write "
            "[item]."
        )
    if not isinstance(items, Iterable | AsyncIterable):
        raise InvalidInputError(
            f"The items of a map are a list or another iterable, not {type(items).__name__}."
        )
    is_number = isinstance(timeout, Real)
    if timeout is not None and not (is_number and 0 < timeout <= _LONGEST):
        raise InvalidInputError(
            f"A job's timeout is a number of seconds above 0, at most {_LONGEST:,}, or None for no "
            f"deadline; it cannot be {timeout!r}."
        )
    if chunk != "auto" and (not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1):
        raise InvalidInputError(
            f'chunk is "auto" or a number of items from 1 on; it cannot be {chunk!r}.'
        )


def _check_feed(feed: object) -> None:
    if feed not in get_args(Feed):
        raise InvalidInputError(
            f'feed is "caller", the thread that asks for the outcomes, or "thread"; it cannot be '
            f"{feed!r}."
        )


def _reduce_task(app: Celery, reduce: Any) -> Asked | None:
    """What a reduce calls; None for none, and for a built-in one.

    Raises: InvalidInputError for what is no reduce.
    """
    if reduce is None or (isinstance(reduce, str) and reduce in BUILT_IN):
        return None
    if isinstance(reduce, Mapping) or callable(getattr(reduce, "apply_async", None)):
        return asked(app, reduce, does="the reduce of a map", allowed=LIMITS)
    raise InvalidInputError(
        f"reduce is a task, its signature, or one of {', '.join(BUILT_IN)}; it cannot be "
        f"{reduce!r}."
    )


def _wish(called: Asked, name: str, given: T, *, unset: T) -> T:
    """What `map` is given, or else the signature's option of that name.

    Raises: InvalidInputError where both are given, and are not the same.
    """
    wished = called.options.get(name)
    if wished is None or wished == given:
        return given
    if given != unset:
        raise InvalidInputError(
            f"The {name} of this map is given twice, as {given!r} and as {wished!r} in the "
            f"signature of {called.skill.task.name}: leave one out."
        )
    return cast("T", wished)


def _create(
    app: Celery, client: BrokerClient, job_id: str, plan: Plan, timeout: float | None
) -> None:
    ttl = time_to_live(app, plan.item_limit, timeout)
    deadline_ms = 0 if timeout is None else max(1, int(timeout * 1000))
    facts = (
        plan.model_dump_json(),
        ttl,
        plan.slots,
        plan.chunk,
        deadline_ms,
        caller_ms(client.settings),
    )
    _waited_for(client, lambda: steps.run(client, steps.CREATE, job_id, *facts))


def _store(app: Celery, client: BrokerClient, job_id: str, plan: Plan, blocks: list[Block]) -> None:
    """Store all of a list's items and send its pullers; nothing stays of what is refused."""
    pushed = 0
    batch: list[Block] = []
    try:
        for block in blocks:
            batch.append(block)
            if sum(len(text) for text, _ in batch) >= _PUSH_BYTES:
                pushed += _push(client, job_id, batch, pushed, last=False)
                batch = []
        pushed += _push(client, job_id, batch, pushed, last=True)
        launch(app, job_id, plan, pushed, complete=True)
    except (QueueFullError, BrokerMemoryError, redis.exceptions.OutOfMemoryError):
        conclude(client, job_id, None, "It was not sent.")
        raise


def _push(
    client: BrokerClient, job_id: str, blocks: list[Block], pushed: int, *, last: bool
) -> int:
    fields = [field for block in blocks for field in block]
    facts = (int(last), "", caller_ms(client.settings), pushed, *fields)
    _waited_for(client, lambda: steps.run(client, steps.PUSH, job_id, *facts))
    return sum(block.n for block in blocks)
