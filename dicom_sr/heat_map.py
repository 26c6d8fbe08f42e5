"""A saliency map → Multi-frame True Color Secondary Capture (PS3.3 A.8.5): the map blended over the images.

For viewers that can lay no map over an image. Where the map is 0 the image is as it was; the more a place mattered, the
more of the colour there is. A legend stands above the picture, says what it is, and hides nothing of it.
"""

import math
import textwrap
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut

from coread.dicom_sr.identity import ResultIdentity
from coread.dicom_sr.secondary_capture import (
    LINE_HEIGHT,
    MARGIN,
    describe_places,
    new_capture,
    scale_of,
    shown_grey,
)
from coread.dicom_sr.source import Source
from coread.findings import Classification, ScalarMap
from coread.objects import ObjectKind

PALETTE = "1.2.840.10008.1.5.7"
"""DICOM's well-known colour palette Fall (PS3.6 B.1.7), from yellow to red: unlike others it has no white and no black,
which on a radiograph would look like anatomy."""
ASPECT_STEP_MM = 1e-4
"""A ratio of whole numbers is wanted; detectors' spacings are known to that."""
PALETTE_NAME = "Fall"
STRONGEST = 0.6
"""Part of the colour where the map is 1: the image must be seen through it."""
FROM = 0.5
"""Slices in which the map reaches this are shown; in the others the network saw little."""
NO_DISEASE = "Saliency: where the model looked, not where disease is"
CHARACTER_WIDTH, FONT_SIZE = 6, 10
"""Of the legend's text, in pixels."""
READABLE = 512
"""Columns on which a text of that size can be read; on more, it grows with them: radiographs have thousands."""
WHITE = (255, 255, 255)


def encode_heat_map(scalar_map: ScalarMap, source: Source, identity: ResultIdentity, *, number: int = 1) -> Dataset:
    """``number``: which of the job's maps it is, from 1. Raises ValueError if the map explains no answer, or ``source``
    has no values to show.
    """
    if scalar_map.explains is None or source.volume is None:
        raise ValueError("a heat map needs the answer that it explains, and the source's values")
    shown = shown_slices(scalar_map)
    scale = scale_of(source)
    legend = _legend(scalar_map.explains, identity, columns=int(source.header.Columns) * scale)
    grey = shown_grey(source, shown)
    frames = [
        np.concatenate([legend, blended(image, scalar_map.volume.array[index]).repeat(scale, 0).repeat(scale, 1)])
        for index, image in zip(shown, grey, strict=True)
    ]
    dataset = new_capture(frames, source, identity, ObjectKind.SC_MAP)
    part = f"{ObjectKind.SC_MAP} {number}"
    dataset.SeriesInstanceUID = identity.uid("series", part)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = identity.uid("instance", part)
    dataset.PatientOrientation = source.header.get("PatientOrientation") or ""
    _, row_mm, column_mm = scalar_map.volume.spacing
    if scalar_map.volume.frame_of_reference_uid is None:
        if not math.isclose(row_mm, column_mm):  # no spacing is said, which would be one at the detector
            dataset.PixelAspectRatio = [round(row_mm / ASPECT_STEP_MM), round(column_mm / ASPECT_STEP_MM)]
    else:
        planes = [source.planes[index] for index in shown]
        describe_places(dataset, planes, scalar_map.volume, source, scale, above=len(legend))
    return dataset


def shown_slices(scalar_map: ScalarMap) -> list[int]:
    """The slices in which something mattered much."""
    return [int(index) for index in np.flatnonzero(scalar_map.volume.array.max(axis=(1, 2)) >= FROM)]


def blended(grey: NDArray[np.uint8], values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(row, column, 3): an image with a map of 0 to 1 in colours over it, the more of them the higher the map."""
    within = values.clip(0, 1)
    colours = _palette()[np.rint(within * 255).astype(np.uint8)]
    part = np.float32(STRONGEST) * within[..., None]
    below = grey[..., None].astype(np.float32)
    return np.asarray(np.rint(below + part * (colours - below)), np.uint8)


@cache
def _palette() -> NDArray[np.float32]:
    """The colours of 256 steps, shape (256, 3)."""
    return np.asarray(apply_color_lut(np.arange(256, dtype=np.uint8)[None], palette=PALETTE)[0], np.float32)


def answer_in_words(answer: Classification) -> str:
    """The question, the answer and how sure that is: "Pneumonia: Absent, probability 0.93". The class's name is left
    out: of one that is called "No pneumonia", "Absent" would say the opposite.
    """
    certain = "" if answer.probability is None else f", probability {answer.probability:.2f}"
    return f"{answer.finding.meaning}: {answer.value.meaning}{certain}"


def _legend(answer: Classification, identity: ResultIdentity, *, columns: int) -> NDArray[np.uint8]:
    """Rows of text and the colours, shape (rows, columns, 3): what made the picture, what it explains, what it is."""
    said = (
        f"AI (RESEARCH) {identity.title} {identity.version}",
        answer_in_words(answer),
        NO_DISEASE,
        f"Colours: {PALETTE_NAME}, from 0 to the maximum of this map",
    )
    larger = max(1, columns // READABLE)
    line, margin = larger * LINE_HEIGHT, larger * MARGIN
    width = max(10, (columns - 2 * margin) // (larger * CHARACTER_WIDTH))
    lines = [part for text in said for part in textwrap.wrap(text, width)]
    image = Image.new("RGB", (columns, 2 * margin + line * (len(lines) + 1)))
    draw = ImageDraw.Draw(image)
    for number, text in enumerate(lines):
        draw.text((margin, margin + number * line), text, fill=WHITE, font_size=larger * FONT_SIZE)
    rows = np.array(image)
    bar = np.linspace(0, 1, columns - 2 * margin, dtype=np.float32)
    top = margin + len(lines) * line + larger
    rows[top : top + line - 2 * larger, margin : columns - margin] = apply_bar(bar)
    return rows


def apply_bar(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The colours over middle grey, (column, 3): what the picture looks like at each value."""
    return np.asarray(blended(np.full((1, len(values)), 127, np.uint8), values[None])[0])
