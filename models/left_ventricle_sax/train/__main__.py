"""Train the model, or only report on it.

The data: https://github.com/ericspod/VPHSummerSchool2019 (scd_lvsegs.npz), from the Sunnybrook Cardiac Data, CC0.
"""

import json
from pathlib import Path

import click

from coread.models.catalogue import installed_models
from coread.models.left_ventricle_sax.train.data import load_cases
from coread.models.left_ventricle_sax.train.report import evaluate
from coread.models.left_ventricle_sax.train.training import BUNDLE, train
from coread.models.runner import BundleRunner, choose_device
from coread.settings import Settings


@click.command()
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder with lv_shortaxis.npz and split.csv.",
)
@click.option("--epochs", default=180, show_default=True)
@click.option("--seed", default=2026, show_default=True)
@click.option("--report-only", is_flag=True, help="Do not train; report on the weights that are there.")
def main(data: Path, epochs: int, seed: int, *, report_only: bool) -> None:
    """Train on the train split, then write docs/report.json about the val split."""
    cases = load_cases(data)
    if not report_only:
        dice = train(cases, weights=BUNDLE / "models" / "model.pt", epochs=epochs, seed=seed)
        click.echo(f"best Dice on held-out patients of the train split: {dice:.3f}")
    runner = BundleRunner(installed_models(Settings())["left_ventricle_sax"], device=choose_device("auto"))
    report = evaluate(runner, [case for case in cases if case.split == "val"], seed=seed)
    (BUNDLE / "docs" / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    click.echo(json.dumps({key: value for key, value in report.items() if key != "by_patient"}, indent=2))


if __name__ == "__main__":
    main()
