"""`hive stack`: a hive in containers, by Docker and compose."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hive.cli.confirmation import confirmed, yes_option
from hive.cli.items import Seconds
from hive.cli.output import console, json_option, note, print_json, table
from hive.errors import InvalidInputError

if TYPE_CHECKING:
    from hive.stack.containers import Container
    from hive.stack.stack import Stack

Command = TypeVar("Command", bound=Callable[..., Any])

name_option = click.option(
    "--name",
    default="hive",
    show_default=True,
    metavar="NAME",
    help="The stack, and its compose project.",
)
timeout_option = click.option(
    "--timeout",
    type=Seconds(),
    default=180.0,
    show_default=True,
    metavar="SECONDS",
    help="For all services to become healthy.",
)


@click.group("stack", short_help="Run a hive in containers, by Docker and compose.")
def stack() -> None:
    """Run a hive in containers: broker, nexus, spores and Flower, by Docker and compose.

    A stack is a directory, HIVE_HOME/stacks/NAME: its compose file, config/, and .env with its
    secrets, made at the first start.

    \b
    Example:
      hive stack up --spores 3
      hive stack status
      hive stack down
    """


@stack.command("up", short_help="Start a stack, or bring it to what its directory says.")
@name_option
@click.option(
    "--spores",
    type=click.IntRange(0, 100),
    metavar="N",
    help="How many spores; as many as run, else one.",
)
@click.option(
    "--file",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="F",
    help="A compose file of your own instead of Hive's; it is copied into the stack's directory.",
)
@click.option("--build", is_flag=True, help="Build Hive's image also where it is there.")
@click.option(
    "--wheels",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Build it from these wheels, without a network.",
)
@timeout_option
@json_option
def up(
    *,
    name: str,
    spores: int | None,
    file: Path | None,
    build: bool,
    wheels: Path | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Check everything, start the stack, and return when all its services are healthy.

    Hive's image is built where it is missing; secrets are made at the first start, and kept. Exit
    code 1 when it could not be started (a new stack is then gone again, its data are kept), 3 when
    no container engine answers, 4 when something of it is still starting at the end of the time.

    \b
    Example:
      hive stack up --spores 3
      hive stack up --name shop --file shop/docker-compose.yml
    """
    from hive.stack.stack import Wishes

    with _stack(name) as found:
        containers = found.up(_read(file), Wishes(spores, timeout, build, wheels))
        if as_json:
            print_json(found.status())
        else:
            _tell_up(found, containers)


@stack.command("down", short_help="End a stack; its data stay.")
@name_option
@click.option(
    "--volumes",
    is_flag=True,
    help="Remove its data too, accepted tasks among them, and its directory with the secrets.",
)
@yes_option
@json_option
def down(*, name: str, volumes: bool, yes: bool, as_json: bool) -> int:
    """End a stack: its spores finish what they run, for as long as they are given. What they do not
    finish, and all that waits, runs after the next `hive stack up`.

    \b
    Example:
      hive stack down
      hive stack down --volumes --yes
    """
    with _stack(name) as found:
        question = (
            f"Remove the data of the stack {name} for good, accepted tasks and secrets among them?"
        )
        if volumes and not confirmed(question, yes):
            return 1
        kept = found.down(volumes=volumes)
    if as_json:
        print_json({"name": name, "kept_volumes": kept})
    else:
        click.echo(f"The stack {name} has ended.")
        if kept:
            click.echo(f"Its data are kept, in the volumes {', '.join(kept)}.")
    return 0


@stack.command("status", short_help="Show the services of a stack.")
@name_option
@json_option
def status(name: str, as_json: bool) -> None:
    """Show the services of a stack, and how their containers are.

    \b
    Example:
      hive stack status
      hive stack status --json | jq -e .is_healthy
    """
    with _stack(name) as found:
        told = found.status()
    if as_json:
        print_json(told)
        return
    rows = [
        (
            service["service"],
            one["name"],
            one["state"],
            one["health"] or "",
            one["restarts"],
            " ".join(one["ports"]),
        )
        for service in told["services"]
        for one in service["containers"] or [_NONE]
    ]
    columns = ("service", "container", "state", "health", "restarts", "ports")
    title = f"stack {name} in {told['directory']}"
    console().print(table(title, columns, rows, right=("restarts",)))


_NONE = {"name": "", "state": "down", "health": None, "restarts": "", "ports": ()}


@stack.command("logs", short_help="Show what the services of a stack have written.")
@click.argument("service", required=False)
@name_option
@click.option(
    "--tail",
    type=click.IntRange(0, 100_000),
    default=100,
    show_default=True,
    metavar="N",
    help="Lines of each container.",
)
@json_option
def logs(*, service: str | None, name: str, tail: int, as_json: bool) -> None:
    """Show the last lines of a service, or of all, in the order of their times.

    \b
    Example:
      hive stack logs spore --tail 20
    """
    from hive.cli.output import seen

    with _stack(name) as found:
        text = found.logs(service, tail)
    if as_json:
        print_json({"name": name, "service": service, "lines": text.splitlines()})
    else:
        for line in text.splitlines():
            click.echo(seen(line))


@stack.command("scale", short_help="Run more or fewer spores.")
@click.argument("number", metavar="N|SERVICE=N")
@name_option
@timeout_option
@json_option
def scale(*, number: str, name: str, timeout: float, as_json: bool) -> None:
    """Run so many spores, or containers of another service. Those that are too many finish what
    they run; what they do not finish runs on the others.

    \b
    Example:
      hive stack scale 5
      hive stack scale spore=5
    """
    service, count = _scaled(number)
    with _stack(name) as found:
        found.scale(service, count, timeout=timeout)
        told = found.status()
    if as_json:
        print_json(told)
    else:
        click.echo(f"The stack {name} runs {service} {count}.")


def _scaled(text: str) -> tuple[str, int]:
    service, equals, number = text.rpartition("=")
    if not number.isascii() or not number.isdigit() or (equals and not service):
        raise InvalidInputError(f"{text!r} is neither a number nor SERVICE=N, as spore=5.")
    return service or "spore", int(number)


def _read(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InvalidInputError(f"The compose file {file} is not YAML: it is no text.") from None


def _tell_up(found: Stack, containers: list[Container]) -> None:
    from hive.stack.containers import counted

    click.echo(f"The stack {found.name} is up: {counted(containers)}.")
    for one in containers:
        for port in one.ports:
            scheme = "http://" if one.service == "flower" else ""
            click.echo(f"  {one.service:<9} {scheme}{port.partition('->')[0]}")
    click.echo(f"  settings  {found.directory.env_file}")
    click.echo(f"Stop it with `hive stack down --name {found.name}`.")


@contextlib.contextmanager
def _stack(name: str) -> Iterator[Stack]:
    """The stack of that name; who interrupts the work on it is told what of it stands."""
    from hive.stack.manager import stacks_directory
    from hive.stack.stack import Stack

    found = Stack(stacks_directory(), name, note)
    # To be told to end is the same as Ctrl-C: what was started for the work is ended, too.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield found
    except KeyboardInterrupt:
        note(found.standing())
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
