"""The children of the ``val`` split as DICOM studies with a table of labels, as `coread evaluate` takes them."""

from collections.abc import Iterable
from pathlib import Path

from pydicom.dataset import Dataset

from coread.dicom_files import radiograph_of
from coread.evaluation.studies import write_classified
from coread.models.chest_xray_pneumonia.train.data import Case

AGE = "003Y"
"""Somewhere within the ages that the source states for all of them; it says none for each."""


def write_studies(cases: Iterable[Case], folder: Path) -> tuple[Path, Path]:
    """Write a study for each case, and a table of labels; returns the folder and the table."""
    return write_classified(map(_with_truth, cases), folder)


def _with_truth(case: Case) -> tuple[str, Dataset, int, str]:
    image = radiograph_of(
        case.image,
        name=f"kermany {case.name}",
        patient_id=f"KERMANY-{case.person}",
        patient_name=f"KERMANY^{case.person}",
        study_description="Chest",
        series_description="Chest AP",
        body_part="CHEST",
    )
    image.PatientAge = AGE
    return case.name, image, case.label, case.person
