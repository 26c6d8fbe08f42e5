"""The people of the ``val`` split as DICOM studies with a reference standard, as `coread evaluate` takes them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from coread.dicom_files import series_of
from coread.evaluation.studies import write_segmented
from coread.models.hippocampus_t1.train.data import Case
from coread.volume import Volume

BUNDLE = Path(__file__).parents[1]
BRIGHTEST = 4095.0
"""Values are scaled to 12 bits, as scanners give them: in the files they reach from 1 to some 100 000."""


def volume_of(array: NDArray[np.generic]) -> Volume:
    """An array (x, y, z) of a case as a volume of axial slices; where it lies is unknown and does not matter."""
    lps = np.asarray(array)[::-1, ::-1].transpose(2, 1, 0)
    return Volume.of(lps, directions=np.eye(3)[::-1], spacing=(1.0, 1.0, 1.0)).centred_at((0.0, 0.0, 0.0))


def write_studies(cases: Iterable[Case], folder: Path) -> tuple[Path, Path]:
    """Write a study and a reference segmentation for each case; returns the folders of both."""
    return write_segmented(map(_with_truth, cases), BUNDLE, folder)


def _with_truth(case: Case) -> tuple[str, list[Dataset], Volume]:
    image = volume_of(case.image * (BRIGHTEST / case.image.max()))
    images = series_of(
        image,
        modality="MR",
        name=f"decathlon {case.name}",
        patient_id=f"DECATHLON-{case.person}",
        patient_name=f"DECATHLON^{case.person}",
        study_description="Medical Segmentation Decathlon Task04",
        series_description="T1 hippocampus crop",
        body_part="BRAIN",
    )
    return case.name, images, volume_of(case.label)
