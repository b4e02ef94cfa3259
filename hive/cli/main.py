"""The command `hive`: its subcommands by name, and what every one of them does with an error.

A subcommand's module is imported when it is called, so that `hive --help` answers at once.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from hive.cli.discovery import discover
from hive.cli.output import end_json, ends_json_by, escape_what_cannot_be_said, note
from hive.errors import HiveError, InvalidInputError

INTERRUPTED = 130

COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("hive.cli.up:up", "Start a broker, a nexus and spores on this machine."),
    "down": ("hive.cli.up:down", "Stop what `hive up` started."),
    "demo": (
        "hive.cli.demo.command:demo",
        "See the main job: a hive of five spores at work on this machine.",
    ),
    "nexus": ("hive.cli.nexus:nexus", "Run the nexus: the Foreman's watchdog and /health."),
    "flower": ("hive.cli.flower:flower", "Run Flower: Celery's web page, with Hive's queues."),
    "spore": ("hive.cli.spore:spore", "Run a spore: a worker under a supervisor."),
    "deploy": ("hive.cli.deploy:deploy", "Install Hive's services on this machine."),
    "status": ("hive.cli.status:status", "Show the nodes and the queues."),
    "node": ("hive.cli.node:node", "Look at the nodes, drain them, let them resume, forget them."),
    "queue": ("hive.cli.queue:queue", "Look at the queues, purge them."),
    "dead": ("hive.cli.dead:dead", "Look at the dead letters, send them again, purge them."),
    "health": ("hive.cli.health:health", "Tell whether what runs here is well; asks nobody."),
    "account": ("hive.cli.account:account", "Count all messages: is any lost?"),
    "map": ("hive.cli.map:map_items", "Run a skill over many items on all nodes."),
    "run": ("hive.cli.run:run", "Run a skill once and print its result."),
    "scan": ("hive.cli.scan:scan", "Scan a source tree for security problems."),
    "skills": ("hive.cli.skills:skills", "List the skills and what they take."),
    "job": ("hive.cli.job:job", "Show, follow or cancel a job."),
    "stack": ("hive.cli.stack:stack", "Run a hive in containers, by Docker and compose."),
}


class LazyGroup(click.Group):
    """A group that knows its commands' names and helps, and imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
def hive() -> None:
    """Hive turns Celery workers on a handful of machines into one compute cluster.

    Settings are read from the environment, from the file named by HIVE_ENV_FILE, and from .env.
    Where none of them names a broker, the hive that `hive up` started in this directory is used.

    \b
    Example:
      hive up --spores 5
      hive map summarize https://example.org/ https://example.com/

    \b
    Exit codes: 0 done, 1 failed, 2 wrong use, 3 cluster unreachable,
    4 partly failed, 130 interrupted.
    """


def main() -> NoReturn:
    """Run the command line of this process and end it with the command's exit code."""
    escape_what_cannot_be_said()
    code = execute(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader is gone (`hive … | head`). Click says nothing and ends with 1 when a write
        # meets it; so does the last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = code or 1
    # The process ends here: Python need not look for garbage among all that was imported, which it
    # would do several times over, for a third of the time of `hive status`.
    gc.freeze()
    sys.exit(code)


def execute(arguments: Sequence[str]) -> int:
    """Run one command; every error that is not a defect of Hive is one line on stderr.

    Returns: the exit code.
    """
    ends_json_by(None)
    try:
        if arguments and arguments[0] in COMMANDS:
            discover(arguments)
        result = hive.main(list(arguments), prog_name="hive", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        end_json(error.format_message())
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        end_json("interrupted")
        return INTERRUPTED
    except HiveError as error:
        return complain(error)
    except Exception as error:
        known = _expected(error)
        if known is None:
            end_json(f"a defect of Hive: {error!r}")
            raise
        return complain(known)


def complain(error: HiveError) -> int:
    """Print the error as one line on stderr, and in the command's JSON. Returns: its exit code."""
    note(f"{_mark_of_errors()}hive: {' '.join(error.message.split())}")
    end_json(error.message)
    return error.exit_code


def _mark_of_errors() -> str:
    if "JOURNAL_STREAM" not in os.environ:
        return ""  # logging need not be loaded, which `hive health` has no use for
    import logging

    from hive.logs import journal_mark

    return journal_mark(logging.ERROR)


def _expected(error: Exception) -> HiveError | None:
    """The Hive error that stands for an error of the broker's libraries or of the operating system;
    None for a defect.
    """
    import kombu.exceptions
    import redis

    from hive.broker.link.client import broker_errors

    if isinstance(error, kombu.exceptions.OperationalError | redis.exceptions.RedisError):
        try:
            with broker_errors():
                raise error
        except HiveError as translated:
            return translated
        except redis.exceptions.RedisError as refused:
            return HiveError(f"The broker refused a command: {refused}")
    if isinstance(error, OSError):
        return HiveError(str(error))
    if isinstance(error, UnicodeEncodeError):
        return InvalidInputError(f"{error.object!a:.100} is no text that can be sent.")
    return None
