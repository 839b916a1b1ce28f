"""Whatever fits the server's own OpenAPI document, and much that does not: answered as it is documented."""

import asyncio

import pytest
from builders import small_request
from documented import check_every_route
from runtime import Engine, application, running_manager, serving


@pytest.mark.timeout(300)
async def test_the_server_answers_as_its_document_says(engine: Engine) -> None:
    async with running_manager(engine) as manager, serving(application(manager)) as url:
        asked = await asyncio.to_thread(check_every_route, url, small_request(), examples=12)
    assert len(asked) == 12
    assert all(count >= 1 for count in asked.values())
    assert sum(asked.values()) > 200
