"""The twelve leads of a standard ECG, and the codes by which DICOM names them. Light: manifests name leads, too."""

from collections.abc import Mapping
from typing import Literal, get_args

Lead = Literal["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]

TWELVE_LEADS: tuple[Lead, ...] = get_args(Lead)
"""In the order in which they are printed."""

CHANNEL_SOURCES: Mapping[Lead, tuple[str, str]] = {
    "I": ("2:1", "Lead I"),
    "II": ("2:2", "Lead II"),
    "III": ("2:61", "Lead III"),
    "aVR": ("2:62", "aVR, augmented voltage, right"),
    "aVL": ("2:63", "aVL, augmented voltage, left"),
    "aVF": ("2:64", "aVF, augmented voltage, foot"),
    "V1": ("2:3", "Lead V1"),
    "V2": ("2:4", "Lead V2"),
    "V3": ("2:5", "Lead V3"),
    "V4": ("2:6", "Lead V4"),
    "V5": ("2:7", "Lead V5"),
    "V6": ("2:8", "Lead V6"),
}
"""Lead → value and meaning of its code in MDC (ISO/IEEE 11073-10101, CID 3001)."""

_MDC_BLOCK, _SCPECG_TABLE = "2:", "5.6.3-9-"

LEAD_OF_CODE: Mapping[tuple[str, str], Lead] = {
    code: lead
    for lead, (value, _) in CHANNEL_SOURCES.items()
    for code in (("MDC", value), ("SCPECG", value.replace(_MDC_BLOCK, _SCPECG_TABLE)))
}
"""Scheme and value of a ChannelSourceSequence's code → lead. SCPECG numbers leads as MDC does; older files have it.
What CID 3001 calls derived (2:31 and further) was computed from other electrodes, and is none of these."""
