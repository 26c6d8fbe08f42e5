"""Findings → Grayscale Softcopy Presentation State (PS3.3 A.33.1): outlines over the source images."""

import highdicom as hd
from highdicom.color import CIELabColor
from pydicom.dataset import Dataset

from coread.dicom_sr.header import say_body_part, series_number
from coread.dicom_sr.identity import ResultIdentity
from coread.dicom_sr.outlines import Points, regions_of
from coread.dicom_sr.segmentation import tracking_uid
from coread.dicom_sr.source import Source
from coread.findings import Findings, Structure
from coread.objects import ObjectKind

LAYER_NAME_LENGTH = 16


def encode_presentation_state(findings: Findings, source: Source, identity: ResultIdentity) -> Dataset:
    """A layer for each structure that is present, in its colour; in it, every ring of every slice as a POLYLINE.

    It speaks of the images that show something, so that the others stay as they are.
    """
    labels = findings.mask.array
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
    for index, plane in enumerate(source.planes):
        for layer, structure in zip(layers, findings.present, strict=True):
            mask = labels[index] == structure.label
            rings = [ring for region in regions_of(mask) for ring in (region.outer, *region.holes)]
            if rings:
                image = images.setdefault(str(plane.image.SOPInstanceUID), source.image_of(plane))
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
        series_instance_uid=identity.uid("series", ObjectKind.GSPS),
        series_number=series_number(identity, ObjectKind.GSPS),
        sop_instance_uid=identity.uid("instance", ObjectKind.GSPS),
        instance_number=1,
        manufacturer=identity.manufacturer,
        manufacturer_model_name=identity.model,
        software_versions=identity.version,
        device_serial_number=identity.digest[:16],
        content_label="AI_OUTLINES",
        content_description=identity.title,
        graphic_annotations=annotations,
        graphic_layers=layers,
        content_creator_name="Coread^AI",
    )
    for area in dataset.DisplayedAreaSelectionSequence:
        # Pixels as they are in the patient: the encoder calls them square, which bends what is not.
        area.pop("PresentationPixelAspectRatio", None)
        area.PresentationPixelSpacing = source.header.PixelSpacing
    say_body_part(dataset, source.header)
    return dataset


def _graphic(ring: Points, structure: Structure, identity: ResultIdentity) -> hd.pr.GraphicObject:
    return hd.pr.GraphicObject(
        graphic_type=hd.pr.GraphicTypeValues.POLYLINE,
        graphic_data=ring,
        units=hd.pr.AnnotationUnitsValues.PIXEL,
        tracking_id=structure.name,
        tracking_uid=tracking_uid(str(structure.label), identity),
    )
