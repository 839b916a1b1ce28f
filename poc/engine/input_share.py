"""A tensor-parallel rank's share of a batch's inputs.

Every rank needs the inputs of all nonces. Each projects those of its own share, and one collective gives all
of them to all: `X·P` is multiplied once, not once a rank.
"""

from typing import Any, Final

from torch import Tensor

__all__ = ["InputShare"]


class InputShare:
    """Which nonces of a batch are this rank's, and how all ranks get the inputs of all.

    Args:
        group: vLLM's group of the tensor-parallel ranks.
    """

    def __init__(self, group: Any) -> None:
        self._group: Final = group

    def places(self, batch_size: int) -> list[int]:
        """Return which nonces of a batch this rank projects.

        Args:
            batch_size: how many nonces the batch has.

        Returns:
            Their places in the batch, as many on each rank; what is missing on the last ones is the first.
        """
        ranks: int = self._group.world_size
        size = -(-batch_size // ranks)
        first = self._group.rank_in_group * size
        own = range(first, min(first + size, batch_size))
        return [*own, *([0] * (size - len(own)))]

    def of(self, inputs: Tensor) -> Tensor:
        """Return this rank's share of a batch's inputs; on a single rank they themselves."""
        return inputs if self._group.world_size == 1 else inputs[self.places(len(inputs))]

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
