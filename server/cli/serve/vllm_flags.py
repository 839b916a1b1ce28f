"""What `hallmark serve` has to know of vLLM's flags; it changes none of them."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hallmark.poc.core.errors import FieldError
from hallmark.poc.settings.settings import SECTION

__all__ = ["VllmFlags"]

_SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

_LONG_NAMES = {
    "asc": "api-server-count",
    "dcp": "decode-context-parallel-size",
    "dp": "data-parallel-size",
    "dpe": "data-parallel-external-lb",
    "dph": "data-parallel-hybrid-lb",
    "dpl": "data-parallel-size-local",
    "dpm": "data-parallel-multi-port-external-lb",
    "dpn": "data-parallel-rank",
    "dpr": "data-parallel-start-rank",
    "h": "help",
    "n": "nnodes",
    "pcp": "prefill-context-parallel-size",
    "pp": "pipeline-parallel-size",
    "r": "node-rank",
    "tp": "tensor-parallel-size",
}
"""The flags with one dash that stand for flags which are looked at here."""

_NOT_SHOWN = "(not shown)"
"""In the place of a text that may hold a secret."""


class VllmFlags:
    """The flags of a vLLM server, those of its `--config` file included.

    vLLM reads `--a-flag value`, `--a-flag=value`, underscores for dashes, and `--a-flag.key value` for parts
    of a flag that is JSON. The command line goes before the file, later flags go before earlier ones. Flags
    that are cut short are not known here: only vLLM knows what they are short for.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        """Read the flags.

        Args:
            arguments: As the user wrote them.

        Raises:
            FieldError: The `--config` file cannot be read, or is given so that vLLM would pass over it; or a
                setting is given as a flag of its own.
        """
        in_one_word = [argument for argument in arguments if argument.startswith("--config=")]
        if in_one_word:
            raise FieldError("--config", in_one_word[0], "--config FILE, in two words, as vLLM reads it")
        self._given = list(_pairs(arguments))
        for name, _ in self._given:
            if name.startswith(SECTION):
                setting = name.removeprefix(SECTION).lstrip(".-").replace("-", "_")
                # Without its value, which may be a token.
                raise FieldError(
                    f"--{name}",
                    "a flag of its own",
                    ".".join(filter(None, ("--additional-config", SECTION, setting))),
                )
        path = self.get("config")
        self._file: Mapping[str, Any] = {} if path is None else _read_config(Path(path))

    def get(self, name: str) -> str | None:
        """Return a flag's value as text.

        None where it was not given, empty where it was given without a value.
        """
        for given, value in reversed(self._given):
            if given == name:
                return value
        if name != "config" and name in self._file:
            value = self._file[name]
            return value if isinstance(value, str) else json.dumps(value)
        return None

    def get_value(self, name: str) -> object:
        """Return a flag's value as argparse has it: True for a switch, a number, a text.

        None if it is not given.
        """
        # vLLM turns a switch off by its name with `no-`, one with `enable-` by `disable-` too.
        opposites = {f"no-{name}", name.replace("enable-", "disable-", 1)} - {name}
        for given, value in reversed(self._given):
            if given in opposites:
                return False
            if given == name or given.startswith(f"{name}."):
                return _typed(value)
        return self._file.get(name)

    def get_integer(self, name: str) -> int | None:
        """Return a flag's value as a number, 4k being 4,000 and 4K 4,096; None where it was not given.

        Raises:
            FieldError: It is not a whole number.
        """
        value = self.get(name)
        if value is None:
            return None
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMgGtT]?)", value.strip())
        number = float(match[1]) * _SUFFIXES.get(match[2], 1) if match else 0.5
        if not number.is_integer():
            raise FieldError(f"--{name}", value, "a whole number such as 8192 or 8k")
        return int(number)

    def get_mapping(self, name: str) -> dict[str, Any]:
        """Return a flag that is JSON.

        Its parts, where they were given one by one, stand for the whole, as in vLLM.

        Raises:
            FieldError: It is not a JSON object, or stands in the `--config` file as well.
        """
        mapping: Any = {}
        parts = [
            (given.split(".")[1:], value) for given, value in self._given if given.startswith(f"{name}.")
        ]
        for keys, value in parts:
            _put(mapping, keys, value)
        if name in self._file and any(given.partition(".")[0] == name for given, _ in self._given):
            # All that the file has in it, a token's file say, would be lost in silence.
            raise FieldError(
                f"--{name}", "a flag and in the --config file", "one of both: vLLM takes the flag's alone"
            )
        whole = self.get(name)
        if parts or whole is None:
            return dict(mapping)
        try:
            mapping = json.loads(whole)
        except ValueError as exc:
            raise FieldError(f"--{name}", _NOT_SHOWN, f"JSON ({exc})") from exc
        if not isinstance(mapping, dict):
            raise FieldError(f"--{name}", _NOT_SHOWN, "a JSON object")
        return mapping


def _pairs(arguments: Sequence[str]) -> list[tuple[str, str]]:
    pairs = []
    for place, argument in enumerate(arguments):
        if not _is_flag(argument):
            continue
        name, separator, value = argument.lstrip("-").partition("=")
        if not separator:
            following = arguments[place + 1 : place + 2]
            value = following[0] if following and not _is_flag(following[0]) else ""
        head, dot, keys = name.partition(".")
        if not argument.startswith("--"):
            head = _LONG_NAMES.get(head, f"-{head}")
        pairs.append((head.replace("_", "-") + dot + keys, value))
    return pairs


def _is_flag(argument: str) -> bool:
    return re.match(r"--?[A-Za-z]", argument) is not None


def _typed(value: str) -> bool | float | str:
    if value == "":  # a switch
        return True
    try:
        return float(value)
    except ValueError:
        return value


def _put(mapping: dict[str, Any], keys: Sequence[str], value: str) -> None:
    """Set `mapping[key][key]...`, where the last key may end in `+` to append to a list."""
    *path, last = keys
    for key in path:
        mapping = mapping.setdefault(key, {})
    if last.endswith("+"):
        mapping.setdefault(last.removesuffix("+"), []).extend(value.split(","))
        return
    try:
        mapping[last] = json.loads(value)
    except ValueError:
        mapping[last] = value  # vLLM takes what is not JSON as text


def _read_config(path: Path) -> dict[str, Any]:
    # vLLM depends on PyYAML; Hallmark alone does not.
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise FieldError("--config", str(path), f"a YAML file ({exc})") from exc
    except yaml.YAMLError as exc:
        # Not the parser's own text, which repeats the line: it may hold a secret.
        raise FieldError("--config", str(path), f"a YAML file{_place(exc)}") from None
    if not isinstance(content, dict):
        raise FieldError("--config", str(path), "a YAML file of flags")
    return {str(name).replace("_", "-"): value for name, value in content.items()}


def _place(error: Exception) -> str:
    """Return where a YAML parser gave up."""
    mark = getattr(error, "problem_mark", None)
    return "" if mark is None else f"; line {mark.line + 1}, column {mark.column + 1} is not YAML"
