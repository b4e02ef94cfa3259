"""What a caller names for a job to call, for its items or to reduce them.

It is a task, a skill, or a signature: a task with arguments that all its calls share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from celery import Celery, Signature, signature

from hive.broker.application import skill_of
from hive.broker.channel.time_limits import fitting, hard_limit
from hive.errors import InvalidInputError, UnknownSkillError
from hive.jobs.state.outcomes import json_fault, to_json
from hive.jobs.state.plan import Call
from hive.skills import Skill, find_skill, import_skills

LIMITS = ("soft_time_limit", "time_limit")
WISHES = ("priority", "requirements")
"""Options of a signature that say something about a whole job."""

_CANVAS = "celery."


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be called. options: the signature's own."""

    skill: Skill
    call: Call
    options: Mapping[str, Any] = field(default_factory=dict)

    def limits(self, app: Celery, default: float) -> tuple[float, float]:
        """The soft and the hard limit of one call in seconds, the signature's or its task's own.

        default: seconds, where neither has one.
        """
        own = [self.options.get(name) or getattr(self.skill.task, name, None) for name in LIMITS]
        hard, soft = fitting(own[1], own[0], app.conf)
        soft = soft or hard or default
        return soft, hard or hard_limit(soft)


def asked(app: Celery, wanted: Any, *, does: str, allowed: tuple[str, ...]) -> Asked:
    """What `wanted` is to call.

    wanted: a task, a skill or its name, or a signature, as an object or as the dict that it becomes
    in a message. does: what it is wanted for, as in "the skill of a map". allowed: the options of a
    signature that mean something there.

    Raises: UnknownSkillError for what is none of these, or unknown here; InvalidInputError for a
        signature that is more than one task, has other options, or arguments that cannot be used.
    """
    if isinstance(wanted, Mapping) and isinstance(wanted.get("task"), str):
        wanted = signature(dict(wanted), app=app)
    if not isinstance(wanted, Signature):
        found = _as_in(app, skill_of(app, wanted))
        return Asked(found, Call(name=found.task.name))
    several = wanted.get("subtask_type") or _canvas_of(wanted["task"])
    if several:
        raise InvalidInputError(
            f"{does.capitalize()} is one task, and a {several} is several: write a task that does "
            "what they do."
        )
    skill = _as_in(app, find_skill(_task_of(app, wanted)))
    options = _options(wanted, skill.task.name, does=does, allowed=allowed)
    args, kwargs = tuple(wanted.get("args") or ()), dict(wanted.get("kwargs") or {})
    immutable = bool(wanted.get("immutable"))
    if not (args or kwargs or immutable):
        return Asked(skill, Call(name=skill.task.name), options)
    fault = json_fault([args, kwargs])
    if fault:
        raise InvalidInputError(f"The arguments of the signature of {skill.task.name} {fault}.")
    call = Call(name=skill.task.name, arguments=to_json([args, kwargs]), immutable=immutable)
    _check_arguments(skill, call, does)
    return Asked(skill, call, options)


def _as_in(app: Celery, skill: Skill) -> Skill:
    """The skill with the task that this application has under its name."""
    return replace(skill, task=app.tasks.get(skill.task.name, skill.task))


def _canvas_of(task: str) -> str:
    """`map` for the signature of `celery.map`, and so on; "" for a task of an application's."""
    return task.removeprefix(_CANVAS) if task.startswith(_CANVAS) else ""


def _task_of(app: Celery, wanted: Signature[Any]) -> Any:
    name: str = wanted["task"]
    if name not in app.tasks:
        import_skills(app)
    if name in app.tasks:
        return app.tasks[name]
    try:
        return wanted.type
    except KeyError:
        raise UnknownSkillError(
            f"This program does not know the task {name!r} of the signature: import the module "
            "that defines it."
        ) from None


def _options(
    wanted: Signature[Any], name: str, *, does: str, allowed: tuple[str, ...]
) -> dict[str, Any]:
    given = {
        key: value for key, value in (wanted.get("options") or {}).items() if value is not None
    }
    others = sorted(given.keys() - set(allowed))
    if others:
        raise InvalidInputError(
            f"The signature of {name} says {', '.join(others)}, which means nothing for {does}: it "
            "runs within a job and is no message of its own. Of a signature's options it takes "
            f"{', '.join(allowed)}."
        )
    for limit in LIMITS:
        seconds = given.get(limit, 1)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
            raise InvalidInputError(
                f"The {limit} of a signature is a number of seconds above 0; it cannot be "
                f"{seconds!r}."
            )
    return given


def _check_arguments(skill: Skill, call: Call, does: str) -> None:
    """Raise InvalidInputError where no item could be called with these arguments.

    Only their number and names are looked at: the item's place is taken by None. What a skill with
    an input model is missing an item may bring along, which is a dict of fields.
    """
    args, kwargs = call.with_own((None,), {})
    if skill.input is not None:
        unknown = kwargs.keys() - skill.input.model_fields.keys()
        fault = f"it takes no {', '.join(sorted(unknown))}" if unknown else ""
    else:
        fault = _arity_fault(skill.task, args, kwargs)
    if fault:
        raise InvalidInputError(
            f"{call.name} as {does} cannot be called with the arguments of its signature: {fault}."
        )


def _arity_fault(task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """What Celery would say before it sends the task with these; "" for nothing."""
    header = getattr(task, "__header__", None) if getattr(task, "typing", False) else None
    if header is None:
        return ""
    try:
        header(*args, **kwargs)
    except TypeError as error:
        return str(error)
    return ""
