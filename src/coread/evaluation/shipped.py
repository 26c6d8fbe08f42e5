"""The command that makes a shipped model: train, evaluate on DICOM made of the ``val`` split, write report and card."""

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, TypeVar

import click
from rich.progress import track

from coread.errors import ConfigurationError
from coread.evaluation.card import card_of
from coread.evaluation.document import as_text
from coread.evaluation.report import Method
from coread.evaluation.run import evaluate, load_reference
from coread.models.catalogue import find_model, installed_models
from coread.models.manifest import MANIFEST_NAME
from coread.models.training import Plan, Trained
from coread.settings import Settings
from coread.workers.study import studies_in_folder
from coread.workers.warm import warm_models

DIGITS = 3
"""Of a temperature."""


class HasSplit(Protocol):
    """A case of a data set that says which part it belongs to."""

    @property
    def split(self) -> str:
        """``train`` or ``val``."""


C = TypeVar("C", bound=HasSplit)


def training_command(
    bundle: Path,
    *,
    plan: Plan,
    load_cases: Callable[[Path], list[C]],
    train: Callable[[Sequence[C], Path, Plan], Trained],
    write_studies: Callable[[Sequence[C], Path], tuple[Path, Path]],
) -> click.Command:
    """The command for the model in ``bundle``.

    ``load_cases``: of a folder; ``train``: writes weights to a path; ``write_studies``: writes cases as DICOM studies
    and a reference standard into a folder, and returns where both are.
    """

    @click.command(help=f"Train {bundle.name} on the train split, then report on the val split.")
    @click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
    @click.option("--epochs", type=click.IntRange(1), default=plan.epochs, show_default=True)
    @click.option("--seed", type=click.IntRange(0), default=plan.seed, show_default=True)
    @click.option("--report-only", is_flag=True, help="Do not train; report on the weights that are there.")
    def command(data: Path, epochs: int, seed: int, *, report_only: bool) -> None:
        cases = load_cases(data)
        if not report_only:
            learnt = [case for case in cases if case.split == "train"]
            trained = train(learnt, bundle / "models" / "model.pt", replace(plan, epochs=epochs, seed=seed))
            click.echo(f"best score on those held out: {trained.score:.4f}")
            if trained.temperature is not None:
                _write_temperature(bundle / MANIFEST_NAME, trained.temperature)
        with tempfile.TemporaryDirectory() as folder:
            studies, reference = write_studies([case for case in cases if case.split == "val"], Path(folder))
            _write_report(bundle, studies, reference)

    return command


def _write_temperature(manifest: Path, temperature: float) -> None:
    text, count = re.subn(
        r"(?m)^temperature: .*$", f"temperature: {temperature:.{DIGITS}f}", manifest.read_text(encoding="utf-8")
    )
    if count != 1:
        raise ConfigurationError(f"expected a line `temperature: …` in {manifest}, found {count}; add one")
    manifest.write_text(text, encoding="utf-8")


def _write_report(bundle: Path, studies: Path, reference: Path) -> None:
    settings = Settings()
    models = installed_models(settings)
    model = find_model(bundle.name, models)
    found = evaluate(
        studies_in_folder(studies),
        warm_models(settings, models)(model.name),
        load_reference(reference, model),
        method=Method(),
        profiles=settings.results.profiles,
        at=datetime.now(UTC),
        progress=lambda studies: iter(track(studies, "reading studies")),
    )
    (bundle / "docs" / "report.json").write_text(as_text(found.report), encoding="utf-8")
    (bundle / "docs" / "README.md").write_text(card_of(model), encoding="utf-8")
    for error in found.errors:
        click.echo(f"{type(error).__name__}: {error}", err=True)
