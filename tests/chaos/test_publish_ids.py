"""A publish id is known for as long as the pages say, by the clock."""

from __future__ import annotations

import time

import pytest

from hive.broker.link.client import BrokerClient
from tests.chaos.forms import FORM, LONG
from tests.harness import BrokerServer
from tests.integration.channel_steps import A1, Steps
from tests.nodes import make_settings

KNOWN = 4 * 60.0 if FORM is LONG else 1.0


@pytest.mark.timeout(KNOWN + 60)
def test_a_publish_id_is_known_for_four_minutes_after_its_end(broker: BrokerServer) -> None:
    client = BrokerClient(broker.url, make_settings())
    channel = Steps(client)
    try:
        channel.attach(A1)
        channel.publish("p", task_id="t")
        channel.take(A1, 1)
        ends = time.monotonic() + KNOWN
        channel.acknowledge(A1, "p")
        # Nothing that is finished meanwhile makes the time longer.
        while time.monotonic() < ends:
            assert channel.publish("p", task_id="t") == [0]
            time.sleep(0.5)
        assert channel.counters()["accepted"] == 1
    finally:
        client.close()
