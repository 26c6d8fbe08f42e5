"""What other parts of Coread add to a study's row and page: each in one function, so that none knows the list."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from coread.ledger import JobRecord, Ledger
from coread.plugin.pictures import pictures_of
from coread.plugin.reviews import described
from coread.plugin.viewers import links_of
from coread.plugin.worklist.rows import Facts
from coread.review import counting
from coread.settings import Settings
from coread.words import key_finding, sentences

OfJobs = Callable[[Sequence[JobRecord]], Mapping[str, Mapping[str, Any]]]
"""Jobs → what is added to each: job id → further keys."""


def _nothing_raised(_orthanc_ids: Collection[str]) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    return {}


def _no_runs(_studies: Mapping[str, str]) -> Mapping[str, str]:
    return {}


def _no_verdicts(_records: Sequence[JobRecord]) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Joined:
    """The parts that are there. Each default adds nothing."""

    key_finding: Callable[[Mapping[str, Any]], str] = lambda _result: ""
    """A job's result → the one short line that says what was found."""
    of_jobs: Sequence[OfJobs] = ()
    """What is added to the jobs on a study's page: findings in words, pictures, reviews, deliveries."""
    raised: Callable[[Collection[str]], Mapping[str, Sequence[Mapping[str, Any]]]] = _nothing_raised
    """Orthanc ids → those that findings have raised, and by what."""
    archive_runs: Callable[[Mapping[str, str]], Mapping[str, str]] = _no_runs
    """Studies (Orthanc id → StudyInstanceUID) → those that an archive run alone has brought, and which."""
    verdicts: Callable[[Sequence[JobRecord]], Mapping[str, str]] = _no_verdicts
    """Jobs → what people say of those that they have reviewed: job id → `accepted`, `edited` or `rejected`."""
    viewers: Callable[[Facts], Sequence[Mapping[str, str]]] = lambda _facts: ()
    """Where a study can be looked at: name and url of each."""


def standard_parts(settings: Settings, ledger: Ledger) -> Joined:
    """The parts of Coread, each in one line."""
    return Joined(
        key_finding=key_finding,
        of_jobs=(_words, pictures_of, partial(_reviews, ledger), partial(_deliveries, ledger)),
        raised=partial(_raised, ledger),
        archive_runs=ledger.brought_by_runs,
        verdicts=partial(_verdicts, ledger),
        viewers=partial(_viewers, settings),
    )


def _words(records: Sequence[JobRecord]) -> Mapping[str, Mapping[str, Any]]:
    """What was found, in sentences."""
    return {record.job.job_id: {"words": sentences(record.result)} for record in records}


def _reviews(ledger: Ledger, records: Sequence[JobRecord]) -> Mapping[str, Mapping[str, Any]]:
    """What people say of the results."""
    return {
        job_id: {"reviews": described(reviews)}
        for job_id, reviews in ledger.reviews_of(record.job.job_id for record in records).items()
    }


def _verdicts(ledger: Ledger, records: Sequence[JobRecord]) -> Mapping[str, str]:
    """The verdict that counts of each result that was reviewed."""
    reviewed = ledger.reviews_of(record.job.job_id for record in records)
    return {job_id: count.verdict for job_id, reviews in reviewed.items() if (count := counting(reviews)) is not None}


def _raised(ledger: Ledger, orthanc_ids: Collection[str]) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """What raises studies."""
    return {study: [each.as_json() for each in raised] for study, raised in ledger.raised(orthanc_ids).items()}


def _viewers(settings: Settings, facts: Facts) -> Sequence[Mapping[str, str]]:
    """Links to the study in viewers."""
    return links_of(
        settings,
        {
            "StudyInstanceUID": facts.study_instance_uid,
            "AccessionNumber": facts.accession_number,
            "PatientID": facts.patient_id,
            "orthanc_id": facts.orthanc_id,
        },
    )


def _deliveries(ledger: Ledger, records: Sequence[JobRecord]) -> Mapping[str, Mapping[str, Any]]:
    """Where the results go."""
    return {
        record.job.job_id: {"deliveries": [each.as_json() for each in ledger.deliveries(job_id=record.job.job_id)]}
        for record in records
        if record.job.destinations
    }
