"""After a mixed load nothing is left in the broker that no one owns: the logic of `make soak`, for
some seconds.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.soak import Load, SoakCluster, Watch, come_to_rest


@pytest.mark.slow
def test_a_mixed_load_leaves_no_key_without_an_owner(tmp_path: Path) -> None:
    cluster = SoakCluster(tmp_path, hive_task_timeout=20.0)
    try:
        cluster.start_all(2)
        load, watch = Load(cluster, 60), Watch(cluster)
        for second in range(3):
            load.one_second(second)
        cluster.client.redis.set("venom:nobodys", "")
        come_to_rest(cluster, load)
        assert watch.without_owner() == ["venom:nobodys"]
        assert not cluster.left_over()
    except BaseException as error:
        error.add_note(cluster.logs())
        raise
    finally:
        cluster.close()
