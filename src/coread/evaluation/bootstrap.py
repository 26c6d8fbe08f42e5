"""How far a figure could be off: 95 % intervals by drawing patients again and again.

What is drawn is the patient with all of their studies, not the study: two studies of one person say less than two of
two persons, and an interval that forgets this is too narrow.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

Rows = NDArray[np.intp]
"""Which studies; one that was drawn twice stands there twice."""

LEVEL = 0.95
FEWEST_PATIENTS = 5
"""Of fewer no interval is given, and of a smaller subgroup no figure."""
MOST_RESAMPLES_UNDEFINED = 0.05
"""A figure that more of the resamples do not have (no patient with the finding was drawn) gets no interval."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Statistic:
    """A figure as a function of the studies that it is made of."""

    of: Callable[[Rows], float]
    """Is only given studies of ``counted``; nan: undefined for these."""
    counted: NDArray[np.bool_]
    """Which studies it speaks of, shape (studies,)."""
    is_proportion: bool = False
    """Whether it is the share of the studies counted of which something holds."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure, and how far it can be trusted."""

    value: float | None
    """None: undefined."""
    low: float | None = None
    high: float | None = None
    """95 % interval; None: there is none."""
    method: Literal["bootstrap", "wilson"] | None = None
    """Where the interval comes from."""
    studies: int
    patients: int

    def as_json(self) -> dict[str, Any]:
        """Rounded to what the last bits of another processor do not change."""
        return {
            "value": rounded(self.value),
            "low": rounded(self.low),
            "high": rounded(self.high),
            "method": self.method,
            "studies": self.studies,
            "patients": self.patients,
        }


DIGITS = 6
"""Decimals of figures in the report."""


def rounded(value: float | None) -> float | None:
    """For JSON; what is undefined is None."""
    return None if value is None or not np.isfinite(value) else round(float(value), DIGITS)


def estimates(
    statistics: Mapping[str, Statistic], patients: NDArray[np.intp], *, resamples: int, seed: int
) -> dict[str, Estimate]:
    """Each figure with its percentile interval (Efron and Tibshirani 1993, chapter 13), patients drawn with
    replacement. ``patients``: number of each study's patient, shape (studies,).

    Where all counted studies give the same answer, no resample differs and the bootstrap knows nothing; a proportion
    then gets Wilson's interval (1927), with one observation for each patient.
    """
    drawn: dict[str, list[float]] = {name: [] for name in statistics}
    for rows in _resamples(patients, resamples=resamples, seed=seed):
        for name, statistic in statistics.items():
            drawn[name].append(_value(statistic, rows))
    everything = np.arange(len(patients))
    return {
        name: _estimate(statistic, _value(statistic, everything), np.array(drawn[name]), patients)
        for name, statistic in statistics.items()
    }


def _value(statistic: Statistic, rows: Rows) -> float:
    counted = rows[statistic.counted[rows]]
    return statistic.of(counted) if counted.size else np.nan


def _resamples(patients: NDArray[np.intp], *, resamples: int, seed: int) -> Iterator[Rows]:
    order = np.argsort(patients, kind="stable")
    _, starts, counts = np.unique(patients[order], return_index=True, return_counts=True)
    random = np.random.default_rng(seed)
    for _ in range(resamples):
        drawn = random.integers(len(starts), size=len(starts))
        ends = np.cumsum(counts[drawn])
        within = np.arange(ends[-1]) - np.repeat(ends - counts[drawn], counts[drawn])
        yield order[np.repeat(starts[drawn], counts[drawn]) + within]


def _estimate(statistic: Statistic, value: float, drawn: NDArray[np.float64], patients: NDArray[np.intp]) -> Estimate:
    of_patients = len(np.unique(patients[statistic.counted]))
    said = Estimate(
        value=float(value) if np.isfinite(value) else None,
        studies=int(statistic.counted.sum()),
        patients=of_patients,
    )
    defined = drawn[np.isfinite(drawn)]
    if said.value is None or of_patients < FEWEST_PATIENTS or not defined.size:
        return said
    if statistic.is_proportion and said.value in (0.0, 1.0):
        interval = binomtest(round(said.value * of_patients), of_patients).proportion_ci(LEVEL, method="wilson")
        return replace(said, low=float(interval.low), high=float(interval.high), method="wilson")
    if defined.size < (1 - MOST_RESAMPLES_UNDEFINED) * drawn.size or np.ptp(defined) == 0:
        return said
    low, high = np.percentile(defined, (50 * (1 - LEVEL), 50 * (1 + LEVEL)))
    return replace(said, low=float(low), high=float(high), method="bootstrap")
