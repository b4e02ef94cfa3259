"""What an application can do: whether it sends, and which skills it offers."""

from __future__ import annotations

from typing import Any

from celery import Celery

from hive.errors import HiveError, UnknownSkillError
from hive.skills import Skill, find_skill, import_skills, registered


def require_sending(app: Celery, what: str) -> None:
    """Raise HiveError where the application runs its tasks in place, by `task_always_eager`, and
    where its result backend cannot be made: then Celery can send nothing.

    what: the call that needs a broker.
    """
    if app.conf.task_always_eager:
        raise HiveError(
            f"{what} needs a broker and spores, and task_always_eager runs tasks without; nothing "
            "was sent. Start a hive for the test with hive.testing.cluster, or turn "
            "task_always_eager off."
        )
    try:
        _ = app.backend
    except Exception as error:  # one that cannot be made raises anything
        raise HiveError(
            f"{what} sends tasks, and the application's result backend cannot be used ({error}); "
            "nothing was sent. Leave result_backend unset for Hive's, or install what it needs."
        ) from error


def skill_of(app: Celery, wanted: Any) -> Skill:
    """The skill of that name or task, as `hive.skills.find_skill`; the modules that the
    application's workers import are looked at too.

    Raises: UnknownSkillError listing the known names.
    """
    try:
        return find_skill(wanted)
    except UnknownSkillError:
        import_skills(app)
        return find_skill(wanted)


def skills_of(app: Celery) -> dict[str, Skill]:
    """All skills that the application's workers offer, by name."""
    import_skills(app)
    return registered()
