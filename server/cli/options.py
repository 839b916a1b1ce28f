"""The options that say what a round is, made of the settings of its request."""

import inspect
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from hallmark.poc.core.errors import FieldError
from hallmark.poc.protocol.config import Concern, PoCConfig, Setting

__all__ = ["RoundFile", "Stated", "named_by_option", "round_body", "takes_settings"]

Stated = dict[str, Any]
"""Settings that the command line states, by the names of the request's fields.

A command's parameter of this type is replaced by an option for each setting (`takes_settings`).
"""

RoundFile = Annotated[
    Path | None,
    typer.Option(
        "--round",
        metavar="FILE",
        help="JSON: the body that the round was set with. Options override it; proofs of "
        "other blocks are refused.",
    ),
]

_TARGET: Final = frozenset({"r_target", "valid_rate"})


def takes_settings(
    concerns: Collection[Concern], names: Mapping[str, str] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each setting of a round that is about one of some concerns.

    Args:
        concerns: What the settings are about.
        names: Options that this command calls otherwise, by the field's name.
    """
    taken = dict(_settings(concerns))
    options = {
        (names or {}).get(field) or setting.option or field: field for field, (_, setting) in taken.items()
    }

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(**arguments: Any) -> None:
            stated = {field: arguments.pop(option) for option, field in options.items()}
            stated = {field: _value(field, value) for field, value in stated.items() if value is not None}
            command(**arguments, **{place: stated})

        own = inspect.signature(command, eval_str=True).parameters
        [place] = [name for name, parameter in own.items() if parameter.annotation is Stated]
        parameters: list[inspect.Parameter] = []
        made = [_option(option, taken[field][0]) for option, field in options.items()]
        for name, parameter in own.items():
            if name == place:
                parameters += [each for each in made if each.default is inspect.Parameter.empty]
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        # Help has what most people need before what few do.
        parameters += [each for each in made if each.default is not inspect.Parameter.empty]
        # What typer reads.
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return run

    return decorate


def _settings(concerns: Collection[Concern]) -> Iterator[tuple[str, tuple[FieldInfo, Setting]]]:
    for name, field in _FIELDS.items():
        setting = next(each for each in field.metadata if isinstance(each, Setting))
        if setting.concern in concerns:
            yield name, (field, setting)


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    """Make the parameter of one setting; None is an option that was not given."""
    kinds, texts = _kinds(field)
    kind = kinds[0] if kinds else str
    annotation: Any = kind | None
    help_ = re.sub(_NAMES, lambda found: f"--{found[0].replace('_', '-')}", field.description or "")
    option = typer.Option(help=help_)
    default: Any = None
    if field.is_required():
        annotation, default = kind, inspect.Parameter.empty
    elif texts:
        annotation = str | None
        named = [kind.__name__.upper() for kind in kinds]
        option = typer.Option(metavar="|".join([*named, *texts]), help=help_)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, option]
    )


def _kinds(field: FieldInfo) -> tuple[list[type], list[str]]:
    """Return the types that a setting may have beside text, and the texts that it may be.

    `none` is one of them where null says something else than leaving the setting out.
    """
    of_field = get_args(field.annotation) if get_origin(field.annotation) in _UNIONS else (field.annotation,)
    texts = [text for kind in of_field if get_origin(kind) is Literal for text in get_args(kind)]
    if type(None) in of_field and field.default is not None:
        texts.append(_NULL)
    kinds = [kind for kind in of_field if isinstance(kind, type) and kind is not type(None)]
    return kinds, texts


def _value(field: str, value: Any) -> Any:
    """Return what an option of a setting stands for.

    Raises:
        FieldError: It is neither a number nor one of the texts that it may be.
    """
    kinds, texts = _kinds(_FIELDS[field])
    if not texts:
        return value
    if value in texts:
        return None if value == _NULL and float in kinds else value
    try:
        return kinds[0](value)
    except (IndexError, ValueError) as exc:
        allowed = ", or ".join([*(_IN_WORDS[kind] for kind in kinds), *texts])
        raise FieldError(f"--{field.replace('_', '-')}", value, allowed) from exc


_NULL: Final = "none"
_IN_WORDS: Final = {int: "an integer", float: "a number"}
_UNIONS: Final = (Union, UnionType)


_NAMES: Final = re.compile(r"\b(r_target|distance_tolerance)\b")
"""Settings that the descriptions of others speak of."""

_FIELDS: Final[Mapping[str, FieldInfo]] = PoCConfig.__pydantic_fields__  # type: ignore[attr-defined]


@contextmanager
def named_by_option() -> Iterator[None]:
    """Name the option where a value that it states is at fault, and not the field.

    Raises:
        FieldError: Naming the option.
    """
    try:
        yield
    except FieldError as exc:
        name = exc.field if exc.field.startswith("-") else f"--{exc.field.replace('_', '-')}"
        raise FieldError(name, exc.value, exc.allowed) from exc


def round_body(file: Path | None, stated: Stated) -> dict[str, Any]:
    """Return the body of `/init` that a file and options together stand for.

    Args:
        file: Of --round.
        stated: What the options state.

    Raises:
        FieldError: The file holds no JSON object.
    """
    if file is None:
        return stated
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise FieldError("--round", str(file), f"a readable file of JSON ({exc})") from exc
    if not isinstance(body, dict):
        raise FieldError("--round", str(file), "a file with the body of /init as one JSON object")
    if "seq_len" in stated and isinstance(body.get("params"), dict):
        # The older clients' toy model states it once more.
        body["params"] = {name: value for name, value in body["params"].items() if name != "seq_len"}
    if _TARGET & stated.keys():
        # Either says it all: what is stated of the other would only contradict.
        body = {name: value for name, value in body.items() if name not in _TARGET}
    return body | stated
