"""What happens to a task message before kombu sees it.

It gets its publish id, and a due time in place of Celery's eta.

A publish id is made once a publication, outside kombu's retry loop, so that a retried command
cannot make a second task. Inside a task it is derived from the parent's, so that a run repeated
after a kill does not publish its children twice. Where a repeated run would send a child under
another task id, it is an ordinary publication, of which nothing is remembered.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from celery import Celery, signals
from celery._state import get_current_task, get_current_worker_task

from hive.broker.channel import incarnation
from hive.broker.channel.header import NAME, Header
from hive.broker.channel.naming import LINKS, embedded, ids_in, is_random, name_links, regroup
from hive.broker.link.coding import checked_compression, checked_serializer
from hive.broker.link.moments import (
    checked_countdown,
    checked_eta,
    checked_expires,
    checked_limit,
)
from hive.broker.link.names import checked_name, checked_publish_id, id_text, is_name
from hive.broker.link.priorities import DEFAULT, checked
from hive.errors import InvalidInputError

_IDS = {"id": "A task_id", "group": "A group's task_id"}
_KIN = ("root_id", "parent_id")
_NAMED = {
    "queue": "A queue's name",
    "routing_key": "A routing key",
    "exchange": "An exchange's name",
}
_SEEN = "_hive_published"
_GROUPS = "_hive_groups"
_BROUGHT = "_hive_brought"


def connect() -> None:
    """Prepare every marked task message that this process publishes.

    Calling it again changes nothing.
    """
    signals.before_task_publish.connect(_prepare, weak=False, dispatch_uid="hive.publishing")


def sendable(
    app: Celery, message: Any, headers: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Make sure that a task message can be packed, kept and read again, before anything is written.

    app: which sends it. message: as Celery made it. headers, options: with which it is to be sent.

    Returns: the options that change: the priority, as a whole number.
    Raises: InvalidInputError.
    """
    _refuse_ids(message.headers)
    if headers.get("id", message.headers.get("id")) != message.headers.get("id"):
        raise InvalidInputError(
            f"headers cannot say another id, {headers['id']!r:.100}: nobody would find the task's "
            "result. Give it as task_id."
        )
    if type(message.headers.get("retries", 0)) is not int:
        raise InvalidInputError(
            f"retries is a whole number; it cannot be {message.headers['retries']!r:.100}."
        )
    for option, what in _NAMED.items():
        named = options.get(option)
        if named:
            checked_name(what, getattr(named, "name", named) or " ")
    if headers[NAME]:
        header = Header.read(headers)
        if header.keeps_id:
            checked_publish_id(header.publish_id)
        if header.home is not None:
            checked_name("The queue of its requirements", header.home)
    given = options.get("priority")
    priority = checked(given)
    if isinstance(message.body, tuple) and any(message.body[2].values()):
        refuse_canvas(app, message.body[2])
    return {} if priority is given else {"priority": priority}


def _refuse_ids(headers: dict[str, Any]) -> None:
    """Make texts of ids that are UUIDs.

    Raises: InvalidInputError for ids that cannot be part of keys and rows.
    """
    for name in _KIN:
        if type(headers.get(name)) is UUID:
            headers[name] = str(headers[name])
    for name, what in _IDS.items():
        given = headers.get(name)
        if type(given) is UUID:
            headers[name] = given = str(given)
        if given is None or (isinstance(given, str) and is_name(given)):
            continue
        # A retry has the ids of its run, which a stranger may have sent.
        if given != getattr(_running(), name, None):
            checked_name(what, given)


def refuse_canvas(app: Celery, embed: Mapping[str, Any]) -> None:
    """Look at the tasks that travel in a message; ids of theirs that are UUIDs become texts.

    Raises: InvalidInputError where one could not be sent later.
    """
    if follows_up():
        return  # what accepted work sends next was looked at when it was accepted itself
    for option, links in LINKS.items():
        for link in embed.get(option) or ():
            if not isinstance(link, Mapping) or not isinstance(link.get("task"), str):
                raise InvalidInputError(f"{links} is a signature; it cannot be {link!r:.100}.")
    for name, options in embedded(embed):
        declared = app.tasks.get(name)
        checked_serializer(options.get("serializer") or getattr(declared, "serializer", None))
        checked_compression(options.get("compression") or getattr(declared, "compression", None))
        checked(options.get("priority"))
        checked_countdown(options.get("countdown"))
        checked_eta(options.get("eta"))
        checked_expires(options.get("expires"))
        for limit in ("time_limit", "soft_time_limit"):
            checked_limit(limit, options.get(limit))
        if type(options.get("task_id")) is UUID:
            options["task_id"] = str(options["task_id"])
        for option, what in (("task_id", "A task_id"), ("queue", "A queue's name")):
            given = options.get(option)
            if given is not None:
                checked_name(what, getattr(given, "name", given))


def _prepare(
    headers: dict[str, Any] | None = None,
    properties: dict[str, Any] | None = None,
    body: Any = None,
    **_: Any,
) -> None:
    header = Header.of_message(headers)
    if headers is None or header is None or not {"id", "task"} <= headers.keys():
        return
    if properties is not None and properties.get("priority") is None:
        properties["priority"] = DEFAULT  # kombu would make an unset priority 0
    request = _running()
    publish_id, parent_id = _publish_ids(headers, header, request)
    if isinstance(body, tuple):  # in Celery's protocol 1 it is none
        _regroup(headers, body[2], request)
        name_links(body[2], publish_id)
    due = _due(headers) or (header.due if header.keeps_id else None)
    headers[NAME] = header.published(publish_id, parent_id, round(time.time(), 3), due)


def _publish_ids(headers: dict[str, Any], header: Header, request: Any) -> tuple[str, str | None]:
    """The publish id of a message, and that of the message for whose run it is sent.

    The latter is None outside of a run, and where a repeated run would not send the same: only what
    it names is remembered as sent.
    """
    if header.is_prepared:
        return header.publish_id, header.parent_id or None
    parent = Header.of_request(request)
    if header.keeps_id:
        remembered = parent is not None and _unrepeated.get() != EVERY
        return header.publish_id, parent.publish_id if parent and remembered else None
    if parent is None or _unrepeated.get() in (headers["id"], EVERY):
        return os.urandom(12).hex(), None
    published = request.__dict__.setdefault(_SEEN, {})
    which = (headers["id"], headers.get("retries"))
    published[which] = nth = published.get(which, -1) + 1
    # The error callbacks of a dead letter are not those of its next run, if it is sent again.
    run = () if parent.is_delivered else ("dead",)
    return derived_id(parent.publish_id, *which, nth, *run), parent.publish_id


EVERY = "*"
_unrepeated: ContextVar[str] = ContextVar("hive_unrepeated", default="")
"""The id of the task that is being sent, where a repeated run makes another; EVERY for all."""


@contextmanager
def unrepeated() -> Iterator[None]:
    """What is published within gets ids that a repeated run does not give it again."""
    token = _unrepeated.set(EVERY)
    try:
        yield
    finally:
        _unrepeated.reset(token)


def telling_ids_apart(send_task: Callable[..., Any]) -> Callable[..., Any]:
    """Around an application's `send_task`, through which it sends every task.

    Only there it is seen whether a task's id was chosen, or is made at random for this one time.
    """

    @functools.wraps(send_task)
    def send(  # noqa: PLR0917 - as Celery's
        name: str,
        args: Any = None,
        kwargs: Any = None,
        countdown: Any = None,
        eta: Any = None,
        task_id: Any = None,
        *more: Any,
        **options: Any,
    ) -> Any:
        task_id = id_text(task_id)
        headers = options.get("headers")
        if headers is not None and not isinstance(headers, Mapping):
            raise InvalidInputError(
                f"headers are a dict of names and values; they cannot be {headers!r:.100}."
            )
        if countdown is not None or eta is not None or options.get("expires") is not None:
            countdown, eta = checked_countdown(countdown), checked_eta(eta)
            if "expires" in options:
                options["expires"] = checked_expires(options["expires"])
        request = _running()
        if request is not None and _unrepeated.get() != EVERY:
            # What came out of a canvas is told by its `reply_to`: it may have its id from there.
            if not task_id:
                task_id = str(uuid.uuid4())
                _unrepeated.set(task_id)
            elif options.get("reply_to") and _is_made_here(task_id, request):
                _unrepeated.set(task_id)
        return send_task(name, args, kwargs, countdown, eta, task_id, *more, **options)

    return send


def _is_made_here(task_id: str, request: Any) -> bool:
    """Whether an id in a canvas is random, and did not come with the message that runs."""
    if not is_random(task_id) or task_id == request.id:
        return False
    brought = request.__dict__.get(_BROUGHT)
    if brought is None:
        brought = request.__dict__[_BROUGHT] = ids_in(request)
    return task_id not in brought


def chord_group(group_id: str, first: str | None = None) -> str:
    """The group id of a chord that the running task sends, or of one that Celery sends around it.

    Celery makes a random one, while the members keep the ids that the chord had in its signature. A
    run repeated after a kill would send the rest of them as members of another chord, and neither
    would end.

    first: when the chord is about to be sent, its first member's id; the group's follows from it.
    """
    request = _running()
    if request is None:
        return group_id
    groups: dict[str, str] = request.__dict__.setdefault(_GROUPS, {})
    if first is None or _unrepeated.get() == EVERY:
        return groups.get(group_id, group_id)
    if not _is_made_here(first, request):
        groups[group_id] = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{first}|group"))
    return groups.get(group_id, group_id)


def _regroup(headers: dict[str, Any], embed: dict[str, Any], request: Any) -> None:
    groups = request.__dict__.get(_GROUPS) if request is not None else None
    if groups:
        headers["group"] = groups.get(headers.get("group"), headers.get("group"))
        embed.update(regroup(embed, groups))


def _running() -> Any:
    """The request of the run for which this process publishes just now; None outside of a run.

    An eager one runs for no message of its own: an item of a job is run again under another.
    """
    request = _behalf.get() or getattr(get_current_task(), "request", None)
    if request is None or request.called_directly or request.is_eager:
        return None
    return request if Header.of_request(request) else None


_behalf: ContextVar[Any] = ContextVar("hive_behalf", default=None)


@contextmanager
def on_behalf_of(request: Any) -> Iterator[None]:
    """What is published within belongs to the run of that request.

    It is for the process that saw the run's own process die, and now tells of its end.
    """
    token = _behalf.set(request if Header.of_request(request) else None)
    try:
        yield
    finally:
        _behalf.reset(token)


_following_up: ContextVar[bool] = ContextVar("hive_following_up", default=False)


@contextmanager
def following_up() -> Iterator[None]:
    """What is published within belongs to work that was accepted already: no limit refuses it."""
    token = _following_up.set(True)
    try:
        yield
    finally:
        _following_up.reset(token)


def follows_up() -> bool:
    """Whether a publication belongs to accepted work, which would be lost if it were refused.

    That is true of what a running task sends (its retry, its callbacks and all else), and of a
    worker's own process, which calls back for tasks whose process it lost.
    """
    runs = Header.of_task(get_current_worker_task()) is not None
    return runs or incarnation.current() is not None or _following_up.get()


def vouched_for() -> bool:
    """Whether who publishes has made sure that the work is its own still (following_up)."""
    return _following_up.get()


_unknown: OrderedDict[str, None] = OrderedDict()
_MOST_UNKNOWN = 10_000


def note_unknown(publish_id: str) -> None:
    """Note a publication whose reply is missing: the broker may have accepted it."""
    _unknown[publish_id] = None
    if len(_unknown) > _MOST_UNKNOWN:
        _unknown.popitem(last=False)


def note_accepted(publish_id: str) -> None:
    """Note that a publication was answered, perhaps after tries whose replies are missing."""
    _unknown.pop(publish_id, None)


def outcome_unknown(publish_id: str) -> bool:
    """Whether a publication that failed may have been accepted.

    Asked once: the answer is forgotten.
    """
    return _unknown.pop(publish_id, False) is None


def derived_id(*parts: object) -> str:
    """A publish id that is the same whenever the parts are."""
    return hashlib.sha1("|".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()[:24]


def _due(headers: dict[str, Any]) -> float | None:
    """Take the eta out of the headers; returns it in unix seconds.

    Celery would hold the task in the worker's memory until then, and raise its prefetch.
    """
    eta = headers.get("eta")
    if not eta:
        return None
    headers["eta"] = None
    moment = datetime.fromisoformat(eta) if isinstance(eta, str) else eta
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
