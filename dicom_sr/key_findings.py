"""Findings → the report of key findings: TID 1410 groups, each an outline on the slice that shows the most.

OHIF fails on reports with groups that have no graphic, and 3D Slicer ignores a segmentation whose report has some: so
these are a document of their own. Its groups carry the Tracking UIDs of the segments.
"""

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from coread import codes
from coread.dicom_sr.identity import ResultIdentity
from coread.dicom_sr.outlines import Region, regions_of
from coread.dicom_sr.report import algorithm_of_group, document, measurement_item, sites, tracking
from coread.dicom_sr.source import Plane, Source
from coread.findings import Findings, Measurement, Structure
from coread.objects import ObjectKind
from coread.volume import Volume


def encode_key_findings(findings: Findings, source: Source, identity: ResultIdentity) -> hd.sr.Comprehensive3DSR:
    """A group for each structure that is present: its largest part's outline in its key slice as a closed POLYLINE,
    that part's area (holes are no part of it) and longest diameter. Volumes are in the measurement report: an outline
    has none.
    """
    groups, keys = [], set()
    for structure in findings.present:
        index = findings.key_plane(structure)
        region = regions_of(findings.mask.array[index] == structure.label)[0]
        groups.append(_group(structure, region, source.planes[index], findings.mask, identity))
        keys.add(index)
    return document(
        groups,
        source=source,
        key_planes=[source.planes[index] for index in sorted(keys)],
        identity=identity,
        kind=ObjectKind.SR_KEY_FINDINGS,
    )


def outlines_in_report(report: hd.sr.Comprehensive3DSR) -> dict[str, tuple[str, int | None, NDArray[np.float64]]]:
    """Tracking UID → (SOP Instance UID, frame, ring) of each TID 1410 group, as the document's items say it."""
    found = {}
    for container in report.content[0].ContentSequence[-1].ContentSequence:
        items = container.ContentSequence
        (uid,) = (item.UID for item in items if item.ValueType == "UIDREF")
        for item in items:
            if item.ValueType == "SCOORD":
                reference = item.ContentSequence[0].ReferencedSOPSequence[0]
                frame = reference.get("ReferencedFrameNumber")
                ring = np.array(item.GraphicData, dtype=np.float64).reshape(-1, 2)
                found[str(uid)] = (str(reference.ReferencedSOPInstanceUID), frame, ring)
    return found


def _group(
    structure: Structure, region: Region, plane: Plane, grid: Volume, identity: ResultIdentity
) -> hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    _, row_mm, column_mm = grid.spacing
    measurements = (
        Measurement(concept=codes.AREA, value=region.pixels * row_mm * column_mm, unit=codes.SQUARE_MILLIMETER),
        Measurement(
            concept=codes.DIAMETER,
            value=float(pdist(region.outer * (column_mm, row_mm)).max()),
            unit=codes.MILLIMETER,
            derivation=codes.MAXIMUM,
        ),
    )
    return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking(structure, identity),
        referenced_region=hd.sr.ImageRegion(
            graphic_type=hd.sr.GraphicTypeValues.POLYLINE,
            graphic_data=region.outer,
            source_image=hd.sr.SourceImageForRegion(
                referenced_sop_class_uid=plane.image.SOPClassUID,
                referenced_sop_instance_uid=plane.image.SOPInstanceUID,
                referenced_frame_numbers=plane.frames,
            ),
        ),
        finding_type=structure.type,
        finding_sites=sites(structure),
        algorithm_id=algorithm_of_group(identity),
        measurements=[measurement_item(measurement) for measurement in measurements],
    )
