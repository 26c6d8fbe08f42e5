"""Files pseudonymised by hand, one by one."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError

from coread.errors import CoreadError, NotDicom
from coread.pseudonyms import Pseudonyms


@dataclass(frozen=True, kw_only=True)
class Done:
    """What became of a file."""

    source: Path
    written: Path | None = None
    error: CoreadError | None = None
    """Why there is none."""


def files_below(paths: Sequence[Path]) -> list[Path]:
    """The files that are named, and those in folders that are, in order of their names."""
    return [
        file
        for path in paths
        for file in (sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path])
    ]


def pseudonymise_files(files: Sequence[Path], output: Path, pseudonyms: Pseudonyms) -> Iterator[Done]:
    """Write each file without its patient to ``output/STUDY/INSTANCE.dcm``, named by the pseudonyms of their UIDs: a
    file's own name may say whose it is. One that cannot be does not stop the others.
    """
    for file in files:
        try:
            yield Done(source=file, written=_pseudonymise(file, output, pseudonyms))
        except CoreadError as error:
            yield Done(source=file, error=error)


def _pseudonymise(file: Path, output: Path, pseudonyms: Pseudonyms) -> Path:
    try:
        original = pydicom.dcmread(file)
        found = pseudonyms.dataset(original)
    except (InvalidDicomError, EOFError, ValueError, KeyError, AttributeError, TypeError, NotImplementedError) as error:
        raise NotDicom(f"expected a DICOM object that can be decoded, found another; {type(error).__name__}") from error
    path = output / str(found.StudyInstanceUID) / f"{found.SOPInstanceUID}.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.part")
    try:
        found.save_as(draft, enforce_file_format=True)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path
