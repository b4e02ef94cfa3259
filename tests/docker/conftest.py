"""These tests run by themselves (`make docker`), since they need root and an engine.

`engine` is a Docker engine of the test run's own, empty but for the images: `image` is Hive's,
`shop_image` the one of an application on top of it, and Debian is there under the names of the
Dockerfile's base and of the compose file's Redis. `projects` makes a hive from the compose files,
and removes it at the end of its test.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docker import images
from tests.docker.engine import Engine, engine_running
from tests.docker.project import Project

collect_ignore_glob = [] if os.environ.get("HIVE_TEST_DOCKER") else ["test_*.py"]

Projects = Callable[..., Project]
_there: list[Project] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What the containers said goes with a failure."""
    report = yield
    if report.failed:
        report.sections += [(f"logs of {project.name}", project.logs()) for project in _there]
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first of them also waits for the base, the wheels and the image, which take minutes."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(1200))


@pytest.fixture(scope="session")
def bare_engine() -> Iterator[Engine]:
    """An engine with Debian and nothing of Hive's but what its image is made on."""
    with engine_running() as engine:
        images.load_layers(engine)
        yield engine


@pytest.fixture(scope="session")
def engine(bare_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """An engine that has the images, which were built without a network."""
    images.build(bare_engine, tmp_path_factory.mktemp("image"))
    return bare_engine


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    """The name of Hive's image, built as the Dockerfile says."""
    return images.IMAGE


@pytest.fixture(scope="session")
def shop_image(engine: Engine) -> str:
    """The name of an image with the application `shop:app`, made FROM Hive's."""
    return images.SHOP


@contextlib.contextmanager
def _projects(engine: Engine, directory: Path) -> Iterator[Projects]:
    made: list[Project] = []

    def make(tool: str = "2", **options: Any) -> Project:
        project = Project(engine, directory / f"project{len(made)}", tool, **options)
        made.append(project)
        _there.append(project)
        return project

    try:
        yield make
    finally:
        for project in made:
            _there.remove(project)
            project.remove()


@pytest.fixture
def projects(engine: Engine, tmp_path: Path) -> Iterator[Projects]:
    """Makes a Project; all that it started is gone at the end of the test."""
    with _projects(engine, tmp_path) as make:
        yield make


@pytest.fixture(scope="module")
def module_projects(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Projects]:
    """The same for what all tests of a file share."""
    with _projects(engine, tmp_path_factory.mktemp("projects")) as make:
        yield make
