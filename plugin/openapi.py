"""The REST routes as an OpenAPI 3.1 document, made from their registration and from what `explained` says of them.

GET /coread/openapi.json   the document
"""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from coread import __version__
from coread.access import Role
from coread.plugin.answers import answer
from coread.plugin.explained import (
    ERROR,
    OBJECT,
    Answer,
    Description,
    Listed,
    Record,
    Shape,
    as_answer,
    description_of,
    explained,
    says,
)
from coread.plugin.gate import Gate, Handler

PATH = "/coread/openapi.json"
LOGIN = "login"
"""The security scheme's name."""

_PART = re.compile(r"\(([^()]*)\)")
_WORDS = re.compile(r"[a-zA-Z0-9_.-]+(\|[a-zA-Z0-9_.-]+)*")
_SPECIAL = re.compile(r"(?<!\\)[\[\]{}*+?.|^$]")

OF_THE_GATE: Mapping[int, str] = {
    401: "nobody has signed in, where Orthanc asks who it is",
    403: "the person's role does not suffice, or a page of another site has sent the request",
    500: "a mistake of Coread's; its log says where",
    503: "a neighbour of Coread's, such as the ledger's database or Orthanc, does not answer; try again",
}
"""What any route may answer."""
OF_GET: Mapping[int, str] = {400: "a parameter of the query string has U+0000 in it"}
WITH_BODY: Mapping[int, str] = {415: "the body is of a type that web forms send; expected application/json"}
WITH_PATH: Mapping[int, Answer] = {404: says("there is nothing of that name", kind=None)}
"""Where a part of the path does not look as it must, Orthanc answers by itself."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A method of a path."""

    pattern: str
    """The path as Orthanc has it: a regular expression."""
    method: str
    role: Role
    handler: Handler

    @property
    def summary(self) -> str:
        """The first sentence of the handler's docstring; empty if it has none."""
        return self.doc.partition("\n\n")[0].replace("\n", " ").rstrip(".")

    @property
    def doc(self) -> str:
        """The handler's docstring."""
        return inspect.getdoc(self.handler) or ""

    @property
    def said(self) -> Description:
        return description_of(self.handler)


def operations_of(routes: Mapping[str, Mapping[str, tuple[Role, Handler]]]) -> Iterator[Operation]:
    """All that can be asked for, in the order of registration."""
    for pattern, methods in routes.items():
        for method, (role, handler) in methods.items():
            yield Operation(pattern=pattern, method=method, role=role, handler=handler)


def register_openapi(gate: Gate) -> None:
    """Register the route; the document holds whatever is registered by the time that it is first asked for."""

    @cache
    def whole() -> dict[str, Any]:
        return document(operations_of(gate.registered))

    @explained(answers={200: says("an OpenAPI 3.1 document", OBJECT)})
    def openapi(output: Any, _url: str, **_request: Any) -> None:
        """What the routes take and answer: the description that this is itself part of."""
        answer(output, whole())

    gate.route(re.escape(PATH), GET=(Role.READER, openapi))


def document(operations: Iterator[Operation]) -> dict[str, Any]:
    """The OpenAPI document of some operations."""
    schemas: dict[str, Any] = {"Error": _schema(ERROR, {})}
    paths: dict[str, dict[str, Any]] = {}
    for each in operations:
        template, parameters = _template(each.pattern, each.said.path)
        paths.setdefault(template, {})[each.method.lower()] = _operation(each, template, parameters, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Coread",
            "version": __version__,
            "description": "What Coread's plugin answers beside Orthanc's own REST interface and DICOMweb.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "the Orthanc that serves this document"}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                LOGIN: {
                    "type": "http",
                    "scheme": "basic",
                    "description": "A user of Orthanc's, or whom a reverse proxy names, with at least the role that is "
                    "named; where Orthanc asks nobody who they are, nobody needs it.",
                }
            },
        },
    }


def _operation(
    each: Operation, template: str, parameters: list[dict[str, Any]], schemas: dict[str, Any]
) -> dict[str, Any]:
    said = each.said
    query = [
        {
            "name": name,
            "in": "query",
            "description": schema.get("description", ""),
            "schema": {key: value for key, value in schema.items() if key != "description"},
        }
        for name, schema in said.query.items()
    ]
    rest = each.doc.partition("\n\n")[2]
    found: dict[str, Any] = {
        "operationId": _name_of(each.method, template),
        "summary": each.summary or f"{each.method} {template}",
        "description": "\n\n".join(filter(None, (rest, f"Needs the role {each.role}."))),
        "tags": [_tag(template)],
        "security": [{LOGIN: [str(each.role)]}],
        "parameters": [*parameters, *query],
        "responses": {
            str(status): _response(given, schemas) for status, given in sorted(_answers(each, parameters).items())
        },
    }
    if said.body is not None:
        schema = _schema(said.body.shape, schemas)
        found["requestBody"] = {
            "required": said.body.is_required,
            "content": {kind: {"schema": schema} for kind in said.body.kinds},
        }
    return found


def _answers(each: Operation, parameters: Sequence[object]) -> dict[int, Answer]:
    said = each.said
    given: dict[int, Answer | str] = dict(OF_THE_GATE)
    given |= OF_GET if each.method == "GET" else WITH_BODY
    if parameters:
        given |= WITH_PATH
    if not any(status < 400 for status in said.answers):
        given[200] = says("done")
    return {status: as_answer(answered) for status, answered in {**given, **said.answers}.items()}


def _response(given: Answer, schemas: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"description": given.what}
    if given.kind is not None:
        is_error = given.shape is ERROR
        schema = {"$ref": "#/components/schemas/Error"} if is_error else _schema(given.shape, schemas)
        found["content"] = {given.kind: {"schema": schema}}
    return found


def _template(pattern: str, names: Mapping[str, str]) -> tuple[str, list[dict[str, Any]]]:
    """A path as OpenAPI writes it, with its parameters. A part that can be one word only is written as that word."""
    said = iter(names.items())
    parameters: list[dict[str, Any]] = []

    def part(found: re.Match[str]) -> str:
        inner = found[1]
        if not _SPECIAL.search(inner):
            return inner
        name, what = next(said, (f"part{len(parameters) + 1}", ""))
        parameters.append(
            {"name": name, "in": "path", "required": True, "description": what, "schema": _schema_of_part(inner)}
        )
        return f"{{{name}}}"

    return re.sub(r"\\(.)", r"\1", _PART.sub(part, pattern)), parameters


def _schema_of_part(inner: str) -> dict[str, Any]:
    if _WORDS.fullmatch(inner):
        return {"type": "string", "enum": inner.split("|")}
    return {"type": "string", "pattern": f"^{inner}$"}


def _schema(shape: Shape, schemas: dict[str, Any]) -> dict[str, Any]:
    """A shape as JSON Schema; what types look like goes into ``schemas``."""
    if isinstance(shape, Listed):
        return {"type": "array", "items": _schema(shape.of, schemas)}
    if isinstance(shape, Record):
        bases = [_properties(each, schemas) for each in shape.of]
        fields = {name: _schema(each, schemas) for name, each in shape.fields.items()}
        properties = {name: schema for base in bases for name, schema in base.items()} | fields
        found: dict[str, Any] = {"type": "object", "properties": properties}
        if required := [name for name in properties if name not in shape.optional]:
            found["required"] = required
        if shape.closed:
            found["additionalProperties"] = False
        return found
    if isinstance(shape, type):
        return _schema_of_type(shape, schemas)
    return dict(shape)


def _properties(of: type, schemas: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = _schema_of_type(of, schemas)["properties"]
    return found


def _schema_of_type(of: type, schemas: dict[str, Any]) -> dict[str, Any]:
    found = TypeAdapter(of).json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
    schemas |= found.pop("$defs", {})
    return found


def _name_of(method: str, template: str) -> str:
    words = re.findall(r"[A-Za-z0-9]+", template.removeprefix("/coread"))
    return "_".join([method.lower(), *words])


def _tag(template: str) -> str:
    """What a path is about: its first word after our root."""
    words = template.removeprefix("/coread").strip("/").split("/")
    return "workitems" if words[0] in ("dicom-web", "ups") else words[0]
