"""A task's process killed at every command of its run, whatever it is part of: the answer is right,
and only what ran runs again.
"""

# ruff: noqa: PLW0108 - a canvas is built anew each time it is sent

from __future__ import annotations

import importlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import _state, chain, chord, group

import hive
from hive.broker.link.client import client_of
from tests.chaos.conservation import look
from tests.chaos.forms import FORM, LONG
from tests.harness import BrokerServer, WorkerProcess, wait_until
from tests.integration.cluster import REPOSITORY

POOL = 16
SHORT = (
    "task",
    "link to canvas",
    "link to a chord",
    "failing chord",
    "chords in a chord in a chain",
    "chord with a group as body",
    "retry that was not needed",
    "retry in a chord",
    "replace in a chord",
    "added to a chord",
    "idempotent",
    "map",
)
"""What `make test` kills; the others are parts of these."""


class Hive:
    """A broker, a worker whose processes die where they are told, and the application in this
    process.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "died").mkdir()
        for file in ("ran", "commands"):
            (directory / file).touch()
        self.server = BrokerServer(directory / "broker", durable=False).start()
        self.environment = {
            **self.server.environment,
            "CANVAS_DIRECTORY": str(directory),
            "HIVE_MAX_RETRIES": "20",
            "HIVE_HEARTBEAT_INTERVAL": "0.3",
            "PYTHONPATH": str(REPOSITORY),
        }
        self.default_app = _state.default_app
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            self.tasks: Any = importlib.import_module("tests.chaos.canvas_app")
        self.worker = self.start("a")

    def start(self, name: str) -> WorkerProcess:
        options = ("--without-gossip", "--without-mingle", "-l", "warning")
        return WorkerProcess.celery(
            self.directory,
            name,
            app="tests.chaos.canvas_app",
            concurrency=POOL,
            env=self.environment,
            options=options,
        )

    def lines(self, file: str) -> list[str]:
        return (self.directory / file).read_text().splitlines()

    def close(self) -> None:
        self.worker.kill()
        for router in self.tasks.app.conf.task_routes:
            router.close()
        self.tasks.leave()
        self.tasks.app.backend.result_consumer.stop()
        self.tasks.app.close()
        _state.set_default_app(self.default_app)
        client_of(self.tasks.app).close()
        del sys.modules["tests.chaos.canvas_app"]
        self.server.kill()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hive]:
    started = Hive(tmp_path_factory.mktemp("canvas"))
    try:
        yield started
    finally:
        started.close()


def scenarios(t: Any) -> dict[str, tuple[Callable[[], Any], Any]]:
    """What is sent, and its answer. `t` is the module of the tasks."""
    add, total = t.add, t.total
    return {
        "task": (lambda: add.delay(1, 2), 3),
        "link": (lambda: add.apply_async((1, 2), link=add.s(3)), 3),
        "links": (lambda: add.apply_async((1, 2), link=[add.s(3), add.s(4)]), 3),
        "link to canvas": (
            lambda: add.apply_async(
                (1, 2), link=[chain(add.s(3), add.s(4)), group(add.s(5), add.s(6))]
            ),
            3,
        ),
        "link error": (lambda: t.fails.apply_async((1,), link_error=t.told.s()), ValueError),
        "chain": (lambda: chain(add.s(1, 2), add.s(3), add.s(4))(), 10),
        "failing chain": (
            lambda: chain(add.s(1, 2), t.fails.s(), add.s(4)).apply_async(link_error=t.told.s()),
            ValueError,
        ),
        "group": (lambda: group(add.s(1, y) for y in range(3))(), [1, 2, 3]),
        "chord": (lambda: chord([add.s(1, y) for y in range(3)])(total.s()), 6),
        "failing chord": (
            lambda: chord([add.s(1, 1), t.fails.s(1)])(total.s().on_error(t.told.s())),
            Exception,
        ),
        "groups in a chain": (
            lambda: chain(
                add.s(1, 1),
                group(add.s(1), add.s(2)),
                total.s(),
                group(add.s(1), add.s(2)),
                total.s(),
            )(),
            17,
        ),
        "chord of chains": (
            lambda: chord([chain(add.s(1, y), add.s(10)) for y in range(2)])(total.s()),
            23,
        ),
        "chord in a chord": (
            lambda: chord([chord([add.s(1, 1), add.s(2, 2)], total.s()), add.s(3, 3)])(total.s()),
            12,
        ),
        "chords in a chord in a chain": (
            lambda: chain(
                add.s(1, 1),
                chord([chord([add.s(1), add.s(2)], total.s()), add.s(3)], total.s()),
                add.s(1),
            )(),
            13,
        ),
        "link to a chord": (
            lambda: add.apply_async(
                (1, 2), link=chord([add.s(3), chord([add.s(4), add.s(5)], total.s())], total.s())
            ),
            3,
        ),
        "chord with a chain as body": (
            lambda: chord([add.s(1, 1), add.s(2, 2)])(chain(total.s(), add.s(1))),
            7,
        ),
        "chord with a group as body": (
            lambda: chord([add.s(1, 1), add.s(2, 2)])(group(total.s(), total.s())),
            [6, 6],
        ),
        "linked body": (lambda: chord([add.s(1, 1), add.s(2, 2)])(total.s().set(link=add.s(1))), 6),
        "retry": (lambda: t.again.apply_async((5,), link=add.s(1)), 5),
        "retry that was not needed": (lambda: t.lucky.apply_async((5,), link=add.s(1)), 5),
        "retry in a chord": (lambda: chord([t.again.s(1), t.again.s(2)])(total.s()), 3),
        "replace by one": (lambda: chain(t.becomes_one.s(1), add.s(5))(), 7),
        "replace by a chain": (lambda: chain(t.becomes_chain.s(1), add.s(5))(), 17),
        "replace by a group": (lambda: t.becomes_group.delay(1), [1, 2, 3]),
        "replace by a chord": (lambda: t.becomes_chord.delay(1), 6),
        "replace in a chord": (
            lambda: chord([t.becomes_one.s(1), t.becomes_chain.s(1), t.becomes_chord.s(1)])(
                total.s()
            ),
            20,
        ),
        "added to a chord": (lambda: chord([t.adds_to_chord.s(1), add.s(0, 5)])(total.s()), 308),
        "idempotent": (lambda: t.once.delay(7), 7),
        "map": (lambda: hive.map(t.double, range(4), reduce="sum", app=t.app), 12),
    }


def send(cluster: Hive, variant: str) -> Any:
    token = cluster.tasks.sending.set(variant)
    try:
        return scenarios(cluster.tasks)[variant.split("|", maxsplit=1)[0]][0]()
    finally:
        cluster.tasks.sending.reset(token)


def answer(sent: Any) -> Any:
    """The value or the error; all has ended."""
    if isinstance(sent, hive.Job):
        return sent.result(timeout=30).value
    try:
        return sent.get(timeout=30)
    except Exception as error:  # noqa: BLE001 - that is the answer
        return error


def is_right(got: Any, wanted: Any) -> bool:
    if isinstance(wanted, type):
        return isinstance(got, wanted) and not isinstance(got, TimeoutError)
    return bool(got == wanted)


def settle(cluster: Hive) -> None:
    """Wait until nothing is left in the channel."""
    client = client_of(cluster.tasks.app)
    wait_until(lambda: client.redis.hlen(client.key("entries")) == 0, 500, "all has ended")
    look(client).check()


def effects(cluster: Hive) -> dict[str, Counter[str]]:
    """Variant → what its tasks did, how often."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for line in cluster.lines("ran"):
        variant, what = json.loads(line)
        found[variant][what] += 1
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_runs_killed_at_every_command_end_with_the_right_answer(cluster: Hive) -> None:
    every = scenarios(cluster.tasks)
    wait_until(
        lambda: client_of(cluster.tasks.app).redis.exists("venom:beats"), what="the worker is there"
    )
    undisturbed = {name: send(cluster, f"{name}||") for name in every}
    settle(cluster)
    for name, (_, wanted) in every.items():
        assert is_right(got := answer(undisturbed[name]), wanted), (name, got)
    should = {variant.split("|")[0]: counts for variant, counts in effects(cluster).items()}

    variants = sorted({line.rpartition(" ")[0] for line in cluster.lines("commands")})
    # Killed before its first command, a run has done nothing: one such is enough.
    if FORM is not LONG:
        variants = [
            name
            for name in variants
            if name.split("|")[0] in SHORT and (not name.endswith("|0") or name.startswith("task|"))
        ]
    sent = {variant: send(cluster, variant) for variant in variants}
    settle(cluster)
    did = effects(cluster)
    faults = []
    for variant in variants:
        scenario = variant.split("|")[0]
        died = cluster.directory / "died" / variant
        killed = Counter([died.read_text()] if died.exists() else [])
        if not is_right(got := answer(sent[variant]), every[scenario][1]):
            faults.append(f"{variant}: {got!r}")
        if too_often := did[variant] - should[scenario] - killed:
            faults.append(f"{variant}: too often {dict(too_often)}")
        # A retry that was not needed: what the second run of its first delivery does instead.
        if (too_seldom := should[scenario] - did[variant]) and not scenario.startswith(
            "retry that"
        ):
            faults.append(f"{variant}: too seldom {dict(too_seldom)}")
    assert not faults, "\n".join(faults)
    # Some come to a command only when they are the last of their chord, by another way than before.
    assert len(list((cluster.directory / "died").iterdir())) > len(variants) * 0.8
