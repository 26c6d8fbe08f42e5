"""Reads the studies of a folder without Orthanc: DICOM in; segmentation, reports, summary and picture out."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydicom.dataset import Dataset

from coread.dicom_sr.encode import ResultObject
from coread.errors import CoreadError, InputError
from coread.job import fingerprint_of, job_id_of
from coread.logs import logger
from coread.models.runner import BundleRunner
from coread.objects import ObjectKind, Profile
from coread.workers.cine_picture import montage_of_phases, volume_curve
from coread.workers.ecg_picture import answer_of, ecg_picture, saliency_of
from coread.workers.hold import utc_now
from coread.workers.picture import marked, montage, saliency_picture
from coread.workers.pipeline import Part, Reading, explain_refusal, read_study
from coread.workers.study import Study
from coread.workers.volume import SourceVolume
from coread.workers.waveform import SourceWaveform


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one model on one study: a reading with its files, or the error that says why not."""

    study_instance_uid: str
    model: str
    reading: Reading | None = None
    files: Sequence[Path] = ()
    error: CoreadError | None = None


def analyze_studies(
    studies: Sequence[Study],
    models: Sequence[str],
    *,
    warm: Callable[[str], BundleRunner],
    output: Path,
    profiles: Sequence[Profile] = (Profile.OHIF,),
) -> list[Outcome]:
    """Read each study with each model; one that is refused does not stop the others.

    Files go to ``output/<StudyInstanceUID>/<model>/``.
    """
    return [
        _outcome(study, model, warm=warm, folder=output / study.study_instance_uid / model, profiles=profiles)
        for study in studies
        for model in models
    ]


def _outcome(
    study: Study, model: str, *, warm: Callable[[str], BundleRunner], folder: Path, profiles: Sequence[Profile]
) -> Outcome:
    uid = study.study_instance_uid
    try:
        result = _read(study, warm(model), profiles)
    except CoreadError as error:
        return Outcome(study_instance_uid=uid, model=model, error=error)
    except Exception as error:  # noqa: BLE001  # here a study ends: the others are still to be read
        logger().exception("study not read", study_instance_uid=uid)
        broken = CoreadError(f"unexpected {type(error).__name__}; please report it with the log line above")
        return Outcome(study_instance_uid=uid, model=model, error=broken)
    if isinstance(result, Reading):
        return Outcome(study_instance_uid=uid, model=model, reading=result, files=write_reading(result, folder))
    refused, objects = result
    files = _write({f"{each.kind}.dcm": each.file() for each in objects}, folder)
    return Outcome(study_instance_uid=uid, model=model, error=refused, files=files)


def _read(
    study: Study, runner: BundleRunner, profiles: Sequence[Profile]
) -> Reading | tuple[InputError, Sequence[ResultObject]]:
    """The reading; or why there is none, and the objects that say so."""
    job_id, now = _job(study, runner)
    try:
        return read_study(study, runner, job_id=job_id, created_at=now, profiles=profiles)
    except InputError as error:
        return error, _said(study, runner, error, job_id=job_id, created_at=now)


def _said(
    study: Study, runner: BundleRunner, error: InputError, *, job_id: str, created_at: datetime
) -> Sequence[ResultObject]:
    """The report that says why a study was refused; none if it cannot be written."""
    try:
        return explain_refusal(study, runner, error, job_id=job_id, created_at=created_at).objects
    except Exception:  # noqa: BLE001  # the study was refused because something is wrong with it
        logger().exception("that the study was not evaluated could not be written as a report")
        return ()


def _job(study: Study, runner: BundleRunner) -> tuple[str, datetime]:
    """Each run over a folder is a job of its own, with its time in the job's id: its results are new objects and never
    share a UID with what the plugin, or another run, has made of the same images.
    """
    now = utc_now()
    job_id = job_id_of(
        study=study.study_instance_uid,
        model=runner.model.name,
        model_version=runner.model.version,
        profiles=(),
        fingerprint=f"{fingerprint_of(study.sop_instance_uids)} {now.isoformat()}",
    )
    return job_id, now


def write_reading(reading: Reading, folder: Path) -> list[Path]:
    """Write the DICOM objects, ``summary.json``, and ``montage.png``, ``marks.png``, ``saliency.png`` or ``ecg.png``
    where there is something to show, of a cine ``volume_curve.png``, too; returns the paths.
    """
    contents = {name: result.file() for name, result in zip(_names(reading), reading.objects, strict=True)}
    contents["summary.json"] = json.dumps(reading.summary, indent=2).encode()
    title = f"{reading.summary['model']} {reading.summary['model_version']} (RESEARCH)"
    source = reading.source
    if isinstance(source, SourceWaveform):
        contents["ecg.png"] = _ecg_picture(reading, source)
        return _write(contents, folder)
    if reading.cycle:
        contents["volume_curve.png"] = volume_curve(reading.cycle, reading.numbers, title=title)
        stacks = [(part, part.source) for part in reading.parts if isinstance(part.source, SourceVolume)]
        segmented = [(part.phase, stack, each) for part, stack in stacks for each in _segmentations(part)]
        if segmented:
            contents["montage.png"] = montage_of_phases(segmented, title=title)
        return _write(contents, folder)
    explaining = [each for each in reading.findings.maps if each.explains is not None]
    for number, scalar_map in enumerate(explaining, start=1):
        name = f"saliency-{number}.png" if len(explaining) > 1 else "saliency.png"
        contents[name] = saliency_picture(source, scalar_map, title=title)
    for result in reading.objects:
        if result.kind is ObjectKind.SEG:
            contents["montage.png"] = montage(source.images, result.dataset, title=title)
        elif result.kind is ObjectKind.SR_KEY_FINDINGS and reading.findings.marks:
            contents["marks.png"] = marked(source, result.dataset, title=title)
    return _write(contents, folder)


def _ecg_picture(reading: Reading, source: SourceWaveform) -> bytes:
    """The recording with the answer; and which moments mattered to it, if the model was given all of the recording."""
    report, summary = reading.objects[0].dataset, reading.summary
    return ecg_picture(
        source.recorded,
        title=f"{report.SeriesDescription}   {summary['model']} {summary['model_version']}",
        answer=answer_of(reading.findings),
        saliency=saliency_of(reading.prediction, source),
    )


def _segmentations(part: Part) -> list[Dataset]:
    return [result.dataset for result in part.objects if result.kind is ObjectKind.SEG]


def _names(reading: Reading) -> list[str]:
    """File names: the kind, of a cine the phase that an object is of, and a number where there are several."""
    phases = {str(each.dataset.SOPInstanceUID): part.phase for part in reading.parts for each in part.objects}
    stems = [
        "-".join(filter(None, (result.kind, phases.get(str(result.dataset.SOPInstanceUID)))))
        for result in reading.objects
    ]
    counts = Counter(stems)
    seen: Counter[str] = Counter()
    names = []
    for stem in stems:
        seen[stem] += 1
        number = f"-{seen[stem]}" if counts[stem] > 1 else ""
        names.append(f"{stem}{number}.dcm")
    return names


def _write(contents: Mapping[str, bytes], folder: Path) -> list[Path]:
    if contents:
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]
