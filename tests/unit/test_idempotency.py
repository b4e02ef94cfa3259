"""What `hive.idempotent` says of keys, and that it leaves calls alone that are no deliveries."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from celery import Celery

import hive
from hive.broker.channel.idempotency import _formatter, _made_key
from hive.errors import InvalidInputError


def charge(order_id: int, *, currency: str = "EUR") -> str:
    return f"{order_id} {currency}"


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("charge", "names no parameter"),
        ("charge-{}", "names ''"),
        ("charge-{0}", "names '0'"),
        ("charge-{order}", "names 'order'; charge takes: order_id, currency"),
        ("charge-{order_id", "is no format string"),
        (7, "is a format string or a callable, not 7"),
    ],
)
def test_a_key_that_could_never_be_made_is_refused_where_it_is_written(key: Any, told: str) -> None:
    with pytest.raises(InvalidInputError, match=told):
        hive.idempotent(key=key)(charge)


def make(text: str, function: Any, *args: Any, **kwargs: Any) -> str:
    return _made_key(
        _formatter(text, "charge", inspect.signature(function)), "charge", args, kwargs
    )


@pytest.mark.parametrize(
    ("args", "kwargs"), [((5,), {}), ((), {"order_id": 5}), ((5,), {"currency": "EUR"})]
)
def test_the_same_arguments_make_the_same_key_however_they_are_given(
    args: Any, kwargs: Any
) -> None:
    assert make("{order_id:03}-{currency}", charge, *args, **kwargs) == "005-EUR"


def test_a_key_may_use_a_field_of_an_argument() -> None:
    assert make("{order[id]}", lambda order: order, {"id": 9}) == "9"


@pytest.mark.parametrize(
    ("text", "args", "told"),
    [
        (
            "{order_id}",
            (),
            "cannot be made of its arguments: TypeError: missing a required argument: 'order_id'",
        ),
        ("{order_id[id]}", ({},), "cannot be made of its arguments: KeyError: 'id'"),
        ("{order_id}", ("",), "a text of 1 to 500 characters, not one of 0"),
        ("{order_id}", ("x" * 501,), "not one of 501"),
    ],
)
def test_a_key_that_cannot_be_made_says_why(text: str, args: Any, told: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        make(text, charge, *args)
    assert told in str(caught.value)


def test_direct_and_eager_calls_run_as_ever() -> None:
    app = Celery("eager", set_as_current=False)
    ran = []

    @app.task(bind=True)
    @hive.idempotent(key=lambda order_id: f"charge-{order_id}")
    def task(self: Any, order_id: int) -> int:
        ran.append(order_id)
        return order_id

    assert [task(1), task(1), task.apply((1,)).get()] == [1, 1, 1]
    assert ran == [1, 1, 1]


def test_celery_still_checks_the_arguments_of_what_is_decorated() -> None:
    app = Celery("checked", set_as_current=False)
    task = app.task(hive.idempotent(key="charge-{order_id}")(charge))
    with pytest.raises(TypeError, match="order_id"):
        task.delay()
