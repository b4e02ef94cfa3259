"""The built-in skills.

Importing this package imports no skill, and importing a skill's module none of its libraries.
"""

from __future__ import annotations

import importlib

MODULES = ("hive.tasks.web", "hive.tasks.scan")


def import_skills() -> None:
    """Import every module of built-in skills, which registers them."""
    for module in MODULES:
        importlib.import_module(module)
