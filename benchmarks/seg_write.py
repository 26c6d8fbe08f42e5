"""From a label volume in memory to the Segmentation's file on disk."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import nibabel
import numba
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from coread.benchmarks.comparison import Absent, Result, Way, compare
from coread.benchmarks.samples import IDENTITY, Shape, ct_series, findings
from coread.dicom_sr.frames import binary_frames
from coread.dicom_sr.proof import prove_segmentation
from coread.dicom_sr.segmentation import describe_segment, encode_segmentation, segment_numbers
from coread.dicom_sr.source import Plane, Source
from coread.findings import Findings
from coread.objects import ObjectKind
from coread.volume import count_by_slice

ITKIMAGE2SEGIMAGE = "itkimage2segimage"


def seg_write(folder: Path, *, segments: int, shape: Shape, repeats: int) -> Result:
    """Ours, highdicom's, dcmqi's (where it is installed) and the floor, for BINARY; ours and highdicom's LABELMAP."""
    found = findings(segments, shape)
    images = ct_series(shape)
    source = Source(planes=[Plane(image=image) for image in images], spacing_mm=found.mask.spacing[0])
    path = folder / "written.dcm"

    def ours(kind: ObjectKind) -> Path:
        dataset = encode_segmentation(found, source, IDENTITY, kind)
        dataset.save_as(path, enforce_file_format=True)
        return path

    def ours_proven() -> Path:
        dataset = encode_segmentation(found, source, IDENTITY)
        prove_segmentation(dataset, found)
        dataset.save_as(path, enforce_file_format=True)
        return path

    def floor() -> Path:
        shown = count_by_slice(found.mask.array)  # nobody can leave out empty frames without looking for them
        assert int((shown[:, 1:] > 0).sum()) == len(frames[0])  # noqa: S101  # nor is it skipped for being unused
        path.write_bytes(packed_bits(found.mask.array, *frames).data)
        return path

    packed = binary_frames([found.mask.array], segment_numbers(found.present))
    assert packed.segments is not None  # noqa: S101  # binary frames have segments
    frames = (packed.planes, packed.segments)
    assert bytes(packed_bits(found.mask.array, *frames)) == packed.pixels  # noqa: S101  # the floor does the same work
    del packed
    ways: dict[str, Way | Absent] = {
        "floor": Way(run=floor, note="slices looked for, bits packed on all cores, bytes written; no header"),
        "coread": Way(run=lambda: ours(ObjectKind.SEG)),
        "coread, read back": Way(run=ours_proven, note="every voxel decoded and compared before the file is written"),
        "highdicom": Way(run=lambda: _highdicom(found, images, path, "BINARY")),
        "coread LABELMAP RLE": Way(run=lambda: ours(ObjectKind.SEG_LABELMAP_RLE)),
        "highdicom LABELMAP RLE": Way(run=lambda: _highdicom(found, images, path, "LABELMAP")),
    }
    program = shutil.which(ITKIMAGE2SEGIMAGE) or shutil.which(str(Path(sys.executable).parent / ITKIMAGE2SEGIMAGE))
    if program:
        command = _dcmqi(program, found, images, path, folder)
        note = "a program: it also reads the labels and the source's headers from disk"
        ways["dcmqi"] = Way(run=lambda: _run(command, path), note=note, in_process=False)
    return compare(ways, repeats=repeats)


@numba.njit(cache=True, parallel=True)
def _pack(
    labels: NDArray[np.uint8], planes: NDArray[np.intp], segments: NDArray[np.intp], packed: NDArray[np.uint8]
) -> None:
    pixels = labels.reshape(labels.shape[0], labels.shape[1] * labels.shape[2])
    size = pixels.shape[1] // 8
    for frame in numba.prange(len(planes)):
        for byte in range(size):
            value = 0
            for bit in range(8):
                value |= (pixels[planes[frame], byte * 8 + bit] == segments[frame]) << bit
            packed[frame * size + byte] = value


def packed_bits(labels: NDArray[np.uint8], planes: NDArray[np.intp], segments: NDArray[np.intp]) -> NDArray[np.uint8]:
    """A frame of each segment in each plane, a bit for each pixel."""
    packed = np.empty(len(planes) * labels.shape[1] * labels.shape[2] // 8, np.uint8)
    _pack(labels, planes, segments, packed)
    return packed


def _highdicom(found: Findings, images: Sequence[Dataset], path: Path, kind: str) -> Path:
    highdicom_segmentation(found, images, kind).save_as(path)
    return path


def highdicom_segmentation(found: Findings, images: Sequence[Dataset], kind: str) -> hd.seg.Segmentation:
    """By highdicom alone."""
    descriptions = [
        describe_segment(number, structure, IDENTITY) for number, structure in enumerate(found.present, start=1)
    ]
    return hd.seg.Segmentation(
        source_images=images,
        pixel_array=segment_numbers(found.present)[found.mask.array],
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid=IDENTITY.uid("series"),
        series_number=1,
        sop_instance_uid=IDENTITY.uid("instance"),
        instance_number=1,
        manufacturer="benchmark",
        manufacturer_model_name="benchmark",
        software_versions="1",
        device_serial_number="1",
        transfer_syntax_uid=RLELossless if kind == "LABELMAP" else ExplicitVRLittleEndian,
    )


def _dcmqi(program: str, found: Findings, images: list[Dataset], path: Path, folder: Path) -> list[str]:
    sources = folder / "source"
    sources.mkdir(exist_ok=True)
    pixels = np.zeros((images[0].Rows, images[0].Columns), np.int16).tobytes()
    for index, image in enumerate(images):
        with_pixels = Dataset({**image})
        with_pixels.file_meta, with_pixels.PixelData = image.file_meta, pixels  # it passes over images without
        with_pixels.save_as(sources / f"{index:04}.dcm", enforce_file_format=True)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ found.mask.affine[:, [2, 1, 0, 3]]
    nibabel.save(nibabel.Nifti1Image(found.mask.array.transpose(2, 1, 0), affine), folder / "labels.nii")
    code = {"CodeValue": "10200004", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Liver"}
    category = {"CodeValue": "91723000", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Anatomical Structure"}
    attributes = [
        {
            "labelID": structure.label,
            "SegmentLabel": structure.name,
            "SegmentDescription": structure.name,
            "SegmentAlgorithmType": "AUTOMATIC",
            "SegmentAlgorithmName": "benchmark",
            "SegmentedPropertyCategoryCodeSequence": category,
            "SegmentedPropertyTypeCodeSequence": code,
        }
        for structure in found.present
    ]
    metadata = folder / "metadata.json"
    metadata.write_text(
        json.dumps(
            {
                "ContentCreatorName": "benchmark",
                "SeriesDescription": "benchmark",
                "SeriesNumber": "1",
                "InstanceNumber": "1",
                "segmentAttributes": [attributes],
                "ContentLabel": "BENCHMARK",
                "ContentDescription": "benchmark",
            }
        ),
        encoding="utf-8",
    )
    inputs = ["--inputImageList", str(folder / "labels.nii"), "--inputDICOMDirectory", str(sources)]
    return [program, *inputs, "--inputMetadata", str(metadata), "--outputDICOM", str(path), "--skip"]


def _run(command: list[str], path: Path) -> Path:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode != 0 or not path.exists():
        raise RuntimeError(f"{command[0]} failed: {(done.stdout + done.stderr)[-400:]}")
    return path
