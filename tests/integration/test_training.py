"""The trainings of the shipped models: they run, the same seed gives the same weights, and people stay apart."""

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from scipy import ndimage

from coread.models.catalogue import SHIPPED
from coread.models.ecg_12_lead.train.training import labels_of, mixed, parts
from coread.models.left_ventricle_sax.train.data import CAVITY, MYOCARDIUM, Case, aligned, misalignment
from coread.models.training import Trained, hold_out, temperature_of

DATA = {
    "left_ventricle_sax": ("cardiac_lv_mr", 7),
    "hippocampus_t1": ("hippocampus_mr", 6),
    "chest_xray_pneumonia": ("cxr_pneumonia", None),
    "ecg_12_lead": ("ecg_ptbxl", None),
}


def cases_of(name: str, real_data: Path) -> list[Any]:
    folder, count = DATA[name]
    cases = importlib.import_module(f"coread.models.{name}.train.data").load_cases(real_data / folder)
    learnt = [case for case in cases if case.split == "train"]
    if name == "chest_xray_pneumonia":  # a few of each class, of people enough
        return [case for label in range(3) for case in [each for each in learnt if each.label == label][:60:2]]
    return learnt[:count]


def trained(name: str, cases: list[Any], weights: Path) -> Trained:
    training = importlib.import_module(f"coread.models.{name}.train.training")
    result: Trained = training.train(cases, weights, replace(training.PLAN, epochs=1))
    return result


@pytest.mark.parametrize("name", DATA)
def test_a_training_gives_weights_that_fit_the_bundle(name: str, real_data: Path, tmp_path: Path) -> None:
    result = trained(name, cases_of(name, real_data), tmp_path / "model.pt")
    assert 0 <= result.score <= 1
    assert (result.temperature is not None) == (name in ("chest_xray_pneumonia", "ecg_12_lead"))
    parser = ConfigParser()
    parser.read_config(SHIPPED / name / "configs" / "inference.json")
    parser.get_parsed_content("network_def").load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))


def test_the_same_seed_gives_the_same_weights(real_data: Path, tmp_path: Path) -> None:
    cases = cases_of("left_ventricle_sax", real_data)
    for name in ("one.pt", "other.pt"):
        trained("left_ventricle_sax", cases, tmp_path / name)
    one, other = (torch.load(tmp_path / name, weights_only=True) for name in ("one.pt", "other.pt"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_nobody_is_both_learnt_from_and_held_out() -> None:
    cases = [f"{person}{side}" for person in "abcdefghij" for side in "lr"]
    learnt, held_out = hold_out(cases, of=lambda case: case[0], part=0.2, seed=1)
    assert sorted(learnt + held_out) == sorted(cases)
    assert len({case[0] for case in held_out}) == 2
    assert not {case[0] for case in learnt} & {case[0] for case in held_out}


def test_each_person_is_held_out_by_one_member_of_the_ensemble(real_data: Path) -> None:
    cases = cases_of("ecg_12_lead", real_data)
    held_out = [case.name for _, others in parts(cases, 5, 3) for case in others]
    assert sorted(held_out) == sorted(case.name for case in cases)
    for learnt, others in parts(cases, 5, 3):
        assert not {case.person for case in learnt} & {case.person for case in others}


def test_mixed_records_have_the_shares_of_their_answers() -> None:
    leads = torch.arange(4.0)[:, None, None].expand(4, 12, 10)
    found, shares = mixed(leads, torch.tensor([0, 1, 1, 0]), torch.Generator().manual_seed(5))
    assert torch.allclose(shares.sum(dim=1), torch.ones(4))
    assert found.shape == leads.shape
    assert not torch.equal(found, leads)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_undoes_how_sure_a_model_is_of_itself(temperature: float) -> None:
    random = np.random.default_rng(4)
    right = random.normal(0, 2, (20_000, 3))
    chances = np.exp(right) / np.exp(right).sum(axis=1, keepdims=True)
    labels = (chances.cumsum(axis=1) > random.random((20_000, 1))).argmax(axis=1)
    found = temperature_of(torch.tensor(right * temperature), torch.tensor(labels))
    assert found == pytest.approx(temperature, rel=0.05)


def test_masks_beside_their_hearts_are_noticed() -> None:
    rows, columns = np.mgrid[-32:32, -32:32]
    radius = np.hypot(rows + 3, columns - 2)
    label = np.select([radius < 10, radius < 14], [CAVITY, MYOCARDIUM], 0).astype(np.uint8)
    image = ndimage.gaussian_filter(np.select([radius < 10, radius < 14], [600.0, 150.0], 300.0), 1)
    case = Case(
        patient="1",
        split="train",
        image=np.stack([image] * 3).astype(np.float32),
        label=np.stack([label] * 3),
        spacing_mm=(8.0, 2.7, 2.7),
    )
    moved = replace(case, image=ndimage.shift(case.image, (0, -0.3, 0.2), order=3, mode="nearest"))
    before, after = np.array(misalignment([case])), np.array(misalignment([moved]))
    assert after - before == pytest.approx([0.3, -0.2], abs=0.06)
    restored = aligned(moved, (0.3, -0.2)).image
    assert np.abs(restored - case.image)[:, 8:-8, 8:-8].max() < 10


def test_records_without_a_judgement_or_with_two_are_told_apart(real_data: Path) -> None:
    cases = cases_of("ecg_12_lead", real_data)
    assert any(case.is_mixed for case in cases)
    assert set(labels_of(cases).tolist()) == {0, 1}
