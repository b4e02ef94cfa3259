"""The fence before a run: what was taken from a node while it lay there does not begin there; an
ordinary run asks nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, _state
from celery.app.task import Context
from celery.exceptions import Ignore

import hive
from hive.broker.channel.incarnation import boottime
from hive.spore.before_start import fenced
from tests.harness import BrokerServer, free_port
from tests.integration.channel_steps import A1, node_of
from tests.integration.test_watchdog import Cluster
from tests.nodes import make_settings


@pytest.fixture(autouse=True)
def _celery_as_it_was() -> Iterator[None]:
    default = _state.default_app
    yield
    _state.set_default_app(default)


@pytest.fixture
def cluster(broker: BrokerServer) -> Iterator[Cluster]:
    with closing(Cluster(broker)) as cluster:
        cluster.steps.attach(A1)
        cluster.steps.publish("p")
        assert cluster.steps.take(A1, 1) == ["p"]
        yield cluster


def begins(app: Any, beat: float) -> bool:
    """Whether the run of `p` that was delivered to A1 begins; `beat`: its node's last heartbeat
    then, seconds since boot.
    """
    own: list[tuple[Any, ...]] = []
    request = Context(hive={"id": "p", "node": node_of(A1), "inc": A1, "at": beat})
    try:
        fenced(lambda *given: own.append(given))(
            SimpleNamespace(app=app, request=request), "t", [1], {}
        )
    except Ignore:
        assert own == []
        return False
    assert [given[1:] for given in own] == [("t", [1], {})], "the task's own hook is called"
    return True


def test_a_run_that_is_still_its_nodes_begins_however_old_the_beat(cluster: Cluster) -> None:
    assert begins(cluster.app, 0.0)


def test_a_run_that_was_taken_away_does_not_begin(cluster: Cluster) -> None:
    cluster.steps.restore(A1)
    assert not begins(cluster.app, 0.0)


def test_a_run_that_was_done_elsewhere_meanwhile_does_not_begin(cluster: Cluster) -> None:
    cluster.steps.acknowledge(A1, "p")
    assert not begins(cluster.app, 0.0)


def test_a_run_that_only_the_broker_has_lost_begins(cluster: Cluster) -> None:
    cluster.steps.redis.flushall()
    assert begins(cluster.app, 0.0)


def test_a_fresh_beat_vouches_for_the_node(cluster: Cluster) -> None:
    cluster.steps.restore(A1)
    assert begins(cluster.app, boottime() + 3600), "the broker is not asked"


def test_a_run_begins_when_the_broker_is_away() -> None:
    app = hive.install(
        Celery("away", broker=f"redis://127.0.0.1:{free_port()}/0", set_as_current=False),
        make_settings(),
    )
    with closing(app.conf.task_routes[0]):
        assert begins(app, 0.0)


def test_a_tasks_own_hook_stays_and_is_fenced_once(cluster: Cluster) -> None:
    class Own(cluster.app.Task):  # type: ignore[name-defined,misc]
        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None: ...

    @cluster.app.task(name="mine", base=Own, shared=False)
    def mine() -> None: ...

    cluster.app.finalize()
    hook = type(cluster.app.tasks["mine"]).before_start
    assert hook.hive_fence
    assert fenced(hook) is hook
