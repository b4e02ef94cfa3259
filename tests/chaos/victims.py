"""A process that has everything imported and forks a victim for each order that it reads: it does
one operation, and dies in it.

An order is a line of JSON: operation, at, after. The answer is one too: died, and the commands that
    the victim sent.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Generator
from typing import Any

from celery import Celery, group
from kombu import Message
from redis.exceptions import ResponseError

import hive
from hive.broker.channel import incarnation as incarnations
from hive.broker.channel import steps, transport
from hive.broker.ledger.dead_letters import DeadLetters
from hive.broker.ledger.telling import tell
from hive.broker.link.client import client_of
from hive.broker.link.priorities import queue_lists
from hive.foreman.watch.watchdog import Watchdog
from hive.settings import Settings
from tests.chaos.dying import Fault, scripts, watch
from tests.nodes import BACKGROUND

NODE, DEAD_NODE = "victim@h", "dead@h"
TASKS = 3

app = hive.install(Celery("victims"), Settings.load(hive_max_retries=1))
client = client_of(app)


@app.task(name="work")
def work(number: int) -> int:
    return number


class Node:
    """A spore's consumer in this process, without the worker around it."""

    def __init__(self, slots: int = TASKS) -> None:
        self.incarnation = incarnations.begin(client, NODE, slots)
        self.messages: list[Message] = []
        self.connection = app.connection_for_read()
        consumer = self.connection.Consumer(
            [app.amqp.queues[BACKGROUND]], on_message=self.messages.append
        )
        consumer.consume()

    def drain(self, count: int) -> None:
        """Take messages until `count` have been handed over."""
        while len(self.messages) < count:
            self.drain_once()

    def drain_once(self) -> None:
        with contextlib.suppress(TimeoutError):
            self.connection.drain_events(timeout=0.2)


def send(count: int = TASKS, **options: Any) -> None:
    for number in range(count):
        work.apply_async((number,), **options)


def holding(count: int = TASKS) -> Node:
    """A node that holds that many tasks, and has nothing left to ask for."""
    send(count)
    node = Node(count)
    node.drain(count)
    return node


def placed() -> Node:
    """A node whose own list holds tasks, pinned to it."""
    send()
    node = Node()
    node.incarnation.attach()
    for raw in client.redis.hkeys(client.key("ids")):
        assert run(steps.ASSIGN, raw, NODE, NODE)[0] == b"moved"
    return node


def run(script: Any, *args: Any) -> Any:
    return client.run(script, (), (client.prefix, *args))


def bury(count: int = TASKS) -> list[str]:
    """Dead letters, whose end is not told yet; their publish ids."""
    node = holding(count)
    for _ in range(2):
        node.incarnation.give_back(
            [message.delivery_tag for message in node.messages], deaths=2, reason="died"
        )
    return DeadLetters(app).publish_ids()


Operation = Callable[[], Generator[None, None, None]]
OPERATIONS: dict[str, Operation] = {}


def operation(function: Operation) -> Operation:
    """What is before the yield is prepared, what comes after it is the operation."""
    OPERATIONS[function.__name__] = function
    return function


@operation
def publish() -> Generator[None, None, None]:
    work.apply_async((-1,)).forget()  # the connection is there
    yield
    work.apply_async((0,))


@operation
def publish_a_group() -> Generator[None, None, None]:
    yield
    group(work.s(number) for number in range(TASKS)).apply_async()


@operation
def publish_for_later() -> Generator[None, None, None]:
    yield
    send(countdown=3600)


@operation
def take_what_waits() -> Generator[None, None, None]:
    send()
    yield
    Node().drain(TASKS)


@operation
def take_what_a_plain_producer_sent() -> Generator[None, None, None]:
    for tag in range(TASKS):
        message = {
            "body": "W10=",
            "headers": {"id": f"t{tag}"},
            "properties": {"delivery_tag": f"plain{tag}"},
        }
        client.redis.lpush(queue_lists(BACKGROUND)[0], json.dumps(message))
    yield
    Node().drain(TASKS)


@operation
def take_what_is_due() -> Generator[None, None, None]:
    send(countdown=3600)
    for publish_id in client.redis.zrange(client.key("delayed"), 0, -1):
        client.redis.zadd(client.key("delayed"), {publish_id: 1})
    yield
    Node().drain(TASKS)


@operation
def take_what_is_placed() -> Generator[None, None, None]:
    node = placed()
    yield
    node.drain(TASKS)


@operation
def acknowledge_while_taking_more() -> Generator[None, None, None]:
    node = holding()
    send()
    yield
    for message in node.messages[:TASKS]:
        message.ack()
    node.drain(2 * TASKS)


@operation
def acknowledge() -> Generator[None, None, None]:
    node = holding()
    yield
    for message in node.messages:
        message.ack()
        node.incarnation.flush()


@operation
def reject() -> Generator[None, None, None]:
    node = holding()
    yield
    for message in node.messages:
        message.reject()
        node.incarnation.flush()


@operation
def reject_and_requeue() -> Generator[None, None, None]:
    node = holding()
    yield
    for message in node.messages:
        message.reject(requeue=True)


@operation
def give_back_what_was_not_started() -> Generator[None, None, None]:
    node = holding()
    yield
    node.incarnation.give_back(
        [message.delivery_tag for message in node.messages], deaths=0, reason="its node drains"
    )


@operation
def postpone() -> Generator[None, None, None]:
    node = holding()
    yield
    first, *others = [message.delivery_tag for message in node.messages]
    node.incarnation.postpone(
        {first: incarnations.Wait("", 9_000)}
        | {tag: incarnations.Wait("rare", 0) for tag in others}
    )


@operation
def call_up() -> Generator[None, None, None]:
    node = holding()
    node.incarnation.postpone(
        {message.delivery_tag: incarnations.Wait("rare", 0) for message in node.messages}
    )
    yield
    node.incarnation.call_up("rare", 2, [BACKGROUND])


@operation
def give_back_for_the_last_time() -> Generator[None, None, None]:
    node = holding()
    yield
    node.incarnation.give_back(
        [message.delivery_tag for message in node.messages], deaths=2, reason="its process died"
    )


@operation
def reconnect() -> Generator[None, None, None]:
    node = holding()
    node.messages.pop().ack()
    # One of them is what the lost connection had reserved, and this process never heard of.
    del node.incarnation._held[node.messages[0].delivery_tag]
    node.connection.close()
    send(1)
    yield
    again = app.connection_for_read()
    again.Consumer([app.amqp.queues[BACKGROUND]], on_message=node.messages.append).consume()
    node.connection = again
    node.drain(TASKS)


@operation
def start_with_early_acknowledgement() -> Generator[None, None, None]:
    node = holding()
    yield
    for message in node.messages:
        assert node.incarnation.mark_early(message.delivery_tag)


@operation
def leave() -> Generator[None, None, None]:
    node = holding()
    node.messages[0].ack()
    yield
    node.incarnation.leave()


@operation
def drain_a_node() -> Generator[None, None, None]:
    placed()
    yield
    run(steps.RELEASE, NODE)


@operation
def assign() -> Generator[None, None, None]:
    send()
    Node().incarnation.attach()
    yield
    for raw in sorted(client.redis.hkeys(client.key("ids"))):
        run(steps.ASSIGN, raw, NODE, NODE)


@operation
def restore_the_dead() -> Generator[None, None, None]:
    """The watchdog's round: of two silent nodes one holds tasks that have died for the last time,
    and one has what was placed on it; and at a living one something waits for too long.
    """
    send(2 * TASKS)
    for number, node in enumerate((DEAD_NODE, "silent@h")):
        incarnation = f"{node}/1"
        run(steps.ATTACH, node, incarnation, 1, "1", "", 1_500)
        client.redis.hset(client.key("nodes", "static"), node, "{}")
        lists = queue_lists(BACKGROUND)
        client.run(steps.RESERVE, lists, (client.prefix, node, incarnation, 1, TASKS, ""))
        for _ in range(2 * number):
            for publish_id in client.redis.hkeys(client.key("reserved", node)):
                run(steps.GIVE_BACK, node, incarnation, 2, 9, "died", publish_id)
            client.run(steps.RESERVE, lists, (client.prefix, node, incarnation, 1, TASKS, ""))
        client.redis.zadd(client.key("beats"), {incarnation: 1})
    send(1)
    run(steps.ATTACH, NODE, f"{NODE}/1", 1, "1", "", 1_500)
    client.redis.set(client.key("heard_since"), 1)
    client.redis.zadd(client.key("beats"), {f"{NODE}/1": client.now_ms() + 60_000})
    (waiting,) = client.redis.lpop(queue_lists(BACKGROUND)[5], 1)
    client.redis.zadd(client.key("placed", NODE), {waiting: 1})
    watchdog = Watchdog(client, app)
    watchdog._answering_since = 0.0  # the broker has answered long enough
    yield
    watchdog.tick()


@operation
def retry_a_dead_letter() -> Generator[None, None, None]:
    letters = bury()
    tell(app, client, letters)
    yield
    for publish_id in letters:
        assert DeadLetters(app).retry(publish_id)


@operation
def purge_dead_letters() -> Generator[None, None, None]:
    letters = bury()
    yield
    assert DeadLetters(app).purge(letters) == TASKS


@operation
def purge_a_queue() -> Generator[None, None, None]:
    send(5)
    transport.PURGE_BATCH = 2
    yield
    with app.connection_for_write() as connection:
        connection.default_channel.queue_purge(BACKGROUND)


@operation
def revoke() -> Generator[None, None, None]:
    send(countdown=3600)
    send()
    ids = [raw.decode() for raw in sorted(client.redis.hkeys(client.key("ids")))]
    yield
    app.control.revoke(ids)


def obey(order: dict[str, Any], noted: int) -> int:
    """What the victim does; `noted` is where it writes what it sends. Returns its exit code."""
    fault = Fault(order["at"], after=order["after"])

    def note(name: str) -> str | None:
        os.write(noted, f"{name}\n".encode())
        return fault(name)

    doing = OPERATIONS[order["operation"]]()
    try:
        next(doing)
        watch(note)
        next(doing, None)
    except Exception:  # noqa: BLE001 - whatever it is, the fork must not go on as its parent
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    for script in scripts():  # so that the first victim sends what all others send
        with contextlib.suppress(ResponseError):  # one that needs its library
            script.load(client.redis)
    app.finalize()  # once here, not in each victim
    client.close()
    for line in sys.stdin:
        reader, noted = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            os._exit(obey(json.loads(line), noted))
        os.close(noted)
        with os.fdopen(reader) as sent:
            commands = sent.read().split()
        _, status = os.waitpid(pid, 0)
        answer = {
            "died": os.WIFSIGNALED(status),
            "code": os.waitstatus_to_exitcode(status),
            "commands": commands,
        }
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
