"""ECGs and models of ECGs, for tests: a recording in which every lead is another, and bundles whose answer is known."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydicom.dataset import Dataset

from coread.ecg_files import ecg_of
from coread.leads import TWELVE_LEADS
from coread.waveform import Waveform
from coread.workers.study import Series, Study
from coread.workers.waveform import LIMB_LEADS
from tests import zoo

RATE_HZ = 100
MODEL_LEADS = TWELVE_LEADS
FINDING = ["SCT", "102594003", "Abnormal ECG"]

MANIFEST: dict[str, Any] = {
    "name": "test_ecg",
    "title": "Test ECG",
    "series": {
        "described_as": "a 12-lead ECG",
        "must": {"Modality": ["ECG"]},
        "waveform": {"leads": list(MODEL_LEADS), "sampling_rate_hz": RATE_HZ, "duration_s": 10},
    },
    "classes": {
        0: {"name": "Normal ECG", "finding": list(FINDING), "value": ["SCT", "272519000", "Absent"]},
        1: {"name": "Abnormal ECG", "finding": list(FINDING), "value": ["SCT", "52101004", "Present"]},
    },
    "limits": "For tests only.",
}


def waveform(*, rate_hz: float = 500.0, duration_s: float = 10.0) -> Waveform:
    """Beats in noise, of another size and place in each lead; the limb leads agree with each other."""
    times = np.arange(round(duration_s * rate_hz)) / rate_hz
    noise = np.random.default_rng(5)
    leads = {}
    for number, lead in enumerate(TWELVE_LEADS):
        beat = np.exp(-(((np.mod(times, 0.8) - 0.2 - 0.01 * number) / 0.02) ** 2))
        leads[lead] = (0.3 + 0.1 * number) * beat + noise.normal(0, 0.01, len(times)) + 0.02 * number
    leads |= {lead: one * leads["I"] + two * leads["II"] for lead, (one, two) in LIMB_LEADS.items()}
    return Waveform(
        samples=np.stack([leads[lead] for lead in TWELVE_LEADS]).astype(np.float32),
        leads=TWELVE_LEADS,
        sampling_rate_hz=rate_hz,
    )


def ecg(recording: Waveform | None = None, *, name: str = "test", **header: Any) -> Dataset:
    """A 12-lead ECG object with the attributes of ``header``."""
    dataset = ecg_of(recording or waveform(), name=name, patient_id="TEST-1", patient_name="TEST^PATIENT")
    for keyword, value in header.items():
        if value is None:
            dataset.pop(keyword, None)
        else:
            setattr(dataset, keyword, value)
    return dataset


def study(*series: list[Dataset]) -> Study:
    """A study of these series."""
    return Study(
        study_instance_uid=str(series[0][0].StudyInstanceUID) if series else "1.2",
        sop_instance_uids=frozenset(str(each.SOPInstanceUID) for instances in series for each in instances),
        series=[Series(header=each[0], size=len(each), load=each.copy) for each in series],
    )


def write_bundle(folder: Path, *, scripts: bool = False, manifest: dict[str, Any] | None = None) -> Path:
    """A bundle that says how high lead II is on average: 1 mV is a logit of 20. ``scripts``: with Python of its own."""
    bundle = zoo.ZooBundle(
        inference={
            **zoo.TOP,
            "network_def": "$torch.nn.Sequential(torch.nn.Conv1d(12, 2, 1), torch.nn.AdaptiveAvgPool1d(1), "
            "torch.nn.Flatten())",
            "imports": ["$import glob", "$import os", "$import torch"]
            + (["$from scripts.own import present"] if scripts else []),
            "preprocessing": zoo.chain(zoo.transform("LoadImaged"), zoo.transform("EnsureChannelFirstd")),
            **zoo.data(),
            "inferer": {"_target_": "SimpleInferer"},
            "postprocessing": zoo.chain(zoo.transform("Activationsd", "pred", softmax=True)),
            "handlers": [zoo.loader()],
            "evaluator": zoo.evaluator(),
            "run": ["$@evaluator.run()"],
        },
        inputs=zoo.image_format(
            12,
            type="signal",
            modality="ECG",
            format="voltage",
            spatial_shape=[1000],
            channel_def={str(number): lead for number, lead in enumerate(MODEL_LEADS)},
        ),
        outputs={
            "pred": {
                "type": "probabilities",
                "format": "classes",
                "num_channels": 2,
                "spatial_shape": [2],
                "dtype": "float32",
                "value_range": [0, 1],
                "is_patch_data": False,
                "channel_def": {"0": "Normal ECG", "1": "Abnormal ECG"},
            }
        },
        manifest=MANIFEST if manifest is None else manifest,
        scripts={"scripts/__init__.py": "", "scripts/own.py": "present = True\n"} if scripts else {},
    )
    zoo.write_zoo_bundle(folder, bundle)
    weight = torch.zeros(2, 12, 1)
    weight[1, MODEL_LEADS.index("II"), 0] = LOGIT_PER_MV
    torch.save({"0.weight": weight, "0.bias": torch.zeros(2)}, folder / "models/model.pt")
    return folder


LOGIT_PER_MV = 20.0


def expected_probability(recording: Waveform) -> float:
    """Of the second class, by the bundle above."""
    mean = float(recording.lead("II").astype(np.float64).mean())
    return 1 / (1 + float(np.exp(-LOGIT_PER_MV * mean)))
