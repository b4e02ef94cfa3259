"""Whatever is killed while work is fed, none of it is lost, none stuck, none run again without
need, and every answer is right.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.cluster import chaos_cluster
from tests.chaos.forms import FORM
from tests.chaos.storm import Storm


@pytest.mark.slow
@pytest.mark.timeout(FORM.timeout)
def test_a_storm_of_kills_loses_nothing(tmp_path: Path) -> None:
    with chaos_cluster(
        tmp_path,
        hive_heartbeat_interval=FORM.heartbeat,
        hive_dead_after=3,  # a machine that runs much beside may well make a beat late
        hive_max_retries=50,
        hive_publish_timeout=60,
    ) as cluster:
        cluster.start_all(FORM.spores)
        report = Storm(cluster).rage()
        print(f"\n{report}")
        assert report.lost == []
        assert report.stuck == []
        assert report.unexplained == []
        assert report.doubled == []
        assert report.wrong == []
        assert report.alarms == []
        counters = cluster.counters()
        assert counters["accepted"] == counters["done"]
        assert "dead" not in counters
        assert report.settled_after <= FORM.settled
        assert report.taken_for_dead == 0
