"""The children of the ``val`` split as DICOM studies with a table of labels, as `coread evaluate` takes them."""

import csv
from collections.abc import Iterable
from pathlib import Path

from coread.dicom_files import radiograph_of, write_files
from coread.models.chest_xray_pneumonia.train.data import Case

AGE = "003Y"
"""Somewhere within the ages that the source states for all of them; it says none for each."""


def write_studies(cases: Iterable[Case], folder: Path) -> tuple[Path, Path]:
    """Write a study for each case, and a table of labels; returns the folder and the table."""
    studies, reference = folder / "studies", folder / "reference.csv"
    studies.mkdir(parents=True)
    with reference.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["StudyInstanceUID", "class", "group"])
        for case in cases:
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
            write_files([image], studies / case.name)
            table.writerow([image.StudyInstanceUID, case.label, case.person])
    return studies, reference
