"""What the router of the app around Hallmark would do with a request, asked before it gets there."""

from collections.abc import Iterator
from typing import Any

from starlette.routing import Match
from starlette.types import Scope

__all__ = ["is_known", "is_routed", "route_path"]


def route_path(scope: Scope) -> str:
    """Return the path as routes see it: behind a proxy it may begin with a root path that no route has."""
    path, root = scope["path"], scope.get("root_path", "")
    return str(path[len(root) :] if root and path.startswith(f"{root}/") else path)


def is_routed(scope: Scope) -> bool:
    """Return whether a route or a mounted app takes the request: its path, and by its method.

    The router answers anything else by itself: 404, 405, or a redirect to where a route is.
    """
    return Match.FULL in _matches(scope)


def is_known(scope: Scope) -> bool:
    """Return whether the path is of a route or a mounted app, by any method, but for a slash at its end."""
    path = scope["path"]
    other = path.rstrip("/") if path.endswith("/") else f"{path}/"
    return any(
        match is not Match.NONE for each in (path, other) for match in _matches({**scope, "path": each})
    )


def _matches(scope: Scope) -> Iterator[Match]:
    app: Any = scope["app"]
    return (route.matches(dict(scope))[0] for route in app.router.routes)
