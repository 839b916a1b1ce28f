"""The model's part of a number without vLLM: plain PyTorch and a transformers model.

Slow, and exact in everything but the model's own arithmetic: the oracle of the tests, and what a verifier
needs who has no server. What comes before and after the model is `RoundTensors`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Self

import torch
from torch import Tensor

from hallmark.kernels.path import kernel_path
from hallmark.kernels.self_check import check_ops
from hallmark.poc.core.errors import EngineError, FieldError, StateError, UnsupportedError
from hallmark.poc.offline.engine import Batch, Computed, deployed
from hallmark.poc.offline.model_files import model_fingerprint
from hallmark.poc.protocol.config import DeployedModel
from hallmark.poc.protocol.model_facts import device_name, first_token
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.proof import Numerics
from hallmark.poc.protocol.round_spec import RoundSpec
from hallmark.poc.protocol.round_tensors import RoundTensors, pad_keys

__all__ = ["DTYPES", "OfflineModel", "TransformersLoader", "final_hidden", "language_model_class"]

DTYPES: Final = ("bfloat16", "float16", "float32")
"""What a model may be run in, by PyTorch's names."""

_NO_LIMIT: Final = 2**31 - 1

_CHECKED_TOKENS: Final = 16
_MOST_DIFFERENCE: Final = 1e-4

_TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


@torch.inference_mode()
def final_hidden(model: Any, *, inputs: Tensor | None = None, tokens: Tensor | None = None) -> Tensor:
    """Run a prefill through the whole model, from embeddings or from tokens.

    Args:
        model: A causal language model of transformers; what is in front of its output layer is run.
        inputs: [batch, seq_len, D] in the model's dtype, on its device. Left as it is.
        tokens: int64 [batch, seq_len], where there are no inputs.

    Returns:
        [batch, seq_len, D], all rows of what the model's own final norm returns.
    """
    shaped = inputs if inputs is not None else tokens
    if shaped is None:
        raise ValueError("neither inputs nor tokens")
    positions = torch.arange(shaped.shape[1], device=shaped.device).expand(shaped.shape[0], -1)
    output = model.base_model(input_ids=tokens, inputs_embeds=inputs, position_ids=positions, use_cache=False)
    hidden: Tensor = output.last_hidden_state
    return hidden


@dataclass(frozen=True)
class TransformersLoader:
    """Loads a model from a folder by transformers: one process, one device.

    Attributes:
        directory: Configuration and weights as transformers reads them.
        device: Where to compute; None is a GPU where there is one.
        dtype: What to run it in; None is what its configuration names.
    """

    directory: Path
    device: str | None = None
    dtype: str | None = None

    @property
    def devices(self) -> int:
        """One."""
        return 1

    def fingerprint(self) -> str:
        """That of the model's files; dtype and device are among an engine's numerics."""
        return model_fingerprint(self.directory)

    def load(self) -> "OfflineModel":
        """Load the model, and compare the device's kernels with their references.

        Raises:
            FieldError: Naming the option that is at fault, `model`, `device` or `dtype`.
            StateError: The model computes something else from embeddings than from tokens.
            UnsupportedError: transformers is not installed.
            EngineError: A kernel of the device computes something else than its reference.
        """
        if self.dtype is not None and self.dtype not in DTYPES:
            raise FieldError("dtype", self.dtype, ", ".join(DTYPES))
        device = _checked_device(self.device)
        import_transformers().utils.logging.disable_progress_bar()
        model = OfflineModel.load(self.directory, device=device, dtype=self.dtype)
        model.check_kernels()
        return model


def _checked_device(name: str | None) -> str:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name is None:
        return "cuda" if count else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as exc:
        raise FieldError("device", name, "cpu, cuda or cuda:N") from exc
    if device.type not in ("cpu", "cuda"):
        raise FieldError("device", name, "cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= count:
        raise FieldError("device", name, f"cpu, or one of the {count} GPUs that PyTorch sees here")
    return name


class OfflineModel:
    """A transformers model from a local directory, and the facts that a round is resolved against.

    Attributes:
        model: The causal language model.
        hidden_size: Width of the hidden state, D.
        dtype: What it runs in, by PyTorch's name.
        device: Where it runs.
        quantization: The method that its own configuration names; `none` where it names none.
    """

    def __init__(self, model: Any, device: torch.device | str, first: int | None = None) -> None:
        """Take a model that is loaded.

        Args:
            model: A causal language model of transformers, on the device.
            device: Where it is.
            first: The token that its tokenizer puts in front of every text; None where it puts none.

        Raises:
            StateError: It computes something else from embeddings than from tokens, or its embeddings are of
                another width than its hidden states.
        """
        text = model.config.get_text_config()
        self.model = model
        self.device = torch.device(device)
        self.hidden_size = int(text.hidden_size)
        self.dtype = _name(model.dtype)
        self.quantization = _quantization(model.config)
        self._max_model_len = int(getattr(text, "max_position_embeddings", None) or _NO_LIMIT)
        self._first = first
        self._round: tuple[RoundSpec, RoundTensors] | None = None
        self._check_width()
        rows, width = model.get_input_embeddings().weight.shape
        has_rows = width == self.hidden_size
        self._table_rows = int(rows) if has_rows else 0
        self._vocabulary = min(int(text.vocab_size), self._table_rows)
        # What its embeddings are multiplied by, where it does that on the way from tokens only.
        self._multiplier = 1.0
        if has_rows:
            self._settle_embeddings(float(getattr(text, "embedding_multiplier", 1.0)))

    @classmethod
    def load(cls, directory: Path, *, device: torch.device | str, dtype: str | None = None) -> Self:
        """Load a model; nothing is looked up outside of the directory.

        Args:
            directory: Configuration and weights as transformers reads them.
            device: Where to put it.
            dtype: What to run it in; None is what its configuration names.

        Raises:
            FieldError: The directory is not there, holds no causal language model that can be loaded, or
                lacks some of its weights; or no dtype is known.
            StateError: The model computes something else from embeddings than from tokens.
            UnsupportedError: transformers is not installed.
        """
        transformers = import_transformers()
        if not directory.is_dir():
            raise FieldError("model", str(directory), "a directory with a model's configuration and weights")
        # Whatever transformers cannot read, and however it says so, is about the directory.
        try:
            config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
        except Exception as exc:
            raise _not_loadable(directory, exc) from exc
        stated = getattr(config.get_text_config(), "dtype", None)
        name = dtype or (_name(stated) if isinstance(stated, torch.dtype) else stated)
        if name not in DTYPES:
            raise FieldError(
                "dtype", name, f"{', '.join(DTYPES)}; the model's configuration names none of them"
            )
        try:
            model, info = language_model_class(config).from_pretrained(
                directory,
                config=config,
                dtype=getattr(torch, name),
                attn_implementation="eager",
                local_files_only=True,
                output_loading_info=True,
            )
        except Exception as exc:
            raise _not_loadable(directory, exc) from exc
        # transformers would draw these at random, and honest claims would then look forged.
        absent = sorted([*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])])
        if absent:
            raise FieldError(
                "model",
                str(directory),
                f"a directory with all of the model's weights; {len(absent)} are missing or of another "
                f"shape, the first is {absent[0]}",
            )
        return cls(model.to(device).eval(), device, _first_token(directory))

    @property
    def torch_dtype(self) -> torch.dtype:
        """What it runs in."""
        found: torch.dtype = self.model.dtype
        return found

    @property
    def facts(self) -> DeployedModel:
        """What a round has to know of the model."""
        return DeployedModel(
            hidden_size=self.hidden_size,
            dtype=self.dtype,
            vocabulary=self._vocabulary,
            table_rows=self._table_rows,
            first=self._first,
            served_names=(),
            max_batched_tokens=_NO_LIMIT,
            max_sequences=_NO_LIMIT,
            max_model_len=self._max_model_len,
        )

    def deployed(self, served_name: str, batch_tokens: int) -> DeployedModel:
        """Return the facts that a round is resolved against, as `offline.engine.deployed` has them."""
        return deployed(self.facts, served_name, batch_tokens)

    @property
    def numerics(self) -> Numerics:
        """The fingerprint of this arithmetic, by the names that servers use for the same things."""
        return {
            "engine": f"transformers {import_transformers().__version__}",
            "torch": str(torch.__version__),
            "device": device_name(self.device),
            "dtype": self.dtype,
            "quantization": self.quantization,
            # transformers keeps keys and values as the model computes them.
            "kv_cache_dtype": self.dtype,
            "forward": "eager",
            "tensor_parallel_size": 1,
            "kernels": kernel_path(self.device, self.hidden_size).value,
        }

    def check_kernels(self) -> None:
        """Compare this device's kernels with their references; on a CPU the references are what runs.

        Raises:
            EngineError: One of them computes something else.
        """
        if self.device.type == "cpu":
            return
        try:
            check_ops(getattr(torch, self.dtype), self.hidden_size, self.device)
        except RuntimeError as exc:
            raise EngineError(f"this device does not compute the protocol's values: {exc}") from exc

    def compute(self, batches: Iterable[Batch]) -> Iterator[Computed]:
        """Compute batches one after the other, in the order of a round's.

        Raises:
            EngineError: The device has no memory for a batch.
            StateError: The model returns something else than hidden states of its width.
        """
        for batch in batches:
            yield Computed(batch, self.numbers(self._tensors(batch.spec), batch.keys))

    def close(self) -> None:
        """Free the round's tensors; the model goes with its last user."""
        self._round = None

    def _tensors(self, spec: RoundSpec) -> RoundTensors:
        """Return the tensors of a round, kept for its other batches; those of the one before are freed."""
        if self._round is None or self._round[0] != spec:
            self._round = None
            self._round = spec, RoundTensors(spec, self.torch_dtype, self.device)
        return self._round[1]

    def numbers(self, tensors: RoundTensors, keys: Sequence[NonceKey]) -> list[list[float]]:
        """Compute the numbers of up to a whole batch of nonces, as a whole batch; NaN where one failed.

        Raises:
            EngineError: The device has no memory for it.
            StateError: The model returns something else than hidden states of its width.
        """
        padded = pad_keys(keys, tensors.batch_size)
        try:
            hidden = self.states(tensors, padded).flatten(0, 1)
            found: list[list[float]] = tensors.numbers(hidden, padded, tensors.order(padded)).tolist()
        except torch.OutOfMemoryError as exc:
            raise EngineError(
                f"{self.device} has no memory for a batch of {len(padded)} nonces: {exc}"
            ) from exc
        return found[: len(keys)]

    def states(self, tensors: RoundTensors, keys: Sequence[NonceKey]) -> Tensor:
        """Run the model on the inputs of some nonces.

        Returns:
            [keys, seq_len, D] in the model's dtype, all rows of what its final norm returns.

        Raises:
            StateError: The model returns something else than hidden states of its width.
        """
        drawn = self.embed(tensors.tokens(keys)) if tensors.reads_tokens else tensors.normal(keys)
        hidden = final_hidden(self.model, inputs=self._scaled(tensors.project(drawn)))
        if hidden.shape != drawn.shape:
            raise StateError(f"the model returns {tuple(hidden.shape)} for a batch of {tuple(drawn.shape)}")
        return hidden

    @torch.inference_mode()
    def embed(self, tokens: Tensor) -> Tensor:
        """Look tokens up by the model's own embedding function: [..., D] in the model's dtype."""
        embedded: Tensor = self.model.get_input_embeddings()(tokens)
        return embedded

    def _check_width(self) -> None:
        """Refuse a model that takes embeddings of another width than its hidden states, and projects them.

        Raises:
            StateError: It is one.
        """
        width = self.embed(torch.zeros(1, dtype=torch.int64, device=self.device)).shape[-1]
        if width != self.hidden_size:
            raise StateError(
                f"the model takes embeddings of the width {width}, and its hidden states have "
                f"{self.hidden_size}: inputs of a round are as wide as these"
            )

    def _settle_embeddings(self, multiplier: float) -> None:
        """Compare a forward from the rows of the embedding table with one from the tokens themselves.

        Args:
            multiplier: What its configuration says that embeddings are multiplied by. Most models do so
                wherever their inputs come from; Falcon-H1 of transformers does not.

        Raises:
            StateError: They differ, with the multiplier and without.
        """
        tokens = torch.arange(_CHECKED_TOKENS, device=self.device).unsqueeze(0) * 31 % self._vocabulary
        from_tokens = final_hidden(self.model, tokens=tokens).double()
        differences = []
        for self._multiplier in dict.fromkeys((1.0, multiplier)):
            from_rows = final_hidden(self.model, inputs=self._scaled(self.embed(tokens))).double()
            differences.append(float((from_tokens - from_rows).norm() / from_tokens.norm()))
            if differences[-1] <= _MOST_DIFFERENCE:
                return
        raise StateError(
            "the model's forward from the rows of its embedding table is not its forward from the tokens: "
            f"hidden states differ by {differences[0]:.3g} of their norm"
        )

    def _scaled(self, inputs: Tensor) -> Tensor:
        """Multiply inputs by what the model multiplies its embeddings by, where it does not do it itself."""
        return inputs if self._multiplier == 1.0 else inputs * self._multiplier


def _first_token(directory: Path) -> int | None:
    """Return the token that the directory's tokenizer puts in front of every text; None without a tokenizer.

    Raises:
        FieldError: There is one that transformers cannot read.
    """
    if not any((directory / name).is_file() for name in _TOKENIZER_FILES):
        return None
    try:
        tokenizer = import_transformers().AutoTokenizer.from_pretrained(directory, local_files_only=True)
        return first_token(tokenizer)
    except Exception as exc:
        raise _not_loadable(directory, exc) from exc


def import_transformers() -> Any:
    """Return the transformers package.

    Raises:
        UnsupportedError: It is not installed.
    """
    try:
        return import_module("transformers")
    except ModuleNotFoundError as exc:
        error = UnsupportedError("recomputing distances without a server needs transformers")
        error.add_note("pip install '.[verify]' in the checkout brings it")
        raise error from exc


def language_model_class(config: Any) -> Any:
    """Return transformers' class that loads a model by its configuration and returns a text's states.

    Models that see or hear besides are in a list of their own.

    Raises:
        UnsupportedError: transformers is not installed.
    """
    transformers = import_transformers()
    is_causal = type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    return transformers.AutoModelForCausalLM if is_causal else transformers.AutoModelForMultimodalLM


def _not_loadable(directory: Path, exc: Exception) -> FieldError:
    reason = " ".join(str(exc).split()) or type(exc).__name__
    return FieldError(
        "model", str(directory), f"a directory with a causal language model of transformers ({reason})"
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _quantization(config: Any) -> str:
    stated = getattr(config, "quantization_config", None)
    if stated is None:
        return "none"
    method = stated.get("quant_method") if isinstance(stated, dict) else stated.quant_method
    return str(getattr(method, "value", method))
