"""A round's life in the server's log: one line for each turn of it."""

import logging
from urllib.parse import urlsplit

from hallmark.poc.core.request_id import REQUEST_ID
from hallmark.poc.protocol.config import PoCState
from hallmark.poc.protocol.generated import ComputedSpan
from hallmark.poc.protocol.round import Round
from hallmark.poc.rounds.statistics import RoundStatistics

__all__ = ["RoundLog"]

logger = logging.getLogger(__name__)

_MAX_BLOCK = 24
_MAX_KEY = 12


class RoundLog:
    """Tells when a round starts, finds its first proof, changes its phase, ends or fails.

    Args:
        round_: The round.
        statistics: Its counters.
    """

    def __init__(self, round_: Round, statistics: RoundStatistics) -> None:
        self._config = round_.config
        self._statistics = statistics
        self._name = f"The round of block {_shortened(self._config.block_hash, _MAX_BLOCK)}"
        self._has_found = self._has_failed = False

    def start(self, phase: PoCState) -> None:
        """Tell that the engine is ready for it."""
        config = self._config
        node = "" if config.node_id is None else f", node {config.node_id} of {config.node_count}"
        asked_by = REQUEST_ID.get()
        asked = "" if asked_by is None else f", asked for by request {asked_by}"
        to = "nowhere" if config.callback_url is None else urlsplit(config.callback_url).netloc
        logger.info(
            "%s at height %d has started in %s after %.1f s: key %s%s, callbacks to %s%s",
            self._name,
            config.block_height,
            phase,
            self._statistics.elapsed_seconds,
            _shortened(config.public_key, _MAX_KEY),
            node,
            to,
            asked,
        )

    def compute(self, span: ComputedSpan) -> None:
        """Tell of the first nonce that counts."""
        if span.nonces and not self._has_found:
            self._has_found = True
            logger.info(
                "%s has its first proof, nonce %d, after %s", self._name, span.nonces[0], self._counts()
            )

    def enter(self, phase: PoCState) -> None:
        """Tell of a change of phase."""
        logger.info("%s enters %s after %s", self._name, phase, self._counts())

    def end(self, reason: str | None) -> None:
        """Tell that it is over, its last batch counted, unless a failure has been told."""
        if not self._has_failed:
            logger.info("%s has ended, %s, after %s", self._name, reason, self._counts())

    def fail(self, reason: object, *, with_traceback: bool = False) -> None:
        """Tell what it has failed with.

        Args:
            reason: For people.
            with_traceback: Whether an exception that is being handled was not foreseen.
        """
        self._has_failed = True
        logger.error("%s failed: %s; it had %s", self._name, reason, self._counts(), exc_info=with_traceback)

    def _counts(self) -> str:
        counted = self._statistics
        return (
            f"{counted.total_checked} nonces, {counted.total_valid} valid, {counted.total_failed} failed, "
            f"{counted.rate_per_second:.1f} a second, {counted.elapsed_seconds:.1f} s"
        )


def _shortened(text: str, longest: int) -> str:
    return repr(text if len(text) <= longest else f"{text[:longest]}…")
