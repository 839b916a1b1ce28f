from collections.abc import AsyncIterator

import httpx
import pytest
from runtime import Engine, application, client_of, running_manager, serving

from hallmark.poc.specification import PoCManager


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
async def manager(engine: Engine) -> AsyncIterator[PoCManager]:
    async with running_manager(engine) as manager:
        yield manager


@pytest.fixture
async def url(manager: PoCManager) -> AsyncIterator[str]:
    """The manager's API on a real server."""
    async with serving(application(manager)) as url:
        yield url


@pytest.fixture
async def http(manager: PoCManager) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(application(manager)) as client:
        yield client
