"""What a REST route takes and answers, said beside its handler; `coread.plugin.openapi` makes one document of it all.

A handler's docstring says what it does. The rest is said by a decorator, and only what the code does not say elsewhere:

    @explained(path={"job": "the job's id"}, answers={200: says("the job", JOB), 404: "there is no such job"})
    def job(output, _url, **request):
        \"\"\"A job with its history and its findings.\"\"\"

Path, pattern of its parts, method and role are those of the registration; 401, 403, 415, 500 and 503 are the gate's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

Handler = TypeVar("Handler", bound=Callable[..., None])

Schema = Mapping[str, Any]
"""JSON Schema, draft 2020-12."""

ATTRIBUTE = "coread_explained"
"""Of a handler: what the decorator says of it. `functools.wraps` passes it on to a wrapper, with the docstring."""

JSON = "application/json"
DICOM_JSON = "application/dicom+json"

TEXT: Schema = {"type": "string"}
ANY: Schema = {}
OBJECT: Schema = {"type": "object"}
WHOLE_NUMBER: Schema = {"type": "integer"}
UID: Schema = {"type": "string", "pattern": r"^(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+$", "maxLength": 64}
TIME: Schema = {"type": "string", "description": "ISO 8601, such as 2026-01-31T12:00Z", "format": "date-time"}


@dataclass(frozen=True, kw_only=True)
class Record:
    """A JSON object with the fields of dataclasses, and others."""

    of: tuple[type, ...] = ()
    fields: Mapping[str, "Shape"] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    """Fields that may be absent."""
    closed: bool = False
    """Whether there must be no others."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A JSON array."""

    of: "Shape"


Shape = Schema | type | Record | Listed
"""What JSON looks like: as a schema, as a type whose schema pydantic knows, or put together of these."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One of a route's answers. ``kind``: its media type; None if it has no body."""

    what: str
    shape: Shape = field(default_factory=dict)
    kind: str | None = JSON


@dataclass(frozen=True, kw_only=True)
class Body:
    """What a route takes."""

    shape: Shape
    kinds: tuple[str, ...] = (JSON,)
    is_required: bool = True


@dataclass(frozen=True, kw_only=True)
class Description:
    """What is said of a handler beside its docstring."""

    path: Mapping[str, str] = field(default_factory=dict)
    """Name → meaning of each part in brackets of the path, in their order."""
    query: Mapping[str, Schema] = field(default_factory=dict)
    """Name → schema with a ``description``: the parameters of the query string, which Orthanc shows of a GET only."""
    body: Body | None = None
    answers: Mapping[int, Answer] = field(default_factory=dict)


def explained(
    *,
    path: Mapping[str, str] | None = None,
    query: Mapping[str, Schema] | None = None,
    body: Body | None = None,
    answers: Mapping[int, Answer | str] | None = None,
) -> Callable[[Handler], Handler]:
    """Say what a handler takes and answers. A text alone as answer is what an error means, whose body says more."""
    said = Description(
        path=path or {},
        query=query or {},
        body=body,
        answers={status: as_answer(each) for status, each in (answers or {}).items()},
    )

    def remember(handler: Handler) -> Handler:
        setattr(handler, ATTRIBUTE, said)
        return handler

    return remember


def description_of(handler: Callable[..., None]) -> Description:
    """What was said of a handler; a description of nothing if nothing was."""
    return getattr(handler, ATTRIBUTE, Description())


def says(what: str, shape: Shape = ANY, *, kind: str | None = JSON) -> Answer:
    """An answer that gives something."""
    return Answer(what=what, shape=shape, kind=kind)


def as_answer(answer: Answer | str) -> Answer:
    """An answer, of which a text alone is what an error means."""
    return Answer(what=answer, shape=ERROR) if isinstance(answer, str) else answer


def param(what: str, schema: Schema = TEXT) -> Schema:
    """A parameter's schema with what it means."""
    return {**schema, "description": what}


def choice(what: str, known: Any, *, several: bool = False) -> Schema:
    """A parameter that is one of some words, or ``several`` of them with commas between."""
    words = [str(each) for each in known]
    if not several:
        return {"type": "string", "enum": words, "description": what}
    one = f"({'|'.join(words)})"
    return {"type": "string", "pattern": f"^({one}(,{one})*)?$", "description": f"{what}; several with commas"}


def limit(default: int) -> Schema:
    """The parameter that says how many rows are wanted."""
    return {"type": "integer", "minimum": 1, "default": default, "description": "how many at most"}


ERROR: Shape = Record(
    fields={"error": {"type": "string", "description": "what was expected and found, and what to do"}}
)
"""The body of every answer that refuses."""
