"""Who and what made a result, and the UIDs that follow from it."""

import uuid
from dataclasses import dataclass, replace
from datetime import datetime

from pydicom.uid import UID

from coread import MANUFACTURER
from coread.objects import ObjectKind

_NAMESPACE = uuid.UUID("6e1c4b2e-6a53-5f0e-9c1b-64f1a3d0c7aa")
"""Ours alone: two different parts never give the same UID as anybody else's."""


MOST_MAPS = 255
"""One for each label that there can be."""

FILLED, EMPTIED = "filled", "emptied"
PHASES = (FILLED, EMPTIED)
"""The parts of a result that speaks of two phases, whatever a model calls them."""


def derived_uid(*parts: str) -> UID:
    """A UID that follows from the parts: 2.25 and a name-based UUID (PS3.5 B.2, RFC 9562 version 5)."""
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, chr(10).join(parts)).int}")


def possible_instances(job_id: str) -> frozenset[str]:
    """The SOP Instance UIDs of all objects that a job can ever give."""
    of_maps = (ObjectKind.MAP, ObjectKind.SC_MAP)
    parts = [*ObjectKind, *(f"{kind} {number}" for kind in of_maps for number in range(1, MOST_MAPS + 1))]
    of_phases = (("instance", part, phase) for part in parts for phase in PHASES)
    return frozenset(str(derived_uid(job_id, *of)) for of in (*(("instance", part) for part in parts), *of_phases))


@dataclass(frozen=True, kw_only=True)
class ResultIdentity:
    """The job and the model that a result comes from. All UIDs of the result derive from ``job_id``."""

    job_id: str
    model: str
    title: str
    version: str
    digest: str
    limits: str
    created_at: datetime
    manufacturer: str = MANUFACTURER
    phase: str = ""
    """Which of PHASES it speaks of; empty if of none, or of both."""

    def of_phase(self, phase: str, *, name: str) -> "ResultIdentity":
        """The same for what is said of one of PHASES, which people call ``name``: other UIDs, another title."""
        return replace(self, phase=phase, title=f"{self.title} {name}")

    def uid(self, *parts: str) -> UID:
        """The UID of a part of this job's result."""
        return derived_uid(self.job_id, *parts, *filter(None, [self.phase]))

    @property
    def device_uid(self) -> UID:
        """The UID of the observing device: the model as it was installed."""
        return derived_uid("device", self.model, self.version, self.digest)
