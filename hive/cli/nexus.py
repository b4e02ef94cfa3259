"""`hive nexus`: the master node's service."""

from __future__ import annotations

import click

from hive import json_text
from hive.cli.output import app_option, json_option, write_json
from hive.logs import log_to_stderr


@click.command("nexus", short_help="Run the nexus: the Foreman's watchdog and /health.")
@app_option
@json_option
def nexus(application: str | None, as_json: bool) -> None:
    """Run the nexus until Ctrl-C or SIGTERM.

    It watches over the cluster (brings back what dead nodes held) and answers /health on
    NEXUS_HOST:NEXUS_PORT. Several may run for one cluster; one at a time acts. With --json the log
    on stderr is unchanged, and stdout gets one JSON line with the address.

    With --app, or HIVE_APP, it does the duties and serves the routes that the application gave to
    hive.install, and tells of dead letters where the application keeps its results. A broker that
    is away is waited for.

    \b
    Example:
      NEXUS_PORT=8787 hive nexus
      curl http://127.0.0.1:8787/health
    """
    from hive.cli.cluster import load_application
    from hive.nexus.server import serve
    from hive.settings import READY_APP, Settings

    log_to_stderr()
    settings = Settings.load()
    named = application or settings.hive_app or READY_APP
    if named == READY_APP:
        from hive.celery import app  # its tasks are not needed here
    else:
        app = load_application(named)
    serve(app, settings, _announce_json if as_json else _announce)


def _announce(host: str, port: int) -> None:
    click.echo(f"nexus listens on {_address(host, port)}/health")


def _announce_json(host: str, port: int) -> None:
    write_json(json_text.write({"url": _address(host, port), "port": port}))


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
