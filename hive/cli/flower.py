"""`hive flower`: Celery's web page."""

from __future__ import annotations

import logging
import os
import sys
from importlib import metadata
from pathlib import Path

import click

from hive import json_text
from hive.cli.output import app_option, json_option, write_json
from hive.errors import SettingsError
from hive.logs import log_to_stderr

OLDEST = "2.2"
"""The first Flower with `read_only`; one before passes the option over, and lets anybody act."""


@click.command("flower", short_help="Run Flower: Celery's web page, with Hive's queues.")
@app_option
@click.option("--host", metavar="HOST", help="Where to listen; HIVE_FLOWER_HOST by default.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="P",
    help="HIVE_FLOWER_PORT by default; 0 picks a free one.",
)
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
    metavar="FILE",
    help="A Flower configuration file with what differs from Hive's.",
)
@click.option("--read-write", is_flag=True, help="Let who logs in stop workers and revoke tasks.")
@json_option
def flower(
    *,
    application: str | None,
    host: str | None,
    port: int | None,
    config: Path | None,
    read_write: bool,
    as_json: bool,
) -> None:
    """Run Flower until Ctrl-C or SIGTERM; it needs the extra `flower`.

    It shows the workers, their tasks, and how many messages wait where, in the hive of --app, or
    HIVE_APP. It listens on loopback, and elsewhere only with HIVE_FLOWER_PASSWORD. What it has seen
    is kept in HIVE_HOME. A broker that is away is waited for. With --json the log on stderr is
    unchanged, and stdout gets one JSON line with the address.

    \b
    Example:
      hive flower --port 5555
      HIVE_FLOWER_HOST=0.0.0.0 hive flower --read-write
    """
    require_flower()
    if host is not None:
        os.environ["HIVE_FLOWER_HOST"] = host
    if port is not None:
        os.environ["HIVE_FLOWER_PORT"] = str(port)
    from hive.cli.cluster import load_application
    from hive.flower.serving import chosen, serve
    from hive.settings import Settings

    log_to_stderr()

    def announce(url: str, bound: int | None) -> None:
        if as_json:
            write_json(json_text.write({"url": url, "port": bound}))
        else:
            click.echo(f"flower listens on {url}")

    options = chosen(config, read_write=read_write)  # before an application is loaded for seconds
    serve(load_application(application or Settings.load().hive_app), options, announce)
    # While the broker is away, threads of Flower's try without end to reach it, and Python would
    # wait for them.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


def require_flower() -> None:
    """Raises: SettingsError where Flower is not installed, or too old to be read-only."""
    from packaging.version import Version

    install = "pip install 'venom-hive[flower]'"
    try:
        found = metadata.version("flower")
    except metadata.PackageNotFoundError:
        raise SettingsError(f"Flower is not installed: {install}") from None
    if Version(found) < Version(OLDEST):
        raise SettingsError(f"Flower {found} is too old, {OLDEST} is needed: {install}")
