"""What a round computes: its inputs, its projections and its readout, decided for a model."""

from dataclasses import dataclass
from typing import Self

from hallmark.poc.core.errors import FieldError
from hallmark.poc.protocol.config import DeployedModel, Inputs, PoCConfig, Readout
from hallmark.poc.protocol.round_spec import FIRST_ROW, NO_FIRST, default_projection_scale

__all__ = ["MIN_VOCABULARY", "Definition"]

MIN_VOCABULARY = 4096
"""A linear map of fewer tokens is a table."""

_MOST_BY_DEFAULT = 16
_LEAST_LENGTH = FIRST_ROW + 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """The settings of a computation, none of them open.

    Attributes:
        inputs: What goes into the model.
        vocabulary: Tokens are below it; 0 for normal inputs.
        first: The token of row 0, or `NO_FIRST`.
        input_scale: Standard deviation of normal inputs; 1 for tokens.
        projection_scale: Standard deviation of the projections' elements.
        readout: What is read of the final hidden states.
        numbers: Numbers that a nonce gives, k.
    """

    inputs: Inputs
    vocabulary: int
    first: int
    input_scale: float
    projection_scale: float
    readout: Readout
    numbers: int

    @classmethod
    def resolve(cls, config: PoCConfig, model: DeployedModel) -> Self:
        """Decide what a request leaves open.

        Raises:
            FieldError: Settings contradict each other, or the model.
        """
        vocabulary = _vocabulary(config, model)
        inputs, readout = _pair(config, vocabulary)
        has_tokens = inputs == "tokens"
        if has_tokens and vocabulary < MIN_VOCABULARY:
            field = "inputs" if config.inputs is not None else "readout"
            raise FieldError(
                field,
                getattr(config, field),
                f"{'normal' if field == 'inputs' else 'last'}: a linear map of tokens needs a vocabulary of "
                f"{MIN_VOCABULARY:,} or more, this one has {vocabulary:,}",
            )
        if inputs == "normal" and readout == "rows" and config.honest_sigma is None:
            raise FieldError(
                "readout",
                readout,
                "last for normal inputs, unless honest_sigma is stated: their noise is large",
            )
        if has_tokens and config.input_scale not in (None, 1.0):
            raise FieldError("input_scale", config.input_scale, "none for tokens: it scales normal inputs")
        scale = config.projection_scale
        return cls(
            inputs=inputs,
            vocabulary=vocabulary if has_tokens else 0,
            first=_first(config, model) if has_tokens else NO_FIRST,
            input_scale=1.0 if config.input_scale is None else config.input_scale,
            projection_scale=default_projection_scale(model.hidden_size) if scale is None else scale,
            readout=readout,
            numbers=_numbers(config, readout),
        )


def _pair(config: PoCConfig, vocabulary: int) -> tuple[Inputs, Readout]:
    """Decide on inputs and readout, whose defaults go together."""
    inputs, readout = config.inputs, config.readout
    if inputs is None and readout is None:
        if not config.use_random_projection or vocabulary < MIN_VOCABULARY:
            return "normal", "last"
        # Lengths that older clients may ask for.
        is_short = config.seq_len % 2 or config.seq_len < _LEAST_LENGTH
        return "tokens", "last" if is_short else "rows"
    if inputs is None:
        return ("tokens", "rows") if readout == "rows" else ("normal", "last")
    if readout is None:
        return (inputs, "rows") if inputs == "tokens" else (inputs, "last")
    return inputs, readout


def _vocabulary(config: PoCConfig, model: DeployedModel) -> int:
    stated = config.vocabulary
    if stated is None:
        return model.vocabulary
    if not model.vocabulary:
        raise FieldError(
            "vocabulary", stated, "none: the model's embeddings have another width than its hidden state"
        )
    if stated > model.vocabulary:
        raise FieldError("vocabulary", stated, f"1 to {model.vocabulary}, the tokens that the model has")
    return stated


def _first(config: PoCConfig, model: DeployedModel) -> int:
    if config.first is None:
        # A tokenizer may know tokens that the table has no row for.
        return NO_FIRST if model.first is None or model.first >= model.table_rows else model.first
    if config.first == "none":
        return NO_FIRST
    if config.first >= model.table_rows:
        raise FieldError(
            "first",
            config.first,
            f"none, or 0 to {model.table_rows - 1}, a row of the model's embedding table",
        )
    return config.first


def _numbers(config: PoCConfig, readout: Readout) -> int:
    """Decide on k.

    Raises:
        FieldError: It does not fit the readout or the length.
    """
    stated, seq_len = config.numbers, config.seq_len
    if readout == "last":
        if stated not in (None, 1):
            raise FieldError("numbers", stated, "1, where the last row is read")
        return 1
    if seq_len % 2 or seq_len < _LEAST_LENGTH:
        raise FieldError(
            "seq_len", seq_len, f"an even number from {_LEAST_LENGTH} on, where groups of rows are read"
        )
    if stated is None:
        return max(1, min(_MOST_BY_DEFAULT, (seq_len - FIRST_ROW) // 4))
    most = (seq_len - FIRST_ROW) // 2
    if stated > most:
        raise FieldError(
            "numbers", stated, f"1 to {most} for seq_len {seq_len}, which is at least 2 · numbers + 8"
        )
    return stated
