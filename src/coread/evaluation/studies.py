"""Cases of a data set as DICOM studies with a reference standard, as `coread evaluate` takes them."""

import csv
from collections.abc import Iterable
from pathlib import Path

from pydicom.dataset import Dataset

from coread.dicom_files import write_files
from coread.evaluation.reference import write_reference
from coread.models.manifest import load_manifest
from coread.volume import Volume


def write_segmented(
    cases: Iterable[tuple[str, list[Dataset], Volume]], bundle: Path, folder: Path
) -> tuple[Path, Path]:
    """Write a study and a reference segmentation for each case; returns the folders of both.

    ``cases``: name, images, and the true labels on their grid with the values of the manifest in ``bundle``.
    """
    studies, references = folder / "studies", folder / "reference"
    references.mkdir(parents=True)
    manifest = load_manifest(bundle)
    for name, images, labels in cases:
        write_files(images, studies / name)
        write_reference(labels, images, manifest, references / f"{name}.dcm")
    return studies, references


def write_classified(cases: Iterable[tuple[str, Dataset, int, str]], folder: Path) -> tuple[Path, Path]:
    """Write a study for each case, and a table of labels; returns the folder and the table.

    ``cases``: name, the one instance of the study, number of the true class, and whose it is.
    """
    studies, reference = folder / "studies", folder / "reference.csv"
    studies.mkdir(parents=True)
    with reference.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["StudyInstanceUID", "class", "group"])
        for name, instance, label, person in cases:
            write_files([instance], studies / name)
            table.writerow([instance.StudyInstanceUID, label, person])
    return studies, reference
