"""The kinds of result object, and which of them a destination wants."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType


class ObjectKind(StrEnum):
    """What a result object is. Its name ends the object's file name; nothing of it stands in the object."""

    SEG = "SEG"
    """Segmentation, BINARY: what every viewer that knows segmentations displays."""
    SEG_FRACTIONAL = "SEG-FRACTIONAL"
    """Segmentation, FRACTIONAL PROBABILITY: how sure the model is of each voxel. OHIF cannot display it."""
    SEG_LABELMAP = "SEG-LABELMAP"
    """Label Map Segmentation, uncompressed: small for many segments. Orthanc takes it from 1.12.9 on."""
    SEG_LABELMAP_RLE = "SEG-LABELMAP-RLE"
    """Label Map Segmentation, RLE Lossless."""
    SR = "SR"
    """Measurement report, TID 1500 with TID 1411 groups that refer to segments."""
    SR_KEY_FINDINGS = "SR-KEY"
    """Measurement report, TID 1500 with TID 1410 groups: outlines on key slices, which OHIF displays."""
    SR_CLASSIFICATION = "SR-CLASS"
    """Measurement report, TID 1500 with TID 1501 groups: the classes of the study and how certain they are."""
    SR_ABSENT = "SR-ABSENT"
    """Measurement report, TID 1500 with TID 1501 groups: what was looked for and not found."""
    SR_NOT_EVALUATED = "SR-NOT-EVALUATED"
    """Measurement report, TID 1500 with TID 1501 groups: what was not looked for, and why."""
    MAP = "MAP"
    """Parametric Map of float32: probability or saliency."""
    GSPS = "GSPS"
    """Grayscale Softcopy Presentation State: outlines over the source images."""
    SC = "SC"
    """Multi-frame True Color Secondary Capture with burned-in outlines, for viewers that know nothing better."""
    KOS = "KOS"
    """Key Object Selection: the images that show the findings best."""
    RTSTRUCT = "RTSTRUCT"
    """RT Structure Set: outlines for treatment planning."""
    SC_MAP = "SC-MAP"
    """Multi-frame True Color Secondary Capture with a saliency map blended over the images."""


class Profile(StrEnum):
    """What a destination of results can show."""

    OHIF = "ohif"
    """A web viewer that displays BINARY segmentations, and reports whose groups have outlines."""
    SLICER = "slicer"
    """3D Slicer and other users of dcmqi. Reports with outlines would make it ignore the segmentation."""
    LEGACY = "legacy"
    """A PACS viewer that knows images, presentation states and key objects."""


ALWAYS = frozenset({ObjectKind.SR_CLASSIFICATION, ObjectKind.SR_ABSENT, ObjectKind.SR_NOT_EVALUATED})
"""Which of them there are depends on what was found, not on a choice: a negative must be said."""

DEFAULT_OBJECTS: Mapping[Profile, Sequence[ObjectKind]] = {
    Profile.OHIF: (ObjectKind.SEG, ObjectKind.SR, ObjectKind.SR_KEY_FINDINGS),
    Profile.SLICER: (ObjectKind.SEG, ObjectKind.SR),
    Profile.LEGACY: (ObjectKind.SC, ObjectKind.GSPS, ObjectKind.KOS),
}
"""What is written for a destination, where a model's package does not say otherwise."""


SALIENCY_OBJECTS: Mapping[Profile, Sequence[ObjectKind]] = {
    Profile.OHIF: (ObjectKind.SC_MAP,),  # it lays a parametric map over a stack of slices only, and fails on others
    Profile.SLICER: (ObjectKind.MAP,),
    Profile.LEGACY: (ObjectKind.SC_MAP,),
}
"""What is written besides if a classifier says where it looked, where its package does not say otherwise."""

SALIENCY_OF_PROJECTIONS: Mapping[Profile, Sequence[ObjectKind]] = dict.fromkeys(Profile, (ObjectKind.SC_MAP,))
"""The same of a radiograph: no viewer lays a map over an image that has no place in the patient."""


def wanted_objects(
    profiles: Sequence[Profile],
    chosen: Mapping[Profile, Sequence[ObjectKind]],
    *,
    besides: Mapping[Profile, Sequence[ObjectKind]] = MappingProxyType({}),
) -> frozenset[ObjectKind]:
    """Every kind that one of the destinations wants; ``chosen`` by the package goes before the defaults, to which
    ``besides`` are added.
    """
    kinds = {
        kind
        for profile in profiles
        for kind in chosen.get(profile, (*DEFAULT_OBJECTS[profile], *besides.get(profile, ())))
    }
    return frozenset(kinds) | ALWAYS
