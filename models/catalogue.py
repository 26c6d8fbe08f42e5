"""Which models are installed: the packages that Coread ships and those in the folders of the settings.

Light, like the manifest: the plugin asks it for names and versions.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coread.errors import ConfigurationError, UnknownModel
from coread.models.manifest import MANIFEST_NAME, Manifest, load_manifest
from coread.settings import Settings

SHIPPED = Path(__file__).parent
NOT_PART_OF_THE_MODEL = frozenset({"train", "docs", "__pycache__"})
"""Folders of a package that do not change what the model does."""


@dataclass(frozen=True, kw_only=True)
class InstalledModel:
    """A model package on disk: a MONAI bundle with a manifest."""

    folder: Path
    manifest: Manifest
    version: str

    @property
    def name(self) -> str:
        return self.manifest.name

    def digest(self) -> str:
        """SHA-256 over the names and contents of all files that decide what the model does."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.rglob("*")):
            relative = path.relative_to(self.folder)
            if path.is_file() and not NOT_PART_OF_THE_MODEL.intersection(relative.parts):
                digest.update(f"{relative.as_posix()}\n".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


def installed_models(settings: Settings) -> Mapping[str, InstalledModel]:
    """Name → model. Raises ConfigurationError if a package is broken or two have the same name."""
    models: dict[str, InstalledModel] = {}
    for folder in (SHIPPED, *settings.models.folders):
        for manifest_path in sorted(folder.glob(f"*/{MANIFEST_NAME}")):
            model = _load(manifest_path.parent)
            if model.name in models:
                raise ConfigurationError(
                    f"two packages are called {model.name}: {models[model.name].folder} and {model.folder}; rename one"
                )
            models[model.name] = model
    return models


def find_model(name: str, models: Mapping[str, InstalledModel]) -> InstalledModel:
    """The model called ``name``. Raises UnknownModel, which lists the names that there are."""
    try:
        return models[name]
    except KeyError:
        known = ", ".join(sorted(models)) or "none"
        raise UnknownModel(f"there is no model called {name}; installed: {known}") from None


def check_routes(settings: Settings, models: Mapping[str, InstalledModel]) -> None:
    """Raises UnknownModel if a route names a model that is not installed."""
    for route in settings.route:
        for name in route.models:
            find_model(name, models)


def _load(folder: Path) -> InstalledModel:
    path = folder / "configs" / "metadata.json"
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        version = str(metadata["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path}: expected MONAI bundle metadata with a version, found none") from error
    manifest = load_manifest(folder)
    _check_labels(metadata, manifest, folder)
    return InstalledModel(folder=folder, manifest=manifest, version=version)


def _check_labels(metadata: Mapping[str, Any], manifest: Manifest, folder: Path) -> None:
    """Raises ConfigurationError if the bundle's metadata names a label of which the manifest gives no coded meaning:
    there is no code that would do for any label.
    """
    try:
        names = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
        labels = {int(value): str(name) for value, name in names.items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        return  # it names none; what the model gives is checked when it runs
    unknown = {
        value: name for value, name in labels.items() if value not in manifest.labels and name.lower() != "background"
    }
    if unknown:
        listed = ", ".join(f"{value} ({name})" for value, name in sorted(unknown.items()))
        raise ConfigurationError(
            f"{folder / MANIFEST_NAME}: expected a coded meaning of every label of the bundle, found none of {listed}; "
            "add it under `labels`"
        )
