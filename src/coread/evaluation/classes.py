"""How well classes and their probabilities agree with what is true.

Thousands of resamples ask for the same figures, so they are sums of arrays here. Tests compare them with
scikit-learn's, which take many times as long.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from coread.evaluation.bootstrap import Rows, Statistic

Flags = NDArray[np.bool_]
Numbers = NDArray[np.float64]

BINS = 10
"""Equal-width bins of the probability (Guo et al., ICML 2017, section 2)."""


def answer_statistics(truth: Flags, answer: Flags, known: Flags) -> dict[str, Statistic]:
    """Of answers yes or no, each of shape (studies,): ``sensitivity``, ``specificity``,
    ``positive_predictive_value``, ``negative_predictive_value``, ``f1``. ``known``: where the truth is.
    """

    def share(hits: Flags, among: Flags) -> Statistic:
        return Statistic(of=lambda rows: float(hits[rows].mean()), counted=among & known, is_proportion=True)

    def f1(rows: Rows) -> float:
        both = int(truth[rows].sum()) + int(answer[rows].sum())
        return 2 * int((truth[rows] & answer[rows]).sum()) / both if both else np.nan

    return {
        "sensitivity": share(answer, truth),
        "specificity": share(~answer, ~truth),
        "positive_predictive_value": share(truth, answer),
        "negative_predictive_value": share(~truth, ~answer),
        "f1": Statistic(of=f1, counted=known),
    }


def score_statistics(truth: Flags, score: Numbers, known: Flags) -> dict[str, Statistic]:
    """Of probabilities of "yes", shape (studies,), nan where the model tells none: ``auc``, and the calibration as
    ``expected_calibration_error`` and ``brier``.
    """
    counted = known & np.isfinite(score)
    return {
        "auc": Statistic(of=lambda rows: auc(truth[rows], score[rows]), counted=counted),
        **calibration_statistics(score, truth, counted),
        "brier": Statistic(of=lambda rows: float(((score[rows] - truth[rows]) ** 2).mean()), counted=counted),
    }


def calibration_statistics(confidence: Numbers, correct: Flags, counted: Flags) -> dict[str, Statistic]:
    """``expected_calibration_error``: how far, on average, the stated probability is from how often it comes true."""

    def error(rows: Rows) -> float:
        return calibration_error(confidence[rows], correct[rows])

    return {"expected_calibration_error": Statistic(of=error, counted=counted)}


def auc(truth: Flags, score: Numbers) -> float:
    """Area under the ROC curve, by the ranks of the scores (Hanley and McNeil 1982); nan if there is only one kind of
    truth.
    """
    positive = int(np.count_nonzero(truth))
    negative = len(truth) - positive
    if not positive or not negative:
        return np.nan
    ranks = float(rankdata(score)[truth].sum())
    return (ranks - positive * (positive + 1) / 2) / (positive * negative)


def _bins(confidence: Numbers) -> NDArray[np.intp]:
    """Number of each probability's bin: (0, 0.1], (0.1, 0.2] …; 0 itself is in the first."""
    return np.asarray(np.clip(np.ceil(np.round(confidence * BINS, 9)) - 1, 0, BINS - 1), np.intp)


def calibration_error(confidence: Numbers, correct: Flags) -> float:
    """Expected calibration error: over the bins, the difference of mean probability and share that is true, weighted
    by the number in the bin.
    """
    bins = _bins(confidence)
    off = np.bincount(bins, weights=confidence, minlength=BINS) - np.bincount(bins, weights=correct, minlength=BINS)
    return float(np.abs(off).sum() / len(confidence))


def reliability(confidence: Numbers, correct: Flags) -> list[dict[str, float]]:
    """For each bin that holds any: its ends, how many, their mean probability, and the share that is true."""
    bins = _bins(confidence)
    return [
        {
            "low": number / BINS,
            "high": (number + 1) / BINS,
            "studies": int((bins == number).sum()),
            "confidence": round(float(confidence[bins == number].mean()), 6),
            "observed": round(float(correct[bins == number].mean()), 6),
        }
        for number in np.unique(bins)
    ]


def multiclass_statistics(truth: NDArray[np.intp], answer: NDArray[np.intp], scores: Numbers) -> dict[str, Statistic]:
    """Of classes that exclude each other: ``accuracy``, ``kappa`` (Cohen 1960, unweighted), and the calibration of the
    class that was chosen. ``truth``, ``answer``: numbers of columns of ``scores`` (studies, classes).

    ``brier`` is the sum over the classes, from 0 to 2 (Brier 1950).
    """
    everything = np.ones(len(truth), bool)
    told = np.asarray(np.isfinite(scores).all(axis=1))
    confidence = scores[np.arange(len(answer)), answer]
    is_class = truth[:, None] == np.arange(scores.shape[1])
    correct = truth == answer
    return {
        "accuracy": Statistic(of=lambda rows: float(correct[rows].mean()), counted=everything, is_proportion=True),
        "kappa": Statistic(of=lambda rows: kappa(truth[rows], answer[rows]), counted=everything),
        **calibration_statistics(confidence, correct, told),
        "brier": Statistic(
            of=lambda rows: float(((scores[rows] - is_class[rows]) ** 2).sum(axis=1).mean()), counted=told
        ),
    }


def kappa(truth: NDArray[np.intp], answer: NDArray[np.intp]) -> float:
    """Cohen's kappa; nan if both always say the same one class."""
    size = int(max(truth.max(), answer.max())) + 1
    of_truth, of_answer = (np.bincount(each, minlength=size) / len(truth) for each in (truth, answer))
    by_chance = float(of_truth @ of_answer)
    return (float((truth == answer).mean()) - by_chance) / (1 - by_chance) if by_chance < 1 else np.nan
