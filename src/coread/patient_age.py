"""How old a patient was, from what a header says; in one place, so that a route and a model count alike."""

import math
import re
from collections.abc import Mapping
from datetime import date

PER_YEAR: Mapping[str, float] = {"D": 365.25, "W": 365.25 / 7, "M": 12, "Y": 1}
"""The units of PatientAge (PS3.5 6.2, AS)."""

WHOLE_YEARS_FROM = 2
"""From this age on, in years, only whole years count, as in PatientAge: 17 is who is not 18 yet."""


def age_years(*, stated: str, born: str, seen: str, at: date | None = None) -> float | None:
    """The age in years when the study was made; None: it is not known.

    ``stated`` is PatientAge, ``born`` PatientBirthDate and ``seen`` StudyDate, as they stand in the header; ``at``
    takes the place of a StudyDate that is not there.
    """
    match = re.fullmatch(r"([0-9]{1,3})([DWMY])", stated.strip().upper())
    birth, study = _date(born), _date(seen) or at
    if match:
        age = int(match[1]) / PER_YEAR[match[2]]
    elif birth and study and birth <= study:
        age = ((study.year - birth.year) * 12 + study.month - birth.month - (study.day < birth.day)) / 12
    else:
        return None
    return math.floor(age) if age >= WHOLE_YEARS_FROM else age


def _date(text: str) -> date | None:
    try:
        return date.fromisoformat(text.strip().replace(".", ""))
    except ValueError:
        return None
