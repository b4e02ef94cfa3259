"""The pages of the nexus: lists of routes that rooms bring, and those that an application adds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from starlette.applications import Starlette
from starlette.routing import BaseRoute

from hive.errors import SettingsError
from hive.nexus import health
from hive.nexus.context import Nexus

ROOMS: tuple[Sequence[BaseRoute], ...] = (health.ROUTES,)
"""What Hive's own rooms bring, a list each; an endpoint finds its nexus with `nexus_of`."""


def application(nexus: Nexus) -> Starlette:
    """The ASGI application of a nexus.

    Raises: SettingsError when an application's route has the path of another.
    """
    page = Starlette(routes=list(_routes(nexus)))
    page.state.nexus = nexus
    return page


def _routes(nexus: Nexus) -> Iterator[BaseRoute]:
    taken: set[str] = set()
    for routes in (*ROOMS, getattr(nexus.app, "hive_routes", ())):
        for route in routes:
            path = getattr(route, "path", None)
            if path in taken:
                raise SettingsError(
                    f"Two routes of the nexus have the path {path}; give the application's another."
                )
            if path is not None:
                taken.add(path)
            yield route
