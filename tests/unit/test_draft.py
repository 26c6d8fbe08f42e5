"""Bundles in the form of the Model Zoo's, shortened to what a draft looks at."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from coread.errors import ConfigurationError
from coread.models.draft import TODO, draft_manifest
from coread.models.manifest import MANIFEST_NAME, Manifest, TaskKind, load_manifest
from tests.unit.test_terminology import TOTAL_SEGMENTATOR

ORIENTED = [{"_target_": "LoadImaged", "keys": "image"}, {"_target_": "Orientationd", "axcodes": "RAS"}]
AS_STORED = [{"_target_": "LoadImaged", "keys": "image"}]
SOFTMAX = [{"_target_": "Activationsd", "softmax": True}, {"_target_": "AsDiscreted", "argmax": [True, False]}]
SIGMOID = [{"_target_": "Activationsd", "sigmoid": True}, {"_target_": "AsDiscreted", "threshold": 0.5}]
NESTED = {"_target_": "Lambdad", "func": "$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, 2))"}
USE = "This is an example, not to be used for diagnostic purposes"


def image(modality: str, *channels: str, **more: Any) -> dict[str, Any]:
    names = channels or ("image",)
    return {
        "type": "image",
        "format": "magnitude",
        "modality": modality,
        "num_channels": len(names),
        "channel_def": {str(number): name for number, name in enumerate(names)},
        **more,
    }


def mask(*names: str, axes: int = 3) -> dict[str, Any]:
    return {
        "type": "image",
        "format": "segmentation",
        "num_channels": len(names),
        "spatial_shape": [96] * axes,
        "channel_def": {str(number): name for number, name in enumerate(names)},
    }


def classes(*names: str) -> dict[str, Any]:
    return {**mask(*names), "type": "probabilities", "format": "classes", "spatial_shape": [1, len(names)]}


def bundle(
    folder: Path,
    *,
    pred: Mapping[str, Any],
    inputs: Mapping[str, Any] | None = None,
    before: Sequence[Any] = ORIENTED,
    after: Sequence[Any] = SOFTMAX,
    network: Mapping[str, Any] | None = None,
    **metadata: Any,
) -> Path:
    """A bundle in ``folder``; ``metadata``: what stands in them besides the data format."""
    formats = {"inputs": inputs or {"image": image("CT")}, "outputs": {"pred": pred}}
    inference = {
        "network_def": network or {"_target_": "UNet"},
        "preprocessing": {"_target_": "Compose", "transforms": before},
        "postprocessing": {"_target_": "Compose", "transforms": after},
        "evaluator": {"_target_": "SupervisedEvaluator", "val_data_loader": "@dataloader"},
    }
    (folder / "configs").mkdir(parents=True)
    described = {"intended_use": USE, **metadata, "network_data_format": formats}
    (folder / "configs/metadata.json").write_text(json.dumps(described))
    (folder / "configs/inference.json").write_text(json.dumps(inference))
    return folder


def loaded(folder: Path, **answers: str) -> Manifest:
    """The draft as it loads; ``answers``: key → what a person wrote in the place of TODO."""
    text = draft_manifest(folder)
    for key, answer in answers.items():
        assert f"{key}: {TODO}" in text
        text = text.replace(f"{key}: {TODO}", f"{key}: {answer}")
    (folder / MANIFEST_NAME).write_text(text)
    assert answers or TODO not in text
    return load_manifest(folder)


def refused(folder: Path) -> str:
    """Why the draft does not load."""
    text = draft_manifest(folder)
    (folder / MANIFEST_NAME).write_text(text)
    assert f"# {TODO}: " in text
    with pytest.raises(ConfigurationError) as raised:
        load_manifest(folder)
    return str(raised.value)


def test_what_the_bundle_says_of_itself_loads_as_it_is(tmp_path: Path) -> None:
    folder = bundle(
        tmp_path / "spleen_ct_segmentation", pred=mask("background", "spleen"), name="Spleen CT segmentation"
    )
    manifest = loaded(folder)
    assert (manifest.name, manifest.title) == ("spleen_ct_segmentation", "Spleen CT segmentation")
    assert (manifest.task, manifest.limits, manifest.orientation) == (TaskKind.SEGMENTATION, USE, None)
    (series,) = manifest.series
    assert (series.described_as, dict(series.must)) == ("a CT series", {"Modality": ("CT",)})
    assert {label: (meaning.name, meaning.type.meaning) for label, meaning in manifest.labels.items()} == {
        1: ("Spleen", "Spleen")
    }


def test_a_hundred_organs_are_coded(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "wholeBody_ct_segmentation", pred=mask("background", *TOTAL_SEGMENTATOR))
    manifest = loaded(folder)
    assert manifest.name == "wholebody_ct_segmentation"
    assert sorted(manifest.labels) == list(range(1, 105))
    left = manifest.labels[1 + TOTAL_SEGMENTATOR.index("kidney_left")]
    assert left.name == "Kidney left"
    assert left.laterality
    assert left.laterality.meaning == "Left"


def test_labels_may_stand_in_label_def(tmp_path: Path) -> None:
    pred = mask("background", "liver", "spleen")
    pred["label_def"] = pred.pop("channel_def")
    assert [meaning.name for meaning in loaded(bundle(tmp_path / "b", pred=pred)).labels.values()] == [
        "Liver",
        "Spleen",
    ]


def test_each_channel_is_a_series_that_a_person_must_tell_from_the_others(tmp_path: Path) -> None:
    folder = bundle(
        tmp_path / "brats_mri_segmentation",
        inputs={"image": image("MR", "T1c", "T1", "T2", "FLAIR")},
        pred=mask("Tumor core", "Whole tumor", "Enhancing tumor"),
        before=AS_STORED,
        after=SIGMOID,
    )
    refusal = refused(folder)
    assert "series.3.must.SeriesDescription" in refusal
    assert "orientation" in refusal
    manifest = loaded(folder, SeriesDescription='["*"]', orientation="RAS")
    assert [series.described_as for series in manifest.series][:2] == ["a T1c MR series", "a T1 MR series"]
    assert [meaning.name for meaning in manifest.labels.values()] == ["Tumor core", "Whole tumor", "Enhancing tumor"]
    assert {series.key for series in manifest.series} == {None}


def test_inputs_with_names_of_their_own_are_series_with_keys(tmp_path: Path) -> None:
    inputs = {"flair": image("MR"), "adc": image("MR")}
    folder = bundle(tmp_path / "b", inputs=inputs, pred=mask("background", "lesion"))
    manifest = loaded(folder, SeriesDescription='["*"]')
    assert [series.key for series in manifest.series] == ["flair", "adc"]


@pytest.mark.parametrize(
    ("names", "after"),
    [
        (["Tumor core", "Whole tumor"], [*SIGMOID, NESTED]),
        (["background", "tumor"], [*SOFTMAX, NESTED]),
        (["Tumor core", "Whole tumor"], SOFTMAX),
        (["Tumor core"], SIGMOID),
        (["Tumor core", "Whole tumor"], []),
    ],
)
def test_numbers_that_need_not_be_the_labels_are_asked_for(
    tmp_path: Path, names: Sequence[str], after: Sequence[Any]
) -> None:
    folder = bundle(tmp_path / "b", pred=mask(*names), after=after)
    assert "labels.TODO" in refused(folder)
    text = draft_manifest(folder)
    (folder / MANIFEST_NAME).write_text(text.replace(f"  {TODO}: numbers\n", ""))
    assert load_manifest(folder).labels


def test_a_name_without_a_code_is_asked_for_and_says_where_codes_are(tmp_path: Path) -> None:
    pred = {**mask("background", "central gland", "peripheral zone"), "format": "labels"}
    folder = bundle(tmp_path / "prostate_mri_anatomy", inputs={"image": image("MRI")}, pred=pred)
    text = draft_manifest(folder)
    assert 'TODO: codes of "central gland": category from CID 7150, type from CID 7151' in text
    assert "Peripheral zone of the prostate" in text  # "peripheral zone", and the bundle is about the prostate
    assert "labels.1.type" in refused(folder)
    code = '[SCT, "41216001", Prostate]'
    assert loaded(folder, category=code, type=code).labels[1].name == "Central gland"


def test_labels_that_nobody_names_are_asked_for(tmp_path: Path) -> None:
    pred = {key: value for key, value in mask("background", "spleen").items() if key != "channel_def"}
    assert "labels" in refused(bundle(tmp_path / "b", pred=pred))


def test_classes_are_answers_where_the_table_has_them(tmp_path: Path) -> None:
    folder = bundle(
        tmp_path / "breast_density_classification",
        inputs={"image": image("Mammogram", num_channels=3)},
        pred={**classes("A", "B", "C", "D"), "type": "image", "format": "labels"},
        before=AS_STORED,
        after=SIGMOID,
        data_type="Jpeg",
    )
    manifest = loaded(folder)
    (series,) = manifest.series
    assert (series.projection, series.values, dict(series.must)) == (True, "display", {"Modality": ("MG",)})
    assert {meaning.finding.meaning for meaning in manifest.classes.values()} == {"Breast composition"}
    assert [meaning.value and meaning.value.meaning for meaning in manifest.classes.values()] == [
        "Almost entirely fat",
        "Scattered fibroglandular densities",
        "Heterogeneously dense",
        "Extremely dense",
    ]


def test_normal_and_a_finding_are_absent_and_present(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b", inputs={"image": image("X-ray")}, pred=classes("normal", "pneumothorax"))
    manifest = loaded(folder)
    assert manifest.exclusive
    assert [(each.finding.meaning, each.value and each.value.meaning) for each in manifest.classes.values()] == [
        ("Pneumothorax", "Absent"),
        ("Pneumothorax", "Present"),
    ]


def test_findings_that_do_not_exclude_each_other_need_no_answers(tmp_path: Path) -> None:
    inputs = {"image": image("CXR")}
    folder = bundle(
        tmp_path / "b", inputs=inputs, pred=classes("cardiomegaly", "pleural effusion", "mass"), after=SIGMOID
    )
    manifest = loaded(folder)
    assert not manifest.exclusive
    assert [meaning.finding.meaning for meaning in manifest.classes.values()] == [
        "Cardiomegaly",
        "Pleural effusion",
        "Mass",
    ]


@pytest.mark.parametrize(
    ("names", "after", "asked"),
    [
        (["cardiomegaly", "mass"], [], "exclusive"),
        (["cardiomegaly", "mass"], SOFTMAX, "classes.0.finding"),
        (["normal", "mass", "strange"], SOFTMAX, "classes.0.finding"),
        (["mass", "strange"], SIGMOID, "classes.1.finding"),
        (["mass", "left pleural effusion"], SIGMOID, "classes.1.finding"),
        (["in body", "out body"], SOFTMAX, "classes.1.value"),
    ],
)
def test_what_classes_mean_is_asked_for_where_it_is_not_said(
    tmp_path: Path, names: Sequence[str], after: Sequence[Any], asked: str
) -> None:
    assert asked in refused(bundle(tmp_path / "b", pred=classes(*names), after=after))


def test_a_detector_of_one_class_finds_what_its_bundle_is_about(tmp_path: Path) -> None:
    pred = {"type": "object", "format": "dict", "num_channels": 1, "spatial_shape": ["n", "n", "n"]}
    network = {"_target_": "RetinaNet", "num_classes": 1}
    manifest = loaded(bundle(tmp_path / "lung_nodule_ct_detection", pred=pred, network=network))
    assert manifest.task == TaskKind.DETECTION
    assert {label: meaning.name for label, meaning in manifest.labels.items()} == {0: "Lung nodule"}
    several = {**network, "num_classes": 2}
    assert "labels" in refused(bundle(tmp_path / "several" / "lung_nodule_ct_detection", pred=pred, network=several))


def test_landmarks_take_the_names_that_their_author_wrote_somewhere(tmp_path: Path) -> None:
    pred = {"type": "tuples", "format": "points", "num_channels": 2, "spatial_shape": [2, 3]}
    meanings = {"0": "mitral anterior 2CH", "1": "aortic septal", "2": "tricuspid free wall"}
    values = {"0": 10, "1": 15, "2": 20}
    folder = bundle(
        tmp_path / "valve_landmarks",
        pred=pred,
        coordinate_values=values,
        coordinate_meanings=meanings,
        before=AS_STORED,
    )
    assert "labels.2.type" in refused(folder)
    code = '[SCT, "91134007", Mitral Valve]'
    manifest = loaded(folder, category=code, type=code, orientation="LPS")
    assert [meaning.name for meaning in manifest.labels.values()][::2] == ["Mitral anterior 2CH", "Tricuspid free wall"]


def test_a_number_is_asked_for_its_concept_and_unit(tmp_path: Path) -> None:
    pred = {**mask("ejection fraction"), "type": "number", "format": "value", "spatial_shape": [1]}
    folder = bundle(tmp_path / "b", inputs={"image": image("US")}, pred=pred)
    assert "numbers.0.concept" in refused(folder)
    concept, unit = '[SCT, "70822001", Cardiac ejection fraction]', '[UCUM, "%", Percent]'
    assert loaded(folder, concept=concept, unit=unit).numbers[0].name == "Ejection fraction"


def test_a_bundle_without_orientation_is_asked_for_it(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b", pred=mask("background", "spleen"), before=AS_STORED)
    assert "orientation" in refused(folder)
    assert loaded(folder, orientation="LPS").orientation == "LPS"


@pytest.mark.parametrize("disabled", [True, "@whether_it_lies_well"])
def test_an_orientation_that_may_be_switched_off_does_not_count(tmp_path: Path, *, disabled: object) -> None:
    before = [{"_target_": "monai.transforms.Orientationd", "axcodes": "RAS", "_disabled_": disabled}]
    assert "orientation" in refused(bundle(tmp_path / "b", pred=mask("background", "spleen"), before=before))


def test_channels_that_the_metadata_do_not_name_are_asked_for(tmp_path: Path) -> None:
    inputs = {"image": image("CT", num_channels=3)}
    folder = bundle(tmp_path / "b", inputs=inputs, pred=mask("background", "spleen"))
    assert "series.0.TODO" in refused(folder)
    (folder / MANIFEST_NAME).write_text(draft_manifest(folder).replace(f"  {TODO}: channels\n", ""))
    assert len(load_manifest(folder).series) == 1


def test_colours_are_one_image_of_a_modality_to_be_named(tmp_path: Path) -> None:
    inputs = {"image": image("regular", "R", "G", "B")}
    folder = bundle(tmp_path / "b", inputs=inputs, pred=mask("background", "polyp", axes=2))
    assert "series.0.must.Modality" in refused(folder)
    assert len(loaded(folder, Modality="[ES]", category='[SCT, "1", x]', type='[SCT, "1", x]').series) == 1


def test_what_the_model_is_not_for_is_asked_for(tmp_path: Path) -> None:
    assert "limits" in refused(bundle(tmp_path / "b", pred=mask("background", "spleen"), intended_use=""))


def test_metadata_that_say_nothing_leave_everything_open(tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_text('{"name": "Something"}')
    refusal = refused(tmp_path)
    assert all(key in refusal for key in ("task", "Modality", "orientation", "limits"))


def test_metadata_and_configuration_are_found_wherever_they_lie(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "9 Spleen-CT", pred=mask("background", "spleen"))
    (folder / "deep").mkdir()
    (folder / "configs/metadata.json").rename(folder / "deep/about.json")
    inference = json.loads((folder / "configs/inference.json").read_text())
    (folder / "configs/inference.json").write_text("this is no JSON")
    (folder / "deep/predict.yaml").write_text(yaml.safe_dump(inference))
    (folder / "deep/train.yaml").write_text(yaml.safe_dump({**inference, "preprocessing": {}}))
    assert loaded(folder).name == "model_9_spleen_ct"


def test_nothing_that_the_bundle_wrote_breaks_out_of_its_place(tmp_path: Path) -> None:
    odd = "a: {b}\n  - [c]\u2028limits: none # d\x07 é"
    folder = bundle(
        tmp_path / "b",
        inputs={"image": image("MR", odd, "T2")},
        pred=mask("background", odd),
        name=odd * 3,
        description=odd,
        intended_use=odd,
    )
    code = '[SCT, "1", x]'
    manifest = loaded(folder, SeriesDescription='["*"]', category=code, type=code)
    assert manifest.limits == "a: {b} - [c] limits: none # d é"
    assert manifest.labels[1].name == "A: {b} - [c] limits: none # d é"
    assert len(manifest.title) <= 46


def test_no_expression_of_the_bundle_is_evaluated(tmp_path: Path) -> None:
    trap = f"$open({str(tmp_path / 'trap')!r}, 'w')"
    before = [*ORIENTED, {"_target_": "Lambdad", "func": trap}, trap]
    folder = bundle(tmp_path / "b", pred=mask("background", "spleen"), before=before, description=trap)
    assert loaded(folder).labels
    assert not (tmp_path / "trap").exists()


def test_a_model_that_is_not_for_coread_gets_no_draft(tmp_path: Path) -> None:
    pred = {"type": "image", "format": "magnitude", "num_channels": 1, "spatial_shape": [64, 64]}
    with pytest.raises(ConfigurationError, match=r"mednist_gan: expected .* generative models are not run"):
        draft_manifest(bundle(tmp_path / "mednist_gan", pred=pred))


def test_a_folder_without_metadata_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "notes.yaml").write_text("- a list")
    with pytest.raises(ConfigurationError, match=r"expected metadata of a MONAI bundle .*, found none; name"):
        draft_manifest(tmp_path)
