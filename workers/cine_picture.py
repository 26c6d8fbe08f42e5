"""Pictures of a cine's result: the two phases slice by slice, and the volume through the cycle."""

import io
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from pydicom.dataset import Dataset

from coread import codes
from coread.dicom_sr.display import span_of
from coread.findings import Findings
from coread.workers.cycle import Cycle
from coread.workers.picture import (
    COLUMNS,
    DOTS_PER_INCH,
    FRAME,
    colour_of,
    empty_figure,
    masks_of,
    png_of,
    window_around,
)
from coread.workers.volume import SourceVolume

CURVE_INCHES = (8.0, 4.5)


def montage_of_phases(phases: Sequence[tuple[str, SourceVolume, Dataset]], *, title: str) -> bytes:
    """A PNG of the segmentations of phases: the slices in order, each phase in a row of its own below the one before,
    cropped to the segments of all, outlines in the segments' own colours.

    ``phases``: name, images, BINARY segmentation; all on one grid.
    """
    masks = [masks_of(segmentation, source.volume) for _, source, segmentation in phases]
    window = window_around(masks)
    slices = len(phases[0][1].volume.array)
    rows = math.ceil(slices / COLUMNS) * len(phases)
    figure, height = empty_figure(rows, columns=COLUMNS, title=title)
    legend: dict[str, tuple[float, ...]] = {}
    for row, ((name, source, segmentation), of_phase) in enumerate(zip(phases, masks, strict=True)):
        array = source.volume.array
        low, high = span_of(array)
        colours = {int(segment.SegmentNumber): colour_of(segment) for segment in segmentation.SegmentSequence}
        legend |= {str(segment.SegmentLabel): colour_of(segment) for segment in segmentation.SegmentSequence}
        for index in range(slices):
            line = (index // COLUMNS) * len(phases) + row
            axes = figure.add_subplot(rows, COLUMNS, line * COLUMNS + index % COLUMNS + 1)
            axes.axis("off")
            axes.imshow(array[index][window], cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            axes.text(0.02, 0.97, f"{index + 1} {name}", transform=axes.transAxes, **FRAME)
            for number, mask in of_phase.get(index, {}).items():
                axes.contour(mask[window], levels=[0.5], colors=[colours[number]], linewidths=1.1)
    for position, (label, colour) in enumerate(legend.items()):
        figure.text(0.01 + 0.3 * position, 1 - 0.36 / height, label, **{**FRAME, "color": colour})
    return png_of(figure, height)


def volume_curve(cycle: Cycle, numbers: Findings, *, title: str) -> bytes:
    """A PNG of the volume through the cycle, with the two phases marked, and the ejection fraction or the reason why
    there is none.
    """
    figure = Figure(figsize=CURVE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    times = [phase.time_ms for phase in cycle.cine.phases]
    is_timed = None not in times
    places = np.array(times if is_timed else np.arange(1, len(times) + 1), np.float64)
    axes.plot(places, cycle.volumes_ml, color="0.4", marker=".")
    for phase in cycle.phases:
        volume = cycle.volumes_ml[phase.number]
        axes.plot(places[phase.number], volume, marker="o", linestyle="none", label=f"{phase.name}: {volume:.1f} ml")
    axes.set_xlabel("ms after the R wave" if is_timed else f"phase, by {cycle.cine.told_by}")
    axes.set_ylabel("ml")
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right")
    axes.set_title("\n".join([title, *_conclusions(numbers)]), loc="left", fontsize=9, wrap=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()


def _conclusions(numbers: Findings) -> list[str]:
    fractions = [each for each in numbers.quantities if each.measurement.unit == codes.PERCENT]
    said = [f"{each.name}: {each.measurement.value:.1f} %" for each in fractions]
    return said + [f"No ejection fraction: {each.reason}" for each in numbers.not_evaluated]
