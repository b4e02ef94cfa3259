"""README, docs and examples say what is so: every setting, every Redis key, every command, and no
dead link.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from hive.cli.main import COMMANDS, hive
from hive.settings import Settings
from tests.docs.blocks import blocks_of
from tests.docs.keys import (
    Lua,
    documented_keys,
    keys_in_python,
    keys_in_sources,
    mentioned_keys,
    named_by,
)

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples" / "README.md",
    *sorted(DOCS.glob("*.md")),
)
IN_NO_MODEL = {"HIVE_ENV_FILE"}


def test_the_settings_page_names_every_variable_with_its_default() -> None:
    rows = dict(
        re.findall(
            r"^\| `([A-Z_]+)` \| (?:`([^`]*)`|–) \|",
            (DOCS / "settings.md").read_text(),
            re.MULTILINE,
        )
    )
    defaults = {
        name.upper(): field.get_default(call_default_factory=True)
        for name, field in Settings.model_fields.items()
    }
    assert rows.keys() == defaults.keys() | IN_NO_MODEL
    assert {name: rows[name] for name in defaults} == {
        name: _written(default) for name, default in defaults.items()
    }


def _written(default: object) -> str:
    """A default as it stands in a settings file; empty for what is not set."""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, float):
        return f"{default:g}"
    return "" if default in (None, {}) else str(default)


def test_the_keys_page_names_every_key_that_the_sources_make() -> None:
    named = mentioned_keys((DOCS / "keys.md").read_text())
    made = keys_in_sources(ROOT / "hive")
    assert len(made) > 40
    assert {
        name: file
        for name, file in made.items()
        if not any(named_by(name, known) for known in named)
    } == {}


def test_the_keys_page_names_no_key_of_hives_that_the_sources_do_not_make() -> None:
    made = keys_in_sources(ROOT / "hive")
    assert [
        key.name
        for key in documented_keys((DOCS / "keys.md").read_text())
        if key.name.startswith("venom:") and key.name not in made
    ] == []


@pytest.mark.parametrize(
    ("lua", "keys"),
    [
        (
            "local P = ARGV[1] .. 'venom:'\nreturn redis.call('GET', P .. 'one')",
            {"venom:", "venom:one"},
        ),
        (
            "local a, b = 'venom:a', ARGV[1] .. \"venom:b:\" .. ARGV[2]\nreturn {b .. ':c'}",
            {"venom:a", "venom:b:<>", "venom:b:<>:c"},
        ),
        ("-- 'venom:said'\nreturn f(x)['k'] .. 'venom:' .. g(y, 'z').h .. ':t'", {"venom:<>:t"}),
        ("local k = 'venom:k'\nlocal k = 1\nreturn k .. ':old'", {"venom:k"}),
    ],
)
def test_keys_are_found_in_lua(lua: str, keys: set[str]) -> None:
    assert Lua(lua).keys() == keys


def test_keys_are_found_in_python() -> None:
    lines = (
        'client.key("nodes", node, "x")',
        'f"{SPACE}req:{digest}"',
        'prefix + SPACE + "wake:"',
        'job_key(c, id, "state")',
        '"as venom:prose"',
    )
    assert keys_in_python("\n".join(lines)) - {"venom:"} == {
        "venom:nodes:<>:x",
        "venom:req:<>",
        "venom:wake:",
        "venom:job:<>:state",
    }


def _commands() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(hive)
    for name in COMMANDS:
        command = hive.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {sub}", found) for sub, found in command.commands.items())
        else:
            yield name, command


def test_the_command_line_page_has_every_command_with_its_options() -> None:
    sections = dict(
        re.findall(
            r"^## hive ([a-z ]+)\n(.*?)(?=^## |\Z)",
            (DOCS / "cli.md").read_text(),
            re.MULTILINE | re.DOTALL,
        )
    )
    commands = dict(_commands())
    assert sections.keys() == commands.keys()
    options = {
        (name, option)
        for name, command in commands.items()
        for parameter in command.params
        for option in parameter.opts
        if option[:2] == "--"
    }
    assert {(name, option) for name, option in options if f"`{option}" not in sections[name]} - {
        (name, "--json") for name in commands
    } == set()


def test_the_docs_examples_are_the_files_in_examples() -> None:
    shown = {
        block.note[1]: block.text
        for block in blocks_of((ROOT / "README.md").read_text())
        if block.note and block.note[0] == "file"
    }
    assert shown == {file.name: file.read_text() for file in (ROOT / "examples").glob("*.py")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            dead.append(target)
    assert dead == []


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_how_long_a_publish_id_is_known_is_told_as_it_is() -> None:
    library = (ROOT / "hive/broker/channel/lua/lib.lua").read_text()
    ((remembered, bucket),) = re.findall(
        r"^local REMEMBERED, BUCKET = (\d+), (\d+)$", library, re.MULTILINE
    )
    assert int(remembered) % int(bucket) == 0, "else a set is looked at too few"
    numbers = {"four": 4.0, "two": 2.0}
    told = {
        file.name: re.findall(r"(\w+)\s+minutes\s+(?:after|at\s+least)", file.read_text())
        for file in (
            *(DOCS / name for name in ("channel.md", "keys.md", "reliability.md", "use.md")),
            *(ROOT / "hive" / name for name in ("errors.py", "broker/channel/refusals.py")),
        )
    }
    assert {name: {numbers[word] for word in words} for name, words in told.items()} == {
        name: {int(remembered) / 60_000} for name in told
    }
