"""Tasks that are retried; workers get them by `-I`. Each says in a file that a run of it began."""

from __future__ import annotations

import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from celery import shared_task
from celery.exceptions import Reject

import hive


def begins(item: dict[str, Any]) -> int:
    """Returns: the runs of this item that began, with this one."""
    with Path(item["log"]).open("a") as log:
        log.write(f"{time.time()}\n")
    return len(Path(item["log"]).read_text().splitlines())


def fail_often(item: dict[str, Any]) -> int:
    """Raises until it was tried more than `fails` times, then takes its time."""
    tries = begins(item)
    if tries <= item["fails"]:
        raise ConnectionError(f"reset at try {tries}")
    time.sleep(item.get("nap", 0))
    return tries


@shared_task(autoretry_for=(OSError,), max_retries=3, default_retry_delay=0.2)
def flaky(item: dict[str, Any]) -> int:
    return fail_often(item)


@shared_task(
    bind=True,
    autoretry_for=(OSError,),
    dont_autoretry_for=(ConnectionResetError,),
    default_retry_delay=0.2,
)
def flaky_but(self: Any, item: dict[str, Any], bound: str = "") -> Any:
    if item.get("reset"):
        raise ConnectionResetError("for good")
    fail_often(item)
    return [int(self.request.retries), bound]


@shared_task(autoretry_for=(OSError,), retry_backoff=1, retry_backoff_max=2, retry_jitter=False)
def backs_off(item: dict[str, Any]) -> int:
    return fail_often(item)


@shared_task(autoretry_for=(OSError,), default_retry_delay=3)
def retried_after_a_while(item: dict[str, Any]) -> int:
    return fail_often(item)


@shared_task(autoretry_for=(OSError,), default_retry_delay=60)
def retried_in_a_minute(item: dict[str, Any]) -> int:
    return fail_often(item)


@shared_task(bind=True, max_retries=2)
def asks(self: Any, item: dict[str, Any], *more: Any) -> list[Any]:
    """Asks to be retried with what its item says."""
    tries = begins(item)
    options = dict(item.get("options", {}))
    if options.pop("eta", None):
        options["eta"] = datetime.now(UTC) + timedelta(seconds=0.2)
    if "changed" in item:
        options["args"] = (item["changed"], "more")
    if tries <= item.get("fails", 99):
        raise self.retry(exc=KeyError(f"try {tries}") if item.get("says") else None, **options)
    return [tries, self.request.retries, list(more)]


@shared_task(bind=True)
def retried_then_killed(self: Any, item: dict[str, Any]) -> int:
    """Retried once, then it kills its process as often as `kills` says."""
    tries = begins(item)
    if not self.request.retries:
        raise self.retry(countdown=0)
    if tries - 1 <= item["kills"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return int(self.request.retries)


@shared_task(bind=True)
def reject(self: Any, item: dict[str, Any]) -> None:
    raise Reject("no", requeue=True)


@shared_task(autoretry_for=(OSError,), default_retry_delay=0.2)
def flaky_reduce(values: list[Any], log: str) -> int:
    return fail_often({"log": log, "fails": 2}) + int(sum(values))


@shared_task
@hive.idempotent(key="{item[log]}")
def once(item: dict[str, Any]) -> int:
    tries = begins(item)
    time.sleep(0.5)
    return tries


@shared_task
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@shared_task
def maps_and_waits(items: list[dict[str, Any]], log: str) -> Any:
    """Works on its own map meanwhile, and reduces it."""
    return hive.map(flaky, items, flaky_reduce.s(log)).result(60).value
