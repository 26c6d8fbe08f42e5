"""The key file: the secret that pseudonyms follow from, and what is kept of a study besides.

Whoever has it can tell whether a pseudonym is that of somebody they know. So it is readable by its owner alone, and
stays where the patients' data are.
"""

import base64
import hashlib
import hmac
import json
import os
import secrets
import stat
import uuid
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from coread.errors import ConfigurationError

VERSION = 1
SECRET_BYTES = 32
OTHERS = stat.S_IRWXG | stat.S_IRWXO
LONGEST_SHIFT = 3650
"""Days. Dates go back by 1 to as many."""

OF_DICOM = "1.2.840.10008."
"""The root of the UIDs that the standard defines: classes, transfer syntaxes, well-known frames of reference."""


class Dates(StrEnum):
    """What becomes of dates and times."""

    SHIFTED = "shifted"
    """All of a patient's by the same number of days, times to the minute: what lies between two dates is kept (PS3.15
    E.3.6, Retain Longitudinal Temporal Information with Modified Dates)."""
    KEPT = "kept"
    """As they are (the same with Full Dates), but the date of birth."""
    REMOVED = "removed"


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The options of the profile that may be chosen (PS3.15 E.3)."""

    dates: Dates = Dates.SHIFTED
    characteristics: bool = True
    """Whether sex, age (up to 90 years), size and weight are kept, with what else PS3.15 E.3.5 lists in codes."""
    images: bool = False
    """Whether objects that show pixels of images are taken: somebody has looked, and no name is burned into them."""

    def as_json(self) -> dict[str, Any]:
        """The choices as JSON's types."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Choices":
        """What ``as_json`` gave. Raises ValueError, KeyError or TypeError if it is something else."""
        found = cls(dates=Dates(values["dates"]), characteristics=values["characteristics"], images=values["images"])
        if not isinstance(found.characteristics, bool) or not isinstance(found.images, bool):
            raise TypeError("expected true or false")
        return found


@dataclass(frozen=True, kw_only=True)
class Key:
    """A secret, and what follows from it. Nothing here is kept: it follows anew each time."""

    secret: bytes = field(repr=False)
    choices: Choices

    def uid(self, original: str) -> str:
        """The UID that stands for another: 2.25 and a UUID (PS3.5 B.2; RFC 9562 version 8, from an HMAC-SHA256). Empty
        stays empty, and what DICOM itself defines stays as it is.
        """
        if not original or original.startswith(OF_DICOM):
            return original
        number = int.from_bytes(self._mac("uid", original)[:16])
        number = number & ~(0xF << 76) & ~(0x3 << 62) | 0x8 << 76 | 0x2 << 62  # its version and variant
        return f"2.25.{uuid.UUID(int=number).int}"

    def patient(self, patient: str) -> str:
        """The PatientID that stands for a patient."""
        return "P" + self._word("patient", patient, of_bytes=10)

    def study(self, study_instance_uid: str) -> str:
        """The StudyID of a study."""
        return self._word("study", study_instance_uid, of_bytes=5)

    def place(self, kind: str, name: str) -> str:
        """What stands for the name of a place or a machine, so that studies from there can still be compared; empty
        stays empty.
        """
        return f"{kind}-{self._word(kind, name, of_bytes=5)}" if name else ""

    def job(self, job_id: str) -> str:
        """What stands for the id of a job; empty stays empty."""
        return self._mac("job", job_id).hex()[: len(job_id)]

    def shift(self, patient: str) -> timedelta:
        """By how much a patient's dates go back."""
        return timedelta(days=1 + int.from_bytes(self._mac("days", patient)[:8]) % LONGEST_SHIFT)

    @property
    def fingerprint(self) -> str:
        """By which a key table knows its key file."""
        return self._mac("fingerprint", "").hex()[:32]

    def _word(self, kind: str, value: str, *, of_bytes: int) -> str:
        return base64.b32encode(self._mac(kind, value)[:of_bytes]).decode("ascii")

    def _mac(self, kind: str, value: str) -> bytes:
        return hmac.digest(self.secret, f"{kind}\n{value}".encode(), hashlib.sha256)


def patient_of(patient_id: str, issuer: str, *, study_instance_uid: str) -> str:
    """What tells patients apart: two issuers may give the same PatientID. Of a study without one, the study itself."""
    return f"{issuer}\n{patient_id}" if patient_id else f"study {study_instance_uid}"


def make_key(path: Path, choices: Choices) -> bool:
    """Make a key file with a new secret, readable by its owner alone, unless there is one; whether it was made. Of two
    that make it at once, both end up with the same.
    """
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"coread_key": VERSION, "secret": secrets.token_hex(SECRET_BYTES), **choices.as_json()}
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(json.dumps(content, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(draft)
        except FileExistsError:
            return False
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True


def load_key(path: Path, *, choices: Choices | None = None) -> Key:
    """The key in a file. Raises ConfigurationError if others than its owner can read it, it is none, or it says other
    ``choices``.
    """
    rights = path.stat().st_mode if path.exists() else 0
    if not stat.S_ISREG(rights):
        raise ConfigurationError(f"expected a key file at {path}, found none; name the one that was used")
    if rights & OTHERS:
        raise ConfigurationError(
            f"expected that only its owner can read the key file {path}, found rights {stat.S_IMODE(rights):o}; "
            "find out who has read it, then say chmod 600"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = Key(secret=bytes.fromhex(values["secret"]), choices=Choices.from_json(values))
        is_known = values["coread_key"] == VERSION and len(found.secret) == SECRET_BYTES
    except (ValueError, KeyError, TypeError):
        is_known = False
    if not is_known:
        raise ConfigurationError(f"expected a key file of Coread's at {path}, found something else; name another file")
    if choices is not None and found.choices != choices:
        raise ConfigurationError(
            f"expected a key file that says {_words(choices)}, found {_words(found.choices)} in {path}; "
            "leave them out, or name a new key file"
        )
    return found


def _words(choices: Choices) -> str:
    return ", ".join(f"{name} {str(value).lower()}" for name, value in choices.as_json().items())
