"""Small studies made of the public data, as many as are wanted: each a real patient's images, no two the same."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from coread.dicom_files import series_of
from coread.models.hippocampus_t1.train import data as hippocampus
from coread.models.hippocampus_t1.train.studies import BRIGHTEST
from coread.models.hippocampus_t1.train.studies import volume_of as head_volume
from coread.models.left_ventricle_sax.train import data as heart
from coread.models.left_ventricle_sax.train.studies import volume_of as heart_volume

EVERY = 4
"""Of so many studies, one is of the head."""
THICK = 12
"""Slices of a head that are in its study."""
GAIN = 0.04
"""By how much brighter a heart is each time that it is in the archive again."""


@dataclass(frozen=True, kw_only=True)
class RealStudy:
    """A study, and whether the model of the left ventricle reads or refuses it."""

    images: list[Dataset]
    is_read: bool

    @property
    def uid(self) -> str:
        return str(self.images[0].StudyInstanceUID)


def real_studies(folder: Path, count: int) -> Iterator[RealStudy]:
    """Short-axis hearts (each patient again and again, brighter each time, every other time mirrored), and among them
    slabs of heads, each of which the model refuses.
    """
    hearts = heart.load_cases(folder / "cardiac_lv_mr")
    heads = cycle(hippocampus.load_cases(folder / "hippocampus_mr"))
    seen = 0
    for number in range(count):
        name = f"archived {number:04}"
        if number % EVERY == EVERY - 1:
            yield RealStudy(images=_head(next(heads), name=name), is_read=False)
        else:
            again, which = divmod(seen, len(hearts))
            yield RealStudy(images=_heart(hearts[which], again, name=name), is_read=True)
            seen += 1


def _heart(case: heart.Case, again: int, *, name: str) -> list[Dataset]:
    seen = case.image[:, :, ::-1] if again % 2 else case.image
    volume = heart_volume(case)
    return series_of(
        volume.with_array(np.rint(seen * (1 + GAIN * again))),
        modality="MR",
        name=name,
        patient_id=f"SUNNYBROOK-{case.patient}",
        patient_name=f"SUNNYBROOK^{case.patient}",
        study_description="Sunnybrook Cardiac Data",
        series_description="cine SAX ED",
        body_part="HEART",
    )


def _head(case: hippocampus.Case, *, name: str) -> list[Dataset]:
    volume = head_volume(case.image * (BRIGHTEST / case.image.max()))
    return series_of(
        volume,
        modality="MR",
        name=name,
        patient_id=f"DECATHLON-{case.person}",
        patient_name=f"DECATHLON^{case.person}",
        study_description="Medical Segmentation Decathlon Task04",
        series_description="T1 hippocampus crop",
        body_part="BRAIN",
    )[:THICK]
