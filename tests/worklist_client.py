"""A client of UPS-RS: dicomweb-client's HTTP, with the transactions of PS3.18 chapter 11, which it lacks."""

import json
from typing import Any

import requests
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset

MEDIA_TYPE = {"Content-Type": "application/dicom+json"}


class WorklistClient(DICOMwebClient):
    """Raises requests.HTTPError where the server refuses."""

    @property
    def workitems_url(self) -> str:
        return f"{self.base_url}/workitems"

    def create_workitem(self, workitem: Dataset) -> str:
        """The new workitem's UID."""
        answer = self._http_post(self.workitems_url, json.dumps([workitem.to_json_dict()]).encode(), dict(MEDIA_TYPE))
        assert answer.status_code == requests.codes.created
        return answer.headers["Location"].rpartition("/")[2]

    def search_for_workitems(self, **asked: str) -> list[Dataset]:
        found = self._http_get_application_json(self.workitems_url, params=asked)
        return [Dataset.from_json(each) for each in found]

    def retrieve_workitem(self, uid: str) -> Dataset:
        (found,) = self._http_get_application_json(f"{self.workitems_url}/{uid}")
        return Dataset.from_json(found)

    def update_workitem(self, uid: str, change: Dataset) -> None:
        self._http_post(f"{self.workitems_url}/{uid}", json.dumps([change.to_json_dict()]).encode(), dict(MEDIA_TYPE))

    def change_state(self, uid: str, state: str, *, transaction_uid: str) -> requests.Response:
        wish = Dataset()
        wish.ProcedureStepState = state
        wish.TransactionUID = transaction_uid
        body = json.dumps([wish.to_json_dict()])
        answer = self._session.put(f"{self.workitems_url}/{uid}/state", data=body, headers=MEDIA_TYPE)
        answer.raise_for_status()
        return answer

    def request_cancellation(self, uid: str) -> requests.Response:
        return self._http_post(f"{self.workitems_url}/{uid}/cancelrequest", b"", {})

    def subscribe(self, uid: str, aet: str) -> None:
        self._http_post(f"{self.workitems_url}/{uid}/subscribers/{aet}", b"", {})

    def events(self, aet: str, *, after: int = 0, wait_s: float = 0) -> dict[str, Any]:
        root = self.base_url.removesuffix("/dicom-web")
        answer = self._session.get(f"{root}/coread/ups/events/{aet}", params={"after": after, "wait": wait_s})
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found


def code(value: str, scheme: str = "99TEST", meaning: str = "Test") -> Dataset:
    item = Dataset()
    if len(value) > 16:
        item.LongCodeValue = value
    else:
        item.CodeValue = value
    item.CodingSchemeDesignator, item.CodeMeaning = scheme, meaning
    return item


def new_workitem(*, study_instance_uid: str, workitem_code: Dataset | None = None, priority: str = "MEDIUM") -> Dataset:
    """What a scheduler sends: PS3.4 Table CC.2.5-3, N-CREATE."""
    workitem, study = Dataset(), Dataset()
    study.TypeOfInstances, study.StudyInstanceUID = "DICOM", study_instance_uid
    workitem.SpecificCharacterSet = "ISO_IR 192"
    workitem.ProcedureStepState = "SCHEDULED"
    workitem.ScheduledProcedureStepPriority = priority
    workitem.ProcedureStepLabel = "Read the heart"
    workitem.WorklistLabel = "AI"
    workitem.ScheduledProcedureStepStartDateTime = "20260101120000"
    workitem.InputReadinessState = "READY"
    workitem.ScheduledWorkitemCodeSequence = [workitem_code or code("1")]
    workitem.InputInformationSequence = [study]
    workitem.PatientName, workitem.PatientID = "Scheduled^Patient", "SECRET-17"
    return workitem


def performed(*, start: str = "20260101120000", end: str = "20260101120500") -> Dataset:
    """What a performer says before it completes a workitem."""
    procedure, output, instance, change = Dataset(), Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.33", "1.2.3.4.5"
    output.TypeOfInstances, output.StudyInstanceUID, output.SeriesInstanceUID = "DICOM", "1.2.3", "1.2.3.4"
    output.ReferencedSOPSequence = [instance]
    procedure.PerformedStationNameCodeSequence = [code("PERFORMER")]
    procedure.PerformedWorkitemCodeSequence = [code("1")]
    procedure.PerformedProcedureStepStartDateTime = start
    procedure.PerformedProcedureStepEndDateTime = end
    procedure.OutputInformationSequence = [output]
    change.UnifiedProcedureStepPerformedProcedureSequence = [procedure]
    return change
