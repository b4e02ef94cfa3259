"""Skills: the decorator, the registry, and input that is checked before anything runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, Task, shared_task
from pydantic import BaseModel, Field, field_validator

from hive import skills
from hive.errors import InvalidInputError, UnknownSkillError
from hive.skills import find_skill, forget, registered, skill


class Page(BaseModel):
    url: str
    sentences: int = Field(3, ge=1)

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if "://" not in value:
            raise ValueError("should be an address")
        return value.strip()


@pytest.fixture(autouse=True)
def _a_registry_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    app = Celery("skills", broker="memory://", set_as_current=False)
    with skills.kept(), monkeypatch.context() as patch:
        for name in registered():
            forget(name)
        patch.setattr("celery._state._tls.current_app", app, raising=False)
        yield


_modules = itertools.count()


def summarize(**options: Any) -> Task[Any, Any]:
    def summarize(url: str, sentences: int = 3) -> list[Any]:
        """Tell what a page says."""
        return [url, sentences]

    return made_skill(summarize, intents=("summarize", "article content"), **options)


def bound_summarize() -> Task[Any, Any]:
    def summarize(self: Task[Any, Any], url: str, sentences: int = 3) -> list[Any]:
        assert self.name.endswith(".summarize")
        return [url, sentences]

    return made_skill(summarize, bind=True)


def made_skill(function: Callable[..., Any], **options: Any) -> Task[Any, Any]:
    """As if each had a module of its own: a task's name is its module's and its function's."""
    function.__module__ = f"module{next(_modules)}"
    return skill("Summarize a page", input=Page, **options)(function)


def test_a_skill_is_a_task_that_is_known_by_its_name() -> None:
    task = summarize(name="sum_up", rate_limit="1/s", placement="shared")
    found = find_skill("sum_up")
    assert (found.name, found.description, found.intents) == (
        "sum_up",
        "Summarize a page",
        ("summarize", "article content"),
    )
    assert (found.input, found.placement, found.task) == (Page, "shared", task)
    assert task.__doc__ == "Tell what a page says."
    assert (task.name.endswith(".summarize"), task.rate_limit) == (True, "1/s")
    assert find_skill(task) is find_skill(task.name) is find_skill(found) is found


def test_a_skill_without_a_name_has_its_functions() -> None:
    summarize()
    assert list(registered()) == ["summarize"]


def test_the_registry_is_in_alphabetical_order_and_a_later_definition_replaces() -> None:
    for name in ("b", "c", "a", "b"):
        last = summarize(name=name)
    assert list(registered()) == ["a", "b", "c"]
    assert registered()["b"].task is last


@pytest.mark.parametrize("description", ["", "  ", "two\nlines"])
def test_a_description_is_one_line(description: str) -> None:
    with pytest.raises(InvalidInputError, match="one line"):
        skill(description)


def test_an_unknown_skill_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownSkillError, match=r"no skill named 'fly'\. Known skills: none"):
        find_skill("fly")
    summarize(name="b")
    summarize(name="a")
    with pytest.raises(UnknownSkillError, match=r"Known skills: a, b\."):
        find_skill("fly")
    with pytest.raises(UnknownSkillError, match="neither a task nor the name"):
        find_skill(len)  # type: ignore[arg-type]


def test_a_plain_task_is_a_skill_without_description() -> None:
    @shared_task(name="skills_tests.add")
    def add(a: int) -> int:
        return a

    found = find_skill(add)
    assert (found.name, found.description, found.input, found.arguments(3)) == (
        "skills_tests.add",
        "",
        None,
        ((3,), {}),
    )
    assert registered() == {}


@pytest.mark.parametrize(
    ("item", "arguments"),
    [
        ("http://a", (("http://a",), {})),
        ({"url": "http://a"}, ((), {"url": "http://a"})),
        ([1], (([1],), {})),
    ],
)
def test_an_item_is_the_one_argument_and_a_dict_the_models_fields(
    item: Any, arguments: Any
) -> None:
    summarize()
    assert find_skill("summarize").arguments(item) == arguments


def test_without_a_model_a_dict_is_the_one_argument_too() -> None:
    @skill("Take what comes")
    def take(item: Any) -> Any:
        return item

    assert find_skill("take").arguments({"a": 1}) == (({"a": 1},), {})


@pytest.mark.parametrize(
    ("args", "kwargs", "result"),
    [
        (("http://a",), {}, ["http://a", 3]),
        (("http://a", "5"), {}, ["http://a", 5]),
        ((), {"sentences": 1, "url": "http://a "}, ["http://a", 1]),
    ],
)
@pytest.mark.parametrize("bound", [False, True])
def test_the_function_gets_the_checked_values(
    args: Any, kwargs: Any, result: Any, bound: bool
) -> None:
    task = bound_summarize() if bound else summarize()
    assert task(*args, **kwargs) == result
    assert task.apply(args, kwargs).get() == result
    find_skill("summarize").check(*args, **kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs", "fault"),
    [
        ((), {}, "url: Field required"),
        (("a",), {}, "url: should be an address"),
        (("http://a", 0), {}, "sentences: Input should be greater than or equal to 1"),
        (("http://a", 1, 2), {}, r"at most 2 arguments \(url, sentences\), not 3"),
        (("http://a",), {"url": "http://b"}, "url given twice. It takes: url, sentences"),
        ((), {"address": "http://b"}, "unknown argument address. It takes: url, sentences"),
    ],
)
@pytest.mark.parametrize("bound", [False, True])
def test_wrong_input_is_refused_before_anything_runs(
    args: Any, kwargs: Any, fault: str, bound: bool
) -> None:
    task = bound_summarize() if bound else summarize()
    for call in (task, find_skill("summarize").check):
        with pytest.raises(InvalidInputError, match=fault) as caught:
            call(*args, **kwargs)
        assert "summarize" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_arguments_are_also_checked_against_the_signature_when_sending() -> None:
    """Celery's own check sees the function's parameters, not the wrapper's."""
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        summarize().apply_async(())
