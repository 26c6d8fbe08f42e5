"""The REST routes as Markdown, and as the OpenAPI document that a running Coread serves."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from coread.plugin.openapi import Operation, document, operations_of
from coread.plugin.route_table import RouteTable
from coread.plugin.service import Service

INTRODUCTION = """# REST routes

What Coread's plugin answers beside [Orthanc's own](https://orthanc.uclouvain.be/book/users/rest.html) REST interface
and DICOMweb. A running Coread serves the same as an OpenAPI 3.1 document at `/coread/openapi.json`
([this version's](openapi.json)).

Where people have [roles](../security.md), each route says which one it needs. An answer that refuses says in `error`
what was expected, what was found and what to do. Any route may answer 401 (nobody has signed in), 403 (the role does
not suffice, or another site has sent the request), 503 (a neighbour is away) and, if Coread has a mistake, 500. One
that takes a body may answer 415 (it is of a type that web forms send).
"""
COMMON = frozenset({"401", "403", "415", "500", "503"})
"""Statuses that the introduction tells of."""


class OrthancAtStart(SimpleNamespace):
    """Takes what the plugin registers, and never starts."""

    HttpMethod = SimpleNamespace(GET=1, POST=2, PUT=3, DELETE=4)

    def GetConfiguration(self) -> str:  # noqa: N802  # Orthanc's name
        return "{}"

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *_arguments, **_more: ""


def operations() -> list[Operation]:
    """All that the plugin registers, with the settings as they are by default."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "coread.toml"
        file.write_text('data_folder = "data"\n')
        service = Service(OrthancAtStart(), RouteTable(file, dictionary=lambda _keyword: None))
        service.register()
        return list(operations_of(service.gate.registered))


def openapi() -> dict[str, Any]:
    """The OpenAPI document."""
    return document(iter(operations()))


def page(described: Mapping[str, Any]) -> str:
    """An OpenAPI document as Markdown: a chapter for each tag, and in it a section for each operation."""
    by_tag: dict[str, list[str]] = {}
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            by_tag.setdefault(operation["tags"][0], []).append(_section(method.upper(), path, operation))
    chapters = [f"## {tag}\n\n" + "\n".join(sections) for tag, sections in sorted(by_tag.items())]
    return "\n".join([INTRODUCTION, *chapters])


def _section(method: str, path: str, operation: Mapping[str, Any]) -> str:
    lines = [f"### `{method} {path}`", "", f"{operation['summary']}. {operation['description']}", ""]
    if operation["parameters"]:
        lines += ["| parameter | in | what |", "| --- | --- | --- |", *_parameters(operation), ""]
    if body := operation.get("requestBody"):
        kinds = ", ".join(f"`{kind}`" for kind in body["content"])
        lines += [f"Body: {kinds}{'' if body['required'] else ', or none'}.", ""]
        schema = next(iter(body["content"].values()))["schema"]
        if schema.get("properties"):
            lines += ["| key | what |", "| --- | --- |", *_keys(schema), ""]
    lines += ["| status | answer |", "| --- | --- |", *_statuses(operation), ""]
    return "\n".join(lines)


def _parameters(operation: Mapping[str, Any]) -> Iterator[str]:
    for each in operation["parameters"]:
        said = "; ".join(filter(None, (each["description"], _limits(each["schema"]))))
        yield f"| `{each['name']}` | {each['in']} | {said} |"


def _keys(schema: Mapping[str, Any]) -> Iterator[str]:
    for name, each in schema["properties"].items():
        is_needed = "" if name in schema.get("required", ()) else "optional"
        yield f"| `{name}` | {'; '.join(filter(None, (each.get('description', ''), _limits(each), is_needed)))} |"


def _limits(schema: Mapping[str, Any]) -> str:
    """What a schema allows, in words."""
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    words = {"pattern": "of the form", "minimum": "from", "maximum": "to", "maxLength": "characters at most"}
    said = [f"{what} {_code(schema[key])}" for key, what in words.items() if key in schema]
    if "default" in schema:
        said.append(f"by default {schema['default']}")
    return ", ".join(said)


def _statuses(operation: Mapping[str, Any]) -> Iterator[str]:
    for status, response in operation["responses"].items():
        if status in COMMON:
            continue
        kinds = [kind for kind in response.get("content", {}) if kind not in ("application/json", "*/*")]
        yield f"| {status} | {response['description']}{''.join(f' (`{kind}`)' for kind in kinds)} |"


def _code(value: object) -> str:
    text = str(value).replace("|", "\\|")
    return f"`{text}`"
