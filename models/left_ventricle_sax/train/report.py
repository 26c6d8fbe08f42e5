"""How good the model is on patients that it was neither trained nor tuned on, through the bundle as it is run."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from coread.models.left_ventricle_sax.train.data import CAVITY, MYOCARDIUM, Case
from coread.models.runner import BundleRunner
from coread.volume import Volume

BOOTSTRAPS = 10_000
STRUCTURES = {"myocardium": MYOCARDIUM, "cavity": CAVITY}
MM3_PER_ML = 1000.0


def volume_of(case: Case) -> Volume:
    """The patient's slices as a volume; where it lies is unknown and does not matter."""
    volume = Volume.of(case.image, directions=np.eye(3)[::-1], spacing=case.spacing_mm)
    return volume.centred_at((0.0, 0.0, 0.0))


def evaluate(runner: BundleRunner, cases: Sequence[Case], *, seed: int) -> dict[str, object]:
    """Dice and volumes by patient, means with 95 % bootstrap intervals over patients, Bland-Altman of the volumes."""
    rows: list[dict[str, object]] = []
    dice: dict[str, list[float]] = {name: [] for name in STRUCTURES}
    volumes: dict[str, list[tuple[float, float]]] = {name: [] for name in STRUCTURES}
    for case in track(cases, "reading patients"):
        (predicted,) = runner.predict([volume_of(case)]).layers
        voxel_ml = float(np.prod(case.spacing_mm)) / MM3_PER_ML
        row: dict[str, object] = {"patient": case.patient}
        for name, label in STRUCTURES.items():
            found, truth = predicted == label, case.label == label
            dice[name].append(2 * int((found & truth).sum()) / int(found.sum() + truth.sum()))
            volumes[name].append((float(found.sum()) * voxel_ml, float(truth.sum()) * voxel_ml))
            row[name] = {
                "dice": round(dice[name][-1], 4),
                "volume_ml": round(volumes[name][-1][0], 1),
                "true_volume_ml": round(volumes[name][-1][1], 1),
            }
        rows.append(row)
    summary = {
        name: {
            "dice": _mean_with_interval(np.array(dice[name]), seed),
            "volume_difference_ml": _bland_altman(np.array(volumes[name])),
        }
        for name in STRUCTURES
    }
    return {
        "model": runner.model.name,
        "version": runner.model.version,
        "patients": len(cases),
        **summary,
        "by_patient": rows,
    }


def _mean_with_interval(values: NDArray[np.float64], seed: int) -> dict[str, float]:
    samples = np.random.default_rng(seed).choice(values, (BOOTSTRAPS, len(values))).mean(axis=1)
    low, high = np.percentile(samples, (2.5, 97.5))
    return {"mean": round(float(values.mean()), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def _bland_altman(pairs: NDArray[np.float64]) -> dict[str, float]:
    """Bias and 95 % limits of agreement of found minus true (Bland and Altman, Lancet 1986)."""
    differences = pairs[:, 0] - pairs[:, 1]
    bias, spread = float(differences.mean()), 1.96 * float(differences.std(ddof=1))
    return {"bias": round(bias, 1), "low": round(bias - spread, 1), "high": round(bias + spread, 1)}
