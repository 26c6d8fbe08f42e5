import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from coread.cli import coread
from coread.errors import ConfigurationError
from coread.evaluation.card import card_of, conditions_of
from coread.evaluation.document import as_text, has_report_form
from coread.models.catalogue import InstalledModel, installed_models, load_model
from coread.models.manifest import SeriesRequirement
from coread.settings import Settings
from tests.support import MANIFEST, write_bundle

SHIPPED = installed_models(Settings())


def test_the_card_of_a_shipped_model_is_what_its_report_says() -> None:
    for name, model in SHIPPED.items():
        if has_report_form(model.folder / "docs" / "report.json"):
            path = model.folder / "docs" / "README.md"
            assert path.read_text(encoding="utf-8") == card_of(model), f"say: coread models card {name} -o {path}"


def package(folder: Path, **more: Any) -> InstalledModel:
    write_bundle(folder, manifest=more, inference={"preprocessing": [], "postprocessing": []})
    metadata = {
        "version": "1.2.3",
        "description": "A network | with a pipe",
        "intended_use": "Research",
        "data_source": "A collection, CC BY 4.0",
        "copyright": "The authors",
        "references": ["One, 2001", "Two, 2002"],
    }
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return load_model(folder, allowed=None)


def estimate(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    method = None if low is None else "bootstrap"
    return {"value": value, "low": low, "high": high, "method": method, "studies": 12, "patients": 12}


def report(model: InstalledModel) -> dict[str, Any]:
    figures = {"dice": estimate(0.912, 0.9, 0.93), "volume_bias": estimate(-3.14159), "specificity": estimate(None)}
    subject = {"kind": "structure", "name": "First", "estimates": figures}
    counts = ("studies", "compared", "patients", "without_reference", "refused", "failed", "reference_not_usable")
    few = {"by": "sex", "name": "M", "studies": 2, "patients": 2, "subjects": None}
    enough = {"by": "sex", "name": "F", "studies": 10, "patients": 10, "subjects": [subject]}
    return {
        "schema": 1,
        "model": {"name": "test_model", "title": "T", "version": "1", "digest": model.digest(), "limits": "-"},
        "software": {"coread": "0", "python": "3"},
        "device": "cpu",
        "evaluated_at": "2026-01-02T03:04:05+00:00",
        "reference": {
            "kind": "segmentations",
            "matched_by": "StudyInstanceUID",
            "entries": 12,
            "patients_by": "PatientID",
        },
        "method": {
            "level": 0.95,
            "resamples": 2000,
            "seed": 0,
            "fewest_patients": 5,
            "unnamed_are_absent": False,
        },
        "counts": {**dict.fromkeys(counts, 12), "references_without_study": 0},
        "left_out": [],
        "references_without_study": [],
        "matching": None,
        "subjects": [subject],
        "subgroups": [few, enough],
        "studies": [],
    }


def test_the_card_says_what_is_read_refused_and_found_with_which_codes(tmp_path: Path) -> None:
    series = {
        **MANIFEST["series"],
        "described_as": "any MR series",
        "must_not": {"SeriesDescription": ["*t1*", "*t2*"], "ProtocolName": ["*t1*", "*t2*"]},
        "any_of": [{"SeriesDescription": ["*sax*"]}, {"ProtocolName": ["*sax*"]}],
        "contrast": False,
        "field_of_view_mm": 172.8,
    }
    model = package(tmp_path / "bundle", series=series, population={"age_years": [18, 120], "sex": ["F"]})
    (tmp_path / "bundle" / "docs").mkdir()
    (tmp_path / "bundle" / "docs" / "training.md").write_text("## Training\n\nWith care.\n")
    card = card_of(model)
    for words in (
        "# Test model\n",
        "| model | `test_model`, version 1.2.3 |",
        "A network | with a pipe.",
        "Any MR series. Such a series is one with:",
        "- Modality: `MR`\n",
        "- not in ProtocolName and not in SeriesDescription: `*t1*` or `*t2*`\n",
        "- in SeriesDescription or in ProtocolName: `*sax*`\n",
        "- no contrast agent given\n",
        "- 2 to 500 slices\n",
        "- patients who are not 18 to 120 years old, or whose age is not known\n",
        "- patients of another PatientSex than F, or none\n",
        "- images in which a structure reaches the edge",
        "| Second | Blood (SCT 87612001), Left ventricle (SCT 87878005) | volume |",
        "A collection, CC BY 4.0.\n\n- One, 2001\n- Two, 2002\n",
        "## Training\n\nWith care.\n",
        "Nobody has evaluated it",
        "## Limits\n\nFor tests only.\n",
    ):
        assert words in card, words


def test_the_figures_stand_in_the_card_with_their_intervals_and_subgroups(tmp_path: Path) -> None:
    model = package(tmp_path / "bundle")
    path = tmp_path / "report.json"
    path.write_text(as_text(report(model)), encoding="utf-8")
    card = card_of(model, path)
    assert "| Dice, mean | 0.91 (0.90 to 0.93) | 12 |" in card
    assert "| volume: bias | \N{MINUS SIGN}3.1 ml | 12 |" in card
    assert "| specificity |" not in card
    assert "| sex: F | 10 / 10 | 0.91 (0.90 to 0.93) |" in card
    assert "| sex: M | 2 / 2 |  |" in card
    (tmp_path / "bundle" / "docs").mkdir()
    shutil.copy(path, tmp_path / "bundle" / "docs" / "report.json")
    assert card_of(model) == card


def test_a_report_of_another_state_of_the_model_is_refused(tmp_path: Path) -> None:
    model = package(tmp_path / "bundle")
    path = tmp_path / "report.json"
    path.write_text(as_text(report(model)), encoding="utf-8")
    (tmp_path / "bundle" / "configs" / "more.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="expected a report of test_model as it is now"):
        card_of(model, path)


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"model": "left_ventricle_sax", "patients": 7}'])
def test_what_is_no_report_is_refused(text: str, tmp_path: Path) -> None:
    model = package(tmp_path / "bundle")
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(ConfigurationError, match="expected a report of `coread evaluate`"):
        card_of(model, tmp_path / "report.json")


def test_a_condition_without_words_of_its_own_is_given_by_its_name() -> None:
    """Nothing that the manifest asks of a series is left out of the card."""

    class Newer(SeriesRequirement):
        leads: int | None = None

    said = list(conditions_of(Newer(described_as="an ECG", must={"Modality": ("ECG",)}, leads=12)))
    assert said == ["Modality: `ECG`", "leads: 12"]


def test_the_command_prints_a_card_or_writes_it(tmp_path: Path) -> None:
    printed = CliRunner().invoke(coread, ["models", "card", "left_ventricle_sax"], catch_exceptions=False)
    assert printed.stdout.startswith("# Left ventricle\n")
    written = CliRunner().invoke(coread, ["models", "card", "left_ventricle_sax", "-o", str(tmp_path / "README.md")])
    assert written.exit_code == 0
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == printed.stdout
