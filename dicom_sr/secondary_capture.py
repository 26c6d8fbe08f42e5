"""Findings → Multi-frame True Color Secondary Capture (PS3.3 A.8.4): slices with outlines burned in.

For viewers that can show nothing but images. Each frame keeps its place in the patient, so that it scrolls with the
source series. A legend stands above the picture, and hides nothing of it.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import Tag
from pydicom.uid import MultiFrameTrueColorSecondaryCaptureImageStorage
from pydicom.valuerep import DSfloat

from coread.dicom_sr.display import window_of
from coread.dicom_sr.header import new_dataset, say_body_part
from coread.dicom_sr.identity import ResultIdentity
from coread.dicom_sr.source import Plane, Source
from coread.findings import Findings
from coread.objects import ObjectKind
from coread.volume import Volume

SMALLEST_SIDE = 384
"""Smaller images are enlarged, so that an outline is thin and a line of text fits."""
LINE_HEIGHT = 12
"""Of the legend's text, in pixels."""
MARGIN = 3
MOST_NAMES = 24
"""In the legend: more would take more room than the picture."""
WHITE = (255, 255, 255)


def encode_secondary_capture(findings: Findings, source: Source, identity: ResultIdentity) -> Dataset:
    """A frame for each slice that shows something; outlines are the structures' innermost pixels, in their colours.

    Raises ValueError if ``source`` has no values to show.
    """
    if source.volume is None:
        raise ValueError("a secondary capture needs the source's values")
    shown = np.flatnonzero(findings.areas[:, [each.label for each in findings.present]].any(axis=1)).tolist()
    scale = scale_of(source)
    legend = _legend(findings, identity, columns=int(source.header.Columns) * scale)
    pictures = [
        np.concatenate([legend, _picture(grey, index, findings, scale=scale)])
        for index, grey in zip(shown, shown_grey(source, shown), strict=True)
    ]
    capture = new_capture(pictures, source, identity, ObjectKind.SC)
    capture.PatientOrientation = ""
    planes = [source.planes[index] for index in shown]
    describe_places(capture, planes, findings.mask, source, scale, above=len(legend))
    return capture


def new_capture(
    pictures: Sequence[NDArray[np.uint8]], source: Source, identity: ResultIdentity, kind: ObjectKind
) -> Dataset:
    """A Multi-frame True Color Secondary Capture of pictures (row, column, 3) of one size, which lie nowhere yet."""
    dataset = new_dataset(source.header, identity, kind, sop_class_uid=MultiFrameTrueColorSecondaryCaptureImageStorage)
    dataset.Modality = "OT"
    dataset.ConversionType = "WSD"
    dataset.ContentDate = dataset.ContentTime = ""
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    say_body_part(dataset, source.header)
    dataset.BurnedInAnnotation = "YES"
    dataset.RecognizableVisualFeatures = "NO"
    dataset.LossyImageCompression = str(source.header.get("LossyImageCompression") or "00")
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.Rows, dataset.Columns = pictures[0].shape[:2]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.NumberOfFrames = len(pictures)
    pixels = np.stack(pictures).tobytes()
    dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
    return dataset


def scale_of(source: Source) -> int:
    """How many pixels of the picture a pixel of the source becomes, along each side."""
    header = source.header
    return max(1, math.ceil(SMALLEST_SIDE / min(int(header.Rows), int(header.Columns))))


def shown_grey(source: Source, indices: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
    """Slices as they are shown: (row, column), 0 black to 255 white. Raises ValueError without values."""
    if source.display is not None:
        yield from map(source.display, indices)
        return
    if source.volume is None:
        raise ValueError("expected the source's values, found none")
    centre, width = window_of(source.planes[0], source)
    for index in indices:
        values = (source.volume.array[index].astype(np.float64) - (centre - width / 2)) / width
        yield np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def _picture(grey: NDArray[np.uint8], index: int, findings: Findings, *, scale: int) -> NDArray[np.uint8]:
    large = grey.repeat(scale, 0).repeat(scale, 1)
    picture = np.stack([large] * 3, axis=-1)
    for structure in findings.present:
        mask = findings.in_slice(structure, index).repeat(scale, 0).repeat(scale, 1)
        picture[_innermost(mask)] = structure.colour
    return picture


def _innermost(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a mask with a neighbour outside."""
    around = np.pad(mask, 1)
    surrounded = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    return mask & ~surrounded


def _legend(findings: Findings, identity: ResultIdentity, *, columns: int) -> NDArray[np.uint8]:
    """Rows of text, shape (rows, columns, 3): what made the picture, and the structures' names in their colours."""
    lines = [(f"AI (RESEARCH) {identity.title} {identity.version}", WHITE)]
    lines += [(structure.name, structure.colour) for structure in findings.present[:MOST_NAMES]]
    unnamed = len(findings.present) - MOST_NAMES
    if unnamed > 0:
        lines.append((f"and {unnamed} more", WHITE))
    image = Image.new("RGB", (columns, 2 * MARGIN + LINE_HEIGHT * len(lines)))
    draw = ImageDraw.Draw(image)
    for line, (text, colour) in enumerate(lines):
        draw.text((MARGIN, MARGIN + line * LINE_HEIGHT), text, fill=colour)
    return np.asarray(image)


def describe_places(
    dataset: Dataset, planes: Sequence[Plane], grid: Volume, source: Source, scale: int, *, above: int
) -> None:
    """Where the frames lie: their frame of reference, Pixel Measures, Plane Position and Plane Orientation, which are
    what this SOP class allows (PS3.3 A.8.4.4).

    ``grid``: what the planes are slices of; ``above``: rows of a frame that stand above the picture.
    """
    dataset.FrameOfReferenceUID = source.header.FrameOfReferenceUID
    dataset.PositionReferenceIndicator = source.header.get("PositionReferenceIndicator", "")
    if len(planes) > 1:  # with one frame it must not be there (PS3.3 C.7.6.6)
        dataset.FrameIncrementPointer = Tag("PerFrameFunctionalGroupsSequence")
    affine = grid.affine
    measures = Dataset()
    measures.PixelSpacing = [DSfloat(float(value) / scale, auto_format=True) for value in source.header.PixelSpacing]
    measures.SliceThickness = source.header.SliceThickness
    orientation = Dataset()
    orientation.ImageOrientationPatient = source.header.ImageOrientationPatient
    shared = Dataset()
    shared.PlaneOrientationSequence = DicomSequence([orientation])
    shared.PixelMeasuresSequence = DicomSequence([measures])
    dataset.SharedFunctionalGroupsSequence = DicomSequence([shared])
    # The picture's first pixel is smaller than the source's, so its centre lies nearer to the corner.
    to_first = (affine[:3, 1] + affine[:3, 2]) * (0.5 / scale - 0.5) - affine[:3, 1] * above / scale
    groups = []
    for plane in planes:
        position = Dataset()
        first = np.array([float(value) for value in plane.position]) + to_first
        position.ImagePositionPatient = [DSfloat(value, auto_format=True) for value in first]
        group = Dataset()
        group.PlanePositionSequence = DicomSequence([position])
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = DicomSequence(groups)
