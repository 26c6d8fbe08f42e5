"""A number for each voxel → Parametric Map of float32 (PS3.3 C.8.32), a frame for each source image, in their order."""

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

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
    template = hd.pm.ParametricMap(
        source_images=[source.template],
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
    dataset = plain(template)
    pin_dimensions(dataset, identity, ObjectKind.MAP)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    anatomy = Dataset()
    anatomy.AnatomicRegionSequence = DicomSequence([code_item(scalar_map.anatomy)])
    anatomy.FrameLaterality = "U"
    shared.FrameAnatomySequence = DicomSequence([anatomy])
    write_referenced_series(dataset, source)
    every_plane = Frames(pixels=b"", planes=np.arange(len(values)), segments=None)
    write_functional_groups(dataset, every_plane, source.planes, derivation=codes.SEGMENTATION)
    dataset.FloatPixelData = values.tobytes()
    if source.header.get("BodyPartExamined"):
        dataset.BodyPartExamined = source.header.BodyPartExamined  # the laterality is the Frame Anatomy's
    return dataset
