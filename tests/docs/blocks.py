"""The fenced code blocks of a Markdown file, and how one is run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LANGUAGES = {"python": "python", "py": "python", "bash": "bash", "sh": "bash", "shell": "bash"}
"""Words after the fence that mean code to run; blocks of other languages are shown only."""

FENCE = re.compile(r"^ {0,3}(?P<fence>`{3,}|~{3,})\s*(?P<language>[\w+-]*)[^`]*$")
NOTE = re.compile(r"^\s*<!--\s*(?P<word>not run|file):\s*(?P<text>.*?)\s*-->\s*$")


@dataclass(frozen=True, slots=True)
class Block:
    """One block.

    `note` is the comment directly before it: ("not run", reason) or ("file", name to write it to).
    """

    line: int
    language: str
    text: str
    note: tuple[str, str] | None

    @property
    def runs(self) -> bool:
        """Whether it is code for the runner: to run,
        or to write to a file that later blocks use.
        """
        return (self.language in LANGUAGES and self.note is None) or (
            self.note is not None and self.note[0] == "file"
        )


def blocks_of(text: str) -> list[Block]:
    """The blocks of a Markdown text in order.

    Raises: ValueError for a fence that never ends and for a note without text.
    """
    blocks = []
    lines = enumerate(text.splitlines(), 1)
    note: tuple[str, str] | None = None
    for number, line in lines:
        if found := NOTE.match(line):
            if not found["text"]:
                raise ValueError(f"line {number}: the comment {found['word']!r} says nothing")
            note = (found["word"], found["text"])
        elif opening := FENCE.match(line):
            body = _body(lines, opening["fence"], number)
            blocks.append(Block(number, opening["language"].lower(), body, note))
            note = None
        elif line.strip():
            note = None
    return blocks


def _body(lines: enumerate[str], fence: str, number: int) -> str:
    body: list[str] = []
    for _, line in lines:
        if re.fullmatch(rf" {{0,3}}{re.escape(fence[0])}{{{len(fence)},}}\s*", line):
            return "".join(f"{kept}\n" for kept in body)
        body.append(line)
    raise ValueError(f"line {number}: this fence never ends")


def run_block(block: Block, directory: Path, env: Mapping[str, str], limit: float) -> str | None:
    """Run one block in `directory`, or write it to its file.

    A python block is a program of its own, a bash block stops at its first failing command. `limit`
    is in seconds.

    Returns: None when it went well, else what it printed and how it ended.
    """
    if block.note and block.note[0] == "file":
        (directory / block.note[1]).write_text(block.text)
        return None
    if LANGUAGES[block.language] == "python":
        program = directory / f"block_{block.line}.py"
        program.write_text(block.text)
        command = [sys.executable, program.name]
    else:
        command = ["bash", "-euo", "pipefail", "-c", block.text]
    output = directory / f"block_{block.line}.out"
    # A file, not a pipe: a background process that the block leaves would keep a pipe open.
    with output.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            ending = f"exit code {process.wait(limit)}"
        except subprocess.TimeoutExpired:
            ending = f"still running after {limit:.0f} s"
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return None if process.returncode == 0 else f"{ending}\n{output.read_text(errors='replace')}"
