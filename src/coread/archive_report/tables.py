"""The tables of a run as Parquet: a row for each study and model, and a long one of findings.

Written in batches, so that a million studies take no more memory than a thousand. docs/archives.md describes the
columns.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from coread.archive_table import StudyRow
from coread.archive_table.row import NUMBERS, TEXTS
from coread.workers.input_numbers import NAMES as INPUT

STUDIES, FINDINGS, CHANGES = "studies.parquet", "findings.parquet", "changes.parquet"
BATCH = 10_000
"""Rows that are kept before they are written."""
COMPRESSION = "zstd"

_TEXT, _NUMBER, _WHOLE = pa.string(), pa.float64(), pa.int64()

STUDY_SCHEMA = pa.schema(
    [
        ("position", _WHOLE),
        ("study_instance_uid", _TEXT),
        *((name, _TEXT) for name in ("model", "model_version", "job_id", "state", "reason", "read_at", "review")),
        *((name, _TEXT) for name in TEXTS),
        ("patient_age_years", _NUMBER),
        *((name, _NUMBER) for name in NUMBERS),
        *((f"input_{name}", _NUMBER) for name in INPUT),
        ("seconds", _NUMBER),
        ("sop_instance_uids", pa.list_(_TEXT)),
    ]
)
FINDING_SCHEMA = pa.schema(
    [
        ("position", _WHOLE),
        *((name, _TEXT) for name in ("study_instance_uid", "model", "finding", "kind")),
        ("value", _NUMBER),
        *((name, _TEXT) for name in ("unit", "category")),
    ]
)
CHANGE_SCHEMA = pa.schema(
    [
        ("position", _WHOLE),
        *((name, _TEXT) for name in ("study_instance_uid", "model", "finding", "kind", "unit")),
        *((name, _NUMBER) for name in ("earlier_value", "value", "difference")),
        *((name, _TEXT) for name in ("earlier_category", "category")),
        ("size", _NUMBER),
    ]
)


def begin_file(path: Path) -> None:
    """An empty file that its owner alone can read, in the place of what is there, be it a link to elsewhere."""
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


@dataclass(eq=False)
class Batches:
    """A Parquet file that is written batch by batch. It has its name only once it is whole."""

    path: Path
    schema: pa.Schema
    _columns: dict[str, list[Any]] = field(init=False)
    _writer: Any = field(init=False)

    def __post_init__(self) -> None:
        self._columns = {name: [] for name in self.schema.names}
        begin_file(self._partial)
        self._writer = pq.ParquetWriter(self._partial, self.schema, compression=COMPRESSION)

    @property
    def _partial(self) -> Path:
        return self.path.with_name(f".{self.path.name}.part")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()
        if kind is None:
            self._partial.replace(self.path)
        else:
            self._partial.unlink(missing_ok=True)

    def add(self, values: Mapping[str, Any]) -> None:
        """A row; a column that it does not have is null."""
        for name, column in self._columns.items():
            column.append(values.get(name))
        if len(self._columns["position"]) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._columns["position"]:
            self._writer.write_table(pa.table(self._columns, schema=self.schema))
            self._columns = {name: [] for name in self.schema.names}


def study_values(row: StudyRow, *, review: str = "") -> dict[str, Any]:
    """The row of a study and model. A text that the header does not have is null, as a number is."""
    return {
        "position": row.position,
        "study_instance_uid": row.study_instance_uid,
        "model": row.model,
        "model_version": row.model_version,
        "job_id": row.job_id,
        "state": row.state,
        "reason": row.reason,
        "read_at": row.read_at or None,
        "review": review or None,
        **{name: getattr(row, name) or None for name in TEXTS},
        "patient_age_years": row.patient_age_years,
        **{name: getattr(row, name) for name in NUMBERS},
        **{f"input_{name}": value for name, value in row.input.items()},
        "seconds": sum(row.seconds.values()) if row.seconds else None,
        "sop_instance_uids": [uid for _, uid in row.objects],
    }


def finding_values(row: StudyRow) -> Iterator[dict[str, Any]]:
    """The rows of the long table."""
    for each in row.findings:
        yield {
            "position": row.position,
            "study_instance_uid": row.study_instance_uid,
            "model": row.model,
            "finding": each.name,
            "kind": str(each.kind),
            "value": each.value,
            "unit": each.unit or None,
            "category": each.category or None,
        }
