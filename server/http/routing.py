"""What the router of the app around Hallmark would do with a request, asked before it gets there."""

from typing import Any

from starlette.routing import Match
from starlette.types import Scope

__all__ = ["is_routed", "route_path"]


def route_path(scope: Scope) -> str:
    """Return the path as routes see it: behind a proxy it may begin with a root path that no route has."""
    path, root = scope["path"], scope.get("root_path", "")
    return str(path[len(root) :] if root and path.startswith(f"{root}/") else path)


def is_routed(scope: Scope) -> bool:
    """Whether a route or a mounted app takes the request: its path, and by its method.

    The router answers anything else by itself: 404, 405, or a redirect to where a route is.
    """
    app: Any = scope["app"]
    return any(route.matches(dict(scope))[0] is Match.FULL for route in app.router.routes)
