"""Why a job changed its state, as one of a few classes: what statistics count by. The reason in words stands beside it.

A reason in words names UIDs and numbers of a study, and no two are equal; nothing can be counted by it, and it must
not become the label of a metric.
"""

from enum import StrEnum

from coread.errors import (
    ArchiveUnavailable,
    BrokerUnavailable,
    ConfigurationError,
    ContestedStudy,
    GeometryError,
    InputError,
    JobOverran,
    LedgerUnavailable,
    ModelError,
    NoSuitableSeries,
    NotDicom,
    OutOfMemory,
    ResultError,
    SourceGone,
    StudyChanged,
    TransientError,
    WaveformError,
)


class ReasonClass(StrEnum):
    """Of which kind a reason is."""

    NONE = "none"
    """There is nothing to be explained, or an older version wrote it."""
    NO_SERIES = "no_suitable_series"
    GEOMETRY = "geometry"
    WAVEFORM = "waveform"
    CONTESTED = "contested_study"
    GONE = "source_gone"
    NOT_DICOM = "not_dicom"
    INPUT = "other_input"
    CHANGED = "study_changed"
    MODEL_CHANGED = "model_changed"
    AWAY = "neighbour_away"
    """Orthanc, the ledger or the broker did not answer."""
    MEMORY = "out_of_memory"
    OVERRAN = "time_limit"
    SILENT = "worker_silent"
    """The worker's lease ended."""
    MODEL = "model"
    RESULT = "result"
    CONFIGURATION = "configuration"
    TRANSIENT = "other_transient"
    UNEXPECTED = "unexpected"
    """Nobody foresaw it: a mistake of Coread's or of a library's."""
    PERSON = "person"
    OUTSIDE = "outside_performer"


CLASSES: tuple[tuple[type[BaseException], ReasonClass], ...] = (
    (NoSuitableSeries, ReasonClass.NO_SERIES),
    (GeometryError, ReasonClass.GEOMETRY),
    (WaveformError, ReasonClass.WAVEFORM),
    (ContestedStudy, ReasonClass.CONTESTED),
    (SourceGone, ReasonClass.GONE),
    (NotDicom, ReasonClass.NOT_DICOM),
    (InputError, ReasonClass.INPUT),
    (StudyChanged, ReasonClass.CHANGED),
    (ArchiveUnavailable, ReasonClass.AWAY),
    (LedgerUnavailable, ReasonClass.AWAY),
    (BrokerUnavailable, ReasonClass.AWAY),
    (OutOfMemory, ReasonClass.MEMORY),
    (JobOverran, ReasonClass.OVERRAN),
    (ModelError, ReasonClass.MODEL),
    (ResultError, ReasonClass.RESULT),
    (ConfigurationError, ReasonClass.CONFIGURATION),
    (TransientError, ReasonClass.TRANSIENT),
)
"""Kinds of error, the more special before what they are a kind of."""


def reason_class_of(error: BaseException) -> ReasonClass:
    """The class of an error, decided by its type and never by its text."""
    return next((reason for kind, reason in CLASSES if isinstance(error, kind)), ReasonClass.UNEXPECTED)
