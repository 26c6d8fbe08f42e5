"""A picture of a result: every slice with the outlines of its segments, or those with a box or a landmark, for a person
to judge at a glance.

Drawn from the DICOM objects themselves, decoded, so that the picture shows what a viewer will show.
"""

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from highdicom.color import CIELabColor
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from coread.dicom_sr.decode import frame_geometries, frames_of
from coread.dicom_sr.display import span_of
from coread.dicom_sr.heat_map import NO_DISEASE, answer_in_words, apply_bar, blended, shown_slices
from coread.dicom_sr.key_findings import outlines_in_report
from coread.dicom_sr.outlines import Points
from coread.dicom_sr.proof import ring_in_slice
from coread.dicom_sr.secondary_capture import shown_grey
from coread.findings import ScalarMap
from coread.volume import Volume
from coread.workers.volume import SourceVolume, build_volume

mpl.use("Agg")

COLUMNS = 5
FEWEST_COLUMNS = 2
"""The title needs as much room."""
MARK_COLOUR = "yellow"
INCHES_PER_SLICE = 2.6
HEAD_INCHES = 0.7
DOTS_PER_INCH = 110
SALIENT_COLUMNS = 4
MOST_SALIENT = 12
"""Slices of a saliency map that are drawn."""
SCALE_INCHES = 0.9
"""For the scale of colours, beside the slices."""
MARGIN_PIXELS = 24
"""What is shown around the segments; a slice without any is shown in the same window."""

Masks = dict[int, dict[int, NDArray[np.bool_]]]
"""Index of the slice → number of the segment → its pixels there, (row, column). Segments may overlap."""

FRAME: dict[str, Any] = {"color": "white", "fontsize": 9, "va": "top"}


def montage(images: Sequence[Dataset], segmentation: Dataset, *, title: str) -> bytes:
    """A PNG of a BINARY segmentation: the slices in order, cropped to the segments, outlines in the segments' own
    colours, legend on top.

    ``images``: all images of the segmented series, in any order.
    """
    source = build_volume(images)
    array = source.volume.array
    masks = masks_of(segmentation, source.volume)
    segments = {int(segment.SegmentNumber): segment for segment in segmentation.SegmentSequence}
    colours = {number: colour_of(segment) for number, segment in segments.items()}
    window = window_around([masks])
    low, high = span_of(array)
    rows = math.ceil(len(array) / COLUMNS)
    figure, height = empty_figure(rows, columns=COLUMNS, title=title)
    for index in range(len(array)):
        axes = figure.add_subplot(rows, COLUMNS, index + 1)
        axes.axis("off")
        axes.imshow(array[index][window], cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        axes.text(0.02, 0.97, str(index + 1), transform=axes.transAxes, **FRAME)
        for number, mask in masks.get(index, {}).items():
            axes.contour(mask[window], levels=[0.5], colors=[colours[number]], linewidths=1.1)
    for position, (number, colour) in enumerate(colours.items()):
        label = segments[number].SegmentLabel
        figure.text(0.01 + 0.3 * position, 1 - 0.36 / height, label, **{**FRAME, "color": colour})
    return png_of(figure, height)


def marked(source: SourceVolume, report: Dataset, *, title: str) -> bytes:
    """A PNG of a report of key findings: each slice that has one, with its boxes, points and outlines."""
    by_slice: dict[int, list[Points]] = {}
    for outline in outlines_in_report(report).values():
        if outline.sop_instance_uid:
            index, points = source.as_source.indices[outline.sop_instance_uid, outline.frame], outline.points
        else:
            index, points = ring_in_slice(outline.points, source.volume)
        by_slice.setdefault(index, []).append(points)
    array = source.volume.array
    low, high = span_of(array)
    rows, columns = math.ceil(len(by_slice) / COLUMNS), min(COLUMNS, len(by_slice))
    figure, height = empty_figure(rows, columns=max(columns, FEWEST_COLUMNS), title=title)
    for place, (index, rings) in enumerate(sorted(by_slice.items()), start=1):
        axes = figure.add_subplot(rows, max(columns, FEWEST_COLUMNS), place)
        axes.axis("off")
        axes.imshow(array[index], cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        axes.text(0.02, 0.97, str(index + 1), transform=axes.transAxes, **FRAME)
        for ring in rings:
            axes.plot(*(ring - 0.5).T, color=MARK_COLOUR, linewidth=1.1, marker="+" if len(ring) == 1 else None)
    return png_of(figure, height)


def saliency_picture(source: SourceVolume, scalar_map: ScalarMap, *, title: str) -> bytes:
    """A PNG of where a model looked: each slice in which that is half of its maximum or more (of many, the highest
    ones), with the map over it, a line where it is half, the scale of colours, and the answer that it explains.

    Raises ValueError if the map explains no answer.
    """
    if scalar_map.explains is None:
        raise ValueError("expected a map that explains an answer, found none")
    values = scalar_map.volume.array
    highest = np.argsort(values.max(axis=(1, 2)))[::-1][:MOST_SALIENT]
    shown = sorted({int(index) for index in highest} & set(shown_slices(scalar_map)))
    columns = min(SALIENT_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    _, tall, wide = scalar_map.volume.spatial_shape
    _, row_mm, column_mm = scalar_map.volume.spacing
    inches = 2 * INCHES_PER_SLICE if len(shown) == 1 else INCHES_PER_SLICE
    inches_high = float(np.clip(inches * tall * row_mm / (wide * column_mm), inches / 2, 2 * inches))
    head, width = HEAD_INCHES + 0.5, max(columns * inches, FEWEST_COLUMNS * INCHES_PER_SLICE) + SCALE_INCHES
    height = rows * inches_high + head
    figure = Figure(figsize=(width, height), facecolor="black")
    for line, text in enumerate((title, answer_in_words(scalar_map.explains), NO_DISEASE)):
        figure.text(0.01, 1 - (0.08 + 0.28 * line) / height, text, **FRAME)
    for place, (index, grey) in enumerate(zip(shown, shown_grey(source.as_source, shown), strict=True), start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.axis("off")
        axes.imshow(blended(grey, values[index]), interpolation="nearest", aspect=row_mm / column_mm)
        axes.contour(values[index], levels=[0.5], colors=["white"], linewidths=0.9)
        if len(values) > 1:
            axes.text(0.02, 0.97, str(index + 1), transform=axes.transAxes, **FRAME)
    figure.subplots_adjust(
        left=0, right=1 - SCALE_INCHES / width, bottom=0, top=1 - head / height, wspace=0.02, hspace=0.02
    )
    scale = figure.add_axes((1 - 0.75 * SCALE_INCHES / width, 0.08, 0.2 * SCALE_INCHES / width, 0.84 - head / height))
    scale.imshow(apply_bar(np.linspace(0, 1, 256, dtype=np.float32))[:, None], origin="lower", aspect="auto")
    scale.set_xticks([])
    scale.set_yticks([0, 127.5, 255], labels=["0", "half", "max."], color="white", fontsize=8)
    scale.yaxis.tick_right()
    scale.axhline(127.5, color="white", linewidth=0.9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, facecolor="black")
    return buffer.getvalue()


def empty_figure(rows: int, *, columns: int, title: str) -> tuple[Figure, float]:
    """An empty figure for slices in a grid, with a title; and its height in inches."""
    height = rows * INCHES_PER_SLICE + HEAD_INCHES
    figure = Figure(figsize=(columns * INCHES_PER_SLICE, height), facecolor="black")
    figure.text(0.01, 1 - 0.08 / height, title, **FRAME)
    return figure, height


def png_of(figure: Figure, height: float) -> bytes:
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1 - HEAD_INCHES / height, wspace=0.02, hspace=0.02)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, facecolor="black")
    return buffer.getvalue()


def masks_of(segmentation: Dataset, volume: Volume) -> Masks:
    """Each frame in the slice where it says it lies."""
    masks: Masks = {}
    from_patient = np.linalg.inv(volume.affine)
    for geometry, frame in zip(frame_geometries(segmentation), frames_of(segmentation), strict=True):
        index = round(float((from_patient @ [*geometry.affine[:, 2], 1.0])[0]))
        masks.setdefault(index, {})[geometry.segment] = frame > 0
    return masks


def window_around(stacks: Sequence[Masks]) -> tuple[slice, slice]:
    """Rows and columns to show of stacks of one size."""
    anything = np.logical_or.reduce([mask for masks in stacks for each in masks.values() for mask in each.values()])
    return _span(np.flatnonzero(anything.any(axis=1))), _span(np.flatnonzero(anything.any(axis=0)))


def _span(found: NDArray[np.intp]) -> slice:
    return slice(max(0, int(found[0]) - MARGIN_PIXELS), int(found[-1]) + MARGIN_PIXELS + 1)


def colour_of(segment: Dataset) -> tuple[float, ...]:
    """The segment's recommended display colour as sRGB from 0 to 1."""
    lab = segment.RecommendedDisplayCIELabValue
    return tuple(value / 255 for value in CIELabColor.from_dicom_value(lab).to_rgb())
