"""One PoC batch through the deployed model, without touching inference's state."""

import dataclasses
from typing import Any

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.forward_context import create_forward_context, override_forward_context

from hallmark.poc.engine.attention import PrivateAttention


class ModelForward:
    """The deployed model's forward under a context of our own.

    Args:
        model: the model as vLLM loaded it, compiled or not.
        config: the engine's configuration.
        attention: the private attention layers and metadata.
        device: the worker's device.
    """

    def __init__(
        self, model: Any, config: VllmConfig, attention: PrivateAttention, device: torch.device
    ) -> None:
        self._model = model
        self._config = config
        self._attention = attention
        self._device = device

    def last_hidden(self, inputs: Tensor) -> Tensor:
        """Prefill one batch and return what the model's own final norm gives for the last position.

        Args:
            inputs: `[batch_size, seq_len, hidden_size]` in the model's dtype; the model may overwrite it.

        Returns:
            `[batch_size, hidden_size]` in the model's dtype, a tensor of its own.
        """
        batch_size, seq_len, hidden_size = inputs.shape
        metadata, slot_mapping = self._attention.metadata(batch_size, seq_len)
        positions = torch.arange(seq_len, dtype=torch.int64, device=self._device).repeat(batch_size)
        # A fresh context for each forward: MoE layers count through it. Compiled code is skipped because it
        # was traced for token ids; the numerics fingerprint says so.
        context = create_forward_context(
            metadata, self._config, slot_mapping=slot_mapping, skip_compiled=True
        )
        context = dataclasses.replace(context, no_compile_layers=self._attention.layers)
        with override_forward_context(context):
            output = self._model(
                input_ids=None,
                positions=positions,
                intermediate_tensors=None,
                inputs_embeds=inputs.view(batch_size * seq_len, hidden_size),
            )
        # With EAGLE3 a model returns the hidden states and auxiliary ones beside them.
        hidden_states: Tensor = output[0] if isinstance(output, tuple) else output
        return hidden_states.view(batch_size, seq_len, hidden_size)[:, -1].clone()
