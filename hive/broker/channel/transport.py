"""Hive's kombu transport: Celery's messages over Redis or Valkey, none of them lost.

The rules and their reasons are in docs/channel.md: ids in lists, bodies in a hash, every move one
script (lua/), reservations that belong to the process (incarnation.py). Fanout, reply queues,
`no_ack` consumers, expiring queues and messages without a hive header are kombu's own.
"""

# celery-types leaves most of kombu's Redis transport out.
# mypy: disable-error-code="attr-defined,misc,override,operator"

from __future__ import annotations

import os
import sys
import time
from collections import deque
from functools import cached_property
from queue import Empty
from typing import Any, ClassVar

import redis
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.transport.redis import REFRESH_BINDING
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

from hive.broker.channel import steps
from hive.broker.channel.header import NAME as HEADER
from hive.broker.channel.header import Delivery, Header
from hive.broker.channel.incarnation import Incarnation, current, triples
from hive.broker.channel.publishing import note_accepted, note_unknown
from hive.broker.channel.refusals import PublishBatch, raise_refusal, raise_unconfirmed
from hive.broker.channel.serving import ServingOrder
from hive.broker.link.client import SPACE
from hive.broker.link.coding import dumps
from hive.broker.link.priorities import HIGHEST, INDEXES, clamped, list_index, queue_lists
from hive.broker.link.scripts import ALLOW_OOM, Script
from hive.logs import get_logger

log = get_logger(__name__)

REPLY_FIELDS = 7  # of one message in reserve's reply
PURGE_BATCH = 1000
FOR_THE_CHANNEL = frozenset(
    {"hive_candidates", "hive_tasks_weight", "hive_limit", "hive_follow_up"}
)
"""Properties that are not sent: the router's and the sender's words to the channel."""


class QoS(kombu_redis.QoS):
    """Messages of task queues belong to the incarnation.

    All others stay kombu's own, with its `unacked` keys and visibility timeout.
    """

    acknowledges = False
    """Whether the channel takes messages of kombu's own that it has to acknowledge. Only then it
    has to look after those keys.
    """

    def can_consume(self) -> bool:
        incarnation = current() if self.channel.consumes_tasks else None
        return incarnation.can_consume() if incarnation else bool(super().can_consume())

    def append(self, message: Any, delivery_tag: str) -> None:
        if _holder(delivery_tag) is None:
            self.acknowledges = True
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        incarnation = _holder(delivery_tag)
        if incarnation is None:
            # Any other tag is a task's, which is finished or was given back.
            if delivery_tag in self._delivered:
                super().ack(delivery_tag)
            return
        incarnation.acknowledge(delivery_tag)
        # The next reserve carries it; where none is about to be sent, the acknowledgement goes by
        # itself.
        if incarnation.polling or incarnation.stopping or incarnation.draining:
            incarnation.flush_quietly()

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        incarnation = _holder(delivery_tag)
        if incarnation is None:
            if delivery_tag in self._delivered:
                super().reject(delivery_tag, requeue=requeue)
        elif requeue:
            incarnation.send_home(delivery_tag)
        else:
            incarnation.acknowledge(delivery_tag, "failed")

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """No visibility timeout for tasks: the watchdog restores what the dead held."""
        if self.acknowledges:
            super().restore_visible(*args, **kwargs)


def _holder(delivery_tag: str) -> Incarnation | None:
    """This process's incarnation, where the message is one that it holds."""
    incarnation = current()
    return incarnation if incarnation is not None and incarnation.owns(delivery_tag) else None


class Message(virtual.Message):
    """kombu's message. What makes it unreadable is left to its consumer, whatever it is, as kombu
    does with a compressed body that is broken.
    """

    def __init__(self, payload: dict[str, Any], channel: Any = None, **kwargs: Any) -> None:
        try:
            super().__init__(payload, channel=channel, **kwargs)
        except Exception:  # noqa: BLE001 - a stranger may have sent anything
            self.errors = [sys.exc_info()]
            bare: dict[str, Any] = {
                name: payload[name] for name in ("headers", "properties") if name in payload
            }
            super().__init__(bare, channel=channel, **kwargs)


class Channel(kombu_redis.Channel):
    """A channel whose task queues are served by scripts."""

    QoS = QoS
    Message = Message
    max_priority = HIGHEST
    priority_steps: ClassVar[list[int]] = list(INDEXES)
    consumes_tasks = False
    wait_replicas = 0
    wait_timeout = 5.0
    from_transport_options = (
        *kombu_redis.Channel.from_transport_options,
        "wait_replicas",
        "wait_timeout",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._expected: deque[tuple[str, list[str]]] = deque()
        self._epoch: int | None = None
        self._order: ServingOrder | None = None
        self._script_client: tuple[int, redis.Redis] | None = None
        super().__init__(*args, **kwargs)

    # -- publishing

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        header = Header.read(message.get("headers"))
        publish_id = header.publish_id
        if not publish_id or queue in self._expires or queue in self.auto_delete_queues:
            super()._put(queue, message, **kwargs)
            return
        arguments = self._publish_arguments(queue, message, header)
        script = steps.FOLLOW_UP if message["properties"].get("hive_follow_up") else steps.PUBLISH
        batch = kwargs.get("_publish_batch")
        if batch is not None:
            batch.add("evalsha", script.sha, 0, *arguments)
            return
        try:
            copies = self._publish(script, arguments, publish_id)
        except redis.exceptions.ResponseError as error:
            raise_refusal(error)
            raise
        if copies < self.wait_replicas:
            raise_unconfirmed(copies, self.wait_replicas, publish_id)

    @property
    def wait_command(self) -> tuple[str | int, ...]:
        """What waits for the replicas to have all that its connection has written."""
        # A wait of 0 ms would be one without end.
        return "WAIT", self.wait_replicas, max(1, int(self.wait_timeout * 1000))

    def _publish(self, script: Script, arguments: list[Any], publish_id: str) -> int:
        """Run the script, and tell a failure before sending from a missing reply.

        kombu tries again under the same id.

        Returns: how many replicas have it, 0 where that is not asked for.
        """
        pool = self.pool
        connection = pool.get_connection()
        try:
            script.on_connection(connection, (), arguments)
            note_accepted(publish_id)
            if not self.wait_replicas:
                return 0
            connection.send_command(*self.wait_command, check_health=False)
            return int(connection.read_response())
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
            note_unknown(publish_id)
            connection.disconnect()
            raise
        finally:
            pool.release(connection)

    def _publish_arguments(self, queue: str, message: dict[str, Any], header: Header) -> list[Any]:
        """The arguments of lua/publish.lua.

        The message is copied where it changes: kombu shares it between attempts.
        """
        properties = {
            key: value for key, value in message["properties"].items() if key not in FOR_THE_CHANNEL
        }
        properties["delivery_tag"] = header.publish_id
        candidates = message["properties"].get("hive_candidates") or ()
        home, requirements = header.home or queue, ""
        if home.startswith(f"{SPACE}req:"):
            # The queue is part of the home's name: a node that satisfies the requirements but does
            # not consume the queue must not take the task.
            home, requirements = f"{home}:{queue}", dumps(header.requirements or {})
        delay = max(0.0, header.due - time.time()) if header.due else 0.0
        arguments = [
            self.global_keyprefix,
            header.publish_id,
            home,
            list_index(properties.get("priority")),
            message["headers"].get("id", ""),
            int(delay * 1000),
            requirements,
            message["properties"].get("hive_tasks_weight", 0.3),
            dumps({**message, "properties": properties}),
            message["properties"].get("hive_limit", 0),
            header.parent_id,
        ]
        for candidate in candidates:
            arguments += candidate
        return arguments

    def create_publish_batch(self, max_size: int) -> Any:
        for script in (steps.PUBLISH, steps.FOLLOW_UP):
            script.load(self._scripts_on())
        return PublishBatch(self, max_size)

    def _scripts_on(self) -> redis.Redis:
        """The client for scripts: one for a channel and process.

        A new one for each call would cost more than the call.
        """
        pid = os.getpid()
        if self._script_client is None or self._script_client[0] != pid:
            # This is not kombu's client, which prefixes keys: the scripts prefix theirs themselves.
            self._script_client = (pid, redis.Redis(connection_pool=self.pool))
        return self._script_client[1]

    # -- queues

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        """As kombu's, but in a step that a server without memory takes.

        Workers must be able to connect to it, to work off what waits.
        """
        if queue in self._expires:
            super()._queue_bind(exchange, routing_key, pattern, queue)
            return
        if self.typeof(exchange).type == "fanout":
            self._fanout_queues[queue] = exchange, routing_key.replace("#", "*")
        keys = [
            self.global_keyprefix + name % (exchange,)
            for name in (self.keyprefix_queue, self.keyprefix_binding_permanent)
        ]
        steps.BIND(
            self._scripts_on(),
            keys,
            [self.sep.join((routing_key or "", pattern or "", queue or ""))],
        )

    @cached_property
    def _refresh_binding(self) -> Any:
        return self._create_client().register_script(ALLOW_OOM + REFRESH_BINDING)

    def _size(self, queue: str) -> int:
        with self.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
            for name in queue_lists(queue):
                pipe.llen(name)
            lengths = pipe.execute(raise_on_error=False)
        for length in lengths:
            # A key that is no list has no messages.
            if isinstance(length, Exception) and "WRONGTYPE" not in str(length):
                raise length
        return sum(length for length in lengths if isinstance(length, int))

    def _q_for_pri(self, queue: str, pri: int) -> str:
        return f"{queue}{self.sep}{pri}" if pri else queue

    def _purge(self, queue: str) -> int:
        purged = 0
        for name in queue_lists(queue):
            while True:
                count = steps.PURGE(
                    self._scripts_on(),
                    [self.global_keyprefix + name],
                    (self.global_keyprefix, PURGE_BATCH),
                )
                purged += count
                if count < PURGE_BATCH:
                    break
        return purged

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        if queue not in self.auto_delete_queues and queue not in self._expires:
            self._purge(queue)
        super()._delete(queue, *args, **kwargs)

    # -- consuming

    def basic_consume(self, queue: str, no_ack: bool = False, *args: Any, **kwargs: Any) -> Any:
        answer = super().basic_consume(queue, no_ack, *args, **kwargs)
        kombus_own = (
            no_ack
            or queue in self._fanout_queues
            or queue in self._expires
            or queue in self.auto_delete_queues
        )
        if not kombus_own and current() is not None:
            self.consumes_tasks = True
        elif not no_ack:
            self.qos.acknowledges = True
        return answer

    def _brpop_start(self, timeout: float | None = None) -> None:
        incarnation = current() if self.consumes_tasks else None
        if incarnation is None:
            super()._brpop_start(timeout)
        elif self.active_queues:
            self._send_reserve(incarnation)

    def _brpop_read(self, **options: Any) -> Any:
        incarnation = current() if self._expected else None
        # With no answer expected, it is kombu's own BRPOP that has one, perhaps of a time before
        # this channel began to consume tasks.
        if incarnation is None:
            return super()._brpop_read(**options)
        if self._read_replies(incarnation):
            return True
        raise Empty

    def _send_reserve(self, incarnation: Incarnation) -> None:
        """Ask for messages without waiting for the answer.

        kombu calls `_brpop_read` when the socket is readable.
        """
        if self._epoch is None:
            self._epoch = incarnation.attach()
        incarnation.asks()
        order = self._order_for(incarnation)
        lists = order.next_lists()
        pending = incarnation.unconfirmed()
        command = [
            "EVALSHA",
            steps.RESERVE.sha,
            len(lists),
            *lists,
            self.global_keyprefix,
            incarnation.node_id,
            incarnation.id,
            self._epoch,
        ]
        command += [incarnation.free_slots, "\n".join(order.wake_lists), *triples(pending)]
        connection = self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()
        self._expected.append(("reserve", [tag for tag, _ in pending]))
        try:
            # A silent connection is noticed by its missing answer (kombu's
            # maybe_check_brpop_health), not by a PING before each question.
            connection.send_command(*command, check_health=False)
        except BaseException:
            self._lose_exchange(incarnation)
            raise

    def _order_for(self, incarnation: Incarnation) -> ServingOrder:
        if self._order is None:
            settings = incarnation.client.settings
            queues = settings.hive_high_priority_queue, settings.hive_background_queue
            self._order = ServingOrder(self.global_keyprefix, incarnation.node_id, *queues)
        self._order.update(self.active_queues, incarnation.requirement_queues)
        return self._order

    def _read_replies(self, incarnation: Incarnation) -> bool:
        """Read what the exchange under way has answered; True when messages were handed over."""
        connection = self.client.connection
        while self._expected:
            kind, acknowledged = self._expected.popleft()
            try:
                reply = connection.read_response()
            except redis.exceptions.NoScriptError:
                incarnation.answered()
                connection.send_command("SCRIPT LOAD", steps.RESERVE.text)
                connection.read_response()
                break
            except BaseException:
                # A read that timed out or was interrupted, too: what follows on this socket would
                # answer another question.
                self._lose_exchange(incarnation)
                connection.disconnect()
                raise
            if kind == "wake":
                break
            if not isinstance(reply, list):
                self._lose_exchange(incarnation)
                connection.disconnect()
                raise redis.exceptions.InvalidResponse(
                    f"The broker answered a reserve with {reply!r:.100}."
                )
            incarnation.confirm(acknowledged)
            if reply[0] != b"ok":
                incarnation.answered()
                self._epoch = None  # attaching again tells the cluster that it lives
                break
            if len(reply) > 3:  # there is more than the head
                self._forget_exchange(incarnation)
                return self._hand_over(incarnation, reply[3:])
            incarnation.answered()
            self._block(incarnation, connection, free=reply[1], next_due=reply[2])
            return False
        self._forget_exchange(incarnation)
        return False

    def _block(
        self, incarnation: Incarnation, connection: Any, *, free: int, next_due: int
    ) -> None:
        """Wait on wake lists, never on queues.

        A blocking pop of a task is where a dying client loses one.
        """
        timeout = min(self.brpop_timeout, next_due / 1000) if next_due else self.brpop_timeout
        lists = self._order_for(incarnation).wake_lists
        self._expected.append(("wake", []))
        self._brpop_sent_at = time.monotonic()
        incarnation.polling = True
        try:
            connection.send_command(
                "BLPOP", *(lists if free > 0 else lists[:1]), max(0.01, timeout), check_health=False
            )
        except BaseException:
            self._forget_exchange(incarnation)
            raise
        if incarnation.has_unconfirmed:
            incarnation.flush_quietly()

    def _on_connection_disconnect(self, connection: Any) -> None:
        """Also called by kombu when it drops a connection that went silent."""
        client = self.__dict__.get("client")
        if self._expected and client is not None and client.connection is connection:
            incarnation = current()
            if incarnation is not None:
                self._lose_exchange(incarnation)
        super()._on_connection_disconnect(connection)

    def _lose_exchange(self, incarnation: Incarnation) -> None:
        """Give up an answer that will never be read.

        The channel attaches before its next reserve; that gives back what the answer would have
        brought.
        """
        self._forget_exchange(incarnation)
        self._epoch = None

    def _forget_exchange(self, incarnation: Incarnation) -> None:
        self._expected.clear()
        self._in_poll = None
        incarnation.polling = False

    def _hand_over(self, incarnation: Incarnation, fields: list[Any]) -> bool:
        """Give reserved messages to their consumers; what cannot be delivered goes back.

        Returns: False when they are no longer ours.
        """
        waiting = deque(
            fields[at : at + REPLY_FIELDS] for at in range(0, len(fields), REPLY_FIELDS)
        )
        fresh_until = incarnation.fresh_until()
        taken = [
            (bytes_to_str(tag), bytes_to_str(task_id), int(reserved))
            for tag, _, _, _, reserved, task_id, _ in waiting
        ]
        ours = self._epoch is not None and incarnation.hold(self._epoch, taken)
        incarnation.answered()
        if not ours:
            self._epoch = None
            # Attached anew between the reserve and its answer: they have gone home.
            return False
        for _, _, _, revoked, _, task_id, _ in waiting:
            if revoked == b"1":
                _remember_revoked(bytes_to_str(task_id))
        if incarnation.draining:  # it asked before it was told to drain
            incarnation.give_back(
                [bytes_to_str(tag) for tag, *_ in waiting], deaths=0, reason="its node drains"
            )
            return True
        callbacks = self.connection._callbacks
        fallback = next(iter(self.active_queues), None)
        while waiting:
            tag, home, deaths, _, reserved, _, envelope = waiting[0]
            delivery = Delivery(incarnation.node_id, incarnation.id, bytes_to_str(tag))
            stamp = {"fresh_until": fresh_until, "reserved": int(reserved) / 1000}
            try:
                message = _received(delivery, int(deaths), stamp, envelope)
            except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
                log.error(
                    "message_not_readable",
                    publish_id=delivery.publish_id,
                    reason=incarnation.bury(delivery.publish_id, error),
                )
                waiting.popleft()
                continue
            try:
                queue = bytes_to_str(home)
                self.connection._deliver(message, queue if queue in callbacks else fallback)
            except BaseException as error:
                self._return_undelivered(
                    incarnation, [bytes_to_str(tag) for tag, *_ in waiting], error
                )
                raise
            waiting.popleft()
        return True

    def _return_undelivered(
        self, incarnation: Incarnation, tags: list[str], error: BaseException
    ) -> None:
        """Give back what was not delivered, and so not started.

        A message that makes its delivery fail gets a death, so that it does not end every worker.
        """
        # kombu counts KeyError as a connection error, too.
        away = isinstance(error, self.connection_errors) and not isinstance(error, KeyError)
        guilty = isinstance(error, Exception) and not away
        incarnation.give_back(tags[1:] if guilty else tags, deaths=0, reason="not delivered")
        if guilty:
            incarnation.give_back(tags[:1], deaths=1, reason=f"it cannot be delivered: {error!r}")

    def _get(self, queue: str) -> Any:
        if self.consumes_tasks:
            raise Empty
        return super()._get(queue)

    def close(self) -> None:
        incarnation = current() if self.consumes_tasks else None
        if incarnation is not None and not self.closed:
            # The answer under way is not waited for: what it reserves is given back by the next
            # attach, or by leaving.
            self._forget_exchange(incarnation)
            client = self.__dict__.get("client")
            if client is not None and client.connection is not None:
                client.connection.disconnect()
        super().close()


class Transport(kombu_redis.Transport):
    """Named in `broker_transport`; the address stays an ordinary redis:// one."""

    Channel = Channel


def _remember_revoked(task_id: str) -> None:
    """Let Celery know that a task was revoked: it then stores REVOKED and acknowledges.

    Dropped silently, the task would leave its callers waiting.
    """
    from celery.worker import state  # only a worker needs it

    state.revoked.add(task_id)


def _received(
    delivery: Delivery, deaths: int, stamp: dict[str, float], envelope: bytes
) -> dict[str, Any]:
    """The kombu message of an entry, with the stamp of its delivery.

    The stamp says who holds it, since when, and until when that was certain. Of what a stranger
    sent anything may be raised.
    """
    message: dict[str, Any] = loads(bytes_to_str(envelope))
    properties = message["properties"]
    properties["delivery_tag"] = delivery.publish_id
    if "priority" in properties:  # a retry is sent with it
        properties["priority"] = clamped(properties["priority"])
    properties.setdefault("delivery_info", {})["redelivered"] = deaths > 0
    headers = message["headers"] = message.get("headers") or {}
    headers[HEADER] = Header.read(headers).delivered_to(delivery, deaths=deaths, **stamp)
    return message
