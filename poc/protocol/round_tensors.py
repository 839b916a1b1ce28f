"""The round's definition around any model: what goes in, and what is made of what comes out."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from hallmark.kernels.draw_normals import streams_tensor
from hallmark.kernels.embed_project import embed_project
from hallmark.kernels.final_norm import FinalNorm
from hallmark.kernels.norm_project import norm_project
from hallmark.kernels.normal_table import signed_table
from hallmark.poc.core.errors import FieldError
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.projection import RandomProjection
from hallmark.poc.protocol.round_spec import RoundSpec
from hallmark.poc.protocol.streams import nonce_streams
from hallmark.poc.protocol.transfer import to_device

__all__ = ["RoundTensors", "pad_keys"]


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
        self._device = torch.device(device)
        self._projection = (
            RandomProjection(spec.block_hash, spec.hidden_size, spec.projection_scale, self._device)
            if spec.projection
            else None
        )
        self._input_table = signed_table(spec.input_scale, dtype, self._device)
        self._target_table = signed_table(1.0, torch.bfloat16, self._device)

    @property
    def batch_size(self) -> int:
        """How many keys a whole batch has."""
        return self._spec.batch_size

    @property
    def projection_bytes(self) -> int:
        """What the projections hold, in bytes; 0 where they are off."""
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
        return self.some_inputs(keys)

    def some_inputs(self, keys: Sequence[NonceKey]) -> Tensor:
        """Draw and project the inputs of some nonces.

        Args:
            keys: Any number of them.

        Returns:
            [keys, seq_len, hidden_size] in the model's dtype.
        """
        spec = self._spec
        p_pre = None if self._projection is None else self._projection.pre_proj
        streams = self._streams("embeds", keys)
        return embed_project(streams, spec.seq_len, spec.hidden_size, self._input_table, p_pre)

    def distances(
        self, hidden_states: Tensor, keys: Sequence[NonceKey], norm: FinalNorm | None = None
    ) -> Tensor:
        """Turn final hidden states into distances.

        Args:
            hidden_states: [batch_size · rows, hidden_size], of which each sequence's last row counts: what
                the model's final norm returned, or what it would have been given.
            keys: The batch's, in the same order.
            norm: The final norm where it is still to be applied.

        Returns:
            float64 [batch_size] on the round's device; NaN where the nonce failed.

        Raises:
            FieldError: The number of keys is not `batch_size`.
        """
        self._check_whole(keys)
        p_post = None if self._projection is None else self._projection.post_proj
        streams = self._streams("target", keys)
        return norm_project(hidden_states, norm, p_post, streams, self._target_table)

    def _streams(self, purpose: Literal["embeds", "target"], keys: Sequence[NonceKey]) -> Tensor:
        """Return the streams of nonces, int64 [keys, 4], on the round's device."""
        spec = self._spec
        streams = streams_tensor(nonce_streams(purpose, spec.digest, spec.block_hash, keys))
        return to_device(streams, self._device)

    def _check_whole(self, keys: Sequence[NonceKey]) -> None:
        if len(keys) != self._spec.batch_size:
            raise FieldError("keys", f"{len(keys)} nonces", f"a whole batch of {self._spec.batch_size}")
