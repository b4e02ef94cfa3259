"""These tests run by themselves (`make systemd`), since they need rights that few machines give.

One machine is booted for all of them; each test leaves it as it found it.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

collect_ignore_glob = [] if os.environ.get("HIVE_TEST_SYSTEMD") else ["test_*.py"]

if not collect_ignore_glob:
    from tests.systemd.machine import Machine, booted
    from tests.systemd.services import Services

    def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
        """The first of them also waits for the base, the wheels and the venv: minutes, once."""
        here = Path(__file__).parent
        for item in items:
            if here in item.path.parents:
                item.add_marker(pytest.mark.timeout(900))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        item: pytest.Item,
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """A test that fails shows what the machine's journal says."""
        report = yield
        machine = getattr(item, "funcargs", {}).get("machine")
        if report.failed and machine is not None:
            said = machine.done("journalctl", "--no-pager", "--lines=120").stdout
            report.sections.append(("the machine's journal", said))
        return report

    @pytest.fixture(scope="session")
    def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
        """A Debian with systemd, Redis and Hive in /opt/hive, none of whose services is installed.

        This process, and what it starts, is on that machine's network.
        """
        with booted(tmp_path_factory.mktemp("machine")) as machine, machine.inside():
            yield machine

    @pytest.fixture(scope="session")
    def hive_services(machine: Machine) -> Services:
        return Services(machine)

    @pytest.fixture
    def services(machine: Machine, hive_services: Services) -> Services:
        """Hive's services, installed and at work: a nexus and one spore of two slots."""
        hive_services.at_rest()
        return hive_services
