"""The router: queue, requirements, affinity and candidates of a task, asked the way Celery asks."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from celery.exceptions import CDeprecationWarning, QueueNotFound
from kombu import Exchange, Queue
from kombu.common import Broadcast

from hive import skills
from hive.broker.link.client import BrokerClient
from hive.broker.nodes.requirements import Requirements
from hive.broker.nodes.table import Node
from hive.errors import InvalidInputError, NoEligibleNodeError
from hive.foreman.policy import LoadScore
from hive.foreman.ranking import Rankings
from hive.foreman.router import Router
from tests.nodes import BACKGROUND, HIGH, make_node, make_settings, table

DELIVERED = {
    "id": "p1",
    "created": 1.0,
    "due": 2.0,
    "node": "a@h",
    "inc": "a@h/0",
    "at": 3.0,
    "deaths": 0,
    "reserved": 4.0,
}


def make_app(*nodes: Node, **conf: Any) -> Celery:
    """An application whose router knows these nodes, and which needs no broker."""
    app = Celery("routed", set_as_current=False, broker="memory://", backend="cache+memory://")
    app.conf.update({"task_default_queue": BACKGROUND} | conf)
    router = Router(app, BrokerClient("redis://127.0.0.1:1/0", make_settings()), LoadScore())
    router._snapshot = Rankings(table(nodes), LoadScore())  # type: ignore[assignment]
    app.conf.task_routes = [router]
    return app


def route(
    app: Celery, options: dict[str, Any] | None = None, name: str = "tasks.add"
) -> dict[str, Any]:
    """What Celery makes of the router's answer: the options with which the task is published."""
    routed = app.amqp.router.route({} if options is None else options, name, (1,), {"x": 2}, None)
    return {**routed, "queue": routed["queue"].name} if "queue" in routed else routed


def test_a_plain_task_goes_to_the_default_queue_with_candidates() -> None:
    options: dict[str, Any] = {"priority": 3}
    routed = route(make_app(make_node("a@h")), options)
    assert routed == {
        "queue": BACKGROUND,
        "priority": 3,
        "hive_candidates": [["a@h", 2, 0.0]],
        "hive_tasks_weight": 0.3,
    }


def test_without_a_node_there_are_no_candidates() -> None:
    assert route(make_app()) == {"queue": BACKGROUND}


def test_a_queue_that_is_not_configured_is_named_by_celery() -> None:
    with pytest.raises(QueueNotFound):
        route(
            make_app(
                make_node(),
                task_queues=[Queue(BACKGROUND)],
                task_create_missing_queues=False,
                task_routes={"*": "nowhere"},
            )
        )


def test_routing_changes_no_options_when_nothing_is_wished() -> None:
    """Celery's fallback for chords without native support routes a dict that it then sends as a
    task's arguments.
    """
    options: dict[str, Any] = {"result": [], "headers": {"trace": 1}}
    route(make_app(make_node()), options, "celery.chord_unlock")
    assert options == {"result": [], "headers": {"trace": 1}}


@pytest.mark.parametrize(
    "queue", [HIGH, Queue(HIGH), Queue(HIGH, Exchange(HIGH, type="direct"), routing_key=HIGH)]
)
def test_a_callers_queue_wins(queue: Any) -> None:
    app = make_app(
        make_node("a@h", queues=[HIGH]),
        task_queues=[Queue(HIGH), Queue(BACKGROUND)],
        task_routes={"tasks.add": BACKGROUND},
    )
    assert route(app, {"queue": queue})["queue"] == HIGH
    assert route(app, {"queue": queue})["hive_candidates"] == [["a@h", 2, 0.0]]
    assert "hive_candidates" not in route(app)


def test_a_tasks_own_queue_wins() -> None:
    app = make_app(make_node("a@h", queues=["video"]))

    @app.task(name="tasks.cut", queue="video")
    def cut() -> None: ...

    with pytest.warns(CDeprecationWarning, match="The 'queue' task attribute is deprecated"):
        sent = sent_by(app, cut.apply_async)
    assert sent["queue"].name == "video"
    assert sent["hive_candidates"] == [["a@h", 2, 0.0]]


@pytest.mark.parametrize(
    "routes",
    [
        {"tasks.*": {"queue": "video", "priority": 7}},
        ([("tasks.add", {"queue": Queue("video"), "priority": 7})],),
        ({"other": "x"}, lambda *_, **__: {"queue": "video", "priority": 7}),
    ],
)
def test_the_applications_own_routes_keep_their_queue_and_priority(routes: Any) -> None:
    app = make_app(make_node("a@h", queues=["video"]), make_node("b@h"), task_routes=routes)
    routed = route(app)
    assert (routed["queue"], routed["priority"]) == ("video", 7)
    assert routed["hive_candidates"] == [["a@h", 2, 0.0]]
    assert route(app, {"priority": 2})["priority"] == 2


@pytest.mark.parametrize("own", ["video", lambda *_, **__: "video"])
def test_an_own_route_may_be_just_a_queue(own: Any) -> None:
    routes = own if callable(own) else {"tasks.add": own}
    assert route(make_app(task_routes=routes))["queue"] == "video"


def test_an_own_route_without_a_queue_gets_the_default_one() -> None:
    routed = route(make_app(make_node(), task_routes={"tasks.add": {"priority": 1}}))
    assert (routed["queue"], routed["priority"]) == (BACKGROUND, 1)


def test_what_goes_through_an_exchange_has_no_candidates() -> None:
    by_route = make_app(
        make_node(), task_routes={"tasks.add": {"exchange": "media", "routing_key": "media.video"}}
    )
    assert route(by_route) == {"exchange": "media", "routing_key": "media.video"}
    assert "hive_candidates" not in route(
        make_app(make_node()), {"exchange": "media", "routing_key": "x"}
    )
    topic = Queue("t", Exchange("t", type="topic"), routing_key="t.#")
    assert "hive_candidates" not in route(
        make_app(make_node(queues=["t"]), task_queues=[topic]), {"queue": "t"}
    )
    fan = make_app(
        make_node(queues=["fan"]), task_queues=[Broadcast("fan")], task_routes={"tasks.add": "fan"}
    )
    assert "hive_candidates" not in route(fan)


def test_requirements_travel_in_a_header_and_only_there() -> None:
    headers = {"trace": "1"}
    app = make_app(make_node("gpu@h", gpu=True), make_node("plain@h"))
    routed = route(app, {"requirements": {"gpu": True}, "headers": headers})
    requirements = Requirements(gpu=True)
    assert routed["headers"] == {
        "trace": "1",
        "hive": {"req": {"gpu": True}, "home": requirements.home},
    }
    assert routed["hive_candidates"] == [["gpu@h", 2, 0.0]]
    assert "requirements" not in routed
    assert headers == {"trace": "1"}


def test_a_required_node_is_the_home_and_the_only_candidate() -> None:
    routed = route(make_app(make_node("a@h"), make_node("b@h")), {"requirements": {"node": "b@h"}})
    assert routed["headers"]["hive"]["home"] == "venom:pin:b@h"
    assert routed["hive_candidates"] == [["b@h", 2, 0.0]]


def test_what_only_an_offline_node_can_satisfy_waits_at_its_home() -> None:
    routed = route(
        make_app(make_node("gpu@h", gpu=True, online=False), make_node("a@h")),
        {"requirements": {"gpu": True}},
    )
    assert "hive_candidates" not in routed
    assert routed["headers"]["hive"]["home"].startswith("venom:req:")


def test_what_no_known_node_can_satisfy_is_refused_at_once() -> None:
    with pytest.raises(NoEligibleNodeError, match="a GPU"):
        route(make_app(make_node()), {"requirements": {"gpu": True}})


@pytest.mark.parametrize(
    "options",
    [{"requirements": {"gpus": 1}}, {"requirements": "gpu"}, {"affinity": ""}, {"affinity": 7}],
)
def test_wrong_wishes_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(options))):
        route(make_app(make_node()), options)


@pytest.mark.parametrize(
    "options", [{"requirements": None, "affinity": None}, {"requirements": {}}]
)
def test_empty_wishes_are_none(options: dict[str, Any]) -> None:
    assert route(make_app(), options) == {"queue": BACKGROUND}


def test_affinity_prefers_one_node() -> None:
    app = make_app(make_node("a@h"), make_node("b@h"))
    firsts = [route(app, {"affinity": "model-7"}) for _ in range(5)]
    assert {routed["hive_candidates"][0][0] for routed in firsts} == {
        firsts[0]["hive_candidates"][0][0]
    }
    assert firsts[0]["hive_candidates"][0][2] == -1
    assert firsts[0]["headers"] == {"hive": {"aff": "model-7"}}


def test_a_retry_keeps_its_wishes_and_nothing_else_of_its_delivery() -> None:
    home = Requirements(gpu=True).home
    headers = {"hive": {**DELIVERED, "home": home, "req": {"gpu": True}, "aff": "k"}, "trace": "1"}
    app = make_app(make_node("gpu@h", gpu=True), make_node("plain@h"))
    routed = route(app, {"headers": headers})
    assert routed["headers"] == {
        "hive": {"home": home, "req": {"gpu": True}, "aff": "k"},
        "trace": "1",
    }
    assert [candidate[0] for candidate in routed["hive_candidates"]] == ["gpu@h"]
    assert headers["hive"]["inc"] == "a@h/0"
    assert route(app, {"headers": {"hive": dict(DELIVERED)}})["headers"] == {"hive": {}}


def test_what_retry_is_told_wins_over_its_delivery() -> None:
    headers = {"hive": {**DELIVERED, "home": "venom:pin:a@h", "req": {"node": "a@h"}}}
    routed = route(
        make_app(make_node("a@h"), make_node("b@h")),
        {"headers": headers, "requirements": {"node": "b@h"}},
    )
    assert routed["headers"]["hive"] == {"req": {"node": "b@h"}, "home": "venom:pin:b@h"}


def test_a_members_own_requirements_win_over_the_groups() -> None:
    app = make_app(make_node("a@h"), make_node("b@h"))
    routed = route(
        app, {"headers": {"hive": {"req": {"node": "a@h"}}}, "requirements": {"node": "b@h"}}
    )
    assert routed["headers"]["hive"] == {"req": {"node": "a@h"}, "home": "venom:pin:a@h"}


def test_a_publish_id_given_by_the_caller_is_kept() -> None:
    headers = {"hive": {"id": "p1", "keep": True}}
    routed = route(make_app(make_node()), {"headers": headers, "affinity": "k"})
    assert routed["headers"] == {"hive": {"id": "p1", "keep": True, "aff": "k"}}


def test_an_own_route_may_require_and_the_caller_wins() -> None:
    routes = {"tasks.add": {"requirements": {"node": "a@h"}, "affinity": "k"}}
    app = make_app(make_node("a@h"), make_node("b@h"), task_routes=routes)
    assert route(app)["headers"]["hive"] == {
        "req": {"node": "a@h"},
        "home": "venom:pin:a@h",
        "aff": "k",
    }
    assert route(app, {"requirements": {"node": "b@h"}})["headers"]["hive"]["req"] == {
        "node": "b@h"
    }
    assert "requirements" not in route(app)


def test_a_stamp_of_the_same_name_is_the_applications() -> None:
    routed = route(
        make_app(make_node()), {"stamped_headers": ["requirements"], "requirements": "ISO 9001"}
    )
    assert routed["requirements"] == "ISO 9001"
    assert "headers" not in routed


def test_a_skill_placed_in_the_shared_queue_has_no_candidates() -> None:
    app = make_app(make_node())

    @skills.skill("Be quick.", placement="shared")
    def quick() -> None: ...

    assert route(app, name=quick.name) == {"queue": BACKGROUND}
    assert "hive_candidates" in route(app, name="tasks.slow")
    with pytest.raises(NoEligibleNodeError):
        route(app, {"requirements": {"gpu": True}}, quick.name)


@pytest.mark.parametrize(
    "name",
    [
        "celery.backend_cleanup",
        "celery.chord_unlock",
        "celery.map",
        "celery.chunks",
        "celery.accumulate",
    ],
)
def test_celerys_own_tasks_are_routed_like_others(name: str) -> None:
    routed = route(make_app(make_node("a@h")), {}, name)
    assert routed["hive_candidates"] == [["a@h", 2, 0.0]]


def test_an_eager_task_is_never_routed() -> None:
    app = make_app(make_node(), task_always_eager=True)

    @app.task(name="tasks.add")
    def add(x: int, y: int) -> int:
        return x + y

    assert add.apply_async((1, 2), requirements={"gpu": True}).get() == 3


def test_wishes_survive_canvas() -> None:
    app = make_app(make_node("a@h"), make_node("gpu@h", gpu=True))

    @app.task(name="tasks.add")
    def add(x: int, y: int) -> int:
        return x + y

    sent = sent_by(app, add.s(1, 2).set(requirements={"gpu": True}).apply_async)
    assert sent["headers"]["hive"]["req"] == {"gpu": True}
    assert [candidate[0] for candidate in sent["hive_candidates"]] == ["gpu@h"]


def sent_by(app: Celery, send: Any) -> dict[str, Any]:
    """The options with which Celery would publish what `send` sends."""
    sent: list[dict[str, Any]] = []
    app.amqp.__dict__["send_task_message"] = lambda *_, **options: sent.append(options)
    send()
    return sent[0]


def test_a_retry_takes_requirements_of_a_later_release_along_as_they_came() -> None:
    demands, home = {"quantum": True}, "venom:req:0123456789abcdef"
    delivered = {"hive": {**DELIVERED, "req": demands, "home": home}}
    routed = route(make_app(make_node("a@h")), {"headers": delivered})
    assert routed["headers"]["hive"] == {"req": demands, "home": home}
    assert "hive_candidates" not in routed
    with pytest.raises(InvalidInputError, match="quantum"):
        route(make_app(make_node("a@h")), {"requirements": demands})
