"""The report as one HTML page that needs nothing besides: no network, no program, no other file."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from coread.evaluation.plots import pictures_of
from coread.evaluation.words import FIGURES, HEADLINES, interval_in_words, number_in_words, of_subject

TEMPLATE = "page.html.j2"
"""Everything that goes into it is escaped."""

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "structure": ("dice", "mean_surface_distance_mm", "hausdorff_95_mm", "volume_ml", "true_volume_ml"),
    "class": ("probability", "is_reported", "is_true"),
    "number": ("found", "truth"),
}
"""What the table of studies shows of each subject."""


def page_of(report: Mapping[str, Any]) -> str:
    """The page of a report."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        report=report,
        headlines=list(_headlines(report)),
        tables=[_table(subject) for subject in report["subjects"]],
        pictures=[(picture, _data_uri(picture.svg)) for picture in pictures_of(report)],
        subgroups=_subgroups(report["subgroups"]),
        studies=_studies(report),
        left_out=_left_out(report["left_out"]),
        has_wilson=any(
            estimate["method"] == "wilson"
            for subject in report["subjects"]
            for estimate in subject["estimates"].values()
        ),
    )


def _data_uri(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


def _headlines(report: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """The one or two figures of each subject that say most."""
    for subject in report["subjects"]:
        for name in HEADLINES[subject["kind"]]:
            estimate = subject["estimates"].get(name)
            if estimate is not None and estimate["value"] is not None:
                yield {
                    "subject": of_subject(subject),
                    "figure": FIGURES[name].title,
                    "value": _value(name, estimate, subject),
                    "interval": _interval(name, estimate),
                }


def _table(subject: Mapping[str, Any]) -> dict[str, Any]:
    unit = subject.get("unit", "")
    return {
        "title": of_subject(subject),
        "subject": subject,
        "rows": [
            {
                "title": FIGURES[name].title,
                "value": interval_in_words(name, estimate, unit=unit),
                "studies": estimate["studies"],
                "patients": estimate["patients"],
                "meaning": FIGURES[name].meaning,
            }
            for name, estimate in subject["estimates"].items()
        ],
    }


def _subgroups(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A table for each trait: its subgroups below each other, figures beside each other."""
    tables = []
    for trait in dict.fromkeys(group["by"] for group in groups):
        members = [group for group in groups if group["by"] == trait]
        columns = next((_columns(group["subjects"]) for group in members if group["subjects"]), [])
        tables.append(
            {
                "by": trait,
                "columns": [(of_subject(subject), FIGURES[name].title) for subject, name in columns],
                "rows": [
                    {
                        "group": group,
                        "cells": [_cell(group["subjects"], place, name) for place, (_, name) in _placed(columns)],
                    }
                    for group in members
                ],
            }
        )
    return tables


def _columns(subjects: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], str]]:
    return [(subject, name) for subject in subjects for name in subject["estimates"]]


def _placed(columns: Sequence[tuple[Mapping[str, Any], str]]) -> list[tuple[int, tuple[Mapping[str, Any], str]]]:
    """Each column with its subject's place."""
    places: dict[int, int] = {}
    return [(places.setdefault(id(subject), len(places)), (subject, name)) for subject, name in columns]


def _cell(subjects: Sequence[Mapping[str, Any]] | None, place: int, name: str) -> dict[str, str]:
    """A value, and its interval on a line below it."""
    if subjects is None:
        return {}
    estimate = subjects[place]["estimates"][name]
    return {"value": _value(name, estimate, subjects[place]), "interval": _interval(name, estimate)}


def _value(name: str, estimate: Mapping[str, Any], subject: Mapping[str, Any]) -> str:
    return interval_in_words(name, {**estimate, "low": None}, unit=subject.get("unit", ""))


def _interval(name: str, estimate: Mapping[str, Any]) -> str:
    if estimate["low"] is None:
        return ""
    return f"{number_in_words(name, estimate['low'])} to {number_in_words(name, estimate['high'])}"


def _studies(report: Mapping[str, Any]) -> dict[str, Any]:
    subjects = [subject for subject in report["subjects"] if subject["kind"] in COLUMNS]
    columns = [(subject["name"], column) for subject in subjects for column in COLUMNS[subject["kind"]]]
    return {
        "columns": [
            (name, column.replace("_ml", " (ml)").replace("_mm", " (mm)").replace("_", " ")) for name, column in columns
        ],
        "rows": [
            {"row": row, "cells": [_said(row["results"].get(name, {}).get(column)) for name, column in columns]}
            for row in report["studies"]
        ],
    }


def _said(value: float | None) -> str:
    """A cell: a number, yes or no, or nothing."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.1f}"


def _left_out(left: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By reason, each with the numbers of its studies."""
    by_reason: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for each in left:
        by_reason.setdefault((each["why"], each["reason"]), []).append(each)
    return [
        {"why": why, "reason": reason, "studies": [_name(each) for each in those]}
        for (why, reason), those in by_reason.items()
    ]


def _name(study: Mapping[str, Any]) -> str:
    uid = study.get("study_instance_uid")
    return f"{study['study']} ({uid})" if uid else str(study["study"])
