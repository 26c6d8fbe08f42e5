"""Sends DICOM files by C-STORE, as a PACS or a scanner does."""

from collections.abc import Sequence
from pathlib import Path

from pydicom import dcmread
from pynetdicom import AE, evt

from coread.association import prepare
from coread.errors import ArchiveUnavailable

OUR_AET = "COREAD-SEND"
SUCCESS = 0x0000


def c_store(files: Sequence[Path], *, host: str, port: int, called_aet: str) -> None:
    """Send the files in one association. Raises ArchiveUnavailable unless each is stored with status 0000H."""
    entity = AE(ae_title=OUR_AET)
    headers = (dcmread(file, specific_tags=["SOPClassUID"], stop_before_pixels=True) for file in files)
    for sop_class, syntax in {(header.SOPClassUID, header.file_meta.TransferSyntaxUID) for header in headers}:
        entity.add_requested_context(sop_class, syntax)
    association = entity.associate(host, port, ae_title=called_aet, evt_handlers=[(evt.EVT_CONN_OPEN, prepare)])
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
