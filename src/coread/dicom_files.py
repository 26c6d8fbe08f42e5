"""Writes volumes and pictures as DICOM images: for the sample study, for evaluations, and for tests on real data."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
)

from coread.dicom_sr.identity import derived_uid
from coread.volume import Volume

SINGLE_FRAME_CLASSES = {"MR": MRImageStorage, "CT": CTImageStorage}
"""Modality → class of its single-frame images, of those that can be written."""
_BY_MODALITY: Mapping[str, Mapping[str, object]] = {
    "MR": {
        "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
        "ScanningSequence": "GR",
        "SequenceVariant": "SS",
        "ScanOptions": "",
        "MRAcquisitionType": "2D",
        "RepetitionTime": "3.2",
        "EchoTime": "1.6",
        "EchoTrainLength": "1",
    },
    "CT": {
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "KVP": "120",
        "AcquisitionNumber": "1",
        "RescaleIntercept": "0",
        "RescaleSlope": "1",
        "RescaleType": "HU",
    },
}


def series_of(
    volume: Volume,
    *,
    modality: str,
    name: str,
    patient_id: str,
    patient_name: str,
    study_description: str,
    series_description: str,
    body_part: str,
) -> list[Dataset]:
    """The slices of ``volume`` (slice, row, column; LPS, mm; values that fit int16) as DICOM images.

    All UIDs derive from ``name``, so that the same series is written again with the same UIDs.
    """
    images = []
    slice_mm, row_mm, column_mm = volume.spacing
    for index, plane in enumerate(volume.array.astype(np.int16)):
        image = _image(SINGLE_FRAME_CLASSES[modality], name, index)
        image.FrameOfReferenceUID = volume.frame_of_reference_uid or derived_uid(name, "frame of reference")
        image.PositionReferenceIndicator = ""
        image.PatientID, image.PatientName = patient_id, patient_name
        image.StudyDescription, image.SeriesDescription = study_description, series_description
        image.Modality, image.PatientPosition, image.BodyPartExamined = modality, "HFS", body_part
        image.ImagePositionPatient = [f"{x:.6f}" for x in volume.map_indices_to_reference(np.array([[index, 0, 0]]))[0]]
        # The volume's unit vectors are those of (slice, row, column) indices; the tag states along a row first.
        _, down_column, along_row = (vector for vector in volume.unit_vectors())
        image.ImageOrientationPatient = [f"{x:.8f}" for x in (*along_row, *down_column)]
        image.PixelSpacing = [f"{row_mm:.6f}", f"{column_mm:.6f}"]
        image.SliceThickness = image.SpacingBetweenSlices = f"{slice_mm:.6f}"
        image.Rows, image.Columns = plane.shape
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
        image.WindowCenter, image.WindowWidth = str(int(plane.max()) // 2 or 1), str(int(np.ptp(plane)) or 1)
        for keyword, value in _BY_MODALITY[modality].items():
            setattr(image, keyword, value)
        if modality == "CT":
            del image.SpacingBetweenSlices
        image.PixelData = plane.tobytes()
        images.append(image)
    return images


def radiograph_of(
    pixels: NDArray[np.uint8],
    *,
    name: str,
    patient_id: str,
    patient_name: str,
    study_description: str,
    series_description: str,
    body_part: str,
) -> Dataset:
    """A picture (row, column) from black to white as an AP radiograph (Computed Radiography Image, PS3.3 A.2). How
    large it is in the patient is not known.

    All UIDs derive from ``name``.
    """
    image = _image(ComputedRadiographyImageStorage, name, 0)
    image.PatientID, image.PatientName = patient_id, patient_name
    image.StudyDescription, image.SeriesDescription = study_description, series_description
    image.Modality, image.BodyPartExamined, image.ViewPosition = "CR", body_part, "AP"
    image.ImageType, image.PatientOrientation = ["ORIGINAL", "PRIMARY"], ["L", "F"]
    image.Rows, image.Columns = pixels.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    image.WindowCenter, image.WindowWidth = "128", "256"
    image.PixelData = pixels.tobytes() + bytes(pixels.size % 2)
    return image


def _image(sop_class: UID, name: str, index: int) -> Dataset:
    """What every image has: who it is, in a study of its own, of nobody yet."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SpecificCharacterSet = "ISO_IR 192"
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = sop_class
    image.SOPInstanceUID = derived_uid(name, "instance", str(index))
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.StudyInstanceUID, image.SeriesInstanceUID = derived_uid(name, "study"), derived_uid(name, "series")
    image.PatientBirthDate, image.PatientSex = "", "O"
    image.StudyDate = image.SeriesDate = image.ContentDate = "20260101"
    image.StudyTime = image.SeriesTime = image.ContentTime = "120000"
    image.StudyID, image.AccessionNumber, image.ReferringPhysicianName = "1", "", ""
    image.Manufacturer, image.SeriesNumber, image.InstanceNumber = "Coread sample", 1, index + 1
    return image


def write_files(images: Sequence[Dataset], folder: Path) -> list[Path]:
    """Write each image as ``NNNN.dcm``; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, image in enumerate(images, start=1):
        path = folder / f"{index:04}.dcm"
        image.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths
