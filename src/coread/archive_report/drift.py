"""What drifted: whether studies of a month or of a scanner differ from a stated reference, by two measures.

The population stability index (PSI) is the sum over bins of (p - q) ln(p / q), p and q the shares of the studies there
and of the reference: Jeffreys' divergence. 0.2 is the usual limit (Siddiqi, Credit Risk Scorecards, Wiley 2006). By
chance alone it is about (bins - 1)(1/n + 1/m), since PSI / (1/n + 1/m) is distributed as chi-squared with bins - 1
degrees of freedom when nothing differs (Yurdakul and Naranjo, Journal of Risk Model Validation 14(4), 2020): 0.2 is
often reached by 50 studies of which nothing is the matter. So the threshold is 0.2 or what chance makes, whichever is
more. The Kolmogorov-Smirnov statistic is the largest distance of two distribution functions; its threshold is 0.1 or
what chance makes (Massart's bound of 1990).

"What chance makes" is at most `ALPHA` in the whole report: of all comparisons together, by Bonferroni's correction. One
report in a hundred of archives in which nothing drifted may have a false alarm, and small groups need a large shift.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from coread.archive_report.frame import HEADER_WORDS, MISSING, Codes, Frame, Numbers, Words
from coread.archive_table import FindingKind

Flags = NDArray[np.bool_]
Counts = NDArray[np.int64]

PSI_LIMIT, KS_LIMIT = 0.2, 0.1
"""What is less is no matter, however certain it is."""
ALPHA = 0.01
FEWEST = 50
"""Studies of a group that is compared; of fewer, only a landslide could be told from chance."""
FEWEST_OF_REFERENCE = 100
MONTHS_OF_REFERENCE = 3
FINE = 512
"""Bins of a number at most: a distance of two distribution functions is told to a five-hundredth."""
BINS = 10
"""Deciles of the reference."""
MOST_DISTINCT = 20
"""Numbers that take no more values than that, such as slice thicknesses, are compared value by value."""
FEWEST_IN_BIN = 10
"""Expected of the smaller side; rarer words count together, and of numbers there are fewer bins. With 5, the
logarithms of nearly empty bins raised six times as many false alarms as they may."""
SMOOTHING = 1.0
"""Added to each bin (Laplace), so that an empty one has a logarithm, and a small one no extreme one."""
OF_SCANNERS = frozenset({"scanner", "site", "manufacturer", "software_versions"})
"""Differ from scanner to scanner by nature."""

WATCHED_WORDS = ("sex", "scanner", "site", *HEADER_WORDS)
"""Columns of words of the input."""

Side = Literal["input", "output"]
By = Literal["month", "scanner", "scanner over time", "earlier run"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Feature:
    """Something of each study that is watched, in bins: of numbers, `FINE` of about as many studies each."""

    name: str
    side: Side
    is_ordered: bool
    """Whether the bins are of numbers, the smallest first."""
    codes: Codes
    """The bin of each row; MISSING: not known."""
    bins: int

    def counts(self, groups: Codes, number: int) -> Counts:
        """Studies by group and bin, shape (groups, bins). ``groups``: of each row; MISSING: none."""
        known = (self.codes != MISSING) & (groups != MISSING)
        places = groups[known].astype(np.int64) * self.bins + self.codes[known]
        return np.bincount(places, minlength=number * self.bins).reshape(number, self.bins)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One feature of one group beside its reference."""

    model: str
    feature: str
    side: str
    by: By
    group: str
    reference: str
    """What it is compared with, in words."""
    studies: int
    reference_studies: int
    psi: float | None
    psi_threshold: float | None
    ks: float | None = None
    ks_threshold: float | None = None

    @property
    def crossed(self) -> tuple[str, ...]:
        """The names of the thresholds that it has crossed."""
        crossed = []
        if self.psi is not None and self.psi_threshold is not None and self.psi >= self.psi_threshold:
            crossed.append("PSI")
        if self.ks is not None and self.ks_threshold is not None and self.ks >= self.ks_threshold:
            crossed.append("KS")
        return tuple(crossed)

    @property
    def size(self) -> float:
        """How far beyond its threshold it is: the larger of both ratios."""
        ratios = [
            value / threshold
            for value, threshold in ((self.psi, self.psi_threshold), (self.ks, self.ks_threshold))
            if value is not None and threshold
        ]
        return max(ratios, default=0.0)

    def as_json(self) -> dict[str, Any]:
        """The comparison as JSON's types, rounded."""
        said = asdict(self)
        rounded = {
            name: None if said[name] is None else round(said[name], 4)
            for name in ("psi", "psi_threshold", "ks", "ks_threshold")
        }
        return {**said, **rounded, "crossed": list(self.crossed)}


# The measures --------------------------------------------------------------------------------------------------------


def psi(reference: Counts, counts: Counts) -> float:
    """The population stability index of two rows of counts, by bin; `SMOOTHING` studies are added to each bin."""
    expected = (reference + SMOOTHING) / (reference.sum() + SMOOTHING * len(reference))
    found = (counts + SMOOTHING) / (counts.sum() + SMOOTHING * len(counts))
    return float(((found - expected) * np.log(found / expected)).sum())


def psi_threshold(bins: int, *, reference: int, studies: int, alpha: float) -> float:
    """`PSI_LIMIT`, or what chance exceeds with a probability of ``alpha`` when nothing differs; see above."""
    return max(PSI_LIMIT, float(chi2.isf(alpha, bins - 1)) * (1 / reference + 1 / studies))


def ks_threshold(*, reference: int, studies: int, alpha: float) -> float:
    """`KS_LIMIT`, or what chance exceeds with a probability of at most ``alpha`` when nothing differs (Massart, Annals
    of Probability 18, 1990, with the two samples' effective size).
    """
    effective = reference * studies / (reference + studies)
    return max(KS_LIMIT, float(np.sqrt(np.log(2 / alpha) / (2 * effective))))


def ks(reference: Counts, counts: Counts) -> float:
    """The two-sample Kolmogorov-Smirnov statistic, 0 to 1, of two rows of counts by bin. Bins can only make it less."""
    distance = np.cumsum(counts) / counts.sum() - np.cumsum(reference) / reference.sum()
    return float(np.abs(distance).max())


def compared(
    feature: Feature, reference: Counts, counts: Counts, *, alpha: float, like: Comparison
) -> Comparison | None:
    """A group beside its reference; None if either has too few studies of which the feature is known.

    ``like``: what is being compared, in words; its figures are replaced.
    """
    studies, of_reference = int(counts.sum()), int(reference.sum())
    if studies < FEWEST or of_reference < FEWEST_OF_REFERENCE:
        return None
    found = replace(like, studies=studies, reference_studies=of_reference)
    before, now = _for_psi(feature, reference, counts)
    if len(before) > 1:
        limit = psi_threshold(len(before), reference=of_reference, studies=studies, alpha=alpha)
        found = replace(found, psi=psi(before, now), psi_threshold=limit)
    if feature.is_ordered:
        limit = ks_threshold(reference=of_reference, studies=studies, alpha=alpha)
        found = replace(found, ks=ks(reference, counts), ks_threshold=limit)
    return found


def _for_psi(feature: Feature, reference: Counts, counts: Counts) -> tuple[Counts, Counts]:
    """Counts in deciles of the reference, or value by value; rare bins together."""
    before, now = reference, counts
    if feature.is_ordered and np.count_nonzero(before + now) > MOST_DISTINCT:
        bins = min(BINS, int(min(before.sum(), now.sum())) // FEWEST_IN_BIN)
        begins = (np.cumsum(before) - before) / before.sum()
        of_bin = np.minimum((begins * bins).astype(np.int64), bins - 1)
        before, now = (np.bincount(of_bin, weights=each, minlength=bins).astype(np.int64) for each in (before, now))
    share = (before + now) / (before.sum() + now.sum())
    is_rare = share * min(before.sum(), now.sum()) < FEWEST_IN_BIN
    if not is_rare.any():
        return before, now
    return np.append(before[~is_rare], before[is_rare].sum()), np.append(now[~is_rare], now[is_rare].sum())


# What is watched -----------------------------------------------------------------------------------------------------


def features_of(frame: Frame) -> list[Feature]:
    """All that is watched of a model's rows."""
    found = [word_feature(name, "input", frame.words[name]) for name in WATCHED_WORDS if name in frame.words]
    found += [number_feature(name, "input", values) for name, values in frame.inputs.items()]
    found.append(word_feature("state", "output", frame.words["state"]))
    found += [word_feature(key.name, "output", words) for key, words in frame.categories.items()]
    found += [
        number_feature(f"{key.name}: probability" if key.kind is FindingKind.CLASS else key.name, "output", values)
        for key, values in frame.values.items()
    ]
    return found


def word_feature(name: str, side: Side, words: Words) -> Feature:
    """A column of words, each a bin."""
    return Feature(name=name, side=side, is_ordered=False, codes=words.codes, bins=max(1, len(words.names)))


def number_feature(name: str, side: Side, numbers: Numbers) -> Feature:
    """A column of numbers in bins."""
    known = np.isfinite(numbers)
    distinct = np.unique(numbers[known])
    if len(distinct) > FINE:
        distinct = np.unique(np.quantile(numbers[known], np.linspace(0, 1, FINE + 1)[1:]))
    codes = np.full(len(numbers), MISSING, np.int32)
    codes[known] = np.searchsorted(distinct, numbers[known], side="left")
    return Feature(name=name, side=side, is_ordered=True, codes=codes, bins=max(1, len(distinct)))


# What it is compared with --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Periods:
    """Months in groups that are large enough to compare, in their order; the first is the reference."""

    names: tuple[str, ...]
    codes: Codes
    """The group of each row; MISSING: it has no date."""


def periods_of(months: Words, rows: Flags) -> Periods:
    """The first months until there are `MONTHS_OF_REFERENCE` and `FEWEST_OF_REFERENCE` studies of ``rows`` in them;
    then month by month, as many together as make `FEWEST` studies.
    """
    order = sorted(range(len(months.names)), key=months.names.__getitem__)
    counted = np.bincount(months.codes[rows & (months.codes != MISSING)], minlength=len(months.names))
    groups: list[list[int]] = [[]]
    for month in (each for each in order if counted[each]):
        is_reference = len(groups) == 1
        wanted = FEWEST_OF_REFERENCE if is_reference else FEWEST
        has_months = not is_reference or len(groups[0]) >= MONTHS_OF_REFERENCE
        if counted[groups[-1]].sum() >= wanted and has_months:
            groups.append([])
        groups[-1].append(month)
    if len(groups) > 2 and counted[groups[-1]].sum() < FEWEST:
        groups[-2] += groups.pop()
    of_month = np.full(len(months.names) + 1, MISSING, np.int32)  # the last is that of MISSING
    for number, group in enumerate(groups):
        of_month[group] = number
    names = tuple(_span(months.names[group[0]], months.names[group[-1]]) for group in groups if group)
    return Periods(names=names, codes=np.where(rows, of_month[months.codes], MISSING).astype(np.int32))


def _span(first: str, last: str) -> str:
    return first if first == last else f"{first} to {last}"


def drift_of(frames: Sequence[Frame], earlier: Mapping[str, Frame] | None = None) -> list[Comparison]:
    """All comparisons of a run, in which each model is watched by itself. ``earlier``: the frames of an earlier run.

    A scanner is compared with all others that do not stand out themselves; a scanner that changes over time, by
    itself, and then it does not count for the months of all.
    """
    plans = [_plan_of(frame, (earlier or {}).get(frame.model)) for frame in frames]
    tests = sum(plan.tests for plan in plans)
    alpha = ALPHA / max(1, tests)
    return [comparison for plan in plans for comparison in plan.carried_out(alpha)]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Plan:
    """What is compared of a model's rows, before it is: how many comparisons there are decides what chance makes."""

    frame: Frame
    features: Sequence[Feature]
    periods: Periods
    scanners: Words
    over_time: Mapping[int, Periods]
    """Place of a scanner's name → its own periods."""
    pairs: Sequence[tuple[Feature, int]]
    """Features of the earlier run's rows and this one's, one after the other, and where the others begin."""

    @property
    def tests(self) -> int:
        """How many statistics there may be at most: two of each number, one of each word."""
        per_group = sum(2 if each.is_ordered else 1 for each in self.features)
        groups = max(0, len(self.periods.names) - 1) + len(self.scanners.names)
        groups += sum(len(each.names) - 1 for each in self.over_time.values())
        return per_group * groups + sum(2 if feature.is_ordered else 1 for feature, _ in self.pairs)

    def carried_out(self, alpha: float) -> Iterator[Comparison]:
        for feature in self.features:
            changed = yield from self._over_time(feature, alpha)
            yield from self._months(feature, alpha, without=changed)
            if feature.name not in OF_SCANNERS:
                yield from self._scanners(feature, alpha)
        for feature, begin in self.pairs:
            groups = np.where(np.arange(len(feature.codes)) < begin, 0, 1).astype(np.int32)
            before, now = feature.counts(groups, 2)
            like = self._like(feature, by="earlier run", group="this run", reference="the earlier run")
            if found := compared(feature, before, now, alpha=alpha, like=like):
                yield found

    def _like(self, feature: Feature, *, by: By, group: str, reference: str) -> Comparison:
        return Comparison(
            model=self.frame.model,
            feature=feature.name,
            side=feature.side,
            by=by,
            group=group,
            reference=reference,
            studies=0,
            reference_studies=0,
            psi=None,
            psi_threshold=None,
        )

    def _over_time(self, feature: Feature, alpha: float) -> Generator[Comparison, None, list[int]]:
        """Each scanner's periods beside its own first months. Returns the scanners that changed."""
        changed = []
        for place, periods in self.over_time.items():
            name = self.scanners.names[place]
            counts = feature.counts(periods.codes, len(periods.names))
            for number, period in enumerate(periods.names[1:], start=1):
                like = self._like(
                    feature,
                    by="scanner over time",
                    group=f"{name}, {period}",
                    reference=f"{name}, {periods.names[0]}",
                )
                if found := compared(feature, counts[0], counts[number], alpha=alpha, like=like):
                    changed += [place] if found.crossed else []
                    yield found
        return sorted(set(changed))

    def _months(self, feature: Feature, alpha: float, *, without: Sequence[int]) -> Iterator[Comparison]:
        periods = self.periods
        rows = np.where(np.isin(self.scanners.codes, without), MISSING, periods.codes).astype(np.int32)
        counts = feature.counts(rows, len(periods.names))
        left_out = ", ".join(self.scanners.names[place] for place in without)
        besides = f", without {left_out}" if without else ""
        for number, period in enumerate(periods.names[1:], start=1):
            like = self._like(feature, by="month", group=period, reference=f"{periods.names[0]}{besides}")
            if found := compared(feature, counts[0], counts[number], alpha=alpha, like=like):
                yield found

    def _scanners(self, feature: Feature, alpha: float) -> Iterator[Comparison]:
        """Each scanner beside all others. The one that stands out most is taken from the reference of the others, and
        they are compared anew: else each of them would differ from a reference that it is in.
        """
        counts = feature.counts(self.scanners.codes, len(self.scanners.names))
        pool, flagged = list(range(len(self.scanners.names))), list[int]()
        while True:
            found = self._beside_others(feature, counts, pool, flagged, alpha)
            crossed = {place: each for place, each in found.items() if each.crossed}
            if not crossed:
                break
            if len(found) == 2:  # nobody can say which of two is right: the one with more studies is the reference
                worst = min(found, key=lambda place: (found[place].studies, place))
                crossed = {worst: found[worst]} if found[worst].crossed else crossed
            worst = max(crossed, key=lambda place: crossed[place].size)
            yield crossed[worst]
            pool.remove(worst)
            flagged.append(worst)
        yield from found.values()

    def _beside_others(
        self, feature: Feature, counts: Counts, pool: Sequence[int], flagged: Sequence[int], alpha: float
    ) -> dict[int, Comparison]:
        whole = counts[list(pool)].sum(axis=0)
        besides = f", without {', '.join(self.scanners.names[place] for place in flagged)}" if flagged else ""
        compared_with = {
            place: compared(
                feature,
                whole - counts[place],
                counts[place],
                alpha=alpha,
                like=self._like(
                    feature, by="scanner", group=self.scanners.names[place], reference=f"all other scanners{besides}"
                ),
            )
            for place in pool
        }
        return {place: each for place, each in compared_with.items() if each is not None}


def _plan_of(frame: Frame, earlier: Frame | None) -> _Plan:
    nothing = Words(names=(), codes=np.full(len(frame), MISSING, np.int32))
    months, scanners = frame.words.get("month", nothing), frame.words.get("scanner", nothing)
    everything = np.ones(len(frame), np.bool_)
    over_time = {
        place: periods_of(months, scanners.codes == place) for place in range(len(scanners.names)) if months.names
    }
    return _Plan(
        frame=frame,
        features=features_of(frame),
        periods=periods_of(months, everything),
        scanners=scanners,
        over_time={place: periods for place, periods in over_time.items() if len(periods.names) > 1},
        pairs=[] if earlier is None else _pairs(earlier, frame),
    )


def _pairs(earlier: Frame, frame: Frame) -> list[tuple[Feature, int]]:
    """What both runs have, in common bins."""
    begin = len(earlier)
    return [(feature, begin) for feature in features_of(_one_after_the_other(earlier, frame))]


def _one_after_the_other(first: Frame, second: Frame) -> Frame:
    return replace(
        second,
        uids=[*first.uids, *second.uids],
        words={name: joined(first.words[name], second.words[name]) for name in first.words.keys() & second.words},
        inputs=_both(first.inputs, second.inputs),
        values=_both(first.values, second.values),
        categories={
            key: joined(first.categories[key], second.categories[key])
            for key in sorted(first.categories.keys() & second.categories)
        },
    )


def _both(first: Mapping[Any, Numbers], second: Mapping[Any, Numbers]) -> dict[Any, Numbers]:
    return {key: np.concatenate([first[key], second[key]]) for key in sorted(first.keys() & second)}


def joined(first: Words, second: Words) -> Words:
    """Two columns of words, one after the other."""
    names = tuple(dict.fromkeys((*first.names, *second.names)))
    place = np.array([*(names.index(name) for name in second.names), MISSING], np.int32)
    return Words(names=names, codes=np.concatenate([first.codes, place[second.codes]]).astype(np.int32))
