"""The description of the REST routes: nothing is missing in it, and it is what OpenAPI 3.1 wants."""

import re
from typing import Any

import pytest
import schemathesis
from jsonschema import Draft202012Validator

from coread.plugin.openapi import Operation
from coread.reference import routes

OPERATIONS = routes.operations()


def name_of(operation: Operation) -> str:
    return f"{operation.method} {operation.pattern}"


@pytest.mark.parametrize("operation", OPERATIONS, ids=name_of)
def test_each_route_says_what_it_does_takes_and_answers(operation: Operation) -> None:
    """A route that fails here wants a docstring at its handler, and `explained` (coread.plugin.explained)."""
    assert operation.summary, "a docstring says what the handler does"
    assert operation.said.answers, "`explained` says what it answers"
    assert any(status < 400 for status in operation.said.answers)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return routes.openapi()


def test_the_description_is_openapi(document: dict[str, Any]) -> None:
    schemathesis.openapi.from_dict(document).validate()


def test_operations_have_names_of_their_own(document: dict[str, Any]) -> None:
    names = [each["operationId"] for methods in document["paths"].values() for each in methods.values()]
    assert len(names) == len(set(names)) == len(OPERATIONS)


def test_each_part_of_a_path_has_a_name_that_says_what_it_is(document: dict[str, Any]) -> None:
    """One that fails here is to be named in `explained(path=…)`."""
    for path, methods in document["paths"].items():
        for method, each in methods.items():
            parts = [part for part in each["parameters"] if part["in"] == "path"]
            assert [part["name"] for part in parts] == re.findall(r"\{(\w+)\}", path), (method, path)
            assert all(part["description"] for part in parts), (method, path)


def test_each_schema_is_json_schema(document: dict[str, Any]) -> None:
    for methods in document["paths"].values():
        for each in methods.values():
            for response in each["responses"].values():
                for content in response.get("content", {}).values():
                    Draft202012Validator.check_schema(content["schema"])


def test_the_page_names_each_route_with_its_role(document: dict[str, Any]) -> None:
    page = routes.page(document)
    for path, methods in document["paths"].items():
        for method, each in methods.items():
            assert f"### `{method.upper()} {path}`\n\n{each['summary']}. " in page
            assert each["description"] in page
