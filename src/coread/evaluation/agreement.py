"""How well numbers agree with the true ones."""

import numpy as np
from numpy.typing import NDArray

from coread.evaluation.bootstrap import Rows, Statistic

Numbers = NDArray[np.float64]

LIMITS = 1.96
"""Standard deviations around the bias within which 95 % of normal differences lie."""


def agreement_statistics(found: Numbers, truth: Numbers) -> dict[str, Statistic]:
    """Of pairs of numbers; a pair with a nan does not count.

    ``bias``, ``lower_limit``, ``upper_limit``: mean of found minus true, and the 95 % limits of agreement (Bland and
    Altman, Lancet 1986); ``mean_absolute_error``; ``icc``; ``pearson_r``.
    """
    counted = np.isfinite(found) & np.isfinite(truth)
    difference = found - truth

    def of_difference(limit: float) -> Statistic:
        return Statistic(of=lambda rows: _limit(difference[rows], limit), counted=counted)

    def error(rows: Rows) -> float:
        return float(np.abs(difference[rows]).mean())

    return {
        "bias": of_difference(0.0),
        "lower_limit": of_difference(-LIMITS),
        "upper_limit": of_difference(LIMITS),
        "mean_absolute_error": Statistic(of=error, counted=counted),
        "icc": Statistic(of=lambda rows: icc(np.stack([found[rows], truth[rows]], axis=1)), counted=counted),
        "pearson_r": Statistic(of=lambda rows: correlation(found[rows], truth[rows]), counted=counted),
    }


def _limit(differences: Numbers, spreads: float) -> float:
    bias = float(differences.mean())
    if not spreads:
        return bias
    return bias + spreads * float(differences.std(ddof=1)) if len(differences) > 1 else np.nan


def icc(ratings: Numbers) -> float:
    """Intraclass correlation for absolute agreement of single ratings, two-way random effects: ICC(2,1) of Shrout and
    Fleiss (1979). ``ratings``: (subject, rater). nan if nothing varies.
    """
    subjects, raters = ratings.shape
    if subjects < 2:
        return np.nan
    mean, by_subject, by_rater = ratings.mean(), ratings.mean(axis=1), ratings.mean(axis=0)
    between = raters * ((by_subject - mean) ** 2).sum() / (subjects - 1)
    of_raters = subjects * ((by_rater - mean) ** 2).sum() / (raters - 1)
    left = ratings - by_subject[:, None] - by_rater[None, :] + mean
    residual = (left**2).sum() / ((subjects - 1) * (raters - 1))
    whole = between + (raters - 1) * residual + raters * (of_raters - residual) / subjects
    return float((between - residual) / whole) if whole else np.nan


def correlation(found: Numbers, truth: Numbers) -> float:
    """Pearson's r; nan where one of the two does not vary. It is blind to a bias."""
    if len(found) < 2 or np.ptp(found) == 0 or np.ptp(truth) == 0:
        return np.nan
    return float(np.corrcoef(found, truth)[0, 1])
