"""A picture of an ECG with the model's answer, as cardiologists print it: 25 mm/s, 10 mm/mV, on millimetre paper."""

import io

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from coread.findings import Findings
from coread.leads import Lead
from coread.models.prediction import Prediction
from coread.waveform import Waveform
from coread.workers.waveform import SourceWaveform

mpl.use("Agg")

MM_PER_S, MM_PER_MV, MM_PER_INCH = 25.0, 10.0, 25.4
ROWS: tuple[tuple[Lead, ...], ...] = (
    ("I", "aVR", "V1", "V4"),
    ("II", "aVL", "V2", "V5"),
    ("III", "aVF", "V3", "V6"),
    ("II",),
)
"""The leads of each row, each for its part of the time; the last row is the rhythm strip."""
ROW_MM, HEAD_MM, FOOT_MM = 30.0, 15.0, 10.0
LEFT_MM, RIGHT_MM = 15.0, 5.0
PULSE_MM = 5.0
"""Width of the calibration pulse before each row: 0.2 s, 1 mV."""
LARGEST_SAID = 0.99
LONGEST_UNREAD_S = 0.2
"""Of a recording whose ends are cut off a little, the picture may still show it as if all had been read."""
DOTS_PER_INCH, MOST_DOTS = 160, 12_000
PAPER, FINE, BOLD, INK = "#fffafa", "#f9dcdc", "#efb4b4", "black"
HIGHLIGHT = LinearSegmentedColormap.from_list("highlight", [(1.0, 0.55, 0.0, 0.0), (1.0, 0.55, 0.0, 0.55)])
"""From nothing to orange, over which the trace still shows."""


def ecg_picture(
    recorded: Waveform,
    *,
    title: str,
    answer: str,
    saliency: NDArray[np.floating] | None = None,
    dots_per_inch: float = DOTS_PER_INCH,
) -> bytes:
    """A PNG of the twelve leads. ``recorded``: mV; ``answer``: what the model says, a line below the title.

    ``saliency``: how much each moment mattered, 0 to 1, shape (sample,), over the same time at any rate; it is drawn as
    a band behind the traces. Each lead is drawn around its median, so that an offset does not move it off its row.
    """
    width = LEFT_MM + recorded.duration_s * MM_PER_S + RIGHT_MM
    height = HEAD_MM + len(ROWS) * ROW_MM + FOOT_MM
    figure = Figure(figsize=(width / MM_PER_INCH, height / MM_PER_INCH), facecolor=PAPER)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.axis("off")
    _paper(axes, width, height)
    for number, leads in enumerate(ROWS):
        zero = height - HEAD_MM - (number + 0.5) * ROW_MM
        pulse = np.array([(4, 0), (5, 0), (5, MM_PER_MV), (5 + PULSE_MM, MM_PER_MV), (5 + PULSE_MM, 0), (11, 0)])
        axes.plot(pulse[:, 0], pulse[:, 1] + zero, color=INK, linewidth=0.8)
        for place, lead in enumerate(leads):
            _trace(axes, recorded, lead, zero_mm=zero, part=(place / len(leads), (place + 1) / len(leads)))
        if saliency is not None:
            extent = (LEFT_MM, width - RIGHT_MM, zero - ROW_MM / 2, zero + ROW_MM / 2)
            band = np.asarray(saliency, np.float64)[None]
            axes.imshow(band, extent=extent, cmap=HIGHLIGHT, vmin=0, vmax=1, aspect="auto", zorder=1)
    axes.text(5, height - 3, title, fontsize=10, va="top", weight="bold")
    axes.text(5, height - 8.5, answer, fontsize=10, va="top")
    axes.text(5, 3, f"{MM_PER_S:g} mm/s   {MM_PER_MV:g} mm/mV   {recorded.sampling_rate_hz:g} Hz", fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=min(dots_per_inch, MOST_DOTS * MM_PER_INCH / width))
    return buffer.getvalue()


def saliency_of(prediction: Prediction, source: SourceWaveform) -> NDArray[np.floating] | None:
    """How much each moment mattered to the answer, if one was explained and the model saw all of the recording."""
    maps = [each for each in prediction.saliency.values() if each.ndim == 1]
    unread_s = source.recorded.duration_s - source.waveform.duration_s
    return maps[0] if len(maps) == 1 and abs(unread_s) < LONGEST_UNREAD_S else None


def answer_of(findings: Findings) -> str:
    """What the model says, in one line and in the words of the report's codes."""
    said = [f"{each.finding.meaning}: {each.value.meaning}" for each in findings.classifications]
    said = [
        text if each.probability is None else f"{text} ({_percent(each.probability)})"
        for text, each in zip(said, findings.classifications, strict=True)
    ]
    said += [
        f"{each.name}: {each.measurement.value:.4g} {each.measurement.unit.meaning}" for each in findings.quantities
    ]
    return "; ".join(said)


def _percent(probability: float) -> str:
    """No model is as sure as 0 or 100 %."""
    if probability > LARGEST_SAID:
        return "over 99 %"
    return f"{100 * probability:.0f} %" if probability >= 1 - LARGEST_SAID else "under 1 %"


def _paper(axes: Axes, width: float, height: float) -> None:
    """Lines every mm, bolder ones every 5 mm."""
    for step, colour, line in ((1.0, FINE, 0.3), (5.0, BOLD, 0.5)):
        axes.vlines(np.arange(0, width + step, step), 0, height, colors=colour, linewidths=line, zorder=0)
        axes.hlines(np.arange(0, height + step, step), 0, width, colors=colour, linewidths=line, zorder=0)


def _trace(axes: Axes, recorded: Waveform, lead: Lead, *, zero_mm: float, part: tuple[float, float]) -> None:
    """A lead over its part of the time (0 to 1), with its name before it."""
    samples = recorded.lead(lead)
    begin, end = (round(each * len(samples)) for each in part)
    along = LEFT_MM + np.arange(begin, end) / recorded.sampling_rate_hz * MM_PER_S
    axes.plot(
        along,
        zero_mm + (samples[begin:end] - np.median(samples)) * MM_PER_MV,
        color=INK,
        linewidth=0.8,
        solid_joinstyle="round",
        zorder=2,
    )
    axes.vlines(along[0], zero_mm + 9.5, zero_mm + 12.5, colors=INK, linewidths=0.6)
    axes.text(along[0] + 1, zero_mm + 9.5, lead, fontsize=9, weight="bold", zorder=3)
