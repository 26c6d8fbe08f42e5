"""Findings → the report of key findings: TID 1410 groups, each an outline on the slice that shows the most.

OHIF fails on reports with groups that have no graphic, and 3D Slicer ignores a segmentation whose report has some: so
these are a document of their own. Its groups carry the Tracking UIDs of the segments.
"""

import math
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from coread import codes
from coread.dicom_sr.header import BYTES_OF_FL, make_room
from coread.dicom_sr.identity import ResultIdentity
from coread.dicom_sr.outlines import Points, Region, corners, regions_of
from coread.dicom_sr.report import (
    add_cycle_point,
    algorithm_of_group,
    certainty,
    document,
    measurement_item,
    sites,
    tracking,
)
from coread.dicom_sr.segmentation import tracking_uid
from coread.dicom_sr.source import Source
from coread.findings import Findings, Mark, Measurement, Structure
from coread.objects import ObjectKind
from coread.volume import Volume

SQUARE = 1e-3
"""Relative difference of row and column spacing up to which pixels are square."""


def encode_key_findings(findings: Findings, source: Source, identity: ResultIdentity) -> hd.sr.Comprehensive3DSR:
    """A group for each structure that is present: its largest part's outline in its key slice as a closed POLYLINE,
    that part's area (holes are no part of it) and longest diameter. Volumes are in the measurement report: an outline
    has none. And one for each finding that is marked by a box or a point.
    """
    groups, keys = [], {mark.plane for mark in findings.marks}
    for structure in findings.present:
        index = findings.key_plane(structure)
        region = regions_of(findings.in_slice(structure, index))[0]
        groups.append(_group(structure, region, index, source, findings, identity))
        keys.add(index)
    groups += [_marked(mark, source, findings, identity) for mark in findings.marks]
    report = document(
        groups,
        source=source,
        key_planes=[source.planes[index] for index in sorted(keys)],
        identity=identity,
        kind=ObjectKind.SR_KEY_FINDINGS,
    )
    make_room(report, longest=max(BYTES_OF_FL * each.points.size for each in outlines_in_report(report).values()))
    return report


@dataclass(frozen=True, kw_only=True, eq=False)
class Outline:
    """A closed ring as a report says it: (column, row) in the pixels of an image's frame, or LPS in mm."""

    points: Points
    """Shape (points, 2) in an image, (points, 3) in the patient."""
    sop_instance_uid: str = ""
    frame: int | None = None


def outlines_in_report(report: Dataset) -> dict[str, Outline]:
    """Tracking UID → outline of each TID 1410 group, as the document's items say it."""
    found = {}
    for container in report.ContentSequence[-1].ContentSequence:
        items = container.ContentSequence
        (uid,) = (item.UID for item in items if item.ValueType == "UIDREF")
        for item in items:
            if item.ValueType == "SCOORD":
                reference = item.ContentSequence[0].ReferencedSOPSequence[0]
                found[str(uid)] = Outline(
                    points=np.array(item.GraphicData, dtype=np.float64).reshape(-1, 2),
                    sop_instance_uid=str(reference.ReferencedSOPInstanceUID),
                    frame=reference.get("ReferencedFrameNumber"),
                )
            elif item.ValueType == "SCOORD3D":
                found[str(uid)] = Outline(points=np.array(item.GraphicData, dtype=np.float64).reshape(-1, 3))
    return found


def _region(ring: Points, index: int, source: Source, grid: Volume) -> hd.sr.ImageRegion | hd.sr.ImageRegion3D:
    """The outline in its image. Where pixels are not square, in the patient: OHIF swaps the spacings of an image's."""
    _, row_mm, column_mm = grid.spacing
    if not math.isclose(row_mm, column_mm, rel_tol=SQUARE):
        places = np.column_stack([np.full(len(ring), index), ring[:, 1] - 0.5, ring[:, 0] - 0.5])
        return hd.sr.ImageRegion3D(
            graphic_type=hd.sr.GraphicTypeValues3D.POLYLINE if len(ring) > 1 else hd.sr.GraphicTypeValues3D.POINT,
            graphic_data=grid.map_indices_to_reference(places),
            frame_of_reference_uid=source.header.FrameOfReferenceUID,
        )
    plane = source.planes[index]
    return hd.sr.ImageRegion(
        graphic_type=hd.sr.GraphicTypeValues.POLYLINE if len(ring) > 1 else hd.sr.GraphicTypeValues.POINT,
        graphic_data=ring,
        source_image=hd.sr.SourceImageForRegion(
            referenced_sop_class_uid=plane.image.SOPClassUID,
            referenced_sop_instance_uid=plane.image.SOPInstanceUID,
            referenced_frame_numbers=plane.frames,
        ),
    )


def _marked(
    mark: Mark, source: Source, findings: Findings, identity: ResultIdentity
) -> hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """A box or a point, with how certain it is."""
    if findings.grid is None:
        raise ValueError("marks need the grid that they lie on")
    said = [measurement_item(each) for each in mark.measurements]
    if mark.probability is not None:
        said.append(certainty(mark.probability))
    return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=tracking_uid(mark.name, identity), identifier=mark.name),
        referenced_region=_region(mark.outline, mark.plane, source, findings.grid),
        finding_type=mark.type,
        finding_sites=sites(mark),
        algorithm_id=algorithm_of_group(identity),
        measurements=said,
    )


def _sites(structure: Structure) -> list[hd.sr.FindingSite] | None:
    """Where the structure is; an anatomical structure is its own site. (OHIF shows the site, and not the finding.)"""
    if structure.anatomy is None and structure.category == codes.ANATOMICAL_STRUCTURE:
        return [hd.sr.FindingSite(anatomic_location=structure.type, laterality=structure.laterality)]
    return sites(structure)


def _group(
    structure: Structure, region: Region, index: int, source: Source, findings: Findings, identity: ResultIdentity
) -> hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    grid = findings.mask
    _, row_mm, column_mm = grid.spacing
    outline = corners(region.outer)
    outermost = outline[ConvexHull(outline).vertices]  # two of these are farthest apart
    measurements = [
        Measurement(
            concept=codes.DIAMETER,
            value=float(pdist(outermost * (column_mm, row_mm)).max()),
            unit=codes.MILLIMETER,
            derivation=codes.MAXIMUM,
        )
    ]
    if not region.holes:  # else the outline holds more than the structure, and either area would be taken for the other
        area_mm2 = region.pixels * row_mm * column_mm
        measurements.insert(0, Measurement(concept=codes.AREA, value=area_mm2, unit=codes.SQUARE_MILLIMETER))
    group = hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking(structure, identity),
        referenced_region=_region(outline, index, source, grid),
        finding_type=structure.type,
        finding_sites=_sites(structure),
        algorithm_id=algorithm_of_group(identity),
        measurements=[measurement_item(measurement) for measurement in measurements],
    )
    add_cycle_point(group, findings)
    return group
