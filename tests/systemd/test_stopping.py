"""A service that is told to stop lets its tasks finish."""

from __future__ import annotations

from tests.systemd.machine import PATIENCE, wait_until
from tests.systemd.services import NEXUS, REDIS, SPORE, Services


def test_a_stop_lets_a_task_of_8_seconds_finish_before_the_broker_stops(
    services: Services,
) -> None:
    """As where a machine goes down: all are told to stop, and none waits for another by itself."""
    result = services.send("hold", "stopped", 8.0)
    wait_until(services.begun("stopped"), "it runs")
    services.systemctl("stop", "hive.target", REDIS)
    assert services.runs("stopped") == ["start", "end"]
    for unit in (NEXUS, SPORE, REDIS):
        assert services.machine.show(unit, "ActiveState") == "inactive"
    services.systemctl("start", REDIS)
    assert result.get(timeout=PATIENCE)
    services.systemctl("start", "hive.target")
    assert services.send("hold", "after", 0.0).get(timeout=PATIENCE)
    assert services.runs("stopped") == ["start", "end"]


def test_a_longer_drain_timeout_needs_no_other_edit(services: Services) -> None:
    services.at_rest(hive_drain_timeout=60)
    assert services.machine.show(SPORE, "TimeoutStopUSec") == "20s"
    result = services.send("hold", "long", 30.0)
    wait_until(services.begun("long"), "it runs")
    services.systemctl("stop", SPORE)
    assert services.runs("long") == ["start", "end"]
    assert services.machine.show(SPORE, "Result") == "success"
    assert result.get(timeout=PATIENCE)
