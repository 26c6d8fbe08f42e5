"""The plan of an archive run: a file that says which studies, and what they will take. It is read before anything runs,
kept, and carried out as often as one likes.

JSON Lines: the first line is the header, each further one a study. A cohort may have a million studies, so it is
written and read line by line. It holds no name, number or date of birth of a patient; studies are told by their
StudyInstanceUID, so it belongs to its owner alone (mode 0600).
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from coread.errors import ConfigurationError

FORMAT = 1
"""The version of the file's format, under ``coread_plan``."""
UID = re.compile(r"[0-9.]{1,64}")
LONGEST_LINE = 10_000
"""Bytes of a line, its end included."""


@dataclass(frozen=True, kw_only=True)
class PlannedStudy:
    """A study of a plan. What the source does not say is None."""

    study_instance_uid: str
    instances: int | None = None
    bytes: int | None = None
    """Bytes of its files, measured; not an estimate."""
    study_date: str = ""
    """YYYYMMDD; empty if the source does not say."""
    modalities: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The study as JSON's types; what is not known is left out."""
        return {
            "study_instance_uid": self.study_instance_uid,
            **({} if self.instances is None else {"instances": self.instances}),
            **({} if self.bytes is None else {"bytes": self.bytes}),
            "study_date": self.study_date,
            "modalities": list(self.modalities),
        }


@dataclass(frozen=True, kw_only=True)
class PlanHeader:
    """What a plan says of itself."""

    name: str
    made_at: datetime
    source: str
    """The name of a `[[source]]`, or ``here``."""
    query: Mapping[str, Any]
    """What was asked for, in the words of the command; values of keys that identify people are left out."""
    models: tuple[str, ...]
    """The models that the estimate is for; a run may name others."""
    studies: int
    instances: int | None
    """Of all studies; None if the source does not say it of each."""
    bytes: int | None
    """Measured; None if the source does not say it of each."""
    estimate: Mapping[str, Any] = field(default_factory=dict)
    """What the run is thought to take, and from what that was concluded."""

    def as_json(self) -> dict[str, Any]:
        """The header as JSON's types."""
        values = {**asdict(self), "made_at": self.made_at.isoformat(), "models": list(self.models)}
        return {"coread_plan": FORMAT, **values}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A plan that has been read and found whole."""

    path: Path
    header: PlanHeader
    digest: str
    """SHA-256 of the file, hexadecimal."""

    def studies(self) -> Iterator[PlannedStudy]:
        """The studies in the order of the file, line by line. Raises ConfigurationError if it was changed meanwhile."""
        with _open(self.path) as lines:
            next(lines)
            for number, line in enumerate(lines, start=2):
                yield _study(line, where=f"{self.path}, line {number}")


def write_plan(path: Path, header: PlanHeader, studies: Iterable[PlannedStudy]) -> None:
    """Write a plan in the place of what is there: it is there whole, or not at all. Only its owner can read it.

    Raises ConfigurationError if the header is too long for a line.
    """
    first = json.dumps(header.as_json(), ensure_ascii=False) + "\n"
    if len(first.encode()) > LONGEST_LINE:
        raise ConfigurationError(
            f"the query is too long for a plan: its first line would have more than {LONGEST_LINE} bytes; ask for less"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", newline="\n", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:  # mode 0600
        try:
            file.write(first)
            for study in studies:
                file.write(json.dumps(study.as_json()) + "\n")
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def read_plan(path: Path) -> Plan:
    """Read a plan to its end, to see that it is whole, without keeping it.

    Raises ConfigurationError, which names the line, if it is none, or not as it was written.
    """
    digest, count, header, seen = hashlib.sha256(), 0, None, -1
    with _open(path, each=digest.update) as lines:
        for seen, line in enumerate(lines):
            if header is None:
                header = _header(line, where=f"{path}, line 1")
            else:
                _study(line, where=f"{path}, line {seen + 1}")
                count += 1
    if header is None:
        raise ConfigurationError(f"{path} is empty; expected a plan, made by `coread archive plan`")
    if count != header.studies:
        raise ConfigurationError(
            f"{path} has {count} studies, and its first line says {header.studies}: it was cut off or changed; make it "
            "again with `coread archive plan`"
        )
    return Plan(path=path, header=header, digest=digest.hexdigest())


class _open:  # noqa: N801  # a context manager that reads like `open`
    """The lines of a file, each of which ``each`` is shown as it lies there."""

    def __init__(self, path: Path, *, each: Callable[[bytes], object] = lambda _line: None) -> None:
        self._path, self._each = path, each

    def __enter__(self) -> Iterator[str]:
        try:
            self._file = self._path.open("rb")
        except OSError as error:
            raise ConfigurationError(f"the plan {self._path} cannot be read: {error.strerror}") from error
        return self._lines()

    def __exit__(self, *_exit: object) -> None:
        self._file.close()

    def _lines(self) -> Iterator[str]:
        number = 0
        while line := self._file.readline(LONGEST_LINE):
            number += 1
            if not line.endswith(b"\n"):
                raise ConfigurationError(f"{self._path}, line {number}: it does not end; the file was cut off")
            self._each(line)
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ConfigurationError(f"{self._path}, line {number}: expected UTF-8; this is no plan") from error


def _header(line: str, *, where: str) -> PlanHeader:
    values = _object(line, where=where)
    if values.get("coread_plan") != FORMAT:
        raise ConfigurationError(
            f"{where}: expected a plan of format {FORMAT}, as `coread archive plan` of this version writes it"
        )
    try:
        return PlanHeader(
            name=_of(str, values["name"]),
            made_at=datetime.fromisoformat(values["made_at"]),
            source=_of(str, values["source"]),
            query=_of(dict, values["query"]),
            models=_texts(values["models"]),
            studies=_count(values["studies"]) or 0,
            instances=_count(values["instances"]),
            bytes=_count(values["bytes"]),
            estimate=_of(dict, values["estimate"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{where}: expected the header of a plan; make it again") from error


def _study(line: str, *, where: str) -> PlannedStudy:
    values = _object(line, where=where)
    try:
        uid = _of(str, values["study_instance_uid"])
        study = PlannedStudy(
            study_instance_uid=uid,
            instances=_count(values.get("instances")),
            bytes=_count(values.get("bytes")),
            study_date=_of(str, values.get("study_date", "")),
            modalities=_texts(values.get("modalities", [])),
        )
    except (KeyError, TypeError) as error:
        raise ConfigurationError(f"{where}: expected a study of a plan; make it again") from error
    if not UID.fullmatch(uid):
        raise ConfigurationError(f"{where}: expected a StudyInstanceUID; make the plan again")
    return study


def _object(line: str, *, where: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{where}: expected JSON; this is no plan, or it was changed") from error
    if not isinstance(values, dict):
        raise ConfigurationError(f"{where}: expected a JSON object; this is no plan, or it was changed")
    return values


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError
    return value


def _texts(values: Sequence[Any]) -> tuple[str, ...]:
    return tuple(_of(str, value) for value in _of(list, values))


def _count(value: Any) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise TypeError
    return value
