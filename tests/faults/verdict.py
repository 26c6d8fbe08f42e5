"""What must hold in the end: every study is read exactly once, and what came of it is what a calm run gives."""

from collections.abc import Iterator, Sequence

from coread.archive import Archive, ArchivedStudy
from coread.errors import InputError
from coread.job import JobState
from coread.ledger import JobRecord, Ledger
from coread.models.runner import BundleRunner
from coread.workers.pipeline import explain_refusal, read_study
from coread.workers.study import studies_in_folder
from tests.faults.cases import Case


def standing(jobs: Sequence[JobRecord]) -> list[JobRecord]:
    """The jobs that no other job stands in the place of."""
    return [record for record in jobs if record.state is not JobState.SUPERSEDED]


def complaints(
    cases: Sequence[Case], *, ledger: Ledger, archive: Archive, runner: BundleRunner, studies: Sequence[str]
) -> list[str]:
    """What is wrong, study by study. ``studies``: all that are in the archive, by their Orthanc ids."""
    archived = {study.study_instance_uid: study for study in map(archive.study, studies)}
    unknown = archived.keys() - {case.study_instance_uid for case in cases}
    return [
        *(f"a study that nobody sent: {uid}" for uid in sorted(unknown)),
        *(
            f"{case.name}: {complaint}"
            for case in cases
            for complaint in _complaints(case, archived.get(case.study_instance_uid), ledger, archive, runner)
        ),
    ]


def _complaints(
    case: Case, study: ArchivedStudy | None, ledger: Ledger, archive: Archive, runner: BundleRunner
) -> Iterator[str]:
    if study is None:
        yield "not in the archive"
        return
    present = {uid: orthanc_id for series in study.series for orthanc_id, uid in series.instances.items()}
    missing = case.sop_instance_uids - present.keys()
    if missing:
        yield f"{len(missing)} of {len(case.sop_instance_uids)} instances are not in the archive"
    jobs = ledger.jobs(study_instance_uid=case.study_instance_uid)
    if len(standing(jobs)) != 1:
        yield f"expected one job, found {sorted(record.state for record in jobs)}"
        return
    (record,) = standing(jobs)
    if record.state != case.end:
        yield f"expected {case.end}, found {record.state}: {record.reason}"
        return
    ended = [event for event in ledger.history(record.job.job_id) if event.to_state is JobState.DONE]
    if len(ended) != (case.end == JobState.DONE):
        yield f"ended as done {len(ended)} times"
    expected = _calm(case, record, runner)
    found = {uid: present[uid] for uid in present.keys() - case.sop_instance_uids}
    if found.keys() != expected.keys():
        extra, lost = found.keys() - expected.keys(), expected.keys() - found.keys()
        yield f"{len(extra)} objects in the archive that are no results of this job, {len(lost)} of its results not"
    if record.result_uids != expected.keys():
        yield "the ledger names other results than a calm run has"
    for uid in sorted(found.keys() & expected.keys()):
        (file,) = archive.files([found[uid]])
        if file != expected[uid]:
            yield f"a result differs from a calm run's: {uid}"


def _calm(case: Case, record: JobRecord, runner: BundleRunner) -> dict[str, bytes]:
    """SOP Instance UID → file of what the job writes where nothing dies, from the files that were sent."""
    (study,) = studies_in_folder(case.folder)
    job_id, created_at = record.job.job_id, record.job.created_at
    try:
        objects = read_study(study, runner, job_id=job_id, created_at=created_at).objects
    except InputError as error:
        objects = explain_refusal(study, runner, error, job_id=job_id, created_at=created_at).objects
    return {str(each.dataset.SOPInstanceUID): each.file() for each in objects}
