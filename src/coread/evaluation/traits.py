"""What a study's header says of the patient and of the scanner, coarsely enough to be shown: for subgroups."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from coread.dicom_sr.repair import SEXES
from coread.dicom_sr.source import Plane
from coread.workers.series import age_years
from coread.workers.study import Study

AGE_BANDS = ((0, 1), (1, 6), (6, 12), (12, 18), (18, 40), (40, 60), (60, 80), (80, None))
"""Years, from and below. Infants, children, adolescents; adults by steps of twenty years."""
UNKNOWN = "not stated"


@dataclass(frozen=True, kw_only=True)
class Traits:
    """Of a study, by the header of the series that was read. What it does not say is `not stated`."""

    sex: str
    age_years: str
    """The band."""
    scanner: str
    """Manufacturer and ManufacturerModelName."""
    institution: str
    """InstitutionName, which is not shown: it becomes a number."""


def traits_of(header: Dataset) -> Traits:
    """What can be known from a header, be it as odd as it may."""
    plane = Plane(image=header)
    age = age_years(plane, None)
    sex = _text(plane, "PatientSex").upper()
    maker, model = _text(plane, "Manufacturer"), _text(plane, "ManufacturerModelName")
    return Traits(
        sex=sex if sex and sex in SEXES else UNKNOWN,
        age_years=band_of(age),
        scanner=scanner_of(maker, model),
        institution=_text(plane, "InstitutionName").casefold() or UNKNOWN,
    )


def patient_of(study: Study, header: Dataset) -> str:
    """Who the study is of: PatientID, with its issuer; of a study without one, nobody else."""
    plane = Plane(image=header)
    patient = _text(plane, "PatientID")
    return f"{patient}\n{_text(plane, 'IssuerOfPatientID')}" if patient else f"study {study.study_instance_uid}"


def numbered(names: Sequence[str]) -> list[int]:
    """Each name's number, from 1, in the order in which they first come."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(name, len(numbers) + 1) for name in names]


def subgroups(traits: Sequence[Traits]) -> dict[str, list[str]]:
    """Name of a trait → each study's subgroup. Sites are numbered: their names tell where a patient was."""
    known = [each.institution for each in traits if each.institution != UNKNOWN]
    sites = dict(zip(known, numbered(known), strict=True))
    return {
        "sex": [each.sex for each in traits],
        "age in years": [each.age_years for each in traits],
        "scanner": [each.scanner for each in traits],
        "site": [f"site {sites[name]}" if (name := each.institution) in sites else UNKNOWN for each in traits],
    }


def scanner_of(manufacturer: str, model_name: str) -> str:
    """Both in one; many models' names begin with the manufacturer's."""
    begins = model_name.casefold().startswith(manufacturer.casefold())
    return (model_name if begins else f"{manufacturer} {model_name}".strip()) or UNKNOWN


def band_of(age: float | None) -> str:
    """The band that an age in years lies in; None: it is not known."""
    if age is None:
        return UNKNOWN
    return next(name for (_, high), name in zip(AGE_BANDS, BANDS, strict=True) if high is None or age < high)


def _name(low: int, high: int | None) -> str:
    if high is None:
        return f"{low} and over"
    return f"{low} to {high - 1}" if low else f"below {high}"


BANDS = [_name(low, high) for low, high in AGE_BANDS]


def _text(plane: Plane, keyword: str) -> str:
    value = plane.get(keyword)
    return "" if value is None else " ".join(str(value).split())
