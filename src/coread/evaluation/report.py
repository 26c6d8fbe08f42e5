"""Makes the report of an evaluation as data. It holds no patient data: studies and patients are numbers, sites too."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from coread.errors import CoreadError
from coread.evaluation.bootstrap import FEWEST_PATIENTS, LEVEL, Statistic, estimates, rounded
from coread.evaluation.compare import ClassResult, NumberResult, Result, StructureResult
from coread.evaluation.document import SCHEMA_VERSION
from coread.evaluation.subjects import Subject, subjects_of
from coread.evaluation.traits import BANDS, UNKNOWN, Traits, numbered, subgroups
from coread.models.manifest import Manifest
from coread.workers.study import Study

Why = Literal["refused", "failed", "reference not usable", "without reference"]

PRINCIPAL: Mapping[str, Sequence[str]] = {
    "structure": ("dice", "volume_bias"),
    "classes": ("accuracy",),
    "class": ("auc",),
    "question": ("auc", "sensitivity", "specificity"),
    "number": ("bias", "mean_absolute_error"),
}
"""Figures that are given of subgroups, too."""
PRINCIPAL_OF_ANSWERS = ("sensitivity", "specificity")
"""And of a class that may hold beside others, which is a question of its own."""

UID = re.compile(r"\b(?:2\.25\.\d{8,}|[0-2](?:\.\d+){4,})\b")
"""What is taken for a UID in a text; no number or version of a program looks like that."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """How the figures are made."""

    seed: int = 0
    resamples: int = 2000
    unnamed_are_absent: bool = False
    """Whether a structure without a segment in a study's reference is known to be absent."""
    with_uids: bool = False
    """Whether the report names studies by their StudyInstanceUIDs, beside their numbers."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A study that was read and compared."""

    number: int
    """In the folder, from 1: what the study is called in the report."""
    study: Study
    patient: str
    """Who it is of; only a number of it gets into the report."""
    traits: Traits
    results: Result
    matched_by: Mapping[int, str] | None = None
    """Label → how its segment in the reference was found."""
    unmatched_segments: int = 0


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A study that was not compared, and why."""

    number: int
    study: Study
    why: Why
    error: CoreadError | None = None


def report_of(
    compared: Sequence[Compared],
    left_out: Sequence[LeftOut],
    *,
    manifest: Manifest,
    method: Method,
    head: Mapping[str, Any],
    studies: int,
    references_without_study: Sequence[str],
) -> dict[str, Any]:
    """Everything that there is to say, as JSON has it. ``head``: what is known of model, reference and software."""
    patients = numbered([each.patient for each in compared])
    subjects = subjects_of([each.results for each in compared], manifest)
    why = Counter(each.why for each in left_out)
    return {
        "schema": SCHEMA_VERSION,
        **head,
        "method": {
            "level": LEVEL,
            "resamples": method.resamples,
            "seed": method.seed,
            "fewest_patients": FEWEST_PATIENTS,
            "unnamed_are_absent": method.unnamed_are_absent,
        },
        "counts": {
            "studies": studies,
            "compared": len(compared),
            "patients": len(set(patients)),
            "without_reference": why["without reference"],
            "refused": why["refused"],
            "failed": why["failed"],
            "reference_not_usable": why["reference not usable"],
            "references_without_study": len(references_without_study),
        },
        "left_out": [_left_out(each, method) for each in left_out],
        "references_without_study": [
            each for each in references_without_study if method.with_uids or not UID.search(each)
        ],
        "matching": _matching(compared, manifest),
        "subjects": _estimated(subjects, np.array(patients), method),
        "subgroups": _subgroups(compared, subjects, np.array(patients), method),
        "studies": [_row(each, patient, manifest, method) for each, patient in zip(compared, patients, strict=True)],
    }


def _left_out(each: LeftOut, method: Method) -> dict[str, Any]:
    reason = "the reference has nothing of it" if each.error is None else str(each.error)
    return {
        **_identity(each, method),
        "why": each.why,
        "reason": reason if method.with_uids else _anonymous(reason, each),
    }


def _anonymous(reason: str, of: LeftOut) -> str:
    """A reason without UIDs and paths: people name folders after patients."""
    for path in of.study.files:
        reason = reason.replace(str(path), "a file")
    uids = {of.study.study_instance_uid, *of.study.sop_instance_uids}
    uids |= {series.series_instance_uid for series in of.study.series}
    for uid in sorted(uids, key=len, reverse=True):
        reason = reason.replace(uid, "…")
    return UID.sub("…", reason)


def _identity(each: Compared | LeftOut, method: Method) -> dict[str, Any]:
    uid = {"study_instance_uid": each.study.study_instance_uid} if method.with_uids else {}
    return {"study": each.number, **uid}


def _matching(compared: Sequence[Compared], manifest: Manifest) -> dict[str, Any] | None:
    """How segments of the reference were recognised; None if there are none."""
    if not manifest.labels:
        return None
    ways = {manifest.value_of(key): (meaning.name, Counter[str]()) for key, meaning in sorted(manifest.labels.items())}
    for each in compared:
        for label, how in (each.matched_by or {}).items():
            ways[label][1][how] += 1
    return {
        "structures": {name: dict(sorted(counts.items())) for name, counts in ways.values()},
        "other_segments": sum(each.unmatched_segments for each in compared),
    }


def _estimated(subjects: Sequence[Subject], patients: np.ndarray[Any, Any], method: Method) -> list[dict[str, Any]]:
    statistics = {
        f"{place}/{name}": statistic
        for place, subject in enumerate(subjects)
        for name, statistic in subject.statistics.items()
    }
    found = estimates(statistics, patients, resamples=method.resamples, seed=method.seed)
    return [
        {
            "kind": subject.kind,
            "name": subject.name,
            "estimates": {name: found[f"{place}/{name}"].as_json() for name in subject.statistics},
            **subject.tables,
        }
        for place, subject in enumerate(subjects)
    ]


def _subgroups(
    compared: Sequence[Compared], subjects: Sequence[Subject], patients: np.ndarray[Any, Any], method: Method
) -> list[dict[str, Any]]:
    """The principal figures of each subgroup; of one with too few patients, how many they are."""
    found = []
    for trait, names in subgroups([each.traits for each in compared]).items():
        for name in sorted(set(names), key=_order):
            inside = np.array([each == name for each in names])
            count = len(np.unique(patients[inside]))
            few = count < FEWEST_PATIENTS
            found.append(
                {
                    "by": trait,
                    "name": name,
                    "studies": int(inside.sum()),
                    "patients": count,
                    "subjects": None
                    if few
                    else _estimated([_within(each, inside) for each in subjects], patients[inside], method),
                }
            )
    return found


def _order(name: str) -> tuple[bool, int, int, str]:
    """Bands by age, sites by number, the rest by name; what is not stated last."""
    band = BANDS.index(name) if name in BANDS else 0
    return name == UNKNOWN, band, len(name) if name.startswith("site ") else 0, name


def _within(subject: Subject, inside: np.ndarray[Any, Any]) -> Subject:
    """The principal statistics of a subject, of some of the studies only."""
    members = np.flatnonzero(inside)

    def narrowed(statistic: Statistic) -> Statistic:
        return Statistic(
            of=lambda rows: statistic.of(members[rows]),
            counted=statistic.counted[members],
            is_proportion=statistic.is_proportion,
        )

    names = [*PRINCIPAL[subject.kind]]
    if subject.kind == "class" and subject.tables["threshold"] is not None:
        names += PRINCIPAL_OF_ANSWERS
    return Subject(
        kind=subject.kind,
        name=subject.name,
        statistics={name: narrowed(subject.statistics[name]) for name in names},
    )


def _row(each: Compared, patient: int, manifest: Manifest, method: Method) -> dict[str, Any]:
    names = _names(manifest)
    results = {names[key]: _values(result) for key, result in each.results.items()}
    return {**_identity(each, method), "patient": patient, "results": results}


def _names(manifest: Manifest) -> dict[int, str]:
    if manifest.labels:
        return {manifest.value_of(key): meaning.name for key, meaning in manifest.labels.items()}
    return {key: meaning.name for key, meaning in (manifest.classes or manifest.numbers).items()}


def _values(result: StructureResult | ClassResult | NumberResult) -> dict[str, Any]:
    return {name: rounded(value) if isinstance(value, float) else value for name, value in asdict(result).items()}
