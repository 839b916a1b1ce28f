"""The files of pages: all there are, packed, asked for once."""

import gzip
import re
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from runtime import client_of

from hallmark.server.pages.files import file_answer, html_text

STATIC = files("hallmark.server.pages") / "static"
PAGES = ("login.html", "node.html", "receiver.html")


def app() -> FastAPI:
    app = FastAPI()

    @app.get("/{name}")
    def file(request: Request, name: str) -> Response:
        return file_answer(request, name)

    return app


async def get(name: str, **headers: str) -> httpx.Response:
    async with client_of(app()) as http:
        return await http.get(f"/{name}", headers=headers)


@pytest.mark.parametrize("page", PAGES)
async def test_every_file_that_a_page_names_is_there(page: str) -> None:
    text = html_text(page)
    names = re.findall(r'(?:href|src)="poc/files/([^"]+)"', text)
    assert "page.css" in names
    for name in names:
        answer = await get(name)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(
            "text/css" if name.endswith("css") else "text/javascript"
        )


@pytest.mark.parametrize("page", PAGES)
def test_no_page_has_anything_inline_or_from_elsewhere(page: str) -> None:
    text = html_text(page)
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon[a-z]+=|https?:|//", text)


@pytest.mark.parametrize("script", ["charts.js", "live.js", "node.js", "receiver.js"])
def test_scripts_write_no_markup_and_import_from_beside_them(script: str) -> None:
    text = (STATIC / script).read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function", text)
    assert all(source.startswith("./") for source in re.findall(r'from "([^"]+)"', text))


async def test_plotly_is_the_one_that_its_package_ships() -> None:
    spec = find_spec("plotly")
    assert spec is not None
    assert spec.submodule_search_locations
    shipped = Path(spec.submodule_search_locations[0]) / "package_data" / "plotly.min.js"
    assert (await get("plotly.min.js")).content == shipped.read_bytes()


async def test_it_is_packed_for_those_who_unpack_and_sent_once() -> None:
    plain = await get("page.css", **{"Accept-Encoding": "identity"})
    packed = await get("page.css", **{"Accept-Encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert plain.content == packed.content == (STATIC / "page.css").read_bytes()
    assert int(packed.headers["content-length"]) == len(gzip.compress(plain.content, mtime=0))
    again = await get("page.css", **{"If-None-Match": plain.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["node.html", "__init__.py", "plotly.js", "missing.js"])
async def test_nothing_else_is_given_out(name: str) -> None:
    answer = await get(name)
    assert answer.status_code == 404
    assert "default-src 'none'" in answer.headers["content-security-policy"]
