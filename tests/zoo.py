"""Bundles in the form of the Model Zoo's, with small networks and random weights; and a run of such a bundle on files,
as its own configuration has it, to compare with.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
import yaml
from monai.bundle import ConfigParser
from monai.networks.nets import DenseNet121, SegResNet, UNet
from numpy.typing import NDArray
from torch import nn

from coread.volume import Volume

DEVICE = "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')"
SCT = "SCT"


@dataclass(kw_only=True)
class ZooBundle:
    """A bundle's parts, before they are written."""

    inference: dict[str, Any]
    outputs: dict[str, Any]
    """`network_data_format.outputs` of the metadata."""
    inputs: dict[str, Any]
    manifest: dict[str, Any]
    weights: Mapping[str, nn.Module] = field(default_factory=dict)
    """File in the bundle → network whose state is saved there."""
    scripts: Mapping[str, str] = field(default_factory=dict)
    as_yaml: bool = False


def write_zoo_bundle(folder: Path, bundle: ZooBundle, *, seed: int = 0) -> Path:
    """Write a bundle and its manifest into ``folder``."""
    for part in ("configs", "docs", "models"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    if bundle.as_yaml:
        (folder / "configs/inference.yaml").write_text(yaml.safe_dump(bundle.inference, sort_keys=False))
    else:
        (folder / "configs/inference.json").write_text(json.dumps(bundle.inference, indent=4))
    metadata = {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20220324.json",
        "version": "0.1.0",
        "changelog": {"0.1.0": "complete the model package"},
        "monai_version": "1.0.0",
        "pytorch_version": "1.12.1",
        "numpy_version": "1.22.4",
        "optional_packages_version": {},
        "task": "Test",
        "description": "A bundle with random weights",
        "authors": "The Coread authors",
        "copyright": "The Coread authors",
        "network_data_format": {"inputs": bundle.inputs, "outputs": bundle.outputs},
    }
    (folder / "configs/metadata.json").write_text(json.dumps(metadata, indent=4))
    (folder / "coread.yaml").write_text(yaml.safe_dump(bundle.manifest, sort_keys=False))
    (folder / "docs/README.md").write_text("# A bundle for tests\n")
    for name, network in bundle.weights.items():
        torch.manual_seed(seed)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.2)
        torch.save(network.state_dict(), folder / name)
    for name, text in bundle.scripts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def image_format(channels: int = 1, **more: Any) -> dict[str, Any]:
    """The metadata of an input image."""
    return {
        "image": {
            "type": "image",
            "format": "magnitude",
            "modality": "CT",
            "num_channels": channels,
            "spatial_shape": ["8*n", "8*n", "8*n"],
            "dtype": "float32",
            "value_range": [0, 1],
            "is_patch_data": True,
            "channel_def": {str(index): f"image{index}" for index in range(channels)},
            **more,
        }
    }


def mask_format(*names: str) -> dict[str, Any]:
    """The metadata of a segmentation, its classes numbered from 0."""
    return {
        "pred": {
            "type": "image",
            "format": "segmentation",
            "num_channels": len(names),
            "spatial_shape": ["8*n", "8*n", "8*n"],
            "dtype": "float32",
            "value_range": [0, 1],
            "is_patch_data": True,
            "channel_def": {str(index): name for index, name in enumerate(names)},
        }
    }


def meaning(name: str) -> dict[str, Any]:
    """A label's entry in a manifest. The code is of no matter here, but a true one."""
    return {
        "name": name,
        "category": [SCT, "91723000", "Anatomical Structure"],
        "type": [SCT, "78961009", "Spleen"],
        "colour": [200, 80, 60],
    }


def manifest(labels: Sequence[int] = (1,), *, modality: str = "CT", **more: Any) -> dict[str, Any]:
    """A manifest in ten lines."""
    return {
        "name": "test_model",
        "title": "Test model",
        "series": {"described_as": f"a {modality} series", "must": {"Modality": [modality]}},
        "labels": {label: meaning(f"Structure {label}") for label in labels},
        "limits": "For tests only.",
        **more,
    }


def chain(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Transforms, composed."""
    return {"_target_": "Compose", "transforms": [dict(part) for part in parts]}


def loader(checkpoint: str = "$@bundle_root + '/models/model.pt'") -> dict[str, Any]:
    """The handler that loads weights."""
    return {"_target_": "CheckpointLoader", "load_path": checkpoint, "load_dict": {"model": "@network"}}


def transform(target: str, keys: Any = "image", **more: Any) -> dict[str, Any]:
    """A transform of dictionaries."""
    return {"_target_": target, "keys": keys, **more}


def invert(*, nearest: bool = False, **more: Any) -> dict[str, Any]:
    """The usual Invertd."""
    return transform(
        "Invertd",
        "pred",
        transform="@preprocessing",
        orig_keys="image",
        meta_key_postfix="meta_dict",
        nearest_interp=nearest,
        to_tensor=True,
        **more,
    )


def save(**more: Any) -> dict[str, Any]:
    """The usual SaveImaged."""
    return transform("SaveImaged", "pred", meta_keys="pred_meta_dict", output_dir="@output_dir", **more)


def arguments(component: Mapping[str, Any]) -> dict[str, Any]:
    """What a component's class is called with."""
    return {key: value for key, value in component.items() if key != "_target_"}


def evaluator(**more: Any) -> dict[str, Any]:
    """The usual evaluator."""
    return {
        "_target_": "SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": "@dataloader",
        "network": "@network",
        "inferer": "@inferer",
        "postprocessing": "@postprocessing",
        "val_handlers": "@handlers",
        "amp": True,
        **more,
    }


def data(items: str = "$[{'image': i} for i in @datalist]") -> dict[str, Any]:
    """The usual data set and loader."""
    return {
        "dataset": {"_target_": "Dataset", "data": items, "transform": "@preprocessing"},
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 4,
        },
    }


def window(size: Sequence[int] = (16, 16, 16), **more: Any) -> dict[str, Any]:
    """The usual inferer."""
    return {"_target_": "SlidingWindowInferer", "roi_size": list(size), "sw_batch_size": 4, "overlap": 0.5, **more}


STATS = {"_target_": "StatsHandler", "iteration_log": False}
TOP: dict[str, Any] = {
    "imports": ["$import glob", "$import os"],
    "bundle_root": ".",
    "output_dir": "$@bundle_root + '/eval'",
    "dataset_dir": "/workspace/data/Task",
    "datalist": "$list(sorted(glob.glob(@dataset_dir + '/imagesTs/*.nii.gz')))",
    "device": DEVICE,
    "network": "$@network_def.to(@device)",
}

UNET: dict[str, Any] = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [4, 8, 16],
    "strides": [2, 2],
    "num_res_units": 1,
    "norm": "batch",
}


def spleen() -> ZooBundle:
    """As spleen_ct_segmentation: oriented, resampled, windows, softmax, linear inversion, argmax; weights loaded by a
    component of its own in `initialize`.
    """
    return ZooBundle(
        inference={
            **TOP,
            "network_def": dict(UNET),
            "preprocessing": chain(
                transform("LoadImaged"),
                transform("EnsureChannelFirstd"),
                transform("Orientationd", axcodes="RAS"),
                transform("Spacingd", pixdim=[1.5, 1.5, 2.0], mode="bilinear"),
                transform("ScaleIntensityRanged", a_min=-57, a_max=164, b_min=0, b_max=1, clip=True),
                transform("EnsureTyped"),
            ),
            **data(),
            "inferer": window(),
            "postprocessing": chain(
                transform("Activationsd", "pred", softmax=True),
                invert(),
                transform("AsDiscreted", "pred", argmax=True),
                save(),
            ),
            "handlers": [STATS],
            "evaluator": evaluator(),
            "checkpointloader": loader(),
            "initialize": ["$monai.utils.set_determinism(seed=123)", "$@checkpointloader(@evaluator)"],
            "run": ["$@evaluator.run()"],
        },
        inputs=image_format(),
        outputs=mask_format("background", "spleen", "tumour"),
        manifest=manifest([1, 2]),
        weights={"models/model.pt": UNet(**arguments(UNET))},
    )


def whole_body() -> ZooBundle:
    """As wholeBody_ct_segmentation: keys and numbers behind references, argmax before a nearest inversion."""
    network = {
        "_target_": "SegResNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 6,
        "init_filters": 8,
        "blocks_down": [1, 1],
        "blocks_up": [1],
    }
    return ZooBundle(
        inference={
            "displayable_configs": {"highres": True, "sw_overlap": 0.25, "sw_batch_size": 1},
            **TOP,
            "image_key": "image",
            "pixdim": "$[1.5, 1.5, 1.5] if @displayable_configs#highres else [3.0, 3.0, 3.0]",
            "modelname": "$'model.pt' if @displayable_configs#highres else 'model_lowres.pt'",
            "network_def": network,
            "preprocessing": chain(
                transform("LoadImaged", "@image_key"),
                transform("EnsureTyped", "@image_key"),
                transform("EnsureChannelFirstd", "@image_key"),
                transform("Orientationd", "@image_key", axcodes="RAS"),
                transform("Spacingd", "@image_key", pixdim="@pixdim", mode="bilinear"),
                transform("NormalizeIntensityd", "@image_key", nonzero=True),
                transform("ScaleIntensityd", "@image_key", minv=-1.0, maxv=1.0),
            ),
            **data(),
            "inferer": window(
                sw_batch_size="@displayable_configs#sw_batch_size",
                overlap="@displayable_configs#sw_overlap",
                padding_mode="replicate",
                mode="gaussian",
                device=DEVICE,
            ),
            "postprocessing": chain(
                transform("Activationsd", "pred", softmax=True),
                transform("AsDiscreted", "pred", argmax=True),
                {**invert(nearest=True), "orig_keys": "@image_key"},
                save(),
            ),
            "handlers": [STATS],
            "evaluator": evaluator(),
            "checkpointloader": loader("$@bundle_root + '/models/' + @modelname"),
            "initialize": ["$setattr(torch.backends.cudnn, 'benchmark', True)", "$@checkpointloader(@evaluator)"],
            "run": ["$@evaluator.run()"],
        },
        inputs=image_format(),
        outputs=mask_format("background", *(f"organ {index}" for index in range(1, 6))),
        manifest=manifest(range(1, 6)),
        weights={"models/model.pt": SegResNet(**arguments(network))},
    )


def brats() -> ZooBundle:
    """As brats_mri_segmentation: four files stacked into channels, sigmoid, labels 1, 2 and 4 that the metadata numbers
    otherwise, weights loaded by a handler, another run id.
    """
    network = {
        "_target_": "SegResNet",
        "in_channels": 4,
        "out_channels": 3,
        "init_filters": 8,
        "blocks_down": [1, 1],
        "blocks_up": [1],
        "dropout_prob": 0.2,
    }
    labels = "$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, torch.where(x[[1]] > 0, 2, 0)))"
    top = {key: value for key, value in TOP.items() if key != "datalist"}
    datalist = (
        "$monai.data.load_decathlon_datalist(@data_list_file_path, data_list_key='testing', base_dir=@dataset_dir)"
    )
    names = ("T1c", "T1", "T2", "FLAIR")
    series = [
        {"described_as": f"a {name} series", "must": {"Modality": ["MR"], "SeriesDescription": [f"*{name}*"]}}
        for name in ("T1c", "T1n", "T2w", "FLAIR")
    ]
    return ZooBundle(
        inference={
            **top,
            "data_list_file_path": "$@bundle_root + '/configs/datalist.json'",
            "test_datalist": datalist,
            "network_def": network,
            "preprocessing": chain(
                transform("LoadImaged"),
                transform("NormalizeIntensityd", nonzero=True, channel_wise=True),
            ),
            **data("@test_datalist"),
            "inferer": window(),
            "postprocessing": chain(
                transform("Activationsd", "pred", sigmoid=True),
                invert(),
                transform("AsDiscreted", "pred", threshold=0.5),
                transform("Lambdad", "pred", func=labels),
                save(output_postfix="seg", output_dtype="uint8", resample=False, squeeze_end_dims=True),
            ),
            "handlers": [loader(), STATS],
            "evaluator": evaluator(),
            "evaluating": ["$setattr(torch.backends.cudnn, 'benchmark', True)", "$@evaluator.run()"],
        },
        inputs=image_format(4, modality="MR", channel_def={str(index): name for index, name in enumerate(names)}),
        outputs=mask_format("Tumor core", "Whole tumor", "Enhancing tumor"),
        manifest=manifest([1, 2, 4], modality="MR", series=series),
        weights={"models/model.pt": SegResNet(**arguments(network))},
    )


def ventricular() -> ZooBundle:
    """As ventricular_short_axis_3label: two-dimensional, slice by slice, metadata wanted beside the image, no
    orientation of its own.
    """
    network = {
        "_target_": "UNet",
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 4,
        "channels": [4, 8, 16],
        "strides": [2, 2],
        "num_res_units": 1,
    }
    return ZooBundle(
        inference={
            "imports": ["$import glob"],
            "bundle_root": ".",
            "device": DEVICE,
            "ckpt_path": "$@bundle_root + '/models/model.pt'",
            "dataset_dir": "/workspace/data",
            "output_dir": "./output",
            "datalist": "$list(sorted(glob.glob(@dataset_dir + '/*.nii*')))",
            "network_def": network,
            "network": "$@network_def.to(@device)",
            "preprocessing": chain(
                transform("LoadImaged", image_only=False),
                transform("EnsureChannelFirstd"),
                transform("ScaleIntensityd"),
                transform("EnsureTyped", device="@device"),
            ),
            **data(),
            "inferer": {"_target_": "SliceInferer", "roi_size": [32, 32], "spatial_dim": 2},
            "postprocessing": chain(
                transform("Activationsd", "pred", softmax=True),
                invert(),
                transform("AsDiscreted", "pred", argmax=True),
                save(),
            ),
            "handlers": [loader("@ckpt_path")],
            "evaluator": evaluator(),
            "evaluating": ["$@evaluator.run()"],
        },
        inputs=image_format(modality="MR", spatial_shape=["16*n", "16*n"]),
        outputs=mask_format("background", "LV pool", "LV myocardium", "RV pool"),
        manifest=manifest([1, 2, 3], modality="MR"),
        weights={"models/model.pt": UNet(**arguments(network))},
    )


def segmentation_template() -> ZooBundle:
    """As segmentation_template: yaml, names from CommonKeys, transforms in a list of their own, a thread loader,
    weights that may be missing.
    """
    network = {**UNET, "out_channels": "@num_classes"}
    return ZooBundle(
        as_yaml=True,
        inference={
            "imports": ["$import os", "$import torch", "$import glob"],
            "image": "$monai.utils.CommonKeys.IMAGE",
            "pred": "$monai.utils.CommonKeys.PRED",
            "batch_size": 1,
            "num_workers": 0,
            "num_classes": 4,
            "device": DEVICE,
            "bundle_root": ".",
            "ckpt_path": "$@bundle_root + '/models/model.pt'",
            "dataset_dir": "$@bundle_root + '/test_data'",
            "output_dir": "./outputs",
            "network_def": network,
            "network": "$@network_def.to(@device)",
            "file_pattern": "*.nii*",
            "data_list": "$list(sorted(glob.glob(os.path.join(@dataset_dir, @file_pattern))))",
            "data_dicts": "$[{@image:i} for i in @data_list]",
            "transforms": [
                transform("LoadImaged", "@image", image_only=True),
                transform("EnsureChannelFirstd", "@image"),
                transform("ScaleIntensityd", "@image"),
            ],
            "preprocessing": {"_target_": "Compose", "transforms": "$@transforms"},
            "dataset": {"_target_": "Dataset", "data": "@data_dicts", "transform": "@preprocessing"},
            "dataloader": {
                "_target_": "ThreadDataLoader",
                "dataset": "@dataset",
                "batch_size": "@batch_size",
                "num_workers": "@num_workers",
            },
            "inferer": {"_target_": "SimpleInferer"},
            "postprocessing": chain(
                transform("Activationsd", "@pred", softmax=True),
                transform("AsDiscreted", "@pred", argmax=True),
                transform(
                    "SaveImaged",
                    "@pred",
                    meta_keys="pred_meta_dict",
                    data_root_dir="@dataset_dir",
                    output_dir="@output_dir",
                    dtype="$None",
                    output_dtype="$None",
                    output_postfix="",
                    resample=False,
                    separate_folder=True,
                ),
            ),
            "handlers": [
                {**loader("@ckpt_path"), "_disabled_": "$not os.path.exists(@ckpt_path)"},
                {"_target_": "StatsHandler", "name": None, "output_transform": "$lambda x: None"},
            ],
            "evaluator": {key: value for key, value in evaluator().items() if key != "amp"},
            "run": ["$@evaluator.run()"],
        },
        inputs=image_format(modality="none"),
        outputs=mask_format("background", "first", "second", "third"),
        manifest=manifest([1, 2, 3]),
        weights={
            "models/model.pt": UNet(
                **{key: value for key, value in {**UNET, "out_channels": 4}.items() if key != "_target_"}
            )
        },
    )


def classification_template() -> ZooBundle:
    """As classification_template: yaml, postprocessing and metrics that want a label too, a one-hot answer."""
    return ZooBundle(
        as_yaml=True,
        inference={
            "imports": ["$import os", "$import json", "$import torch"],
            "image": "$monai.utils.CommonKeys.IMAGE",
            "label": "$monai.utils.CommonKeys.LABEL",
            "pred": "$monai.utils.CommonKeys.PRED",
            "num_classes": 4,
            "device": DEVICE,
            "bundle_root": ".",
            "ckpt_path": "$@bundle_root + '/models/model.pt'",
            "network_def": {
                "_target_": "DenseNet121",
                "spatial_dims": 2,
                "in_channels": 1,
                "out_channels": "@num_classes",
            },
            "network": "$@network_def.to(@device)",
            "test_json": "$@bundle_root+'/data/test_samples.json'",
            "test_fp": "$open(@test_json,'r', encoding='utf8')",
            "test_dict": "$json.load(@test_fp)",
            "transforms": [
                transform("LoadImaged", "@image"),
                transform("EnsureChannelFirstd", "@image"),
                transform("ScaleIntensityd", "@image"),
            ],
            "preprocessing": {"_target_": "Compose", "transforms": "$@transforms"},
            "dataset": {"_target_": "Dataset", "data": "@test_dict", "transform": "@preprocessing"},
            "dataloader": {
                "_target_": "ThreadDataLoader",
                "dataset": "@dataset",
                "batch_size": 1,
                "num_workers": 0,
            },
            "inferer": {"_target_": "SimpleInferer"},
            "postprocessing": chain(
                transform("Activationsd", "@pred", softmax=True),
                transform("AsDiscreted", ["@pred", "@label"], argmax=[True, False], to_onehot="@num_classes"),
                transform("ToTensord", ["@pred", "@label"], device="@device"),
            ),
            "val_handlers": [
                {**loader("@ckpt_path"), "_disabled_": "$not os.path.exists(@ckpt_path)"},
                {"_target_": "StatsHandler", "name": None, "output_transform": "$lambda x: None"},
            ],
            "evaluator": {
                **evaluator(val_handlers="@val_handlers"),
                "key_val_metric": {
                    "val_accuracy": {
                        "_target_": "ignite.metrics.Accuracy",
                        "output_transform": "$monai.handlers.from_engine([@pred, @label])",
                    }
                },
            },
            "initialize": ["$setattr(torch.backends.cudnn, 'benchmark', True)"],
            "run": ["$@evaluator.run()"],
        },
        inputs=image_format(modality="none", spatial_shape=[128, 128]),
        outputs={
            "pred": {
                "type": "probabilities",
                "format": "classes",
                "num_channels": 4,
                "spatial_shape": [1, 4],
                "dtype": "float32",
                "value_range": [0, 1, 2, 3],
                "is_patch_data": False,
                "channel_def": {"0": "background", "1": "circle", "2": "triangle", "3": "rectangle"},
            }
        },
        manifest={
            "name": "test_model",
            "title": "Test model",
            "series": {"described_as": "a radiograph", "must": {"Modality": ["DX", "CR"]}, "projection": True},
            "classes": {
                index: {
                    "name": name,
                    "finding": [SCT, "233604007", "Pneumonia"],
                    "value": [SCT, code, word],
                }
                for index, (name, code, word) in enumerate(
                    [
                        ("background", "272519000", "Absent"),
                        ("circle", "52101004", "Present"),
                        ("triangle", "52101004", "Present"),
                        ("rectangle", "52101004", "Present"),
                    ]
                )
            },
            "limits": "For tests only.",
        },
        weights={"models/model.pt": DenseNet121(spatial_dims=2, in_channels=1, out_channels=4)},
    )


SEGMENTATIONS: Mapping[str, Callable[[], ZooBundle]] = {
    "spleen": spleen,
    "whole body": whole_body,
    "brats": brats,
    "ventricular": ventricular,
    "segmentation template": segmentation_template,
}


def run_on_files(folder: Path, volumes: Sequence[Volume], into: Path) -> NDArray[Any]:
    """What the bundle's own configuration saves for volumes that lie in files: (column, row, slice).

    Only where the files lie is told to it, as a user would on the command line.
    """
    files = []
    for index, volume in enumerate(volumes):
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine[:, [2, 1, 0, 3]]
        array = np.ascontiguousarray(volume.array.transpose(2, 1, 0), np.float32)
        files.append(str(into / f"in{index}.nii.gz"))
        nibabel.Nifti1Image(array, affine).to_filename(files[-1])
    (path,) = (folder / "configs").glob("inference.*")
    parser = ConfigParser()
    parser.read_config(path)
    parser.update(
        {
            "bundle_root": str(folder),
            "output_dir": str(into / "out"),
            "dataset_dir": str(into),
            "dataset#data": [{"image": files[0] if len(files) == 1 else files}],
            "dataloader#num_workers": 0,
        }
    )
    runs = next(key for key in ("run", "evaluating") if key in parser.get())
    for key in ("initialize", runs):
        if key in parser.get():
            parser.get_parsed_content(key)
    (saved,) = (into / "out").rglob("*.nii.gz")
    return np.asarray(nibabel.Nifti1Image.from_filename(saved).dataobj)
