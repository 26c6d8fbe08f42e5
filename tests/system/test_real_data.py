"""Real images through the plugin: read or refused, never failed."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from coread.models.left_ventricle_sax.train.data import CAVITY, Case, load_cases
from coread.volume import Volume
from tests.support import images_of
from tests.system.conftest import System


def as_dicom(case: Case) -> list[Dataset]:
    """A patient of the public data as a short-axis series, in an oblique plane."""
    axes, _ = np.linalg.qr(np.array([[0.5, -0.4, 0.77], [0.4, 0.9, 0.2], [-0.77, 0.2, 0.6]]))
    volume = Volume.of(case.image.astype(np.int16), directions=axes.T, spacing=case.spacing_mm)
    return images_of(volume.centred_at((20.0, -30.0, 40.0)), name=f"patient {case.patient}")


def test_patients_the_model_never_saw_are_read_and_their_volumes_are_near_the_truth(
    system: System, real_data: Path
) -> None:
    cases = [case for case in load_cases(real_data / "cardiac_lv_mr") if case.split == "val"]
    studies = [system.send(as_dicom(case)) for case in cases]
    differences = []
    for case, study in zip(cases, studies, strict=True):
        job = system.job(study)
        assert job["state"] == "done", job["reason"]
        (cavity,) = (each for each in job["result"]["findings"] if each["structure"] == "Left ventricular cavity")
        expected_ml = (case.label == CAVITY).sum() * np.prod(case.spacing_mm) / 1000
        differences.append(cavity["measurements"][0]["value"] / expected_ml - 1)
    assert np.abs(differences).max() < 0.15
    assert abs(np.mean(differences)) < 0.05


SERIES = ("series_hippocampus_study1", "series_ct_with_seg", "series_missing_slice", "series_gantry_tilt", "mr_small")


@pytest.mark.parametrize("name", SERIES)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # the files are awkward; that is why they are here
def test_series_of_other_kinds_are_refused_with_a_reason(system: System, real_data: Path, name: str) -> None:
    images = readable(real_data / "zoo" / name)
    for study in sorted({str(image.StudyInstanceUID) for image in images}):
        job = system.job(system.send([image for image in images if image.StudyInstanceUID == study]))
        assert job["state"] == "refused", job["reason"]
        assert "expected a short-axis cardiac MR series" in job["reason"]


def readable(folder: Path) -> list[Any]:
    images = [pydicom.dcmread(path) for path in sorted(folder.glob("*")) if path.suffix in (".dcm", "")]
    sources = [image for image in images if "PixelData" in image and "StudyInstanceUID" in image]
    assert sources, folder
    return sources
