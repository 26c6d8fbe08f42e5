"""The report of a run as one HTML page that needs nothing besides: no network, no program, no other file."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from coread.archive_report.compare import Matched
from coread.archive_report.plots import bland_altman, heat_map, histogram, unit_in_words
from coread.archive_report.report import is_class, telling
from coread.evaluation.words import MINUS
from coread.words import rounded

TEMPLATE = "page.html.j2"
"""Everything that goes into it is escaped."""
MOST_HISTOGRAMS = 36
MOST_AGREEMENTS = 12
MOST_COLUMNS = 10
"""Findings beside each other in the table of a trait."""

BY = {
    "month": "over time",
    "scanner": "from scanner to scanner",
    "scanner over time": "of each scanner over time",
    "earlier run": "since the earlier run",
}
MEDIA_TYPES = {".webp": "image/webp", ".png": "image/png"}


def page_of(
    report: Mapping[str, Any],
    *,
    matched: Sequence[Matched] = (),
    pictures: Mapping[tuple[str, int], tuple[Sequence[Path], Sequence[Path]]] | None = None,
) -> str:
    """The page of a report. ``matched``: for the pictures of agreement; ``pictures``: model and position → the pictures
    of the earlier run and of this one.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=_number, percent=_percent, day=_day, said=_said, unit=unit_in_words, change=_change
    )
    environment.tests["told_in_words"] = is_class
    return environment.get_template(TEMPLATE).render(
        report=report,
        histograms={model["model"]: _histograms(model) for model in report["models"]},
        traits={model["model"]: _traits(model) for model in report["models"]},
        maps=[(each, BY[each["by"]], _data_uri(heat_map(each))) for each in report["drift"]["maps"]],
        agreements={each.now.model: _agreements(each) for each in matched},
        pictures={
            key: ([_picture_uri(path) for path in before], [_picture_uri(path) for path in now])
            for key, (before, now) in (pictures or {}).items()
        },
    )


def _histograms(model: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], str]]:
    drawn = [each for each in model["findings"] if each.get("histogram")][:MOST_HISTOGRAMS]
    return [(each, _data_uri(histogram(each["histogram"], unit=unit_in_words(each["unit"])))) for each in drawn]


def _agreements(matched: Matched) -> list[tuple[str, str]]:
    drawn = [each for each in matched.differences if each.numbers is not None and each.is_changed.any()]
    return [(each.key.name, _data_uri(bland_altman(each))) for each in drawn[:MOST_AGREEMENTS]]


def _traits(model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A table for each trait: groups below each other, findings beside each other."""
    columns = [each for each in model["findings"] if each["kind"] != "not evaluated"][:MOST_COLUMNS]
    return [
        {
            "by": trait,
            "columns": [_column(each) for each in columns],
            "rows": [
                {"group": group, "cells": [_figure(group["findings"][each["finding"]]) for each in columns]}
                for group in groups
            ],
        }
        for trait, groups in model["traits"].items()
    ]


def _column(finding: Mapping[str, Any]) -> str:
    if "categories" in finding:
        return f"{finding['finding']}: {telling(finding['categories'])}"
    unit = unit_in_words(finding["unit"])
    return f"{finding['finding']} ({unit}), mean" if unit else f"{finding['finding']}, mean"


def _figure(figure: Mapping[str, Any]) -> str:
    return _percent(figure["share"]) if "share" in figure else _number(figure["mean"])


def _said(finding: Mapping[str, Any]) -> str:
    """A finding in a few words."""
    value, unit = finding["value"], unit_in_words(finding["unit"])
    parts = [finding["category"]] if finding["category"] else []
    if value is not None:
        number = f"{_number(value)} {unit}".strip()
        parts.append(f"({number})" if parts else number)
    return f"{finding['finding']}: {' '.join(parts)}" if parts else str(finding["finding"])


def _change(change: Mapping[str, Any]) -> str:
    """What changed, in a few words: from the earlier value to this run's."""
    if "value" not in change:
        return f"{change['earlier_category'] or '—'} → {change['category'] or '—'}"
    unit = unit_in_words(change["unit"] or "")
    step = f"{change['difference']:+.3g}".replace("-", MINUS)
    return f"{_number(change['earlier_value'])} → {_number(change['value'])} {unit} ({step})".replace("  ", " ")


def _number(value: float | None) -> str:
    return "—" if value is None else rounded(value).replace("-", MINUS)


def _percent(share: float | None) -> str:
    return "—" if share is None else f"{100 * share:.1f} %"


def _day(text: str | None) -> str:
    return (text or "—")[:10]


def _data_uri(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


def _picture_uri(path: Path) -> str:
    return f"data:{MEDIA_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"
