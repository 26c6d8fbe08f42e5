"""Rules for grayscale presentation states: graphics lie in the images that they are drawn on, in layers that exist."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from pydicom.dataset import Dataset

from coread.dicom_sr.validation.geometry import Vector, numbers, planes_of_image
from coread.dicom_sr.validation.problem import Problem, Severity, Subject, problems_of

SERIES, ANNOTATIONS, LAYERS, AREAS = (
    "ReferencedSeriesSequence",
    "GraphicAnnotationSequence",
    "GraphicLayerSequence",
    "DisplayedAreaSelectionSequence",
)
POINTS: dict[str, tuple[int, int | None]] = {
    "POINT": (1, 1),
    "POLYLINE": (2, None),
    "INTERPOLATED": (2, None),
    "CIRCLE": (2, 2),
    "ELLIPSE": (4, 4),
}
EDGE_TOLERANCE = 0.01
"""In pixels: coordinates are 32-bit floats."""
NEEDED = ("InstanceNumber", "ContentLabel", "PresentationCreationDate", "PresentationCreationTime")

_reference = problems_of("reference", "PS3.3 C.11.11")
_graphic = problems_of("graphic", "PS3.3 C.10.5")
_layer = problems_of("layer", "PS3.3 C.10.7")
_area = problems_of("displayed area", "PS3.3 C.10.4")
_state = problems_of("attribute", "PS3.3 C.11.10")


def header_is_a_states(subject: Subject) -> Iterator[Problem]:
    """The attributes that every state has, and one way to say how grey values become light."""
    dataset = subject.dataset
    for keyword in NEEDED:
        if dataset.get(keyword) in (None, ""):
            yield _state(keyword, "a value", "none")
    shape, table = dataset.get("PresentationLUTShape"), dataset.get("PresentationLUTSequence")
    if bool(shape) == bool(table):
        found = "both" if shape else "neither"
        yield problems_of("attribute", "PS3.3 C.11.6")("PresentationLUTShape", "a shape or a table", found)
    if shape and shape not in ("IDENTITY", "INVERSE"):
        yield problems_of("attribute", "PS3.3 C.11.6")("PresentationLUTShape", "IDENTITY or INVERSE", "another")
    rotation, flip = dataset.get("ImageRotation"), dataset.get("ImageHorizontalFlip")
    if rotation is not None and int(rotation) not in (0, 90, 180, 270):
        yield problems_of("attribute", "PS3.3 C.10.6")("ImageRotation", "0, 90, 180 or 270", str(rotation))
    if flip is not None and flip not in ("Y", "N"):
        yield problems_of("attribute", "PS3.3 C.10.6")("ImageHorizontalFlip", "Y or N", "another value")


def images_are_referenced(subject: Subject) -> Iterator[Problem]:
    """The state lists the images that it is for, once each, in their series, and they exist."""
    series: Sequence[Dataset] = subject.dataset.get(SERIES) or []
    if not series:
        yield _reference(SERIES, "the images that it is for", "none")
    counts: Counter[str] = Counter()
    for index, item in enumerate(series):
        images = item.get("ReferencedImageSequence") or []
        if not images:
            yield _reference(f"{SERIES}[{index}].ReferencedImageSequence", "images", "none")
        for reference in images:
            counts[str(reference.get("ReferencedSOPInstanceUID"))] += 1
            yield from _image_problems(subject, f"{SERIES}[{index}]", str(item.get("SeriesInstanceUID")), reference)
    for uid, count in counts.items():
        if count > 1:
            yield _reference(SERIES, "each image once", f"{uid} {count} times")


def _image_problems(subject: Subject, place: str, series_uid: str, reference: Dataset) -> Iterator[Problem]:
    uid = str(reference.get("ReferencedSOPInstanceUID"))
    image = subject.instance(uid)
    if image is None:
        if subject.sources:
            yield _reference(place, "an image of the source", f"{uid}, which is not there")
        return
    if str(reference.get("ReferencedSOPClassUID")) != str(image.get("SOPClassUID")):
        yield _reference(place, f"SOP class {image.get('SOPClassUID')}", str(reference.get("ReferencedSOPClassUID")))
    if series_uid != str(image.get("SeriesInstanceUID")):
        yield _reference(place, f"the image's series, {image.get('SeriesInstanceUID')}", series_uid)
    count = int(image.get("NumberOfFrames") or 1)
    for number in numbers(reference.get("ReferencedFrameNumber")):
        if not 1 <= number <= count:
            yield _reference(place, f"a frame from 1 to {count}", str(number))


def layers_are_named(subject: Subject) -> Iterator[Problem]:
    """Every layer that is drawn on is described, once, with its order."""
    layers: Sequence[Dataset] = subject.dataset.get(LAYERS) or []
    names = Counter(str(layer.get("GraphicLayer", "")) for layer in layers)
    for name, count in names.items():
        if count > 1:
            yield _layer(LAYERS, "each layer once", f"{name} {count} times")
    for index, layer in enumerate(layers):
        for keyword in ("GraphicLayer", "GraphicLayerOrder"):
            if layer.get(keyword) in (None, ""):
                yield _layer(f"{LAYERS}[{index}].{keyword}", "a value", "none")
    annotations: Sequence[Dataset] = subject.dataset.get(ANNOTATIONS) or []
    for index, annotation in enumerate(annotations):
        name = str(annotation.get("GraphicLayer", ""))
        if name not in names:
            place = f"{ANNOTATIONS}[{index}].GraphicLayer"
            yield _layer(place, f"a layer that {LAYERS} describes", name or "none")
    drawn = {str(annotation.get("GraphicLayer", "")) for annotation in annotations}
    for name in sorted(set(names) - drawn):
        yield _layer(LAYERS, f"something in the layer {name}", "nothing", Severity.WARNING)


def graphics_lie_in_their_images(subject: Subject) -> Iterator[Problem]:
    """Each annotation is of images of the state, and each of its shapes lies within them."""
    listed = {
        str(reference.get("ReferencedSOPInstanceUID"))
        for series in subject.dataset.get(SERIES) or []
        for reference in series.get("ReferencedImageSequence") or []
    }
    for index, annotation in enumerate(subject.dataset.get(ANNOTATIONS) or []):
        place = f"{ANNOTATIONS}[{index}]"
        images = [str(each.get("ReferencedSOPInstanceUID")) for each in annotation.get("ReferencedImageSequence") or []]
        for uid in images:
            if uid not in listed:
                yield _graphic(f"{place}.ReferencedImageSequence", f"an image that {SERIES} lists", uid)
        for reference in annotation.get("ReferencedImageSequence") or []:
            known = subject.instance(str(reference.get("ReferencedSOPInstanceUID")))
            count = int(known.get("NumberOfFrames") or 1) if known is not None else math.inf
            if any(not 1 <= number <= count for number in numbers(reference.get("ReferencedFrameNumber"))):
                yield _graphic(f"{place}.ReferencedImageSequence", f"a frame from 1 to {count}", "another")
        size = _smallest(subject, images or sorted(listed))
        graphics, texts = (annotation.get(f"{kind}ObjectSequence") or [] for kind in ("Graphic", "Text"))
        if not graphics and not texts and not annotation.get("CompoundGraphicSequence"):
            yield _graphic(place, "a graphic or a text", "neither")
        for number, graphic in enumerate(graphics):
            yield from _graphic_problems(f"{place}.GraphicObjectSequence[{number}]", graphic, size)
        for number, text in enumerate(texts):
            yield from _text_problems(f"{place}.TextObjectSequence[{number}]", text, size)


def _smallest(subject: Subject, uids: Sequence[str]) -> Vector | None:
    """(columns, rows) that every one of some images has; None if none is at hand."""
    sizes = [
        (int(image.Columns), int(image.Rows))
        for uid in uids
        if (image := subject.instance(uid)) is not None and image.get("Rows")
    ]
    return np.array(sizes, dtype=np.float64).min(axis=0) if sizes else None


def _graphic_problems(place: str, graphic: Dataset, size: Vector | None) -> Iterator[Problem]:
    data = graphic.get("GraphicData") or []
    values = [float(value) for value in (data if isinstance(data, Sequence) else [data])]
    if not values or len(values) % 2 or not all(math.isfinite(value) for value in values):
        yield _graphic(f"{place}.GraphicData", "two finite numbers for each point", f"{len(values)} values")
        return
    points = np.array(values).reshape(-1, 2)
    if graphic.get("NumberOfGraphicPoints") != len(points):
        found = str(graphic.get("NumberOfGraphicPoints"))
        yield _graphic(f"{place}.NumberOfGraphicPoints", f"{len(points)}, as many as in GraphicData", found)
    if graphic.get("GraphicDimensions") != 2:
        yield _graphic(f"{place}.GraphicDimensions", "2", str(graphic.get("GraphicDimensions")))
    kind = str(graphic.get("GraphicType", "none"))
    fewest, most = POINTS.get(kind, (1, None))
    if kind not in POINTS:
        yield _graphic(f"{place}.GraphicType", " or ".join(POINTS), kind)
    elif len(points) < fewest or (most is not None and len(points) > most):
        wanted = f"{fewest} points" if most == fewest else f"{fewest} points or more"
        yield _graphic(f"{place}.GraphicData", f"{wanted} for {kind}", str(len(points)))
    is_closed = kind in ("CIRCLE", "ELLIPSE") or np.allclose(points[0], points[-1])
    if graphic.get("GraphicFilled") == "Y" and not is_closed:
        yield _graphic(f"{place}.GraphicFilled", "N, since it is open", "Y")
    yield from _place_problems(f"{place}.GraphicData", points, str(graphic.get("GraphicAnnotationUnits")), size)


def _place_problems(place: str, points: Vector, units: str, size: Vector | None) -> Iterator[Problem]:
    """PIXEL: from the first pixel's corner (0, 0) to the last one's (Columns, Rows). DISPLAY: from 0 to 1."""
    section = problems_of("graphic", "PS3.3 C.10.5.1.1")
    if units not in ("PIXEL", "DISPLAY", "MATRIX"):
        yield section(place, "units of PIXEL, DISPLAY or MATRIX", units)
        return
    limits = {"PIXEL": size, "DISPLAY": np.ones(2), "MATRIX": None}[units]
    if limits is None:
        return
    if (points < -EDGE_TOLERANCE).any() or (points > limits + EDGE_TOLERANCE).any():
        worst = points[np.argmax(np.maximum(-points, points - limits).max(axis=1))]
        expected = f"columns from 0 to {limits[0]:g}, rows from 0 to {limits[1]:g}"
        yield section(place, expected, f"column {worst[0]:.1f}, row {worst[1]:.1f}")


def _text_problems(place: str, text: Dataset, size: Vector | None) -> Iterator[Problem]:
    if not text.get("UnformattedTextValue"):
        yield _graphic(f"{place}.UnformattedTextValue", "a text", "none")
    box = [text.get(f"BoundingBox{corner}HandCorner") for corner in ("TopLeft", "BottomRight")]
    anchor = text.get("AnchorPoint")
    if None in box and anchor is None:
        yield _graphic(place, "a bounding box or an anchor point", "neither")
    for name, points, units in (
        ("BoundingBoxTopLeftHandCorner", box, text.get("BoundingBoxAnnotationUnits")),
        ("AnchorPoint", [anchor], text.get("AnchorPointAnnotationUnits")),
    ):
        stated = [[float(value) for value in point] for point in points if point is not None]
        if stated:
            yield from _place_problems(f"{place}.{name}", np.array(stated), str(units), size)


def areas_are_displayed(subject: Subject) -> Iterator[Problem]:
    """Each image has one displayed area, which shows some of it in its own proportions."""
    areas: Sequence[Dataset] = subject.dataset.get(AREAS) or []
    if not areas:
        yield _area(AREAS, "the area that is shown", "none")
        return
    listed = {
        str(reference.get("ReferencedSOPInstanceUID"))
        for series in subject.dataset.get(SERIES) or []
        for reference in series.get("ReferencedImageSequence") or []
    }
    covered: set[str] = set()
    for index, area in enumerate(areas):
        references = area.get("ReferencedImageSequence") or []
        uids = {str(each.get("ReferencedSOPInstanceUID")) for each in references} or listed
        for uid in sorted(uids - listed):
            yield _area(f"{AREAS}[{index}]", f"an image that {SERIES} lists", uid)
        covered |= uids
        yield from _area_problems(subject, f"{AREAS}[{index}]", area, sorted(uids))
    for uid in sorted(listed - covered):
        yield _area(AREAS, f"an area for {uid}", "none")


def _area_problems(subject: Subject, place: str, area: Dataset, uids: Sequence[str]) -> Iterator[Problem]:
    corners = [area.get(f"DisplayedArea{corner}HandCorner") for corner in ("TopLeft", "BottomRight")]
    if None in corners:
        yield _area(place, "two corners", "not both")
        return
    top_left, bottom_right = (np.array([float(value) for value in corner]) for corner in corners)
    if (bottom_right < top_left).any():
        yield _area(place, "a top left corner above and left of the other", "another")
    size = _smallest(subject, uids)
    if size is not None and ((top_left > size).any() or (bottom_right < 1).any()):
        yield _area(place, f"an area of the {size[0]:g} columns and {size[1]:g} rows", "one beside them")
    mode = area.get("PresentationSizeMode")
    if not mode:
        yield _area(f"{place}.PresentationSizeMode", "a mode", "none")
    if mode == "TRUE SIZE" and not area.get("PresentationPixelSpacing"):
        yield _area(f"{place}.PresentationPixelSpacing", "a spacing, for TRUE SIZE", "none")
    if mode == "MAGNIFY" and not area.get("PresentationPixelMagnificationRatio"):
        yield _area(f"{place}.PresentationPixelMagnificationRatio", "a ratio, for MAGNIFY", "none")
    yield from _proportion_problems(subject, place, area, uids)


def _proportion_problems(subject: Subject, place: str, area: Dataset, uids: Sequence[str]) -> Iterator[Problem]:
    spacing, ratio = area.get("PresentationPixelSpacing"), area.get("PresentationPixelAspectRatio")
    if not spacing and not ratio:
        yield _area(f"{place}.PresentationPixelSpacing", "a spacing or an aspect ratio", "neither")
    planes = [plane for uid in uids for plane in planes_of_image(subject.instance(uid) or Dataset()).values()]
    for expected in [plane.spacing for plane in planes[:1]]:
        if spacing and not np.allclose([float(value) for value in spacing], expected, rtol=1e-2):
            yield _area(f"{place}.PresentationPixelSpacing", "the image's PixelSpacing", "another")
        if (
            ratio
            and not spacing
            and not np.isclose(float(ratio[0]) / float(ratio[1]), expected[0] / expected[1], rtol=2e-2)
        ):
            yield _area(f"{place}.PresentationPixelAspectRatio", "the image's proportions", "others")


PRESENTATION_STATE = (
    header_is_a_states,
    images_are_referenced,
    layers_are_named,
    graphics_lie_in_their_images,
    areas_are_displayed,
)
