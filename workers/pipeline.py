"""How a study is read: select the series, build the volume, infer, measure, encode. Storing is left to the caller.

The same for a job of the plugin and for a folder on the command line, in three steps: ``fetch``, ``infer``, ``report``.
Only the second needs the model's network, so a worker may take the others in threads of their own. A cine gives two
parts: the phases between which what is measured empties, each read as a stack of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException

from coread.dicom_sr.encode import OF_A_CYCLE, ResultObject, encode_findings, encode_refusal
from coread.dicom_sr.identity import ResultIdentity
from coread.dicom_sr.segmentation import tracking_uid
from coread.dicom_sr.source import Source, planes_of
from coread.errors import InputError, NotDicom
from coread.findings import Findings, NotEvaluated
from coread.models.manifest import Manifest, WaveformRequirement
from coread.models.prediction import Prediction
from coread.models.runner import BundleRunner
from coread.objects import SALIENCY_OBJECTS, SALIENCY_OF_PROJECTIONS, ObjectKind, Profile, wanted_objects
from coread.volume import Volume
from coread.workers.cycle import Cycle, Look, follow, summary_of, tell
from coread.workers.input_numbers import input_numbers
from coread.workers.measure import answers_of, findings_of, on_side, saliency_said, sought
from coread.workers.phases import Cine
from coread.workers.plausibility import check_field_of_view, check_found
from coread.workers.resample import onto
from coread.workers.series import check_population, choose, fitting_series
from coread.workers.stopwatch import Stopwatch
from coread.workers.study import Study
from coread.workers.volume import SourceVolume
from coread.workers.waveform import SourceWaveform
from coread.workers.waveform_choice import choose_waveform


@dataclass(frozen=True, kw_only=True)
class Part:
    """What was found in one stack of slices, and the objects that say so."""

    source: SourceVolume | SourceWaveform
    prediction: Prediction
    """What the model gave, of which the findings may say less: the probability of each class."""
    findings: Findings
    identity: ResultIdentity
    objects: tuple[ResultObject, ...] = ()
    phase: str = ""
    """Of the cycle, where several were looked at: "end-diastole"."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG of what was found, and what it shows in words."""

    caption: str
    png: bytes


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What came of reading a study: the findings, the DICOM objects that say so, and how long each stage took."""

    parts: tuple[Part, ...]
    """One; of a cine two, the filled phase first."""
    objects: tuple[ResultObject, ...]
    """Those of the parts, and those that speak of all of them."""
    summary: dict[str, Any]
    """Findings, identifiers and timings as JSON; nothing that identifies the patient."""
    cycle: Cycle | None = None
    numbers: Findings = field(default_factory=Findings)
    """What is said of the cycle as a whole."""
    pictures: tuple[Picture, ...] = ()
    """For people, if any were drawn; they are stored with the objects, and are none of them."""

    @property
    def source(self) -> SourceVolume | SourceWaveform:
        return self.parts[0].source

    @property
    def stack(self) -> SourceVolume:
        """The source. Raises TypeError if it is an ECG."""
        if isinstance(self.source, SourceWaveform):
            raise TypeError("an ECG has no slices")
        return self.source

    @property
    def prediction(self) -> Prediction:
        return self.parts[0].prediction

    @property
    def findings(self) -> Findings:
        return self.parts[0].findings


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What is said of a study that was not evaluated; no objects if none of its series is of the model's kind."""

    objects: tuple[ResultObject, ...]
    summary: dict[str, Any]
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Fetched:
    """What of a study the model is to see."""

    study_instance_uid: str
    series_instance_uid: str
    """Of the series that is read, the first if there are several."""
    source: SourceVolume | SourceWaveform
    channels: Sequence[Volume]
    """One for each series of the manifest, all on one grid; none of an ECG."""
    header: Dataset
    """Of one of the images."""
    reasons: Mapping[str, str]
    """SeriesInstanceUID → why it was taken or left."""
    is_of_noise: bool
    watch: Stopwatch


@dataclass(frozen=True, kw_only=True, eq=False)
class Inferred:
    """What the model gave for a study."""

    fetched: Fetched
    """Without the channels, which nothing needs any more."""
    looks: tuple[Look, ...]
    """One; of a cine two, the filled phase first; none of an ECG."""
    prediction: Prediction
    cycle: Cycle | None = None


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
    inferred = infer(fetch(study, runner.model.manifest), runner)
    return report(inferred, runner, job_id=job_id, created_at=created_at, profiles=profiles)


def fetch(study: Study, manifest: Manifest) -> Fetched:
    """Choose the series that the model reads, and load them. Raises InputError if the study does not fit."""
    waveform = manifest.series[0].waveform
    if waveform:
        return _fetch_ecg(study, manifest, waveform)
    watch = Stopwatch()
    with watch.stage("fetch"), _parsing(study):
        choice = choose(study, manifest)
        header = choice.chosen[0].header
        check_population(header, manifest.population, at=None)
        source = choice.sources[0]
        channels = [onto(each.volume, source.volume) for each in choice.sources]
    return Fetched(
        study_instance_uid=study.study_instance_uid,
        series_instance_uid=choice.chosen[0].series_instance_uid,
        source=source,
        channels=channels,
        header=header,
        reasons=choice.reasons,
        is_of_noise=study.is_of_noise,
        watch=watch,
    )


@contextmanager
def _parsing(study: Study) -> Iterator[None]:
    """Raises NotDicom at an element whose length is not one that its values can have, or whose value representation
    does not exist: it is found out when the element is first looked at, wherever that is.
    """
    try:
        yield
    except (BytesLengthException, NotImplementedError) as error:
        raise NotDicom(
            "expected elements with a value representation and the length of its values, found another one in "
            f"{study.study_instance_uid}; send the study again"
        ) from error


def _fetch_ecg(study: Study, manifest: Manifest, wanted: WaveformRequirement) -> Fetched:
    watch = Stopwatch()
    with watch.stage("fetch"):
        choice = choose_waveform(study, manifest, wanted)
        header = choice.source.instance
        check_population(header, manifest.population, at=None)
    return Fetched(
        study_instance_uid=study.study_instance_uid,
        series_instance_uid=choice.series.series_instance_uid,
        source=choice.source,
        channels=(),
        header=header,
        reasons=choice.reasons,
        is_of_noise=study.is_of_noise,
        watch=watch,
    )


def infer(fetched: Fetched, runner: BundleRunner) -> Inferred:
    """Have the model look. Raises ModelError or OutOfMemory if it fails, InputError if what it found cannot be judged
    from these images.
    """
    source, manifest = fetched.source, runner.model.manifest
    bare = replace(fetched, channels=())
    with fetched.watch.stage("infer"):
        if isinstance(source, SourceWaveform):
            prediction = runner.predict(source.waveform)
            prediction = replace(prediction, adapted=(*source.adapted, *prediction.adapted))
            return Inferred(fetched=bare, looks=(), prediction=prediction)
        cycle = follow(source, runner) if isinstance(source, Cine) else None
        looks = cycle.looks if cycle else (Look(source=source, prediction=runner.predict(fetched.channels)),)
    if not fetched.is_of_noise:
        check_found(looks[0].prediction.layers, manifest)
        for look in looks:
            check_field_of_view(look.prediction.layers, look.source.volume, manifest.series[0])
    return Inferred(fetched=bare, looks=looks, prediction=looks[0].prediction, cycle=cycle)


def report(
    inferred: Inferred,
    runner: BundleRunner,
    *,
    job_id: str,
    created_at: datetime,
    profiles: Sequence[Profile],
) -> Reading:
    """Measure what the model found and write the objects that say so. Of the runner, only what it says of itself is
    used: its network may be busy with another study. Raises ResultError if an object does not read back as it should.
    """
    fetched, cycle, manifest = inferred.fetched, inferred.cycle, runner.model.manifest
    watch = fetched.watch
    identity = _identity(runner, job_id=job_id, created_at=created_at)
    with watch.stage("measure"):
        parts = [_part(look, manifest, fetched.header, identity) for look in inferred.looks]
        if isinstance(fetched.source, SourceWaveform):  # there is no volume, and nothing in the answer has a place
            findings = answers_of(inferred.prediction, manifest)
            part = Part(source=fetched.source, prediction=inferred.prediction, findings=findings, identity=identity)
            parts = [part]
        numbers = tell(cycle, [part.findings for part in parts], manifest=manifest) if cycle else Findings()
    with watch.stage("encode"):
        kinds = wanted_objects(profiles, manifest.objects, besides=_besides(manifest))
        parts = [_encoded(part, kinds) for part in parts]
        objects = [each for part in parts for each in part.objects]
        if cycle:
            objects += encode_findings(
                numbers, source=cycle.as_source, identity=identity, kinds=kinds, descriptions=OF_A_CYCLE
            )
    return Reading(
        parts=tuple(parts),
        objects=tuple(objects),
        cycle=cycle,
        numbers=numbers,
        summary={
            **_summary(
                fetched.study_instance_uid, fetched.series_instance_uid, parts, numbers, objects, identity, runner
            ),
            **(summary_of(cycle, numbers) if cycle else {}),
            "input": input_numbers(parts[0].source),
            **_how(inferred.prediction, manifest, fetched.reasons, watch),
        },
    )


def _part(look: Look, manifest: Manifest, header: Dataset, identity: ResultIdentity) -> Part:
    """What a look at a stack found; if it was one of two phases, under identifiers of that phase."""
    modality = str(header.get("Modality", ""))
    findings = findings_of(look.prediction, look.source.volume, manifest=manifest, modality=modality)
    if manifest.side_from_header:
        findings = on_side(findings, header)
    if look.phase is None:
        return Part(source=look.source, prediction=look.prediction, findings=findings, identity=identity)
    always = {manifest.value_of(key) for key, meaning in manifest.labels.items() if meaning.always}
    said = tuple(each for each in findings.structures if each.is_present or each.label not in always)
    return Part(
        source=look.source,
        prediction=look.prediction,
        findings=replace(findings, structures=said, cycle_point=look.phase.point),
        identity=identity.of_phase(look.phase.part, name=look.phase.name),
        phase=look.phase.name,
    )


def _encoded(part: Part, kinds: frozenset[ObjectKind]) -> Part:
    objects = encode_findings(part.findings, source=part.source.as_source, identity=part.identity, kinds=kinds)
    return replace(part, objects=objects)


def _besides(manifest: Manifest) -> Mapping[Profile, Sequence[ObjectKind]]:
    """What a classifier that says where it looked writes besides, if its package does not choose by itself."""
    if manifest.saliency is None:
        return {}
    return SALIENCY_OF_PROJECTIONS if manifest.series[0].projection else SALIENCY_OBJECTS


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
    summary = _summary(study.study_instance_uid, series_instance_uid, (), Findings(), objects, identity, runner)
    return Refusal(objects=objects, summary={**summary, "series": reasons, "seconds": {}, "stages": {}})


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


def _how(prediction: Prediction, manifest: Manifest, reasons: Mapping[str, str], watch: Stopwatch) -> dict[str, Any]:
    """How the study was read, as JSON."""
    return {
        "device": prediction.device,
        "engine": prediction.engine,
        "way": prediction.way,
        "adapted": list(prediction.adapted),
        "saliency": saliency_said(prediction, manifest),
        "series": dict(reasons),
        "seconds": watch.seconds,
        "stages": watch.stages,
    }


def _summary(
    study_instance_uid: str,
    series_instance_uid: str,
    parts: Sequence[Part],
    numbers: Findings,
    objects: Sequence[ResultObject],
    identity: ResultIdentity,
    runner: BundleRunner,
) -> dict[str, Any]:
    found = [*(part.findings for part in parts), numbers]
    return {
        "job_id": identity.job_id,
        "study_instance_uid": study_instance_uid,
        "series_instance_uid": series_instance_uid,
        "model": identity.model,
        "model_version": identity.version,
        "model_digest": identity.digest,
        "device": str(runner.device),
        "findings": [
            {
                **({"phase": part.phase} if part.phase else {}),
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
            for part in parts
            for structure in part.findings.structures
        ],
        "classes": [
            {
                "name": each.name,
                "finding": list(each.finding),
                "value": list(each.value),
                "probability": each.probability,
            }
            for findings in found
            for each in findings.classifications
        ],
        "numbers": [
            {
                "name": each.name,
                "code": list(each.measurement.concept),
                "value": each.measurement.value,
                "unit": each.measurement.unit.value,
            }
            for findings in found
            for each in findings.quantities
        ],
        "marks": [
            {"name": each.name, "code": list(each.type), "slice": each.plane + 1, "probability": each.probability}
            for findings in found
            for each in findings.marks
        ],
        "sop_instance_uids": [str(result.dataset.SOPInstanceUID) for result in objects],
        "sop_class_uids": [str(result.dataset.SOPClassUID) for result in objects],
        "tracking_uids": [
            tracking_uid(str(structure.label), part.identity)
            for part in parts
            for structure in part.findings.structures
        ],
        "limits": identity.limits,
    }
