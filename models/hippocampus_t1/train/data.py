"""The hippocampus crops of the Medical Segmentation Decathlon, Task04.

T1 MR crops of 1 mm around one hippocampus each, with its anterior and posterior part outlined. Source: Antonelli et
al., The Medical Segmentation Decathlon, Nature Communications 2022, CC-BY-SA 4.0.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np
from numpy.typing import NDArray

ANTERIOR = 1
POSTERIOR = 2


@dataclass(frozen=True, kw_only=True)
class Case:
    """One side of one person: ``image`` float32 and ``label`` uint8, (x, y, z) to the right, front and top (RAS);
    voxels of 1 mm.
    """

    name: str
    person: str
    split: Literal["train", "val"]
    image: NDArray[np.float32]
    label: NDArray[np.uint8]


def load_cases(folder: Path) -> list[Case]:
    """All crops of ``folder`` (``MANIFEST.csv``, ``images``, ``labels``). Two of a person carry the same ``person``."""
    cases = []
    with (folder / "MANIFEST.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            path = Path(row["path"])
            if path.parent.name == "images":
                cases.append(
                    Case(
                        name=path.name.split(".")[0],
                        person=row["group"],
                        split="val" if row["split"] == "val" else "train",
                        image=_array(folder / path).astype(np.float32),
                        label=_array(folder / "labels" / path.name).astype(np.uint8),
                    )
                )
    return cases


def _array(path: Path) -> NDArray[np.float64]:
    """Voxels in the order right, front, top."""
    image = nibabel.as_closest_canonical(nibabel.load(path))
    return np.asarray(image.dataobj, np.float64)
