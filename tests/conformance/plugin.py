"""The plugin under which upstream's tests run: it puts Hive under them and knows the tests that
cannot pass.

HIVE_CONFORMANCE names the way: `stock` changes nothing; in `client` kombu's tests use Hive's
transport as a program without a worker does, in `spore` as a worker's process does; Celery's run
with `hive.install(app)` in `spore`.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.conformance.exceptions import EXCEPTIONS

WAY = os.environ["HIVE_CONFORMANCE"]
SUITE = os.environ["HIVE_CONFORMANCE_SUITE"]
FAILED = Path(os.environ["HIVE_CONFORMANCE_FAILED"])

pytest_plugins = ["celery.contrib.pytest"] if SUITE == "celery" else []


def pytest_configure() -> None:
    if WAY != "stock":
        import kombu.transport

        from hive.configuration import TRANSPORT

        kombu.transport.TRANSPORT_ALIASES["redis"] = TRANSPORT


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is on the list has to fail; `xfail_strict` tells of one that passes."""
    for item in items:
        name = item.nodeid.partition("::")[2]
        for exception in EXCEPTIONS:
            if f"{SUITE}-{WAY}" in exception.suites and any(
                fnmatch.fnmatchcase(name, test) for test in exception.tests
            ):
                item.add_marker(pytest.mark.xfail(reason=exception.reason, run=exception.run))
                break


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Name what failed, so that it can be run once more."""
    stats = session.config.pluginmanager.getplugin("terminalreporter").stats
    failed = {report.nodeid for kind in ("failed", "error") for report in stats.get(kind, ())}
    FAILED.write_text("\n".join(sorted(failed)))


if SUITE == "kombu":

    @pytest.fixture(autouse=True)
    def _empty_broker(request: pytest.FixtureRequest) -> Iterator[None]:
        """Each test alone with the broker; in a worker's process where that is asked for."""
        with redis.Redis(
            host=os.environ["REDIS_HOST"], port=int(os.environ["REDIS_PORT"])
        ) as client:
            client.flushall()
        if WAY != "spore":
            yield
            return
        from hive.broker.channel import incarnation
        from hive.broker.link.client import BrokerClient
        from hive.settings import Settings

        callspec = getattr(request.node, "callspec", None)
        options = (callspec.params.get("connection") if callspec else None) or {}
        settings = Settings.load()
        client = BrokerClient(
            settings.redis_url, settings, prefix=options.get("global_keyprefix", "")
        )
        incarnation.begin(client, "kombu@h", slots=1)
        yield
        incarnation.end()
        client.close()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> Any:
    """Celery's fixtures make an application for the session and one for each test; both become the
    hive's.
    """
    made = yield
    if WAY != "stock" and fixturedef.argname in ("celery_app", "celery_session_app"):
        fixturedef.addfinalizer(_installed(made))
    return made


def _installed(app: Any) -> Any:
    from kombu import Queue

    import hive
    from hive.broker.link.client import client_of

    # Their tests consume the queue `celery` alone, and see to it that there is no other.
    app.conf.task_default_queue = "celery"
    app.loader.override_backends = {"redis": "hive.broker.results.backend:Backend"}
    hive.install(app)
    app.conf.task_queues = [Queue("celery", routing_key="celery")]

    def close() -> None:
        app.conf.task_routes[0].close()
        client_of(app).close()

    return close
