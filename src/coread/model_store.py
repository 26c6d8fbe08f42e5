"""Takes bundles into the folder of models, from wherever they come, and gives them away again.

Light: no torch, and nothing of a bundle is executed here.
"""

import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import httpx

from coread.errors import ConfigurationError
from coread.models.allowlist import digest_of, files_of
from coread.models.catalogue import Package, State, allow_list, load_model, packages, refusal_by_digest
from coread.models.draft import draft_manifest
from coread.models.inspection import inspect_bundle
from coread.models.manifest import MANIFEST_NAME, load_manifest
from coread.models.metadata import find_metadata
from coread.models.unpack import unpack
from coread.settings import Settings

ZOO = "zoo:"
_TORCHSCRIPT = ".ts"
_NOT_TAKEN = shutil.ignore_patterns("__pycache__", "*.pyc", ".git", ".cache")
_DOWNLOAD_TIMEOUT_S = 60.0


@contextmanager
def fetched(source: str) -> Iterator[Path]:
    """The bundle that ``source`` names, in a folder: a folder, a ZIP file, a ``.ts`` file, a URL of a ZIP, or
    ``zoo:NAME`` of the Model Zoo.

    Raises ConfigurationError if it is none of these, or cannot be had.
    """
    with tempfile.TemporaryDirectory(prefix="coread-add-") as temporary:
        if source.startswith(ZOO):
            yield _from_the_zoo(source.removeprefix(ZOO), Path(temporary))
        elif source.startswith("https://"):
            archive = _download(source, Path(temporary) / Path(httpx.URL(source).path).name)
            yield _unpacked(archive, Path(temporary) / "bundles")
        elif Path(source).is_dir():
            yield Path(source).resolve()
        elif Path(source).suffix == _TORCHSCRIPT and zipfile.is_zipfile(source):
            yield _from_torchscript(Path(source), Path(temporary))
        elif Path(source).is_file():
            yield _unpacked(Path(source), Path(temporary) / "bundles")
        else:
            raise ConfigurationError(
                f"expected a bundle's folder, ZIP or .ts file, a URL or zoo:NAME, found nothing at {source}; check it"
            )


def take(folder: Path, settings: Settings) -> Path:
    """Copy a bundle into the folder of models, with a drafted manifest if it has none; the copy's folder.

    Raises ConfigurationError if there is one of its name already, or it is no bundle.
    """
    if not find_metadata(folder):
        raise ConfigurationError(f"expected a MONAI bundle with metadata, found none in {folder}; check the path")
    home = settings.models_home / folder.name
    if home.exists():
        raise ConfigurationError(f"there is a model in {home} already; remove it first: `coread models remove NAME`")
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".taking-") as temporary:
        copy = Path(temporary) / folder.name
        shutil.copytree(folder, copy, ignore=_NOT_TAKEN, symlinks=True)
        inspect_bundle(copy)
        if not (copy / MANIFEST_NAME).exists():
            (copy / MANIFEST_NAME).write_text(draft_manifest(copy), encoding="utf-8")
        _check_name(copy, settings)
        copy.rename(home)
    return home


def _check_name(folder: Path, settings: Settings) -> None:
    """Raises ConfigurationError if there is a model of this name already; of a manifest not in order, nothing."""
    try:
        name = load_manifest(folder).name
    except ConfigurationError:
        return
    there = {package.name: package.folder for package in packages(settings)}
    if name in there:
        raise ConfigurationError(
            f"expected a model of a name of its own, found that {there[name]} is called {name} already; remove that "
            "one first, or give this one another name in its coread.yaml"
        )


def find_package(name: str, settings: Settings) -> Package:
    """The package called ``name``, or in a folder of that name, whatever its state.

    Raises ConfigurationError that lists the names there are.
    """
    there = packages(settings)
    found = {package.folder.name: package for package in there} | {package.name: package for package in there}
    if name not in found:
        names = ", ".join(package.name for package in there) or "none"
        raise ConfigurationError(f"there is no model called {name}; there are: {names}")
    return found[name]


def enable(
    package: Package,
    settings: Settings,
    *,
    at: datetime,
    seen: Mapping[str, str] | None = None,
    unsafe_weights: bool = False,
    torchscript: bool = False,
) -> None:
    """Approve a package as it is now; ``seen``: its files when it was shown to a person.

    Raises ConfigurationError if it is broken, has changed since, has what is not allowed, or is not among the models
    that the settings allow.
    """
    model = package.model or load_model(package.folder, allowed=None)
    found = inspect_bundle(package.folder)
    if found.torchscript and not torchscript:
        raise ConfigurationError(
            f"{package.name}: expected no compiled programs, found {found.torchscript[0]}; what it does cannot be "
            "looked at. If you trust its author, say --torchscript"
        )
    files = files_of(package.folder)
    if seen is not None and files != seen:
        raise ConfigurationError(f"{package.name}: files were changed while they were shown; look at them once more")
    if refusal := refusal_by_digest(model.name, digest_of(files), settings.models.allowed):
        raise ConfigurationError(refusal)
    allow_list(settings).allow(
        model.name, digest_of(files), files=files, unsafe_weights=unsafe_weights, torchscript=torchscript, at=at
    )


def disable(package: Package, settings: Settings) -> None:
    """Take back the approval. Raises ConfigurationError for a model that Coread ships: take it out of the routes."""
    if package.state is State.SHIPPED:
        raise ConfigurationError(f"{package.name} comes with Coread; take it out of the routes instead")
    allow_list(settings).forbid(package.name)


def remove(package: Package, settings: Settings) -> None:
    """Delete a package that was added, and its approval. Raises ConfigurationError if it lies elsewhere."""
    if package.folder.parent != settings.models_home:
        raise ConfigurationError(f"{package.name} was not added; it lies in {package.folder}, delete it there")
    allowed = allow_list(settings)
    if package.name in {entry.name for entry in allowed.entries()}:
        allowed.forbid(package.name)
    shutil.rmtree(package.folder)
    shutil.rmtree(settings.prepared_home / package.name, ignore_errors=True)


def _unpacked(archive: Path, folder: Path) -> Path:
    bundle = folder / archive.name.removesuffix(archive.suffix)
    unpack(archive, bundle)
    return bundle


def _download(url: str, into: Path) -> Path:
    try:
        with (
            httpx.stream("GET", url, follow_redirects=True, timeout=_DOWNLOAD_TIMEOUT_S) as answer,
            into.open("wb") as file,
        ):
            answer.raise_for_status()
            for block in answer.iter_bytes():
                file.write(block)
    except httpx.HTTPError as error:
        raise ConfigurationError(
            f"expected a bundle at {url}, but it cannot be had ({error}); download it by hand and give its path"
        ) from error
    return into


def _from_the_zoo(name: str, folder: Path) -> Path:
    """By MONAI's own downloader."""
    from monai.bundle import download

    try:
        download(name=name, bundle_dir=str(folder), progress=False)
    except Exception as error:  # whatever its many ways of fetching raise
        raise ConfigurationError(
            f"expected {name} in the Model Zoo, but it cannot be had ({type(error).__name__}: {error}); download it by "
            "hand and give its path"
        ) from error
    return folder / name


def _from_torchscript(file: Path, folder: Path) -> Path:
    """A bundle around a ``.ts`` file that `ckpt_export` has made: its configurations lie in the file itself."""
    bundle = folder / file.stem
    (bundle / "configs").mkdir(parents=True)
    (bundle / "models").mkdir()
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            parts = Path(name).parts
            if len(parts) == 3 and parts[1] == "extra" and Path(name).suffix in (".json", ".yaml", ".yml"):
                (bundle / "configs" / parts[2]).write_bytes(archive.read(name))
    shutil.copyfile(file, bundle / "models" / "model.ts")
    return bundle
