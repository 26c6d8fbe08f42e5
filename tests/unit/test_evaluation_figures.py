"""The figures of an evaluation beside values worked out by hand, and those of scikit-learn, SciPy and MONAI."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, cohen_kappa_score, f1_score, recall_score, roc_auc_score

from coread.evaluation import agreement, classes
from coread.evaluation.bootstrap import Estimate, Statistic, estimates
from coread.evaluation.compare import ClassResult
from coread.evaluation.overlap import dice, surface_distances
from coread.evaluation.subjects import Subject, subjects_of
from coread.models.manifest import Manifest
from coread.volume import Volume
from tests.support import PLANES, volume_in_plane

SPACING = (5.0, 1.5, 2.25)


def box(*ends: tuple[int, int], shape: tuple[int, int, int] = (12, 20, 14)) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*each) for each in ends)] = True
    return mask


def on_grid(plane: str = "axial", shape: tuple[int, int, int] = (12, 20, 14)) -> Volume:
    return volume_in_plane(plane, shape=shape, spacing=SPACING)


@pytest.mark.parametrize(("axis", "step_mm"), list(enumerate(SPACING)))
@pytest.mark.parametrize("plane", PLANES)
def test_a_box_moved_by_one_voxel_is_as_far_off_as_the_voxel_is_long(plane: str, axis: int, step_mm: float) -> None:
    truth = box((3, 8), (4, 12), (3, 9))
    found = np.roll(truth, 1, axis=axis)
    length = (5, 8, 6)[axis]
    assert dice(found, truth) == pytest.approx((length - 1) / length)
    distances = surface_distances(found, truth, on_grid(plane))
    assert distances is not None
    assert distances.hausdorff_95 == pytest.approx(step_mm)
    assert 0 < distances.mean < step_mm


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI's own call
@pytest.mark.parametrize("seed", range(4))
def test_surface_distances_are_those_of_monai(seed: int) -> None:
    random = np.random.default_rng(seed)
    centre = random.uniform(6, 12, (2, 3))
    index = np.moveaxis(np.indices((20, 20, 20)), 0, -1)
    truth, found = (((index - each) ** 2 / [9, 20, 14]).sum(axis=-1) < 1 for each in centre)
    truth[3:6, 3:6, 3:5] = True
    ours = surface_distances(found, truth, on_grid("oblique", (20, 20, 20)))
    assert ours is not None
    both = (torch.tensor(mask)[None, None].float() for mask in (found, truth))
    one_hot: dict[str, Any] = dict(zip(("y_pred", "y"), both, strict=True))
    options: dict[str, Any] = {"include_background": True, "spacing": [SPACING]}
    hausdorff = compute_hausdorff_distance(**one_hot, percentile=95, **options)
    assert ours.hausdorff_95 == pytest.approx(float(hausdorff), rel=1e-5)
    mean = compute_average_surface_distance(**one_hot, symmetric=True, **options)
    assert ours.mean == pytest.approx(float(mean), rel=1e-5)


def test_a_tilted_stack_is_measured_where_it_lies() -> None:
    """Slices that slide by 3 mm each: neighbours in a column of voxels are the square root of 5² + 3² apart."""
    straight = on_grid()
    affine = straight.affine.copy()
    affine[:3, 0] = (3.0, 0.0, 5.0)
    tilted = Volume(array=straight.array, affine=affine)
    one, next_one = box((4, 5), (6, 7), (6, 7)), box((5, 6), (6, 7), (6, 7))
    distances = surface_distances(one, next_one, tilted)
    assert distances is not None
    assert distances.mean == pytest.approx(math.sqrt(34))


def test_two_empty_masks_have_no_dice_and_one_empty_mask_has_none_in_common() -> None:
    nothing, something = box((0, 0), (0, 0), (0, 0)), box((2, 4), (2, 4), (2, 4))
    assert math.isnan(dice(nothing, nothing))
    assert dice(nothing, something) == 0
    assert surface_distances(nothing, something, on_grid()) is None


def value(statistic: Statistic) -> float:
    return statistic.of(np.flatnonzero(statistic.counted))


def test_bias_and_limits_are_those_of_a_sum_on_paper() -> None:
    found, truth = np.array([11.0, 9.0, 13.0, np.nan, 7.0]), np.array([10.0, 10.0, 10.0, 10.0, np.nan])
    said = {name: value(each) for name, each in agreement.agreement_statistics(found, truth).items()}
    assert said["bias"] == pytest.approx(1.0)  # of 1, -1 and 3, whose standard deviation is 2
    assert said["lower_limit"] == pytest.approx(1 - 1.96 * 2)
    assert said["upper_limit"] == pytest.approx(1 + 1.96 * 2)
    assert said["mean_absolute_error"] == pytest.approx(5 / 3)
    assert math.isnan(said["pearson_r"])


def test_the_intraclass_correlation_is_that_of_the_published_example() -> None:
    """Shrout and Fleiss 1979, table 2: six targets, four judges; ICC(2,1) = 0.29."""
    ratings = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
    assert agreement.icc(ratings) == pytest.approx(0.29, abs=0.005)


def test_a_bias_lowers_the_intraclass_correlation_and_not_pearsons() -> None:
    truth = np.array([50.0, 80.0, 120.0, 160.0])
    said = agreement.agreement_statistics(truth + 40, truth)
    assert value(said["pearson_r"]) == pytest.approx(1)
    assert value(said["icc"]) < 0.85


RANDOM = np.random.default_rng(7)
TRUTH = RANDOM.random(300) < 0.3
SCORE = np.clip(np.round(RANDOM.normal(0.35 + 0.3 * TRUTH, 0.2), 2), 0, 1)  # rounded: ties
KNOWN = np.ones(300, bool)


def test_answers_are_judged_as_scikit_learn_judges_them() -> None:
    answer = SCORE >= 0.5
    said = {name: value(each) for name, each in classes.answer_statistics(TRUTH, answer, KNOWN).items()}
    assert said["sensitivity"] == pytest.approx(recall_score(TRUTH, answer))
    assert said["specificity"] == pytest.approx(recall_score(~TRUTH, ~answer))
    assert said["positive_predictive_value"] == pytest.approx(recall_score(answer, TRUTH))
    assert said["negative_predictive_value"] == pytest.approx(recall_score(~answer, ~TRUTH))
    assert said["f1"] == pytest.approx(f1_score(TRUTH, answer))


def test_probabilities_are_judged_as_scikit_learn_judges_them() -> None:
    said = {name: value(each) for name, each in classes.score_statistics(TRUTH, SCORE, KNOWN).items()}
    assert said["auc"] == pytest.approx(roc_auc_score(TRUTH, SCORE))
    assert said["brier"] == pytest.approx(brier_score_loss(TRUTH, SCORE))


def test_what_is_not_known_does_not_count() -> None:
    known = KNOWN.copy()
    known[::3] = False
    truth = TRUTH ^ ~known  # nonsense where it is not known
    said = classes.score_statistics(truth, SCORE, known)
    assert value(said["auc"]) == pytest.approx(roc_auc_score(TRUTH[known], SCORE[known]))
    assert int(said["auc"].counted.sum()) == 200


def test_the_calibration_error_is_that_of_a_sum_on_paper() -> None:
    """Bins (0.3, 0.4] with one of two true, (0.8, 0.9] with two of two."""
    confidence, correct = np.array([0.4, 0.32, 0.9, 0.85]), np.array([True, False, True, True])
    expected = 2 / 4 * abs(0.36 - 0.5) + 2 / 4 * abs(0.875 - 1)
    assert classes.calibration_error(confidence, correct) == pytest.approx(expected)
    assert [(each["low"], each["studies"]) for each in classes.reliability(confidence, correct)] == [(0.3, 2), (0.8, 2)]


def test_the_reliability_table_is_that_of_scikit_learn() -> None:
    continuous = np.random.default_rng(1).random(500)
    truth = np.random.default_rng(2).random(500) < continuous
    observed, confidence = calibration_curve(truth, continuous, n_bins=10)
    ours = classes.reliability(continuous, truth)
    assert [each["observed"] for each in ours] == pytest.approx(observed, abs=1e-6)
    assert [each["confidence"] for each in ours] == pytest.approx(confidence, abs=1e-6)


def test_classes_that_exclude_each_other_are_judged_together() -> None:
    truth = RANDOM.integers(0, 3, 200)
    scores = RANDOM.dirichlet([1, 1, 1], 200)
    answer = scores.argmax(axis=1)
    said = {name: value(each) for name, each in classes.multiclass_statistics(truth, answer, scores).items()}
    assert said["kappa"] == pytest.approx(cohen_kappa_score(truth, answer))
    assert said["accuracy"] == pytest.approx((truth == answer).mean())
    assert said["brier"] == pytest.approx(((scores - np.eye(3)[truth]) ** 2).sum(axis=1).mean())


def test_one_kind_of_truth_gives_no_area_and_no_kappa() -> None:
    assert math.isnan(classes.auc(np.array([True, True]), np.array([0.2, 0.4])))
    assert math.isnan(classes.kappa(np.array([1, 1]), np.array([1, 1])))


def of_mean(values: NDArray[np.float64], **more: Any) -> Statistic:
    return Statistic(of=lambda rows: float(values[rows].mean()), counted=np.isfinite(values), **more)


def interval(values: NDArray[np.float64], patients: NDArray[np.intp], *, seed: int = 0, **more: Any) -> Estimate:
    return estimates({"mean": of_mean(values, **more)}, patients, resamples=1000, seed=seed)["mean"]


def width(estimate: Estimate) -> float:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.high - estimate.low


def test_the_same_seed_gives_the_same_interval_and_another_one_another() -> None:
    values = np.random.default_rng(5).normal(10, 2, 40)
    assert interval(values, np.arange(40)) == interval(values, np.arange(40))
    assert interval(values, np.arange(40)) != interval(values, np.arange(40), seed=1)


def test_the_interval_of_a_mean_is_about_that_of_the_formula() -> None:
    values = np.random.default_rng(5).normal(10, 2, 200)
    expected = 2 * 1.96 * values.std() / math.sqrt(200)
    assert width(interval(values, np.arange(200))) == pytest.approx(expected, rel=0.1)


def test_copies_of_a_patients_study_do_not_narrow_the_interval() -> None:
    values = np.random.default_rng(5).normal(10, 2, 40)
    ninefold, patients = np.repeat(values, 9), np.repeat(np.arange(40), 9)
    assert width(interval(ninefold, patients)) == pytest.approx(width(interval(values, np.arange(40))), rel=0.02)
    assert width(interval(ninefold, np.arange(360))) < 0.4 * width(interval(values, np.arange(40)))


def test_patients_are_drawn_with_all_of_their_studies_in_whatever_order_they_lie() -> None:
    values, patients = np.random.default_rng(5).normal(10, 2, 60), np.random.default_rng(6).integers(0, 20, 60)
    order = np.argsort(patients, kind="stable")
    ours, sorted_ones = interval(values, patients), interval(values[order], patients[order])
    assert (ours.low, ours.high) == pytest.approx((sorted_ones.low, sorted_ones.high))
    assert (ours.studies, ours.patients) == (60, len(set(patients.tolist())))


def test_a_proportion_of_one_has_wilsons_interval_over_the_patients() -> None:
    found = interval(np.ones(30), np.repeat(np.arange(10), 3), is_proportion=True)
    expected = binomtest(10, 10).proportion_ci(0.95, method="wilson")
    assert found.method == "wilson"
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_few_patients_or_equal_values_have_no_interval() -> None:
    assert interval(np.array([1.0, 2.0, 3.0, 4.0]), np.arange(4)).low is None
    assert interval(np.ones(30), np.arange(30)).low is None


def test_a_figure_that_many_resamples_do_not_have_has_no_interval() -> None:
    """One of thirty has the finding, so a third of the resamples has nobody with it."""
    truth = np.arange(30) == 0
    said = classes.score_statistics(truth, np.linspace(1, 0, 30), np.ones(30, bool))
    (area,) = estimates({"auc": said["auc"]}, np.arange(30), resamples=500, seed=0).values()
    assert area.value == 1
    assert area.low is None


PNEUMONIA = ["SCT", "233604007", "Pneumonia"]
THREE = Manifest.model_validate(
    {
        "name": "three",
        "title": "Three",
        "series": {"described_as": "any", "must": {"Modality": ["DX"]}},
        "classes": {
            0: {"name": "Normal", "finding": PNEUMONIA, "value": ["SCT", "272519000", "Absent"]},
            1: {"name": "Bacterial", "finding": PNEUMONIA, "value": ["SCT", "53084003", "Bacterial pneumonia"]},
            2: {"name": "Viral", "finding": PNEUMONIA, "value": ["SCT", "75570004", "Viral pneumonia"]},
        },
        "limits": "For tests only.",
    }
)


def of_three(truth: int, probabilities: tuple[float, float, float]) -> dict[int, ClassResult]:
    chosen = int(np.argmax(probabilities))
    return {
        key: ClassResult(probability=probability, is_reported=key == chosen, is_true=key == truth)
        for key, probability in enumerate(probabilities)
    }


def test_classes_of_one_finding_answer_together_whether_it_is_there() -> None:
    """The first is reported as normal, and yet pneumonia of some kind is more probable than none."""
    results = [
        of_three(1, (0.4, 0.35, 0.25)),
        of_three(2, (0.1, 0.8, 0.1)),
        of_three(0, (0.9, 0.05, 0.05)),
        of_three(0, (0.3, 0.6, 0.1)),
    ]
    subjects = {(each.kind, each.name): each for each in subjects_of(results, THREE)}
    question = subjects["question", "Pneumonia"]
    assert question.tables["counts"] == counted(1, 1, 1, 1)
    assert question.tables["counts_at_threshold"] == counted(2, 0, 1, 1)
    assert value_of(question, "sensitivity") == 0.5
    assert value_of(question, "sensitivity_at_threshold") == 1
    assert value_of(question, "auc") == pytest.approx(roc_auc_score([1, 1, 0, 0], [0.6, 0.9, 0.1, 0.7]))
    assert value_of(question, "brier") == pytest.approx((0.4**2 + 0.1**2 + 0.1**2 + 0.7**2) / 4)
    matrix = subjects["classes", "all classes"].tables["confusion"]["matrix"]
    assert matrix == [[1, 1, 0], [1, 0, 0], [0, 1, 0]]


def value_of(subject: Subject, name: str) -> float:
    return value(subject.statistics[name])


def counted(*numbers: int) -> dict[str, int]:
    names = ("true_positive", "false_negative", "false_positive", "true_negative")
    return dict(zip(names, numbers, strict=True))


def test_classes_without_an_absent_one_ask_no_question() -> None:
    without = THREE.model_dump()
    without["classes"][0]["value"] = ["SCT", "17621005", "Normal"]
    results = [of_three(0, (0.5, 0.3, 0.2)), of_three(1, (0.5, 0.3, 0.2))]
    kinds = [each.kind for each in subjects_of(results, Manifest.model_validate(without))]
    assert kinds == ["classes", "class", "class", "class"]
