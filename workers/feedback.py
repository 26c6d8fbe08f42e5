"""Matches what a person's object says to the job that it speaks of."""

from pathlib import Path

from coread.dicom_sr.feedback import Feedback, Known, recognise
from coread.ledger import Ledger
from coread.workers.study import read_dicom


def feedback_in(path: Path, ledger: Ledger) -> list[Feedback]:
    """What the object in a file says of our results in its study. Raises NotDicom if it is no DICOM file."""
    dataset = read_dicom(path)
    return recognise(dataset, known_results(ledger, str(dataset.StudyInstanceUID)))


def known_results(ledger: Ledger, study_instance_uid: str) -> Known:
    """Our results in a study, those of superseded jobs too: people may speak of what was there before."""
    records = ledger.jobs(study_instance_uid=study_instance_uid)
    return Known(
        by_instance={uid: record.job.job_id for record in records for uid in record.result_uids},
        by_tracking={uid: record.job.job_id for record in records for uid in record.result.get("tracking_uids", ())},
    )
