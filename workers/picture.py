"""A picture of a result: every slice with the outlines of its segments, for a person to judge at a glance.

Drawn from the DICOM Segmentation itself, decoded, so that the picture shows what a viewer will show.
"""

import io
import math
from collections.abc import Sequence
from typing import Any

import highdicom as hd
import matplotlib as mpl
import numpy as np
from highdicom.color import CIELabColor
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from coread.workers.volume import build_volume

mpl.use("Agg")

COLUMNS = 5
INCHES_PER_SLICE = 2.6
HEAD_INCHES = 0.7
DOTS_PER_INCH = 110
MARGIN_PIXELS = 24
"""What is shown around the segments; a slice without any is shown in the same window."""

FRAME: dict[str, Any] = {"color": "white", "fontsize": 9, "va": "top"}


def montage(images: Sequence[Dataset], segmentation: hd.seg.Segmentation, *, title: str) -> bytes:
    """A PNG: the slices in order, cropped to the segments, outlines in the segments' own colours, legend on top.

    ``images``: all images of the segmented series, in any order.
    """
    source = build_volume(images)
    array = source.volume.array
    labels = _labels(segmentation, source.images)
    colours = {number: _colour(segmentation, number) for number in segmentation.segment_numbers}
    window = _window(labels)
    low, high = np.percentile(array, (1, 99))
    rows = math.ceil(len(array) / COLUMNS)
    height = rows * INCHES_PER_SLICE + HEAD_INCHES
    figure = Figure(figsize=(COLUMNS * INCHES_PER_SLICE, height), facecolor="black")
    for index in range(len(array)):
        axes = figure.add_subplot(rows, COLUMNS, index + 1)
        axes.axis("off")
        axes.imshow(array[index][window], cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        axes.text(0.02, 0.97, str(index + 1), transform=axes.transAxes, **FRAME)
        for number, colour in colours.items():
            mask = labels[index][window] == number
            if mask.any():
                axes.contour(mask, levels=[0.5], colors=[colour], linewidths=1.1)
    figure.text(0.01, 1 - 0.08 / height, title, **FRAME)
    for position, (number, colour) in enumerate(colours.items()):
        label = segmentation.get_segment_description(number).segment_label
        figure.text(0.01 + 0.3 * position, 1 - 0.36 / height, label, **{**FRAME, "color": colour})
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1 - HEAD_INCHES / height, wspace=0.02, hspace=0.02)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, facecolor="black")
    return buffer.getvalue()


def _labels(segmentation: hd.seg.Segmentation, images: Sequence[Dataset]) -> NDArray[np.integer]:
    """Segment numbers, (slice, row, column), on the images' grid."""
    uids = [image.SOPInstanceUID for image in images]
    labels: NDArray[np.integer] = segmentation.get_pixels_by_source_instance(
        uids, combine_segments=True, ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )
    return labels


def _window(labels: NDArray[np.integer]) -> tuple[slice, slice]:
    """Rows and columns to show."""
    rows, columns = (np.flatnonzero(labels.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    return _span(rows), _span(columns)


def _span(found: NDArray[np.intp]) -> slice:
    return slice(max(0, int(found[0]) - MARGIN_PIXELS), int(found[-1]) + MARGIN_PIXELS + 1)


def _colour(segmentation: hd.seg.Segmentation, number: int) -> tuple[float, ...]:
    """The segment's recommended display colour as sRGB from 0 to 1."""
    lab = segmentation.get_segment_description(number).RecommendedDisplayCIELabValue
    return tuple(value / 255 for value in CIELabColor.from_dicom_value(lab).to_rgb())
