"""Sends DICOM files by C-STORE, as a PACS or a scanner does."""

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pynetdicom import AE, evt

from coread.errors import ArchiveUnavailable

OUR_AET = "COREAD-SEND"
SUCCESS = 0x0000


def c_store(files: Sequence[Path], *, host: str, port: int, called_aet: str) -> None:
    """Send the files in one association. Raises ArchiveUnavailable unless each is stored with status 0000H."""
    entity = AE(ae_title=OUR_AET)
    headers = (dcmread(file, specific_tags=["SOPClassUID"], stop_before_pixels=True) for file in files)
    for sop_class, syntax in {(header.SOPClassUID, header.file_meta.TransferSyntaxUID) for header in headers}:
        entity.add_requested_context(sop_class, syntax)
    association = entity.associate(host, port, ae_title=called_aet, evt_handlers=[(evt.EVT_CONN_OPEN, _send_at_once)])
    if not association.is_established:
        raise ArchiveUnavailable(
            f"{called_aet} at {host}:{port} does not accept an association; is Orthanc running on that port?"
        )
    try:
        for dataset in map(dcmread, files):
            status = association.send_c_store(dataset)
            if not status or status.Status != SUCCESS:
                code = f"{status.Status:04X}H" if status else "no answer"
                raise ArchiveUnavailable(
                    f"expected status 0000H for {dataset.SOPInstanceUID}, found {code}; send it again"
                )
    finally:
        association.release()


def _send_at_once(event: Any) -> None:
    # Without this, each small message waits for the acknowledgement of the one before.
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
