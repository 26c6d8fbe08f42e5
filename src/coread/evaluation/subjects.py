"""What there are figures of: each structure, class, question and number that a manifest names, with its statistics."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from coread.evaluation.agreement import agreement_statistics
from coread.evaluation.bootstrap import Statistic
from coread.evaluation.classes import answer_statistics, multiclass_statistics, reliability, score_statistics
from coread.evaluation.compare import ClassResult, NumberResult, StructureResult
from coread.models.manifest import DEFAULT_CLASS_THRESHOLD, CodeTriple, Manifest

Kind = Literal["structure", "classes", "class", "question", "number"]
Flags = NDArray[np.bool_]
Numbers = NDArray[np.float64]

ABSENT = {("SCT", "272519000"), ("SCT", "2667000")}
"""Codes that say that a finding is not there: Absent (qualifier value, CID 240), and SNOMED's older one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """Something that there are figures of. ``tables``: what is counted besides, as JSON."""

    kind: Kind
    name: str
    statistics: Mapping[str, Statistic]
    tables: Mapping[str, Any] = field(default_factory=dict)


def subjects_of(results: Sequence[Mapping[int, Any]], manifest: Manifest) -> list[Subject]:
    """Every subject of a manifest, with its statistics over the studies' results."""
    if manifest.classes:
        return list(_class_subjects(results, manifest))
    if manifest.numbers:
        return list(_number_subjects(results, manifest))
    return list(_structure_subjects(results, manifest))


def _structure_subjects(results: Sequence[Mapping[int, StructureResult]], manifest: Manifest) -> Iterator[Subject]:
    for key, meaning in sorted(manifest.labels.items()):
        found = [result.get(manifest.value_of(key)) for result in results]
        known = np.array([each is not None for each in found])

        def column(name: str, found: Sequence[StructureResult | None] = found) -> Numbers:
            return np.array([np.nan if each is None else getattr(each, name) for each in found], np.float64)

        volume, true_volume = column("volume_ml"), column("true_volume_ml")
        is_found, is_true = volume > 0, true_volume > 0
        either = known & (is_found | is_true)
        agreement = agreement_statistics(np.where(either, volume, np.nan), np.where(either, true_volume, np.nan))
        answers = answer_statistics(is_true, is_found, known)
        statistics = {
            "dice": _mean(column("dice")),
            "dice_median": _median(column("dice")),
            "mean_surface_distance_mm": _mean(column("mean_surface_distance_mm")),
            "hausdorff_95_mm": _mean(column("hausdorff_95_mm")),
            "hausdorff_95_mm_median": _median(column("hausdorff_95_mm")),
            **{f"volume_{name}": statistic for name, statistic in agreement.items()},
            "sensitivity": answers["sensitivity"],
            "specificity": answers["specificity"],
        }
        tables = {
            "counts": _counts(is_true, is_found, known),
            "reference_says_nothing": int((~known).sum()),
        }
        yield Subject(kind="structure", name=meaning.name, statistics=statistics, tables=tables)


def _class_subjects(results: Sequence[Mapping[int, ClassResult]], manifest: Manifest) -> Iterator[Subject]:
    keys = sorted(manifest.classes)
    names = [manifest.classes[key].name for key in keys]
    scores = np.array([[result[key].probability for key in keys] for result in results], np.float64)
    answers = np.array([[result[key].is_reported for key in keys] for result in results], bool)
    known = np.array([[result[key].is_true is not None for key in keys] for result in results], bool)
    truths = np.array([[bool(result[key].is_true) for key in keys] for result in results], bool)
    if manifest.exclusive:
        yield _together(names, truths.argmax(axis=1), answers.argmax(axis=1), scores)
        yield from _questions(keys, truths, answers, scores, manifest)
    for place, key in enumerate(keys):
        meaning, score = manifest.classes[key], scores[:, place]
        truth, answer, is_known = truths[:, place], answers[:, place], known[:, place]
        threshold = None if manifest.exclusive else manifest.threshold_of(key)
        yield Subject(
            kind="class",
            name=meaning.name,
            statistics={**answer_statistics(truth, answer, is_known), **score_statistics(truth, score, is_known)},
            tables={
                "threshold": threshold,
                "counts": _counts(truth, answer, is_known),
                "reference_says_nothing": int((~is_known).sum()),
                "reliability": _reliability(score, truth, is_known),
            },
        )


def _together(names: Sequence[str], truth: NDArray[np.intp], answer: NDArray[np.intp], scores: Numbers) -> Subject:
    matrix = np.zeros((len(names), len(names)), int)
    np.add.at(matrix, (truth, answer), 1)
    confidence = scores[np.arange(len(answer)), answer]
    return Subject(
        kind="classes",
        name="all classes",
        statistics=multiclass_statistics(truth, answer, scores),
        tables={
            "confusion": {"classes": list(names), "matrix": matrix.tolist()},
            "reliability": _reliability(confidence, truth == answer, np.ones(len(truth), bool)),
        },
    )


def _questions(
    keys: Sequence[int], truths: Flags, answers: Flags, scores: Numbers, manifest: Manifest
) -> Iterator[Subject]:
    """The questions that several classes answer, where one of the answers is Absent: is the finding there at all?"""
    threshold = manifest.threshold or DEFAULT_CLASS_THRESHOLD
    for finding, places in classes_by_finding(keys, manifest).items():
        absent = [place for place in places if _is_absent(manifest.classes[keys[place]].value)]
        if len(absent) != 1 or len(places) < 2:
            continue
        others = [place for place in places if place not in absent]
        truth, answer = _any(truths[:, others]), _any(answers[:, others])
        is_asked = _any(truths[:, places])
        score = 1 - scores[:, absent[0]]
        at_threshold = score >= threshold
        told = is_asked & np.isfinite(score)
        yield Subject(
            kind="question",
            name=finding[2],
            statistics={
                **score_statistics(truth, score, is_asked),
                **answer_statistics(truth, answer, is_asked),
                **{
                    f"{name}_at_threshold": statistic
                    for name, statistic in answer_statistics(truth, at_threshold, told).items()
                },
            },
            tables={
                "absent": manifest.classes[keys[absent[0]]].name,
                "present": [manifest.classes[keys[place]].name for place in others],
                "threshold": threshold,
                "counts": _counts(truth, answer, is_asked),
                "counts_at_threshold": _counts(truth, at_threshold, told),
                "reliability": _reliability(score, truth, is_asked),
            },
        )


def _any(flags: Flags) -> Flags:
    """Whether one of the columns holds, for each row."""
    return np.asarray(flags.any(axis=1))


def classes_by_finding(keys: Sequence[int], manifest: Manifest) -> dict[CodeTriple, list[int]]:
    """Finding → places in ``keys`` of the classes that are answers to whether it is there."""
    found: dict[CodeTriple, list[int]] = {}
    for place, key in enumerate(keys):
        found.setdefault(manifest.classes[key].finding, []).append(place)
    return found


def _is_absent(value: CodeTriple | None) -> bool:
    return value is not None and (value.scheme, value.value) in ABSENT


def _number_subjects(results: Sequence[Mapping[int, NumberResult]], manifest: Manifest) -> Iterator[Subject]:
    nothing = NumberResult(found=np.nan, truth=np.nan)
    for key, meaning in sorted(manifest.numbers.items()):
        pairs = [result.get(key, nothing) for result in results]
        found, truth = np.array([each.found for each in pairs]), np.array([each.truth for each in pairs])
        yield Subject(
            kind="number",
            name=meaning.name,
            statistics=agreement_statistics(found, truth),
            tables={"unit": meaning.unit.value, "reference_says_nothing": int(np.isnan(truth).sum())},
        )


def _mean(values: Numbers) -> Statistic:
    return Statistic(of=lambda rows: float(values[rows].mean()), counted=np.isfinite(values))


def _median(values: Numbers) -> Statistic:
    return Statistic(of=lambda rows: float(np.median(values[rows])), counted=np.isfinite(values))


def _counts(truth: Flags, answer: Flags, known: Flags) -> dict[str, int]:
    counted = Counter(zip(truth[known].tolist(), answer[known].tolist(), strict=True))
    return {
        "true_positive": counted[True, True],
        "false_negative": counted[True, False],
        "false_positive": counted[False, True],
        "true_negative": counted[False, False],
    }


def _reliability(confidence: Numbers, correct: Flags, known: Flags) -> list[dict[str, float]]:
    told = known & np.isfinite(confidence)
    return reliability(confidence[told], correct[told])
