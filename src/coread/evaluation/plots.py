"""Pictures of a report, each an SVG made of the report alone, so that the same report gives the same pictures."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from coread.evaluation.words import MINUS, of_subject

mpl.use("Agg")

COLOURS = ("#1f5f99", "#c2571a", "#2d7d46", "#7b4fa3", "#a3324a", "#5b6770", "#b08a00", "#008b8b")
"""Apart for most people who see few colours, too: dark, of different lightness."""
GREY, FAINT = "#5b6770", "#d5dae0"
STYLE: Any = {
    "svg.hashsalt": "coread",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": "#20262b",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "xtick.color": GREY,
    "ytick.color": GREY,
}
WIDTH, HEIGHT = 5.4, 4.4
"""Inches."""
INCHES_PER_STRIP = 0.75
LONGEST_NAME = 28
"""Characters of a name in a picture; the tables have all of it."""
MOST_CURVES = len(COLOURS)
JITTER = 0.12

Subject = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture with its words."""

    title: str
    words: str
    """What it shows."""
    svg: bytes
    is_broad: bool = False
    """Whether it wants the page's whole width."""


def pictures_of(report: Mapping[str, Any]) -> list[Picture]:
    """Every picture that there is something for."""
    subjects, rows = report["subjects"], report["studies"]
    of_kind = {
        kind: [each for each in subjects if each["kind"] == kind]
        for kind in ("structure", "class", "question", "number", "classes")
    }
    found: list[Picture] = []
    with mpl.rc_context(STYLE):
        if of_kind["structure"]:
            found += _structure_pictures(of_kind["structure"], rows)
        for subject in of_kind["number"]:
            found.append(_agreement_picture(subject, rows, ("found", "truth"), prefix="", unit=subject["unit"]))
        if of_kind["class"]:
            found += _class_pictures(of_kind, rows)
    return found


def _structure_pictures(subjects: Sequence[Subject], rows: Rows) -> list[Picture]:
    drawn = [subject for subject in subjects if _values(rows, subject["name"], "dice").size]
    pictures = []
    if drawn:
        words = "Each point is a study; the box holds the middle half, the line in it is the median."
        pictures.append(Picture(title="Dice by structure", words=words, svg=_strips(drawn, rows), is_broad=True))
    for subject in drawn:
        columns = ("volume_ml", "true_volume_ml")
        pictures.append(_agreement_picture(subject, rows, columns, prefix="volume_", unit="ml"))
    return pictures


def _strips(subjects: Sequence[Subject], rows: Rows) -> bytes:
    figure = Figure(figsize=(WIDTH * 1.9, 1.0 + INCHES_PER_STRIP * len(subjects)), layout="constrained")
    axes = figure.add_subplot()
    random = np.random.default_rng(0)
    for place, subject in enumerate(subjects):
        values, colour = _values(rows, subject["name"], "dice"), COLOURS[place % len(COLOURS)]
        axes.boxplot(
            values,
            positions=[place],
            orientation="horizontal",
            widths=0.5,
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": colour + "22", "edgecolor": colour},
            medianprops={"color": colour, "linewidth": 2},
            whiskerprops={"color": colour},
            capprops={"color": colour},
        )
        axes.scatter(values, place + random.uniform(-JITTER, JITTER, len(values)), s=14, color=colour, alpha=0.65, lw=0)
    axes.set_yticks(range(len(subjects)), [_short(subject["name"]) for subject in subjects])
    axes.invert_yaxis()
    axes.set_xlabel("Dice")
    lowest = min(float(_values(rows, subject["name"], "dice").min()) for subject in subjects)
    axes.set_xlim(max(-0.02, np.floor(lowest * 10) / 10 - 0.02), 1.02)
    axes.grid(axis="x", color=FAINT)
    return _svg(figure)


def _agreement_picture(subject: Subject, rows: Rows, columns: tuple[str, str], *, prefix: str, unit: str) -> Picture:
    """Bland and Altman's: difference over mean, with bias and limits; and found over true."""
    found, truth = (_values(rows, subject["name"], column, keep_gaps=True) for column in columns)
    known = np.isfinite(found) & np.isfinite(truth) & ((found != 0) | (truth != 0) | (prefix == ""))
    found, truth = found[known], truth[known]
    figure = Figure(figsize=(WIDTH * 1.9, HEIGHT * 0.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.scatter((found + truth) / 2, found - truth, s=18, color=COLOURS[0], alpha=0.7, lw=0)
    left.axhline(0, color=GREY, lw=0.8)
    for name, style in (("bias", "-"), ("lower_limit", "--"), ("upper_limit", "--")):
        estimate = subject["estimates"][prefix + name]
        if estimate["value"] is not None:
            left.axhline(estimate["value"], color=COLOURS[1], ls=style, lw=1.4)
            left.annotate(
                f"{estimate['value']:+.1f}".replace("-", MINUS),
                (1, estimate["value"]),
                xycoords=("axes fraction", "data"),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                color=COLOURS[1],
                fontsize=9,
            )
        if estimate["low"] is not None:
            left.axhspan(estimate["low"], estimate["high"], color=COLOURS[1], alpha=0.1, lw=0)
    left.set_xlabel(f"mean of found and true ({unit})")
    left.set_ylabel(f"found {MINUS} true ({unit})")
    left.set_title("Difference")
    ends = [min(found.min(), truth.min()), max(found.max(), truth.max())] if found.size else [0, 1]
    right.plot(ends, ends, color=GREY, lw=0.8)
    right.scatter(truth, found, s=18, color=COLOURS[0], alpha=0.7, lw=0)
    right.set_xlabel(f"true ({unit})")
    right.set_ylabel(f"found ({unit})")
    right.set_title("Found over true")
    for axes in (left, right):
        axes.grid(color=FAINT)
        axes.xaxis.set_major_locator(MaxNLocator(6))
    what = "volume" if prefix else "agreement"
    words = (
        "Left: each study's difference from the truth (Bland and Altman 1986), with bias (line), 95 % limits of "
        "agreement (dashed) and their intervals (bands). Right: on the grey line found and true are equal."
    )
    return Picture(title=f"{subject['name']}: {what}", words=words, svg=_svg(figure), is_broad=True)


def _class_pictures(of_kind: Mapping[str, Sequence[Subject]], rows: Rows) -> list[Picture]:
    pictures = []
    together = next(iter(of_kind["classes"]), None)
    if together:
        words = "Rows: what is true. Columns: what is reported. Shade and percentage: share of the row."
        pictures.append(Picture(title="Confusion matrix", words=words, svg=_confusion(together["confusion"])))
    curves = [*of_kind["question"], *of_kind["class"]]
    drawn = [each for each in curves if each["estimates"]["auc"]["value"] is not None]
    if drawn:
        words = "Curve: every threshold. Dot: what is reported. On the grey line, chance."
        if len(drawn) > MOST_CURVES:
            words += f" The first {MOST_CURVES} of {len(drawn)} are shown; the tables have all."
        pictures.append(Picture(title="ROC", words=words, svg=_roc(drawn[:MOST_CURVES], rows)))
    charted = [each for each in ([together] if together else []) + [*curves] if each["reliability"]]
    if together or of_kind["question"]:
        charted = [each for each in charted if each["kind"] != "class"]
    for subject in charted[:MOST_CURVES]:
        about = "the class that is reported" if subject["kind"] == "classes" else of_subject(subject)
        words = "On the grey line, what is stated comes true as often as stated. Below: studies in each bin."
        pictures.append(Picture(title=f"Calibration: {about}", words=words, svg=_reliability(subject["reliability"])))
    return pictures


def _confusion(confusion: Mapping[str, Any]) -> bytes:
    matrix, names = np.array(confusion["matrix"]), [_short(name) for name in confusion["classes"]]
    side = max(3.6, 1.1 * len(names) + 1.6)
    figure = Figure(figsize=(side + 0.9, side), layout="constrained")
    axes = figure.add_subplot()
    totals = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*matrix.shape):
        text = f"{matrix[row, column]}\n{100 * share[row, column]:.0f} %"
        colour = "white" if share[row, column] > 0.55 else "#20262b"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=10)
    axes.set_xticks(
        range(len(names)), names, rotation=25 if len(names) > 2 else 0, ha="right" if len(names) > 2 else "center"
    )
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("reported")
    axes.set_ylabel("true")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return _svg(figure)


def _roc(subjects: Sequence[Subject], rows: Rows) -> bytes:
    figure = Figure(figsize=(WIDTH, HEIGHT + 0.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=GREY, lw=0.8)
    for subject, colour in zip(subjects, COLOURS, strict=False):
        truth, score = _truth_and_score(subject, rows)
        wrong, right, _ = roc_curve(truth, score)
        auc = subject["estimates"]["auc"]["value"]
        style = "-" if subject["kind"] == "class" else (0, (5, 1.5))
        axes.plot(wrong, right, color=colour, lw=1.8, ls=style, label=f"{_short(of_subject(subject))} (AUC {auc:.3f})")
        sensitivity, specificity = (subject["estimates"][each]["value"] for each in ("sensitivity", "specificity"))
        if sensitivity is not None and specificity is not None:
            axes.plot(1 - specificity, sensitivity, "o", color=colour, markeredgecolor="white", ms=8)
    _unit_square(axes, f"1 {MINUS} specificity", "sensitivity")
    axes.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none", fontsize=9)
    return _svg(figure)


def _truth_and_score(subject: Subject, rows: Rows) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Of the studies in which both are known."""
    if subject["kind"] == "class":
        pairs = [
            (row["results"][subject["name"]]["is_true"], row["results"][subject["name"]]["probability"]) for row in rows
        ]
    else:
        classes = [subject["absent"], *subject["present"]]
        asked = [row["results"] for row in rows if any(row["results"][name]["is_true"] for name in classes)]
        pairs = [
            (
                not of[subject["absent"]]["is_true"],
                None if (p := of[subject["absent"]]["probability"]) is None else 1 - p,
            )
            for of in asked
        ]
    known = [(bool(truth), score) for truth, score in pairs if truth is not None and score is not None]
    return np.array([truth for truth, _ in known]), np.array([score for _, score in known], np.float64)


def _reliability(bins: Sequence[Mapping[str, float]]) -> bytes:
    figure = Figure(figsize=(WIDTH, HEIGHT + 0.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    confidence, observed = ([each[name] for each in bins] for name in ("confidence", "observed"))
    upper.plot([0, 1], [0, 1], color=GREY, lw=0.8)
    upper.plot(confidence, observed, "-o", color=COLOURS[0], lw=1.6, ms=6)
    _unit_square(upper, "", "share that is true")
    upper.set_aspect("auto")
    middles = [(each["low"] + each["high"]) / 2 for each in bins]
    lower.bar(middles, [each["studies"] for each in bins], width=0.09, color=COLOURS[0], alpha=0.5)
    lower.set_xlabel("stated probability")
    lower.set_ylabel("studies")
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    return _svg(figure)


def _unit_square(axes: Axes, x: str, y: str) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    axes.grid(color=FAINT)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def _values(rows: Rows, name: str, column: str, *, keep_gaps: bool = False) -> NDArray[np.float64]:
    found = [row["results"].get(name, {}).get(column) for row in rows]
    values = np.array([np.nan if each is None else each for each in found], np.float64)
    return values if keep_gaps else values[np.isfinite(values)]


def _short(name: str) -> str:
    """A name as matplotlib shall draw it: not too long, its dollars no formulas."""
    return (name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…").replace("$", r"\$")


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return buffer.getvalue()
