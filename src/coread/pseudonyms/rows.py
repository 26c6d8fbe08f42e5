"""A row of a run's table without what identifies the patient.

Light: nothing here needs pydicom.
"""

from dataclasses import replace
from datetime import timedelta

from coread.archive_table.row import FindingKind, RowFinding, StudyRow
from coread.pseudonyms.dates import shifted
from coread.pseudonyms.key import Dates, Key
from coread.pseudonyms.words import cleaned

OLDEST_YEARS = 90.0


def row_pseudonymised(row: StudyRow, key: Key, *, patient: str) -> StudyRow:
    """The row under pseudonyms. What may be compared stays comparable: machines and places get names that tell
    nothing; scanner models stay. Orthanc's ids go, because they are made of the PatientID.

    ``patient``: see `key.patient_of`.
    """
    choices = key.choices
    age = row.patient_age_years
    return replace(
        row,
        study_instance_uid=key.uid(row.study_instance_uid),
        orthanc_id="",
        job_id=key.job(row.job_id),
        reason=_text(row.reason, row, key),
        read_at=row.read_at[:10],
        study_date=_date(row.study_date, choices.dates, back=key.shift(patient)),
        station_name=key.place("station", row.station_name),
        institution_name=key.place("institution", row.institution_name),
        patient_sex=row.patient_sex if choices.characteristics else "",
        patient_age_years=min(age, OLDEST_YEARS) if age is not None and choices.characteristics else None,
        findings=tuple(_finding(each, row, key) for each in row.findings),
        pictures=tuple(replace(each, instance="", attachment="") for each in row.pictures),
        objects=tuple((sop_class_uid, key.uid(uid)) for sop_class_uid, uid in row.objects),
    )


def _finding(finding: RowFinding, row: StudyRow, key: Key) -> RowFinding:
    """Why something was not evaluated is a sentence, which may hold UIDs; everything else are words of the model's."""
    if finding.kind is not FindingKind.NOT_EVALUATED:
        return finding
    return replace(finding, category=_text(finding.category, row, key))


def _text(text: str, row: StudyRow, key: Key) -> str:
    return cleaned(text, key=key, job_id=row.job_id)


def _date(date: str, dates: Dates, *, back: timedelta) -> str:
    if dates is Dates.REMOVED:
        return ""
    return date if dates is Dates.KEPT else shifted(date, "DA", back=back)
