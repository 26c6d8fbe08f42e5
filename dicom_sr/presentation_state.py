"""Findings → Grayscale Softcopy Presentation State (PS3.3 A.33.1): outlines over the source images."""

from collections.abc import Mapping, Sequence
from typing import Any

import highdicom as hd
from highdicom.color import CIELabColor
from pydicom.dataset import Dataset
from pydicom.valuerep import DSfloat

from coread.dicom_sr.display import window_of
from coread.dicom_sr.header import BYTES_OF_FL, in_series, make_room, say_body_part
from coread.dicom_sr.identity import ResultIdentity
from coread.dicom_sr.outlines import Points, corners, regions_of
from coread.dicom_sr.segmentation import tracking_uid
from coread.dicom_sr.source import Plane, Source
from coread.findings import Findings, Structure
from coread.objects import ObjectKind

NARROWEST = 1.0
"""Of a window, in units of the values; narrower ones need a function of their own (PS3.3 C.11.2.1.2, C.11.2.1.3)."""


def encode_presentation_state(findings: Findings, source: Source, identity: ResultIdentity) -> Dataset:
    """A layer for each structure that is present, in its colour; in it, every ring of every slice as a POLYLINE.

    It speaks of the images that show something, so that the others stay as they are.
    """
    layers = [
        hd.pr.GraphicLayer(
            layer_name=f"LABEL{structure.label}",
            order=order,
            description=structure.name[:64],
            display_color=CIELabColor.from_rgb(*structure.colour),
        )
        for order, structure in enumerate(findings.present, start=1)
    ]
    images: dict[str, Dataset] = {}
    annotations = []
    shown: list[Plane] = []
    for index, plane in enumerate(source.planes):
        for layer, structure in zip(layers, findings.present, strict=True):
            regions = regions_of(findings.in_slice(structure, index))
            rings = [corners(ring) for region in regions for ring in (region.outer, *region.holes)]
            if rings:
                image = images.setdefault(str(plane.image.SOPInstanceUID), source.image_of(plane))
                shown += [plane] if plane not in shown[-1:] else []
                annotations.append(
                    hd.pr.GraphicAnnotation(
                        referenced_images=[image],
                        graphic_layer=layer,
                        referenced_frame_number=plane.frame,
                        graphic_objects=[_graphic(ring, structure, identity) for ring in rings],
                    )
                )
    dataset: Dataset = hd.pr.GrayscaleSoftcopyPresentationState(
        referenced_images=list(images.values()),
        manufacturer_model_name=identity.model,
        software_versions=identity.version,
        device_serial_number=identity.digest[:16],
        content_label="AI_OUTLINES",
        content_description=identity.title,
        graphic_annotations=annotations,
        graphic_layers=layers,
        content_creator_name="Coread^AI",
        **_grey(shown, images, source),
        **in_series(identity, ObjectKind.GSPS),
    )
    for area in dataset.DisplayedAreaSelectionSequence:
        # Pixels as they are in the patient: the encoder calls them square, which bends what is not.
        area.pop("PresentationPixelAspectRatio", None)
        area.PresentationPixelSpacing = source.header.PixelSpacing
    say_body_part(dataset, source.header)
    graphics = [graphic for each in dataset.GraphicAnnotationSequence for graphic in each.GraphicObjectSequence]
    make_room(dataset, longest=max(BYTES_OF_FL * len(graphic.GraphicData) for graphic in graphics))
    return dataset


def _grey(shown: Sequence[Plane], images: Mapping[str, Dataset], source: Source) -> dict[str, Any]:
    """How grey values become what is seen. The Modality LUT is one for all images of a presentation state; where the
    images' own differ (as in PET), it is the identity, and each image's window is in its stored values.
    """
    slopes = [(plane.number("RescaleSlope") or 1.0, plane.number("RescaleIntercept") or 0.0) for plane in shown]
    alike = len(set(slopes)) == 1
    slope, intercept = slopes[0] if alike else (1.0, 0.0)
    rescale_type = source.header.get("RescaleType") if alike else None
    windows: dict[tuple[float, float], list[Plane]] = {}
    for plane, (own_slope, own_intercept) in zip(shown, slopes, strict=True):
        centre, width = window_of(plane, source)
        if not alike:
            centre, width = (centre - own_intercept) / own_slope, width / abs(own_slope)
        windows.setdefault((centre, width), []).append(plane)
    return {
        "modality_lut_transformation": hd.ModalityLUTTransformation(
            rescale_slope=slope, rescale_intercept=intercept, rescale_type=rescale_type or "US"
        ),
        "voi_lut_transformations": [
            hd.pr.SoftcopyVOILUTTransformation(
                window_center=_ds(centre),
                window_width=_ds(width),
                voi_lut_function=None if width >= NARROWEST else hd.VOILUTFunctionValues.LINEAR_EXACT,
                referenced_images=_references(planes, images) if len(windows) > 1 else None,
            )
            for (centre, width), planes in windows.items()
        ],
    }


def _references(planes: Sequence[Plane], images: Mapping[str, Dataset]) -> hd.ReferencedImageSequence:
    """The planes, each image once, with its frames if it has several."""
    frames: dict[str, list[int]] = {}
    for plane in planes:
        frames.setdefault(str(plane.image.SOPInstanceUID), []).extend(plane.frames or [])
    items = [
        hd.ReferencedImageSequence([images[uid]], referenced_frame_number=numbers or None)
        for uid, numbers in frames.items()
    ]
    references = items[0]
    for each in items[1:]:
        references.extend(each)
    return references


def _ds(value: float) -> float:
    """As exactly as a decimal string of 16 characters can say it."""
    return float(DSfloat(value, auto_format=True))


def _graphic(ring: Points, structure: Structure, identity: ResultIdentity) -> hd.pr.GraphicObject:
    return hd.pr.GraphicObject(
        graphic_type=hd.pr.GraphicTypeValues.POLYLINE,
        graphic_data=ring,
        units=hd.pr.AnnotationUnitsValues.PIXEL,
        tracking_id=structure.name,
        tracking_uid=tracking_uid(str(structure.label), identity),
    )
