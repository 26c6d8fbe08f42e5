"""A reference standard in DICOM Segmentations: read anybody's, and write our own.

They are decoded frame by frame, by the place in the patient that each frame states, onto the grid of the images that
the model read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from coread import MANUFACTURER, __version__
from coread.dicom_sr.decode import FrameGeometry, frame_geometries, frames_of
from coread.dicom_sr.identity import derived_uid
from coread.dicom_sr.segmentation import segment_of
from coread.errors import ConfigurationError, GeometryError, NotDicom
from coread.findings import Structure
from coread.models.manifest import Manifest
from coread.volume import Volume
from coread.workers.measure import sought
from coread.workers.scan import UNPARSABLE
from coread.workers.study import Study, read_dicom
from coread.workers.volume import SourceVolume, build_volume

FRACTION = 0.5
"""From which share of MaximumFractionalValue on a voxel of a FRACTIONAL segmentation counts."""

GRID_TOLERANCE = 0.1
"""Largest distance of a frame from the source's grid, in pixels or slices, that is still rounding."""

COARSER_FROM = 3
"""From this number of slices on, a distance between all of them tells that they were drawn on a coarser grid."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class TrueMasks:
    """What the reference says of a study, on the grid of the images that were read."""

    masks: Mapping[int, Mask]
    """Label → (slice, row, column), of each structure that has a segment, be it empty."""
    matched_by: Mapping[int, str]
    """Label → how its segment was found: `code`, `type code`, `label text`."""
    unmatched: int
    """Segments that are no structure of the manifest."""


@dataclass(frozen=True, kw_only=True)
class Segmentations:
    """The segmentations in a folder."""

    by_study: Mapping[str, Sequence[Path]]
    """StudyInstanceUID → files."""

    def assign(self, studies: Sequence[Study]) -> Mapping[str, Sequence[Path]]:
        """StudyInstanceUID → files, of the studies that have any."""
        return {
            study.study_instance_uid: self.by_study[study.study_instance_uid]
            for study in studies
            if study.study_instance_uid in self.by_study
        }


def find_segmentations(path: Path) -> Segmentations:
    """The DICOM Segmentations in a folder and its subfolders, or the one in a file; other files are left alone.

    Raises ConfigurationError if there is none, or only what Coread itself has found: a model would be compared with
    itself.
    """
    files = [each for each in ([path] if path.is_file() else sorted(path.rglob("*"))) if each.is_file()]
    by_study: dict[str, list[Path]] = {}
    ours = 0
    for file in files:
        if not _is_dicom(file):
            continue
        header = _identity_of(file)
        if header.get("Modality") != "SEG":
            continue
        if header.get("Manufacturer") == MANUFACTURER:
            ours += 1
            continue
        by_study.setdefault(str(header.StudyInstanceUID), []).append(file)
    if not by_study:
        but = f" but {ours} that Coread itself has written, which are no reference" if ours else ""
        raise ConfigurationError(
            f"expected DICOM Segmentations in {path}, found none{but}; name the folder that holds the reference"
        )
    return Segmentations(by_study=by_study)


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _identity_of(path: Path) -> Dataset:
    try:
        return pydicom.dcmread(
            path, stop_before_pixels=True, specific_tags=["Modality", "Manufacturer", "StudyInstanceUID"]
        )
    except UNPARSABLE as error:
        raise NotDicom(f"expected a DICOM file, found one that cannot be parsed: {path}; copy it again") from error


def true_masks(files: Sequence[Path], source: SourceVolume, manifest: Manifest) -> TrueMasks:
    """What the segmentations of a study say of the series that was read. One that speaks of another series only is
    left out, if there is another one that speaks of this.

    Raises GeometryError if none speaks of this series, if one lies on another grid, or if two of them have the same
    structure (two readers, say: which of them is right?); NotDicom if one cannot be decoded.
    """
    series_uid = str(source.images[0].SeriesInstanceUID)
    datasets = [read_dicom(path) for path in files]
    ours = [each for each in datasets if _speaks_of(each, series_uid)]
    if not ours:
        others = sorted({uid for each in datasets for uid in _referenced(each)})
        raise GeometryError(
            f"expected a reference for series {series_uid}, which the model read, found one for {', '.join(others)}; "
            "draw the reference on the series that the model reads"
        )
    structures = sought(manifest)
    masks: dict[int, Mask] = {}
    matched_by: dict[int, str] = {}
    unmatched = 0
    for dataset in ours:
        segments = matched_segments(dataset.get("SegmentSequence") or [], structures)
        unmatched += sum(1 for each in dataset.get("SegmentSequence") or [] if int(each.SegmentNumber) not in segments)
        labels = {number: label for number, (label, _) in segments.items()}
        twice = set(labels.values()) & set(masks)
        if twice:
            names = ", ".join(each.name for each in structures if each.label in twice)
            raise GeometryError(f"expected one reference of {names}, found several; leave one of them in the folder")
        masks |= _decoded(dataset, labels, source)
        matched_by |= dict(segments.values())
    return TrueMasks(masks=masks, matched_by=matched_by, unmatched=unmatched)


def _referenced(segmentation: Dataset) -> dict[str, set[str]]:
    """SeriesInstanceUID → SOPInstanceUIDs of the images that a segmentation says it was drawn on."""
    return {
        str(series.SeriesInstanceUID): {
            str(instance.ReferencedSOPInstanceUID) for instance in series.get("ReferencedInstanceSequence") or []
        }
        for series in segmentation.get("ReferencedSeriesSequence") or []
    }


def _speaks_of(segmentation: Dataset, series_uid: str) -> bool:
    """Whether a segmentation was drawn on a series; one that does not say on which is tried."""
    referenced = _referenced(segmentation)
    return not referenced or series_uid in referenced


def matched_segments(segments: Sequence[Dataset], structures: Sequence[Structure]) -> dict[int, tuple[int, str]]:
    """Number of each segment that is one of the structures → the structure's label, and how it was recognised.

    First by the codes of type, anatomy and laterality; then by that of the type, for a structure that states no more;
    then by the label text. Several segments may be parts of one structure.
    """
    found = {}
    for segment in segments:
        for how, fits in _WAYS.items():
            candidates = [structure for structure in structures if fits(segment, structure)]
            if len(candidates) == 1:
                found[int(segment.SegmentNumber)] = (candidates[0].label, how)
                break
    return found


def _has_same_codes(segment: Dataset, structure: Structure) -> bool:
    wanted = (structure.type, structure.anatomy, structure.laterality)
    return all(_agree(found, each) for found, each in zip(_codes_of(segment), wanted, strict=True))


def _agree(found: Code | None, wanted: Code | None) -> bool:
    return found is wanted if found is None or wanted is None else found == wanted


def _has_same_type(segment: Dataset, structure: Structure) -> bool:
    return _agree(_codes_of(segment)[0], structure.type) and structure.anatomy is None and structure.laterality is None


def _has_same_label(segment: Dataset, structure: Structure) -> bool:
    return " ".join(str(segment.get("SegmentLabel", "")).split()).casefold() == structure.name.casefold()


_WAYS = {"code": _has_same_codes, "type code": _has_same_type, "label text": _has_same_label}


def _codes_of(segment: Dataset) -> tuple[Code | None, Code | None, Code | None]:
    """Type, anatomy and laterality (PS3.3 C.8.20.4), SNOMED's old identifiers understood."""
    kind = next(iter(segment.get("SegmentedPropertyTypeCodeSequence") or []), Dataset())
    anatomy = next(iter(segment.get("AnatomicRegionSequence") or []), Dataset())
    of_kind = next(iter(kind.get("SegmentedPropertyTypeModifierCodeSequence") or []), None)
    of_anatomy = next(iter(anatomy.get("AnatomicRegionModifierSequence") or []), None)
    return _code(kind), _code(anatomy), _code(of_kind or of_anatomy or Dataset())


def _code(item: Dataset) -> Code | None:
    value, scheme = item.get("CodeValue"), item.get("CodingSchemeDesignator")
    return Code(str(value), str(scheme), str(item.get("CodeMeaning", ""))) if value and scheme else None


def _decoded(dataset: Dataset, labels: Mapping[int, int], source: SourceVolume) -> dict[int, Mask]:
    """Label → mask on the source's grid. ``labels``: number of a segment → label."""
    uid = dataset.SOPInstanceUID
    _check_references(dataset, source)
    masks = {label: np.zeros(source.volume.spatial_shape, bool) for label in labels.values()}
    slices: set[int] = set()
    try:
        frames = list(zip(frame_geometries(dataset), frames_of(dataset), strict=True))
        kind = str(dataset.SegmentationType)
        least = FRACTION * float(dataset.MaximumFractionalValue) if kind == "FRACTIONAL" else 1
    except UNPARSABLE as error:
        raise NotDicom(
            f"expected a DICOM Segmentation whose frames say where they lie, found {uid}, which cannot be decoded "
            f"({type(error).__name__}); have it written anew"
        ) from error
    for geometry, frame in frames:
        is_map = kind == "LABELMAP"
        for number in np.unique(frame).tolist() if is_map else [geometry.segment]:
            pixels = frame == number if is_map else frame >= least
            if number in labels and pixels.any():
                places = _places(geometry, pixels, source.volume, uid)
                masks[labels[number]][tuple(places.T)] = True
                slices.add(int(places[0, 0]))
    _check_not_coarser(slices, uid)
    return masks


def _check_references(dataset: Dataset, source: SourceVolume) -> None:
    uid, first = dataset.SOPInstanceUID, source.images[0]
    listed = _referenced(dataset).get(str(first.SeriesInstanceUID), set())
    missing = listed - {str(image.SOPInstanceUID) for image in source.images}
    if missing:
        raise GeometryError(
            f"expected a reference to images that are there, found that {uid} refers to {len(missing)} others of "
            f"series {first.SeriesInstanceUID}; complete the study"
        )
    frame, ours = dataset.get("FrameOfReferenceUID"), source.volume.frame_of_reference_uid
    if frame and ours and str(frame) != str(ours):
        raise GeometryError(
            f"expected a reference in the frame of reference {ours} of the images, found {uid} in {frame}; draw it on "
            "these images"
        )


def _places(geometry: FrameGeometry, pixels: Mask, volume: Volume, uid: str) -> NDArray[np.intp]:
    """Indices (slice, row, column), shape (pixels, 3), in the volume of the pixels of a frame."""
    to_indices = np.linalg.inv(volume.affine)
    down, along = (to_indices[:3, :3] @ geometry.affine[:, :2]).T
    start = to_indices[:3, :3] @ geometry.affine[:, 2] + to_indices[:3, 3]
    steps = np.stack([down, along])
    size = np.array(pixels.shape)
    drift = np.abs((steps - np.round(steps)) * size[:, None]).max()
    in_plane = np.abs(np.round(steps[:, 1:]))
    on_grid = drift < GRID_TOLERANCE and np.abs(start - np.round(start)).max() < GRID_TOLERANCE
    if not on_grid or np.round(steps[:, 0]).any() or sorted(in_plane.tolist()) != [[0, 1], [1, 0]]:
        raise GeometryError(
            f"expected a reference on the grid of the images that the model read, found {uid} on another one; draw it "
            "on these images, or bring it onto their grid"
        )
    places = np.round(start).astype(np.intp) + np.argwhere(pixels) @ np.round(steps).astype(np.intp)
    if (places < 0).any() or (places >= volume.spatial_shape).any():
        raise GeometryError(
            f"expected a reference within the images that the model read, found that {uid} reaches beyond them; "
            "complete the series, or draw the reference on these images"
        )
    return places


def _check_not_coarser(slices: set[int], uid: str) -> None:
    apart = int(np.gcd.reduce(np.diff(sorted(slices)))) if len(slices) >= COARSER_FROM else 1
    if apart > 1:
        raise GeometryError(
            f"expected a reference on each slice, found that {uid} has one on every {apart}. slice only: it was drawn "
            "on a coarser grid, or is not complete"
        )


def write_reference(labels: Volume, images: Sequence[Dataset], manifest: Manifest, path: Path) -> None:
    """Write a labelled array as a reference standard: a BINARY Segmentation of ``images`` with the manifest's codes.

    ``labels`` lies on the grid of ``build_volume(images)``: (slice, row, column), with the manifest's values. Every
    structure gets a segment, be it empty: that a structure is not there is known, then.

    Raises ValueError if it lies on another grid or has other values, GeometryError if the images form no volume.
    """
    source = build_volume(images)
    structures = sought(manifest)
    _check_labels(labels, source.volume, structures)
    numbers = np.zeros(256, np.uint8)
    for number, structure in enumerate(structures, start=1):
        numbers[structure.label] = number
    series_uid = str(source.images[0].SeriesInstanceUID)
    segmentation = hd.seg.Segmentation(
        source_images=source.images,
        pixel_array=numbers[labels.array][_frame_order(source)],
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            segment_of(number, each, algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL)
            for number, each in enumerate(structures, start=1)
        ],
        series_instance_uid=derived_uid("reference", manifest.name, series_uid, "series"),
        series_number=1,
        sop_instance_uid=derived_uid("reference", manifest.name, series_uid, "instance"),
        instance_number=1,
        manufacturer=f"{MANUFACTURER} reference",
        manufacturer_model_name="write_reference",
        software_versions=__version__,
        device_serial_number="1",
        content_label="REFERENCE",
        omit_empty_frames=bool(labels.array.any()),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    segmentation.save_as(path)


def _check_labels(labels: Volume, volume: Volume, structures: Sequence[Structure]) -> None:
    if labels.spatial_shape != volume.spatial_shape or not np.allclose(labels.affine, volume.affine, atol=1e-2):
        raise ValueError("expected labels on the grid of the images, found another grid")
    unknown = set(np.unique(labels.array).tolist()) - {0} - {structure.label for structure in structures}
    if unknown:
        raise ValueError(f"expected labels of the manifest, found {sorted(unknown)} too")


def _frame_order(source: SourceVolume) -> NDArray[np.intp]:
    """The slices in the order in which highdicom wants them: of single images as they lie, of a multi-frame image as
    its frames are numbered.
    """
    return np.argsort([plane.frame or 0 for plane in source.planes], kind="stable")
