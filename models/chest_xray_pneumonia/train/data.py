"""Chest radiographs of children with and without pneumonia.

AP chest X-rays of children of one to five years from one hospital, squeezed to squares of 224 pixels. Source: Kermany,
Zhang, Goldbaum, Labeled Optical Coherence Tomography and Chest X-Ray Images for Classification, Mendeley Data 2018
(10.17632/rscbjbr9sj), CC BY 4.0.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLASSES = ("normal", "pneumonia_bacteria", "pneumonia_virus")
"""In the order of the network's outputs."""
NORMAL = 0


@dataclass(frozen=True, kw_only=True)
class Case:
    """One radiograph: ``image`` uint8 (row, column) from black to white; ``label``: its place in ``CLASSES``."""

    name: str
    person: str
    split: Literal["train", "val"]
    image: NDArray[np.uint8]
    label: int


def load_cases(folder: Path) -> list[Case]:
    """All radiographs of ``folder`` (``MANIFEST.csv``, ``images``)."""
    with (folder / "MANIFEST.csv").open(newline="") as lines:
        return [
            Case(
                name=Path(row["path"]).stem,
                person=row["group"],
                split="val" if row["split"] == "val" else "train",
                image=np.asarray(Image.open(folder / row["path"]).convert("L")),
                label=CLASSES.index(row["label"]),
            )
            for row in csv.DictReader(lines)
            if row["path"].startswith("images/")
        ]
