"""Fixtures for all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.harness import BrokerServer, wait_until
from tests.registry import _tasks_of_a_file, _tasks_of_a_test  # noqa: F401 - fixtures for all


def pytest_configure(config: pytest.Config) -> None:
    """A test run that is told to end stops what it started, as it does on Ctrl-C."""
    # Whoever starts the tests in the background may have it ignored, and then so would all that
    # they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if config.option.numprocesses:
        signal.signal(signal.SIGTERM, interrupt_all)
        config.pluginmanager.register(Interruption())


def interrupt_all(*_: object) -> None:
    for process in psutil.Process().children():
        process.send_signal(signal.SIGINT)
    raise KeyboardInterrupt


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: one that began last would run on beside an idle core."""
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: item.path not in slow)


class Interruption:
    """Gives the processes of pytest-xdist the time to stop what they started; xdist itself gives
    them ten seconds.
    """

    def pytest_keyboard_interrupt(self) -> None:
        wait_until(
            lambda: not any(is_busy(process) for process in psutil.Process().children()),
            100,
            "all is stopped",
        )


def is_busy(process: psutil.Process) -> bool:
    """It has processes of its own."""
    try:
        return any(child.status() != psutil.STATUS_ZOMBIE for child in process.children())
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A killed worker leaves its temporary directory behind, and spores keep an id in HIVE_HOME;
    here both go with the test run's own.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmp")))
        patch.setenv("HIVE_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def broker_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerServer]:
    """One real broker for the session; tests take `broker`, which empties it first."""
    server = BrokerServer(tmp_path_factory.mktemp("broker")).start()
    yield server
    server.kill()


@pytest.fixture
def broker(broker_server: BrokerServer) -> BrokerServer:
    with broker_server.client() as client:
        client.flushall()
    return broker_server


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    return tmp_path
