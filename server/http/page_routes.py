"""The live page of a node, at `/poc`: it shows, and changes nothing.

Whoever logs in with the token of the control routes gets a session, whose cookie is read here only: the
control routes know the token and nothing else. The cookie has no path of its own, so that the browser takes
the folder of the login's, behind a proxy's prefix too.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Annotated, Final
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse

from hallmark.poc.core.compact_json import compact_json
from hallmark.poc.core.errors import NotReadyError
from hallmark.poc.rounds.manager import PoCManager
from hallmark.server.http.auth import is_token
from hallmark.server.http.body import read_body
from hallmark.server.http.errors import (
    IS_HEAD,
    BodyTooLargeError,
    HallmarkRoute,
    UnauthorizedError,
    UnknownPathError,
)
from hallmark.server.http.gate import PAGE_PATH
from hallmark.server.http.node_history import ROW_SECONDS, NodeHistory
from hallmark.server.http.node_view import view
from hallmark.server.http.request_log import log_request, request_id
from hallmark.server.pages.files import HEADERS, file_answer, html_answer, html_text, json_answer
from hallmark.server.pages.live_feed import (
    LiveFeed,
    RepeatedFailures,
    event_stream,
    is_ending,
    server_sent_event,
)
from hallmark.server.pages.sessions import SESSION_SECONDS, PageSessions

__all__ = ["NodePage", "router"]

logger = logging.getLogger(__name__)

_STYLE: Final = "page.css"
_TICK_SECONDS: Final = 1.0
_MAX_FORM_BYTES: Final = 4096

router = APIRouter(route_class=HallmarkRoute, include_in_schema=False)


class NodePage:
    """What is behind the page of one app: its sessions, its history and its feed."""

    def __init__(self) -> None:
        self.sessions = PageSessions()
        self.history = NodeHistory()
        self.feed = LiveFeed()
        self._failures = RepeatedFailures(logger, "The page cannot show the node")

    async def run(self, app: FastAPI) -> None:
        """Note what the node does, and tell it to those who look, until cancelled."""
        ticks = 0
        while True:
            manager: PoCManager | None = getattr(app.state, "hallmark", None)
            if manager is not None and manager.settings.page:
                with self._failures.logged():
                    self._tick(manager, ticks)
                ticks += 1
            await asyncio.sleep(_TICK_SECONDS)

    def moment(self, manager: PoCManager) -> bytes:
        """Return what the page shows now, as JSON."""
        return compact_json({**view(manager), "row": self.history.latest})

    def _tick(self, manager: PoCManager, ticks: int) -> None:
        if ticks % ROW_SECONDS == 0:
            self.history.note(manager)
        if self.feed.followers:
            self.feed.publish(server_sent_event("moment", self.moment(manager)))


async def _node(request: Request) -> PoCManager:
    """Return the manager of a server that has a page."""
    manager: PoCManager | None = getattr(request.app.state, "hallmark", None)
    if manager is None:
        raise NotReadyError("the engine is not ready yet")
    if not manager.settings.page:
        raise UnknownPathError("this server was started without its page")
    return manager


_Node = Annotated[PoCManager, Depends(_node)]


def _page(request: Request) -> NodePage:
    page: NodePage = request.app.state.hallmark_page
    return page


def _cookie(request: Request) -> str:
    """Return the cookie's name: browsers keep one jar for all ports of a host."""
    try:
        port = request.url.port
    except ValueError:  # what the client sent as Host has none
        port = None
    return f"hallmark_page_{port or request.url.scheme}"


def _may_look(request: Request, manager: PoCManager) -> bool:
    secret = request.cookies.get(_cookie(request))
    return manager.settings.api_key is None or _page(request).sessions.is_open(secret)


def _is_of_the_page(request: Request) -> bool:
    """Return whether nothing tells that the request is of another site's page, or another port's."""
    return request.headers.get("Sec-Fetch-Site", "same-origin") == "same-origin"


async def _reader(request: Request, manager: _Node) -> PoCManager:
    """Return the manager for a request of the page's script.

    Raises:
        UnauthorizedError: Nobody has logged in, or the page is another site's, or another port's.
    """
    # Browsers name an origin when they ask another one; without HTTPS that is all they tell.
    is_of_the_page = _is_of_the_page(request) and "Origin" not in request.headers
    if not _may_look(request, manager) or not is_of_the_page:
        raise UnauthorizedError("log in at /poc with the token of the control routes")
    return manager


_Reader = Annotated[PoCManager, Depends(_reader)]


@router.get(PAGE_PATH)
async def page(request: Request, manager: _Node) -> Response:
    """Show the page, or the form to log in."""
    if not _may_look(request, manager):
        return _login_form("This is not the token." if "wrong" in request.query_params else "")
    return html_answer(html_text("node.html").replace("{log out}", _log_out(manager)))


@router.post(f"{PAGE_PATH}/login")
async def log_in(request: Request, manager: _Node) -> Response:
    """Begin a session for whoever has the token."""
    try:
        form = parse_qs((await read_body(request, _MAX_FORM_BYTES)).decode("ascii", "replace"))
    except BodyTooLargeError:
        form = {}  # no token is so long
    given = form.get("token", [""])[0].strip()
    expected = manager.settings.api_key
    if expected is not None and not is_token(given.encode("utf-8", "surrogatepass"), expected):
        log_request(request, request_id(request), 401, "a wrong token was given to the page")
        return RedirectResponse("../poc?wrong", 303, HEADERS)
    answer = RedirectResponse("../poc", 303, HEADERS)
    if expected is not None:
        answer.set_cookie(
            _cookie(request),
            _page(request).sessions.begin(),
            max_age=SESSION_SECONDS,
            path=None,
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
    return answer


@router.post(f"{PAGE_PATH}/logout")
async def log_out(request: Request, _: _Node) -> Response:
    """End a session.

    Raises:
        UnauthorizedError: Another site asks for it.
    """
    if not _is_of_the_page(request):
        raise UnauthorizedError("log out at /poc")
    name = _cookie(request)
    _page(request).sessions.end(request.cookies.get(name))
    answer = RedirectResponse("../poc", 303, HEADERS)
    answer.set_cookie(name, "", max_age=0, path=None, httponly=True, samesite="strict")
    return answer


@router.get(f"{PAGE_PATH}/moment")
async def moment(request: Request, manager: _Reader) -> Response:
    """Tell what the page shows now."""
    return json_answer(_page(request).moment(manager))


@router.get(f"{PAGE_PATH}/events")
async def events(request: Request, manager: _Reader) -> StreamingResponse:
    """Tell the history, and then every second what the page shows."""
    page = _page(request)
    if request.scope.get(IS_HEAD):
        return event_stream(iter(()))
    opening = server_sent_event("history", page.history.encoded())
    opening += server_sent_event("moment", page.moment(manager))
    return event_stream(page.feed.follow(opening, _is_over(request, manager)))


# Not a coroutine: it reads and packs a large file, beside the event loop.
@router.get(f"{PAGE_PATH}/files/{{name}}")
def static_file(request: Request, name: str, manager: _Node) -> Response:
    """Answer with a style or a script; without a session, with what the form to log in needs.

    Raises:
        UnauthorizedError: Nobody has logged in.
    """
    if name != _STYLE and not _may_look(request, manager):
        raise UnauthorizedError("log in at /poc with the token of the control routes")
    return file_answer(request, name)


def _is_over(request: Request, manager: PoCManager) -> Callable[[], bool]:
    return lambda: is_ending(request.app) or not _may_look(request, manager)


def _log_out(manager: PoCManager) -> str:
    """Return the button to log out, where there is something to log out of."""
    if manager.settings.api_key is None:
        return ""
    return '<form method="post" action="poc/logout"><button type="submit">Log out</button></form>'


def _login_form(problem: str) -> Response:
    shown = f'<p class="problem" role="alert">{problem}</p>' if problem else ""
    return html_answer(html_text("login.html").replace("{problem}", shown), 401)
