"""A hive works as a user that may touch nothing but what a hive needs,
and keeps to its key prefix.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import redis
from celery import Celery

import hive
from hive.settings import Settings
from tests.integration.essentials import Essentials
from tests.integration.secured import AclServer


@pytest.mark.parametrize("prefix", ["", "tenant:"], ids=["", "with a key prefix"])
def test_the_documented_user_can_do_all_that_a_hive_does(tmp_path: Path, prefix: str) -> None:
    """With a prefix every pattern of the user begins with it: the server would refuse any key and
    channel that does not.
    """
    server = AclServer(tmp_path / "broker", prefix=prefix).start()
    try:
        hive = Essentials(tmp_path, {**server.environment, "ESSENTIALS_PREFIX": prefix})
        try:
            hive.start("a1", "a2")
            assert hive.client.prefix == prefix
            hive.all_work()
            hive.a_dead_nodes_task_runs_elsewhere()
        finally:
            hive.close()
        assert server.refused() == set()
        with server.client() as client:
            assert client.exists(f"{prefix}venom:counters")
            assert [
                key for key in client.scan_iter(count=1000) if not key.startswith(prefix.encode())
            ] == []
    finally:
        server.kill()


def test_what_was_accepted_is_there_when_the_broker_starts_anew(tmp_path: Path) -> None:
    """Redis replays its file as the user `default` (redis 14541): what that one may not do is
    dropped without a word, and what scripts wrote is all that Hive has accepted. Valkey does not.
    """
    binary = shutil.which("redis-server")
    server = AclServer(tmp_path / "broker", durable=True, binary=binary).start()
    try:
        login = {name.lower(): value for name, value in server.environment.items()}
        app = hive.install(Celery("acl"), Settings.load(**login))
        for _ in range(3):
            app.send_task("nobody.runs.it")
        server.kill()
        server.start()
        with server.client() as client:
            assert client.hlen("venom:entries") == 3
            assert int(client.hget("venom:counters", "accepted")) == 3
        with pytest.raises(redis.exceptions.AuthenticationError):
            redis.Redis(port=server.port).ping()
    finally:
        server.kill()
