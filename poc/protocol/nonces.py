"""Which nonces a node computes: a walk in fixed steps, so that nodes never meet."""

from typing import NamedTuple

from hallmark.poc.core.checks import INTEGER_LIMIT
from hallmark.poc.core.errors import FieldError, StateError

__all__ = ["NonceKey", "NonceSchedule", "NonceSpan"]

NonceKey = tuple[str, int]
"""A public key and one of its nonces."""


class NonceSpan(NamedTuple):
    """Consecutive nonces of a walk.

    Attributes:
        covered: Indices of the first and the last of them, counted from 0.
        nonces: The nonces themselves.
    """

    covered: tuple[int, int]
    nonces: tuple[int, ...]


class NonceSchedule:
    """The nonces of one engine: number k is ``node_id + group_id·node_count + k·node_count·n_groups``.

    Over all nodes and groups the walks are disjoint and leave no nonce out.

    Attributes:
        position: Index of the next nonce to be taken.
    """

    def __init__(self, node_id: int, node_count: int, group_id: int = 0, n_groups: int = 1) -> None:
        first = node_id + group_id * node_count
        if first >= INTEGER_LIMIT:
            raise FieldError("node_id", node_id, "a node whose first nonce is below 2^63")
        self._nonces = range(first, INTEGER_LIMIT, node_count * n_groups)
        self.position = 0

    def take_several(self, spans: int, count: int) -> list[NonceSpan]:
        """Take up to `spans` spans of `count` nonces; fewer only where the walk ends.

        Raises:
            StateError: No nonce below 2^63 is left.
        """
        taken = [self.take(count)]
        # The walk itself may be longer than what `len` can say.
        while len(taken) < spans and self._nonces[self.position : self.position + 1]:
            taken.append(self.take(count))
        return taken

    def take(self, count: int) -> NonceSpan:
        """Take the next `count` nonces; fewer only where the walk ends.

        Raises:
            StateError: No nonce below 2^63 is left.
        """
        first = self.position
        nonces = tuple(self._nonces[first : first + count])
        if not nonces:
            raise StateError(f"the walk is at its end: nonce number {first} would not be below 2^63")
        self.position = first + len(nonces)
        return NonceSpan((first, self.position - 1), nonces)
