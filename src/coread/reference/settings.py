"""The settings as Markdown: each key with its type, default, limits and meaning, as the code has them."""

import ast
import inspect
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from coread.settings import ENVIRONMENT_PREFIX, ENVIRONMENT_SEPARATOR, Settings

INTRODUCTION = """# Settings, all keys

Each key of `coread.toml` as the code has it. [Settings](../settings.md) tells with examples what they are for.
"""


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key of the settings file."""

    name: str
    kind: str
    default: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the settings file."""

    heading: str
    """As it stands in the file: ``[orthanc]``, ``[[route]]``; empty for what stands above all tables."""
    meaning: str
    keys: tuple[Key, ...]


def tables() -> list[Table]:
    """All that can be set."""
    return list(_tables(Settings, ""))


def page() -> str:
    """The reference of the settings."""
    return "\n".join([INTRODUCTION, *(_section(table) for table in tables())])


def _section(table: Table) -> str:
    heading = f"`{table.heading}`" if table.heading else "Above all tables"
    lines = [f"## {heading}", "", table.meaning, ""]
    lines += ["| key | takes | default | meaning |", "| --- | --- | --- | --- |"]
    lines += [f"| `{key.name}` | {key.kind} | {key.default} | {key.meaning} |" for key in table.keys]
    if table.heading and "[[" not in table.heading and "NAME" not in table.heading:
        section = table.heading.strip("[]").upper().replace(".", ENVIRONMENT_SEPARATOR)
        variable = f"{ENVIRONMENT_PREFIX}{section}{ENVIRONMENT_SEPARATOR}{table.keys[0].name.upper()}"
        lines += ["", f"In the environment: `{variable}`, and so on."]
    return "\n".join([*lines, ""])


def _tables(model: type[BaseModel], heading: str) -> Iterator[Table]:
    """The table of a model, and those within it."""
    meanings = meanings_of(model)
    keys, inner = [], []
    for name, field in model.model_fields.items():
        key = field.alias or name
        parts = list(_models_in(field.annotation))
        if parts:
            path = f"{heading.strip('[]')}.{key}".strip(".")
            shape = get_origin(field.annotation)
            of_table = f"[[{path}]]" if shape is tuple else f"[{path}.NAME]" if shape is dict else f"[{path}]"
            inner += [(part, of_table) for part in parts]
        if not parts or meanings.get(name):
            keys.append(
                Key(name=key, kind=_kind(field), default=_default(field), meaning=_in_a_cell(meanings.get(name, "")))
            )
    if keys:
        yield Table(heading=heading, meaning=_meaning(model), keys=tuple(keys))
    for part, path in inner:
        yield from _tables(part, path)


def _meaning(model: type[BaseModel]) -> str:
    """The first sentence of a model's docstring, without the table's name before it."""
    said = (inspect.getdoc(model) or "").partition("\n\n")[0].replace("\n", " ").replace("``", "`")
    _, colon, rest = said.partition(": ")
    said = rest if colon and said.startswith("`[") else said
    return said[:1].upper() + said[1:]


def meanings_of(model: type[BaseModel]) -> dict[str, str]:
    """Field → the text that stands below it in the class, and in those that it derives from."""
    found: dict[str, str] = {}
    for each in reversed(model.__mro__):
        if not issubclass(each, BaseModel) or each is BaseModel:
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        if not isinstance(tree, ast.ClassDef):
            continue
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                found[field.target.id] = inspect.cleandoc(str(below.value.value))
    return found


def _models_in(kind: Any) -> Iterator[type[BaseModel]]:
    """The models in an annotation, whatever is around them."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for part in get_args(kind):
        yield from _models_in(part)


def _kind(field: FieldInfo) -> str:
    limits = [_limit(each) for each in field.metadata]
    return _in_a_cell(", ".join([_words(field.annotation), *filter(None, limits)]))


def _limit(of: Any) -> str:
    words = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most", "pattern": "of the form"}
    said = [f"{what} `{getattr(of, name)}`" for name, what in words.items() if getattr(of, name, None) is not None]
    return ", ".join(said)


SIMPLE: dict[Any, str] = {
    str: "text",
    SecretStr: "text, kept secret",
    int: "whole number",
    float: "number",
    bool: "`true` or `false`",
    Path: "folder or file",
    type(None): "",
}


def _words(kind: Any) -> str:  # one line for each kind of annotation
    """What a key takes, in words."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind in SIMPLE:
        return SIMPLE[kind]
    if origin is Annotated:
        return ", ".join(filter(None, (_words(parts[0]), *(_limit(each) for each in parts[1:]))))
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(filter(None, map(_words, parts)))
    if origin in (tuple, list, frozenset):
        return f"list of {_words(parts[0])}"
    if isinstance(kind, type) and issubclass(kind, str):
        return ", ".join(f"`{each}`" for each in kind)  # type: ignore[attr-defined]  # an enumeration of words
    return "table"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = field.get_default(call_default_factory=True)
    if value in (None, "", (), {}):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return ", ".join(f"`{each}`" for each in value)
    return f"`{value}`"


def _in_a_cell(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|")
