"""A model's decoder, run with less than all of it (fewer rows, layers, experts), and what that costs.

Where a plan leaves nothing out it does what transformers' own forward does, layer by layer (the scripts
assert it on every model). It counts the multiply-adds of what a plan leaves over.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb


@dataclass(frozen=True, slots=True)
class Plan:
    """What of a decoder is run.

    Attributes:
        layers: The layers that run, by index, in this order.
        rows: How many of the input's last rows enter, at their own positions.
        updated: For each layer that runs, how many of the last rows it updates; the others keep what they
            had, and give keys and values made of it. None: all.
        attention: Whether layers attend.
        experts: Experts of each token; None: the model's number, 0: no feed-forward part at all.
    """

    layers: tuple[int, ...]
    rows: int
    updated: tuple[int, ...] | None = None
    attention: bool = True
    experts: int | None = None

    def steps(self) -> Iterator[tuple[int, int]]:
        """Yield each layer that runs and the number of rows it updates."""
        return zip(self.layers, self.updated or (self.rows,) * len(self.layers), strict=True)

    def for_last_row(self) -> "Plan":
        """The same for who needs the last row only: the last layer updates no other. That is exact."""
        if not self.layers:
            return self
        updated = (*[rows for _, rows in self.steps()][:-1], 1)
        return Plan(self.layers, self.rows, updated, self.attention, self.experts)


class Decoder:
    """The decoder layers and the final norm of a model.

    Args:
        model: A causal language model of transformers: Qwen3, Llama or Qwen3-MoE.
        layers: Layers that take the place of the model's own, e.g. copies that are trained.
    """

    def __init__(self, model: Any, layers: Sequence[Any] | None = None) -> None:
        self.config = model.config
        self.norm = model.base_model.norm
        self.layers = list(model.base_model.layers) if layers is None else list(layers)
        self._rotary = model.base_model.rotary_emb

    def whole(self, seq_len: int) -> Plan:
        """The plan that leaves nothing out."""
        return Plan(tuple(range(len(self.layers))), seq_len)

    def trace(self, inputs: Tensor, plan: Plan) -> Iterator[Tensor]:
        """Yield the residual stream in front of the first layer and after each one, [batch, plan.rows, D].

        Args:
            inputs: [batch, seq_len, D], projected.
            plan: What to run.
        """
        first = inputs.shape[1] - plan.rows
        states = inputs[:, first:]
        angles = self._rotary(states, torch.arange(first, inputs.shape[1])[None])
        yield states
        for index, updated in plan.steps():
            states = self._layer(self.layers[index], states, angles, updated, plan)
            yield states

    def run(self, inputs: Tensor, plan: Plan) -> Tensor:
        """The same after the last layer, in front of the final norm."""
        *_, states = self.trace(inputs, plan)
        return states

    def last_rows(self, inputs: Tensor) -> list[Tensor]:
        """The last row of the residual stream before the first layer and after each one: [batch, D] each."""
        plan = self.whole(inputs.shape[1]).for_last_row()
        return [states[:, -1] for states in self.trace(inputs, plan)]

    def multiply_adds(self, plan: Plan) -> int:
        """What a plan costs for one nonce: weights times rows, and the two products of causal attention.

        Norms, softmax and the rotary embedding are left out, for the model and the plan alike: they are
        linear in the width.
        """
        config = self.config
        width, head_dim = config.hidden_size, config.head_dim
        heads, key_heads = config.num_attention_heads, config.num_key_value_heads
        query_and_output = 2 * width * heads * head_dim
        keys_and_values = 2 * width * key_heads * head_dim
        total = 0
        # Of one row that sees one other: the score, and the value that it takes.
        pair = 2 * heads * head_dim
        for _, updated in plan.steps():
            if plan.attention:
                seen = sum(range(plan.rows - updated + 1, plan.rows + 1))
                total += updated * query_and_output + plan.rows * keys_and_values + pair * seen
            if plan.experts != 0:
                total += updated * self._feed_forward(plan.experts)
        return total

    def _feed_forward(self, experts: int | None) -> int:
        config = self.config
        if not hasattr(config, "num_experts"):
            return int(3 * config.hidden_size * config.intermediate_size)
        each = 3 * config.hidden_size * config.moe_intermediate_size
        chosen = config.num_experts_per_tok if experts is None else experts
        return int(config.hidden_size * config.num_experts + chosen * each)

    def _layer(
        self, layer: Any, states: Tensor, angles: tuple[Tensor, Tensor], updated: int, plan: Plan
    ) -> Tensor:
        before, recent = states[:, : states.shape[1] - updated], states[:, states.shape[1] - updated :]
        if plan.attention:
            recent = recent + self._attend(layer.self_attn, layer.input_layernorm(states), angles, updated)
        if plan.experts != 0:
            with _experts(layer.mlp, plan.experts):
                recent = recent + layer.mlp(layer.post_attention_layernorm(recent))
        return torch.cat([before, recent], dim=1) if before.shape[1] else recent

    def _attend(self, attention: Any, normed: Tensor, angles: tuple[Tensor, Tensor], updated: int) -> Tensor:
        batch, rows, _ = normed.shape
        head_dim = self.config.head_dim
        asking = normed[:, rows - updated :]
        queries = attention.q_proj(asking).view(batch, updated, -1, head_dim)
        keys = attention.k_proj(normed).view(batch, rows, -1, head_dim)
        values = attention.v_proj(normed).view(batch, rows, -1, head_dim).transpose(1, 2)
        if hasattr(attention, "q_norm"):
            queries, keys = attention.q_norm(queries), attention.k_norm(keys)
        cos, sin = angles
        queries, keys = queries.transpose(1, 2), keys.transpose(1, 2)
        asked = cos[:, rows - updated :], sin[:, rows - updated :]
        queries, _ = apply_rotary_pos_emb(queries, queries, *asked)
        keys, _ = apply_rotary_pos_emb(keys, keys, cos, sin)
        mask = torch.ones(updated, rows, dtype=torch.bool).tril(rows - updated)
        mixed = functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, scale=attention.scaling, enable_gqa=True
        )
        output: Tensor = attention.o_proj(mixed.transpose(1, 2).reshape(batch, updated, -1))
        return output


@contextmanager
def _experts(feed_forward: Any, experts: int | None) -> Iterator[None]:
    """Let a mixture of experts use another number of them for a while."""
    if experts is None:
        yield
        return
    gate = feed_forward.gate
    usual, gate.top_k = gate.top_k, experts
    try:
        yield
    finally:
        gate.top_k = usual
