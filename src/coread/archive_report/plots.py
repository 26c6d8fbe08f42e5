"""Pictures of a run's report, each an SVG."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from coread.archive_report.compare import Difference
from coread.evaluation.plots import COLOURS, FAINT, GREY, STYLE
from coread.evaluation.words import MINUS
from coread.words import UNITS

MOST_POINTS = 2_000
"""Of a scatter; of more studies, those that differ most and others that are drawn evenly."""
MOST_ROWS, MOST_COLUMNS = 60, 48
LONGEST_NAME = 44
HEAT = LinearSegmentedColormap.from_list("coread", ["#ffffff", "#c9dbe9", "#f3c79a", "#c2571a", "#8c1d18"])
"""From nothing over the threshold, in the middle, to twice that."""


def unit_in_words(unit: str) -> str:
    """UCUM as people write it, without brackets of its own."""
    return UNITS.get(unit, unit.strip("{}")).strip("()")


def histogram(said: Mapping[str, Any], *, unit: str) -> bytes:
    """A finding's distribution; the earlier run's as a line, in shares of the studies."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 2.1), layout="constrained")
        axes = figure.add_subplot()
        edges, counts = np.array(said["edges"]), np.array(said["counts"], np.float64)
        share = counts / max(1.0, counts.sum())
        axes.stairs(share, edges, fill=True, color=COLOURS[0], alpha=0.55, label="this run")
        if "earlier_counts" in said:
            before = np.array(said["earlier_counts"], np.float64)
            axes.stairs(before / max(1.0, before.sum()), edges, color=COLOURS[1], lw=1.4, label="earlier run")
            axes.legend(frameon=False, fontsize=8)
        axes.set_xlabel(unit)
        axes.yaxis.set_major_locator(MaxNLocator(3))
        axes.yaxis.set_major_formatter(lambda value, _place: f"{100 * value:.0f} %")
        axes.grid(axis="y", color=FAINT)
        return _svg(figure)


def bland_altman(difference: Difference) -> bytes:
    """Each study's difference over the mean of both runs, with bias and 95 % limits of agreement."""
    if difference.numbers is None:
        raise ValueError("expected a finding with numbers")
    now, before = difference.numbers
    known = np.flatnonzero(np.isfinite(now) & np.isfinite(before))
    shown = known
    if len(known) > MOST_POINTS:
        extreme = known[np.argsort(-np.abs(now - before)[known], kind="stable")[: MOST_POINTS // 4]]
        shown = np.union1d(extreme, known[:: -(-len(known) // (3 * MOST_POINTS // 4))])
    figures, unit = difference.figures, unit_in_words(difference.key.unit)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.1), layout="constrained")
        axes = figure.add_subplot()
        means, differences = (now + before)[shown] / 2, (now - before)[shown]
        axes.scatter(means, differences, s=9, color=COLOURS[0], alpha=0.55, lw=0, rasterized=len(shown) > 500)
        axes.axhline(0, color=GREY, lw=0.8)
        for name, style in (("bias", "-"), ("lower_limit", "--"), ("upper_limit", "--")):
            if figures[name] is not None:
                axes.axhline(figures[name], color=COLOURS[1], ls=style, lw=1.3)
                axes.annotate(
                    f"{figures[name]:+.3g}".replace("-", MINUS),
                    (1, figures[name]),
                    xycoords=("axes fraction", "data"),
                    xytext=(3, 0),
                    textcoords="offset points",
                    va="center",
                    color=COLOURS[1],
                    fontsize=8,
                )
        axes.set_xlabel(f"mean of both runs ({unit})" if unit else "mean of both runs")
        axes.set_ylabel(f"this {MINUS} earlier run")
        axes.grid(color=FAINT)
        return _svg(figure)


def heat_map(said: Mapping[str, Any]) -> bytes:
    """How far each feature of each group is from its threshold. Those farthest away are kept if there are too many."""
    sizes = {(feature, group): size for feature, group, size in said["cells"]}
    features = _farthest(said["features"], sizes, place=0, most=MOST_ROWS)
    groups = _farthest(said["groups"], sizes, place=1, most=MOST_COLUMNS)
    table = np.array([[sizes.get((feature, group), np.nan) for group in groups] for feature in features], np.float64)
    with mpl.rc_context(STYLE):
        width, height = 4.2 + 0.3 * max(len(groups), 6), 2.3 + 0.19 * len(features)
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        picture = axes.imshow(table, cmap=HEAT, vmin=0, vmax=2, aspect="auto", interpolation="nearest")
        axes.set_facecolor("#eef0f2")
        for row, column in np.argwhere(table >= 1):
            axes.text(column, row, "!", ha="center", va="center", color="white", fontsize=8, fontweight="bold")
        axes.set_xticks(range(len(groups)), [_short(group) for group in groups], rotation=90, fontsize=7)
        axes.set_yticks(range(len(features)), [_short(feature) for feature in features], fontsize=7)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        bar = figure.colorbar(picture, ax=axes, shrink=0.6, ticks=[0, 1, 2])
        bar.ax.set_yticklabels(["0", "threshold", "twice it"], fontsize=7)
        return _svg(figure)


def _farthest(names: Sequence[str], sizes: Mapping[tuple[str, str], float], *, place: int, most: int) -> list[str]:
    """The names in their order; of too many, those with the largest cells."""
    if len(names) <= most:
        return list(names)
    largest: dict[str, float] = {}
    for cell, size in sizes.items():
        largest[cell[place]] = max(largest.get(cell[place], 0.0), size)
    kept = set(sorted(names, key=lambda name: -largest.get(name, 0.0))[:most])
    return [name for name in names if name in kept]


def _short(name: str) -> str:
    """A name as matplotlib shall draw it: not too long, its dollars no formulas, and nothing in it that XML forbids."""
    shown = "".join(each if each.isprintable() else " " for each in name)
    return (shown if len(shown) <= LONGEST_NAME else shown[: LONGEST_NAME - 1] + "…").replace("$", r"\$")


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return buffer.getvalue()
