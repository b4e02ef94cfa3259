"""Fixtures for all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import BrokerServer


def pytest_configure() -> None:
    """A test run that is told to end stops what it started, as it does on Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A killed worker leaves its temporary directory behind; here it goes with the test run's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmp")))
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
