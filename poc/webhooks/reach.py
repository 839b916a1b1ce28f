"""Whether a receiver answers at all, asked before anything is sent to it."""

import asyncio
import logging
from typing import Final

import httpx

from hallmark.poc.webhooks.attempt import describe
from hallmark.poc.webhooks.url import request_target

__all__ = ["why_unreachable"]

logger = logging.getLogger(__name__)

_SECONDS: Final = 2.0


async def why_unreachable(client: httpx.AsyncClient, url: str) -> str | None:
    """Ask a receiver once, without a body, by a method that changes nothing wherever it is known.

    HEAD of the very path that callbacks are posted to goes the whole way to who answers there, unlike
    OPTIONS, which proxies answer themselves. Any answer will do: a receiver that takes POST alone says 405.

    Args:
        client: The HTTP client.
        url: The receiver's base URL.

    Returns:
        What kept an answer away, for people; None where there was one.
    """
    try:
        target = {"target": request_target(url, "generated")}
        request = client.build_request("HEAD", url, extensions=target)
        async with asyncio.timeout(_SECONDS):
            response = await client.send(request, stream=True)
            await response.aclose()
    except TimeoutError:
        return f"no answer within {_SECONDS:g} s"
    except httpx.HTTPError as exc:
        return describe(exc)
    except Exception as exc:
        # Not foreseen, and no reason to refuse a round.
        logger.exception("The receiver %s could not be asked", url)
        return describe(exc)
    return None
