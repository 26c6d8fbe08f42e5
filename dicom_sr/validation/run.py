"""Judges result objects: our own consistency rules, and those of the public validators that are installed."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from coread.dicom_sr.validation.common import COMMON
from coread.dicom_sr.validation.problem import Problem, Rule, Severity, Subject
from coread.dicom_sr.validation.report import REPORT
from coread.dicom_sr.validation.seg import SEGMENTATION
from coread.errors import NotDicom

SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
SR_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.88.{number}" for number in (11, 22, 33, 34, 35, 59))
LABEL_MAP = SEG_CLASSES[1]
KEY_OBJECTS = "1.2.840.10008.5.1.4.1.1.88.59"

PROGRAM_TIMEOUT_S = 120

NO_DICOM = Problem(
    rule="file",
    where="the file",
    expected="a DICOM file with a SOPClassUID",
    found="one that cannot be parsed as such",
    section="PS3.10 7",
)

NOISE = (
    "Information Object Not found",
    "SegmentNumber of 0",
    "Unrecognized defined term = <QUANTITY>",
    "Element=<AccessionNumber> IE <Series> versus <Study>",
    "IE <Unknown>",
    "Unrecognized SOP Class",
    "The VR checker does not support",
    "Check for template constraints not yet supported",
)
"""Lines of the public validators that say nothing about the object: measured on objects that are right."""

UNPARSABLE = (pydicom.errors.InvalidDicomError, OSError, ValueError, KeyError, TypeError, AttributeError, EOFError)
BREAKS_A_RULE = (AttributeError, KeyError, ValueError, TypeError, IndexError)
"""What reading a malformed dataset raises: the rule then says so."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What was found in one file, and which programs were asked."""

    file: Path
    problems: Sequence[Problem]
    programs: Sequence[str]

    @property
    def has_errors(self) -> bool:
        """Whether anything is wrong, and not only worse than it need be."""
        return any(problem.severity is Severity.ERROR for problem in self.problems)


def validate_files(files: Sequence[Path], *, source: Path | None) -> list[Judgement]:
    """Judge each file, with the others and the images in ``source`` as what it may speak of.

    A file that cannot be parsed is a problem of that file. Raises NotDicom if ``source`` holds no image.
    """
    datasets = {file: _read(file) for file in files}
    sources = _images_in(source) if source else {}
    results = {str(dataset.get("SOPInstanceUID")): dataset for dataset in datasets.values() if dataset}
    judgements = []
    for file, dataset in datasets.items():
        if dataset is None:
            judgements.append(Judgement(file=file, problems=[NO_DICOM], programs=[]))
            continue
        subject = Subject(dataset=dataset, results=results, sources=sources)
        programs = _programs_for(dataset)
        problems = [*judge(subject), *(problem for program in programs for problem in _run(program, file))]
        judgements.append(Judgement(file=file, problems=problems, programs=[Path(each[0]).name for each in programs]))
    return judgements


def judge(subject: Subject) -> Iterator[Problem]:
    """What our own rules find."""
    for rule in rules_for(subject.dataset):
        try:
            yield from list(rule(subject))
        except BREAKS_A_RULE as error:
            yield Problem(
                rule="structure",
                where=rule.__name__,
                expected="a dataset that this rule can read",
                found=f"{type(error).__name__}: an attribute that it needs is absent or malformed",
                section="PS3.3 A",
            )


def rules_for(dataset: Dataset) -> tuple[Rule, ...]:
    """The rules for an object's SOP class."""
    if dataset.get("SOPClassUID") in SEG_CLASSES:
        return (*COMMON, *SEGMENTATION)
    if dataset.get("SOPClassUID") in SR_CLASSES:
        return (*COMMON, *REPORT) if dataset.SOPClassUID != KEY_OBJECTS else (*COMMON, *REPORT[4:5])
    return COMMON


def _programs_for(dataset: Dataset) -> list[list[str]]:
    """The commands of the installed validators that know the object's class."""
    wanted: list[list[str]] = []
    if dataset.get("SOPClassUID") != LABEL_MAP:
        wanted.append(["dciodvfy", "-new"])
    if dataset.get("SOPClassUID") in SR_CLASSES:
        wanted.append(["dsrdump"])
    return [[path, *command[1:]] for command in wanted if (path := _find(command[0]))]


def _find(name: str) -> str | None:
    beside_python = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    return shutil.which(name, path=beside_python)


def _run(command: Sequence[str], file: Path) -> Iterator[Problem]:
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            [*command, str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=PROGRAM_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        yield _said_by(name, f"no answer within {PROGRAM_TIMEOUT_S} s", Severity.WARNING)
        return
    for line in done.stdout.splitlines():
        severity = _severity(line)
        if severity is not None and not any(noise in line for noise in NOISE):
            yield _said_by(name, line.strip(), severity)


def _severity(line: str) -> Severity | None:
    if line.startswith(("Error", "E:", "F:")):
        return Severity.ERROR
    if line.startswith(("Warning", "W:")):
        return Severity.WARNING
    return None


def _said_by(name: str, line: str, severity: Severity) -> Problem:
    return Problem(
        rule=name, where="the file", expected="no complaint", found=line, section=f"as {name} says", severity=severity
    )


def _read(file: Path) -> Dataset | None:
    try:
        dataset = pydicom.dcmread(file)
        return dataset if "SOPClassUID" in dataset else None
    except UNPARSABLE:
        return None


def _images_in(folder: Path) -> Mapping[str, Dataset]:
    images = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
        except UNPARSABLE:
            continue  # not an image
        if "SOPInstanceUID" in header and header.get("SOPClassUID") not in (*SEG_CLASSES, *SR_CLASSES):
            images[str(header.SOPInstanceUID)] = header
    if not images:
        raise NotDicom(f"expected the source's images in {folder}, found none; name the folder that holds them")
    return images
