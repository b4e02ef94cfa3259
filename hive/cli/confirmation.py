"""Asking before something is lost."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def yes_option(command: Command) -> Command:
    """The option `--yes` of commands that ask first; the command gets it as `yes`."""
    return click.option(
        "--yes", is_flag=True, help="Do not ask; needed where nobody can be asked."
    )(command)


def confirmed(question: str, yes: bool) -> bool:
    """Ask on stderr; `yes` is the answer already given.

    Returns: whether to go on.
    Raises: click.UsageError where there is no terminal to ask at.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody can be asked here: say --yes.")
    return click.confirm(question, err=True)
