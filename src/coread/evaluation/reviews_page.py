"""The report of reviews as one HTML page that needs nothing besides, like the page of an evaluation."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from coread.evaluation.plots import COLOURS, FAINT, GREY, STYLE

TEMPLATE = "reviews.html.j2"
"""Everything that goes into it is escaped."""
WIDTH, HEIGHT = 9.4, 3.2
"""Inches."""
MOST_LABELS = 12
FEWEST_PLACES = 5
"""One period alone is no broad bar."""
VERDICT_COLOURS = {"accepted": COLOURS[2], "edited": COLOURS[6], "rejected": COLOURS[4]}


def page_of_reviews(report: Mapping[str, Any]) -> str:
    """The page of a report of reviews."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["number"] = _number
    with mpl.rc_context(STYLE):
        models = [(model, _data_uri(_over_time(model))) for model in report["models"]]
    return environment.get_template(TEMPLATE).render(report=report, models=models)


def _percent(share: float | None) -> str:
    return "—" if share is None else f"{100 * share:.0f} %"


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def _over_time(model: Mapping[str, Any]) -> bytes:
    """Agreement with its interval above, and how many reviews there were below, by period."""
    periods = model["periods"]
    places = range(len(periods))
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    shares = [each["agreement"] for each in periods]
    errors = (
        [each["agreement"] - each["low"] for each in periods],
        [each["high"] - each["agreement"] for each in periods],
    )
    above.errorbar(places, shares, yerr=errors, fmt="o-", color=COLOURS[0], capsize=3, lw=1.4, ms=5)
    above.set_ylim(-0.03, 1.03)
    above.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    above.set_ylabel("accepted")
    above.grid(axis="y", color=FAINT)
    bottom = [0] * len(periods)
    for verdict, colour in VERDICT_COLOURS.items():
        numbers = [each[verdict] for each in periods]
        below.bar(places, numbers, bottom=bottom, color=colour, width=0.6, label=verdict)
        bottom = [one + other for one, other in zip(bottom, numbers, strict=True)]
    below.set_ylabel("reviews")
    below.yaxis.get_major_locator().set_params(integer=True)
    below.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, labelcolor=GREY)
    step = -(-len(periods) // MOST_LABELS)
    below.set_xticks(list(places)[::step], [each["period"] for each in periods][::step])
    below.set_xlim(-0.6, max(len(periods) - 0.4, FEWEST_PLACES - 0.4))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _data_uri(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
