"""Messages that are no tasks, which programs send and take with kombu on the hive's connection."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kombu import Connection

from hive.broker.channel import incarnation as incarnations
from hive.broker.link.client import BrokerClient
from tests.harness import BrokerServer
from tests.nodes import make_settings

TRANSPORT = "hive.broker.channel.transport:Transport"


@pytest.fixture(params=[False, True], ids=["in a program", "in a worker"])
def connection(broker: BrokerServer, request: pytest.FixtureRequest) -> Iterator[Connection]:
    """The hive's connection in a program, and in a process that is a spore's worker."""
    client = BrokerClient(broker.url, make_settings())
    if request.param:
        incarnations.begin(client, "a@h", 2)
    with Connection(broker.url, transport=TRANSPORT) as connection:
        yield connection
    incarnations.end()
    client.close()


def test_what_is_rejected_comes_again(connection: Connection) -> None:
    with connection.SimpleQueue("letters") as letters:
        letters.put({"letter": "a"})
        letters.get(timeout=10).reject(requeue=True)
        again = letters.get(timeout=10)
        assert again.payload == {"letter": "a"}
        again.ack()
        assert letters.queue.get() is None


def test_what_was_not_acknowledged_comes_again_when_its_connection_closes(
    connection: Connection,
) -> None:
    with connection.clone() as first:
        letters = first.SimpleQueue("letters")
        letters.put({"letter": "a"})
        letters.put({"letter": "b"})
        letters.queue.get().ack()
        assert letters.queue.get().payload == {"letter": "b"}
    with connection.SimpleQueue("letters") as letters:
        assert letters.queue.get().payload == {"letter": "b"}
        assert letters.queue.get() is None


def test_what_a_killed_program_took_comes_again(broker: BrokerServer) -> None:
    with (
        Connection(broker.url, transport=TRANSPORT) as killed,
        Connection(broker.url, transport=TRANSPORT) as living,
    ):
        letters = killed.SimpleQueue("letters")
        letters.put({"letter": "a"})
        taken = letters.queue.get()
        with broker.client() as client:
            client.zincrby(
                "unacked_index", -killed.default_channel.visibility_timeout, taken.delivery_tag
            )
        others = living.SimpleQueue("others")
        others.consumer.consume()
        living.default_channel.qos.restore_visible(interval=1)
        assert living.SimpleQueue("letters").queue.get().payload == {"letter": "a"}
