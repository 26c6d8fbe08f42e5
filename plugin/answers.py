"""How the REST routes answer, whichever version of Orthanc's Python plugin runs them."""

import json
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar
from urllib.parse import unquote_plus

from coread.audit.event import parse_time
from coread.plugin.headers import data_headers

State = TypeVar("State", bound=StrEnum)

MOST_ROWS = 10_000
"""A list is never longer."""


def asked_of(request: Mapping[str, Any]) -> dict[str, str]:
    """What the query string of a GET asks, decoded: Orthanc 1.10 hands it over as it stands in the URL. Where it is
    decoded already, only a percent sign with two digits, or a plus sign, is taken for something else.
    """
    return {unquote_plus(name): unquote_plus(value) for name, value in request.get("get", {}).items()}


def can_be_looked_up(asked: Mapping[str, str]) -> bool:
    """Whether databases take all that is asked for: U+0000, which no text in DICOM has, is refused by PostgreSQL, and
    half of a surrogate pair, which is no character, by all.
    """
    written = "".join(name + value for name, value in asked.items())
    return "\x00" not in written and not any("\ud800" <= each <= "\udfff" for each in written)


def asked_limit(asked: Mapping[str, str], *, default: int) -> int:
    """How many rows a request wants (``limit=N``), within what can be answered; ValueError if that is no number."""
    return min(MOST_ROWS, max(1, int(asked.get("limit", default))))


def asked_newest(asked: Mapping[str, str], *, default: int) -> tuple[datetime | None, int]:
    """Since when, and how many, rows are asked for; ValueError, which says what was expected, if that is odd."""
    try:
        # The plus sign of a zone arrives as a space.
        since = parse_time(asked["since"].replace(" ", "+")) if "since" in asked else None
        return since, asked_limit(asked, default=default)
    except ValueError as error:
        raise ValueError("expected a time such as 2026-01-31T12:00Z as since, and a number as limit") from error


def asked_rows(asked: Mapping[str, str], states: type[State], *, default: int) -> tuple[list[State], int]:
    """In which states, and how many, rows are asked for; ValueError, which says what was expected, if that is odd."""
    try:
        wanted = [states(state) for state in asked.get("state", "").split(",") if state]
        return wanted, asked_limit(asked, default=default)
    except ValueError as error:
        known = ", ".join(states)
        raise ValueError(f"expected states of {known}, separated by commas, and a number as limit") from error


def answer(output: Any, body: object, *, status: int = 200) -> None:
    """Answer with JSON."""
    text = json.dumps(body)
    for name, value in data_headers().items():
        output.SetHttpHeader(name, value)
    if status == 200:
        output.AnswerBuffer(text, "application/json")
        return
    output.SetHttpHeader("Content-Type", "application/json")
    try:
        output.SendHttpStatus(status, text, len(text))  # Python plugin 4.0
    except TypeError:
        output.SendHttpStatus(status, text.encode())  # 4.2 and later
