"""`hive account`: the account of all messages, and settling it after a loss."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from hive.cli.confirmation import confirmed, yes_option
from hive.cli.output import console, json_option, print_json, table

if TYPE_CHECKING:
    from hive.broker.ledger.account import Look

MEANINGS = {
    "queued": "waiting in a queue",
    "placed": "bound to a node",
    "reserved": "running",
    "delayed": "not due yet",
    "dead": "dead letters",
    "done": "done",
    "written_off": "written off",
    "missing": "missing",
    "stranded": "in no place",
    "accepted": "accepted",
}


@click.command("account", short_help="Count all messages: is any lost?")
@click.option(
    "--settle",
    is_flag=True,
    help="Send home what is in no place, write off what is gone, end the alarm.",
)
@yes_option
@json_option
def account(settle: bool, yes: bool, as_json: bool) -> int:
    """Count every accepted message by where it is, all at one instant, and show the alarm where the
    account fails.

    --settle asks first. Exit code 1 while the account fails, or when the answer is no.

    \b
    Example:
      hive account
      hive account --settle
    """
    from hive.broker.ledger.account import Ledger
    from hive.cli.looking import looking

    if settle and not confirmed(
        "Settle the account? What is gone cannot be brought back, and is not counted as missing "
        "any more.",
        yes,
    ):
        return 1
    with looking() as client:
        ledger = Ledger(client)
        settled = ledger.settle() if settle else None
        found = ledger.look()
    if as_json:
        more = {"settled": {"sent_home": settled[0], "written_off": settled[1]}} if settled else {}
        print_json(
            _counts(found)
            | {
                "alarm": found.alarm
                and {**found.alarm.model_dump(), "sentence": found.alarm.sentence}
            }
            | more
        )
    else:
        _show(found, settled)
    return 1 if found.alarm or found.account.missing or found.account.stranded > 0 else 0


def _counts(found: Look) -> dict[str, Any]:
    account = found.account
    return {**asdict(account), "missing": account.missing, "stranded": max(0, account.stranded)}


def _show(found: Look, settled: tuple[int, int] | None) -> None:
    counts = _counts(found)
    out = console()
    if settled is not None:
        out.print(f"{settled[0]} sent home, {settled[1]} written off")
    rows = [(meaning, counts[name]) for name, meaning in MEANINGS.items()]
    out.print(table("messages", ("where", "messages"), rows, right=("messages",)))
    if found.alarm is not None:
        out.print(f"ALARM: {found.alarm.sentence}", markup=False, style="bold red")
