"""Reads the studies of a folder without Orthanc: DICOM in; segmentation, reports, summary and picture out."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd

from coread.errors import CoreadError
from coread.models.runner import BundleRunner
from coread.workers.jobs import utc_now
from coread.workers.picture import montage
from coread.workers.pipeline import Reading, read_study
from coread.workers.study import Study


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one model on one study: a reading with its files, or the error that says why not."""

    study_instance_uid: str
    model: str
    reading: Reading | None = None
    files: Sequence[Path] = ()
    error: CoreadError | None = None


def analyze_studies(
    studies: Sequence[Study], models: Sequence[str], *, warm: Callable[[str], BundleRunner], output: Path
) -> list[Outcome]:
    """Read each study with each model; one that is refused does not stop the others.

    Files go to ``output/<StudyInstanceUID>/<model>/``.
    """
    outcomes = []
    for study in studies:
        for model in models:
            try:
                reading = read_study(study, warm(model), created_at=utc_now())
            except CoreadError as error:
                outcomes.append(Outcome(study_instance_uid=study.study_instance_uid, model=model, error=error))
            else:
                files = write_reading(reading, output / study.study_instance_uid / model)
                outcomes.append(
                    Outcome(study_instance_uid=study.study_instance_uid, model=model, reading=reading, files=files)
                )
    return outcomes


def write_reading(reading: Reading, folder: Path) -> list[Path]:
    """Write the DICOM objects, ``summary.json`` and ``montage.png``; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {f"{result.kind}.dcm": result.file() for result in reading.objects}
    contents["summary.json"] = json.dumps(reading.summary, indent=2).encode()
    title = f"{reading.summary['model']} {reading.summary['model_version']} (RESEARCH)"
    for result in reading.objects:
        if isinstance(result.dataset, hd.seg.Segmentation):
            contents["montage.png"] = montage(reading.source.images, result.dataset, title=title)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]
