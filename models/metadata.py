"""A bundle's metadata, read as plain data wherever they lie in the bundle."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CONFIGURATIONS = (".json", ".yaml", ".yml")


METADATA_SCHEMA = Path(__file__).parent / "bundle_metadata.schema.json"
"""What Coread wants of the metadata of its own bundles."""


def find_metadata(folder: Path) -> dict[str, Any]:
    """The bundle's metadata; empty if it has none."""
    path = metadata_file(folder)
    return read_mapping(path) if path else {}


def metadata_file(folder: Path) -> Path | None:
    """Where the bundle's metadata lie: in `metadata.json`, else in the file that has a `network_data_format`."""
    for path in sorted(configurations_in(folder), key=lambda path: (path.name != "metadata.json", str(path))):
        if path.name == "metadata.json" or "network_data_format" in read_mapping(path):
            return path
    return None


def configurations_in(folder: Path) -> Iterator[Path]:
    """Every JSON and YAML file of a bundle, in alphabetical order."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in CONFIGURATIONS and path.is_file():
            yield path


def read_mapping(path: Path) -> dict[str, Any]:
    """The file's mapping; empty if it holds none, or cannot be read (it may be meant for something else)."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}
