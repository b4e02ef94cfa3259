"""What the services may not do, while they do all that they are for."""

from __future__ import annotations

import re

from tests.systemd.machine import PATIENCE, Machine, wait_until
from tests.systemd.services import FLOWER, NEXUS, SPORE, UNITS, Services

MOST = 2.0
TEXT = "Hive knows its machines. It sends each task to the best one. Cats sleep a lot."


def exposure(machine: Machine, unit: str) -> float:
    """How much of the system a running service could harm: 10 is all of it."""
    told = machine.run("systemd-analyze", "security", "--no-pager", unit)
    found = re.search(r"Overall exposure level for \S+: (\S+)", told)
    assert found is not None, told
    return float(found[1])


def all_at_work(services: Services) -> None:
    """Skills, hive.map and the probe of GPUs."""
    services.machine.path("/srv/hive/bad.py").write_text("import os\nos.system(input())\n")
    assert "Cats" in str(services.hive("run", "summarize", TEXT, "sentences=3"))
    findings = services.hive("run", "scan_path", "/srv/hive")
    assert "os.system" in str(findings) or "B605" in str(findings), findings
    mapped = services.hive("map", "summarize", *[TEXT] * 20, "--set", "sentences=1")
    assert len(mapped["outcomes"]) == 20
    assert {outcome["status"] for outcome in mapped["outcomes"]} == {"ok"}
    node = services.node("spore-1")
    assert node["gpu_available"] is False
    assert node["memory_mb"] > 0


def test_a_service_at_work_is_exposed_at_most_2(services: Services) -> None:
    services.systemctl("start", FLOWER)
    all_at_work(services)
    wait_until(services.shows_flower, "Flower's page is there")
    for unit in (NEXUS, SPORE, FLOWER):
        assert exposure(services.machine, unit) <= MOST


def test_a_node_with_a_gpu_sees_its_devices_and_opens_no_others(services: Services) -> None:
    """There is no GPU here: what stands for it has the number of NVIDIA's, and no driver."""
    machine = services.machine

    def opened(path: str) -> object:
        return services.send("opened", path).get(timeout=PATIENCE)

    machine.run("mknod", "-m", "666", "/dev/nvidiactl", "c", "195", "255")
    machine.run("mknod", "-m", "666", "/dev/another", "c", "10", "229")  # that of fuse
    try:
        assert opened("/dev/nvidiactl") == opened("/dev/another") == "ENOENT"
        done = services.deploy()
        assert done["written"] == [f"{UNITS}/hive-spore@.service.d/gpu.conf"]
        services.systemctl("restart", SPORE)
        services.has_drop_in = True
        wait_until(lambda: services.works(SPORE), "it works")
        assert opened("/dev/nvidiactl") != "ENOENT"
        assert opened("/dev/another") == "EPERM"
        all_at_work(services)
        assert exposure(machine, SPORE) <= MOST
    finally:
        machine.run("rm", "/dev/nvidiactl", "/dev/another")


def test_limits_of_a_unit_are_those_of_its_node_and_one_task_beyond_them_is_one_death(
    services: Services,
) -> None:
    services.drop_in(SPORE, "CPUQuota=150%\nMemoryMax=500M\nMemorySwapMax=0")
    wait_until(lambda: services.node("spore-1").get("memory_mb") == 500, "its memory")
    assert services.node("spore-1")["cpus"] == 1.5
    before = services.machine.main_pid(SPORE)
    assert services.send("eat", "eater", 900).get(timeout=PATIENCE) == 2
    assert services.runs("eater") == ["start", "start", "end"]
    assert services.machine.main_pid(SPORE) == before
