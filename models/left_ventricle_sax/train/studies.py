"""The patients of the ``val`` split as DICOM studies with a reference standard, as `coread evaluate` takes them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from coread.dicom_files import series_of
from coread.evaluation.studies import write_segmented
from coread.models.left_ventricle_sax.train.data import Case
from coread.volume import Volume

BUNDLE = Path(__file__).parents[1]


def volume_of(case: Case) -> Volume:
    """The patient's slices as a volume; where it lies is unknown and does not matter."""
    volume = Volume.of(case.image, directions=np.eye(3)[::-1], spacing=case.spacing_mm)
    return volume.centred_at((0.0, 0.0, 0.0))


def write_studies(cases: Iterable[Case], folder: Path) -> tuple[Path, Path]:
    """Write a study and a reference segmentation for each case; returns the folders of both."""
    return write_segmented(map(_with_truth, cases), BUNDLE, folder)


def _with_truth(case: Case) -> tuple[str, list[Dataset], Volume]:
    volume = volume_of(case)
    images = series_of(
        volume,
        modality="MR",
        name=f"sunnybrook {case.patient}",
        patient_id=f"SUNNYBROOK-{case.patient}",
        patient_name=f"SUNNYBROOK^{case.patient}",
        study_description="Sunnybrook Cardiac Data",
        series_description="cine SAX ED",
        body_part="HEART",
    )
    return case.patient, images, volume.with_array(case.label)
