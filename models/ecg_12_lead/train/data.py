"""12-lead ECGs with what cardiologists said of them.

Ten seconds at 100 Hz. Source: Wagner et al., PTB-XL, a large publicly available electrocardiography dataset, Scientific
Data 2020, CC BY 4.0.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SAMPLING_RATE_HZ = 100.0
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
"""In the order of the files, and of the network's inputs."""
UNITS_PER_MV = 1000.0

NORMAL, NOT_NORMAL = 0, 1


@dataclass(frozen=True, kw_only=True)
class Case:
    """One record: ``leads`` float32 (lead, sample) in mV."""

    name: str
    person: str
    split: Literal["train", "val"]
    leads: NDArray[np.float32]
    label: int
    is_mixed: bool
    """Whether it is called normal and yet has a diagnosis."""
    sex: Literal["M", "F"]
    age_years: int | None


def load_cases(folder: Path) -> list[Case]:
    """All records of ``folder`` (``MANIFEST.csv``, ``ptbxl_database.csv``, ``records100``) that somebody has judged."""
    with (folder / "ptbxl_database.csv").open(newline="") as lines:
        people = {row["filename_lr"]: row for row in csv.DictReader(lines)}
    cases = []
    with (folder / "MANIFEST.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            path = Path(row["path"])
            said = set(row["label"].split("|"))
            if path.suffix != ".dat" or said == {"none"}:
                continue
            about = people[str(path.with_suffix(""))]
            cases.append(
                Case(
                    name=path.stem,
                    person=row["group"],
                    split="val" if row["split"] == "val" else "train",
                    leads=_leads(folder / path),
                    label=NORMAL if said == {"NORM"} else NOT_NORMAL,
                    is_mixed="NORM" in said and len(said) > 1,
                    sex="M" if about["sex"] == "0" else "F",
                    age_years=int(float(about["age"])) if about["age"] else None,
                )
            )
    return cases


def _leads(path: Path) -> NDArray[np.float32]:
    """A WFDB file of format 16: the leads' 16-bit values in turn."""
    return np.fromfile(path, dtype="<i2").reshape(-1, len(LEADS)).T.astype(np.float32) / np.float32(UNITS_PER_MV)
