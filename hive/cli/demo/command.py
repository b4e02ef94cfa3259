"""`hive demo`: starts a hive of its own, plays the story, stops everything."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click
from rich.console import Console

from hive.cli.output import console, json_option, print_json, seconds

if TYPE_CHECKING:
    from hive.cli.demo.story import Account
    from hive.local.local_hive import LocalHive

SPORES = 5
SLOTS = 2
DOCUMENTS = 24
DELAY = 0.3
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command(
    "demo", short_help="See the main job: a hive of five spores at work on this machine."
)
@json_option
def demo(*, as_json: bool) -> int:
    """Start a hive of five spores on this machine, see it work, and stop it: about a minute,
    without a network.

    It fetches and summarizes documents from a local web site, scans the source of an installed
    package, compares both with one node alone, and kills a spore in the middle of its work. With
    --json the story goes to stderr and its figures to stdout.

    \b
    Example:
      hive demo
    """
    from hive.cli.demo.story import Account

    began = time.monotonic()
    account = Account(spores=SPORES)
    out = console(stderr=as_json)
    out.print(
        f"Hive demo: {SPORES} spores of {SLOTS} slots on this machine, which has "
        f"{len(os.sched_getaffinity(0))} CPUs",
        style="bold",
    )
    with _stoppable(), _own_hive(out) as local:
        _play(local, out, account)
    account.took = time.monotonic() - began
    out.print(f"\neverything is stopped, after {seconds(account.took)}")
    for failure in account.failures[:5]:
        out.print(f"failed: {failure}", markup=False)
    out.print(account.line, soft_wrap=True)
    if as_json:
        print_json(dataclasses.asdict(account))
    return 1 if account.lost or account.failures else 0


def _play(local: LocalHive, out: Console, account: Account) -> None:
    from celery import Celery

    from hive.celery import install
    from hive.cli.cluster import cluster_of
    from hive.cli.demo import story
    from hive.cli.demo.documents import installed_documents
    from hive.cli.demo.site import DocumentSite
    from hive.cli.demo.stage import Stage

    with (
        cluster_of(install(Celery("hive"), local.settings)) as cluster,
        DocumentSite(installed_documents(DOCUMENTS), DELAY) as site,
    ):
        stage = Stage(cluster, out)
        alone = min(cluster.nodes())
        story.warm_up(stage, site, SPORES * SLOTS)
        story.summarize_documents(stage, site, account, alone)
        story.scan_package(stage, account, alone, SLOTS)
        story.lose_a_spore(stage, site, account)


@contextmanager
def _own_hive(out: Console) -> Iterator[LocalHive]:
    """A hive in a directory of its own, which is removed with it."""
    from hive.local.local_hive import LocalHive

    state = Path(tempfile.mkdtemp(prefix="hive-demo-"))
    try:
        # The demo's documents come from this machine; no other hive than this one may read private
        # addresses for it. A killed process cannot remove its temporary files.
        private = {"HIVE_FETCH_ALLOW_PRIVATE": "true", "TMPDIR": str(state)}
        local = LocalHive(state, spores=SPORES, concurrency=SLOTS, variables=private)
        began = time.monotonic()
        out.print("the hive starts: broker, nexus, spores …")
        local.start()
        try:
            out.print(
                f"all {SPORES} spores are online after {seconds(time.monotonic() - began)}; the "
                f"nexus answers at {local.nexus_url}/health"
            )
            yield local
        finally:
            _ignore_stops()
            out.print("\nstopping everything …")
            local.stop()
    finally:
        shutil.rmtree(state, ignore_errors=True)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM and a closed terminal stop the demo as Ctrl-C does, within the block."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_stops() -> None:
    """Ignore further signals: stopping is bounded, and a second Ctrl-C would leave processes."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
