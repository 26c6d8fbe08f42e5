"""What every way to a destination has in common: the objects, and what a destination's answers mean."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from pydicom.filereader import read_file_meta_info

from coread.delivery import ObjectState


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What names a SOP instance."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """An object to be sent: a DICOM file."""

    reference: Reference
    transfer_syntax_uid: str
    file: Path


class Transport(Protocol):
    """An open way to one destination."""

    def send(self, parcel: Parcel) -> ObjectState:
        """Send an object. SENT if the destination has yet to say that it keeps it, CONFIRMED if it has said so.

        Raises DeliveryRefused if it will never take it, DestinationBusy or DestinationUnavailable if it did not this
        time, DestinationSilent if nobody knows.
        """

    def ask(self, objects: Mapping[Reference, ObjectState]) -> Mapping[str, ObjectState]:
        """Ask which of these objects, which were sent or begun to be, the destination keeps.

        Gives SOP Instance UID → CONFIRMED, or WAITING if the object is not there or nobody can say. What is missing in
        the answer is answered later, or has been noted in the ledger by then. Raises a TransientError if it cannot be
        asked now.
        """


class Verdict(Enum):
    """What a status means for the object."""

    TAKEN = "taken"
    REFUSED = "refused"
    BUSY = "busy"


REFUSALS = frozenset({0x0106, 0x0115, 0x0117, 0x0119, 0x0122, 0x0124, 0x0211, 0x0212})
"""Statuses of PS3.7 Annex C that another attempt cannot change: invalid attribute or argument value, invalid object
instance, class-instance conflict, SOP class not supported, not authorized, unrecognized operation, mistyped
argument."""
DUPLICATE = 0x0111
"""Duplicate SOP instance (PS3.7 C.5.7): it is there already."""


def verdict_on(status: int) -> Verdict:
    """What the status of a C-STORE (PS3.4 B.2.3), or the Failure Reason of a STOW-RS (PS3.18 10.5.3), means.

    Warnings (Bxxx) say that the object was stored. What is not known to be final is tried again.
    """
    if status in (0x0000, DUPLICATE) or status >> 12 == 0xB:
        return Verdict.TAKEN
    if status in REFUSALS or status >> 12 == 0xC or status >> 8 == 0xA9:
        return Verdict.REFUSED
    return Verdict.BUSY


def parcel_of(file: Path) -> Parcel:
    """The object in a DICOM file, told by its File Meta Information (PS3.10 7.1)."""
    meta = read_file_meta_info(file)
    reference = Reference(
        sop_class_uid=str(meta.MediaStorageSOPClassUID), sop_instance_uid=str(meta.MediaStorageSOPInstanceUID)
    )
    return Parcel(reference=reference, transfer_syntax_uid=str(meta.TransferSyntaxUID), file=file)
