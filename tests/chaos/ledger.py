"""The ledger: what ran, told by the tasks themselves. Hive's own counters are not asked."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Run:
    """One run of a task: of which message, by whom, when (monotonic seconds); `ended` is None when
    it did not end.
    """

    publish_id: str
    incarnation: str
    pid: int
    label: str
    retries: int
    started: float
    ended: float | None = None

    @property
    def node(self) -> str:
        return self.incarnation.rpartition("/")[0]


@dataclass(slots=True)
class Ledger:
    """The file's runs, in the order of their starts; `read` brings them up to date."""

    path: Path
    runs: list[Run] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)
    """Labels of tasks of which at least one run ended."""
    _position: int = 0
    _of_pid: dict[int, Run] = field(default_factory=dict)

    def read(self) -> Ledger:
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._position)
                # A line that is just being written is read next time.
                text = file.read().rpartition(b"\n")[0]
            self._position += len(text) + 1 if text else 0
            for line in text.decode().splitlines():
                self._note(line)
        return self

    def _note(self, line: str) -> None:
        event, publish_id, incarnation, pid, label, retries, at = line.split(" ")
        if event == "start":
            self._of_pid[int(pid)] = run = Run(
                publish_id, incarnation, int(pid), label, int(retries), float(at)
            )
            self.runs.append(run)
        else:
            self._of_pid[int(pid)].ended = float(at)
            self.ended.add(label)

    def latest_of(self, pid: int) -> Run | None:
        """What a process started last."""
        return self._of_pid.get(pid)

    def running(self) -> list[Run]:
        """Each process's last run, if it has not ended; its process may be dead."""
        return [run for run in self._of_pid.values() if run.ended is None]

    def of(self, label: str) -> list[Run]:
        return [run for run in self.runs if run.label == label]

    def ran_again(self) -> list[Run]:
        """Of every message all runs but the last: each must have a reason."""
        of_message: dict[str, list[Run]] = defaultdict(list)
        for run in self.runs:
            of_message[run.publish_id].append(run)
        return [run for runs in of_message.values() for run in runs[:-1]]

    def published_twice(self) -> list[tuple[str, int]]:
        """Tasks (label, retries) that ran under more than one publication."""
        messages = {(run.label, run.retries, run.publish_id) for run in self.runs}
        times = Counter((label, retries) for label, retries, _ in messages)
        return [task for task, count in times.items() if count > 1]
