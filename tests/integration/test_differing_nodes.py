"""`hive status` names nodes whose heartbeat interval, queues or versions are not those of most."""

from __future__ import annotations

import json
from pathlib import Path

import hive.testing
from tests.integration.jobs_app import JOBS
from tests.integration.test_cli import Cli

DIFFERENT = {"HIVE_HEARTBEAT_INTERVAL": "0.9"}


def test_a_node_with_another_heartbeat_and_other_queues_is_named(tmp_path: Path) -> None:
    with hive.testing.cluster(JOBS, spores=2, concurrency=1) as cluster:
        cli = Cli(cluster.environment, tmp_path)
        assert json.loads(cli("status", "--json").stdout)["differing_nodes"] == []
        cluster.start("odd", environment=DIFFERENT, options=("-Q", "films"))
        (told,) = json.loads(cli("status", "--json").stdout)["differing_nodes"]
        (line,) = (said for said in cli("status").stdout.splitlines() if "DIFFERS" in said)
    assert told["node_id"] == "odd@test"
    assert told["differs"] == {
        "queues": {"here": "films", "most": "venom:tasks:background, venom:tasks:high"},
        "heartbeat interval": {"here": "0.9 s", "most": "0.5 s"},
    }
    assert line.strip() == f"DIFFERS: {told['sentence']}"
