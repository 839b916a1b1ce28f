"""The model's part of a distance without vLLM: plain PyTorch and a transformers model.

Slow, and exact in everything but the model's own arithmetic: the oracle of the tests, and what a verifier
needs who has no server. What comes before and after the model is `RoundTensors`.
"""

from typing import Any

import torch
from torch import Tensor

__all__ = ["last_hidden"]


@torch.inference_mode()
def last_hidden(model: Any, inputs: Tensor) -> Tensor:
    """Run a prefill from embeddings through the whole model.

    Args:
        model: A causal language model of transformers; what is in front of its output layer is run.
        inputs: [batch, seq_len, D] in the model's dtype, on its device. Left as it is.

    Returns:
        [batch, D], the last position of what the model's own final norm returns.
    """
    positions = torch.arange(inputs.shape[1], device=inputs.device).expand(inputs.shape[0], -1)
    output = model.base_model(inputs_embeds=inputs, position_ids=positions, use_cache=False)
    hidden: Tensor = output.last_hidden_state[:, -1]
    return hidden
