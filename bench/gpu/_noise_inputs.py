"""The nonces of `noise.py`: inputs, signed groups of rows, targets and projections, the same bits everywhere.

They are of hallmark/1's and hallmark/2's kinds, but drawn from streams of their own, so that numbers computed
on one machine can still be compared with another's when the protocol's streams have changed in between.
"""

import hashlib
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hallmark.kernels import draw_embeddings, draw_matrix, signed_table

UNREAD: Final = 8
KINDS: Final = ("normal", "tokens")

Words = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Size:
    """How long the nonces are, and how many there are."""

    rows: int
    nonces: int

    @property
    def groups(self) -> int:
        """Return how many numbers a nonce has that is read by groups of rows."""
        return max(1, min(16, (self.rows - UNREAD) // 4))


SIZES: Final = (Size(64, 384), Size(256, 240))


@dataclass(frozen=True, slots=True)
class Batch:
    """Nonces of one kind and length that run together.

    Attributes:
        kind: `normal` (hallmark/1's normal numbers) or `tokens` (hallmark/2's rows of the embedding table).
        size: Of all nonces of this kind.
        nonces: Of this batch.
        inputs: X, bf16 [n, rows, D], not projected yet.
        p_pre: bf16 [D, D].
        p_post: bf16 [D, D], on the host.
        signs: float64 [n, groups, rows]: 1, -1 or 0.
        targets: float64 [n, groups, D].
    """

    kind: str
    size: Size
    nonces: range
    inputs: Tensor
    p_pre: Tensor
    p_post: Tensor
    signs: Tensor
    targets: Tensor


class Inputs:
    """All nonces for one model. Nothing touches the device before the first of them is asked for.

    Args:
        embeddings: The model's table, bf16 [vocabulary, D].
        device: Where inputs are drawn.
        sizes: Of the nonces.
        batch_size: Nonces of a batch.

    Attributes:
        input_scale: The power of two nearest to the RMS of the table, the scale of hallmark/1's inputs.
    """

    def __init__(
        self, embeddings: Tensor, device: torch.device, sizes: Sequence[Size], batch_size: int
    ) -> None:
        self.sizes = tuple(sizes)
        self.batch_size = batch_size
        self._device = device
        self._embeddings = embeddings
        self._vocabulary, self.width = embeddings.shape
        rms = float(embeddings.double().square().mean().sqrt())
        self.input_scale = 2.0 ** round(math.log2(rms))
        # The default scale of hallmark/2: the projection adds at most a sixteenth of the energy.
        least = 2.0 ** -math.ceil(math.log2(16 * self.width) / 2)
        self._scales = {"normal": 0.01, "tokens": least}
        self._pairs = {
            kind: tuple(
                draw_matrix(streams("projection", kind, side)[0], self.width, self.width, scale, "cpu")
                for side in ("pre", "post")
            )
            for kind, scale in self._scales.items()
        }
        self._targets = signed_table(1.0, torch.bfloat16, "cpu").double()

    @cached_property
    def fingerprint(self) -> str:
        """Name table, projections and nonces: numbers can be compared where it is the same.

        Of each kind and length, the first nonces go into it.
        """
        digest = hashlib.sha256(f"{self._scales} {self.input_scale}".encode())
        tensors = [self._embeddings, *(matrix for pair in self._pairs.values() for matrix in pair)]
        for kind in KINDS:
            for size in self.sizes:
                first = range(min(2, size.nonces))
                tensors += [self._draw(kind, size, first), *self._readout(kind, size, first)]
        for tensor in tensors:
            digest.update(f"{tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def batches(self) -> Iterator[Batch]:
        """Yield every batch of every kind and length; the last of them may be shorter."""
        for kind in KINDS:
            p_pre, p_post = self._pairs[kind]
            projection = p_pre.to(self._device)
            for size in self.sizes:
                for start in range(0, size.nonces, self.batch_size):
                    nonces = range(start, min(start + self.batch_size, size.nonces))
                    inputs = self._draw(kind, size, nonces)
                    signs, targets = self._readout(kind, size, nonces)
                    yield Batch(kind, size, nonces, inputs, projection, p_post, signs, targets)

    @cached_property
    def _table(self) -> Tensor:
        return self._embeddings.to(self._device)

    @cached_property
    def _normals(self) -> Tensor:
        return signed_table(self.input_scale, torch.bfloat16, self._device)

    def _draw(self, kind: str, size: Size, nonces: range) -> Tensor:
        if kind == "tokens":
            return self._table[self._tokens(size, nonces).to(self._device)]
        named = torch.cat([streams("embeds", size.rows, nonce) for nonce in nonces])
        return draw_embeddings(named.to(self._device), size.rows, self.width, self._normals)

    def _tokens(self, size: Size, nonces: range) -> Tensor:
        """Return tokens, int64 [n, rows]. Row 0 is random too: SmolLM2's texts begin with no token."""
        drawn = np.stack([words(size.rows, "tokens", size.rows, nonce) for nonce in nonces])
        return torch.from_numpy((drawn.astype(np.uint64) * self._vocabulary >> 32).astype(np.int64))

    def _readout(self, kind: str, size: Size, nonces: range) -> tuple[Tensor, Tensor]:
        keys = np.stack([words(size.rows - UNREAD, "rows", kind, size.rows, nonce) for nonce in nonces])
        count = size.groups * self.width
        halves = np.stack(
            [words(-(-count // 2), "target", kind, size.rows, nonce).view("<u2")[:count] for nonce in nonces]
        )
        targets = self._targets[torch.from_numpy(halves.astype(np.int64))]
        return signed_groups(keys, size.groups), targets.view(len(nonces), size.groups, self.width)


def signed_groups(keys: Words, groups: int) -> Tensor:
    """Return which rows each number reads, and with which sign, by hallmark/2's definition.

    Args:
        keys: [n, rows - 8], of row 8 and the rows behind it.
        groups: k.

    Returns:
        float64 [n, k, rows]: 1, -1, or 0 where the number does not read the row.
    """
    n, read = keys.shape
    order = np.argsort(keys, axis=1, kind="stable")
    ranks = np.arange(read)
    signs = np.zeros((n, groups, UNREAD + read))
    signs[np.arange(n)[:, None], ranks // 2 % groups, UNREAD + order] = 1 - 2 * (ranks % 2)
    return torch.from_numpy(signs)


def words(count: int, *fields: object) -> Words:
    """Return so many random 32-bit words, named by fields."""
    philox = np.random.Philox(key=int.from_bytes(_name(fields)[:16], "little"))
    drawn: Words = philox.random_raw(-(-count // 2)).astype("<u8").view("<u4")[:count]
    return drawn


def streams(*fields: object) -> Tensor:
    """Return one stream for the kernels that draw, int64 [1, 4], named by fields."""
    return torch.tensor([struct.unpack("<4I", _name(fields)[:16])], dtype=torch.int64)


def _name(fields: tuple[object, ...]) -> bytes:
    return hashlib.sha256("/".join(("noise", *map(str, fields))).encode()).digest()
