"""The people of the ``val`` split as DICOM studies with a table of labels, as `coread evaluate` takes them."""

import csv
from collections.abc import Iterable
from pathlib import Path

from coread.dicom_files import write_files
from coread.ecg_files import ecg_of
from coread.models.ecg_12_lead.train.data import LEADS, SAMPLING_RATE_HZ, Case
from coread.waveform import Waveform

DICOM_RATE_HZ = 500.0
"""A DICOM 12-lead ECG has 200 to 1000 Hz (PS3.3 A.34.3.4)."""


def write_studies(cases: Iterable[Case], folder: Path) -> tuple[Path, Path]:
    """Write a study for each case, and a table of labels; returns the folder and the table."""
    studies, reference = folder / "studies", folder / "reference.csv"
    studies.mkdir(parents=True)
    with reference.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["StudyInstanceUID", "class", "group"])
        for case in cases:
            ecg = ecg_of(
                Waveform(samples=case.leads, leads=LEADS, sampling_rate_hz=SAMPLING_RATE_HZ).at(DICOM_RATE_HZ),
                name=f"ptb-xl {case.name}",
                patient_id=f"PTBXL-{case.person}",
                patient_name=f"PTBXL^{case.person}",
                study_description="12-lead ECG",
                series_description="12-lead ECG, 10 s",
            )
            ecg.PatientSex = case.sex
            if case.age_years is not None:
                ecg.PatientAge = f"{case.age_years:03}Y"
            write_files([ecg], studies / case.name)
            table.writerow([ecg.StudyInstanceUID, case.label, case.person])
    return studies, reference
