"""Which part of a forward does how much of its work, in floating-point operations."""

from _models import ModelShape

from hallmark.poc.offline.model import OfflineModel


def shape_of(model: OfflineModel) -> ModelShape:
    """Return the shape of a loaded model, by its configuration."""
    return ModelShape.of(model.model.config.get_text_config())


class Work:
    """Shares of a forward's operations.

    Args:
        shape: The model's.
        rows: Of a nonce.

    Attributes:
        parts: For one layer, the share that each has of the whole forward: each linear map by its name, and
            `scores`, the products of queries with keys and of weights with values.
        linear: The share of a linear map of the model's width.
    """

    def __init__(self, shape: ModelShape, rows: int) -> None:
        whole = shape.forward_flops(1, rows)
        self.parts = {name: flops / whole for name, flops in shape.layer_flops(rows).items()}
        self.linear = 2.0 * rows * shape.hidden_size**2 / whole

    @property
    def layer(self) -> float:
        """The share of a layer."""
        return sum(self.parts.values())

    @property
    def mlp(self) -> float:
        """The share of the MLP of a layer."""
        return sum(self.parts[name] for name in ("gate_proj", "up_proj", "down_proj"))

    @property
    def attention(self) -> float:
        """The share of the attention of a layer."""
        return self.layer - self.mlp

    @property
    def keys_and_values(self) -> float:
        """The share of the keys and values of a layer."""
        return self.parts["k_proj"] + self.parts["v_proj"]

    @property
    def qkv(self) -> float:
        """The share of the queries, keys and values of a layer."""
        return self.parts["q_proj"] + self.keys_and_values

    @property
    def beyond_keys(self) -> float:
        """The share of a layer without keys and values, which other rows look at."""
        return self.layer - self.keys_and_values

    @property
    def matrices(self) -> float:
        """The share of a layer's matrices."""
        return self.layer - self.parts["scores"]
