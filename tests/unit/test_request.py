"""What a spore's worker makes of a message, whoever sent it."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from kombu import Message

from hive.spore.request import Request


def request_of(header: dict[str, Any]) -> Request:
    app = Celery("requests", set_as_current=False)
    headers = {"id": "t", "task": "celery.accumulate", "hive": header}
    message = Message(headers=headers, body=([], {}, {}), delivery_tag="tag", delivery_info={})
    return Request(message, app=app, headers=headers, body=message.body, decoded=True)


def test_a_task_sees_when_it_was_due() -> None:
    assert request_of({"due": 0.5}).request_dict["eta"] == "1970-01-01T00:00:00.500000+00:00"


@pytest.mark.parametrize("due", [1e14, -1e14, 1e300, float("nan"), 10**30, "soon"])
def test_a_time_that_is_none_does_not_stop_the_worker(due: Any) -> None:
    assert not request_of({"due": due}).request_dict.get("eta")
