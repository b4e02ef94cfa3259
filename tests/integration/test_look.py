"""The watchdog's look: what of many nodes it names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from hive.broker.link.client import BrokerClient
from hive.foreman.watch.look import look
from tests.harness import BrokerServer
from tests.integration.channel_steps import A1, B1, Steps
from tests.nodes import make_settings

SILENCE = 3000


@pytest.fixture
def steps(broker: BrokerServer) -> Iterator[Steps]:
    with closing(BrokerClient(broker.url, make_settings(hive_heartbeat_interval=1.0))) as client:
        yield Steps(client)


def test_it_names_the_silent_and_the_newest_beat_of_all(steps: Steps) -> None:
    assert look(steps.client).newest_beat == 0
    for incarnation in (A1, B1):
        steps.attach(incarnation)
    newest = steps.redis.zscore("venom:beats", B1)
    steps.redis.zadd("venom:beats", {A1: newest - SILENCE - 1})
    seen = look(steps.client)
    assert (seen.silent, seen.newest_beat) == ((A1,), newest)
    assert newest <= seen.now <= steps.now()
