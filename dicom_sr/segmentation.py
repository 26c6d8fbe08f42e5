"""Findings → DICOM Segmentation (PS3.3 A.51): BINARY, one segment per structure, on the source's own grid."""

from collections.abc import Sequence

import highdicom as hd
import numpy as np
from highdicom.color import CIELabColor
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from coread.dicom_sr.identity import ResultIdentity
from coread.findings import Findings, Structure


def encode_segmentation(
    findings: Findings, *, headers: Sequence[Dataset], identity: ResultIdentity, series_number: int
) -> hd.seg.Segmentation:
    """The structures that are present, numbered from 1 in their order. ``headers``: the source's, in slice order.

    Frames without foreground are left out. Raises ValueError if no structure is present: there is nothing to encode.
    """
    present = findings.present
    if not present:
        raise ValueError("a segmentation needs at least one structure")
    numbers = np.zeros(256, np.uint8)
    for number, structure in enumerate(present, start=1):
        numbers[structure.label] = number
    return hd.seg.Segmentation(
        source_images=headers,
        pixel_array=numbers[findings.labels.array],
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(number, structure, identity) for number, structure in enumerate(present, start=1)
        ],
        series_instance_uid=identity.uid("series", "SEG"),
        series_number=series_number,
        sop_instance_uid=identity.uid("instance", "SEG"),
        instance_number=1,
        manufacturer=identity.manufacturer,
        manufacturer_model_name=identity.model,
        software_versions=identity.version,
        device_serial_number=identity.digest[:16],
        content_label="SEGMENTATION",
        content_description=identity.title,
        content_creator_name="Coread^AI",
    )


def tracking_uid(structure: Structure, identity: ResultIdentity) -> str:
    """What ties a segment to its measurements in the report."""
    return str(identity.uid("tracking", str(structure.label)))


def algorithm(identity: ResultIdentity) -> hd.AlgorithmIdentificationSequence:
    """The model, as the Segmentation and the report name it (PS3.3 table 10-19)."""
    return hd.AlgorithmIdentificationSequence(
        name=identity.model,
        version=identity.version,
        family=codes.DCM.ArtificialIntelligence,
        source=identity.manufacturer,
    )


def _description(number: int, structure: Structure, identity: ResultIdentity) -> hd.seg.SegmentDescription:
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=structure.name,
        segmented_property_category=structure.category,
        segmented_property_type=structure.type,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm(identity),
        tracking_uid=tracking_uid(structure, identity),
        tracking_id=structure.name,
        anatomic_regions=[structure.anatomy] if structure.anatomy else None,
        display_color=CIELabColor.from_rgb(*structure.colour),
    )
