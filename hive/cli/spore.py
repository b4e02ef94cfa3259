"""`hive spore`: a worker under a supervisor."""

from __future__ import annotations

import os

import click

from hive import json_text
from hive.cli.output import json_option, write_json
from hive.logs import log_to_stderr


@click.command("spore", short_help="Run a spore: a worker under a supervisor.")
@click.option(
    "--app",
    "application",
    metavar="MODULE:APP",
    help="The worker's application; HIVE_APP or Hive's own by default.",
)
@click.option(
    "--name",
    metavar="NAME",
    help="The node's name; HIVE_NODE_NAME or `spore` by default. Unique on its machine.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Slots; HIVE_CONCURRENCY or the processors by default.",
)
@json_option
def spore(application: str | None, name: str | None, concurrency: int | None, as_json: bool) -> int:
    """Run a spore until Ctrl-C or SIGTERM: a Celery worker that is started again whenever it ends.

    The first signal lets it finish its tasks, the second has it give them back. With --json the log
    on stderr is unchanged, and stdout gets one JSON line that names the node.

    \b
    Example:
      REDIS_HOST=10.0.0.5 hive spore --name gpu-1
      hive spore --app shop.tasks:app
    """
    from hive.process.supervisor import Supervisor
    from hive.settings import READY_APP, Settings
    from hive.spore.machine.limits import read_limits

    log_to_stderr()
    settings = Settings.load()
    slots = concurrency or settings.hive_concurrency or max(1, int(read_limits().cpus))
    app = application or settings.hive_app or READY_APP
    supervisor = Supervisor(app, settings, node_name=name, concurrency=slots)
    if as_json:
        told = {
            "node_name": supervisor.node_name,
            "slots": supervisor.concurrency,
            "pid": os.getpid(),
        }
        write_json(json_text.write(told))
    return supervisor.run()
