"""How a study is read: select the series, build the volume, infer, measure, encode. Storing is left to the caller.

The same for a job of the plugin and for a folder on the command line.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from coread.dicom_sr.encode import ResultObject, encode_findings, encode_refusal
from coread.dicom_sr.identity import ResultIdentity
from coread.dicom_sr.segmentation import tracking_uid
from coread.dicom_sr.source import Source, planes_of
from coread.errors import InputError
from coread.findings import Findings, NotEvaluated
from coread.models.manifest import WaveformRequirement
from coread.models.runner import BundleRunner
from coread.objects import Profile, wanted_objects
from coread.workers.measure import answers_of, findings_of, sought
from coread.workers.plausibility import check_field_of_view
from coread.workers.resample import onto
from coread.workers.series import check_population, choose, fitting_series
from coread.workers.study import Study
from coread.workers.volume import SourceVolume
from coread.workers.waveform import SourceWaveform
from coread.workers.waveform_choice import choose_waveform


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What came of reading a study: the findings, the DICOM objects that say so, and how long each stage took."""

    source: SourceVolume | SourceWaveform
    findings: Findings
    objects: tuple[ResultObject, ...]
    summary: dict[str, Any]
    """Findings, identifiers and timings as JSON; nothing that identifies the patient."""


@dataclass
class Stopwatch:
    """Seconds by stage, in the order of the stages."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(time.perf_counter() - started, 4)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What is said of a study that was not evaluated; no objects if none of its series is of the model's kind."""

    objects: tuple[ResultObject, ...]
    summary: dict[str, Any]


def read_study(
    study: Study,
    runner: BundleRunner,
    *,
    job_id: str,
    created_at: datetime,
    profiles: Sequence[Profile] = (Profile.OHIF,),
) -> Reading:
    """Read a study with a model and write what ``profiles`` want; all UIDs of the results derive from ``job_id``.

    Raises InputError if the study does not fit, ModelError or ResultError if it went wrong.
    """
    manifest = runner.model.manifest
    if manifest.series[0].waveform:
        return _read_ecg(
            study, runner, manifest.series[0].waveform, job_id=job_id, created_at=created_at, profiles=profiles
        )
    watch = Stopwatch()
    with watch.stage("fetch"):
        choice = choose(study, manifest)
        header = choice.chosen[0].header
        check_population(header, manifest.population, at=None)
        source = choice.sources[0]
        channels = [onto(each.volume, source.volume) for each in choice.sources]
    with watch.stage("infer"):
        prediction = runner.predict(channels)
    check_field_of_view(prediction.layers, source.volume, manifest.series[0])
    with watch.stage("measure"):
        modality = str(header.get("Modality", ""))
        findings = findings_of(prediction, source.volume, manifest=manifest, modality=modality)
    identity = _identity(runner, job_id=job_id, created_at=created_at)
    with watch.stage("encode"):
        kinds = wanted_objects(profiles, manifest.objects)
        objects = encode_findings(findings, source=source.as_source, identity=identity, kinds=kinds)
    summary = _summary(study, choice.chosen[0].series_instance_uid, findings, objects, identity, runner)
    return Reading(
        source=source,
        findings=findings,
        objects=objects,
        summary={
            **summary,
            "device": prediction.device,
            "way": prediction.way,
            "adapted": list(prediction.adapted),
            "series": dict(choice.reasons),
            "seconds": watch.seconds,
        },
    )


def _read_ecg(
    study: Study,
    runner: BundleRunner,
    wanted: WaveformRequirement,
    *,
    job_id: str,
    created_at: datetime,
    profiles: Sequence[Profile],
) -> Reading:
    """The same for a model that reads an ECG: there is no volume, and nothing in the answer has a place."""
    manifest = runner.model.manifest
    watch = Stopwatch()
    with watch.stage("fetch"):
        choice = choose_waveform(study, manifest, wanted)
        check_population(choice.source.instance, manifest.population, at=None)
    source = choice.source
    with watch.stage("infer"):
        prediction = runner.predict(source.waveform)
    with watch.stage("measure"):
        findings = answers_of(prediction, manifest)
    identity = _identity(runner, job_id=job_id, created_at=created_at)
    with watch.stage("encode"):
        kinds = wanted_objects(profiles, manifest.objects)
        objects = encode_findings(findings, source=source.as_source, identity=identity, kinds=kinds)
    summary = _summary(study, choice.series.series_instance_uid, findings, objects, identity, runner)
    return Reading(
        source=source,
        findings=findings,
        objects=objects,
        summary={
            **summary,
            "device": prediction.device,
            "way": prediction.way,
            "adapted": [*source.adapted, *prediction.adapted],
            "series": dict(choice.reasons),
            "seconds": watch.seconds,
        },
    )


def explain_refusal(
    study: Study, runner: BundleRunner, error: InputError, *, job_id: str, created_at: datetime
) -> Refusal:
    """The report that says that a series of the model's kind was not evaluated, and why.

    A study without such a series gets none: nobody expects a reading of it.
    """
    candidates, reasons = fitting_series(study, runner.model.manifest)
    identity = _identity(runner, job_id=job_id, created_at=created_at)
    objects: tuple[ResultObject, ...] = ()
    series_instance_uid = ""
    if candidates:
        series_instance_uid = candidates[0].series_instance_uid
        source = Source(planes=[next(planes_of(candidates[0].header))])
        not_evaluated = NotEvaluated(structures=sought(runner.model.manifest), reason=str(error))
        objects = encode_refusal(not_evaluated, source=source, identity=identity)
    summary = _summary(study, series_instance_uid, Findings(), objects, identity, runner)
    return Refusal(objects=objects, summary={**summary, "series": reasons, "seconds": {}})


def _identity(runner: BundleRunner, *, job_id: str, created_at: datetime) -> ResultIdentity:
    model = runner.model
    return ResultIdentity(
        job_id=job_id,
        model=model.name,
        title=model.manifest.title,
        version=model.version,
        digest=runner.digest,
        limits=model.manifest.limits,
        created_at=created_at,
    )


def _summary(
    study: Study,
    series_instance_uid: str,
    findings: Findings,
    objects: tuple[ResultObject, ...],
    identity: ResultIdentity,
    runner: BundleRunner,
) -> dict[str, Any]:
    return {
        "job_id": identity.job_id,
        "study_instance_uid": study.study_instance_uid,
        "series_instance_uid": series_instance_uid,
        "model": identity.model,
        "model_version": identity.version,
        "model_digest": identity.digest,
        "device": str(runner.device),
        "findings": [
            {
                "structure": structure.name,
                "code": list(structure.type),
                "present": structure.is_present,
                "measurements": [
                    {
                        "name": measurement.name,
                        "code": list(measurement.concept),
                        "derivation": list(measurement.derivation) if measurement.derivation else None,
                        "value": measurement.value,
                        "unit": measurement.unit.value,
                    }
                    for measurement in structure.measurements
                ],
            }
            for structure in findings.structures
        ],
        "classes": [
            {
                "name": each.name,
                "finding": list(each.finding),
                "value": list(each.value),
                "probability": each.probability,
            }
            for each in findings.classifications
        ],
        "numbers": [
            {
                "name": each.name,
                "code": list(each.measurement.concept),
                "value": each.measurement.value,
                "unit": each.measurement.unit.value,
            }
            for each in findings.quantities
        ],
        "marks": [
            {"name": each.name, "code": list(each.type), "slice": each.plane + 1, "probability": each.probability}
            for each in findings.marks
        ],
        "sop_instance_uids": [str(result.dataset.SOPInstanceUID) for result in objects],
        "tracking_uids": [tracking_uid(str(structure.label), identity) for structure in findings.structures],
        "limits": identity.limits,
    }
