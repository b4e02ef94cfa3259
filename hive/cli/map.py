"""`hive map`: one skill over many items, on all nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from hive.cli.items import (
    Priority,
    Seconds,
    json_object,
    read_items,
    split_arguments,
    with_fields,
)
from hive.cli.output import app_option, json_option, note
from hive.errors import InvalidInputError

if TYPE_CHECKING:
    from hive.cli.cluster import Cluster


@click.command("map", short_help="Run a skill over many items on all nodes.")
@click.argument("skill")
@click.argument("items", nargs=-1, required=True, metavar="ITEMS…|FILE|-")
@click.option(
    "--set",
    "fields",
    multiple=True,
    metavar="FIELD=VALUE",
    help="A field of the skill's input, the same for every item.",
)
@click.option(
    "--reduce",
    metavar="HOW",
    help="Make one value of all: sum, list, count, concat, merge, or a skill.",
)
@click.option(
    "--priority",
    type=Priority(),
    default="background",
    show_default=True,
    help="high_priority, background, or 0..10.",
)
@click.option(
    "--requirements", metavar="JSON", help="What a node must have, such as '{\"gpu\": true}'."
)
@click.option(
    "--timeout",
    type=Seconds(),
    metavar="SECONDS",
    help="The job's deadline, the wait for a spore included.",
)
@click.option(
    "--chunk",
    type=click.IntRange(min=1),
    help="Items that a slot takes at a time; found out while running when not given.",
)
@app_option
@json_option
def map_items(
    *,
    skill: str,
    items: tuple[str, ...],
    fields: tuple[str, ...],
    reduce: str | None,
    priority: str | int,
    requirements: str | None,
    timeout: float | None,
    chunk: int | None,
    application: str | None,
    as_json: bool,
) -> int:
    """Run SKILL over the items on all nodes; outcomes are printed as they come.

    Ctrl-C cancels the job.

    An item is a JSON value where it parses as JSON, else text; for a skill with an input model an
    object is its fields. One argument that names a file stands for the items in it: a JSON list
    (.json), or an item a line. A - reads them from stdin. Exit code 4: some items failed; 1: all
    did; 3: no spore came online before the timeout.

    \b
    Example:
      hive map summarize https://example.org/ https://example.com/
      hive map summarize addresses.txt --set sentences=2 --timeout 600
      seq 1000 | hive map square - --app shop.tasks:app --reduce sum --json
    """
    from hive.cli.cluster import connected, wait_for_spore
    from hive.cli.follow import JsonDocument, Lines, follow_job
    from hive.jobs.mapping import map as hive_map

    given = read_items(items)
    options: dict[str, Any] = {
        "priority": priority,
        "requirements": json_object(requirements, "--requirements"),
        "chunk": chunk or "auto",
        "feed": "thread",  # what the input waits for, a pipe as a rule, holds up no outcome
    }
    with connected(application) as cluster:
        known = cluster.skill(skill)
        given = with_fields(known, given, _fields(fields))
        left = wait_for_spore(cluster, timeout)
        job = hive_map(
            known.task, given, _reducer(cluster, reduce), timeout=left, app=cluster.app, **options
        )
        note(
            f"job {job.id}: {known.name} over {len(given) if isinstance(given, list) else 'the'} "
            "items"
        )
        show = JsonDocument(job.id) if as_json else Lines(only_failures=reduce is not None)
        return follow_job(
            job,
            cluster,
            show,
            label=known.name,
            whole=reduce is not None or not isinstance(given, list),
        )


def _fields(words: tuple[str, ...]) -> Mapping[str, Any]:
    positional, named = split_arguments(words)
    if positional:
        raise InvalidInputError(
            f"--set {positional[0]}: write it as FIELD=VALUE, for example --set sentences=2"
        )
    return named


def _reducer(cluster: Cluster, name: str | None) -> Any:
    """A built-in reduce by its name, any other as the skill of that name."""
    from hive.jobs.state.reduce import BUILT_IN

    return name if name is None or name in BUILT_IN else cluster.skill(name).task
