"""A modality worklist that answers what a test tells it to."""

from collections.abc import Iterator
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import ModalityWorklistInformationFind  # type: ignore[attr-defined]

from coread.orthanc_process import free_port

AET = "RIS"


class WorklistServer:
    """It compares AccessionNumber, PatientID and StudyInstanceUID; a key that is empty fits everything."""

    def __init__(self) -> None:
        self.entries: list[Dataset] = []
        self.asked = 0
        self.port = free_port()
        ae = AE(ae_title=AET)
        ae.add_supported_context(ModalityWorklistInformationFind)
        address = ("127.0.0.1", self.port)
        self._server = ae.start_server(address, block=False, evt_handlers=[(evt.EVT_C_FIND, self._find)])

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
        self._server = None

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset]]:
        self.asked += 1
        for entry in self.entries:
            if all(_fits(entry, event.identifier, key) for key in ("AccessionNumber", "PatientID", "StudyInstanceUID")):
                yield 0xFF00, entry


def _fits(entry: Dataset, query: Dataset, keyword: str) -> bool:
    return query.get(keyword) in (None, "") or entry.get(keyword) == query.get(keyword)


def entry(
    *, patient_id: str, study_instance_uid: str, procedure: Dataset, priority: str, accession_number: str = ""
) -> Dataset:
    """A scheduled procedure step as a RIS lists it (PS3.4 Table K.6-1)."""
    step, found = Dataset(), Dataset()
    step.ScheduledProcedureStepDescription = "Cardiac function"
    step.ScheduledProtocolCodeSequence = [procedure]
    found.PatientName, found.PatientID, found.AccessionNumber = "TEST^PATIENT", patient_id, accession_number
    found.StudyInstanceUID = study_instance_uid
    found.RequestedProcedurePriority = priority
    found.RequestedProcedureCodeSequence = [procedure]
    found.ScheduledProcedureStepSequence = [step]
    return found
