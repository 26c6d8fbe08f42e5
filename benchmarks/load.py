"""From files on disk to a volume in memory."""

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from monai.transforms import LoadImaged
from numpy.typing import NDArray
from pydicom.pixels import get_decoder

from coread.benchmarks.comparison import FLOOR, OURS, Absent, Result, Way, compare, peer
from coread.benchmarks.samples import Shape, files_in, write_ct
from coread.workers.study import studies_in_folder
from coread.workers.volume import build_volume

ORGANS = 5
"""In the series that is loaded; it matters to how well it can be compressed only."""


def load(folder: Path, *, shape: Shape, syntax: str, repeats: int) -> Result:
    """The floor reads one header and of the other files the pixels alone; compressed ones it decodes on all cores."""
    series = write_ct(folder / "series", ORGANS, shape=shape, syntax=syntax)
    ways: dict[str, Way | Absent] = {
        FLOOR: Way(run=nothing(lambda: floor(series)), note="one header, then pixels only; nothing is checked"),
        OURS: Way(run=nothing(lambda: ours(series)), note="from the folder: sorted, every header checked"),
        "pydicom": Way(run=nothing(lambda: _pydicom(series)), note="a loop; sorted by place, nothing checked"),
        "highdicom": Way(run=nothing(lambda: _highdicom(series)), note="get_volume_from_series"),
        "MONAI": Way(run=nothing(lambda: _monai(series)), note="LoadImage, PydicomReader"),
        "SimpleITK": peer("SimpleITK", lambda: Way(run=nothing(lambda: _simpleitk(series)), note="GDCM")),
    }
    same_or_error(floor(series), ours(series), _pydicom(series))
    return compare(ways, repeats=repeats)


def same_or_error(*arrays: NDArray[Any]) -> None:
    """Raises RuntimeError unless all ways give the same values: else their times say nothing."""
    if not all(np.array_equal(arrays[0], each) for each in arrays[1:]):
        raise RuntimeError("the ways to load do not give the same values")


def nothing(run: Callable[[], object]) -> Callable[[], None]:
    """The same, without what it gives: no file is written here."""

    def way() -> None:
        run()

    return way


def ours(series: Path) -> NDArray[Any]:
    """As `coread analyze` and a worker do."""
    (study,) = studies_in_folder(series)
    return build_volume(study.series[0].load()).volume.array


def floor(series: Path) -> NDArray[np.int16]:
    """The least that anybody could do who knew beforehand that all is in order."""
    files = files_in(series)
    first = pydicom.dcmread(files[0], stop_before_pixels=True)
    volume = np.empty((len(files), first.Rows, first.Columns), np.int16)
    if first.file_meta.TransferSyntaxUID.is_compressed:
        _decode(files, first, volume)
        return volume
    size = volume[0].nbytes
    for index, path in enumerate(files):
        with path.open("rb") as file:
            file.seek(-size, os.SEEK_END)
            file.readinto(volume[index])
    return volume


def _decode(files: Sequence[Path], first: pydicom.Dataset, volume: NDArray[np.int16]) -> None:
    decoder = get_decoder(first.file_meta.TransferSyntaxUID)
    options: dict[str, Any] = {
        "rows": first.Rows,
        "columns": first.Columns,
        "samples_per_pixel": 1,
        "photometric_interpretation": first.PhotometricInterpretation,
        "bits_allocated": 16,
        "bits_stored": 16,
        "pixel_representation": 1,
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
    }
    start = files[0].read_bytes().index(PIXELS) - SLACK

    def decode(index: int) -> None:
        content = files[index].read_bytes()
        pixels = content[content.index(PIXELS, start) + len(PIXELS) :]
        volume[index] = decoder.as_array(pixels, index=0, **options)[0]

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(decode, range(len(files))))


PIXELS = b"\xe0\x7f\x10\x00OB\x00\x00\xff\xff\xff\xff"
"""Where encapsulated pixels begin: the tag, VR and undefined length of PixelData (PS3.5 A.4)."""
SLACK = 512
"""Headers of one series differ in length by less."""


def _pydicom(series: Path) -> NDArray[Any]:
    return stacked([pydicom.dcmread(path) for path in files_in(series)])


def stacked(images: list[pydicom.Dataset]) -> NDArray[Any]:
    """As most people do it with pydicom."""
    images.sort(key=lambda image: float(image.ImagePositionPatient[2]))
    planes = [
        image.pixel_array.astype(np.float32) * float(image.RescaleSlope) + float(image.RescaleIntercept)
        for image in images
    ]
    return np.stack(planes)


def _highdicom(series: Path) -> NDArray[Any]:
    images = [pydicom.dcmread(path) for path in files_in(series)]
    return hd.get_volume_from_series(images, dtype=np.float32).array


def _monai(series: Path) -> Any:
    return monai_loader()({"image": str(series)})["image"]


def monai_loader() -> LoadImaged:
    """MONAI's, with its reader of DICOM by pydicom."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tries readers that are not installed
        return LoadImaged(keys="image", reader="PydicomReader")


def _simpleitk(series: Path) -> NDArray[Any]:
    import SimpleITK as sitk  # noqa: N813  # as everybody calls it

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series)))
    return np.asarray(sitk.GetArrayFromImage(reader.Execute()))
