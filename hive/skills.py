"""What a skill is: a Celery task with a description, intents and a typed input.

By these, people and programs find it and call it.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from hive.applications import application, has_hive
from hive.errors import InvalidInputError, UnknownSkillError

if TYPE_CHECKING:
    from celery import Task
    from pydantic import BaseModel

Placement = Literal["scored", "shared"]


@dataclass(frozen=True, slots=True)
class Skill:
    """One entry of the registry.

    `intents` are phrases of plain words ("summarize", "article content") by which a description
    finds the skill. `placement="shared"` leaves its tasks in the shared queue instead of scoring
    nodes for them. `module` is where its function is defined.
    """

    name: str
    description: str
    task: Task[Any, Any]
    intents: tuple[str, ...] = ()
    input: type[BaseModel] | None = None
    placement: Placement = "scored"
    module: str = ""

    def arguments(self, item: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """How one item calls the skill.

        A dict is the fields of the input model, anything else the one argument.
        """
        if self.input is not None and isinstance(item, Mapping):
            return (), dict(item)
        return (item,), {}

    def check(self, *args: Any, **kwargs: Any) -> None:
        """Raise InvalidInputError when these arguments do not fit the input model."""
        if self.input is not None:
            _validated(self.name, self.input, args, kwargs)


_skills: dict[str, Skill] = {}


def skill(
    description: str,
    *,
    name: str | None = None,
    intents: Sequence[str] = (),
    input: type[BaseModel] | None = None,
    placement: Placement = "scored",
    **options: Any,
) -> Callable[[Callable[..., Any]], Task[Any, Any]]:
    """Make a function a skill.

    description: one line, shown by `hive skills`.
    name: its name in the hive, the function's by default; a later definition of the same name
    replaces the earlier. intents: phrases that a plain-words description may contain.
    input: a pydantic model whose fields are the function's parameters, in their order; arguments
        are checked against it before the function runs, and the function gets the checked values.
    options: passed on to `celery.shared_task`.

    Returns: the Celery task. Raises: InvalidInputError for a description that is not one line.
    """
    if not description.strip() or "\n" in description:
        raise InvalidInputError("A skill's description is one line that says what it does.")
    from celery import shared_task  # importing this module alone costs no Celery

    from hive.coroutines import refuse_generator

    def register(function: Callable[..., Any]) -> Task[Any, Any]:
        skill_name = name or function.__name__
        refuse_generator(skill_name, function)
        body = (
            function
            if input is None
            else _checking(skill_name, input, function, leading=1 if options.get("bind") else 0)
        )
        shared_task(**options)(body)
        task = _task_where_it_is_meant(options.get("name"), body)
        _skills[skill_name] = Skill(
            skill_name,
            description.strip(),
            task,
            tuple(intents),
            input,
            placement,
            function.__module__,
        )
        return task

    return register


def _task_where_it_is_meant(name: str | None, body: Callable[..., Any]) -> Task[Any, Any]:
    """The task as the application has it that is meant, asked at each use.

    Celery's own proxy asks the current application, which may be a plain one.
    """
    from celery import current_app
    from celery.local import Proxy

    def find() -> Task[Any, Any]:
        meant = application()
        app = meant if has_hive(meant) else current_app
        return app.tasks[name or app.gen_task_name(body.__name__, body.__module__)]

    return cast("Task[Any, Any]", Proxy(find))


def registered() -> dict[str, Skill]:
    """All known skills by name, in alphabetical order."""
    return dict(sorted(_skills.items()))


@contextmanager
def kept() -> Iterator[None]:
    """Leave the registry as it is.

    At the end, skills that were made inside are forgotten, and one that was replaced is back. Those
    of modules that were imported inside stay, since an import registers once.
    """
    before, modules = dict(_skills), set(sys.modules)
    try:
        yield
    finally:
        imported = {
            name: known
            for name, known in _skills.items()
            if name not in before and known.module in sys.modules.keys() - modules
        }
        _skills.clear()
        _skills.update(before | imported)


def forget(name: str) -> None:
    """Take a skill out of the registry; nothing when there is none of that name."""
    _skills.pop(name, None)


def find_skill(wanted: str | Task[Any, Any] | Skill) -> Skill:
    """The skill of that name, or of that task; a plain Celery task is a skill without description
    or input model.

    Raises: UnknownSkillError listing the known names.
    """
    if isinstance(wanted, Skill):
        return wanted
    if isinstance(wanted, str):
        known = _skills.get(wanted) or skill_of_task(wanted)
        if known is not None:
            return known
        raise UnknownSkillError(
            f"There is no skill named {wanted!r}. Known skills: "
            f"{', '.join(sorted(_skills)) or 'none'}."
        )
    task_name = getattr(wanted, "name", None)
    if not isinstance(task_name, str) or not callable(getattr(wanted, "apply_async", None)):
        raise UnknownSkillError(f"{wanted!r} is neither a task nor the name of a skill.")
    return skill_of_task(task_name) or Skill(task_name, "", wanted)


def skill_of_task(task_name: str | None) -> Skill | None:
    """The skill behind a Celery task; None for a task that is none."""
    return next((known for known in _skills.values() if known.task.name == task_name), None)


def import_skills(app: Any) -> None:
    """Import the modules that the application's workers import, which registers their skills."""
    app.loader.import_default_modules()


def _checking(
    skill_name: str, model: type[BaseModel], function: Callable[..., Any], leading: int
) -> Callable[..., Any]:
    """Wrap `function` so that it is called with the checked fields of `model`.

    leading: arguments that come first and are passed on unchecked (a bound task's self).
    """

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        values = _validated(skill_name, model, args[leading:], kwargs)
        return function(
            *args[:leading],
            **{field: getattr(values, field) for field in type(values).model_fields},
        )

    checked.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return checked


def _validated(
    skill_name: str, model: type[BaseModel], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> BaseModel:
    from pydantic import ValidationError

    fields = list(model.model_fields)
    if len(args) > len(fields):
        raise InvalidInputError(
            f"{skill_name} takes at most {len(fields)} arguments ({', '.join(fields)}), not "
            f"{len(args)}."
        )
    named = dict(zip(fields, args, strict=False))
    twice = named.keys() & kwargs.keys()
    unknown = kwargs.keys() - set(fields)
    if twice or unknown:
        fault = (
            f"{', '.join(sorted(twice))} given twice"
            if twice
            else f"unknown argument {', '.join(sorted(unknown))}"
        )
        raise InvalidInputError(f"{skill_name}: {fault}. It takes: {', '.join(fields)}.")
    try:
        return model.model_validate({**named, **kwargs})
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'input'}: "
            f"{fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors(include_url=False)
        )
        raise InvalidInputError(f"{skill_name} cannot use its input: {faults}.") from None
