"""Matches what a person's object says to the job that it speaks of."""

from pathlib import Path

from coread.dicom_sr.feedback import Feedback, Found, Known, recognise
from coread.dicom_sr.identity import possible_instances
from coread.job import JobState
from coread.ledger.desk import JobDesk
from coread.workers.study import read_dicom


def feedback_in(path: Path, ledger: JobDesk) -> list[Feedback]:
    """What the object in a file says of our results in its study. Raises NotDicom if it is no DICOM file."""
    dataset = read_dicom(path)
    return recognise(dataset, known_results(ledger, str(dataset.StudyInstanceUID)))


def known_results(ledger: JobDesk, study_instance_uid: str) -> Known:
    """Our results in a study, those of superseded jobs too: people may speak of what was there before."""
    reviews = ledger.reviews(study_instance_uid=study_instance_uid)
    records = ledger.jobs(study_instance_uid=study_instance_uid)
    # What we wrote of a review may be answered in its turn.
    written = {uid: each.job_id for each in reviews for _, uid in each.objects}
    # A ledger that was restored from a backup does not know which results were stored since: they are ours.
    unknown = [record.job.job_id for record in records if not record.result]
    possible = {uid: job_id for job_id in unknown for uid in possible_instances(job_id)}
    return Known(
        by_instance=possible | written | {uid: record.job.job_id for record in records for uid in record.result_uids},
        by_tracking={uid: record.job.job_id for record in records for uid in record.result.get("tracking_uids", ())},
        found=[
            Found(
                job_id=record.job.job_id,
                series_instance_uid=record.result.get("series_instance_uid", ""),
                types=frozenset(
                    (each["code"][0], each["code"][1]) for each in record.result.get("findings", ()) if each["present"]
                ),
                names=frozenset(
                    " ".join(each["structure"].split()).casefold()
                    for each in record.result.get("findings", ())
                    if each["present"]
                ),
            )
            for record in records
            if record.state is JobState.DONE
        ],
    )
