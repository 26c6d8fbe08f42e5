from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from coread.errors import ConfigurationError
from coread.evaluation.table import Table, read_table
from coread.models.manifest import Manifest
from coread.workers.study import Series, Study

SECRET = "Mustermann"


def manifest(**more: Any) -> Manifest:
    finding, present = ["SCT", "233604007", "Pneumonia"], ["SCT", "52101004", "Present"]
    values = {"Normal": ["SCT", "272519000", "Absent"], "Bacterial": present, "Viral": present}
    classes = {
        number: {"name": name, "finding": finding, "value": value}
        for number, (name, value) in enumerate(values.items())
    }
    described = {"described_as": "any", "must": {"Modality": ["DX"]}}
    said = {"name": "m", "title": "M", "series": described, "classes": classes, "limits": "For tests.", **more}
    return Manifest.model_validate({key: value for key, value in said.items() if value is not None})


NUMBERS = {0: {"name": "Ejection fraction", "concept": ["SCT", "70822001", "EF"], "unit": ["UCUM", "%", "Percent"]}}


def table(tmp_path: Path, text: str, of: Manifest | None = None, *, encoding: str = "utf-8") -> Table:
    path = tmp_path / "table.csv"
    path.write_text(text, encoding=encoding)
    return read_table(path, of or manifest())


def study(uid: str, **header: str) -> Study:
    image = Dataset()
    image.StudyInstanceUID, image.SeriesInstanceUID = uid, f"{uid}.1"
    for keyword, value in header.items():
        setattr(image, keyword, value)
    series = Series(header=image, size=1, load=list)
    return Study(study_instance_uid=uid, sop_instance_uids=frozenset(), series=[series])


@pytest.mark.parametrize("said", ["Viral", "viral", " VIRAL ", "2"])
def test_a_class_is_named_by_its_name_or_number(said: str, tmp_path: Path) -> None:
    found = table(tmp_path, f"StudyInstanceUID,class\n1.2.3,{said}\n")
    assert found.rows["1.2.3"].truth == {0: 0, 1: 0, 2: 1}


def test_a_class_is_named_by_its_value_if_that_is_its_alone(tmp_path: Path) -> None:
    assert table(tmp_path, "PatientID,class\nA,absent\n").rows["A"].truth[0] == 1
    with pytest.raises(ConfigurationError, match="line 2: expected in column class one of Normal, Bacterial, Viral"):
        table(tmp_path, "PatientID,class\nA,present\n")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_spreadsheets_of_other_countries_are_read(separator: str, encoding: str, tmp_path: Path) -> None:
    text = "\r\n".join(separator.join(cells) for cells in (("StudyInstanceUID", "class"), ("1.2.3", "Normal")))
    assert set(table(tmp_path, text, encoding=encoding).rows) == {"1.2.3"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a CSV file with a header, found none"),
        ("StudyInstanceUID,class\n", "expected a row for each study, found none"),
        (f"{SECRET},class\n1,Normal\n", "expected a column StudyInstanceUID or AccessionNumber or PatientID"),
        ("PatientID,klass\nA,Normal\n", "expected a column class, found 2 other columns"),
        (f"PatientID,class\nA,Normal\nB,{SECRET}\n", "line 3: expected in column class one of"),
        (f"PatientID,class\nA,Normal\n\n{SECRET},\n", "line 4: expected in column class .* found nothing"),
        (f"PatientID,class\n{SECRET},Normal\n{SECRET},Viral\n", "line 3: .* found that of line 2 again"),
        (f"PatientID,class\n,{SECRET}\n", "line 2: expected a PatientID, found none"),
        (f"PatientID,class\nA,Normal,{SECRET}\n", "line 2: expected 2 cells, found 3"),
        (f'PatientID,class\nA,"{SECRET}\n', "no valid CSV"),
        ("PatientID,class,Class\nA,Normal,Viral\n", "expected columns of different names, found 1 twice"),
        ("PatientID,class,group\nA,Normal,\n", "line 2: expected a group, found none"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_no_cell_is_quoted(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        table(tmp_path, text)
    assert SECRET not in str(raised.value)


def test_another_encoding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="expected a CSV file in UTF-8, found other bytes at 17"):
        table(tmp_path, "PatientID,class,Müller\n", encoding="latin-1")


def test_classes_that_do_not_exclude_each_other_have_a_column_each(tmp_path: Path) -> None:
    several = manifest(exclusive=False)
    found = table(tmp_path, "PatientID,Viral,Normal\nA,1,\nB,0,0\n", several)
    assert found.rows["A"].truth == {2: 1, 0: None}
    assert found.rows["B"].truth == {2: 0, 0: 0}
    with pytest.raises(ConfigurationError, match="line 2: expected 1, 0 or nothing in column Viral"):
        table(tmp_path, "PatientID,Viral\nA,yes\n", several)


def test_a_number_has_a_column_of_its_name(tmp_path: Path) -> None:
    of_numbers = manifest(classes=None, numbers=NUMBERS)
    found = table(tmp_path, "PatientID,ejection fraction\nA,61.5\nB,\n", of_numbers)
    assert [row.truth[0] for row in found.rows.values()] == [61.5, None]
    for wrong in ("61:5", "nan", "inf", "n/a"):
        with pytest.raises(ConfigurationError, match=r"line 2: expected a number such as 61\.5"):
            table(tmp_path, f"PatientID,Ejection fraction\nA,{wrong}\n", of_numbers)


def test_the_study_instance_uid_goes_before_other_identifiers(tmp_path: Path) -> None:
    found = table(tmp_path, "PatientID,StudyInstanceUID,class\nA,1.2.3,Normal\nA,1.2.4,Viral\n")
    assert found.matched_by == "StudyInstanceUID"
    assigned = found.assign([study("1.2.3"), study("1.2.5")])
    assert {uid: row.line for uid, row in assigned.items()} == {"1.2.3": 2}


def test_a_row_that_fits_several_studies_is_refused(tmp_path: Path) -> None:
    found = table(tmp_path, f"PatientID,class\n{SECRET},Normal\n")
    assert set(found.assign([study("1.2.3", PatientID=SECRET), study("1.2.4", PatientID="B")])) == {"1.2.3"}
    with pytest.raises(ConfigurationError, match="found several with the PatientID of line 2") as raised:
        found.assign([study("1.2.3", PatientID=SECRET), study("1.2.4", PatientID=SECRET)])
    assert SECRET not in str(raised.value)
