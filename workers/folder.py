"""Reads the studies of a folder without Orthanc: DICOM in; segmentation, reports, summary and picture out."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd

from coread.errors import CoreadError
from coread.job import fingerprint_of, job_id_of
from coread.logs import logger
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
                reading = _read(study, warm(model))
            except CoreadError as error:
                outcomes.append(Outcome(study_instance_uid=study.study_instance_uid, model=model, error=error))
            except Exception as error:  # noqa: BLE001  # here a study ends: the others are still to be read
                logger().exception("study not read", study_instance_uid=study.study_instance_uid)
                broken = CoreadError(f"unexpected {type(error).__name__}; please report it with the log line above")
                outcomes.append(Outcome(study_instance_uid=study.study_instance_uid, model=model, error=broken))
            else:
                files = write_reading(reading, output / study.study_instance_uid / model)
                outcomes.append(
                    Outcome(study_instance_uid=study.study_instance_uid, model=model, reading=reading, files=files)
                )
    return outcomes


def _read(study: Study, runner: BundleRunner) -> Reading:
    """Each run over a folder is a job of its own, with its time in the job's id: its results are new objects and never
    share a UID with what the plugin, or another run, has made of the same images.
    """
    now = utc_now()
    job_id = job_id_of(
        study_instance_uid=study.study_instance_uid,
        model=runner.model.name,
        model_version=runner.model.version,
        fingerprint=f"{fingerprint_of(study.sop_instance_uids)} {now.isoformat()}",
    )
    return read_study(study, runner, job_id=job_id, created_at=now)


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
