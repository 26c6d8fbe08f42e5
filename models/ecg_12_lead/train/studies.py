"""The people of the ``val`` split as DICOM studies with a table of labels, as `coread evaluate` takes them."""

from collections.abc import Iterable
from pathlib import Path

from pydicom.dataset import Dataset

from coread.ecg_files import ecg_of
from coread.evaluation.studies import write_classified
from coread.models.ecg_12_lead.train.data import LEADS, SAMPLING_RATE_HZ, Case
from coread.waveform import Waveform

DICOM_RATE_HZ = 500.0
"""A DICOM 12-lead ECG has 200 to 1000 Hz (PS3.3 A.34.3.4)."""


def write_studies(cases: Iterable[Case], folder: Path) -> tuple[Path, Path]:
    """Write a study for each case, and a table of labels; returns the folder and the table."""
    return write_classified(map(_with_truth, cases), folder)


def _with_truth(case: Case) -> tuple[str, Dataset, int, str]:
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
    return case.name, ecg, case.label, case.person
