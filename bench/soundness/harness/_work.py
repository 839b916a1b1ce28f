"""Which part of a forward does how much of its work, in floating-point operations."""

from _altered import Deployed, layers_of
from torch import nn


class Work:
    """Shares of a forward's operations; those of norms, rotations and activations count nothing.

    Args:
        deployed: The model and the length of its nonces.

    Attributes:
        layers: How many there are.
        parts: For one layer, the share that each has of the whole forward: `q_proj`, `k_proj`, `v_proj`,
            `o_proj`, `gate_proj`, `up_proj`, `down_proj` and `scores`, the products of queries with keys and
            of weights with values.
        linear: The share of a linear map of the model's width.
    """

    def __init__(self, deployed: Deployed) -> None:
        layers = layers_of(deployed.model)
        rows = deployed.round.spec().seq_len
        operations = {
            name.rpartition(".")[2]: 2.0 * rows * module.weight.numel()
            for name, module in layers[0].named_modules()
            if isinstance(module, nn.Linear)
        }
        # A row looks at itself and at those before it.
        pairs = rows * (rows + 1) / 2
        operations["scores"] = 2.0 * 2.0 * pairs * layers[0].self_attn.o_proj.in_features
        whole = sum(operations.values()) * len(layers)
        self.layers = len(layers)
        self.parts = {name: each / whole for name, each in operations.items()}
        self.linear = 2.0 * rows * deployed.model.hidden_size**2 / whole

    @property
    def layer(self) -> float:
        """The share of a layer."""
        return sum(self.parts.values())

    @property
    def mlp(self) -> float:
        """The share of the MLP of a layer."""
        return sum(self.parts[name] for name in ("gate_proj", "up_proj", "down_proj"))

    @property
    def beyond_keys(self) -> float:
        """The share of a layer without keys and values, which other rows look at."""
        return self.layer - self.parts["k_proj"] - self.parts["v_proj"]

    @property
    def matrices(self) -> float:
        """The share of a layer's matrices."""
        return self.layer - self.parts["scores"]
