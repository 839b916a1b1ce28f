"""The round's definition around any model: what goes in, and what is made of what comes out."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hallmark.kernels.distance import distance_reference
from hallmark.kernels.draw_embeddings import draw_embeddings_reference
from hallmark.poc.errors import FieldError
from hallmark.poc.projection import RandomProjection
from hallmark.poc.round import RoundSpec
from hallmark.poc.streams import embeds_stream, streams_tensor, target_stream

__all__ = ["NonceKey", "RoundTensors", "pad_keys"]

NonceKey = tuple[str, int]
"""A public key and one of its nonces."""


def pad_keys(keys: Sequence[NonceKey], batch_size: int) -> list[NonceKey]:
    """Fill a short batch by repeating its first nonce: the batch's shape is part of the definition.

    Raises:
        FieldError: There are no keys, or more than `batch_size`.
    """
    if not 1 <= len(keys) <= batch_size:
        raise FieldError("keys", f"{len(keys)} nonces", f"1 to {batch_size} nonces in a batch")
    return [*keys, *[keys[0]] * (batch_size - len(keys))]


class RoundTensors:
    """The constants of one round on one device, and the two steps on either side of the model.

    Args:
        spec: The round.
        dtype: The model's.
        device: Where the model takes its inputs.
    """

    def __init__(self, spec: RoundSpec, dtype: torch.dtype, device: torch.device | str) -> None:
        self._spec = spec
        self._dtype = dtype
        self._device = torch.device(device)
        self._projection = (
            RandomProjection(spec.block_hash, spec.hidden_size, spec.projection_scale, self._device)
            if spec.projection
            else None
        )

    @property
    def batch_size(self) -> int:
        """How many keys a whole batch has."""
        return self._spec.batch_size

    @property
    def memory_bytes(self) -> int:
        """What the round holds beside the model, in bytes."""
        return 0 if self._projection is None else self._projection.memory_bytes

    def inputs(self, keys: Sequence[NonceKey]) -> Tensor:
        """Draw and project the inputs of a whole batch.

        Args:
            keys: Exactly `batch_size` of them (`pad_keys`).

        Returns:
            [batch_size, seq_len, hidden_size] in the model's dtype.

        Raises:
            FieldError: The number of keys is another one.
        """
        self._check_whole(keys)
        spec = self._spec
        streams = (embeds_stream(spec.digest, spec.block_hash, key, nonce) for key, nonce in keys)
        drawn = draw_embeddings_reference(
            streams_tensor(streams),
            spec.seq_len,
            spec.hidden_size,
            spec.input_scale,
            self._dtype,
            self._device,
        )
        return drawn if self._projection is None else self._projection.pre(drawn)

    def distances(self, hidden_last: Tensor, keys: Sequence[NonceKey]) -> Tensor:
        """Turn final hidden states into distances.

        Args:
            hidden_last: [batch_size, hidden_size], the last position of what the model's final norm returns.
            keys: The batch's, in the same order.

        Returns:
            float64 [batch_size] on the CPU; NaN where the nonce failed.

        Raises:
            FieldError: The number of keys is not `batch_size`.
        """
        self._check_whole(keys)
        spec = self._spec
        streams = (target_stream(spec.digest, spec.block_hash, key, nonce) for key, nonce in keys)
        targets = draw_embeddings_reference(
            streams_tensor(streams), 1, spec.hidden_size, 1.0, torch.float32, self._device
        )
        p_post = None if self._projection is None else self._projection.post_proj
        return distance_reference(hidden_last, targets.squeeze(1), p_post).cpu()

    def _check_whole(self, keys: Sequence[NonceKey]) -> None:
        if len(keys) != self._spec.batch_size:
            raise FieldError("keys", f"{len(keys)} nonces", f"a whole batch of {self._spec.batch_size}")
