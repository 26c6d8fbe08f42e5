"""Judges result objects: our own consistency rules, and those of the public validators that are installed."""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset

from coread.dicom_sr.validation.common import COMMON
from coread.dicom_sr.validation.key_objects import KEY_OBJECT_SELECTION
from coread.dicom_sr.validation.parametric_map import PARAMETRIC_MAP
from coread.dicom_sr.validation.presentation_state import PRESENTATION_STATE
from coread.dicom_sr.validation.problem import Problem, Rule, Severity, Subject, problems_of
from coread.dicom_sr.validation.programs import files_to_compare_with, is_missing, path_of, programs_for, said_of
from coread.dicom_sr.validation.report import REPORT
from coread.dicom_sr.validation.secondary_capture import SECONDARY_CAPTURE
from coread.dicom_sr.validation.seg import SEGMENTATION
from coread.dicom_sr.validation.structure_set import STRUCTURE_SET
from coread.errors import NotDicom

STORAGE = "1.2.840.10008.5.1.4.1.1."
RULES: Mapping[str, tuple[Rule, ...]] = {
    f"{STORAGE}66.4": SEGMENTATION,
    f"{STORAGE}66.7": SEGMENTATION,
    **{f"{STORAGE}88.{number}": REPORT for number in (11, 22, 33, 34, 35)},
    f"{STORAGE}88.59": KEY_OBJECT_SELECTION,
    f"{STORAGE}11.1": PRESENTATION_STATE,
    f"{STORAGE}30": PARAMETRIC_MAP,
    f"{STORAGE}7.4": SECONDARY_CAPTURE,
    f"{STORAGE}481.3": STRUCTURE_SET,
}
"""SOP class → the rules for it, beside those for every object."""
NOT_SOURCES = frozenset({*RULES, f"{STORAGE}67"}) - {f"{STORAGE}7.4"}
"""Classes of which an object is no image that another was made from."""

NO_DICOM = Problem(
    rule="file",
    where="the file",
    expected="a DICOM file with a SOPClassUID",
    found="one that cannot be parsed as such",
    section="PS3.10 7",
)

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

    A file that cannot be parsed is a problem of that file; a program that is not installed is said once. Raises
    NotDicom if ``source`` holds no image.
    """
    missing: set[str] = set()
    return [
        _judgement(file, subject, missing)
        if subject is not None
        else Judgement(file=file, problems=[NO_DICOM], programs=[])
        for file, subject in subjects_in(files, source=source).items()
    ]


def subjects_in(files: Sequence[Path], *, source: Path | None) -> dict[Path, Subject | None]:
    """What each file holds, ready to be judged; None for one that cannot be parsed."""
    datasets = {file: _read(file) for file in files}
    found = [dataset for dataset in datasets.values() if dataset is not None]
    sources = _images_in(source, but={file.resolve() for file in files}) if source else {}
    uids = Counter(str(dataset.get("SOPInstanceUID")) for dataset in found)
    every = Subject(
        dataset=Dataset(),
        results={str(dataset.get("SOPInstanceUID")): dataset for dataset in found},
        sources=sources,
        repeated_uids=frozenset(uid for uid, count in uids.items() if count > 1),
    )
    return {
        file: replace(every, dataset=dataset) if dataset is not None else None for file, dataset in datasets.items()
    }


def _judgement(file: Path, subject: Subject, missing: set[str]) -> Judgement:
    """What our rules and the programs say of one file. ``missing``: the programs of which that was said before."""
    problems = list(judge(subject))
    asked = []
    for program in programs_for(subject.dataset, has_sources=bool(subject.sources)):
        path = path_of(program.name)
        if path is not None:
            asked.append(program.name)
            problems += said_of(file, program, path, files_to_compare_with(subject.sources))
        elif program.name not in missing:
            missing.add(program.name)
            problems.append(is_missing(program.name))
    return Judgement(file=file, problems=problems, programs=asked)


def judge(subject: Subject) -> Iterator[Problem]:
    """What our own rules find."""
    for rule in rules_for(subject.dataset):
        try:
            yield from list(rule(subject))
        except BREAKS_A_RULE as error:
            yield problems_of("structure", "PS3.3 A")(
                rule.__name__,
                "a dataset that this rule can read",
                f"{type(error).__name__}: an attribute that it needs is absent or malformed",
            )


def rules_for(dataset: Dataset) -> tuple[Rule, ...]:
    """The rules for an object's SOP class."""
    return (*COMMON, *RULES.get(str(dataset.get("SOPClassUID")), ()))


def _read(file: Path) -> Dataset | None:
    """A DICOM file, or what can be read of one that lacks its own header; another rule says that it does."""
    for force in (False, True):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is odd about it, rules say
                dataset = pydicom.dcmread(file, force=force)
        except UNPARSABLE:
            continue
        if dataset.get("SOPClassUID"):
            if not hasattr(dataset, "file_meta"):
                dataset.file_meta = FileMetaDataset()
            return dataset
    return None


def _images_in(folder: Path, *, but: set[Path]) -> Mapping[str, Dataset]:
    """The images in a folder: what is judged, and results of others, are not what something was made from."""
    images = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.resolve() in but:
            continue
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
        except UNPARSABLE:
            continue  # not an image
        if "SOPInstanceUID" in header and header.get("SOPClassUID") not in NOT_SOURCES:
            images[str(header.SOPInstanceUID)] = header
    if not images:
        raise NotDicom(f"expected the source's images in {folder}, found none; name the folder that holds them")
    return images
