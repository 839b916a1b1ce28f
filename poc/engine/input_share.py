"""A tensor-parallel rank's share of a batch's inputs.

Every rank needs the inputs of all nonces. Each draws and projects those of its own share, and one collective
gives all of them to all: `X·P` is multiplied once, not once a rank.
"""

from collections.abc import Sequence
from typing import Any, Final

from torch import Tensor

from hallmark.poc.protocol.nonces import NonceKey

__all__ = ["InputShare"]


class InputShare:
    """Which nonces of a batch are this rank's, and how all ranks get the inputs of all.

    Args:
        group: vLLM's group of the tensor-parallel ranks.
    """

    def __init__(self, group: Any) -> None:
        self._group: Final = group

    def of(self, keys: Sequence[NonceKey]) -> Sequence[NonceKey]:
        """Return the nonces whose inputs this rank makes.

        Args:
            keys: a whole batch.

        Returns:
            As many on each rank, in the batch's order; what is missing on the last ones is the batch's first.
        """
        ranks: int = self._group.world_size
        if ranks == 1:
            return keys
        size = -(-len(keys) // ranks)
        first = self._group.rank_in_group * size
        own = keys[first : first + size]
        return [*own, *([keys[0]] * (size - len(own)))]

    def gather(self, inputs: Tensor, batch_size: int) -> Tensor:
        """Give every rank's inputs to all, a collective.

        Args:
            inputs: of this rank's nonces, `[share, seq_len, hidden_size]`.
            batch_size: how many nonces the batch has.

        Returns:
            `[batch_size, seq_len, hidden_size]`, in the batch's order; on a single rank its own tensor.
        """
        if self._group.world_size == 1:
            return inputs
        gathered: Tensor = self._group.all_gather(inputs, dim=0)
        return gathered[:batch_size]
