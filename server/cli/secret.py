"""`hallmark secret`: make a secret that callbacks are signed with."""

from hallmark.poc.webhooks.signature import generate_secret
from hallmark.server.cli.consoles import print_or_drop

__all__ = ["secret"]


def secret() -> None:
    """Print a new secret for the signatures of callbacks.

    It is 32 random bytes, as Standard Webhooks writes them. Give it to the server and to the receiver, each
    by the variable HALLMARK_WEBHOOK_SECRETS. To replace it, let the receiver know both, separated by a space,
    then the server; then take the old one from the server, and last from the receiver.
    """
    print_or_drop(generate_secret())
