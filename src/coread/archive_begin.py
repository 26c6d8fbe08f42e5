"""Puts a plan into the ledger as a run, for the command and for REST. The same plan under the same name is one run."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from coread.archive_run import Run, Terms
from coread.archive_terms import Pace, Wishes, folder_of, run_id_of, terms_of
from coread.cohort.plan import read_plan
from coread.errors import ConfigurationError
from coread.ledger import Ledger
from coread.settings import Settings

EVERY = 1000
"""Studies after which the progress is told."""

Told = Callable[[int, int], None]
"""Is told how many studies of how many stand in the ledger."""


def _tell_nobody(_done: int, _of: int) -> None:
    pass


def begin_run(
    ledger: Ledger,
    plan_file: Path,
    *,
    wishes: Wishes,
    settings: Settings,
    by: str,
    at: datetime,
    folder: Path | None = None,
    key_file: Path | None = None,
    tell: Told = _tell_nobody,
) -> Run:
    """The run of a plan: begun, gone on with if its loading broke off, or the one that is there already.

    Raises ConfigurationError if the plan's source or models are not known, or if the run is there with other terms than
    are asked for (another pace apart); what the plan's reader raises, if the file is no plan.
    """
    plan = read_plan(plan_file)
    name = wishes.name or plan.header.name
    run_id = run_id_of(plan.digest, name)
    if (known := ledger.run(run_id)) is not None:
        _check_same(known, asked_terms(wishes, folder=folder, key_file=key_file))
        terms = known.terms
    else:
        terms = terms_of(
            wishes,
            source=plan.header.source,
            models=plan.header.models,
            settings=settings,
            folder=folder or folder_of(settings, run_id),
            key_file=key_file,
        )
    studies = ((study.study_instance_uid, study.instances) for study in plan.studies())
    counted = _counted(studies, of=plan.header.studies, tell=tell)
    ledger.start_run(run_id, name=name, terms=terms, plan_digest=plan.digest, studies=counted, by=by, at=at)
    run = ledger.run(run_id)
    if run is None:
        raise ConfigurationError(f"the run {run_id} is gone while it was begun; begin it again")
    return run


def asked_terms(wishes: Wishes, *, folder: Path | None, key_file: Path | None) -> dict[str, Any]:
    """What of a run's terms was asked for in so many words, the pace apart: that may have been changed since."""
    said = wishes.model_fields_set - Pace.model_fields.keys() - {"name"}
    asked = {name: getattr(wishes, name) for name in said}
    if folder is not None:
        asked["folder"] = str(folder.absolute())
    if key_file is not None:
        asked["key_file"] = str(key_file.absolute())
    return asked


def _check_same(run: Run, asked: Mapping[str, Any]) -> None:
    """Raises ConfigurationError if a run has other terms than are asked for."""
    if other := differing(run.terms, asked):
        raise ConfigurationError(
            f"the plan's run {run.run_id} ({run.name}) was begun with other terms: {', '.join(other)}; leave these out "
            "to go on with it, or give another name to run the plan once more"
        )


def differing(terms: Terms, asked: Mapping[str, Any]) -> list[str]:
    """The keys of terms that are asked for otherwise."""
    return sorted(name for name, value in asked.items() if getattr(terms, name) != value)


def _counted(studies: Iterable[tuple[str, int | None]], *, of: int, tell: Told) -> Iterator[tuple[str, int | None]]:
    done = 0
    for done, study in enumerate(studies, start=1):
        yield study
        if done % EVERY == 0:
            tell(done, of)
    tell(done, of)
