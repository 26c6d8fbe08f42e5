"""What one model found in one study of an archive run, as a flat row: the unit of the run's tables and its report.

Made from what the worker wrote down and from a few header attributes. No name, no identifier and no date of birth of
the patient goes in. Light: nothing here needs numpy.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self

from coread.ledger.jobs import JobRecord
from coread.patient_age import age_years

NUMBERS: Mapping[str, str] = {
    "kvp": "KVP",
    "slice_thickness_mm": "SliceThickness",
    "magnetic_field_strength_t": "MagneticFieldStrength",
    "repetition_time_ms": "RepetitionTime",
    "echo_time_ms": "EchoTime",
}
"""Column → keyword of a number; the first value counts."""

TEXTS: Mapping[str, str] = {
    "study_date": "StudyDate",
    "modality": "Modality",
    "manufacturer": "Manufacturer",
    "manufacturer_model_name": "ManufacturerModelName",
    "station_name": "StationName",
    "software_versions": "SoftwareVersions",
    "institution_name": "InstitutionName",
    "body_part_examined": "BodyPartExamined",
    "convolution_kernel": "ConvolutionKernel",
    "patient_sex": "PatientSex",
}
"""Column → keyword of a text."""

OF_AGE = ("PatientAge", "PatientBirthDate", "StudyDate")
"""What the age is told from. The date of birth goes no further."""

KEYWORDS = tuple(dict.fromkeys((*TEXTS.values(), *NUMBERS.values(), *OF_AGE)))
"""The attributes that a header should be asked for."""


class FindingKind(StrEnum):
    """What a finding is, and so what its value and its category mean."""

    STRUCTURE = "structure"
    """Whether a structure was found. Category: present or absent; no value."""
    MEASUREMENT = "measurement"
    """Of a structure, which the name begins with. Value and unit."""
    CLASS = "class"
    """An answer. Category: what holds; value: its probability, if the model tells it."""
    NUMBER = "number"
    """Of the study as a whole. Value and unit."""
    MARKS = "marks"
    """How many boxes or landmarks of a type there are. Value."""
    PROBABILITY = "probability"
    """Of the most probable mark of a type. Value."""
    NOT_EVALUATED = "not evaluated"
    """What would have been told and was not. Category: why."""


@dataclass(frozen=True, kw_only=True)
class RowFinding:
    """One thing that a model said of a study. ``name`` and ``kind`` are the same in every study that it is said of."""

    name: str
    kind: FindingKind
    value: float | None = None
    unit: str = ""
    """UCUM; empty where there is no value."""
    category: str = ""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The finding that ``asdict`` gave."""
        return cls(**{**values, "kind": FindingKind(values["kind"])})


@dataclass(frozen=True, kw_only=True)
class RowPicture:
    """A key image, and where the worker left it: an attachment of an instance in Orthanc."""

    caption: str
    instance: str = ""
    """Orthanc's id."""
    attachment: str = ""
    """Orthanc's number of it."""


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """One model's reading of one study. A study that no model got to see has one row without a model."""

    position: int
    """The study's place in the plan, from 0 on."""
    study_instance_uid: str
    orthanc_id: str = ""
    model: str = ""
    model_version: str = ""
    job_id: str = ""
    state: str
    """How the job ended, or the study if it has none."""
    reason: str = ""
    read_at: str = ""
    """When the reading ended, ISO 8601 in UTC; empty if it was not read."""

    study_date: str = ""
    """DICOM's DA, as the header has it."""
    modality: str = ""
    manufacturer: str = ""
    manufacturer_model_name: str = ""
    station_name: str = ""
    software_versions: str = ""
    institution_name: str = ""
    body_part_examined: str = ""
    convolution_kernel: str = ""
    patient_sex: str = ""
    patient_age_years: float | None = None
    kvp: float | None = None
    slice_thickness_mm: float | None = None
    magnetic_field_strength_t: float | None = None
    repetition_time_ms: float | None = None
    echo_time_ms: float | None = None

    input: Mapping[str, float] = field(default_factory=dict)
    """Numbers of what the model was given to read, see `coread.workers.input_numbers`."""
    findings: tuple[RowFinding, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Stage of the reading → how long it took."""
    pictures: tuple[RowPicture, ...] = ()
    objects: tuple[tuple[str, str], ...] = ()
    """(SOP Class UID, SOP Instance UID) of the result objects."""

    def as_json(self) -> dict[str, Any]:
        """The row as JSON's types."""
        return {
            **asdict(self),
            "input": dict(self.input),
            "seconds": dict(self.seconds),
            "findings": [asdict(each) for each in self.findings],
            "pictures": [asdict(each) for each in self.pictures],
            "objects": [list(pair) for pair in self.objects],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The row that ``as_json`` gave."""
        return cls(
            **{
                **values,
                "findings": tuple(map(RowFinding.from_json, values["findings"])),
                "pictures": tuple(RowPicture(**each) for each in values["pictures"]),
                "objects": tuple((one, other) for one, other in values["objects"]),
            }
        )


def rows_of(records: Sequence[JobRecord], header: Mapping[str, str], *, position: int) -> list[StudyRow]:
    """A row for each job of a study. ``header``: keyword → text, several values with a backslash between them, of one
    of the images that were read (`KEYWORDS`); what it lacks is left open.
    """
    facts = header_facts(header)
    return [
        StudyRow(
            position=position,
            study_instance_uid=record.job.study_instance_uid,
            orthanc_id=record.job.orthanc_id,
            model=record.job.model,
            model_version=record.job.model_version,
            job_id=record.job.job_id,
            state=str(record.state),
            reason=record.reason,
            **facts,
            **_of_result(record.result),
        )
        for record in records
    ]


def row_without_job(
    *, position: int, study_instance_uid: str, state: str, reason: str, header: Mapping[str, str] | None = None
) -> StudyRow:
    """The row of a study that came to no model: it could not be retrieved, or has nothing that a model reads."""
    return StudyRow(
        position=position,
        study_instance_uid=study_instance_uid,
        state=state,
        reason=reason,
        **header_facts(header or {}),
    )


def header_facts(header: Mapping[str, str]) -> dict[str, Any]:
    """The columns that come from a header, be it as odd as it may."""
    stated, born, seen = (header.get(keyword, "") for keyword in OF_AGE)
    return {
        **{column: " ".join(header.get(keyword, "").split()) for column, keyword in TEXTS.items()},
        **{column: _first_number(header.get(keyword, "")) for column, keyword in NUMBERS.items()},
        "patient_age_years": age_years(stated=stated, born=born, seen=seen),
    }


def _first_number(text: str) -> float | None:
    try:
        number = float(text.split("\\")[0])
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _of_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that come from what the worker wrote down; of a job that has ended without, none."""
    ends = [str(stage[1]) for stage in result.get("stages", {}).values()]
    return {
        "read_at": max(ends, default=""),
        "input": dict(result.get("input", {})),
        "findings": tuple(findings_of(result)),
        "seconds": dict(result.get("seconds", {})),
        "pictures": tuple(
            RowPicture(caption=each["caption"], instance=each["instance"], attachment=each["attachment"])
            for each in result.get("pictures", ())
        ),
        "objects": tuple(zip(result.get("sop_class_uids", ()), result.get("sop_instance_uids", ()), strict=True)),
    }


def findings_of(result: Mapping[str, Any]) -> Iterator[RowFinding]:
    """All that a job's result says, one by one, under names that are the same in every study."""
    yield from _structures(result.get("findings", ()))
    yield from _classes(result.get("classes", ()))
    for each in result.get("numbers", ()):
        yield RowFinding(name=each["name"], kind=FindingKind.NUMBER, value=_finite(each["value"]), unit=each["unit"])
    yield from _marks(result.get("marks", ()))
    for each in result.get("not_evaluated", ()):
        yield RowFinding(name=each["name"], kind=FindingKind.NOT_EVALUATED, category=each["reason"])


def _structures(structures: Sequence[Mapping[str, Any]]) -> Iterator[RowFinding]:
    for each in structures:
        phase = each.get("phase")
        name = f"{each['structure']} at {phase}" if phase else str(each["structure"])
        yield RowFinding(name=name, kind=FindingKind.STRUCTURE, category="present" if each["present"] else "absent")
        for measurement in each["measurements"]:
            yield RowFinding(
                name=f"{name}: {measurement['name']}",
                kind=FindingKind.MEASUREMENT,
                value=_finite(measurement["value"]),
                unit=measurement["unit"],
            )


def _classes(classes: Sequence[Mapping[str, Any]]) -> Iterator[RowFinding]:
    """Of classes that exclude each other, the result has the one that holds: what is asked has the same name in every
    study, the class has not. Of several questions each class has a name of its own.
    """
    for each in classes:
        yield RowFinding(
            name=each["finding"][2] if len(classes) == 1 else each["name"],
            kind=FindingKind.CLASS,
            category=each["value"][2],
            value=_finite(each["probability"]),
            unit="1" if each["probability"] is not None else "",
        )


def _marks(marks: Sequence[Mapping[str, Any]]) -> Iterator[RowFinding]:
    by_type: dict[str, list[Mapping[str, Any]]] = {}
    for mark in marks:
        by_type.setdefault(str(mark["code"][2]), []).append(mark)
    for name, those in by_type.items():
        yield RowFinding(name=name, kind=FindingKind.MARKS, value=float(len(those)), unit="1")
        known = [mark["probability"] for mark in those if mark["probability"] is not None]
        if known:
            yield RowFinding(
                name=f"{name}: highest probability", kind=FindingKind.PROBABILITY, value=max(known), unit="1"
            )


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
