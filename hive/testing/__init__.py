"""A hive for a test: a real broker and real spores, for the length of a `with` block or of a test.

    with hive.testing.cluster("shop:app"):
        assert price.delay(2).get(timeout=30) == 4

It is a plugin of pytest too: `pytest_plugins = ["hive.testing"]` gives the fixture `hive_cluster`.
(PYTEST_DONT_REWRITE: no assertion is made here.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from hive.testing.cluster import Cluster, cluster
from hive.testing.registry import kept_registry

__all__ = ["Cluster", "cluster", "kept_registry"]

with contextlib.suppress(ImportError):  # who does not use pytest need not have it
    import pytest

    @pytest.fixture
    def hive_cluster() -> Iterator[Callable[..., Cluster]]:
        """Start hives as `hive.testing.cluster` does; each ends with the test."""
        with ExitStack() as stack:

            def start(app: Any, **options: Any) -> Cluster:
                return stack.enter_context(cluster(app, **options))

            yield start
