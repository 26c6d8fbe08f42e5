"""What an archive run found, kept in the run's folder: a row for each study and model, reduced pictures, and tables."""

from coread.archive_table.row import (
    KEYWORDS,
    FindingKind,
    RowFinding,
    RowPicture,
    StudyRow,
    row_without_job,
    rows_of,
)
from coread.archive_table.store import RunStore

__all__ = [
    "KEYWORDS",
    "FindingKind",
    "RowFinding",
    "RowPicture",
    "RunStore",
    "StudyRow",
    "row_without_job",
    "rows_of",
]
