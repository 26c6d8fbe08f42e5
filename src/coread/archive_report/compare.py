"""Two runs beside each other: the same studies read by the same model, or two versions of it.

Studies are matched by StudyInstanceUID and model. A difference is measured in standard deviations of what is compared
over all matched studies, so that millilitres, answers and states can be ordered together: of a number, the difference
over the pooled standard deviation; of a word, the same with each word as an indicator of its own, so that a change
counts the more the rarer it is that anything differs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coread.archive_report.drift import joined
from coread.archive_report.frame import MISSING, FindingKey, Frame, Numbers, Words
from coread.archive_table import FindingKind
from coread.evaluation.agreement import LIMITS, correlation, icc
from coread.evaluation.bootstrap import rounded

Places = NDArray[np.intp]
Flags = NDArray[np.bool_]

SAME = 1e-6
"""Relative difference of two numbers that is still rounding."""
NOTABLE = 0.05
"""Relative difference that is counted apart."""
STATE = FindingKey("state of the reading", FindingKind.CLASS)
"""Is compared like an answer: a study that one run has read and the other has not is the largest of differences."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Matched:
    """A model in both runs. Arrays are of shape (matched studies,)."""

    now: Frame
    before: Frame
    rows: Places
    """Of this run."""
    rows_before: Places
    """The same studies' of the earlier one."""
    differences: "Sequence[Difference]"
    """By finding, those that differ most first; one at least, of the states."""
    only_now: Sequence[str]
    """Findings that only this run has."""
    only_before: Sequence[str]

    @property
    def sizes(self) -> Numbers:
        """The largest difference of each study."""
        return (
            np.max([each.size for each in self.differences], axis=0, initial=0.0) if self.differences else np.array([])
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Difference:
    """A finding in both runs."""

    key: FindingKey
    size: Numbers
    """In standard deviations, 0 or more; 0 where a study lacks it in a run."""
    is_changed: Flags
    figures: Mapping[str, Any]
    """For the report, as JSON's types."""
    numbers: tuple[Numbers, Numbers] | None = None
    """Now and before."""
    words: tuple[Words, Words] | None = None


def match(now: Frame, before: Frame) -> Matched:
    """What differs between two runs of a model, study by study."""
    place = {uid: row for row, uid in enumerate(before.uids)}
    pairs = [(row, place[uid]) for row, uid in enumerate(now.uids) if uid in place]
    rows, rows_before = (np.array([pair[side] for pair in pairs], np.intp) for side in (0, 1))
    keys = _keys(now), _keys(before)
    found = [_words_compared(STATE, _taken(now.words["state"], rows), _taken(before.words["state"], rows_before))]
    for key in sorted(keys[0] & keys[1]):
        if key in now.categories and key in before.categories:
            words = _taken(now.categories[key], rows), _taken(before.categories[key], rows_before)
            found.append(_words_compared(key, *words))
        elif key in now.values and key in before.values:
            found.append(_numbers_compared(key, now.values[key][rows], before.values[key][rows_before]))
    return Matched(
        now=now,
        before=before,
        rows=rows,
        rows_before=rows_before,
        differences=sorted(found, key=lambda each: -float(each.size.mean() if each.size.size else 0.0)),
        only_now=[key.name for key in sorted(keys[0] - keys[1])],
        only_before=[key.name for key in sorted(keys[1] - keys[0])],
    )


def largest(matched: Matched, number: int) -> Places:
    """Places among the matched studies of those that differ most, the largest difference first."""
    sizes = matched.sizes
    order = np.argsort(-sizes, kind="stable")[:number]
    return order[sizes[order] > 0]


def said_of(matched: Matched, place: int) -> list[dict[str, Any]]:
    """All that changed in a matched study, the largest change first, as JSON's types."""
    changed = [each for each in matched.differences if each.is_changed[place]]
    return [_said(each, place) for each in sorted(changed, key=lambda each: -each.size[place])]


def changes(matched: Matched) -> Iterator[dict[str, Any]]:
    """All that changed in all studies, as rows of the table of changes."""
    for difference in matched.differences:
        for place in np.flatnonzero(difference.is_changed):
            row = int(matched.rows[place])
            yield {
                "position": int(matched.now.positions[row]),
                "study_instance_uid": matched.now.uids[row],
                "model": matched.now.model,
                **_said(difference, int(place)),
            }


def _keys(frame: Frame) -> set[FindingKey]:
    return {*frame.values, *frame.categories}


def _taken(words: Words, rows: Places) -> Words:
    return Words(names=words.names, codes=words.codes[rows])


def _said(difference: Difference, place: int) -> dict[str, Any]:
    said: dict[str, Any] = {
        "finding": difference.key.name,
        "kind": "state" if difference.key == STATE else str(difference.key.kind),
        "unit": difference.key.unit or None,
        "size": float(difference.size[place]),
    }
    if difference.numbers is not None:
        now, before = (float(each[place]) for each in difference.numbers)
        said |= {"earlier_value": before, "value": now, "difference": now - before}
    if difference.words is not None:
        now_word, word_before = (_word(each, place) for each in difference.words)
        said |= {"earlier_category": word_before, "category": now_word}
    return said


def _word(words: Words, place: int) -> str | None:
    code = int(words.codes[place])
    return None if code == MISSING else words.names[code]


def _numbers_compared(key: FindingKey, now: Numbers, before: Numbers) -> Difference:
    both = np.isfinite(now) & np.isfinite(before)
    difference = np.where(both, now - before, 0.0)
    pooled = np.concatenate([now[both], before[both]])
    spread = float(pooled.std()) if pooled.size else 0.0
    scale = np.maximum(np.abs(now), np.abs(before))
    is_changed = both & (np.abs(difference) > SAME * scale)
    size = np.abs(difference) / spread if spread > 0 else np.zeros(len(now))
    return Difference(
        key=key,
        size=np.where(is_changed, size, 0.0),
        is_changed=is_changed,
        numbers=(now, before),
        figures={
            **_common(key, both, is_changed),
            "changed_notably": int((both & (np.abs(difference) > NOTABLE * scale)).sum()),
            "only_now": int((np.isfinite(now) & np.isnan(before)).sum()),
            "only_before": int((np.isnan(now) & np.isfinite(before)).sum()),
            **_bland_altman(now[both], before[both]),
        },
    )


def _bland_altman(now: Numbers, before: Numbers) -> dict[str, float | None]:
    """Bias, 95 % limits of agreement and the intervals of both (Bland and Altman, Lancet 1986: the standard error of a
    limit is about that of the bias times the root of 3); ICC(2,1); Pearson's r.
    """
    names = ("bias", "bias_low", "bias_high", "lower_limit", "upper_limit", "limit_margin", "icc", "pearson_r")
    if len(now) < 2:
        return dict.fromkeys(names)
    difference = now - before
    bias, spread = float(difference.mean()), float(difference.std(ddof=1))
    margin = LIMITS * spread / np.sqrt(len(now))
    figures = (
        bias,
        bias - margin,
        bias + margin,
        bias - LIMITS * spread,
        bias + LIMITS * spread,
        margin * np.sqrt(3),
        icc(np.stack([now, before], axis=1)),
        correlation(now, before),
    )
    return dict(zip(names, map(rounded, figures), strict=True))


def _words_compared(key: FindingKey, now: Words, before: Words) -> Difference:
    together = joined(now, before)
    half = len(now.codes)
    codes, codes_before = together.codes[:half], together.codes[half:]
    both = (codes != MISSING) & (codes_before != MISSING)
    is_changed = both & (codes != codes_before)
    number = len(together.names)
    table = np.bincount(codes_before[both].astype(np.int64) * number + codes[both], minlength=number * number)
    confusion = table.reshape(number, number)
    share = (confusion.sum(axis=0) + confusion.sum(axis=1)) / max(1, 2 * int(both.sum()))
    varied = 1 - float((share**2).sum())
    size = np.sqrt(2 / varied) if varied > 0 else 0.0
    return Difference(
        key=key,
        size=np.where(is_changed, size, 0.0),
        is_changed=is_changed,
        words=(now, before),
        figures={
            **_common(key, both, is_changed),
            "agreement": rounded(float((codes == codes_before)[both].mean())) if both.any() else None,
            "kappa": rounded(_kappa(confusion)),
            "transitions": [
                {"before": together.names[one], "now": together.names[other], "studies": int(confusion[one, other])}
                for one, other in zip(*np.nonzero(confusion), strict=True)
            ],
        },
    )


def _kappa(confusion: NDArray[np.int64]) -> float:
    """Cohen's (1960), unweighted; nan where both runs say the same of every study."""
    total = confusion.sum()
    if not total:
        return np.nan
    expected = float((confusion.sum(axis=0) * confusion.sum(axis=1)).sum()) / float(total) ** 2
    return float((confusion.trace() / total - expected) / (1 - expected)) if expected < 1 else np.nan


def _common(key: FindingKey, both: Flags, is_changed: Flags) -> dict[str, Any]:
    return {
        "finding": key.name,
        "kind": "state" if key == STATE else str(key.kind),
        "unit": key.unit,
        "studies": int(both.sum()),
        "changed": int(is_changed.sum()),
    }
