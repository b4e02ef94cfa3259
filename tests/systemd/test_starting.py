"""How services start: not with wrong settings, and without waiting for a broker that is away."""

from __future__ import annotations

import time

import pytest

from tests.systemd.machine import PATIENCE, wait_until
from tests.systemd.services import ENV_FILE, NEXUS, REDIS, SPORE, Services

WRONG = {
    "HIVE_HEARTBEAT_INTERVAL=never": "HIVE_HEARTBEAT_INTERVAL cannot be 'never'",
    "HIVE_APP=nowhere:app": "nowhere",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_setting_fails_with_its_sentence_and_is_not_tried_again(
    services: Services, line: str
) -> None:
    machine, units = services.machine, (NEXUS, SPORE)
    services.systemctl("stop", *units)
    with machine.path(ENV_FILE).open("a") as settings:
        settings.write(f"{line}\n")
    assert machine.done("systemctl", "start", *units).returncode == 1
    time.sleep(3)  # longer than RestartSec: they would have been started again
    for unit in units:
        assert machine.show(unit, "ActiveState") == "failed"
        assert machine.show(unit, "NRestarts") == "0"
        status = machine.done("systemctl", "status", "--no-pager", "--full", unit).stdout
        assert WRONG[line] in status
        assert "Traceback" not in status


def test_a_start_returns_while_the_broker_is_away_and_says_what_it_waits_for(
    services: Services,
) -> None:
    services.systemctl("stop", REDIS, "hive.target")
    services.systemctl("start", "hive.target")
    for unit in (NEXUS, SPORE):
        assert services.machine.show(unit, "ActiveState") == "active"
        wait_until(lambda unit=unit: "waits for its broker" in services.status(unit), unit)
        assert "127.0.0.1:6379" in services.status(unit)
        status = services.systemctl("status", "--no-pager", unit)
        assert services.status(unit) in status
    services.systemctl("start", REDIS)
    assert services.send("hold", "broker-came", 0.0).get(timeout=PATIENCE).startswith("spore-1@")
    for unit in (NEXUS, SPORE):
        wait_until(lambda unit=unit: services.works(unit), unit)
