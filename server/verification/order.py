"""What is ordered: the batches of a block that were delivered by then, and the draw of what is recomputed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from hallmark.poc.offline.engine import deployed
from hallmark.poc.offline.samples import Search
from hallmark.poc.protocol.config import DeployedModel, PoCConfig
from hallmark.poc.protocol.round import Round
from hallmark.poc.verdict.cheat import Cheat

__all__ = ["Draw", "Order"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """Which nonces are recomputed: all, so many of each batch, or as many as convict a cheat.

    Attributes:
        randomness: What decides which: nothing that a prover could know when it delivered, such as the hash
            of a later block. Everybody who knows it can repeat the draw.
        nonces: How many of each batch; None: not by number.
        power: The probability with which the cheat is convicted; None: not by power.
        cheat: RMS of its errors, in units of s.
        cheat_share: In what share of a prover's nonces.

    Raises:
        FieldError: One is out of its range.
    """

    randomness: str
    nonces: int | None = None
    power: float | None = None
    cheat: float | None = None
    cheat_share: float = 1.0

    @property
    def search(self) -> Search | None:
        """What is looked for; None where the draw is not by power."""
        if self.power is None or self.cheat is None:
            return None
        return Search(cheat=Cheat(self.cheat, self.cheat_share), power=self.power, seed=self.randomness)

    def as_dict(self) -> dict[str, Any]:
        """Return the draw as JSON has it; all nonces are drawn where nothing but the randomness is said."""
        if self.power is not None:
            search = {"power": self.power, "cheat": self.cheat, "cheat_share": self.cheat_share}
            return {"randomness": self.randomness, **search}
        return {"randomness": self.randomness, **({} if self.nonces is None else {"nonces": self.nonces})}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order to verify what provers delivered for a block.

    Attributes:
        id: Its number.
        block_hash: The block.
        settings: Of the round, as a body of `/init` has them; block and public keys are the batches' own.
        draw: What is recomputed.
        last_batch: Batches with higher ids came after the randomness was stated, and are not in it.
        delivered_before: Batches received at this time or later are not in it either, in seconds since the
            epoch; None: the ids alone decide.
        dtype: What the model runs in; None: in whatever it does.
        model: Fingerprint of the files of the model that plans it; None where a server did.
        arithmetic: What the numerics of all who compute for it have to agree in.
    """

    id: int
    block_hash: str
    settings: Mapping[str, Any]
    draw: Draw
    last_batch: int
    delivered_before: float | None = None
    dtype: str | None = None
    model: str | None = None
    arithmetic: str | None = None

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self:
        """Read an order from its table."""
        return cls(
            **{**row, "settings": json.loads(row["settings"]), "draw": Draw(**json.loads(row["draw"]))}
        )

    def round_body(self) -> dict[str, Any]:
        """Return the round as a body of `/init`, of no prover in particular."""
        return {"block_height": 0, "public_key": "any", **self.settings, "block_hash": self.block_hash}

    def round(self, facts: DeployedModel) -> Round:
        """Resolve the round against a model; all batches have its shape.

        Raises:
            FieldError: The settings contradict each other or the model.
        """
        config = PoCConfig.parse(self.round_body())
        return Round.resolve(config, deployed(facts, config.model, config.batch_size * config.seq_len))

    def as_dict(self) -> dict[str, Any]:
        """Return what is kept with each verdict, so that others can repeat the draw."""
        return {
            "order": self.id,
            **self.draw.as_dict(),
            "last_batch": self.last_batch,
            "delivered_before": self.delivered_before,
        }
