"""Key images of a result: a few pictures for a page, each a slice with its outlines, marks or saliency, or an ECG.

Drawn with Pillow from the DICOM objects themselves, decoded, so that a picture shows what a viewer will show. They are
small, hold no patient data, and whoever looks at them sees that they are a machine's.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import cast

import numpy as np
from highdicom.color import CIELabColor
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset

from coread.dicom_sr.decode import frame_geometries, frames_at
from coread.dicom_sr.heat_map import FROM, NO_DISEASE, answer_in_words, blended, shown_slices
from coread.dicom_sr.key_findings import outlines_in_report
from coread.dicom_sr.outlines import Points, regions_of
from coread.dicom_sr.proof import ring_in_slice
from coread.dicom_sr.secondary_capture import shown_grey
from coread.dicom_sr.segmentation import tracking_uid
from coread.findings import Findings, ScalarMap
from coread.objects import ObjectKind
from coread.volume import Volume
from coread.words import percent
from coread.workers.ecg_picture import answer_of, ecg_picture, saliency_of
from coread.workers.pipeline import Part, Picture, Reading
from coread.workers.volume import SourceVolume
from coread.workers.waveform import SourceWaveform

MOST = 6
"""Pictures of a job."""
MOST_SALIENT = 2
"""Of them, for each answer that is explained."""

SIDE = 640
"""The longer side of a slice as it is drawn, in pixels."""
SHOWN = 0.5
"""Of a slice, at least so much of each side is shown: what lies around a finding tells where it is."""
AROUND = 1.5
"""Of the findings' size, so much is shown."""
LINE, BESIDE, TEXT, SWATCH, MARGIN, ARM = 2, 1.5, 15, 11, 6, 12
"""Widths and heights in pixels."""
MOST_NAMES = 8
"""In a legend: more would be higher than the slice."""
ECG_DOTS_PER_INCH = 96
"""Of an ECG: the finest line of its paper is still seen."""

Colour = tuple[int, int, int]
WHITE, GREY, MARK_COLOUR = (255, 255, 255), (170, 170, 170), (255, 220, 40)
DIRECTIONS = ("LR", "PA", "HF")
"""Letters of the patient's axes (LPS), the positive direction first."""

Masks = Mapping[int, Mapping[int, NDArray[np.bool_]]]
"""Index of the slice → number of the segment → its pixels there, (row, column)."""
Line = tuple[str, Colour | None]
"""Of a legend: a text, and the colour of what it names."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Slice:
    """A slice of a source as it is to be drawn."""

    source: SourceVolume
    index: int
    title: str
    window: tuple[slice, slice]

    @property
    def place(self) -> str:
        """Which of the slices it is, in words."""
        count = len(self.source.volume.array)
        return f"slice {self.index + 1} of {count}" if count > 1 else "the image"


def key_images(reading: Reading) -> list[Picture]:
    """Pictures of what was found, the most telling first; none if nothing has a place in the images."""
    share = max(1, MOST // max(1, len(reading.parts)))
    drawn = (picture for part in reading.parts for picture in _of_part(part, reading, most=share))
    return list(islice(drawn, MOST))


def _of_part(part: Part, reading: Reading, *, most: int) -> Iterator[Picture]:
    title = f"AI (RESEARCH) {part.identity.title} {part.identity.version}"
    source = part.source
    if isinstance(source, SourceWaveform):
        yield _ecg(reading, source, title)
        return
    for result in part.objects:
        if result.kind in {ObjectKind.SEG, ObjectKind.SEG_LABELMAP, ObjectKind.SEG_LABELMAP_RLE}:
            yield from _segmented(result.dataset, source, part.findings, title, phase=part.phase, most=most)
            break
    for result in part.objects:
        if result.kind is ObjectKind.SR_KEY_FINDINGS and part.findings.marks:
            yield from _marked(result.dataset, source, part, title, most=most)
    for scalar_map in part.findings.maps:
        if scalar_map.explains is not None:
            yield from _salient(scalar_map, source, title)


# Segmentations ------------------------------------------------------------------------------------------------------


def _segmented(
    segmentation: Dataset, source: SourceVolume, findings: Findings, title: str, *, phase: str, most: int
) -> Iterator[Picture]:
    """The slices with the largest extent of each structure, the largest structure first."""
    by_size = sorted(findings.present, key=lambda structure: -structure.voxels)
    keys: dict[int, list[str]] = {}
    for structure in by_size:
        keys.setdefault(findings.key_plane(structure), []).append(structure.name)
    chosen = list(keys)[:most]
    masks = masks_in(segmentation, source.volume, set(chosen))
    segments = {int(segment.SegmentNumber): segment for segment in segmentation.SegmentSequence}
    colours = {number: _colour(segment) for number, segment in segments.items()}
    window = _window([mask for of_slice in masks.values() for mask in of_slice.values()], source)
    for index in chosen:
        shown = _Slice(source=source, index=index, title=title, window=window)
        of_slice = masks.get(index, {})
        largest = sorted(of_slice, key=lambda number: -np.count_nonzero(of_slice[number]))
        drawing = _Drawing(shown)
        for number in largest:
            for region in regions_of(of_slice[number]):
                drawing.line(region.outer, colours[number], inside=1)
                for hole in region.holes:
                    drawing.line(hole, colours[number], inside=-1)
        legend = [(str(segments[number].SegmentLabel), colours[number]) for number in largest]
        of_which = _listed(keys[index])
        at = f" at {phase}" if phase else ""
        yield Picture(caption=f"{shown.place}{at}: largest extent of {of_which}", png=drawing.png(legend))


def masks_in(segmentation: Dataset, volume: Volume, wanted: set[int]) -> Masks:
    """The segments in some slices of a volume, each where its frame says it lies. Other frames are not decoded."""
    from_patient = np.linalg.inv(volume.affine)
    geometries = frame_geometries(segmentation)
    slices = [round(float((from_patient @ [*geometry.affine[:, 2], 1.0])[0])) for geometry in geometries]
    frames = [number for number, index in enumerate(slices) if index in wanted]
    found: dict[int, dict[int, NDArray[np.bool_]]] = {}
    for number, frame in zip(frames, frames_at(segmentation, frames), strict=True):
        of_slice = found.setdefault(slices[number], {})
        if geometries[number].segment:
            of_slice[geometries[number].segment] = frame > 0
        else:  # a label map: each pixel says its segment
            of_slice.update({int(value): frame == value for value in np.unique(frame) if value})
    return found


# Marks and saliency -------------------------------------------------------------------------------------------------


def _marked(report: Dataset, source: SourceVolume, part: Part, title: str, *, most: int) -> Iterator[Picture]:
    """The slices with the most probable boxes and landmarks, each with all of its marks."""
    ranked = sorted(part.findings.marks, key=lambda mark: -(mark.probability or 0.0))
    names = {tracking_uid(mark.name, part.identity): mark.name for mark in ranked}
    rings: dict[int, list[tuple[Points, str]]] = {}
    for uid, outline in outlines_in_report(report).items():
        if outline.sop_instance_uid:
            index, points = source.as_source.indices[outline.sop_instance_uid, outline.frame], outline.points
        else:
            index, points = ring_in_slice(outline.points, source.volume)
        rings.setdefault(index, []).append((points, names[uid]))
    for index in list(dict.fromkeys(mark.plane for mark in ranked))[:most]:
        drawing = _Drawing(_Slice(source=source, index=index, title=title, window=_whole(source)))
        for ring, name in rings[index]:
            drawing.mark(ring, MARK_COLOUR, name)
        here = [mark for mark in ranked if mark.plane == index]
        legend = [
            (mark.name if mark.probability is None else f"{mark.name}, {percent(mark.probability)}", MARK_COLOUR)
            for mark in here
        ]
        yield Picture(caption=f"{drawing.place}: {_listed([mark.name for mark in here])}", png=drawing.png(legend))


def _salient(scalar_map: ScalarMap, source: SourceVolume, title: str) -> Iterator[Picture]:
    """The slices in which something mattered the most to the answer."""
    if scalar_map.explains is None:
        return
    values = scalar_map.volume.array
    ranked = sorted(shown_slices(scalar_map), key=lambda index: -float(values[index].max()))
    for index in ranked[:MOST_SALIENT]:
        shown = _Slice(source=source, index=index, title=title, window=_whole(source))
        drawing = _Drawing(shown, saliency=values[index])
        for region in regions_of(values[index] >= FROM):
            drawing.line(region.outer, WHITE)
        legend = [(answer_in_words(scalar_map.explains), None), (NO_DISEASE, None)]
        caption = f"{shown.place}: what mattered to the answer “{scalar_map.explains.name}”"
        yield Picture(caption=caption, png=drawing.png(legend))


def _ecg(reading: Reading, source: SourceWaveform, title: str) -> Picture:
    png = ecg_picture(
        source.recorded,
        title=title,
        answer=answer_of(reading.findings),
        saliency=saliency_of(reading.prediction, source),
        dots_per_inch=ECG_DOTS_PER_INCH,
    )
    return Picture(caption="the twelve leads", png=png)


# Drawing ------------------------------------------------------------------------------------------------------------


class _Drawing:
    """A slice, enlarged and with square pixels, to draw on. Lines are thin whatever the slice's own pixels are."""

    def __init__(self, shown: _Slice, *, saliency: NDArray[np.float32] | None = None) -> None:
        self._shown = shown
        rows, columns = shown.window
        (grey,) = shown_grey(shown.source.as_source, [shown.index])
        part = grey[rows, columns]
        pixels = np.stack([part] * 3, axis=-1) if saliency is None else blended(part, saliency[rows, columns])
        _, row_mm, column_mm = shown.source.volume.spacing
        tall, wide = part.shape[0] * row_mm, part.shape[1] * column_mm
        width, height = (max(1, round(SIDE * each / max(tall, wide))) for each in (wide, tall))
        self._image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
        self._draw = ImageDraw.Draw(self._image)
        self._corner = np.array([columns.start, rows.start], np.float64)
        self._scale = np.array([width / part.shape[1], height / part.shape[0]])

    def line(self, ring: Points, colour: Colour, *, inside: int = 0) -> None:
        """A closed ring, (column, row) from the corner of the first pixel. ``inside``: on which side of it the line
        lies, 1 within it, -1 around it, so that the lines of two neighbours lie beside each other; 0 on the ring.
        """
        placed = self._placed(ring)
        if inside:
            placed = placed + inside * BESIDE * _inward(placed)
        self._draw.line([(float(x), float(y)) for x, y in placed], fill=colour, width=LINE, joint="curve")

    def mark(self, ring: Points, colour: Colour, name: str) -> None:
        """A ring, or a point as a cross, and its name beside it."""
        placed = self._placed(ring)
        if len(ring) > 1:
            self.line(ring, colour)
        else:
            x, y = map(float, placed[0])
            self._draw.line([(x - ARM, y), (x + ARM, y)], fill=colour, width=LINE)
            self._draw.line([(x, y - ARM), (x, y + ARM)], fill=colour, width=LINE)
        right, top = float(placed[:, 0].max()) + MARGIN, float(placed[:, 1].min())
        self._draw.text((right, top), name, font=_font(), fill=colour, stroke_width=1, stroke_fill="black")

    @property
    def place(self) -> str:
        return self._shown.place

    def png(self, legend: Sequence[Line]) -> bytes:
        """The picture with its title above and a legend below."""
        self._say_directions()
        head = [(f"{self._shown.title}, {self._shown.place}", None)]
        named = [*legend[:MOST_NAMES], *([(f"and {len(legend) - MOST_NAMES} more", None)] * (len(legend) > MOST_NAMES))]
        above, below = (_lines(lines, width=self._image.width) for lines in (head, named))
        whole = Image.new("RGB", (self._image.width, above.height + self._image.height + below.height))
        whole.paste(above, (0, 0))
        whole.paste(self._image, (0, above.height))
        whole.paste(below, (0, above.height + self._image.height))
        buffer = io.BytesIO()
        whole.save(buffer, format="png", compress_level=4)
        return buffer.getvalue()

    def _placed(self, ring: Points) -> Points:
        """(x, y) in the picture."""
        placed: Points = (ring - self._corner) * self._scale
        return placed

    def _say_directions(self) -> None:
        """Letters at the left and at the upper edge: which side of the patient is there."""
        volume = self._shown.source.volume
        if volume.frame_of_reference_uid is None:
            return
        _, down, right = volume.unit_vectors()
        left_letter, upper_letter = _letter(-right), _letter(-down)
        width, height = self._image.size
        self._draw.text((MARGIN, height / 2), left_letter, font=_font(), fill=GREY, anchor="lm")
        self._draw.text((width / 2, MARGIN), upper_letter, font=_font(), fill=GREY, anchor="mt")


def _inward(ring: Points) -> Points:
    """Of each point of a closed ring, the direction to its inside, of length 1."""
    points = ring[:-1]
    along = np.roll(points, -1, axis=0) - np.roll(points, 1, axis=0)
    x, y = points.T
    turns_right = np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) > 0  # rows are counted downwards
    normal = np.column_stack([-along[:, 1], along[:, 0]]) * (1 if turns_right else -1)
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    normal = np.divide(normal, length, out=np.zeros_like(normal), where=length > 0)
    return np.concatenate([normal, normal[:1]])


def _letter(direction: NDArray[np.float64]) -> str:
    """The axis of the patient that a direction is nearest to."""
    axis = int(np.abs(direction).argmax())
    return DIRECTIONS[axis][0 if direction[axis] > 0 else 1]


def _lines(lines: Sequence[Line], *, width: int) -> Image.Image:
    """Lines of text, each shortened to the width, with a swatch of its colour before it."""
    image = Image.new("RGB", (width, len(lines) * (TEXT + MARGIN) + MARGIN if lines else 0))
    draw = ImageDraw.Draw(image)
    for number, (text, colour) in enumerate(lines):
        y = MARGIN + number * (TEXT + MARGIN)
        x = MARGIN
        if colour is not None:
            draw.rectangle([x, y + 2, x + SWATCH, y + 2 + SWATCH], fill=colour)
            x += SWATCH + MARGIN
        draw.text((x, y), _shortened(text, draw, room=width - x - MARGIN), font=_font(), fill=WHITE)
    return image


def _shortened(text: str, draw: ImageDraw.ImageDraw, *, room: int) -> str:
    shown = text
    while shown and draw.textlength(shown if shown == text else f"{shown}…", font=_font()) > room:
        shown = shown[:-1]
    return shown if shown == text else f"{shown}…"


def _font() -> ImageFont.FreeTypeFont:
    return cast("ImageFont.FreeTypeFont", ImageFont.load_default(TEXT))


def _colour(segment: Dataset) -> Colour:
    """Its recommended display colour."""
    red, green, blue = CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue).to_rgb()
    return round(red), round(green), round(blue)


def _whole(source: SourceVolume) -> tuple[slice, slice]:
    _, rows, columns = source.volume.spatial_shape
    return slice(0, rows), slice(0, columns)


def _window(masks: Sequence[NDArray[np.bool_]], source: SourceVolume) -> tuple[slice, slice]:
    """Rows and columns to show: all masks, and enough of what lies around them."""
    rows, columns = _whole(source)
    if not masks:
        return rows, columns
    anything = np.logical_or.reduce(masks)
    return _span(anything.any(axis=1), rows.stop), _span(anything.any(axis=0), columns.stop)


def _span(found: NDArray[np.bool_], size: int) -> slice:
    places = np.flatnonzero(found)
    length = min(size, round(max(AROUND * (places[-1] - places[0] + 1), SHOWN * size)))
    start = int(np.clip((places[0] + places[-1] + 1 - length) // 2, 0, size - length))
    return slice(start, start + length)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")
