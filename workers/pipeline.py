"""How a study is read: select the series, build the volume, infer, measure, encode. Storing is left to the caller.

The same for a job of the plugin and for a folder on the command line.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from coread.dicom_sr.encode import ResultObject, encode_findings
from coread.dicom_sr.identity import ResultIdentity
from coread.findings import Findings
from coread.models.runner import BundleRunner
from coread.workers.measure import measure
from coread.workers.plausibility import check_field_of_view
from coread.workers.series import choose_series
from coread.workers.study import Study
from coread.workers.volume import SourceVolume


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What came of reading a study: the findings, the DICOM objects that say so, and how long each stage took."""

    source: SourceVolume
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


def read_study(study: Study, runner: BundleRunner, *, job_id: str, created_at: datetime) -> Reading:
    """Read a study with a model; all UIDs of the results derive from ``job_id``.

    Raises InputError if the study does not fit, ModelError or ResultError if it went wrong.
    """
    model = runner.model
    watch = Stopwatch()
    with watch.stage("fetch"):
        chosen = choose_series(study, model.manifest.series)
    with watch.stage("infer"):
        labels = runner.segment(chosen.source.volume)
    check_field_of_view(labels, chosen.source.volume, model.manifest.series)
    with watch.stage("measure"):
        findings = measure(
            labels, chosen.source.volume, manifest=model.manifest, modality=str(chosen.series.header.Modality)
        )
    identity = ResultIdentity(
        job_id=job_id,
        model=model.name,
        title=model.manifest.title,
        version=model.version,
        digest=runner.digest,
        limits=model.manifest.limits,
        created_at=created_at,
    )
    with watch.stage("encode"):
        objects = encode_findings(findings, images=chosen.source.images, identity=identity)
    summary = _summary(study, chosen.series.series_instance_uid, findings, objects, identity, runner)
    return Reading(
        source=chosen.source,
        findings=findings,
        objects=objects,
        summary={**summary, "passed_over": dict(chosen.passed_over), "seconds": watch.seconds},
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
        "sop_instance_uids": [str(result.dataset.SOPInstanceUID) for result in objects],
        "limits": identity.limits,
    }
