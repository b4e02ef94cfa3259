"""The Celery router: a task's queue, what it requires, and the nodes that it is offered to."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

from celery import Celery
from celery.app.routes import Router as CeleryRouter
from celery.app.routes import prepare

from hive.broker.channel.header import NAME as HEADER
from hive.broker.channel.header import Header
from hive.broker.link.client import BrokerClient
from hive.broker.link.names import is_encodable
from hive.broker.nodes.requirements import Requirements
from hive.errors import InvalidInputError
from hive.foreman.policy import Policy
from hive.foreman.snapshot import Snapshot
from hive.skills import skill_of_task

OPTIONS = ("requirements", "affinity")
TASKS_REMEMBERED = 10_000


class Router:
    """Routes the tasks of one application, as its `task_routes = [Router(app, client, policy)]`.

    app: the application. Its `task_routes` of this moment are its own routes: what they say about a
        task is kept. Its task_default_queue takes what no route and no caller gives a queue.
    client: its broker client. policy: how it ranks nodes.

    It is called as Celery documents routers. It must not have an attribute `route_for_task`: Celery
    would call that one, and without the options (celery.app.routes.Router.query_router).
    """

    def __init__(self, app: Celery, client: BrokerClient, policy: Policy) -> None:
        self._app = app
        self._snapshot = Snapshot(client, policy)
        self._tasks_weight = policy.tasks_weight
        own = app.conf.task_routes
        self._own = CeleryRouter(routes=prepare(own), app=app) if own else None
        self._shared: dict[str, bool] = {}

    def __call__(
        self,
        name: str,
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        task: Any = None,
        **_: Any,
    ) -> dict[str, Any]:
        """Answer Celery's question where a task goes.

        options: those of `apply_async`. `requirements` and `affinity` are taken out: they travel in
            the header `hive`, where a retry finds them again. Options win over what is returned
            here.
        Returns: what the application's own route says, a queue, and where there are any the
            candidates, the weight of their tasks, and the headers.
        Raises: InvalidInputError for wrong requirements or affinity; NoEligibleNodeError when no
            known node can ever satisfy the requirements. Nothing is sent then.
        """
        options = {} if options is None else options
        route = self._own_route(name, args or (), kwargs or {}, options, task)
        requirements, affinity = _wishes(route, options)
        headers = _headers(options.get("headers") or route.get("headers"), requirements, affinity)
        if headers is not None:
            options.pop("headers", None)  # these would win over the route's
            route["headers"] = headers
        if not route.get("queue") and not route.get("exchange"):
            route["queue"] = self._default_queue
        if isinstance(requirements, PassedOn):
            return route
        target = None if self._is_shared(name) else self._target(route, options)
        candidates = (
            self._snapshot.decide(target, requirements, affinity) if target or requirements else []
        )
        if candidates:
            route["hive_candidates"] = candidates
            route["hive_tasks_weight"] = self._tasks_weight
        return route

    def close(self) -> None:
        """End the thread that reads the node table; routing starts it again."""
        self._snapshot.close()

    def _own_route(
        self, name: str, args: Any, kwargs: Any, options: dict[str, Any], task: Any
    ) -> dict[str, Any]:
        """What the application itself says about the task."""
        own: Any = self._own.lookup_route(name, args, kwargs, options, task) if self._own else None
        return {"queue": own} if isinstance(own, str) else dict(own or {})

    @cached_property
    def _default_queue(self) -> str:
        return str(self._app.conf.task_default_queue)

    def _target(self, route: Mapping[str, Any], options: Mapping[str, Any]) -> str | None:
        """The queue that the message will be put into, None when an exchange decides that."""
        if options.get("exchange") or route.get("exchange"):
            return None
        queue = options.get("queue") or route["queue"]
        if isinstance(queue, str):
            try:
                queue = self._app.amqp.queues[queue]
            except KeyError:  # Celery raises QueueNotFound for it next
                return None
        return (
            str(queue.name)
            if queue.exchange is None or queue.exchange.type in (None, "direct")
            else None
        )

    def _is_shared(self, name: str) -> bool:
        """Whether the task is of a skill with placement="shared"; looked up once a name."""
        shared = self._shared.get(name)
        if shared is None:
            if len(self._shared) >= TASKS_REMEMBERED:
                self._shared.clear()
            skill = skill_of_task(name)
            shared = self._shared[name] = skill is not None and skill.placement == "shared"
        return shared


class PassedOn(NamedTuple):
    """Requirements of a later release, which a retry or what replaces a task takes along as they
    came. It goes to their queue, where the nodes take it that know them.
    """

    demands: dict[str, Any]
    home: str | None


def _wishes(
    route: dict[str, Any], options: dict[str, Any]
) -> tuple[Requirements | PassedOn | None, str | None]:
    """Requirements and affinity of a task, taken out of its options and its route.

    A header that the task brings along itself, in its signature, wins over the call, so that a
    group's requirements do not replace its member's. The header of a retry is that of its delivery,
    and gives way to what `retry` was told.
    """
    # A stamp that happens to have one of these names belongs to the application.
    names = [name for name in OPTIONS if name not in (options.get("stamped_headers") or ())]
    called = {name: options.pop(name) for name in names if name in options}
    routed = {name: route.pop(name) for name in OPTIONS if name in route}
    brought = Header.read(options.get("headers"))
    carried = {"requirements": brought.requirements, "affinity": brought.affinity}
    carried = {name: wish for name, wish in carried.items() if wish is not None}
    last = (carried, called) if brought.is_delivered else (called, carried)
    wishes = {**routed, **last[0], **last[1]}
    required = wishes.get("requirements")
    affinity = _checked_affinity(wishes.get("affinity"))
    try:
        return Requirements.parse(required), affinity
    except InvalidInputError:
        demands = brought.requirements
        if demands is None or required is not brought.requirements or not brought.is_delivered:
            raise
        return PassedOn(demands, brought.home), affinity


def _headers(
    given: Any, requirements: Requirements | PassedOn | None, affinity: str | None
) -> dict[str, Any] | None:
    """A copy of the headers with these wishes in it; None when the headers may stay as they are."""
    brought = Header.of_message(given)
    if requirements is None and affinity is None and not brought:
        return None
    demands = requirements.demands if requirements is not None else None
    home = requirements.home if requirements is not None else None
    wishing = (brought or Header({})).wishing(demands, home, affinity)
    return {**(given or {}), HEADER: wishing}


def _checked_affinity(affinity: object) -> str | None:
    if affinity is None or (isinstance(affinity, str) and affinity and is_encodable(affinity)):
        return affinity
    raise InvalidInputError(
        f"affinity is a text that names what tasks share, such as 'model-7', not {affinity!a:.100}."
    )
