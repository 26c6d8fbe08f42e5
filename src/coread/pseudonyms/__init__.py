"""Results without their patients: objects and rows under pseudonyms that only a key file leads back from.

The profile is PS3.15 Annex E's Basic Application Level Confidentiality Profile with options, see `profile`. A pseudonym
follows from the original and the key file's secret, so that the same UID has the same pseudonym in every object and
every run that uses that key file, and nobody without it can tell the one from the other. What led to what is written
down beside the key file before an object is handed out.
"""

from collections.abc import Sequence
from pathlib import Path

from pydicom.dataset import Dataset

from coread.archive_table.row import StudyRow
from coread.pseudonyms.key import Choices, Dates, load_key, make_key, patient_of
from coread.pseudonyms.key_table import KeyTable, Tie, Tied
from coread.pseudonyms.profile import pseudonymised, ties_of
from coread.pseudonyms.rows import row_pseudonymised

__all__ = ["Choices", "Dates", "KeyTable", "Pseudonyms", "Tie", "load_key", "table_of"]


class Pseudonyms:
    """The pseudonyms of one key file. Safe to share between threads, and between processes by the files."""

    def __init__(self, key_file: Path, *, choices: Choices | None = None) -> None:
        """Opens the key file, or makes it, readable by its owner alone. ``choices``: what a new one says; None: the
        defaults for a new one, and for one that is there whatever it says.

        Raises ConfigurationError if others can read it, it is none, or it says other choices.
        """
        make_key(key_file, choices or Choices())
        self._key = load_key(key_file, choices=choices)
        self._table = KeyTable(table_of(key_file), key=self._key)

    def close(self) -> None:
        """Let go of the key table."""
        self._table.close()

    @property
    def choices(self) -> Choices:
        """What is kept, as the key file says."""
        return self._key.choices

    def uid(self, original: str) -> str:
        """The UID that stands for another, always the same; those that DICOM itself defines stay."""
        return self._key.uid(original)

    def dataset(self, original: Dataset) -> Dataset:
        """As ``datasets``, of one."""
        (found,) = self.datasets([original])
        return found

    def datasets(self, originals: Sequence[Dataset]) -> list[Dataset]:
        """The objects without what identifies the patient; the originals stay as they are. What leads back is in the
        key table when this returns, in one transaction.

        Raises NotPseudonymised if one shows pixels of images that nobody has looked at, or is a document of another
        format; LedgerUnavailable if the key table cannot be written.
        """
        found = [pseudonymised(original, self._key) for original in originals]
        self._table.add([tie for original in originals for tie in ties_of(original, self._key)])
        return found

    def row(self, row: StudyRow, *, patient_id: str, issuer: str = "") -> StudyRow:
        """A row of a run's table without what identifies the patient, tied back as objects are. ``patient_id`` and
        ``issuer``: PatientID and IssuerOfPatientID of the study, empty if it has none, or was never seen.

        Raises LedgerUnavailable if the key table cannot be written.
        """
        patient = patient_of(patient_id, issuer, study_instance_uid=row.study_instance_uid)
        found = row_pseudonymised(row, self._key, patient=patient)
        of_patient = self._key.patient(patient) if patient_id else ""
        ties = [
            Tie(
                pseudonym=found.study_instance_uid,
                kind=Tied.STUDY,
                original=row.study_instance_uid,
                part_of=of_patient,
            )
        ]
        if of_patient:
            ties.append(Tie(pseudonym=of_patient, kind=Tied.PATIENT, original=patient.strip()))
        if row.job_id:
            ties.append(
                Tie(pseudonym=found.job_id, kind=Tied.JOB, original=row.job_id, part_of=found.study_instance_uid)
            )
        self.tie_back(ties)
        return found

    def find(self, pseudonym: str) -> list[Tie]:
        """What a pseudonym stands for, then what that is a part of, and so on; empty if it is not known.

        Raises LedgerUnavailable if the key table cannot be read.
        """
        return self._table.find(pseudonym)

    def tie_back(self, ties: Sequence[Tie]) -> None:
        """Write down what leads back; what stands there already is left as it is."""
        self._table.add(ties)


def table_of(key_file: Path) -> Path:
    """The key table of a key file: beside it."""
    return key_file.with_name(key_file.name + ".sqlite")
