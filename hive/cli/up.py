"""`hive up` and `hive down`: a whole hive on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Any

import click

from hive import json_text
from hive.cli.output import console, json_option, print_json, write_json
from hive.errors import HiveError, SettingsError
from hive.local.background import ReadyPipe, end, start_detached
from hive.local.local_hive import LocalHive
from hive.local.state_directory import StateDirectory
from hive.logs import log_to_stderr
from hive.settings import READY_APP, Settings
from hive.spore.machine.limits import read_limits

PORT = click.IntRange(0, 65535)

state_option = click.option(
    "--state",
    type=click.Path(path_type=Path),
    default=Path(".hive"),
    show_default=True,
    metavar="DIR",
    help="Directory for data, logs and secrets of this hive.",
)


@click.command("up", short_help="Start a broker, a nexus and spores on this machine.")
@click.option(
    "--spores",
    type=click.IntRange(0, 100),
    default=2,
    show_default=True,
    metavar="N",
    help="How many spores; 0 starts none.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Slots of each spore; the processors, shared out, by default.",
)
@click.option(
    "--redis-port",
    type=PORT,
    default=0,
    metavar="P",
    help="The broker's port; 0, the default, picks a free one.",
)
@click.option(
    "--http-port",
    type=PORT,
    metavar="P",
    help="The nexus' port, NEXUS_PORT by default; 0 picks a free one.",
)
@state_option
@click.option(
    "--app",
    "application",
    metavar="MODULE:APP",
    help="The spores' application; HIVE_APP or Hive's own by default.",
)
@click.option(
    "--detach",
    is_flag=True,
    help="Return when all nodes are online; the hive runs on in the background.",
)
@json_option
def up(
    *,
    spores: int,
    concurrency: int | None,
    redis_port: int,
    http_port: int | None,
    state: Path,
    application: str | None,
    detach: bool,
    as_json: bool,
) -> None:
    """Start an embedded broker, a nexus and spores on this machine, and keep them running until
    Ctrl-C.

    Once all nodes are online, DIR/hive.env holds the settings by which other programs find this
    hive, through HIVE_ENV_FILE.

    \b
    Example:
      hive up --spores 5 --concurrency 2 --detach
      hive status
      hive down
    """
    directory = StateDirectory(state)
    named = os.environ.get("HIVE_ENV_FILE")
    if named and Path(named).absolute().resolve() == directory.env_file:
        # A person's shell may still name the file that this command is about to write.
        del os.environ["HIVE_ENV_FILE"]
    settings = Settings.load()
    if not settings.enable_hive:
        raise SettingsError(
            "ENABLE_HIVE is false: a hive cannot be started. Remove it from the environment, or "
            "set ENABLE_HIVE=true."
        )
    concurrency = (
        concurrency
        or settings.hive_concurrency
        or max(2, int(read_limits().cpus) // max(1, spores))
    )
    http_port = settings.nexus_port if http_port is None else http_port
    application = application or settings.hive_app or READY_APP
    told = _Told(as_json, detached=detach)
    if detach:
        arguments = [
            "--spores",
            str(spores),
            "--concurrency",
            str(concurrency),
            "--redis-port",
            str(redis_port),
        ]
        arguments += [
            "--http-port",
            str(http_port),
            "--state",
            str(directory.path),
            "--app",
            application,
        ]
        with told.starting(spores):
            ready = start_detached(directory, arguments)
        told.ready(ready)
        return
    pipe = ReadyPipe()
    log_to_stderr(logging.INFO if pipe.detached else logging.WARNING)
    hive = LocalHive(
        state,
        spores=spores,
        concurrency=concurrency,
        redis_port=redis_port,
        http_port=http_port,
        app=application,
    )
    starting = contextlib.ExitStack()
    starting.enter_context(contextlib.nullcontext() if pipe.detached else told.starting(spores))

    def on_ready(hive: LocalHive) -> None:
        starting.close()
        pipe.ready(_described(hive)) if pipe.detached else told.ready(_described(hive))

    try:
        with starting:
            hive.run(on_ready, told.stopping)
    except HiveError as error:
        pipe.failed(error)
        raise


@click.command("down", short_help="Stop what `hive up` started.")
@state_option
@json_option
def down(state: Path, as_json: bool) -> None:
    """Stop the hive of a state directory, and whatever is left of one that was killed; at the
    latest after 30 seconds nothing of it runs.

    Its spores finish what they run, if that takes no longer; the rest runs at the next `hive up` on
    the same directory.

    \b
    Example:
      hive down --state .hive
    """
    directory = StateDirectory(state)
    ran = end(directory)
    if as_json:
        print_json({"state": str(directory.path), "was_running": ran})
    else:
        click.echo(
            f"The hive of {directory.path} has stopped."
            if ran
            else f"No hive runs in {directory.path}."
        )


class _Told:
    """What the person, or the program, at the other end is told."""

    def __init__(self, as_json: bool, *, detached: bool) -> None:
        self._as_json = as_json
        self._detached = detached

    def starting(self, spores: int) -> contextlib.AbstractContextManager[Any]:
        screen = console(stderr=True)
        what = f"Starting a broker, a nexus and {spores} spore{'' if spores == 1 else 's'} …"
        if screen.is_terminal:
            return screen.status(what)
        if not self._as_json:
            click.echo(what, err=True)
        return contextlib.nullcontext()

    def ready(self, hive: dict[str, Any]) -> None:
        if self._as_json:
            # The JSON is one line, which its reader can take while `hive up` runs on.
            write_json(json_text.write(hive))
            return
        nodes = hive["nodes"]
        click.echo(
            f"The hive is up: {len(nodes)} node{'' if len(nodes) == 1 else 's'} of {hive['slots']} "
            "slots online."
        )
        click.echo(f"  broker    {hive['broker']}")
        click.echo(f"  nexus     {hive['nexus']}/health")
        click.echo(f"  state     {hive['state']}")
        click.echo(f"  settings  HIVE_ENV_FILE={hive['env_file']}")
        click.echo(
            f"Stop it with `hive down --state {hive['state']}`."
            if self._detached
            else "Ctrl-C stops it."
        )

    def stopping(self) -> None:
        if not self._as_json:
            click.echo(
                "Stopping; the spores finish what they run for a few seconds. Another Ctrl-C "
                "hurries them.",
                err=True,
            )


def _described(hive: LocalHive) -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "state": str(hive.state.path),
        "env_file": str(hive.state.env_file),
        "broker": f"{hive.environment['REDIS_HOST']}:{hive.broker.port}",
        "nexus": hive.nexus_url,
        "nodes": list(hive.spores),
        "slots": hive.concurrency,
    }
