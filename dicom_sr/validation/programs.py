"""The public validators and readers that are installed: what they say of a file, without their known noise."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from coread.dicom_sr.validation.geometry import frames, geometry
from coread.dicom_sr.validation.problem import Problem, Severity, problems_of

TIMEOUT_S = 120
"""For each program and file. The slowest needs some seconds for thousands of frames."""
SEGMENTATION, LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"
PARAMETRIC_MAP = "1.2.840.10008.5.1.4.1.1.30"
DOCUMENTS = tuple(f"1.2.840.10008.5.1.4.1.1.88.{number}" for number in (11, 22, 33, 34, 35, 59))
MEASUREMENT_REPORT = "1500"
PLAIN = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)
NEWER_THAN_THEY_ARE = ("1.2.840.10008.1.2.8.", "1.2.840.10008.1.2.4.20", "1.2.840.10008.1.2.4.11")
"""Transfer syntaxes that they call broken: deflated frames, HTJ2K, JPEG XL."""

NOISE = (
    "Information Object Not found",
    "SegmentNumber of 0",
    "Unrecognized defined term = <QUANTITY>",
    "Element=<AccessionNumber> IE <Series> versus <Study>",
    "IE <Unknown>",
    "versus <Unknown>",
    "Unrecognized SOP Class",
    "The VR checker does not support",
    "VR checker does not support",
    "Check for template constraints not yet supported",
)
"""Lines that say nothing about the object: measured on objects that are right."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program that is asked about some objects. ``arguments``: for a file, the sources' files, an output folder."""

    name: str
    knows: Callable[[Dataset], bool]
    arguments: Callable[[Path, Sequence[Path], Path], Sequence[object]]
    needs_sources: bool = False
    reads_back: bool = False
    """A reader, of which only failures count; its warnings are about itself."""


def _syntax(dataset: Dataset) -> str:
    return str(dataset.file_meta.get("TransferSyntaxUID", ""))


def _is_readable(dataset: Dataset) -> bool:
    """Whether dcmqi can decode it at all: it knows RLE, but not of single bits."""
    return _syntax(dataset) in PLAIN or (_syntax(dataset) == RLELossless and dataset.get("BitsAllocated") != 1)


def _is_measurement_report(dataset: Dataset) -> bool:
    templates = dataset.get("ContentTemplateSequence") or []
    return bool(templates) and templates[0].get("TemplateIdentifier") == MEASUREMENT_REPORT


def _is_in_a_frame_of_reference(dataset: Dataset) -> bool:
    return "TotalPixelMatrixRows" not in dataset and bool(dataset.get("FrameOfReferenceUID"))


def _has_a_place(dataset: Dataset) -> bool:
    """Whether frames say where they lie, which those of a radiograph do not."""
    return any(geometry(dataset, groups)[0] is not None for groups in frames(dataset)[:1])


PROGRAMS = (
    Program(
        name="dciodvfy",
        knows=lambda dataset: (
            dataset.get("SOPClassUID") != LABEL_MAP and not _syntax(dataset).startswith(NEWER_THAN_THEY_ARE)
        ),
        arguments=lambda file, _sources, _output: ["-new", file],
    ),
    Program(
        name="dcentvfy",
        knows=lambda dataset: not _syntax(dataset).startswith(NEWER_THAN_THEY_ARE),
        arguments=lambda file, sources, _output: [*sources, file],
        needs_sources=True,
    ),
    Program(
        name="dsrdump",
        knows=lambda dataset: dataset.get("SOPClassUID") in DOCUMENTS,
        arguments=lambda file, _sources, _output: [file],
    ),
    Program(
        name="segimage2itkimage",
        knows=lambda dataset: (
            dataset.get("SOPClassUID") == SEGMENTATION
            and _is_readable(dataset)
            and _is_in_a_frame_of_reference(dataset)
        ),
        arguments=lambda file, _sources, output: (
            ["--inputDICOM", file, "--outputDirectory", output, "-p", "segment", "-t", "nii"]
        ),
        reads_back=True,
    ),
    Program(
        name="tid1500reader",
        knows=lambda dataset: dataset.get("SOPClassUID") in DOCUMENTS and _is_measurement_report(dataset),
        arguments=lambda file, _sources, output: (["--inputDICOM", file, "--outputMetadata", output / "report.json"]),
        reads_back=True,
    ),
    Program(
        name="paramap2itkimage",
        knows=lambda dataset: (
            dataset.get("SOPClassUID") == PARAMETRIC_MAP
            and "FloatPixelData" in dataset
            and _is_in_a_frame_of_reference(dataset)
            and _has_a_place(dataset)
        ),
        arguments=lambda file, _sources, output: ["--inputDICOM", file, "--outputDirectory", output, "-t", "nii"],
        reads_back=True,
    ),
)


def programs_for(dataset: Dataset, *, has_sources: bool) -> list[Program]:
    """The programs that know an object, installed or not."""
    return [each for each in PROGRAMS if each.knows(dataset) and (has_sources or not each.needs_sources)]


def path_of(name: str) -> str | None:
    """Where a program is: beside this Python, or on the PATH."""
    beside_python = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    return shutil.which(name, path=beside_python)


def files_to_compare_with(sources: Mapping[str, Dataset]) -> list[Path]:
    """One image of each series: what differs between images of a series is not the result's fault."""
    first: dict[str, Path] = {}
    for source in sources.values():
        path = getattr(source, "filename", None)
        if path:
            first.setdefault(str(source.get("SeriesInstanceUID")), Path(path))
    return list(first.values())


def said_of(file: Path, program: Program, path: str, sources: Sequence[Path]) -> Iterator[Problem]:
    """What a program complains about in a file."""
    with tempfile.TemporaryDirectory(prefix="coread-validate-") as output:
        command = [path, *map(str, program.arguments(file.resolve(), sources, Path(output)))]
        try:
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
                timeout=TIMEOUT_S,
                cwd=output,
            )
        except subprocess.TimeoutExpired:
            yield _said_by(program.name, f"no answer within {TIMEOUT_S} s", Severity.WARNING)
            return
    lines = list(_complaints(done.stdout, errors_only=program.reads_back))
    for line, severity in lines:
        yield _said_by(program.name, line, severity)
    if program.reads_back and not lines and done.returncode:
        # A reader that crashes says more about itself than about the object; but it does not read it.
        crashed = done.returncode < 0 or done.returncode > 128
        found = "it crashes on this file" if crashed else f"it cannot read this file (status {done.returncode})"
        yield _said_by(program.name, found, Severity.WARNING if crashed else Severity.ERROR)


def _complaints(output: str, *, errors_only: bool) -> Iterator[tuple[str, Severity]]:
    for line in output.splitlines():
        severity = _severity(line)
        if severity is None or any(noise in line for noise in NOISE):
            continue
        if severity is Severity.ERROR or not errors_only:
            yield line.strip(), severity


def _severity(line: str) -> Severity | None:
    if line.startswith(("Error", "ERROR", "E:", "F:")):
        return Severity.ERROR
    if line.startswith(("Warning", "W:")):
        return Severity.WARNING
    return None


def _said_by(name: str, line: str, severity: Severity) -> Problem:
    return problems_of(name, f"as {name} says")("the file", "no complaint", line, severity)


def is_missing(name: str) -> Problem:
    """Said once in a run: what was not asked has said nothing."""
    found = "no such program: what it looks at was not looked at"
    return problems_of("program", "docs/commands.md")(name, "the program, installed", found, Severity.WARNING)
