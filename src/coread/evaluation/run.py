"""How a model is evaluated: match studies and reference, read each study as a job does, compare, and make the report.

The figures are of what would be written into the studies, since ``read_study`` makes both.
"""

import hashlib
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from coread import __version__
from coread.errors import ConfigurationError, CoreadError, InputError
from coread.evaluation.compare import compare_classes, compare_numbers, compare_structures
from coread.evaluation.reference import Segmentations, find_segmentations, true_masks
from coread.evaluation.report import Compared, LeftOut, Method, Why, report_of
from coread.evaluation.table import Row, Table, read_table
from coread.evaluation.traits import patient_of, traits_of
from coread.logs import logger
from coread.models.bundle.reader import chosen_task
from coread.models.catalogue import InstalledModel
from coread.models.manifest import Manifest, TaskKind
from coread.models.metadata import find_metadata
from coread.models.runner import BundleRunner
from coread.models.tasks import task_of
from coread.objects import Profile
from coread.workers.pipeline import Reading, read_study
from coread.workers.study import Study

Reference = Table | Segmentations

SOFTWARE = ("torch", "monai", "numpy", "scipy", "scikit-learn", "highdicom", "pydicom")
"""Packages whose versions the report names: what read and measured."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The report, and the errors of the studies that could not be compared."""

    report: dict[str, Any]
    errors: Sequence[CoreadError]


def load_reference(path: Path, model: InstalledModel) -> Reference:
    """The reference standard in ``path``: segmentations for a model of structures, a table for classes and numbers.

    Raises ConfigurationError if it is not of the kind that the model's task needs, or cannot be used; NotDicom if a
    file in it cannot be parsed.
    """
    task = chosen_task(model.manifest, task_of(find_metadata(model.folder)))
    if task in (TaskKind.DETECTION, TaskKind.LANDMARKS):
        raise ConfigurationError(
            f"{model.name}: expected a model that segments, classifies or measures, found one for {task}; boxes and "
            "landmarks cannot be evaluated yet"
        )
    if not path.exists():
        raise ConfigurationError(f"expected a reference standard, found nothing at {path}; check the path")
    if task is TaskKind.SEGMENTATION:
        return find_segmentations(path)
    if path.is_dir():
        raise ConfigurationError(f"expected a CSV file for a model of {task}, found a folder at {path}; name the file")
    return read_table(path, model.manifest)


def evaluate(
    studies: Sequence[Study],
    runner: BundleRunner,
    reference: Reference,
    *,
    method: Method,
    profiles: Sequence[Profile],
    at: datetime,
    progress: Callable[[Sequence[Study]], Iterator[Study]],
) -> Evaluation:
    """Compare what a model says of each study with the reference. ``progress`` shows how far it is.

    A study that cannot be compared is listed in the report with the reason. Raises ConfigurationError if no study has
    a reference, InputError if none could be compared.
    """
    assigned = reference.assign(studies)
    if not assigned:
        raise ConfigurationError(
            f"expected a reference for some of the {len(studies)} studies, found none that belongs to one "
            f"({_how_matched(reference)}); check that both are of the same studies"
        )
    numbers = {study.study_instance_uid: number for number, study in enumerate(studies, start=1)}
    compared: list[Compared] = []
    left_out = [
        LeftOut(number=numbers[study.study_instance_uid], study=study, why="without reference")
        for study in studies
        if study.study_instance_uid not in assigned
    ]
    for study in progress([study for study in studies if study.study_instance_uid in assigned]):
        number, said = numbers[study.study_instance_uid], assigned[study.study_instance_uid]
        outcome = _outcome(study, number, runner, said, method=method, profiles=profiles, at=at)
        if isinstance(outcome, Compared):
            compared.append(outcome)
        else:
            left_out.append(outcome)
    errors = [each.error for each in left_out if each.error]
    if not compared:
        raise InputError(
            f"expected studies that can be compared, found none of {len(assigned)} with a reference: "
            f"{'; '.join(sorted({str(error) for error in errors})[:3])}"
        )
    report = report_of(
        compared,
        sorted(left_out, key=lambda each: each.number),
        manifest=runner.model.manifest,
        method=method,
        head={
            "model": {
                "name": runner.model.name,
                "title": runner.model.manifest.title,
                "version": runner.model.version,
                "digest": runner.digest,
                "limits": runner.model.manifest.limits,
            },
            "software": {"coread": __version__, "python": platform.python_version(), **_versions()},
            "device": str(runner.device),
            "evaluated_at": at.isoformat(timespec="seconds"),
            "reference": _described(reference),
        },
        studies=len(studies),
        references_without_study=_without_study(reference, assigned),
    )
    return Evaluation(report=report, errors=errors)


def _outcome(
    study: Study,
    number: int,
    runner: BundleRunner,
    said: Row | Sequence[Path],
    *,
    method: Method,
    profiles: Sequence[Profile],
    at: datetime,
) -> Compared | LeftOut:
    def left(why: Why, error: CoreadError) -> LeftOut:
        return LeftOut(number=number, study=study, why=why, error=error)

    reading = None
    try:
        reading = read_study(study, runner, job_id=_job_id(study), created_at=at, profiles=profiles)
        return _compared(study, number, reading, said, runner.model.manifest, method)
    except ConfigurationError:
        raise
    except InputError as error:
        return left("refused" if reading is None else "reference not usable", error)
    except CoreadError as error:
        return left("failed", error)
    except Exception as error:  # noqa: BLE001  # here a study ends: the others are still to be read
        logger().exception("study not compared", study_instance_uid=study.study_instance_uid)
        broken = CoreadError(f"unexpected {type(error).__name__}; please report it with the log line above")
        return left("failed", broken)


def _compared(
    study: Study, number: int, reading: Reading, said: Row | Sequence[Path], manifest: Manifest, method: Method
) -> Compared:
    chosen = reading.summary["series_instance_uid"]
    header = next(series.header for series in study.series if series.series_instance_uid == chosen)
    patient, traits = patient_of(study, header), traits_of(header)
    if isinstance(said, Row):
        compare = compare_classes if manifest.classes else compare_numbers
        results = compare(reading, said.truth, manifest)
        return Compared(number=number, study=study, patient=said.group or patient, traits=traits, results=results)
    truth = true_masks(said, reading.stack, manifest)
    return Compared(
        number=number,
        study=study,
        patient=patient,
        traits=traits,
        results=compare_structures(reading, truth, unnamed_are_absent=method.unnamed_are_absent),
        matched_by=truth.matched_by,
        unmatched_segments=truth.unmatched,
    )


def _job_id(study: Study) -> str:
    """Nothing of the reading is stored; the same study is read the same way again."""
    return hashlib.sha256(f"evaluation {study.study_instance_uid}".encode()).hexdigest()[:32]


def _versions() -> dict[str, str]:
    return {name: version(name) for name in SOFTWARE}


def _how_matched(reference: Reference) -> str:
    return f"by {reference.matched_by}" if isinstance(reference, Table) else "by StudyInstanceUID"


def _described(reference: Reference) -> dict[str, Any]:
    if isinstance(reference, Table):
        has_groups = any(row.group for row in reference.rows.values())
        return {
            "kind": "table",
            "matched_by": reference.matched_by,
            "entries": len(reference.rows),
            "patients_by": "group" if has_groups else "PatientID",
        }
    return {
        "kind": "segmentations",
        "matched_by": "StudyInstanceUID",
        "entries": len(reference.by_study),
        "patients_by": "PatientID",
    }


def _without_study(reference: Reference, assigned: Mapping[str, object]) -> list[str]:
    """What the reference says of studies that are not there: lines of the table, or StudyInstanceUIDs."""
    if isinstance(reference, Table):
        lines = {row.line for row in assigned.values() if isinstance(row, Row)}
        return [f"line {row.line}" for row in reference.rows.values() if row.line not in lines]
    return sorted(set(reference.by_study) - set(assigned))
