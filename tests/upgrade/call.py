"""A caller of the hive of `app.py`: sends a little of everything, and checks what comes back.

    python -m tests.upgrade.call NAME

NAME begins the name of all that it sends. Two releases of Hive run it: it uses only what Hive
promises to applications. Prints which Hive it used, and the nodes that ran something.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from celery import chain, chord, group

import hive
from tests.upgrade.app import app, comes_back, item, once, plus, run, say, total

TIMEOUT = 30


def main(name: str) -> dict[str, Any]:
    sent = {
        f"{name}-{kind}": options
        for kind, options in (
            ("plain", {}),
            ("high", {"queue": "venom:tasks:high", "priority": 9}),
            ("cpus", {"requirements": {"cpus": 0.1}}),
            ("near", {"affinity": name}),
            ("later", {"countdown": 0.3}),
            *((f"many-{number}", {}) for number in range(8)),
        )
    }
    tasks = {
        task_id: run.apply_async((task_id,), task_id=task_id, **options)
        for task_id, options in sent.items()
    }
    canvases = {
        "skill": (say.apply_async((f"{name}-say",)), f"{name}-say"),
        "retry": (comes_back.apply_async((f"{name}-retry",)), 1),
        "chain": (chain(plus.s(1, f"{name}-a", 2), plus.s(f"{name}-b", 3)).apply_async(), 6),
        "chord": (chord(parts(name))(total.s(f"{name}-body")), 0 + 1 + 2),
        "group": (group(parts(name)).apply_async(), [0, 1, 2]),
    }
    key = f"{name}-key"
    first = once.apply_async((key, "first")).get(timeout=TIMEOUT)
    assert once.apply_async((key, "second")).get(timeout=TIMEOUT) == first
    job = hive.map(item, [[name, number] for number in range(20)], "sum", app=app)
    result = job.result(TIMEOUT)
    assert (result.complete, result.error, result.value) == (True, None, sum(range(20))), result
    for task_id, task in tasks.items():
        assert task.get(timeout=TIMEOUT) == task_id
    for kind, (canvas, wanted) in canvases.items():
        assert canvas.get(timeout=TIMEOUT) == wanted, kind
    nodes = {outcome.node for outcome in result.outcomes}
    return {"hive": hive.__file__, "nodes": sorted(nodes | asyncio.run(nodes_of(list(tasks))))}


def parts(name: str) -> list[Any]:
    return [plus.si(0, f"{name}-{number}", number) for number in range(3)]


async def nodes_of(task_ids: list[str]) -> set[str]:
    """Where these tasks ran, by their records."""
    broker = hive.MessageBroker(app)
    records = [await broker.get_task_status(task_id) for task_id in task_ids]
    await broker.disconnect()
    assert all(record and record.status == "completed" for record in records), records
    return {str(record.assigned_node) for record in records if record}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1])))
