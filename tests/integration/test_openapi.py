"""A running plugin answers as its OpenAPI description says, whatever it is sent (schemathesis).

COREAD_FUZZ_EXAMPLES says how many requests each route is sent, for a search that lasts hours.
"""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import assume, given
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from coread.ledger import Ledger
from coread.reference import routes
from coread.settings import load_settings
from coread.supervisor import Supervisor
from tests.destinations import do, job_for, settle
from tests.fuzzing import searching
from tests.support import program

SETTINGS = """
data_folder = "data"
[orthanc]
http_port = 0
dicom_port = 0
[worker]
processes = 0
"""
DOCUMENT = routes.openapi()
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = [(path, method.upper()) for path, methods in DOCUMENT["paths"].items() for method in methods]
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
CHECKS_OF_ORTHANC: list[Any] = [not_a_server_error]
schemathesis.serializer.alias("application/x-ndjson", "text/plain")
EXAMPLES = 12
TIMEOUT_S = 30.0


def is_orthancs_own(answered: Any) -> bool:
    """Whether Orthanc has answered by itself: the URL is none, or no route of the plugin's has such a path."""
    if answered.status_code == httpx.codes.BAD_REQUEST:
        return bool(answered.text.startswith("Error 400: Bad Request"))
    return answered.status_code == httpx.codes.NOT_FOUND and "Content-Type" not in answered.headers


@pytest.fixture(scope="module")
def coread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """Orthanc with the plugin, and a ledger with something in it."""
    program("Orthanc")
    folder = tmp_path_factory.mktemp("fuzzed")
    (folder / "coread.toml").write_text(SETTINGS)
    settings = load_settings(folder / "coread.toml")
    settings.data_folder.mkdir()
    with closing(Ledger(settings.ledger_url)) as ledger:  # before the plugin has it
        ledger.migrate()
        settle(ledger, job_for("pacs", "web"))
        do(ledger, job_for("pacs", "web"), ("1.1",))
    with Supervisor(settings, settings_file=folder / "coread.toml") as running:
        yield running


def test_a_running_coread_serves_the_description(coread: Supervisor) -> None:
    served = httpx.get(f"{coread.http_url}/coread/openapi.json", trust_env=False).json()
    assert served == DOCUMENT


@pytest.mark.parametrize("mode", list(GenerationMode), ids=str)
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_each_route_answers_as_it_says(coread: Supervisor, path: str, method: str, mode: GenerationMode) -> None:
    operation = SCHEMA[path][method]

    @searching(EXAMPLES)
    @given(case=operation.as_strategy(mode))
    def answers(case: Any) -> None:
        # Orthanc's HTTP server takes a backslash in a path for a slash, so that it is another route's.
        assume("\\" not in "".join(map(str, (case.path_parameters or {}).values())))
        answered = case.call(base_url=coread.http_url, timeout=TIMEOUT_S)
        case.validate_response(answered, checks=CHECKS_OF_ORTHANC if is_orthancs_own(answered) else CHECKS)

    answers()
    assert httpx.get(f"{coread.http_url}/coread/me", trust_env=False).status_code == 200
