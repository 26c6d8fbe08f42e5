"""The report of an evaluation as a file: ``report.json``, which pages and model cards are made from.

``report.schema.json`` describes it. Light: no torch here.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from coread.errors import ConfigurationError

SCHEMA_VERSION = 1
"""Of the report's form; it changes when a reader of the old form would be misled."""

SCHEMA = Path(__file__).parent / "report.schema.json"


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))


def load_report(path: Path) -> dict[str, Any]:
    """A report from its file. Raises ConfigurationError if it is none, or of a form that this version cannot read."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path}: expected a report of `coread evaluate`, found no JSON; make it anew"
        ) from error
    problem = next(iter(sorted(_validator().iter_errors(report), key=lambda each: each.json_path)), None)
    if problem is not None:
        raise ConfigurationError(
            f"{path}: expected a report of `coread evaluate`, found another form at {problem.json_path}; make it anew"
        )
    return dict(report)


def has_report_form(path: Path) -> bool:
    """Whether a file is a report of this form, by its version field."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(report, dict) and report.get("schema") == SCHEMA_VERSION


def as_text(report: Mapping[str, Any]) -> str:
    """The report as its file holds it."""
    return json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
