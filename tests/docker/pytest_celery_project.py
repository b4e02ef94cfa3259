"""The tests of a project that uses pytest-celery, with Hive in its workers.

`test_pytest_celery.py` runs them, in a pytest of their own. All but the tests themselves is what
such a project writes down once: a worker is Hive's image, its broker the Redis of the compose file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from celery import Celery, chord
from celery.result import AsyncResult
from pytest_celery import (
    CeleryTestSetup,
    CeleryWorkerContainer,
    RedisContainer,
    RedisTestBroker,
)
from pytest_docker_tools import container, fxtr

import hive
from hive.broker.link.client import client_of
from hive.settings import Settings
from tests.harness import wait_until

REDIS, IMAGE = os.environ["PYTEST_CELERY_REDIS"], os.environ["PYTEST_CELERY_IMAGE"]
PATIENCE = 120


class Redis(RedisContainer):
    """Reached at its own address, where pytest-celery asks for a published port."""

    @property
    def host_url(self) -> str:
        return f"redis://{self.ips.primary}:{self.port}/{self.vhost}"

    @property
    def port(self) -> int:
        return 6379


class Spore(CeleryWorkerContainer):
    """Finds its broker as a spore does."""

    @classmethod
    def initial_env(cls, celery_worker_cluster_config: dict, initial: dict | None = None) -> dict:
        [url] = celery_worker_cluster_config["celery_broker_cluster_config"]["urls"]
        return {"REDIS_HOST": urlsplit(url).hostname, "HIVE_CONCURRENCY": "2", **(initial or {})}


class Setup(CeleryTestSetup):
    """The tests' own application has Hive, too."""

    @classmethod
    def update_app_config(cls, app: Celery) -> None:
        url = urlsplit(app.conf.broker_url)
        hive.install(app, Settings.load(redis_host=url.hostname, redis_port=url.port))


default_redis_broker = container(
    image=REDIS,
    command=fxtr("default_redis_broker_command"),
    network="{default_pytest_celery_network.name}",
    wrapper_class=Redis,
    timeout=PATIENCE,
)
default_worker_container = container(
    image=IMAGE,
    command=["spore", "--app", "app:app"],
    environment=fxtr("default_worker_env"),
    network="{default_pytest_celery_network.name}",
    volumes={"{default_worker_volume.name}": {"bind": "/app", "mode": "ro"}},
    wrapper_class=Spore,
    timeout=PATIENCE,
)


@pytest.fixture
def default_worker_container_cls() -> type[CeleryWorkerContainer]:
    return Spore


@pytest.fixture
def default_worker_initial_content() -> dict[str, bytes]:
    return {"app.py": Path(__file__).with_name("pytest_celery_app.py").read_bytes()}


@pytest.fixture
def celery_broker(celery_redis_broker: RedisTestBroker) -> RedisTestBroker:
    """Redis alone, where pytest-celery tries RabbitMQ, too."""
    return celery_redis_broker


@pytest.fixture
def celery_backend_cluster() -> None:
    """Hive keeps results in the broker."""


@pytest.fixture
def celery_setup_cls() -> type[CeleryTestSetup]:
    return Setup


@pytest.fixture
def celery_setup_app(celery_setup_app: Celery) -> Iterator[Celery]:
    yield celery_setup_app
    for router in celery_setup_app.conf.task_routes:
        router.close()
    celery_setup_app.backend.result_consumer.stop()
    client_of(celery_setup_app).close()


def send_chord(app: Celery, seconds: float) -> AsyncResult:
    members = (app.signature("double", (number, seconds)) for number in range(10))
    return chord(members, app=app)(app.signature("add_up"))


def test_a_chord_ends(celery_setup: CeleryTestSetup) -> None:
    assert send_chord(celery_setup.app, 0.0).get(timeout=PATIENCE) == 90


def test_a_chord_ends_whose_only_worker_is_killed_in_the_middle(
    celery_setup: CeleryTestSetup,
) -> None:
    answer = send_chord(celery_setup.app, 1.0)
    client = client_of(celery_setup.app)
    done = lambda: int(client.redis.hget(client.key("counters"), "done") or 0)
    wait_until(lambda: done() >= 2, PATIENCE, "some members are done")
    celery_setup.worker.kill()
    assert not answer.ready()
    celery_setup.worker.restart()
    assert answer.get(timeout=PATIENCE) == 90
    wait_until(lambda: done() == 11, PATIENCE, "ten members and the body are done, each once")
