"""How commands print: for a person at a terminal, for a pipe, and as JSON for a program."""

from __future__ import annotations

import io
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from hive import json_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

Command = TypeVar("Command", bound=Callable[..., Any])

PIPE_WIDTH = 140

# What a terminal would obey instead of showing it: controls, and what turns the text's direction.
# Half characters stand here as well: no terminal has them.
_UNSEEN = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_unanswered: ContextVar[Callable[[str], None] | None] = ContextVar("unanswered", default=None)
"""What ends the command's JSON with an error, should there be one; None where it needs no end."""


def json_option(command: Command) -> Command:
    """The option `--json` that every command has; the command gets it as `as_json`.

    A command that fails before it has written any JSON answers `{"error": …}`, on one line.
    """
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Print JSON for programs.",
        is_eager=True,
        callback=_expect_json,
    )(command)


def _expect_json(_context: click.Context, _option: click.Parameter, asked: bool) -> bool:
    ends_json_by(_answer_error if asked else None)
    return asked


def _answer_error(message: str) -> None:
    write_json(json_text.write({"error": message}))


def ends_json_by(end: Callable[[str], None] | None) -> None:
    """Say what makes whole JSON of what is written so far, given an error's message.

    None: it is whole, or there is none.
    """
    _unanswered.set(end)


def end_json(message: str) -> None:
    """The command has failed, or was interrupted: end its JSON, once."""
    end = _unanswered.get()
    ends_json_by(None)
    if end is not None:
        end(message)


def escape_what_cannot_be_said() -> None:
    """Let this process print backslash escapes of what a stream's encoding does not have."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


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
    write_json(json_text.write(data, indent=2))


def write_json(text: str, *, whole: bool = True) -> None:
    """Write JSON text to stdout, in what its encoding has.

    whole: it ends a document, and gets a newline.
    """
    _say(json_text.in_encoding(text, _encoding_of(sys.stdout)), nl=whole)
    if whole:
        ends_json_by(None)


def print_value(value: object, *, indent: int | None = None) -> None:
    """Write what a task returned to stdout: a text as it is, all else as JSON."""
    if isinstance(value, str):
        _say(seen(value) if sys.stdout.isatty() else value)
    else:
        text = json_text.write(value, indent=indent)
        _say(json_text.in_encoding(text, _encoding_of(sys.stdout)))


def _encoding_of(stream: TextIO) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


def _say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Write a text with escapes for what the stream does not have: click takes an encoding that has
    little for a mistake, and writes UTF-8 with question marks there.
    """
    encoding = _encoding_of(sys.stderr if err else sys.stdout)
    said = text.encode(encoding, "backslashreplace").decode(encoding)
    click.echo(said, err=err, nl=nl, color=True)


def seen(text: str) -> str:
    """The text with escapes for what a terminal would not show; newlines and tabs stay."""
    return _UNSEEN.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def note(text: str) -> None:
    """Tell the person something that is not the command's result."""
    _say(seen(text), err=True)


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
            self._out.print(seen(text), markup=False, soft_wrap=True)
        else:
            _say(text)

    def note(self, text: str) -> None:
        """Print a line for the person that is no result."""
        if self._live is not None:
            self._out.print(seen(text), markup=False, soft_wrap=True)
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
        made.add_row(*(Text(seen(str(cell))) for cell in row))
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
    line = seen(" ".join((value if isinstance(value, str) else json_text.write(value)).split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"
