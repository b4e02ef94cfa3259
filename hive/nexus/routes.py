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
    known: list[BaseRoute] = []
    for routes in (*ROOMS, getattr(nexus.app, "hive_routes", ())):
        for route in routes:
            if any(_hides(before, route) for before in known):
                raise SettingsError(
                    f"Two routes of the nexus have the path {_path(route)}; give the application's "
                    "another."
                )
            known.append(route)
            yield route


def _hides(before: BaseRoute, route: BaseRoute) -> bool:
    """Whether a route gets what another one with its path is asked for: a page may have a route for
    each method.
    """
    if _path(route) is None or _path(before) != _path(route) or type(before) is not type(route):
        return False
    theirs, its = getattr(before, "methods", None), getattr(route, "methods", None)
    return not theirs or not its or not theirs.isdisjoint(its)


def _path(route: BaseRoute) -> str | None:
    return getattr(route, "path", None)
