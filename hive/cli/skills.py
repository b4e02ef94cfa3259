"""`hive skills`: what can be asked of the hive."""

from __future__ import annotations

import inspect
from typing import Any

import click

from hive.cli.output import app_option, console, json_option, print_json, table
from hive.skills import Skill, registered


@click.command("skills", short_help="List the skills and what they take.")
@app_option
@json_option
def skills(application: str | None, as_json: bool) -> None:
    """List the skills that `hive map` and `hive run` can call.

    \b
    Example:
      hive skills
      hive skills --app shop.tasks:app --json
    """
    from hive.cli.cluster import load_application

    load_application(application)
    known = list(registered().values())
    if as_json:
        print_json([_described(skill) for skill in known])
        return
    rows = [(skill.name, skill.description, ", ".join(_parameters(skill))) for skill in known]
    console().print(table("skills", ("skill", "does", "takes"), rows))


def _parameters(skill: Skill) -> list[str]:
    """`url`, `sentences=3`: each parameter with its default."""
    if skill.input is None:
        return [
            _shown(parameter) for parameter in inspect.signature(skill.task.run).parameters.values()
        ]
    fields = skill.input.model_fields.items()
    return [
        name if field.is_required() or field.default is None else f"{name}={field.default!r}"
        for name, field in fields
    ]


def _shown(parameter: inspect.Parameter) -> str:
    return str(parameter.replace(annotation=parameter.empty))


def _described(skill: Skill) -> dict[str, Any]:
    schema = skill.input.model_json_schema() if skill.input else None
    return {
        "name": skill.name,
        "description": skill.description,
        "intents": list(skill.intents),
        "task": skill.task.name,
        "input": schema,
    }
