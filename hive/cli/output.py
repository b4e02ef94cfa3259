"""How commands print: for a person at a terminal, for a pipe, and as JSON for a program."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

Command = TypeVar("Command", bound=Callable[..., Any])

PIPE_WIDTH = 140


def json_option(command: Command) -> Command:
    """The option `--json` that every command has; the command gets it as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(command)


def app_option(command: Command) -> Command:
    """The option `--app` of commands that call skills by name; the command gets it as
    `application`.
    """
    text = "Application whose skills and hive to use instead of Hive's own."
    return click.option("--app", "application", metavar="MODULE:APP", help=text)(command)


def exit_code(done: int, failed: int) -> int:
    """What a command about several things ends with: 0 all are done, 1 all failed,
    4 partly failed.
    """
    if not failed:
        return 0
    return 4 if done else 1


def print_json(data: object) -> None:
    """Write one JSON document to stdout; what JSON has no word for is written as its text."""
    click.echo(json.dumps(data, ensure_ascii=False, indent=2, default=str))


def note(text: str) -> None:
    """Tell the person something that is not the command's result."""
    click.echo(text, err=True)


def console(*, stderr: bool = False) -> Console:
    """A rich console; in a pipe it is wide enough that no cell is cut at 80 columns."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else PIPE_WIDTH)


class Bar:
    """How far a long work is. Use it as a context.

    On a terminal it is a live bar; elsewhere a plain line on stderr every `line_every` seconds.
    """

    def __init__(self, label: str, *, out: Console | None = None, line_every: float = 5.0) -> None:
        """out: the console of a live bar, which may print meanwhile; that of stdout if not given,
        or of stderr where stdout is a pipe.
        """
        self.label = label
        self._out = out or console(stderr=not sys.stdout.isatty())
        self._line_every = line_every
        self._last: tuple[float, tuple[int, int | None, int]] = (time.monotonic(), (0, None, 0))
        self._live: Progress | None = None
        if self._out.is_terminal:
            self._live = _live_bar(self._out)
            self._task = self._live.add_task(label, total=None, failed="")

    def __enter__(self) -> Bar:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def line(self, text: str) -> None:
        """Print a line of the command's result on stdout, above the bar if it is there, too."""
        if self._live is not None and not self._out.stderr:
            self._out.print(text, markup=False, soft_wrap=True)
        else:
            click.echo(text)

    def note(self, text: str) -> None:
        """Print a line for the person that is no result."""
        if self._live is not None:
            self._out.print(text, markup=False, soft_wrap=True)
        else:
            note(text)

    def progress(self, done: int, total: int | None, failed: int) -> None:
        """Show how far it is; a total of None is not known yet."""
        if self._live is not None:
            self._live.update(
                self._task, completed=done, total=total, failed=f"{failed} failed" if failed else ""
            )
            return
        shown_at, shown = self._last
        if shown != (done, total, failed) and time.monotonic() - shown_at >= self._line_every:
            self._last = (time.monotonic(), (done, total, failed))
            note(
                f"{self.label}: {done} of {'?' if total is None else total}"
                + (f", {failed} failed" if failed else "")
            )


def _live_bar(out: Console) -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]}"),
        TimeElapsedColumn(),
        console=out,
        transient=True,
    )


def table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Sequence[str] = (),
) -> Table:
    """A table of plain text cells, from which no markup is read.

    Columns named in `right` hold numbers.
    """
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
    return made


def seconds(value: float) -> str:
    """A duration for people: 0.31 s, 12.4 s, 3 min 05 s, 5 h 20 min, 3 d 04 h."""
    if value < 10:
        return f"{value:.2f} s"
    if value < 120:
        return f"{value:.1f} s"
    minutes = int(value) // 60
    if minutes < 120:
        return f"{minutes} min {int(value) % 60:02d} s"
    hours = minutes // 60
    return (
        f"{hours} h {minutes % 60:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24:02d} h"
    )


def short(value: object, limit: int = 100) -> str:
    """One line of a value, cut to `limit` characters: text as it is, all else as compact JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
