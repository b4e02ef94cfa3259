"""Two machines that were cloned from one image are not one node."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.chaos.tasks import long
from tests.harness import WorkerProcess, wait_until
from tests.netns.hive import MASTER, Hive, hive_on

PATIENCE = 60
NODE = "spore@clone"
CLONED = ("unshare", "--uts", "sh", "-c", 'hostname clone; exec "$@"', "sh")


def start(hive: Hive, machine: str, home: str, log: str) -> WorkerProcess:
    """`hive spore` on a machine that is called `clone`, with a HIVE_HOME of that name."""
    spore = (sys.executable, "-m", "hive", "spore", "--app", hive.application, "--name", "spore")
    told = hive.environment | {
        "REDIS_HOST": hive.machines[MASTER].address,
        "HIVE_HOME": str(hive.directory / home),
    }
    process = WorkerProcess(
        hive.directory / f"{log}.log",
        *hive.machines[machine].command(*CLONED, *spore, "--concurrency", "2"),
        env=told,
        cwd=hive.directory,
    )
    hive.programs.append(process)
    return process


def living(hive: Hive) -> set[str]:
    raws = hive.client.redis.smembers(hive.client.key("incarnations", NODE))
    return {raw.decode() for raw in raws}


def test_the_second_machine_of_one_name_does_not_start_until_the_first_is_silent(
    tmp_path: Path,
) -> None:
    with hive_on(tmp_path, "a", "b", "c") as hive:
        hive.start_nexus()
        hive.start("c", slots=1)  # by which others are heard
        start(hive, "a", "home-a", "first")
        wait_until(lambda: living(hive), PATIENCE, "the first is there")
        first = living(hive)
        second = start(hive, "b", "home-b", "second")
        said = f"A node called {NODE} is alive on another machine"
        wait_until(lambda: said in second.output(), PATIENCE, "the second says why")
        assert "Traceback" not in second.output()
        assert living(hive) == first
        result = hive.app.send_task(long.name, ("t", 0.1), requirements={"node": NODE})
        assert result.get(timeout=PATIENCE) == NODE
        with hive.machines["a"].fault("down"):
            wait_until(
                lambda: living(hive) and not living(hive) & first,
                PATIENCE,
                "the second is the node once the first is silent",
            )


def test_one_machine_may_start_its_node_anew_beside_the_old_one(tmp_path: Path) -> None:
    with hive_on(tmp_path, "a") as hive:
        hive.start_nexus()
        start(hive, "a", "home", "old")
        wait_until(lambda: len(living(hive)) == 1, PATIENCE, "the first is there")
        start(hive, "a", "home", "new")
        wait_until(lambda: len(living(hive)) == 2, PATIENCE, "the second, too")
