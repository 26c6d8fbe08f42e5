"""What was found in a study goes into the run's folder: rows, pictures, objects. Repeating it gives the same files."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from PIL import UnidentifiedImageError
from pydicom import dcmread

from coread.archive import Archive, ArchivedStudy
from coread.archive_run import RunStudy, RunStudyState, Terms
from coread.archive_table import KEYWORDS, RunStore, StudyRow, row_without_job, rows_of
from coread.errors import NotPseudonymised, SourceGone
from coread.job import JobState
from coread.ledger import JobRecord
from coread.logs import logger
from coread.pseudonyms import Pseudonyms

OF_PATIENT = ("PatientID", "IssuerOfPatientID")


class Collector:
    """Collects for one run."""

    def __init__(self, *, archive: Archive, store: RunStore, terms: Terms, pseudonyms: Pseudonyms | None) -> None:
        self._archive = archive
        self._store = store
        self._terms = terms
        self._pseudonyms = pseudonyms

    def collect(self, study: RunStudy, records: Sequence[JobRecord]) -> None:
        """Keep what the jobs of a study found. What is gone from Orthanc already, such as pictures of a reading from
        before, is left out.

        Raises OSError if the folder cannot be written, ArchiveUnavailable, and LedgerUnavailable for the key table.
        """
        here = self._study(study)
        rows: list[StudyRow] = []
        patient: Mapping[str, str] = {}
        for record in records:
            header = self._header(here, record)
            patient = patient or header
            row = rows_of([record], header, position=study.position)[0]
            if record.state is JobState.DONE and self._shows_pictures:
                self._keep_pictures(row)
            if record.state is JobState.DONE and self._terms.objects:
                row = self._keep_objects(row)
            rows.append(row)
        if not rows:
            rows = [
                row_without_job(
                    position=study.position,
                    study_instance_uid=study.study_instance_uid,
                    state=RunStudyState.FAILED,
                    reason="none of the run's models was in force when the study was to be read",
                )
            ]
        if self._pseudonyms is not None:
            patient_id, issuer = (patient.get(keyword, "") for keyword in OF_PATIENT)
            rows = [self._pseudonyms.row(row, patient_id=patient_id, issuer=issuer) for row in rows]
        self._store.write(study.position, rows)

    @property
    def _shows_pictures(self) -> bool:
        """Whether pictures are kept: they show what the images show."""
        return self._terms.pictures and (self._pseudonyms is None or self._pseudonyms.choices.images)

    def _study(self, study: RunStudy) -> ArchivedStudy | None:
        try:
            return None if study.orthanc_id is None else self._archive.study(study.orthanc_id)
        except SourceGone:
            return None

    def _header(self, here: ArchivedStudy | None, record: JobRecord) -> dict[str, str]:
        """The attributes that the tables want, of an image of the series that was read, or of any."""
        sources = here.sources if here is not None else []
        read = record.result.get("series_instance_uid")
        chosen = [each for each in sources if each.tags.get("SeriesInstanceUID") == read] or sources
        instance = next((orthanc_id for series in chosen for orthanc_id in sorted(series.instances)), None)
        try:
            header = {} if instance is None else self._archive.header(instance)
        except SourceGone:
            header = {}
        return {name: text for name in (*KEYWORDS, *OF_PATIENT) if isinstance(text := header.get(name), str)}

    def _keep_pictures(self, row: StudyRow) -> None:
        for number, picture in enumerate(row.pictures, start=1):
            try:
                png = self._archive.attachment(picture.instance, int(picture.attachment))
            except SourceGone:
                continue
            try:
                self._store.put_picture(row.position, row.model, number, png)
            except UnidentifiedImageError:
                logger().warning("picture left out: it is none", job_id=row.job_id, number=number)

    def _keep_objects(self, row: StudyRow) -> StudyRow:
        left_out = []
        for _, uid in row.objects:
            file = self._file(uid)
            if file is None:
                continue
            try:
                self._keep_object(row, uid, file)
            except NotPseudonymised as error:
                logger().warning("object not written", sop_instance_uid=uid, reason=str(error))
                left_out.append(f"{uid} was not written: {error}")
        return replace(row, reason="; ".join([*filter(None, [row.reason]), *left_out])) if left_out else row

    def _file(self, uid: str) -> bytes | None:
        orthanc_id = self._archive.find_instance(uid)
        try:
            return None if orthanc_id is None else next(self._archive.files([orthanc_id]))
        except SourceGone:
            return None

    def _keep_object(self, row: StudyRow, uid: str, file: bytes) -> None:
        study = row.study_instance_uid
        if self._pseudonyms is not None:
            dataset = self._pseudonyms.dataset(dcmread(BytesIO(file)))
            buffer = BytesIO()
            dataset.save_as(buffer, enforce_file_format=True)
            study, uid, file = self._pseudonyms.uid(study), str(dataset.SOPInstanceUID), buffer.getvalue()
        write_file(Path(self._terms.folder) / "objects" / study / f"{uid}.dcm", file)


def write_file(path: Path, content: bytes) -> None:
    """Write a file that its owner alone can read: it is there whole, or not at all.

    One thread of one process winds a run up, so what one that was killed has left of a file is written over.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    descriptor = os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
