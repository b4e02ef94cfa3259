"""A pool process that has many failed tasks behind it is not much larger than a fresh one."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from hive.broker.link.client import client_of
from tests.harness import wait_until
from tests.integration.cluster import Cluster
from tests.integration.jobs import needs_file

FAILURES = 400
ROOM = 50 * 2**20


@pytest.mark.slow
def test_failed_tasks_leave_no_heap_of_garbage(tmp_path: Path) -> None:
    """Each leaves its traceback in a cycle, some 180 KB; without care a process gathers 120 MB of
    it.
    """
    cluster = Cluster(tmp_path)
    try:
        spore = cluster.spawn("one", concurrency=1)
        cluster.wait_online("one")
        [child] = psutil.Process(spore.pid).children()
        before = child.memory_info().rss
        for _ in range(FAILURES):
            cluster.app.send_task(needs_file.name, (str(tmp_path / "missing"),))
        client = client_of(cluster.app)
        wait_until(lambda: not client.redis.exists(client.key("entries")), what="all have failed")
        [still] = psutil.Process(spore.pid).children()
        assert still == child
        assert child.memory_info().rss - before < ROOM
    finally:
        cluster.close()
