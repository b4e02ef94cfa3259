"""The demo's three acts: documents of a web site, a source tree, and a spore that dies."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from hive.cli.demo.site import DocumentSite
from hive.cli.demo.stage import Run, Stage
from hive.cli.output import seconds
from hive.cli.scan import findings_of, show_findings
from hive.errors import HiveError
from hive.jobs.state.outcomes import Outcome
from hive.tasks.scan import scan_path, scannable_files
from hive.tasks.web import summarize

PACKAGE = "celery"
SENTENCES = 3
SUMMARIES_SHOWN = 3
FINDINGS_SHOWN = 8


@dataclass(slots=True)
class Account:
    """What the demo's last line and its JSON say; times in seconds."""

    spores: int
    documents: int = 0
    documents_summarized: int = 0
    documents_all_nodes: float = 0.0
    documents_one_node: float = 0.0
    files: int = 0
    findings: int = 0
    scan_all_nodes: float = 0.0
    scan_one_node: float = 0.0
    killed: str | None = None
    run_again: int = 0
    lost: int = 0
    took: float = 0.0
    failures: list[str] = field(default_factory=list)

    def add(self, run: Run) -> None:
        """Count what a job lost or failed at."""
        self.lost += run.lost
        self.failures += [
            outcome.error or outcome.status for outcome in run.outcomes if outcome.status != "ok"
        ]

    @property
    def line(self) -> str:
        return (
            f"documents {self.documents_summarized} of {self.documents}, findings {self.findings}, "
            f"lost {self.lost}, "
            f"killed {1 if self.killed else 0} of {self.spores} spores, run again "
            f"{self.run_again}, {self.took:.1f} s"
        )


def warm_up(stage: Stage, site: DocumentSite, slots: int) -> None:
    """Let every slot load the skills' libraries, so that the runs that follow measure work."""
    began = time.monotonic()
    stage.run(summarize, pages(site)[:slots], "warm-up, web", chunk=1)
    stage.run(scan_path, package_files()[:slots], "warm-up, scan", chunk=1)
    stage.say(
        f"every slot has loaded its libraries once: {seconds(time.monotonic() - began)} (not "
        "counted below)"
    )


def pages(site: DocumentSite) -> list[dict[str, Any]]:
    """The items of a map over the site: the input of `summarize` for each document."""
    return [{"url": url, "sentences": SENTENCES} for url in site.urls]


def package_files() -> list[str]:
    """The modules of the installed package that is scanned."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise HiveError(f"The package {PACKAGE} has no source here, so there is nothing to scan.")
    return [file for file in scannable_files(str(Path(spec.origin).parent)) if file.endswith(".py")]


def summarize_documents(stage: Stage, site: DocumentSite, account: Account, alone: str) -> None:
    """Act one: documents over HTTP, fetched and summarized by all, then by one node alone."""
    items = pages(site)
    stage.title(f"1. {len(items)} documents, fetched and summarized to {SENTENCES} sentences")
    stage.say(
        "the descriptions of Python packages installed here, served at "
        f"{site.urls[0].rpartition('/')[0]}/, "
        f"each after a delay of {site.delay} s, as a distant site would"
    )
    run = stage.run(summarize, items, "summarize, all nodes")
    account.add(run)
    account.documents, account.documents_summarized, account.documents_all_nodes = (
        len(items),
        len(run.ok),
        run.took,
    )
    stage.show_nodes(run, "documents")
    for outcome in run.ok[:SUMMARIES_SHOWN]:
        stage.quote(outcome.value["title"] or outcome.value["url"], outcome.value["summary"])
    single = stage.run(summarize, items, f"summarize, {alone} alone", requirements={"node": alone})
    account.add(single)
    account.documents_one_node = single.took
    stage.say(
        f"all {account.spores} nodes: {seconds(run.took)}; {alone} alone: {seconds(single.took)}; "
        f"{single.took / run.took:.1f} times as fast ({account.spores} at most, were there nothing "
        "to do but wait)"
    )


def scan_package(stage: Stage, account: Account, alone: str, slots_each: int) -> None:
    """Act two: the source tree of an installed package, scanned by all, then by one node alone."""
    files = package_files()
    stage.title(
        f"2. {len(files)} modules of {PACKAGE} {version(PACKAGE)}, scanned for security problems"
    )
    run = stage.run(scan_path, files, "scan, all nodes")
    account.add(run)
    findings = findings_of(run.outcomes)
    account.files, account.findings, account.scan_all_nodes = len(files), len(findings), run.took
    stage.show_nodes(run, "files")
    show_findings(findings, stage.out, limit=FINDINGS_SHOWN, here=Path(files[0]).parents[1])
    single = stage.run(scan_path, files, f"scan, {alone} alone", requirements={"node": alone})
    account.add(single)
    account.scan_one_node = single.took
    cores = len(os.sched_getaffinity(0))
    used_alone = min(cores, slots_each)
    expected = min(cores, account.spores * slots_each) / used_alone
    stage.say(
        f"all {account.spores} nodes: {seconds(run.took)}; {alone} alone: {seconds(single.took)}; "
        f"{single.took / run.took:.1f} times as fast ({expected:.1f} expected: a scan burns CPU, "
        f"this machine has {cores} cores "
        f"for all nodes together, and one node alone keeps {used_alone} of them busy)"
    )


def lose_a_spore(stage: Stage, site: DocumentSite, account: Account) -> None:
    """Act three: a spore is killed in the middle of its work, and its items run elsewhere."""
    items = pages(site)
    stage.title("3. the same documents, and a spore is killed with work in its hands")
    victim = Victim(stage)
    run = stage.run(summarize, items, "summarize, one is killed", each=victim.strike)
    account.add(run)
    account.killed, account.run_again = victim.node, len(run.again)
    for outcome in run.again:
        name = items[outcome.index]["url"].rpartition("/")[2]
        stage.say(f"  {name}: attempt {outcome.attempts}, {outcome.status} on {outcome.node}")
    stage.say(
        f"{len(run.ok)} of {len(items)} documents are there, {run.lost} lost, {len(run.again)} ran "
        f"again elsewhere, in {seconds(run.took)} "
        f"(a node that sends no heartbeat for {seconds(stage.cluster.client.settings.dead_after)} "
        "is dead)"
    )
    stage.show_nodes(run, "documents")


class Victim:
    """Kills, with SIGKILL, the first spore that hands in an outcome and goes on with its next item:
    supervisor, worker and pool.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._nodes = stage.cluster.nodes()
        self.node: str | None = None

    def strike(self, outcome: Outcome) -> None:
        """Kill the outcome's node, unless one is dead already or it holds nothing."""
        if self.node is not None or outcome.node is None:
            return
        client = self._stage.cluster.client
        held = client.redis.hlen(client.key("reserved", outcome.node))
        if not held:
            return
        self.node = outcome.node
        worker = psutil.Process(self._nodes[outcome.node].facts.pid)
        supervisor = worker.ppid()
        for process in (supervisor, worker.pid):
            os.killpg(os.getpgid(process), signal.SIGKILL)
        self._stage.say(
            f"{outcome.node} is killed (supervisor {supervisor}, worker {worker.pid} and its pool) "
            f"while {held} of its slots work"
        )
