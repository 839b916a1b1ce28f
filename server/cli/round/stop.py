"""`hallmark round stop`: end the round."""

from hallmark.server.cli.client import ApiKey, PoCClient, ServerUrl
from hallmark.server.cli.round.status import print_status

__all__ = ["stop"]


def stop(url: ServerUrl, api_key: ApiKey = None) -> None:
    """End the round.

    What was found and not yet delivered is still sent.
    """
    with PoCClient(url, api_key) as client:
        print_status(client.post("/stop")["pow_status"])
