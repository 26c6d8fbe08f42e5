"""What several tests need: small volumes that hide nothing, bundles made to order, programs of others."""

import copy
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage

from coread.dicom_files import series_of
from coread.dicom_sr.identity import ResultIdentity, derived_uid
from coread.errors import ConfigurationError
from coread.findings import Findings
from coread.job import Job, Priority
from coread.models.allowlist import digest_of, files_of
from coread.models.catalogue import InstalledModel, State, allow_list, installed_models, packages
from coread.models.manifest import Manifest
from coread.models.prediction import Prediction
from coread.objects import Profile
from coread.settings import ModelSettings, Settings
from coread.volume import Volume
from coread.workers.measure import findings_of

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def uid_of(name: str) -> str:
    """A UID that is always the same for a name."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, name).int}"


def a_job(job_id: str = "a", **more: Any) -> Job:
    """A job of the study that Orthanc calls "study"."""
    values: dict[str, Any] = {
        "study_instance_uid": "1.2",
        "orthanc_id": "study",
        "model": "m",
        "model_version": "1",
        "fingerprint": job_id,
        "revision": "r",
        "profiles": (Profile.OHIF,),
        "priority": Priority.ROUTINE,
        "created_at": NOW,
    }
    return Job(job_id=job_id, **{**values, **more})


PLANES: Mapping[str, Sequence[Sequence[float]]] = {
    # Unit vectors of (slice, row, column) steps in LPS.
    "axial": ((0, 0, 1), (0, 1, 0), (1, 0, 0)),
    "axial, feet last": ((0, 0, -1), (0, 1, 0), (1, 0, 0)),
    "sagittal": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "coronal": ((0, 1, 0), (0, 0, -1), (1, 0, 0)),
    "oblique": ((0.48, -0.36, 0.8), (0.6, 0.8, 0.0), (-0.64, 0.48, 0.6)),
}


def volume_in_plane(
    plane: str,
    *,
    shape: tuple[int, int, int] = (6, 20, 14),
    spacing: tuple[float, float, float] = (5.0, 1.5, 2.25),
    array: np.ndarray[Any, Any] | None = None,
) -> Volume:
    """A small volume, asymmetric in everything: shape, spacing, position, content."""
    if array is None:
        array = np.arange(np.prod(shape)).reshape(shape).astype(np.int16)
    return Volume.of(array, directions=PLANES[plane], spacing=spacing, position=(-31.0, 17.0, 8.5))


def images_of(volume: Volume, *, name: str = "test", modality: str = "MR", **more: str) -> list[Dataset]:
    """A series of single-frame images that a short-axis model would read by its description."""
    words = {
        "patient_id": "TEST-1",
        "patient_name": "TEST^PATIENT",
        "study_description": "test",
        "series_description": "cine SAX",
        "body_part": "HEART",
    }
    return series_of(volume, modality=modality, name=name, **{**words, **more})


def enhanced(images: Sequence[Dataset]) -> Dataset:
    """The single-frame MR images as one Enhanced MR image, the frames in the order given."""
    first = images[0]
    image = copy.deepcopy(first)
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = derived_uid(first.SOPInstanceUID, "enhanced")
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        del image[keyword]
    image.NumberOfFrames = len(images)
    image.PixelData = b"".join(each.PixelData for each in images)
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = first.PixelSpacing, first.SliceThickness
    orientation.ImageOrientationPatient = first.ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    image.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for index, each in enumerate(images, start=1):
        content, position, group = Dataset(), Dataset(), Dataset()
        content.DimensionIndexValues = [index]
        position.ImagePositionPatient = each.ImagePositionPatient
        group.FrameContentSequence, group.PlanePositionSequence = [content], [position]
        groups.append(group)
    image.PerFrameFunctionalGroupsSequence = groups
    return image


def identity(job_id: str = "0123456789abcdef0123456789abcdef") -> ResultIdentity:
    """A result identity that is always the same."""
    return ResultIdentity(
        job_id=job_id,
        model="test_model",
        title="Test model",
        version="1.2.3",
        digest="ab" * 32,
        limits="For tests only.",
        created_at=NOW,
    )


def texts(dataset: Dataset) -> list[str]:
    """Everything that a report says in words."""
    return [str(element.value) for element in dataset.iterall() if element.keyword == "TextValue"]


def program(name: str) -> str:
    """The path of a program of somebody else's. Where it is missing, a laptop skips and CI fails."""
    path = shutil.which(name) or shutil.which(str(Path(os.sys.executable).parent / name))  # type: ignore[attr-defined]
    if path is None:
        message = f"{name} is not installed; `make test` installs it"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


def output_of(name: str, *arguments: object) -> tuple[int, str]:
    """Exit status, and standard output and error together."""
    done = subprocess.run(
        [program(name), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout


NO_WEIGHTS: dict[str, Any] = {"_target_": "torch.nn.Identity"}


def write_bundle(folder: Path, *, manifest: Mapping[str, Any], inference: Mapping[str, Any]) -> Path:
    """A bundle of our package form. ``inference`` gives `preprocessing` and `postprocessing` transforms, and may give
    `network_def` and `inferer`.
    """
    (folder / "configs").mkdir(parents=True)
    config = {
        "imports": ["$import torch"],
        "bundle_root": ".",
        "device": "$torch.device('cpu')",
        "network_def": inference.get("network_def", NO_WEIGHTS),
        "preprocessing": {"_target_": "Compose", "transforms": inference["preprocessing"]},
        "dataset": {"_target_": "Dataset", "data": [], "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        "inferer": inference.get("inferer", {"_target_": "SimpleInferer"}),
        "postprocessing": {"_target_": "Compose", "transforms": inference["postprocessing"]},
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network_def",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
    }
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    (folder / "configs" / "metadata.json").write_text(json.dumps({"version": "1.2.3"}))
    (folder / "coread.yaml").write_text(yaml.safe_dump({**MANIFEST, **manifest}))
    return folder


def settings_with(folder: Path) -> Settings:
    """Settings of an installation in ``folder``, whose models are approved as they are now."""
    settings = Settings(data_folder=folder / "data", models=ModelSettings(folders=(folder,)))
    for package in packages(settings):
        if package.model and package.state is not State.SHIPPED:
            approve(package.model, settings)
    return settings


def approve(model: InstalledModel, settings: Settings) -> None:
    """Put a model as it is now on the list of approved ones."""
    files = files_of(model.folder)
    allow_list(settings).allow(model.name, digest_of(files), files=files, at=NOW)


def installed(folder: Path, name: str = "test_model") -> InstalledModel:
    """A model in a folder of bundles, approved."""
    for package in packages(Settings(data_folder=folder / "data", models=ModelSettings(folders=(folder,)))):
        if package.state is State.BROKEN:
            raise ConfigurationError(package.reason)
    return installed_models(settings_with(folder))[name]


def measured(labels: np.ndarray[Any, np.dtype[np.uint8]], volume: Volume, *, modality: str = "MR") -> Findings:
    """The findings of a model whose manifest is MANIFEST."""
    prediction = Prediction(layers=(labels,))
    return findings_of(prediction, volume, manifest=Manifest.model_validate(MANIFEST), modality=modality)


MANIFEST: dict[str, Any] = {
    "name": "test_model",
    "title": "Test model",
    "limits": "For tests only.",
    "series": {
        "described_as": "any MR series",
        "must": {"Modality": ["MR"]},
        "slices": [2, 500],
        "slice_spacing_mm": [0.1, 20],
        "pixel_spacing_mm": [0.1, 20],
    },
    "labels": {
        1: {
            "name": "First",
            "category": ["SCT", "91723000", "Anatomical Structure"],
            "type": ["SCT", "49848007", "Left Ventricle Myocardium"],
            "colour": [200, 80, 60],
            "measure": ["volume", "intensity", "diameter"],
        },
        2: {
            "name": "Second",
            "category": ["SCT", "91720002", "Body Substance"],
            "type": ["SCT", "87612001", "Blood"],
            "anatomy": ["SCT", "87878005", "Left ventricle"],
            "colour": [60, 130, 210],
            "measure": ["volume"],
        },
    },
}
