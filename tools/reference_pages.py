"""Write what docs/reference/ has from the code: settings, status, metrics, HTTP, callbacks' bodies, Python.

Each stands between `<!-- reference: NAME -->` and `<!-- end -->` of a page, for a NAME of `BLOCKS`.
"""

import asyncio
import inspect
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

from fastapi import FastAPI
from prometheus_client.core import Metric
from pydantic import TypeAdapter

from hallmark.poc.core.models import json_schema
from hallmark.poc.protocol.bodies import GeneratedBody, ValidatedBody, VerdictBody
from hallmark.poc.protocol.config import PoCConfig
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.status import RoundStatus
from hallmark.poc.settings.settings import NEVER_IN_THE_SECTION, Settings
from hallmark.server.http import control, examples
from hallmark.server.http.app import mount
from hallmark.server.http.metrics import families
from hallmark.server.receiver import app as receiver
from hallmark.server.receiver.metrics import ReceiverMetrics

DOCUMENTS: Final = sorted((Path(__file__).parents[1] / "docs" / "reference").glob("*.md"))
_BLOCK: Final = re.compile(r"(<!-- reference: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

_PUBLIC: Final = (
    "hallmark.poc",
    "hallmark.poc.offline.proof_files",
    "hallmark.poc.offline.rounds",
    "hallmark.poc.offline.model",
    "hallmark.poc.offline.recompute",
    "hallmark.poc.offline.cases",
    "hallmark.kernels",
)

# Answers that others have all fields of, and those that have a page of their own.
_BASES: Final = ("RoundAnswer", "VerdictBody", "VerdictAnswer", "Progress")
_ELSEWHERE: Final = MappingProxyType({"RoundStatus": "[RoundStatus](status.md)"})

_Schema = dict[str, Any]


def document(content: str) -> str:
    """Return a document's content with its blocks written anew."""
    return _BLOCK.sub(lambda block: f"{block[1]}\n{BLOCKS[block[2]]()}\n{block[3]}", content)


def _settings() -> str:
    return _table(
        ("setting", "default", "values", "meaning"),
        (
            (f"`{name}`", _default(field["default"]), _type(field, {}), field["description"])
            for name, field in Settings.model_json_schema()["properties"].items()
            if name not in NEVER_IN_THE_SECTION
        ),
    )


def _status() -> str:
    schema = TypeAdapter(RoundStatus).json_schema()
    definitions = schema["$defs"]
    sections = []
    parts = [("", schema)]
    while parts:
        prefix, part = parts.pop(0)
        named = {f"{prefix}{name}": field for name, field in part["properties"].items()}
        heading = f"## {prefix.removesuffix('.')}\n\n{part['description']}\n\n" if prefix else ""
        sections.append(heading + _fields(named, definitions))
        inner = ((name, _reference(field, definitions)) for name, field in named.items())
        parts += [(f"{name}.", definitions[reference]) for name, reference in inner if reference]
    return "\n".join(sections)


def _node_metrics() -> str:
    return _metrics(families(cast("RoundStatus", examples.STATUS), gate_closed=True))


def _receiver_metrics() -> str:
    return _metrics(ReceiverMetrics(lambda: 0).collect())


def _metrics(found: Iterable[Metric]) -> str:
    rows = []
    for family in found:
        labels = list(dict.fromkeys(name for sample in family.samples for name in sample.labels))
        name = family.name + ("_total" if family.type == "counter" else "")
        shown = f"{{{','.join(labels)}}}" if labels else ""
        values = "".join(
            f" `{label}`: {', '.join(f'`{sample.labels[label]}`' for sample in family.samples)}."
            for label in labels
        )
        rows.append((f"`{name}{shown}`", family.type, family.documentation + values))
    return _table(("family", "type", "meaning"), rows)


def _node_document() -> _Schema:
    app = FastAPI()
    mount(app)
    return app.openapi()


def _receiver_document() -> _Schema:
    async def described() -> _Schema:
        with tempfile.TemporaryDirectory() as folder:
            app = receiver.create_app(Path(folder, "receiver.db"))
            # Its database is closed behind it.
            async with app.router.lifespan_context(app):
                return app.openapi()

    return asyncio.run(described())


def _routes(openapi: _Schema, errors: Mapping[int, str]) -> str:
    """Return a table of routes, a section for each, and the errors that all of them may answer with."""
    routes = {
        f"{method.upper()} {path}": operation
        for path, operations in openapi["paths"].items()
        for method, operation in operations.items()
    }
    overview = (
        (f"[{heading}](#{_anchor(heading)})", operation["description"].partition("\n\n")[0])
        for heading, operation in routes.items()
    )
    sections = (_route(heading, operation) for heading, operation in routes.items())
    rows = ((str(status), f"{what[0].upper()}{what[1:]}.") for status, what in errors.items())
    return "\n".join(
        [
            _table(("route", "does"), overview),
            *sections,
            f"### Errors\n\n{_table(('status', 'meaning'), rows)}",
        ]
    )


def _anchor(heading: str) -> str:
    """Return what GitHub and Markdown call a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _route(heading: str, operation: _Schema) -> str:
    parts = [f"### {heading}\n", f"{operation['description']}\n"]
    if "parameters" in operation:
        rows = (_stated(each["name"], each["schema"], each["required"]) for each in operation["parameters"])
        parts.append(_table(("parameter", "default", "type", "meaning"), rows))
    if "requestBody" in operation:
        names = operation["requestBody"]["content"]["application/json"]["schema"]["properties"].keys()
        [link] = [link for link, schema in _bodies().items() if schema["properties"].keys() == names]
        parts.append(f"The body is {link}.\n")
    answers = (
        f"- {status}, {_answer_types(answer)}: {answer['description']}\n"
        for status, answer in operation["responses"].items()
        if _answer_types(answer)
    )
    parts.append("".join(answers))
    return "\n".join(part for part in parts if part)


def _bodies() -> dict[str, _Schema]:
    """Return what routes take, by the link to its fields."""
    return {
        "[a round](#a-round)": PoCConfig.request_schema(),
        "[a batch](#a-batch)": ProofBatch.request_schema(),
        "[a verdict](callbacks.md#validated)": json_schema(ValidatedBody),
    }


def _answer_types(answer: _Schema) -> str:
    schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
    return " or ".join(_link(each["$ref"]) for each in schema.get("anyOf", [schema]) if "$ref" in each)


def _answers() -> str:
    """Return a section for each body that a server's routes answer with, by its name in OpenAPI."""
    openapi = _node_document()
    schemas = openapi["components"]["schemas"]
    schemas[VerdictBody.__name__] = TypeAdapter(VerdictBody).json_schema()
    used: set[str] = set()
    named = {*_BASES, *_references(openapi["paths"])}
    while named:
        used |= named
        inner = {name for each in named for name in _references(schemas[each])}
        named = {name for name in inner if schemas[name]["type"] == "object"} - used - _ELSEWHERE.keys()
    return "\n".join(_answer(name, schemas) for name in sorted(used - _ELSEWHERE.keys()))


def _references(part: object) -> list[str]:
    return re.findall(r'"#/components/schemas/(\w+)"', json.dumps(part))


def _answer(name: str, schemas: Mapping[str, _Schema]) -> str:
    fields = schemas[name]["properties"]
    within = [base for base in _BASES if schemas[base]["properties"].keys() < fields.keys()]
    inherited = {field for base in within for field in schemas[base]["properties"]}
    bases = [base for base in within if not any(_is_within(base, other, schemas) for other in within)]
    own = {field: schema for field, schema in fields.items() if field not in inherited}
    parts = [f"### {name}\n", f"{schemas[name]['description']}\n"]
    if bases:
        ending = " and these:" if own else "."
        parts.append(f"It has the fields of {' and '.join(_link(base) for base in bases)}{ending}\n")
    if own:
        parts.append(_fields(own, schemas, has_links=True))
    return "\n".join(parts)


def _is_within(base: str, other: str, schemas: Mapping[str, _Schema]) -> bool:
    return set(schemas[base]["properties"]) < set(schemas[other]["properties"])


def _round() -> str:
    return _request(PoCConfig.request_schema(), "/init/generate", examples.ROUND)


def _batch() -> str:
    return _request(ProofBatch.request_schema(), "/validate", examples.PROOF)


def _request(schema: _Schema, path: str, example: Mapping[str, Any]) -> str:
    """Return the fields of a body that is sent to a server, and an example of it."""
    lines = ",\n".join(f'  "{name}": {json.dumps(value)}' for name, value in example.items())
    url = f"http://127.0.0.1:8000{control.PREFIX}{path}"
    rows = (_stated(name, field, name in schema["required"]) for name, field in schema["properties"].items())
    return (
        f"```\ncurl {url} -H \"Authorization: Bearer $HALLMARK_API_KEY\" -d '{{\n{lines}\n}}'\n```\n\n"
        f"{_table(('field', 'default', 'type', 'meaning'), rows)}"
    )


def _names() -> str:
    """Return the public names of each module, and what the first sentence of their documentation says."""
    return "\n".join(f"### {module}\n\n{_table(('name', 'meaning'), _said(module))}" for module in _PUBLIC)


def _said(module: str) -> Iterator[Sequence[str]]:
    for name in sorted(import_module(module).__all__):
        found = getattr(import_module(module), name)
        # An operator of PyTorch's has the function in it, and the documentation of its own class.
        found = getattr(found, "_init_fn", found)
        if inspect.isclass(found) or inspect.isfunction(found):
            yield f"`{name}`", _first_sentence(found)


def _specification() -> str:
    """Return the public methods of the specification's classes."""
    module = import_module("hallmark.poc.specification")
    sections = []
    for name in module.__all__:
        found = getattr(module, name)
        members = inspect.getmembers(
            found, lambda each: inspect.isfunction(each) or isinstance(each, property)
        )
        methods = [
            (f"`{method}{'' if isinstance(member, property) else '()'}`", _first_sentence(member))
            for method, member in members
            if not method.startswith("_") and _is_ours(member)
        ]
        sections.append(f"### {name}\n\n{_first_sentence(found)}\n\n{_table(('member', 'meaning'), methods)}")
    return "\n".join(sections)


def _is_ours(member: object) -> bool:
    function = member.fget if isinstance(member, property) else member
    return getattr(function, "__module__", "").startswith("hallmark.")


def _first_sentence(documented: object) -> str:
    return " ".join((inspect.getdoc(documented) or "").partition("\n\n")[0].split())


def _fields(
    fields: Mapping[str, _Schema], definitions: Mapping[str, _Schema], *, has_links: bool = False
) -> str:
    """Return a table of a body's fields.

    Args:
        fields: By name.
        definitions: What they refer to.
        has_links: Whether an object that is referred to has a section of its own.
    """
    rows = []
    for name, field in fields.items():
        reference = _reference(field, definitions)
        type_ = _link(reference) if has_links and reference else _type(field, definitions)
        if has_links and reference and "anyOf" in field:
            type_ += " or null"
        meaning = field.get("description") or definitions[str(reference)]["description"]
        rows.append((f"`{name}`", type_, meaning))
    return _table(("field", "type", "meaning"), rows)


def _body(schema: _Schema) -> str:
    return _fields(schema["properties"], {})


def _reference(field: _Schema, definitions: Mapping[str, _Schema]) -> str | None:
    """Return the name of the object that a field is, or may be; None where it is something else."""
    names = [each["$ref"].rpartition("/")[2] for each in field.get("anyOf", [field]) if "$ref" in each]
    return next((name for name in names if definitions[name]["type"] == "object"), None)


def _link(reference: str) -> str:
    name = reference.rpartition("/")[2]
    return _ELSEWHERE.get(name, f"[{name}](#{_anchor(name)})")


def _type(field: _Schema, definitions: Mapping[str, _Schema], plural: str = "") -> str:
    """Say of what type a field is, what it is counted in, and its range.

    Args:
        field: Its schema.
        definitions: What that refers to.
        plural: What the names of types end in.
    """
    if "$ref" in field:
        return _type(definitions[field["$ref"].rpartition("/")[2]], definitions, plural)
    if "anyOf" in field:
        counted = {"unit": field["unit"]} if "unit" in field else {}
        types = (_type({**counted, **each}, definitions, plural) for each in field["anyOf"])
        return " or ".join(dict.fromkeys(types))
    if "const" in field or "enum" in field:
        return " or ".join(f"`{json.dumps(value)}`" for value in field.get("enum", [field.get("const")]))
    match field["type"]:
        case [*names]:
            return " or ".join(_type({"type": name}, definitions) for name in names)
        case "array" if "prefixItems" in field:
            return f"list of {len(field['prefixItems'])} {_type(field['prefixItems'][0], definitions, 's')}"
        case "array":
            items = _type(field["items"], definitions, "s")
            return f"list of ({items})" if "anyOf" in field["items"] else f"list of {items}"
        case "object" if isinstance(entries := field.get("additionalProperties"), dict):
            return f"object of {_type(entries, definitions, 's')}"
        case "null" | "object" | "boolean":
            return str(field["type"]) + (plural if field["type"] != "null" else "")
        case "string":
            return f"text{plural}"
        case name:
            unit = field.get("unit")
            words = str(name) + plural if unit is None else str(unit)
            return f"{words} ({range_})" if (range_ := _range(field)) else words


def _range(field: _Schema) -> str:
    least, most = field.get("minimum"), field.get("maximum")
    if "exclusiveMaximum" in field:
        most = field["exclusiveMaximum"] - 1
    if "exclusiveMinimum" in field:
        above = f"above {_number(field['exclusiveMinimum'])}"
        return above if most is None else f"{above}, at most {_number(most)}"
    if least is None:
        return "" if most is None else f"at most {_number(most)}"
    return f"{_number(least)} or more" if most is None else f"{_number(least)} to {_number(most)}"


def _number(value: float) -> str:
    power = int(value + 1).bit_length() - 1
    if isinstance(value, int) and power > 30 and value + 1 == 2**power:
        return f"2^{power} - 1"
    return f"{value:,}" if isinstance(value, int) else f"{value:,g}"


def _stated(name: str, field: _Schema, is_required: bool) -> Sequence[str]:
    """Return the row of what a client states."""
    default = "required" if is_required else _default(field.get("default"))
    return f"`{name}`", default, _type(field, {}), field["description"]


def _default(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case int() | float():
            return _number(value)
        case _:
            return f"`{json.dumps(value)}`"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return (
        "".join(f"| {' | '.join(line)} |\n" for line in lines)
        .replace("| --- ", "|---")
        .replace("--- |", "---|")
    )


BLOCKS: Final[Mapping[str, Callable[[], str]]] = MappingProxyType(
    {
        "settings": _settings,
        "status": _status,
        "metrics": _node_metrics,
        "receiver-metrics": _receiver_metrics,
        "node-routes": lambda: _routes(_node_document(), control.ERRORS),
        "receiver-routes": lambda: _routes(_receiver_document(), receiver.ERRORS),
        "answers": _answers,
        "round": _round,
        "batch": _batch,
        "generated": lambda: _body(json_schema(GeneratedBody)),
        "validated": lambda: _body(json_schema(ValidatedBody)),
        "names": _names,
        "specification": _specification,
    }
)
"""What is generated, by the name of its block."""


if __name__ == "__main__":
    for path in DOCUMENTS:
        path.write_text(document(path.read_text(encoding="utf-8")), encoding="utf-8")
