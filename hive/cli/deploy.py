"""`hive deploy systemd`: Hive's services on this machine."""

from __future__ import annotations

import re
from dataclasses import asdict

import click

from hive.cli.flower import require_flower
from hive.cli.output import json_option, note, print_json
from hive.deploy.manager import HOME, USER, require_systemd
from hive.deploy.program import this_program
from hive.deploy.systemd import FLOWER, Done, install, remove

MOST_SPORES = 100
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
ENV_FILE = "/etc/hive/hive.env"


class SporeNames(click.ParamType[tuple[str, ...]]):
    """A number N, which means spore-1 to spore-N, or names."""

    name = "spores"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        text = str(value).strip()
        if text.isdecimal():
            if int(text) > MOST_SPORES:
                self.fail(f"{text} are too many; at most {MOST_SPORES}.", param, ctx)
            return tuple(f"spore-{number}" for number in range(1, int(text) + 1))
        names = tuple(name.strip() for name in text.split(","))
        for name in names:
            if NAME.fullmatch(name) is None:
                self.fail(f"{name!r} is no name: letters, digits, '.', '_', '-'.", param, ctx)
        return names


@click.group("deploy", short_help="Install Hive's services on this machine.")
def deploy() -> None:
    """Install Hive where it is to run for good.

    \b
    Example:
      sudo /opt/hive/bin/hive deploy systemd --spores 2
    """


@deploy.command("systemd", short_help="Run Hive under systemd.")
@click.option(
    "--spores",
    type=SporeNames(),
    metavar="N|NAMES",
    help="How many spores, or their names; the first time one by default, 0 for none.",
)
@click.option(
    "--nexus/--no-nexus",
    default=None,
    help="Whether this machine has a nexus; it has one unless the first call said no.",
)
@click.option("--flower", is_flag=True, help="This machine shows Flower, too.")
@click.option(
    "--gpu/--no-gpu",
    default=None,
    help="Whether spores may open NVIDIA's devices; by default where there are some.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--remove", "removes", is_flag=True, help="Stop the services, take the units away.")
@json_option
def systemd(
    *,
    spores: tuple[str, ...] | None,
    nexus: bool | None,
    flower: bool,
    gpu: bool | None,
    dry_run: bool,
    removes: bool,
    as_json: bool,
) -> None:
    """Write units that run this very `hive`, enable them, and make the user `hive` and its settings
    in /etc/hive/hive.env. Needs root. Nothing is started.

    Once more, after an upgrade or with more spores, it changes what is out of date. It keeps
    hive.env, units that were edited, and what was disabled since. --remove keeps these and all
    data.

    \b
    Example:
      sudo /opt/hive/bin/hive deploy systemd --spores 2
      sudo /opt/hive/bin/hive deploy systemd --no-nexus --spores gpu-1,gpu-2
      sudo systemctl start hive.target
    """
    if removes and (spores is not None or flower or gpu is not None or nexus is not None):
        raise click.UsageError("--remove takes all of it away, and goes with --dry-run only.")
    if not dry_run:
        require_systemd()
    if removes:
        done = remove(dry_run=dry_run)
    else:
        if flower:
            require_flower()
        done = install(
            this_program(),
            spores=spores,
            nexus=nexus,
            flower=flower,
            gpu=gpu,
            dry_run=dry_run,
        )
    if as_json:
        print_json(asdict(done))
        return
    _tell(done)
    _tell_removed(done) if removes else _tell_next(done)


def _tell(done: Done) -> None:
    would = "would have " if done.dry_run else ""
    if done.user_made:
        click.echo(f"{would}made the user {USER}")
    for word, names in (
        ("written", done.written),
        ("stopped", done.stopped),
        ("disabled", done.disabled),
        ("removed", done.removed),
        ("enabled", done.enabled),
    ):
        for name in names:
            click.echo(f"{would}{word} {name}")
    for path in done.kept:
        if path != ENV_FILE:
            note(
                f"kept {path}: it is not as Hive wrote it. Changes in a drop-in (`systemctl edit`) "
                "let the unit itself stay up to date."
            )
    for sentence in done.notes:
        note(sentence)


def _tell_removed(done: Done) -> None:
    if not done.removed and not done.kept:
        click.echo("Nothing of Hive is installed under systemd here.")
        return
    click.echo(f"Kept: {ENV_FILE}, what is in {HOME}, and the user {USER}.")


def _tell_next(done: Done) -> None:
    if not (done.user_made or done.written or done.enabled):
        click.echo("All is as it should be; nothing to do.")
    elif done.running:
        click.echo("What runs goes on as it was. Next: systemctl restart hive.target")
    else:
        click.echo(f"Next: name the broker in {ENV_FILE}, then `systemctl start hive.target`.")
    if FLOWER in done.enabled:
        note("Flower listens on 127.0.0.1:5555, unless hive.env says otherwise.")
