"""A task that kills its process runs HIVE_MAX_RETRIES + 1 times, then it is a dead letter; all
others are none the worse.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from hive.broker.ledger.dead_letters import DeadLetters
from tests.chaos.cluster import chaos_cluster
from tests.chaos.forms import FORM
from tests.chaos.tasks import poison, work
from tests.harness import wait_until

RETRIES = 3


@pytest.mark.slow
@pytest.mark.timeout(FORM.timeout)
def test_a_poisonous_task_becomes_a_dead_letter_beside_good_ones_that_all_run_once(
    tmp_path: Path,
) -> None:
    with chaos_cluster(tmp_path, hive_max_retries=RETRIES) as cluster:
        cluster.start_all(2)
        for index in range(FORM.good_tasks):
            if index == FORM.good_tasks // 10:
                poisonous = cluster.app.send_task(poison.name, ("poison",))
            cluster.app.send_task(work.name, (f"t{index}", 0.0))
        good = {f"t{index}" for index in range(FORM.good_tasks)}
        wait_until(
            lambda: cluster.ledger.read().ended == good, FORM.patience, "all good tasks have run"
        )
        wait_until(
            lambda: cluster.counters().get("dead"),
            FORM.patience,
            "the poisonous one is a dead letter",
        )
        wait_until(
            lambda: cluster.left_over() == ["dead", "dead:order", "entries", "ids"],
            FORM.patience,
            "nothing but the dead letter is left",
        )
        ledger = cluster.ledger.read()
        assert len(ledger.of("poison")) == RETRIES + 1
        assert {run.label for run in ledger.ran_again()} == {"poison"}
        [letter] = DeadLetters(cluster.app).page(10)
        assert (letter.task_id, letter.deaths) == (poisonous.id, RETRIES + 1)
        assert "its process died" in letter.reason
        assert [death.node for death in letter.history] == [run.node for run in ledger.of("poison")]
        counters = cluster.counters()
        assert (counters["accepted"], counters["done"], counters["dead"]) == (
            FORM.good_tasks + 1,
            FORM.good_tasks,
            1,
        )
        print(
            f"\npoison   ran {RETRIES + 1} times, then: {letter.reason}; good tasks {len(good)} of "
            f"{FORM.good_tasks}, each once"
        )
