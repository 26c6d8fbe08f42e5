"""What a workitem must hold when it is created, changed and ended: the columns of PS3.4 Table CC.2.5-3."""

from collections.abc import Mapping
from typing import Any

from coread.plugin.ups import dataset as dicom
from coread.plugin.ups.dataset import BadRequest, Dataset
from coread.workitem import PRIORITIES, WorkitemState

AT_CREATION = (
    "ProcedureStepLabel",
    "ScheduledProcedureStepPriority",
    "ScheduledProcedureStepStartDateTime",
    "InputReadinessState",
    "ProcedureStepState",
)
"""N-CREATE, type 1: with a value."""

MAY_BE_EMPTY = (
    "WorklistLabel",
    "ScheduledProcessingParametersSequence",
    "ScheduledStationNameCodeSequence",
    "ScheduledStationClassCodeSequence",
    "ScheduledStationGeographicLocationCodeSequence",
    "ScheduledWorkitemCodeSequence",
    "CommentsOnTheScheduledProcedureStep",
    "InputInformationSequence",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "AdmissionID",
    "IssuerOfAdmissionIDSequence",
    "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence",
    "ReferencedRequestSequence",
    "ProcedureStepProgressInformationSequence",
    "UnifiedProcedureStepPerformedProcedureSequence",
)
"""N-CREATE, type 2: where one is absent, it is created empty, which the answer says."""

EMPTY_AT_CREATION = (
    "TransactionUID",
    "ProcedureStepProgressInformationSequence",
    "UnifiedProcedureStepPerformedProcedureSequence",
)

NOT_CHANGED = (
    "SOPClassUID",
    "SOPInstanceUID",
    "AffectedSOPClassUID",
    "AffectedSOPInstanceUID",
    "ProcedureStepState",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "AdmissionID",
    "ReferencedRequestSequence",
)
"""N-SET: not allowed."""

READINESS = ("INCOMPLETE", "UNAVAILABLE", "READY")

PROCEDURE = "UnifiedProcedureStepPerformedProcedureSequence"
PROGRESS = "ProcedureStepProgressInformationSequence"
FINAL_STATE: Mapping[WorkitemState, tuple[tuple[str, str], ...]] = {
    WorkitemState.COMPLETED: (
        (PROCEDURE, "PerformedStationNameCodeSequence"),
        (PROCEDURE, "PerformedProcedureStepStartDateTime"),
        (PROCEDURE, "PerformedProcedureStepEndDateTime"),
        (PROCEDURE, "PerformedWorkitemCodeSequence"),
    ),
    WorkitemState.CANCELED: (
        (PROGRESS, "ProcedureStepCancellationDateTime"),
        (PROGRESS, "ProcedureStepDiscontinuationReasonCodeSequence"),
    ),
}
"""Final state → what must have a value in the first item of which sequence. What a completed step gave must be stated,
too, be it that there is nothing (OutputInformationSequence, type 2).
"""


def checked_new(dataset: Mapping[str, Any]) -> tuple[Dataset, bool]:
    """A new workitem's dataset as it is kept, and whether empty attributes were added. Raises BadRequest."""
    lacking = [keyword for keyword in AT_CREATION if not dicom.text_of(dataset, keyword)]
    if lacking:
        raise BadRequest(f"expected values of {', '.join(lacking)} (PS3.4 Table CC.2.5-3), found none")
    if dicom.text_of(dataset, "ProcedureStepState") != WorkitemState.SCHEDULED:
        raise BadRequest("ProcedureStepState: expected SCHEDULED for a new workitem (C309)")
    filled = [keyword for keyword in EMPTY_AT_CREATION if dicom.values_of(dataset, keyword)]
    if filled:
        raise BadRequest(f"expected no values of {', '.join(filled)} in a new workitem")
    check_values(dataset)
    absent = [keyword for keyword in MAY_BE_EMPTY if not dicom.has(dataset, keyword)]
    named = dicom.without(dataset, ("AffectedSOPClassUID", "AffectedSOPInstanceUID", "TransactionUID"))
    return {**dicom.of(**dict.fromkeys(absent)), **named}, bool(absent)


def checked_change(dataset: Mapping[str, Any]) -> Dataset:
    """What an update changes. Raises BadRequest if it is not to be changed."""
    change = dicom.without(dataset, ("TransactionUID",))
    named = [keyword for keyword in NOT_CHANGED if dicom.has(change, keyword)]
    if named:
        raise BadRequest(f"{', '.join(named)}: an update cannot change this (PS3.4 Table CC.2.5-3)")
    check_values(change)
    return change


def check_values(dataset: Mapping[str, Any]) -> None:
    """Raises BadRequest if an enumerated value is none of those that are defined (PS3.3 C.30)."""
    known = {"ScheduledProcedureStepPriority": tuple(PRIORITIES.values()), "InputReadinessState": READINESS}
    for keyword, values in known.items():
        if dicom.has(dataset, keyword) and dicom.text_of(dataset, keyword) not in values:
            raise BadRequest(f"{keyword}: expected one of {', '.join(values)}, found something else")


def missing_for(state: WorkitemState, dataset: Mapping[str, Any]) -> list[str]:
    """What must be there before a workitem ends, and is not."""
    missing = [
        f"{sequence}.{keyword}"
        for sequence, keyword in FINAL_STATE[state]
        if not any(dicom.values_of(item, keyword) for item in dicom.items_of(dataset, sequence)[:1])
    ]
    if state is WorkitemState.COMPLETED and not any(
        dicom.has(item, "OutputInformationSequence") for item in dicom.items_of(dataset, PROCEDURE)[:1]
    ):
        missing.append(f"{PROCEDURE}.OutputInformationSequence")
    return missing


def study_of(dataset: Mapping[str, Any]) -> str | None:
    """The StudyInstanceUID of the input, else of the request; None if there is none, or there are several."""
    for sequence in ("InputInformationSequence", "ReferencedRequestSequence"):
        studies = {dicom.uid_in(item, "StudyInstanceUID") for item in dicom.items_of(dataset, sequence)} - {None}
        if studies:
            return studies.pop() if len(studies) == 1 else None
    return None


def outputs_in(dataset: Mapping[str, Any]) -> list[dict[str, Any]]:
    """UIDs of what a performer says that it has made. Raises BadRequest where something else stands in their place."""
    return [
        {
            "study_instance_uid": dicom.uid_in(output, "StudyInstanceUID"),
            "series_instance_uid": dicom.uid_in(output, "SeriesInstanceUID"),
            "sop_instance_uids": [
                dicom.uid_in(instance, "ReferencedSOPInstanceUID")
                for instance in dicom.items_of(output, "ReferencedSOPSequence")
            ],
        }
        for procedure in dicom.items_of(dataset, PROCEDURE)
        for output in dicom.items_of(procedure, "OutputInformationSequence")
    ]
