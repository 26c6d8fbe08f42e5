"""What figures are called, what they mean, and how they are written: the same on the page, on cards and on screens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NOT_DEFINED = "—"
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, kw_only=True)
class FigureWords:
    """A figure in words."""

    title: str
    meaning: str
    unit: str = ""
    """Beside it; of agreement figures, the number's own."""
    decimals: int = 2


def _agreement(prefix: str, unit: str, what: str, decimals: int) -> dict[str, FigureWords]:
    return {
        f"{prefix}bias": FigureWords(
            title=f"{what}bias",
            meaning="mean of found minus true (Bland and Altman 1986); below 0: too small on average",
            unit=unit,
            decimals=decimals,
        ),
        f"{prefix}lower_limit": FigureWords(
            title=f"{what}lower limit of agreement",
            meaning="bias minus 1.96 standard deviations",
            unit=unit,
            decimals=decimals,
        ),
        f"{prefix}upper_limit": FigureWords(
            title=f"{what}upper limit of agreement",
            meaning="bias plus 1.96 standard deviations; 95 % of normal differences lie between the limits",
            unit=unit,
            decimals=decimals,
        ),
        f"{prefix}mean_absolute_error": FigureWords(
            title=f"{what}mean absolute error",
            meaning="mean of the differences without their sign",
            unit=unit,
            decimals=decimals,
        ),
        f"{prefix}icc": FigureWords(
            title=f"{what}ICC",
            meaning="intraclass correlation for absolute agreement, ICC(2,1) (Shrout and Fleiss 1979); 1 is best",
        ),
        f"{prefix}pearson_r": FigureWords(
            title=f"{what}Pearson r", meaning="linear correlation; blind to a bias, so never alone"
        ),
    }


_ANSWERS = {
    "sensitivity": ("sensitivity", "share of those who have it in whom it was reported"),
    "specificity": ("specificity", "share of those who have it not in whom it was not reported"),
    "positive_predictive_value": ("PPV", "share of the reported ones who have it, at the frequency in this data"),
    "negative_predictive_value": ("NPV", "share of those not reported who have it not, at the frequency in this data"),
    "f1": ("F1", "harmonic mean of sensitivity and PPV"),
}

FIGURES: Mapping[str, FigureWords] = {
    "dice": FigureWords(
        title="Dice, mean",
        meaning="overlap: twice the common voxels over the sum of both (Dice 1945); 1 is best; undefined where both "
        "are empty",
    ),
    "dice_median": FigureWords(title="Dice, median", meaning="half of the studies have a higher one"),
    "mean_surface_distance_mm": FigureWords(
        title="mean surface distance",
        meaning="average distance of the surfaces' voxels to the other surface, both ways",
        unit="mm",
    ),
    "hausdorff_95_mm": FigureWords(
        title="95 % Hausdorff distance, mean",
        meaning="distance that 95 % of a surface's voxels keep to the other surface, the larger of both ways",
        unit="mm",
    ),
    "hausdorff_95_mm_median": FigureWords(
        title="95 % Hausdorff distance, median", meaning="half of the studies have a larger one", unit="mm"
    ),
    **_agreement("volume_", "ml", "volume: ", 1),
    **_agreement("", "", "", 2),
    **{name: FigureWords(title=title, meaning=meaning) for name, (title, meaning) in _ANSWERS.items()},
    **{
        f"{name}_at_threshold": FigureWords(title=f"{title} at the threshold", meaning=f"{meaning}, by the threshold")
        for name, (title, meaning) in _ANSWERS.items()
    },
    "auc": FigureWords(
        title="AUC",
        meaning="area under the ROC curve: how often one who has it gets a higher probability than one who has not",
        decimals=3,
    ),
    "expected_calibration_error": FigureWords(
        title="expected calibration error",
        meaning="how far stated probabilities are from how often they come true, in 10 bins (Guo et al. 2017); 0 is "
        "best",
        decimals=3,
    ),
    "brier": FigureWords(
        title="Brier score",
        meaning="mean squared difference of probability and truth (Brier 1950), of several classes their sum; 0 is "
        "best",
        decimals=3,
    ),
    "accuracy": FigureWords(title="accuracy", meaning="share of the studies with the right class"),
    "kappa": FigureWords(title="Cohen's kappa", meaning="agreement beyond chance (Cohen 1960), unweighted; 1 is best"),
}


def number_in_words(name: str, value: float | None) -> str:
    """A value with as many decimals as its figure has; a true minus sign."""
    if value is None:
        return NOT_DEFINED
    text = f"{value:.{FIGURES[name].decimals}f}"
    return text.replace("-", MINUS) if float(text) else text.lstrip("-")


def interval_in_words(name: str, estimate: Mapping[str, Any], *, unit: str = "") -> str:
    """With its unit and interval: 0.94 (0.92 to 0.96)."""
    value = number_in_words(name, estimate["value"])
    if estimate["value"] is None:
        return value
    unit = FIGURES[name].unit or unit
    said = f"{value} {unit}".strip()
    if estimate["low"] is None:
        return said
    return f"{said} ({number_in_words(name, estimate['low'])} to {number_in_words(name, estimate['high'])})"


HEADLINES: Mapping[str, tuple[str, ...]] = {
    "structure": ("dice", "volume_bias"),
    "classes": ("accuracy", "expected_calibration_error"),
    "class": ("auc",),
    "question": ("auc", "sensitivity", "specificity"),
    "number": ("bias", "icc"),
}
"""The figures that say most of a kind of subject."""


def of_subject(subject: Mapping[str, Any]) -> str:
    """What a subject is called."""
    return f"any {subject['name']}" if subject["kind"] == "question" else str(subject["name"])
