"""The scripts of a job, and how its keys are named (lua/lib.lua lists them)."""

from __future__ import annotations

from typing import Any

from hive.broker.channel.steps import LIBRARY
from hive.broker.link.client import BrokerClient
from hive.broker.link.scripts import Script


def _step(name: str, *, refusable: bool = False) -> Script:
    return Script(
        "hive.jobs.state", name, include=(LIBRARY, "hive.jobs.state:lib"), refusable=refusable
    )


CREATE = _step("create", refusable=True)
END = _step("push")
"""Says that no more items follow."""
PUSH = _step("push", refusable=True)
"""The same script, for what brings items."""
STEP = _step("step")
SPLIT = _step("split")
PUT_OFF = _step("put_off")
RECLAIM = _step("reclaim")
TOUCH = _step("touch")
STOP = _step("stop")
RETURNED = _step("returned")
FINISH = _step("finish")
WATCH = _step("watch")
NOTE = _step("note")
TRIM = _step("trim")


def job_key(client: BrokerClient, job_id: str, part: str) -> str:
    """`job_key(client, id, "state")` is the full name of `venom:job:<id>:state`."""
    return client.key("job", job_id, part)


def run(
    client: BrokerClient, script: Script, job_id: str, *args: Any, keys: tuple[str, ...] = ()
) -> Any:
    """Run a script of a job; every one takes the key prefix and the job first."""
    return client.run(script, keys, (client.prefix, job_id, *args))


def text(value: bytes | str | None) -> str:
    """A reply of the broker as text; nothing is ""."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""
