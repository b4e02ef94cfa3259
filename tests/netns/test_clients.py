"""Programs that send and wait are cut off in the middle of it: the cluster does not notice, and
they get every answer once they are back.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.conservation import look
from tests.harness import WorkerProcess, wait_until
from tests.netns.client import LONG, PATIENCE
from tests.netns.hive import CUT, SLOTS, SPORES, Hive, hive_on, passed

CLIENTS = {"c0": "down", "c1": "deaf"}
"""A deaf one's messages arrive, and it does not learn of it."""

pytestmark = pytest.mark.timeout(400)


def start(hive: Hive, client: str) -> WorkerProcess:
    files = (str(hive.directory / "until"), str(hive.directory / f"{client}.json"))
    return hive.program(client, "-m", "tests.netns.client", client, *files)


def answers_of(hive: Hive, client: str, process: WorkerProcess) -> dict[str, Any]:
    wait_until(lambda: process.process.poll() is not None, PATIENCE, f"{client} has every answer")
    assert process.process.returncode == 0, process.output()
    return dict(json.loads((hive.directory / f"{client}.json").read_text()))


def short_ones(hive: Hive, client: str) -> int:
    return sum(label.startswith(f"{client}.") for label in hive.ledger.read().ended)


def test_clients_that_are_cut_off_get_every_answer_and_nothing_runs_twice(tmp_path: Path) -> None:
    with hive_on(tmp_path, "n1", *SPORES, *CLIENTS) as hive:
        hive.start_nexuses("n1")
        hive.start_spores(SLOTS, *SPORES)
        processes = {client: start(hive, client) for client in CLIENTS}
        for client in CLIENTS:
            wait_until(lambda c=client: short_ones(hive, c) > 20, PATIENCE, f"{client} is at work")
        with contextlib.ExitStack() as faults:
            for client, fault in CLIENTS.items():
                faults.enter_context(hive.machines[client].fault(fault))
            began = time.monotonic()
            passed(CUT)
            ended = time.monotonic()
        passed(3)
        (hive.directory / "until").touch()
        found = {name: answers_of(hive, name, process) for name, process in processes.items()}

        wait_until(lambda: not hive.left_over(), PATIENCE, "all is done")
        look(hive.client).check()
        ledger = hive.ledger.read()
        assert ledger.ran_again() == []
        assert ledger.published_twice() == [], "what was sent again is the same task"
        assert hive.declared_dead() == set()
        assert not hive.counters().get("dead")
        assert hive.alarms() == []
        for client, answers in found.items():
            assert len(answers["long"]) == LONG
            for label, node in answers["long"].items():
                [run] = ledger.of(label)
                assert run.node == node
            assert answers["numbers"]
            assert all(sent == came for sent, came in answers["numbers"])
            assert answers["complete"], "all that the client gave its job was done"
            assert answers["job"] == {str(index): index for index in range(len(answers["job"]))}
            # Longer than sending waits for a broker: they were told so, and sent again.
            unknown = [label for label, outcome in answers["refused"] if outcome == "unknown"]
            assert unknown, f"{client} was cut off while it sent"
            ran = [label for label in unknown if began < ledger.of(label)[0].started < ended]
            assert bool(ran) == (CLIENTS[client] == "deaf"), "only a deaf one's messages arrive"
