"""Findings → RT Structure Set (PS3.3 A.19): outlines in patient coordinates, for treatment planning."""

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import RTStructureSetStorage

from coread.dicom_sr.header import code_item, for_research, make_room, new_dataset
from coread.dicom_sr.identity import ResultIdentity
from coread.dicom_sr.outlines import in_one_ring, regions_of
from coread.dicom_sr.source import Source, reference_to
from coread.findings import Findings, Structure
from coread.objects import ObjectKind
from coread.volume import Volume

DETACHED_STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"
"""Retired, and still what RTReferencedStudySequence is to name (PS3.3 C.8.8.5)."""

DECIMALS = 3
"""Of a coordinate in mm: a micrometre is enough, and each further digit counts some thousand times."""


def encode_structure_set(findings: Findings, source: Source, identity: ResultIdentity) -> Dataset:
    """An ROI for each structure that is present; a contour for each connected part in each slice, holes reached by a
    channel of no width.
    """
    dataset = new_dataset(source.header, identity, ObjectKind.RTSTRUCT, sop_class_uid=RTStructureSetStorage)
    dataset.Modality = "RTSTRUCT"
    dataset.OperatorsName = ""
    dataset.StructureSetLabel = "AI"
    dataset.StructureSetName = for_research(identity.title)
    dataset.StructureSetDate = dataset.StructureSetTime = ""
    dataset.ApprovalStatus = "UNAPPROVED"
    dataset.FrameOfReferenceUID = source.header.FrameOfReferenceUID
    dataset.PositionReferenceIndicator = source.header.get("PositionReferenceIndicator", "")
    dataset.ReferencedFrameOfReferenceSequence = DicomSequence([_frame_of_reference(source)])
    numbered = list(enumerate(findings.present, start=1))
    dataset.StructureSetROISequence = DicomSequence([_roi(number, each, source) for number, each in numbered])
    dataset.ROIContourSequence = DicomSequence(
        [_contours(number, each, findings.layer_of(each), source) for number, each in numbered]
    )
    dataset.RTROIObservationsSequence = DicomSequence([_observation(number, each) for number, each in numbered])
    contours = [contour for roi in dataset.ROIContourSequence for contour in roi.ContourSequence]
    make_room(dataset, longest=max(len("\\".join(map(str, contour.ContourData))) for contour in contours))
    return dataset


def rings_in(structure_set: Dataset) -> dict[int, list[NDArray[np.float64]]]:
    """ROI number → its closed rings in LPS, mm, shape (points, 3), as the file says them."""
    return {
        int(roi.ReferencedROINumber): [
            np.array([float(value) for value in contour.ContourData]).reshape(-1, 3) for contour in roi.ContourSequence
        ]
        for roi in structure_set.ROIContourSequence
    }


def _frame_of_reference(source: Source) -> Dataset:
    listed = []
    for series_instance_uid, images in source.by_series.items():
        series = Dataset()
        series.SeriesInstanceUID = series_instance_uid
        series.ContourImageSequence = DicomSequence([reference_to(image) for image in images])
        listed.append(series)
    study = Dataset()
    study.ReferencedSOPClassUID = DETACHED_STUDY_MANAGEMENT
    study.ReferencedSOPInstanceUID = source.header.StudyInstanceUID
    study.RTReferencedSeriesSequence = DicomSequence(listed)
    frame = Dataset()
    frame.FrameOfReferenceUID = source.header.FrameOfReferenceUID
    frame.RTReferencedStudySequence = DicomSequence([study])
    return frame


def _roi(number: int, structure: Structure, source: Source) -> Dataset:
    roi = Dataset()
    roi.ROINumber = number
    roi.ReferencedFrameOfReferenceUID = source.header.FrameOfReferenceUID
    roi.ROIName = structure.name
    roi.ROIGenerationAlgorithm = "AUTOMATIC"
    return roi


def _contours(number: int, structure: Structure, labels: Volume, source: Source) -> Dataset:
    contours = []
    for index, plane in enumerate(source.planes):
        for region in regions_of(labels.array[index] == structure.label):
            ring = in_one_ring(region)[:-1, ::-1] - 0.5  # open: the last point is joined to the first by the reader
            points = labels.map_indices_to_reference(np.insert(ring, 0, index, axis=1))
            contour = Dataset()
            image = reference_to(plane.image)
            if plane.frame is not None:
                image.ReferencedFrameNumber = plane.frame
            contour.ContourImageSequence = DicomSequence([image])
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            contour.ContourData = [f"{value:.10g}" for value in points.round(DECIMALS).ravel() + 0.0]  # no "-0"
            contours.append(contour)
    roi = Dataset()
    roi.ROIDisplayColor = list(structure.colour)
    roi.ContourSequence = DicomSequence(contours)
    roi.ReferencedROINumber = number
    return roi


def _observation(number: int, structure: Structure) -> Dataset:
    observation = Dataset()
    observation.ObservationNumber = number
    observation.ReferencedROINumber = number
    observation.RTROIIdentificationCodeSequence = DicomSequence([code_item(structure.type)])
    observation.RTROIInterpretedType = ""
    observation.ROIInterpreter = ""
    return observation
