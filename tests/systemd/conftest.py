"""These tests run by themselves (`make systemd`), since they need rights that few machines give.

One machine is booted for all of them; each test leaves it as it found it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

collect_ignore_glob = [] if os.environ.get("HIVE_TEST_SYSTEMD") else ["test_*.py"]

if not collect_ignore_glob:
    from tests.systemd.machine import Machine, booted
    from tests.systemd.services import Services

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
    def services(hive_services: Services) -> Iterator[Services]:
        """Hive's services, installed and at work: a nexus and one spore of two slots."""
        hive_services.at_rest()
        yield hive_services
        hive_services.tell_what_went_wrong()
