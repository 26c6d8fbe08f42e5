"""What a C-GET may bring: SOP classes and transfer syntaxes, in at most 128 presentation contexts (PS3.8 9.3.2.2)."""

from collections.abc import Iterable, Mapping, Sequence

from pydicom import uid
from pynetdicom.presentation import PresentationContext, build_context

LIMIT = 128
"""How many presentation contexts an association has room for: their identifiers are the odd numbers of a byte."""

UNCOMPRESSED = (str(uid.ExplicitVRLittleEndian), str(uid.ImplicitVRLittleEndian))
COMPRESSED = (
    str(uid.JPEGLosslessSV1),
    str(uid.JPEG2000Lossless),
    str(uid.JPEG2000),
    str(uid.JPEGBaseline8Bit),
    str(uid.JPEGLSLossless),
    str(uid.RLELossless),
    str(uid.JPEGExtended12Bit),
    str(uid.JPEGLSNearLossless),
    str(uid.JPEGLossless),
    str(uid.HTJ2KLossless),
    str(uid.HTJ2KLosslessRPCL),
    str(uid.HTJ2K),
    str(uid.DeflatedExplicitVRLittleEndian),
    str(uid.ExplicitVRBigEndian),
    str(uid.MPEG4HP41),
    str(uid.MPEG2MPML),
)
"""Each needs a context of its own, or the source would have to choose one for all instances of a class. The commonest
come first.
"""

SECONDARY_CAPTURES = (
    "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.7.2",
    "1.2.840.10008.5.1.4.1.1.7.4",
)
"""Secondary Capture, one frame, and many in grey (byte) and in colour: pictures in a series of any modality."""

BY_MODALITY: Mapping[str, Sequence[str]] = {
    "CT": ("2", "2.1", "2.2"),
    "MR": ("4", "4.1", "4.2", "4.3", "4.4"),
    "PT": ("128", "128.1", "130"),
    "NM": ("20",),
    "CR": ("1",),
    "DX": ("1.1", "1.1.1", "1"),
    "IO": ("1.3", "1.3.1"),
    "PX": ("1.1", "1.1.1"),
    "MG": ("1.2", "1.2.1", "13.1.3", "13.1.4", "13.1.5"),
    "US": ("6.1", "3.1", "6.2", "3", "6"),
    "IVUS": ("6.1", "3.1"),
    "XA": ("12.1", "12.1.1", "13.1.1"),
    "RF": ("12.2", "12.2.1"),
    "OT": ("7.1", "7.3"),
    "ES": ("77.1.1", "77.1.1.1"),
    "GM": ("77.1.2", "77.1.2.1"),
    "SM": ("77.1.6", "77.1.3"),
    "XC": ("77.1.4", "77.1.4.1"),
    "OP": ("77.1.5.1", "77.1.5.2"),
    "OPT": ("77.1.5.4",),
    "ECG": ("9.1.1", "9.1.2", "9.1.3"),
    "EPS": ("9.3.1",),
    "HD": ("9.2.1",),
    "SR": ("88.22", "88.33", "88.34", "88.35", "88.11", "88.65", "88.67", "88.50", "88.40", "88.68", "88.71"),
    "KO": ("88.59",),
    "PR": ("11.1", "11.2", "11.3", "11.4", "11.8"),
    "SEG": ("66.4", "66.7"),
    "REG": ("66.1", "66.3"),
    "RWV": ("67",),
    "RTSTRUCT": ("481.3",),
    "RTDOSE": ("481.2",),
    "RTPLAN": ("481.5", "481.8"),
    "RTIMAGE": ("481.1",),
    "DOC": ("104.1", "104.2"),
    "ANN": ("91.1",),
}
"""Modality → the ends of the UIDs of the SOP classes that its series are of (PS3.3 C.7.3.1.1.1, PS3.4 B.5)."""
STORAGE = "1.2.840.10008.5.1.4.1.1."
READ_MOST = ("CT", "MR", "DX", "CR", "ECG", "US", "PT", "XA", "MG", "NM", "OT", "SR", "SEG", "KO", "PR")
"""Modalities that are asked for where the source tells of none, or of none that is known."""


def sop_classes_of(modalities: Iterable[str]) -> list[str]:
    """The SOP classes that series of these modalities may be of, secondary captures included."""
    named = [each for each in modalities if each in BY_MODALITY]
    ends = [end for modality in named or READ_MOST for end in BY_MODALITY[modality]]
    return list(dict.fromkeys([*(f"{STORAGE}{end}" for end in ends), *SECONDARY_CAPTURES]))


def storage_contexts(sop_classes: Sequence[str], *, room: int) -> list[PresentationContext]:
    """The contexts in which instances of these SOP classes may come, as they are stored: ``room`` of them at most.

    With many classes, the rarer transfer syntaxes are left out; the source then decompresses, or says what failed.
    """
    wanted: list[tuple[str, Sequence[str]]] = [(sop_class, UNCOMPRESSED) for sop_class in sop_classes]
    wanted += [(sop_class, (syntax,)) for syntax in COMPRESSED for sop_class in sop_classes]
    return [build_context(sop_class, list(syntaxes)) for sop_class, syntaxes in wanted[:room]]
