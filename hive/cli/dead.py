"""`hive dead`: the dead letters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from hive import json_text
from hive.cli.confirmation import confirmed, yes_option
from hive.cli.output import (
    console,
    exit_code,
    json_option,
    note,
    print_json,
    seconds,
    seen,
    table,
)
from hive.errors import UnknownTaskError

if TYPE_CHECKING:
    from datetime import datetime

    from hive.broker.ledger.dead_letters import DeadLetter, DeadLetters

DETAILS = {"args", "kwargs", "history"}

ids_argument = click.argument("ids", metavar="ID…", nargs=-1)


@click.group("dead", short_help="Look at the dead letters, send them again, purge them.")
def dead() -> None:
    """Look at the dead letters, send them again, purge them.

    A task becomes one when its process or node died under it HIVE_MAX_RETRIES + 1 times, or when no
    worker can read its message. ID is its task id, or publish id.

    \b
    Example:
      hive dead list
      hive dead retry --all
    """


@dead.command("list", short_help="List the dead letters, the newest first.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    metavar="N",
    help="How many at most.",
)
@click.option(
    "--offset",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Newest ones to pass over.",
)
@json_option
def list_letters(limit: int, offset: int, as_json: bool) -> None:
    """List the dead letters, the newest first.

    \b
    Example:
      hive dead list --limit 20 --offset 20
      hive dead list --json | jq -r '.[] | select(.task == "shop.pay") | .task_id'
    """
    with _dead_letters() as letters:
        page = letters.page(limit, offset)
        total = letters.count()
    if as_json:
        print_json([letter.model_dump(exclude=DETAILS) for letter in page])
    elif page:
        rows = [
            (
                letter.id,
                letter.task,
                letter.deaths,
                letter.reason,
                f"{seconds(letter.age)} ago",
                letter.home,
            )
            for letter in page
        ]
        title = f"dead letters {offset + 1} to {offset + len(page)} of {total}"
        console().print(
            table(
                title,
                ("task", "name", "deaths", "reason", "died", "home"),
                rows,
                right=("deaths", "died"),
            )
        )
    else:
        console().print(
            f"no dead letter{f' after the newest {offset}' if offset and total else ''}"
        )


@dead.command("show", short_help="Show one with its arguments and its deaths.")
@click.argument("letter_id", metavar="ID")
@json_option
def show(letter_id: str, as_json: bool) -> None:
    """Show one dead letter with its arguments and its last ten deaths.

    \b
    Example:
      hive dead show 0e0b3c1c-5d2f-4c0e-9a57-1a2b3c4d5e6f
    """
    with _dead_letters() as letters:
        letter = letters.find(letter_id)
    if letter is None:
        raise UnknownTaskError(
            f"No dead letter has the id {letter_id!r}; `hive dead list` shows them."
        )
    if as_json:
        print_json(letter.model_dump())
    else:
        for line in _described(letter):
            click.echo(seen(line))


@dead.command("retry", short_help="Send them again.")
@ids_argument
@click.option("--all", "every", is_flag=True, help="All dead letters.")
@json_option
def retry(ids: tuple[str, ...], every: bool, as_json: bool) -> int:
    """Send dead letters again: each goes back to its home queue, with its deaths counted anew.

    Exit code 4 when some IDs are unknown, 1 when all are.

    \b
    Example:
      hive dead retry 0e0b3c1c-5d2f-4c0e-9a57-1a2b3c4d5e6f
      hive dead retry --all
    """
    _check_choice(ids, every)
    with _dead_letters() as letters:
        if every:
            return _told(letters.retry_all(), [], as_json, "retried")
        missed = [name for name in dict.fromkeys(ids) if not letters.retry(name)]
    return _told(len({*ids}) - len(missed), missed, as_json, "retried")


@dead.command("purge", short_help="Forget them.")
@ids_argument
@click.option("--all", "every", is_flag=True, help="All dead letters.")
@yes_option
@json_option
def purge(ids: tuple[str, ...], every: bool, yes: bool, as_json: bool) -> int:
    """Forget dead letters for good. Asks first; their results say that they failed.

    Exit code 4 when some IDs are unknown, 1 when all are, or when the answer is no.

    \b
    Example:
      hive dead purge 0e0b3c1c-5d2f-4c0e-9a57-1a2b3c4d5e6f
      hive dead purge --all --yes
    """
    _check_choice(ids, every)
    what = "all dead letters" if every else f"{len(ids)} dead letter{'' if len(ids) == 1 else 's'}"
    if not confirmed(f"Purge {what}? They cannot be brought back.", yes):
        return 1
    with _dead_letters() as letters:
        if every:
            return _told(letters.purge_all(), [], as_json, "purged")
        missed = [name for name in dict.fromkeys(ids) if not letters.purge([name])]
    return _told(len({*ids}) - len(missed), missed, as_json, "purged")


def _told(count: int, unknown: list[str], as_json: bool, done: str) -> int:
    """Say how many of them were done. Returns: the exit code."""
    if as_json:
        print_json({done: count, "unknown": unknown})
    else:
        click.echo(f"{count} dead letter{'' if count == 1 else 's'} {done}")
        for name in unknown:
            note(f"no dead letter has the id {name!r}")
    return exit_code(count, len(unknown))


def _check_choice(ids: tuple[str, ...], every: bool) -> None:
    if bool(ids) == every:
        raise click.UsageError("Name dead letters by their IDs, or say --all.")


@contextmanager
def _dead_letters() -> Iterator[DeadLetters]:
    from hive.broker.ledger.dead_letters import DeadLetters
    from hive.cli.cluster import connected

    with connected() as cluster:
        yield DeadLetters(cluster.app)


def _described(letter: DeadLetter) -> Iterator[str]:
    yield f"task      {letter.task_id or '–'}"
    yield f"name      {letter.task or 'its message cannot be read'}"
    yield f"message   {letter.publish_id}, sent {_moment(letter.created_at)}"
    yield f"home      {letter.home}, priority {letter.priority}"
    yield f"died      {_moment(letter.died_at)}, {seconds(letter.age)} ago: {letter.reason}"
    yield f"deaths    {letter.deaths}"
    for death in letter.history:
        yield f"          {_moment(death.at)}  {death.node}  {death.reason}"
    yield f"args      {_json(letter.args)}"
    yield f"kwargs    {_json(letter.kwargs)}"


def _moment(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")


def _json(value: object) -> str:
    return "–" if value is None else json_text.write(value)
