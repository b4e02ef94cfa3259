"""The built-in skills.

Importing this package imports none of them, and importing their modules none of the libraries they
use.
"""

from __future__ import annotations

import importlib

MODULES = ("hive.tasks.web", "hive.tasks.scan")


def import_skills() -> None:
    """Import every module of built-in skills, which registers them."""
    for module in MODULES:
        importlib.import_module(module)
