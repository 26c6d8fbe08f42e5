"""Every code that Coread writes by itself exists, with the meaning that DICOM's dictionaries give it."""

from typing import Any

import pytest
from pydicom.sr._concepts_dict import concepts
from pydicom.sr.coding import Code

from coread import codes

OURS = {name: code for name, code in vars(codes).items() if isinstance(code, Code)}
NOT_LISTED = {"MILLILITER": "milliliter", "GRAM": "gram"}
"""UCUM's own, which pydicom does not list."""
IN_TEMPLATES = {"CARDIAC_CYCLE_POINT": "Cardiac Cycle Point"}
"""As the templates of echocardiography call them (PS3.17 CCCC.4.4); pydicom has SNOMED's full name, which none uses."""


@pytest.mark.parametrize("name", sorted(OURS))
def test_the_meaning_is_the_dictionarys(name: str) -> None:
    code = OURS[name]
    tables: Any = concepts[code.scheme_designator]
    meanings = {entry[code.value][0] for entry in tables.values() if code.value in entry}
    assert code.meaning in ({IN_TEMPLATES[name]} if name in IN_TEMPLATES else meanings or {NOT_LISTED.get(name)})
    assert meanings or name in NOT_LISTED


def test_the_table_is_not_empty() -> None:
    assert len(OURS) > 25
