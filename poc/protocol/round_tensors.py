"""The round's definition around any model: what goes in, and what is made of what comes out."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hallmark.kernels.draw_embeddings import draw_embeddings
from hallmark.kernels.draw_normals import streams_tensor
from hallmark.kernels.draw_words import draw_words
from hallmark.kernels.embed_project import embed_project
from hallmark.kernels.final_norm import FinalNorm
from hallmark.kernels.norm_project import norm_project
from hallmark.kernels.normal_table import signed_table
from hallmark.kernels.project_residual import project_residual
from hallmark.poc.core.errors import FieldError
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.projection import RandomProjection
from hallmark.poc.protocol.round_spec import NO_FIRST, RoundSpec
from hallmark.poc.protocol.row_groups import row_order
from hallmark.poc.protocol.streams import NoncePurpose, nonce_streams
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
    """The constants of one round on one device, and the steps on either side of the model.

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
        self._input_table = (
            None if spec.inputs == "tokens" else signed_table(spec.input_scale, dtype, self._device)
        )
        self._target_table = signed_table(1.0, torch.bfloat16, self._device)

    @property
    def seq_len(self) -> int:
        """Rows of a nonce."""
        return self._spec.seq_len

    @property
    def batch_size(self) -> int:
        """How many keys a whole batch has."""
        return self._spec.batch_size

    @property
    def reads_tokens(self) -> bool:
        """Whether inputs are rows of the model's embedding table (`tokens`), or drawn (`normal`)."""
        return self._input_table is None

    @property
    def projects(self) -> bool:
        """Whether inputs and what is read of final hidden states are projected."""
        return self._projection is not None

    @property
    def projection_bytes(self) -> int:
        """What the projections hold, in bytes; 0 where they are off."""
        return 0 if self._projection is None else self._projection.memory_bytes

    def tokens(self, keys: Sequence[NonceKey]) -> Tensor:
        """Draw the tokens of some nonces: int64 [keys, seq_len] on the round's device."""
        return to_device(self.host_tokens(keys), self._device)

    def host_tokens(self, keys: Sequence[NonceKey]) -> Tensor:
        """Draw the tokens of some nonces: int64 [keys, seq_len] on the host."""
        spec = self._spec
        words = draw_words(self._host_streams("tokens", keys), spec.seq_len)
        tokens = words * spec.vocabulary >> 32
        if spec.first != NO_FIRST:
            tokens[:, 0] = spec.first
        return tokens

    def normal(self, keys: Sequence[NonceKey]) -> Tensor:
        """Draw the normal inputs of some nonces: [keys, seq_len, hidden_size] in the model's dtype.

        Raises:
            ValueError: The round's inputs are tokens.
        """
        if self._input_table is None:
            raise ValueError("the round's inputs are tokens")
        return draw_embeddings(
            self._streams("embeds", keys), self._spec.seq_len, self._spec.hidden_size, self._input_table
        )

    def project(self, inputs: Tensor) -> Tensor:
        """Project inputs, ``round(X + X·P_pre)``.

        Args:
            inputs: [..., hidden_size] in the model's dtype. Left as they are, and returned where the
                projection is off.
        """
        if self._projection is None:
            return inputs
        projected: Tensor = project_residual(inputs, self._projection.pre_proj, inputs.dtype)
        return projected

    def embed(
        self, table: Tensor, tokens: Tensor, places: Tensor | None = None, rows: int | None = None
    ) -> Tensor:
        """Take rows of an embedding table and project them, ``round(E[τ] + E[τ]·P_pre)``.

        Args:
            table: [V, hidden_size] in the model's dtype, on the round's device, as is all else.
            tokens: int64 [m], rows of the table.
            places: As for `embed_project`.
            rows: As for `embed_project`.

        Returns:
            [m, hidden_size], or [rows, hidden_size].

        Raises:
            ValueError: The projection is off.
        """
        if self._projection is None:
            raise ValueError("the round has no projection")
        embedded: Tensor = embed_project(table, tokens, self._projection.pre_proj, places, rows)
        return embedded

    def order(self, keys: Sequence[NonceKey]) -> Tensor:
        """Say which rows of each nonce are read, in the order that groups them; drawn on the host.

        Returns:
            int32 [keys, read] on the round's device.
        """
        spec = self._spec
        if spec.readout == "last":
            return torch.full((len(keys), 1), spec.seq_len - 1, dtype=torch.int32, device=self._device)
        order = row_order(self._host_streams("rows", keys), spec.seq_len)
        return to_device(order.int(), self._device)

    def numbers(
        self,
        hidden_states: Tensor,
        keys: Sequence[NonceKey],
        order: Tensor,
        norm: FinalNorm | None = None,
    ) -> Tensor:
        """Turn final hidden states into the numbers of their nonces.

        Args:
            hidden_states: [batch_size · seq_len, hidden_size], what the model's final norm returned, or what
                it would have been given.
            keys: The batch's, in the same order.
            order: Of the same nonces, as of `order`.
            norm: The final norm where it is still to be applied.

        Returns:
            float64 [batch_size, numbers] on the round's device; NaN in the whole row where the nonce failed.

        Raises:
            FieldError: The number of keys is not `batch_size`.
            ValueError: The number of rows is not that of the keys.
        """
        self._check_whole(keys)
        rows = self._spec.batch_size * self._spec.seq_len
        if len(hidden_states) != rows:
            raise ValueError(f"{len(hidden_states)} final hidden states, not {rows}")
        return norm_project(
            hidden_states,
            norm,
            order,
            self._spec.numbers,
            None if self._projection is None else self._projection.post_proj,
            self._streams("target", keys),
            self._target_table,
        )

    def _host_streams(self, purpose: NoncePurpose, keys: Sequence[NonceKey]) -> Tensor:
        """Return the streams of nonces, int64 [keys, 4]."""
        return streams_tensor(nonce_streams(purpose, self._spec.digest, self._spec.block_hash, keys))

    def _streams(self, purpose: NoncePurpose, keys: Sequence[NonceKey]) -> Tensor:
        return to_device(self._host_streams(purpose, keys), self._device)

    def _check_whole(self, keys: Sequence[NonceKey]) -> None:
        if len(keys) != self._spec.batch_size:
            raise FieldError("keys", f"{len(keys)} nonces", f"a whole batch of {self._spec.batch_size}")
