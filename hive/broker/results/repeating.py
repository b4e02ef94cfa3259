"""What a running task sends in its own place, or adds to its chord.

Here it gets ids that are the same when the run is repeated after a kill, so that it is sent once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import signature
from celery.exceptions import Reject

from hive.broker.channel.header import Header
from hive.broker.channel.naming import named
from hive.errors import InvalidInputError, NoEligibleNodeError

_ADDED = "_hive_added"


def retry(original: Callable[..., Any]) -> Callable[..., Any]:
    """Around `Task.retry`: where its options cannot be sent, the run fails, and says so.

    Celery would reject the message: nothing would be stored, and its callers wait for ever.
    """

    def retry(self: Any, *args: Any, **options: Any) -> Any:
        try:
            return original(self, *args, **options)
        except Reject as rejected:
            reason = rejected.args[0]
            if isinstance(reason, InvalidInputError | NoEligibleNodeError):
                raise reason from None
            raise

    return retry


def replace(original: Callable[..., Any]) -> Callable[..., Any]:
    """Around `Task.replace`."""

    def replace(self: Any, sig: Any) -> Any:
        publish_id = _publish_id(self)
        if publish_id is not None:
            sig = signature(named(sig, publish_id, "replace", result=False), app=self.app)
        return original(self, sig)

    return replace


def add_to_chord(original: Callable[..., Any]) -> Callable[..., Any]:
    """Around `Task.add_to_chord`.

    A repeated run is supposed to add the same tasks in the same order.
    """

    def add_to_chord(self: Any, sig: Any, lazy: bool = False) -> Any:
        publish_id = _publish_id(self)
        if publish_id is not None:
            nth = self.request.__dict__[_ADDED] = self.request.__dict__.get(_ADDED, -1) + 1
            sig = signature(named(sig, publish_id, "add", nth), app=self.app)
        return original(self, sig, lazy)

    return add_to_chord


def _publish_id(task: Any) -> str | None:
    """The publish id of the message that a task runs for; None where it runs for none."""
    header = Header.of_task(task)
    return None if task.request.is_eager or header is None else header.publish_id
