"""The inventory of a fleet: its nodes' URLs, tokens and groups, in TOML, and the numbers that they get."""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer
from pydantic import SecretStr

from hallmark.poc.core.errors import FieldError
from hallmark.poc.core.models import nearest
from hallmark.poc.settings.secret_sources import (
    API_KEY_VARIABLE,
    NOT_SHOWN,
    token_of_file,
    token_of_variable,
)
from hallmark.poc.webhooks.url import without_secrets
from hallmark.server.cli.client import UnreachableError, server_url

__all__ = ["FleetNode", "InventoryFile", "read_inventory"]

InventoryFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="The inventory in TOML: URL, token and group of each node.")
]

_TOKENS: Final = ("token_env", "token_file")
_KEYS: Final = ("nodes", *_TOKENS)
_NODE_KEYS: Final = ("url", "name", "group", *_TOKENS)
_MAX_TEXT: Final = 64
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_URL: Final = "http://HOST:PORT or https://HOST:PORT, without a user, a query or a fragment"


@dataclass(frozen=True, slots=True)
class FleetNode:
    """A server of the fleet.

    Attributes:
        number: Its place in the inventory, from 0: the round's `node_id`.
        count: How many nodes the fleet has: the round's `node_count`.
        name: What people call it; the inventory states it, or it is the URL without `http://`.
        url: Its base URL.
        group: The label of its group; None where it has none.
        group_number: Its group's place in the order in which the inventory first names them, from 0.
        token: Of its control routes; None where it asks for none.
    """

    number: int
    count: int
    name: str
    url: str
    group: str | None
    group_number: int
    token: SecretStr | None

    @property
    def share(self) -> dict[str, int]:
        """The settings of a round by which no other node of the fleet walks its nonces.

        Numbers go through the whole fleet. Those within groups would repeat, a batch names no group, and
        groups of unequal size would leave nonces that nobody walks.
        """
        return {"node_id": self.number, "node_count": self.count}


def read_inventory(path: Path, environment: Mapping[str, str] = os.environ) -> list[FleetNode]:
    """Read an inventory, and the tokens that it names.

    Args:
        path: The file; paths of tokens are relative to its folder.
        environment: Where variables of tokens are looked up.

    Returns:
        The nodes, in the order of their numbers.

    Raises:
        FieldError: It cannot be read, something in it is not allowed, or a token is not where it says. No
            error has a token in it.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise FieldError("FILE", str(path), f"a readable file of TOML ({exc})") from exc
    _check_keys(str(path), content, _KEYS)
    tables = content.get("nodes")
    if not isinstance(tables, list) or not tables or not all(isinstance(each, dict) for each in tables):
        shown = None if tables is None else NOT_SHOWN
        raise FieldError(f"{path}: nodes", shown, "a table [[nodes]] for each node, one at least")
    default = _token(f"{path}: ", content, path.parent, environment)
    if default is None:
        default = token_of_variable(API_KEY_VARIABLE, environment)
    groups: dict[str | None, int] = {}
    nodes: list[FleetNode] = []
    for number, table in enumerate(tables):
        place = f"{path}: nodes[{number}]"
        _check_keys(place, table, _NODE_KEYS)
        url = _url(f"{place}.url", table.get("url"))
        group = _text(f"{place}.group", table["group"]) if "group" in table else None
        token = _token(f"{place}.", table, path.parent, environment)
        node = FleetNode(
            number=number,
            count=len(tables),
            name=_text(f"{place}.name", table["name"]) if "name" in table else url.removeprefix("http://"),
            url=url,
            group=group,
            group_number=groups.setdefault(group, len(groups)),
            token=default if token is None else token,
        )
        _check_is_another(place, node, nodes)
        nodes.append(node)
    return nodes


def _check_keys(place: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Refuse keys that nothing knows; their values may be tokens."""
    unknown = [name for name in table if name not in known]
    if unknown:
        meant = nearest(unknown[0], known)
        hint = "" if meant is None else f"; {meant!r}, if that was meant"
        raise FieldError(f"{place}: {', '.join(unknown)}", NOT_SHOWN, f"the keys {', '.join(known)}{hint}")


def _url(field: str, value: object) -> str:
    """Return a node's base URL in the one form that two spellings of it have in common."""
    if not isinstance(value, str):
        raise FieldError(field, value, _URL)
    try:
        url = httpx.URL(server_url(value))
    except FieldError as exc:
        raise FieldError(field, without_secrets(value), exc.allowed) from exc
    except UnreachableError as exc:
        raise FieldError(field, without_secrets(value), _URL) from exc
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query or url.fragment:
        raise FieldError(field, without_secrets(value), _URL)
    return str(url).rstrip("/")


def _text(field: str, value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= _MAX_TEXT or not value.isprintable():
        raise FieldError(field, value, f"text of 1 to {_MAX_TEXT} printable characters")
    return value


def _token(
    place: str, table: Mapping[str, Any], folder: Path, environment: Mapping[str, str]
) -> SecretStr | None:
    """Return the token that a table names; None where it names none."""
    given = [name for name in _TOKENS if name in table]
    if not given:
        return None
    if len(given) > 1:
        raise FieldError(f"{place}{' and '.join(given)}", NOT_SHOWN, "one of the two")
    field, value = f"{place}{given[0]}", table[given[0]]
    if given == ["token_file"]:
        if not isinstance(value, str) or not value:
            raise FieldError(field, value, "the path of a file with the token in it")
        return token_of_file(field, str(folder / Path(value).expanduser()))
    # Somebody may have written the token itself there.
    is_name = isinstance(value, str) and _VARIABLE.fullmatch(value) is not None
    token = token_of_variable(value, environment) if is_name else None
    if token is None:
        shown = value if is_name and value.isupper() else NOT_SHOWN
        raise FieldError(field, shown, "the name of a variable of the environment that holds the token")
    return token


def _check_is_another(place: str, node: FleetNode, others: list[FleetNode]) -> None:
    for other in others:
        if other.url == node.url:
            raise FieldError(f"{place}.url", node.url, f"another URL than that of nodes[{other.number}]")
        if other.name == node.name:
            raise FieldError(f"{place}.name", node.name, f"another name than that of nodes[{other.number}]")
