"""What the broker does not take, in Hive's words.

It refuses a message for a full queue, anything new without memory, and all of a release that does
not know the stored format; and replicas may fail to confirm what it took.
"""

# celery-types leaves most of kombu's Redis transport out.
# mypy: disable-error-code="attr-defined,misc,name-defined"

from __future__ import annotations

import re
from typing import Any, NoReturn

import kombu.exceptions
import redis
from kombu.transport import redis as kombu_redis

from hive.broker.link.format import check_format
from hive.errors import (
    BrokerMemoryError,
    BrokerUnreachableError,
    InvalidInputError,
    QueueFullError,
)

_UNREADABLE = re.compile(r"UNREADABLE (.+)")
_QUEUE_FULL = re.compile(r"QUEUEFULL (\d+) (.+)")
"""Both as lua/publish.lua answers; redis-py's pipeline puts words of its own in front."""
_FORMAT = re.compile(r"(?:^|: )FORMAT (.*)", re.DOTALL)


def raise_refusal(error: BaseException | None) -> None:
    """Raise what a reply of the broker means to a sender: QueueFullError, BrokerMemoryError,
    StoredFormatError, or InvalidInputError for what nobody could read back.

    Each means that nothing was written: the message is not sent, whatever was tried before under
    its publish id. Any other error is left to the caller: the function returns.
    """
    if isinstance(error, redis.exceptions.OutOfMemoryError):
        raise BrokerMemoryError from error
    said = str(error) if isinstance(error, redis.exceptions.ResponseError) else ""
    unserved = _FORMAT.search(said)
    if unserved:
        check_format(unserved[1].encode())
    unreadable = _UNREADABLE.findall(said)
    if unreadable:
        raise InvalidInputError(
            f"A message cannot be kept with {unreadable[-1]}; nothing was sent."
        ) from error
    full = _QUEUE_FULL.findall(said)
    if full:
        limit, queue = int(full[-1][0]), full[-1][1]
        raise QueueFullError(
            f"The queue {queue} is full ({limit} messages may wait there); nothing was sent. Send "
            "it later, start more spores, or raise HIVE_QUEUE_LIMIT or the queue's own max_length.",
            queue=queue,
            limit=limit,
        ) from error


def raise_unconfirmed(copies: int, wanted: int, publish_id: str | None = None) -> NoReturn:
    """Raise BrokerUnreachableError for a message that too few replicas have confirmed.

    The broker itself has it.
    """
    raise BrokerUnreachableError(
        f"The broker took a message, but {copies} of the {wanted} replicas that HIVE_WAIT_REPLICAS "
        "asks for confirmed it in time; check them (INFO replication). It is lost only if the "
        "broker is; under its publish id it may be sent again until four minutes after its end.",
        outcome="unknown",
        publish_id=publish_id,
    )


class PublishBatch(kombu_redis.PublishBatch):
    """kombu's batch of publications.

    Each is accepted or refused by itself; the first refusal is raised.
    """

    def flush(self) -> None:
        wanted, copies = self.channel.wait_replicas, list[Any]()
        if wanted and self._buffered:
            self.pipeline.response_callbacks["WAIT"] = copies.append
            self.pipeline.execute_command(*self.channel.wait_command)
        try:
            super().flush()
        except kombu.exceptions.BatchPublishError as error:
            raise_refusal(error.__cause__)
            raise
        if copies and copies[0] < wanted:
            raise_unconfirmed(copies[0], wanted)
