"""Every kind of object from series of real scanners, single-frame and enhanced."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from coread.dicom_sr.encode import encode_findings
from coread.dicom_sr.validation.run import judge, subjects_in
from coread.errors import GeometryError
from coread.objects import ObjectKind
from coread.workers.volume import build_volume
from tests.integration.test_object_kinds import NOISE
from tests.integration.test_result_objects import complaints
from tests.support import identity, measured, output_of

pytestmark = pytest.mark.filterwarnings("ignore")  # the files are awkward; that is why they are here

KINDS = frozenset(ObjectKind) - {ObjectKind.SEG_FRACTIONAL}  # which needs probabilities
FOLDERS = {"enhanced": 2, "mr_small": 1, "series_ct_with_seg": 1, "series_hippocampus_study1": 1}
"""Folder → how many of its series are a volume."""


@pytest.mark.parametrize("folder", FOLDERS)
def test_series_of_real_scanners_give_valid_objects(folder: str, real_data: Path, tmp_path: Path) -> None:
    read = 0
    for number, images in enumerate(series_in(real_data / "zoo" / folder)):
        try:
            source = build_volume(images)
        except GeometryError:
            continue
        read += 1
        slices, rows, columns = source.volume.spatial_shape
        labels = np.zeros(source.volume.spatial_shape, np.uint8)
        labels[slices // 4 : slices // 2 + 1, rows // 5 : rows // 2, columns // 4 : columns // 3] = 1
        labels[slices // 2 :, rows // 2 : rows * 3 // 4, columns // 3 : columns * 2 // 3] = 2
        findings = measured(labels, source.volume, modality=str(images[0].Modality))
        sources = tmp_path / str(number) / "source"
        sources.mkdir(parents=True)
        for index, image in enumerate(images):
            image.save_as(sources / f"{index}.dcm")
        for result in encode_findings(findings, source=source.as_source, identity=identity(), kinds=KINDS):
            path = sources.parent / f"{result.kind}.dcm"
            path.write_bytes(result.file())
            _, said = output_of("dciodvfy", "-new", path)
            noise = NOISE.get(result.kind, ())
            errors = [line for line in complaints(said) if line.startswith("Error")]
            assert [line for line in errors if not any(each in line for each in noise)] == [], result.kind
        for path, subject in subjects_in(sorted(sources.parent.glob("*.dcm")), source=sources).items():
            assert subject is not None
            assert list(judge(subject)) == [], path.stem
    assert read == FOLDERS[folder]


def series_in(folder: Path) -> list[list[Dataset]]:
    """The images in a folder, by series, without segmentations."""
    found: defaultdict[str, list[Dataset]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        try:
            image = pydicom.dcmread(path)
        except (pydicom.errors.InvalidDicomError, OSError):
            continue
        if "PixelData" in image and "SeriesInstanceUID" in image and image.get("Modality") != "SEG":
            found[image.SeriesInstanceUID].append(image)
    return list(found.values())
