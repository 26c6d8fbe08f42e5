"""A number for each voxel → Parametric Map of float32 (PS3.3 C.8.32), a frame for each source image, in their order.

Of a projection, which has no place in the patient, it is one frame whose groups for position and orientation are there
and say nothing: the groups are required, what they hold is required of ORIGINAL frames only (PS3.3 C.7.6.16.2.3 and 4).
"""

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.coding import Code
from pydicom.tag import Tag

from coread import codes
from coread.dicom_sr.frames import Frames, write_functional_groups, write_referenced_series
from coread.dicom_sr.header import code_item, in_series, pin_dimensions, plain
from coread.dicom_sr.identity import ResultIdentity
from coread.dicom_sr.source import Source
from coread.findings import ScalarMap
from coread.objects import ObjectKind


def encode_parametric_map(
    scalar_map: ScalarMap, source: Source, identity: ResultIdentity, *, number: int = 1
) -> Dataset:
    """``number``: which of the job's maps it is, from 1. Raises ValueError at numbers that are not finite."""
    values = np.ascontiguousarray(scalar_map.volume.array, dtype="<f4")
    if not np.isfinite(values).all():
        raise ValueError(f"expected finite numbers in the map {scalar_map.name}, found others")
    low, high = float(values.min()), float(values.max())
    part = f"{ObjectKind.MAP} {number}"
    is_projection = scalar_map.volume.frame_of_reference_uid is None
    template = hd.pm.ParametricMap(
        source_images=[_placed(source.template) if is_projection else source.template],
        pixel_array=values[:1],
        manufacturer_model_name=identity.model,
        software_versions=identity.version,
        device_serial_number=identity.digest[:16],
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            hd.pm.RealWorldValueMapping(
                lut_label=scalar_map.quantity.meaning[:16],
                lut_explanation=scalar_map.name[:64],
                unit=scalar_map.unit,
                value_range=(low, high),
                slope=1.0,
                intercept=0.0,
                quantity_definition=scalar_map.quantity,
            )
        ],
        voi_lut_transformations=[
            hd.VOILUTTransformation(
                window_center=(low + high) / 2,
                window_width=max(high - low, 1e-3),
                voi_lut_function=hd.VOILUTFunctionValues.LINEAR_EXACT,
            )
        ],
        content_label="MAP",
        content_description=scalar_map.name[:64],
        content_creator_name="Coread^AI",
        **in_series(identity, ObjectKind.MAP, part=part),
    )
    derivation = codes.UNSPECIFIED_METHOD if scalar_map.explains else codes.SEGMENTATION
    dataset = plain(template)
    pin_dimensions(dataset, identity, ObjectKind.MAP)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    anatomy = Dataset()
    anatomy.AnatomicRegionSequence = DicomSequence([code_item(scalar_map.anatomy)])
    anatomy.FrameLaterality = "U"
    shared.FrameAnatomySequence = DicomSequence([anatomy])
    write_referenced_series(dataset, source)
    if is_projection:
        _describe_projection(dataset, source, identity, derivation)
    else:
        every_plane = Frames(pixels=b"", planes=np.arange(len(values)), segments=None)
        write_functional_groups(dataset, every_plane, source.planes, derivation=derivation)
    dataset.FloatPixelData = values.tobytes()
    if source.header.get("BodyPartExamined"):
        dataset.BodyPartExamined = source.header.BodyPartExamined  # the laterality is the Frame Anatomy's
    return dataset


SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
"""Of a projection, the best first; without a calibration, at the detector."""
PLANE_GROUPS = ("PlanePositionSequence", "PlaneOrientationSequence")
IN_STACK_POSITION = Tag("InStackPositionNumber")
FRAME_CONTENT = Tag("FrameContentSequence")


def _placed(header: Dataset) -> Dataset:
    """A projection's header as the encoder wants it, as if it lay somewhere; that is taken out again afterwards."""
    place = Dataset()
    place.FrameOfReferenceUID = header.SOPInstanceUID
    place.ImagePositionPatient = [0, 0, 0]
    place.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    place.PixelSpacing, place.SliceThickness = [1, 1], 1
    return Dataset({**header, **place})


def _describe_projection(dataset: Dataset, source: Source, identity: ResultIdentity, derivation: Code) -> None:
    """The one frame: its source, and its pixels' size as far as the source knows it. The frame of reference is the
    source's own, else one that the map has to itself, since it must have one (PS3.3 C.7.4.1).
    """
    dataset.FrameOfReferenceUID = source.header.get("FrameOfReferenceUID") or identity.uid("frame of reference")
    dataset.PositionReferenceIndicator = source.header.get("PositionReferenceIndicator", "")
    shared, (own,) = dataset.SharedFunctionalGroupsSequence[0], dataset.PerFrameFunctionalGroupsSequence
    for groups in (shared, own):
        for keyword in PLANE_GROUPS:
            if keyword in groups:
                setattr(groups, keyword, DicomSequence([Dataset()]))
        for derived in groups.get("DerivationImageSequence", []):
            derived.DerivationCodeSequence = DicomSequence([code_item(derivation)])
    measures = Dataset()
    spacing = next((source.header.get(keyword) for keyword in SPACINGS if source.header.get(keyword)), None)
    if spacing is not None:
        measures.PixelSpacing = spacing
    shared.PixelMeasuresSequence = DicomSequence([measures])
    content = Dataset()
    content.StackID, content.InStackPositionNumber, content.DimensionIndexValues = "1", 1, [1]
    own.FrameContentSequence = DicomSequence([content])
    dimension = dataset.DimensionIndexSequence[0]
    dimension.DimensionIndexPointer, dimension.FunctionalGroupPointer = IN_STACK_POSITION, FRAME_CONTENT
    dimension.DimensionDescriptionLabel = "In-Stack Position Number"
    dataset.DimensionIndexSequence = DicomSequence([dimension])
