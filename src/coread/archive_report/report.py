"""The report of a run as JSON's types: what ran, what was found, what differs from an earlier run, what drifted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coread import __version__
from coread.archive_report import drift
from coread.archive_report.compare import NOTABLE, Matched, largest, said_of
from coread.archive_report.frame import MISSING, FindingKey, Frame, Numbers, Words
from coread.archive_table import FindingKind, StudyRow
from coread.evaluation.agreement import LIMITS
from coread.evaluation.bootstrap import rounded
from coread.evaluation.traits import BANDS, UNKNOWN, numbered
from coread.job import JobState

SCHEMA_VERSION = 1
"""Of the report's form; it changes when a reader of the old form would be misled."""

MOST_STUDIES = 200
"""Studies that are listed; the Parquet tables have all."""
MOST_LARGEST = 20
"""Largest differences that are shown with their pictures."""
MOST_DIFFERENCES = 200
MOST_REASONS = 30
MOST_GROUPS = 40
"""Of a trait; those with the most studies."""
MOST_ALARMS = 200
MOST_BINS, FEWEST_BINS = 40, 8
"""Of a histogram; in between, twice the root of the number of studies."""
OUTLIERS = 0.005
"""So much of each end is outside of a histogram's range: one wild value would flatten it."""

TRAITS = ("scanner", "site", "year", "age in years", "sex")
QUANTILES: Mapping[str, float] = {"p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """All that a report is made of."""

    frames: Mapping[str, Frame]
    """Model → its rows; of studies that came to none, under the empty name."""
    first: Sequence[StudyRow]
    """The first rows of the run."""
    run: Mapping[str, Any]
    """What the run is (`Run.as_json`); empty if it is not known."""
    verdicts: Mapping[tuple[int, str], str] = field(default_factory=dict)
    """Position and model → what persons say of the result."""
    reviews: Mapping[str, Any] | None = None
    """The report of the reviews (`coread.evaluation.reviews`); None: the ledger was not asked."""
    matched: Sequence[Matched] | None = None
    """Models that are in the earlier run, too; None: it is compared with none."""
    earlier: Mapping[str, Frame] | None = None
    run_before: Mapping[str, Any] = field(default_factory=dict)


def report_of(found: Found, *, at: datetime) -> dict[str, Any]:
    """The report. It holds UIDs, scanners and findings, and nothing that names a patient; sites are numbers."""
    models = [frame for name, frame in found.frames.items() if name]
    comparisons = drift.drift_of(models, found.earlier)
    before = found.earlier or {}
    return {
        "schema": SCHEMA_VERSION,
        "software": f"Coread {__version__}",
        "made_at": at.isoformat(),
        "run": dict(found.run),
        "counts": _counts(found.frames),
        "models": [_model(frame, before.get(frame.model)) for frame in models],
        "without_model": _reasons(found.frames[""]) if "" in found.frames else [],
        "studies": [_study(row, found.verdicts) for row in found.first],
        "reviews": found.reviews,
        "drift": _drift(comparisons),
        "comparison": None if found.matched is None else _comparison(found, found.matched),
    }


def _counts(frames: Mapping[str, Frame]) -> dict[str, Any]:
    studies = {int(position) for frame in frames.values() for position in frame.positions}
    states: dict[str, int] = {}
    for frame in frames.values():
        for state, number in frame.words["state"].counts.items():
            states[state] = states.get(state, 0) + number
    return {"studies": len(studies), "readings": sum(map(len, frames.values())), "states": states}


# Of a model ----------------------------------------------------------------------------------------------------------


def _model(frame: Frame, before: Frame | None) -> dict[str, Any]:
    return {
        "model": frame.model,
        "versions": frame.words["version"].counts if "version" in frame.words else {},
        "readings": len(frame),
        "states": frame.words["state"].counts,
        "first_read_at": frame.first_read_at,
        "last_read_at": frame.last_read_at,
        "median_seconds": rounded(float(np.nanmedian(frame.seconds))) if np.isfinite(frame.seconds).any() else None,
        "reasons": _reasons(frame),
        "findings": [_finding(key, frame, before) for key in finding_keys(frame)],
        "traits": {trait: _groups(frame, trait) for trait in TRAITS},
    }


def finding_keys(frame: Frame) -> list[FindingKey]:
    """The findings in the order in which the model says them."""
    return list(dict.fromkeys((*frame.categories, *frame.values)))


def _reasons(frame: Frame) -> list[dict[str, Any]]:
    """Why studies were refused or failed, the most frequent first, each with the first study of which it was said."""
    if "reason" not in frame.words:
        return []
    reason, state = frame.words["reason"], frame.words["state"]
    is_open = (reason.codes != MISSING) & ~frame.is_done
    pairs = np.stack([state.codes[is_open], reason.codes[is_open]], axis=1)
    kinds, first, counts = np.unique(pairs, axis=0, return_index=True, return_counts=True)
    rows = np.flatnonzero(is_open)[first]
    order = np.argsort(-counts, kind="stable")[:MOST_REASONS]
    return [
        {
            "state": state.names[kinds[place][0]],
            "reason": reason.names[kinds[place][1]],
            "studies": int(counts[place]),
            "example_position": int(frame.positions[rows[place]]),
            "example_study_instance_uid": frame.uids[rows[place]],
        }
        for place in order
    ]


def _finding(key: FindingKey, frame: Frame, before: Frame | None) -> dict[str, Any]:
    said: dict[str, Any] = {"finding": key.name, "kind": str(key.kind), "unit": key.unit}
    if key in frame.categories:
        words = frame.categories[key]
        said |= {"studies": int((words.codes != MISSING).sum()), "categories": words.counts}
        if before is not None and key in before.categories:
            said["earlier_categories"] = before.categories[key].counts
    if key in frame.values:
        values = frame.values[key]
        values = values[np.isfinite(values)]
        others = before.values.get(key) if before is not None else None
        said |= {"studies": max(said.get("studies", 0), len(values)), "numbers": _numbers(values)}
        said["histogram"] = _histogram(values, None if others is None else others[np.isfinite(others)])
    return said


def _numbers(values: Numbers) -> dict[str, float | None]:
    if not values.size:
        return {}
    return {
        "mean": rounded(float(values.mean())),
        "sd": rounded(float(values.std(ddof=1))) if values.size > 1 else None,
        "lowest": rounded(float(values.min())),
        **{name: rounded(float(np.quantile(values, share))) for name, share in QUANTILES.items()},
        "highest": rounded(float(values.max())),
    }


def _histogram(values: Numbers, before: Numbers | None) -> dict[str, Any] | None:
    """Counts of this run, and of the earlier one, in common bins."""
    if not values.size:
        return None
    both = values if before is None or not before.size else np.concatenate([values, before])
    low, high = np.quantile(both, (OUTLIERS, 1 - OUTLIERS))
    if low == high:
        low, high = low - 0.5, high + 0.5
    bins = int(np.clip(2 * np.sqrt(values.size), FEWEST_BINS, MOST_BINS))
    counts, edges = np.histogram(values, bins=bins, range=(low, high))
    said = {"edges": [float(edge) for edge in edges], "counts": counts.tolist()}
    if before is not None and before.size:
        said["earlier_counts"] = np.histogram(before, bins=bins, range=(low, high))[0].tolist()
    return said


def _groups(frame: Frame, trait: str) -> list[dict[str, Any]]:
    """The studies by a trait: how they ended, and of each finding the mean or the share of the studies that have it."""
    words = _numbered_sites(frame.words[trait]) if trait == "site" else frame.words[trait]
    state = frame.words["state"]
    names = sorted(words.counts.items(), key=lambda each: -each[1])[:MOST_GROUPS]
    groups = []
    for name, number in sorted(names, key=lambda each: _order(trait, each[0])):
        rows = words.of(name)
        ended = {each: int((rows & state.of(each)).sum()) for each in state.names}
        groups.append(
            {
                "group": name,
                "readings": number,
                **{each.value: ended.get(each, 0) for each in (JobState.DONE, JobState.REFUSED, JobState.FAILED)},
                "findings": {key.name: _figure(key, frame, rows) for key in finding_keys(frame)},
            }
        )
    return groups


def _order(trait: str, name: str) -> tuple[bool, int, str]:
    """Age bands by age, the others by name; what is not stated last."""
    band = BANDS.index(name) if trait == "age in years" and name in BANDS else 0
    number = int(name.removeprefix("site ")) if name.startswith("site ") and name[5:].isdigit() else 0
    return name == UNKNOWN, band or number, name


def _numbered_sites(words: Words) -> Words:
    known = [name for name in words.names if name != UNKNOWN]
    number = dict(zip(known, numbered(known), strict=True))
    names = tuple(f"site {number[name]}" if name in number else UNKNOWN for name in words.names)
    return Words(names=names, codes=words.codes)


def _figure(key: FindingKey, frame: Frame, rows: NDArray[np.bool_]) -> dict[str, Any]:
    if key in frame.categories:
        words = frame.categories[key]
        known = rows & (words.codes != MISSING)
        named = telling(words.counts)
        share = float((words.codes[known] == words.names.index(named)).mean()) if known.any() else None
        return {"studies": int(known.sum()), "category": named, "share": rounded(share)}
    values = frame.values[key][rows]
    values = values[np.isfinite(values)]
    return {"studies": int(values.size), "mean": rounded(float(values.mean())) if values.size else None}


def telling(counts: Mapping[str, int]) -> str:
    """The word whose share is told: that something is present, else the most frequent one."""
    return next((name for name in counts if name.casefold() == "present"), next(iter(counts), ""))


def _study(row: StudyRow, verdicts: Mapping[tuple[int, str], str]) -> dict[str, Any]:
    return {
        "position": row.position,
        "study_instance_uid": row.study_instance_uid,
        "model": row.model,
        "state": row.state,
        "reason": row.reason,
        "study_date": row.study_date,
        "review": verdicts.get((row.position, row.model), ""),
        "findings": [
            {
                "finding": each.name,
                "kind": str(each.kind),
                "value": rounded(each.value),
                "unit": each.unit,
                "category": each.category,
            }
            for each in row.findings
        ],
    }


# Drift ---------------------------------------------------------------------------------------------------------------


def _drift(comparisons: Sequence[drift.Comparison]) -> dict[str, Any]:
    alarms = sorted((each for each in comparisons if each.crossed), key=lambda each: -each.size)
    return {
        "method": {
            "psi_limit": drift.PSI_LIMIT,
            "ks_limit": drift.KS_LIMIT,
            "alpha": drift.ALPHA,
            "fewest_studies": drift.FEWEST,
            "fewest_of_reference": drift.FEWEST_OF_REFERENCE,
            "months_of_reference": drift.MONTHS_OF_REFERENCE,
        },
        "comparisons": len(comparisons),
        "alarms": len(alarms),
        "by_group": _by_group(alarms),
        "maps": _maps(comparisons),
    }


def _by_group(alarms: Sequence[drift.Comparison]) -> list[dict[str, Any]]:
    """The alarms of each group together, the farthest beyond its threshold first."""
    groups: dict[tuple[str, str, str], list[drift.Comparison]] = {}
    for each in alarms[:MOST_ALARMS]:
        groups.setdefault((each.model, each.by, each.group), []).append(each)
    return [
        {"model": model, "by": by, "group": group, "alarms": [each.as_json() for each in those]}
        for (model, by, group), those in groups.items()
    ]


def _maps(comparisons: Sequence[drift.Comparison]) -> list[dict[str, Any]]:
    """For each model and way to compare, how far each feature of each group is from its threshold, which is 1."""
    found: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    for each in comparisons:
        found.setdefault((each.model, each.by), {})[each.feature, each.group] = each.size
    return [
        {
            "model": model,
            "by": by,
            "features": list(dict.fromkeys(feature for feature, _ in cells)),
            "groups": sorted({group for _, group in cells}),
            "alarms": sum(size >= 1 for size in cells.values()),
            "cells": [[feature, group, round(size, 3)] for (feature, group), size in cells.items()],
        }
        for (model, by), cells in found.items()
    ]


# Comparison ----------------------------------------------------------------------------------------------------------


def _comparison(found: Found, matched: Sequence[Matched]) -> dict[str, Any]:
    names = {each.now.model for each in matched}
    return {
        "earlier_run": dict(found.run_before),
        "limits": LIMITS,
        "notable": NOTABLE,
        "only_now": sorted(name for name in found.frames if name and name not in names),
        "only_before": sorted(name for name in found.earlier or {} if name and name not in names),
        "models": [_compared(each) for each in matched],
    }


def _compared(matched: Matched) -> dict[str, Any]:
    now, before = matched.now, matched.before
    return {
        "model": now.model,
        "versions": list(now.words["version"].counts) if "version" in now.words else [],
        "earlier_versions": list(before.words["version"].counts) if "version" in before.words else [],
        "matched": len(matched.rows),
        "only_now": len(now) - len(matched.rows),
        "only_before": len(before) - len(matched.rows_before),
        "findings_only_now": list(matched.only_now),
        "findings_only_before": list(matched.only_before),
        "changed_studies": int((matched.sizes > 0).sum()),
        "findings": [{**each.figures, "mean_size": _mean(each.size)} for each in matched.differences],
        "largest": [
            {
                "position": int(now.positions[matched.rows[place]]),
                "earlier_position": int(before.positions[matched.rows_before[place]]),
                "study_instance_uid": now.uids[matched.rows[place]],
                "size": rounded(float(matched.sizes[place])),
                "changes": said_of(matched, int(place)),
            }
            for place in largest(matched, MOST_DIFFERENCES)
        ],
    }


def _mean(sizes: Numbers) -> float | None:
    return rounded(float(sizes.mean())) if sizes.size else None


def is_class(kind: str) -> bool:
    """Whether a finding is told in words."""
    return kind in {FindingKind.CLASS, FindingKind.STRUCTURE, FindingKind.NOT_EVALUATED, "state"}
