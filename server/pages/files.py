"""The files that a page is made of, all from this machine, and the headers that keep it so."""

import gzip
import hashlib
import threading
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fastapi import Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response

__all__ = ["HEADERS", "file_answer", "html_answer", "html_text", "json_answer"]

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every answer of a page: nothing is loaded from elsewhere, nothing inline runs, nobody frames it.

plotly.js has a style for maps, which no chart here needs, in a string: the browser's console says that it was
kept out.
"""

_MEDIA_TYPES: Final = {"css": "text/css", "js": "text/javascript"}
_FILES: Final = frozenset({"charts.js", "live.js", "node.js", "page.css", "plotly.css", "receiver.js"})
_PLOTLY: Final = "plotly.min.js"

_packing = threading.Lock()


@dataclass(frozen=True)
class _File:
    media_type: str
    plain: bytes
    compressed: bytes
    tag: str


def file_answer(request: Request, name: str) -> Response:
    """Answer a request for a style or a script; the first time it may take a second."""
    found = None
    if name in _FILES or name == _PLOTLY:
        with _packing:  # once, however many ask at first
            found = _file(name)
    if found is None:
        reason = "plotly is not installed: pip install plotly" if name == _PLOTLY else "there is no such file"
        return PlainTextResponse(reason, 404, HEADERS)
    # A browser asks each time, and is told where the file is still the same.
    headers = {**HEADERS, "Cache-Control": "no-cache", "ETag": found.tag, "Vary": "Accept-Encoding"}
    if request.headers.get("If-None-Match") == found.tag:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return Response(found.compressed, headers=headers, media_type=found.media_type)
    return Response(found.plain, headers=headers, media_type=found.media_type)


def html_text(name: str) -> str:
    """Return the text of one of the pages."""
    return (files("hallmark.server.pages") / "static" / name).read_text(encoding="utf-8")


def html_answer(text: str, status: int = 200) -> HTMLResponse:
    """Answer with a page."""
    return HTMLResponse(text, status, {**HEADERS, "Cache-Control": "no-store"})


def json_answer(encoded: bytes) -> Response:
    """Answer with JSON."""
    headers = {**HEADERS, "Cache-Control": "no-store"}
    return Response(encoded, headers=headers, media_type="application/json")


@cache
def _file(name: str) -> _File | None:
    content = (
        _plotly() if name == _PLOTLY else (files("hallmark.server.pages") / "static" / name).read_bytes()
    )
    if content is None:
        return None
    return _File(
        _MEDIA_TYPES[name.rpartition(".")[2]],
        content,
        gzip.compress(content, mtime=0),
        f'"{hashlib.sha256(content).hexdigest()[:32]}"',
    )


def _plotly() -> bytes | None:
    """Return plotly.js, which plotly for Python ships; it is not imported for that."""
    spec = find_spec("plotly")
    if spec is None or not spec.submodule_search_locations:
        return None
    return (Path(spec.submodule_search_locations[0]) / "package_data" / _PLOTLY).read_bytes()
