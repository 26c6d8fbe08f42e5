"""Rows of archive runs, drawn: what a run would have found in studies of several scanners over two years."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from coread.archive_table import FindingKind, RowFinding, RowPicture, RunStore, StudyRow, row_without_job

SCANNERS = (("SIEMENS", "Avanto", "MR01"), ("SIEMENS", "Avanto", "MR02"), ("Philips", "Ingenia", "MR03"))
SHIFTED = "SIEMENS Avanto, station MR02"


def a_row(
    position: int, *, seed: int = 0, version: str = "1", shift: float = 0.0, months: int = 24, model: str = "heart"
) -> StudyRow:
    """A study of one of three scanners. The same for the same position and seed, but for the version and for ``shift``:
    what is added to the intensities of one scanner, in standard deviations.
    """
    random = np.random.default_rng([seed, position])
    manufacturer, name, station = SCANNERS[int(random.integers(3))]
    month = int(random.integers(months))
    volume, fraction = float(random.normal(110, 25)), float(random.normal(55, 8))
    intensity = float(random.normal(300, 40)) + (40 * shift if station == "MR02" else 0)
    is_present = bool(random.random() < 0.15)
    state = "done" if random.random() < 0.95 else "refused"
    facts = {
        "study_date": f"{2023 + month // 12}{month % 12 + 1:02d}15",
        "modality": "MR",
        "manufacturer": manufacturer,
        "manufacturer_model_name": name,
        "station_name": station,
        "institution_name": "North" if random.random() < 0.5 else "South",
        "patient_sex": "F" if random.random() < 0.5 else "M",
    }
    row = StudyRow(
        position=position,
        study_instance_uid=f"1.2.3.{position}",
        model=model,
        model_version=version,
        job_id=f"job-{position}-{version}",
        state=state,
        reason="" if state == "done" else f"expected 10 slices, found {int(random.integers(2, 9))}",
        read_at=f"2026-0{version}-01T00:00:00+00:00",
        patient_age_years=float(np.floor(random.gamma(30, 2))),
        slice_thickness_mm=float(random.choice([6.0, 8.0, 10.0])),
        input={"intensity_mean": intensity, "intensity_p50": intensity - 5, "slices": float(random.integers(8, 13))},
        **facts,  # type: ignore[arg-type]
    )
    if state != "done":
        return row
    return StudyRow(
        **{
            **vars(row),
            "findings": (
                RowFinding(name="Cavity", kind=FindingKind.STRUCTURE, category="present"),
                RowFinding(name="Cavity: Volume", kind=FindingKind.MEASUREMENT, value=volume, unit="ml"),
                RowFinding(
                    name="Thrombus",
                    kind=FindingKind.CLASS,
                    category="Present" if is_present else "Absent",
                    value=float(random.uniform(0.6, 1.0)),
                    unit="1",
                ),
                RowFinding(name="Ejection fraction", kind=FindingKind.NUMBER, value=fraction, unit="%"),
            ),
            "seconds": {"infer": 1.0 + float(random.random())},
            "pictures": (RowPicture(caption="slice 5"),),
        }
    )


def changed(row: StudyRow, *, by_ml: float = 0.0, flip: bool = False) -> StudyRow:
    """A row in which the volume or the answer is another."""

    def altered(finding: RowFinding) -> RowFinding:
        value = finding.value + by_ml if finding.unit == "ml" and finding.value is not None else finding.value
        other = {"Present": "Absent", "Absent": "Present"}
        category = other.get(finding.category, finding.category) if flip else finding.category
        return RowFinding(**{**vars(finding), "value": value, "category": category})

    return StudyRow(**{**vars(row), "findings": tuple(map(altered, row.findings))})


def failed(position: int) -> StudyRow:
    """A study that could not be retrieved."""
    return row_without_job(
        position=position, study_instance_uid=f"1.2.3.{position}", state="failed", reason="expected 20 images, found 3"
    )


def store_of(folder: Path, rows: Iterator[StudyRow] | list[StudyRow]) -> RunStore:
    """A run's folder with these rows."""
    store = RunStore(folder)
    for row in rows:
        store.write(row.position, [row])
    return store


def a_picture(radius: int) -> bytes:
    """A slice with an outline."""
    picture = Image.new("RGB", (256, 256), (20, 20, 24))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((48, 48, 208, 208), fill=(90, 90, 96))
    draw.ellipse((128 - radius, 128 - radius, 128 + radius, 128 + radius), outline=(230, 90, 40), width=3)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
