"""The process that scans files: paths come in by stdin, what is found goes out by stdout.

Run by `process.py`. A line in is a path; the lines out are its parts, each a dict with `findings`
and `skipped`, the last also with `done`. All lines are JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from hive.tasks.findings import Finding, Skipped
from hive.tasks.scanner.cpu_limit import FILE_CPU, end_alone
from hive.tasks.scanner.python_scan import scan_python
from hive.tasks.scanner.secret_scan import scan_text
from hive.tasks.source_tree import PYTHON, text_of

# Seconds of CPU of the ten that a file may cost. The tools stop by themselves and keep what they
# found; what goes on, the parent ends.
_FOR_PYTHON = 4.8
_FOR_SECRETS = 8.0
_FOR_SECRETS_OF_PYTHON = 4.2
# Generated source is deep: a sum of thousands of terms, as many branches. Frames of Python take no
# place on the stack.
_DEEPEST = 4_000


def serve(paths: TextIO, answers: TextIO) -> None:
    """Scan one file after the other until there are no more paths."""
    for line in paths:
        end_alone(FILE_CPU)
        for findings, skipped in parts(Path(json.loads(line))):
            _say(answers, findings, skipped, done=False)
        _say(answers, [], [], done=True)


def parts(file: Path) -> Iterator[tuple[list[Finding], list[Skipped]]]:
    """What each tool makes of a file."""
    python = file.suffix.lower() in PYTHON
    try:
        text = text_of(file)
    except OSError as error:
        yield [], [Skipped(path=str(file), reason=f"cannot be read: {error.strerror}", unread=True)]
        return
    except (SyntaxError, ValueError, LookupError):
        reason = "not in the encoding that it declares" if python else "not UTF-8"
        yield (
            [],
            [Skipped(path=str(file), reason=f"{reason}; not searched for secrets", unread=True)],
        )
    else:
        yield scan_text(file, text, _FOR_SECRETS_OF_PYTHON if python else _FOR_SECRETS)
    if python:
        # After the secrets: Python's parser is what the parent may have to end.
        yield scan_python(file, _FOR_PYTHON)


def _say(answers: TextIO, findings: list[Finding], skipped: list[Skipped], *, done: bool) -> None:
    part = {
        "findings": [found.model_dump() for found in findings],
        "skipped": [left.model_dump() for left in skipped],
        "done": done,
    }
    answers.write(json.dumps(part) + "\n")
    answers.flush()


def main() -> None:
    """Serve on the standard streams; what a tool prints goes nowhere."""
    # Ctrl-C is for the program behind the terminal; this process ends when its input does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.setrecursionlimit(_DEEPEST)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
