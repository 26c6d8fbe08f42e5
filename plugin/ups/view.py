"""Workitems as datasets: a job of ours as one, and what a scheduler wrote together with what became of it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from coread import __version__
from coread.archive import Reference
from coread.job import JobState
from coread.ledger import JobRecord, Workitem
from coread.ledger.jobs import is_outside
from coread.ledger.workitems import JobTimes
from coread.plugin.ups import dataset as dicom
from coread.plugin.ups.dataset import Dataset
from coread.workitem import FINAL, PRIORITIES, WorkitemState, state_of_job, uid_of_job

UPS_PUSH = "1.2.840.10008.5.1.4.34.6.1"
"""The SOP class of every workitem (PS3.4 CC.3.1)."""
SCHEME = "99COREAD"
UTF_8 = "ISO_IR 192"

STATION = dicom.code("COREAD", SCHEME, "Coread")

DISCONTINUED: Mapping[JobState, tuple[str, str]] = {
    JobState.REFUSED: ("110522", "Object Types not supported"),
    JobState.FAILED: ("110501", "Equipment failure"),
    JobState.CANCELLED: ("110513", "Discontinued for unspecified reason"),
    JobState.SUPERSEDED: ("110528", "Discontinued Procedure Step rescheduled"),
}
"""A job's last state → why its workitem is CANCELED (CID 9300 and 9302)."""
UNSPECIFIED = DISCONTINUED[JobState.CANCELLED]

PROGRESS: Mapping[JobState, str] = {
    JobState.WAITING: "waits to be tried again",
    JobState.QUEUED: "waits to be tried again",
    JobState.RUNNING: "is being performed",
    JobState.STORING: "the results are being stored",
}

PATIENT = ("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex")
SECRET = ("TransactionUID",)
"""Never answered: whoever knows it may change the workitem (PS3.4 CC.2.7.3)."""

ENDS = ("UnifiedProcedureStepPerformedProcedureSequence", "ProcedureStepProgressInformationSequence")


def code_of_model(model: str) -> Dataset:
    """The Scheduled Workitem Code of a model."""
    return dicom.code(model, SCHEME, model)


def of_job(
    record: JobRecord,
    times: JobTimes,
    *,
    aet: str,
    about: Mapping[str, str],
    references: Sequence[Reference] | None,
    performer: Mapping[str, Any],
) -> Dataset:
    """A job as a workitem. ``about``: what Orthanc keeps at hand of the study and its patient; ``references``: its
    instances, None if they are not wanted; ``performer``: what an outside performer has said.
    """
    job = record.job
    state = state_of_job(record.state, attempts=record.attempts)
    view = dicom.of(
        SpecificCharacterSet=UTF_8,
        SOPClassUID=UPS_PUSH,
        SOPInstanceUID=uid_of_job(job.job_id, record.runs),
        ProcedureStepState=state.value,
        ScheduledProcedureStepPriority=PRIORITIES[job.priority],
        ScheduledProcedureStepModificationDateTime=dicom.when(
            max(filter(None, [times.ended_at, times.begun_at, job.created_at]))
        ),
        ProcedureStepLabel=f"Reading by {job.model}"[:64],
        WorklistLabel="Coread",
        ScheduledStationNameCodeSequence=STATION,
        ScheduledStationClassCodeSequence=None,
        ScheduledStationGeographicLocationCodeSequence=None,
        ScheduledProcessingParametersSequence=None,
        ScheduledProcedureStepStartDateTime=dicom.when(job.created_at),
        ScheduledWorkitemCodeSequence=code_of_model(job.model),
        CommentsOnTheScheduledProcedureStep=None,
        InputReadinessState="READY",
        InputInformationSequence=inputs_of(job.study_instance_uid, references, aet=aet),
        ReferencedRequestSequence=dicom.of(
            StudyInstanceUID=job.study_instance_uid,
            AccessionNumber=about.get("AccessionNumber") or None,
            RequestedProcedureID=None,
        ),
        AdmissionID=None,
        IssuerOfAdmissionIDSequence=None,
        AdmittingDiagnosesDescription=None,
        AdmittingDiagnosesCodeSequence=None,
        **{keyword: about.get(keyword) or None for keyword in PATIENT},
    )
    # What somebody said who lost the job, it being a worker's now, is said of nothing that was performed.
    said = dicom.without(performer, SECRET if is_outside(record) else (*SECRET, *ENDS))
    return {**view, **course_of(record, times, aet=aet, references=references), **said}


def of_scheduled(
    workitem: Workitem,
    written: Mapping[str, Any],
    *,
    record: JobRecord | None,
    times: JobTimes,
    aet: str,
    references: Sequence[Reference] | None,
) -> Dataset:
    """What a scheduler wrote, with its state, and what our job does, or has done, for it. ``record``: that job."""
    view = {
        **written,
        **dicom.of(
            SOPClassUID=UPS_PUSH,
            SOPInstanceUID=workitem.uid,
            ProcedureStepState=workitem.state.value,
            ScheduledProcedureStepPriority=workitem.priority,
            ScheduledProcedureStepModificationDateTime=dicom.when(workitem.changed_at),
        ),
    }
    is_performed_outside = record is not None and is_outside(record)
    if record is not None and workitem.outcome:
        is_performed_outside = "outputs" in workitem.outcome["result"]
        record = as_it_ended(record, workitem.outcome)
        begun_at = min(filter(None, [times.begun_at, workitem.changed_at]))
        times = JobTimes(begun_at=begun_at, ended_at=workitem.changed_at)
    if record is not None and not is_performed_outside:
        view |= course_of(record, times, aet=aet, references=references)
    elif workitem.state is WorkitemState.CANCELED and not dicom.items_of(view, ENDS[1]):
        view |= dicom.of(
            ProcedureStepProgressInformationSequence=_cancelled(
                UNSPECIFIED, str(workitem.outcome.get("reason", "")), dicom.when(workitem.changed_at)
            )
        )
    return dicom.without(view, SECRET)


def as_it_ended(record: JobRecord, outcome: Mapping[str, Any]) -> JobRecord:
    """The job as it was when the workitem ended: it may have run again since."""
    return JobRecord(
        job=record.job,
        state=JobState(outcome["job_state"] or JobState.CANCELLED),
        reason=str(outcome.get("reason", "")),
        attempts=max(1, record.attempts),
        worker=record.worker,
        result=outcome.get("result") or {},
        runs=record.runs,
    )


def course_of(record: JobRecord, times: JobTimes, *, aet: str, references: Sequence[Reference] | None) -> Dataset:
    """Progress and performed procedure of a job."""
    state = state_of_job(record.state, attempts=record.attempts)
    if state is WorkitemState.SCHEDULED:
        return dicom.of(
            ProcedureStepProgressInformationSequence=None, UnifiedProcedureStepPerformedProcedureSequence=None
        )
    # A job that runs again has an earlier end, which is not this run's.
    ended = dicom.when(times.ended_at) if times.ended_at and state in FINAL else None
    if state is WorkitemState.COMPLETED:
        progress = dicom.of(ProcedureStepProgress="100")
    elif state is WorkitemState.CANCELED:
        progress = _cancelled(DISCONTINUED[record.state], record.reason, ended)
    else:
        progress = dicom.of(ProcedureStepProgressDescription=PROGRESS[record.state])
    course = {"ProcedureStepProgressInformationSequence": progress}
    if times.begun_at is not None:
        course["UnifiedProcedureStepPerformedProcedureSequence"] = dicom.of(
            PerformedStationNameCodeSequence=dicom.code(
                "COREAD" if not is_outside(record) else "OUTSIDE", SCHEME, (record.worker or "Coread")[:64]
            ),
            PerformedProcessingApplicationsCodeSequence=dicom.code(__version__[:16], SCHEME, f"Coread {__version__}"),
            PerformedProcedureStepStartDateTime=dicom.when(times.begun_at),
            PerformedWorkitemCodeSequence=code_of_model(record.job.model),
            PerformedProcedureStepDescription=f"{record.job.model} {record.job.model_version}"[:64],
            PerformedProcedureStepEndDateTime=ended,
            OutputInformationSequence=outputs_of(record, references, aet=aet) if ended else None,
        )
    return dicom.of(**course)


def inputs_of(study_instance_uid: str, references: Sequence[Reference] | None, *, aet: str) -> list[Dataset]:
    """The source series of a study; without references, the study alone."""
    if references is None:
        return [dicom.of(TypeOfInstances="DICOM", StudyInstanceUID=study_instance_uid)]
    return _access(study_instance_uid, (each for each in references if each.is_source), aet=aet)


def outputs_of(record: JobRecord, references: Sequence[Reference] | None, *, aet: str) -> list[Dataset]:
    """The result objects of a job; those that are not in the archive any more, or where nobody looked, without their
    series.
    """
    uids = record.result.get("sop_instance_uids", ())
    classes = dict(zip(uids, record.result.get("sop_class_uids", ()), strict=False))
    there = {each.sop_instance_uid: each for each in references or ()}
    found = [
        there.get(uid)
        or Reference(series_instance_uid="", sop_class_uid=classes.get(uid, ""), sop_instance_uid=uid, is_source=False)
        for uid in uids
    ]
    return _access(record.job.study_instance_uid, found, aet=aet)


def _access(study_instance_uid: str, references: Iterable[Reference], *, aet: str) -> list[Dataset]:
    """The Referenced Instances and Access Macro (PS3.3 Table 10-3b), an item for each series."""
    by_series: dict[str, list[Reference]] = {}
    for each in references:
        by_series.setdefault(each.series_instance_uid, []).append(each)
    return [
        dicom.of(
            TypeOfInstances="DICOM",
            StudyInstanceUID=study_instance_uid,
            SeriesInstanceUID=series or None,
            ReferencedSOPSequence=[
                dicom.of(
                    ReferencedSOPClassUID=each.sop_class_uid or None, ReferencedSOPInstanceUID=each.sop_instance_uid
                )
                for each in instances
            ],
            DICOMRetrievalSequence=dicom.of(RetrieveAETitle=aet),
        )
        for series, instances in sorted(by_series.items())
    ]


def _cancelled(reason: tuple[str, str], text: str, at: str | None) -> Dataset:
    value, meaning = reason
    return dicom.of(
        ReasonForCancellation=text or None,
        ProcedureStepCancellationDateTime=at,
        ProcedureStepDiscontinuationReasonCodeSequence=dicom.code(value, "DCM", meaning),
    )
