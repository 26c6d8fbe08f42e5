"""Which models are installed: the packages that Coread ships, those that were added, and those in the folders of the
settings.

Light, like the manifest: the plugin asks it for names and versions.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import NoReturn

from coread.alerts import check_alerts
from coread.errors import ConfigurationError, UnknownModel
from coread.models.allowlist import AllowList, Entry, digest_of, files_of
from coread.models.manifest import MANIFEST_NAME, Manifest, load_manifest
from coread.models.metadata import find_metadata
from coread.models.tasks import channels_of, outputs_of, refusal_of
from coread.settings import Settings

SHIPPED = Path(__file__).parent
NOT_PART_OF_THE_MODEL = frozenset({"train", "docs", "__pycache__"})
"""Folders of a shipped package that do not change what the model does."""


DIGEST_SHOWN = 8
"""Characters of the digest that stand in the version of an added model."""


class State(StrEnum):
    """Whether a model may be used."""

    SHIPPED = "shipped"
    """It comes with Coread."""
    ENABLED = "enabled"
    """A person has approved it."""
    DISABLED = "disabled"
    """Nobody has approved it, or not any more."""
    NOT_ALLOWED = "not allowed"
    """The settings list the models that may run (``models.allowed``), and not this one."""
    BROKEN = "broken"
    """Its manifest or metadata cannot be used."""


USABLE = (State.SHIPPED, State.ENABLED)


@dataclass(frozen=True, kw_only=True)
class InstalledModel:
    """A model package on disk: a MONAI bundle with a manifest."""

    folder: Path
    manifest: Manifest
    version: str
    """As the bundle states it; of an approved one, with the beginning of its digest."""
    allowed: AllowList | None = None
    """Where its approval is looked up; None: it is shipped with Coread, and needs none."""
    digests: AbstractSet[str] | None = None
    """Of which its own must be one, as the settings say (``models.allowed``); None: they do not say."""

    @property
    def name(self) -> str:
        return self.manifest.name

    def digest(self) -> str:
        """SHA-256 over the names and contents of all files that decide what the model does."""
        entry = self.approval()
        return entry.digest if entry else self.digest_now()

    def approval(self) -> Entry | None:
        """What a person has approved; None if it needs no approval.

        Raises ConfigurationError if it was not approved, a file is not the one that was, or the settings do not allow
        what is there now.
        """
        entry = self.allowed.check(self.name, self.folder) if self.allowed else None
        if self.digests is not None:
            found = entry.digest if entry else self.digest_now()
            if refusal := refusal_by_digest(self.name, found, self.digests):
                raise ConfigurationError(refusal)
        return entry

    def digest_now(self) -> str:
        """The digest of the files as they are, approved or not. Raises ConfigurationError if one cannot be read."""
        return digest_of(files_of(self.folder) if self.allowed else dict(_hashes(self.folder)))

    def check_still_approved(self, digest: str) -> None:
        """A look at the list only, for every job. Raises ConfigurationError if the files with this digest are not
        approved any more.
        """
        if self.allowed and digest not in {entry.digest for entry in self.allowed.entries() if entry.name == self.name}:
            raise ConfigurationError(
                f"{self.name}: expected a model that is approved, found that it is not any more; approve it with "
                f"`coread models enable {self.name}`, and start the workers again"
            )


@dataclass(frozen=True, kw_only=True)
class Package:
    """What lies in a folder of models, whether or not it can be used."""

    name: str
    folder: Path
    state: State
    reason: str = ""
    """Why it cannot be used."""
    model: InstalledModel | None = None
    """None if it is broken."""


def allow_list(settings: Settings) -> AllowList:
    """The list of approved models."""
    return AllowList(settings.models_home / "allowed.json")


def refusal_by_digest(name: str, digest: str, allowed: AbstractSet[str] | None) -> str | None:
    """Why the settings do not let a model with this digest run; None if they do. ``allowed``: as in ``[models]``."""
    if allowed is None or digest in allowed:
        return None
    listed = ", ".join(f"{each[:DIGEST_SHOWN]}…" for each in sorted(allowed)) or "none"
    return (
        f"{name}: expected a model whose digest is in models.allowed of the settings ({listed}), found {digest}; if it "
        "may run here, add that digest there and restart Coread, else put back the files that were allowed"
    )


def packages(settings: Settings) -> list[Package]:
    """Every package that there is, in the order of their names; of two with the same name, the second is broken.
    Nothing of a package is executed.
    """
    allowed = allow_list(settings)
    approved = {entry.name: entry.digest for entry in allowed.entries()}
    found: dict[str, Package] = {}
    for folder, is_shipped in _folders(settings):
        package = _restricted(_package(folder, None if is_shipped else allowed, approved), approved, settings)
        if package.name in found:
            reason = f"{found[package.name].folder} is called {package.name} too; rename one of them"
            package = Package(name=str(folder), folder=folder, state=State.BROKEN, reason=reason)
        found[package.name] = package
    return sorted(found.values(), key=lambda package: package.name)


def shipped_packages() -> list[Package]:
    """The packages that come with Coread, whatever the settings are."""
    return [_package(folder, None, {}) for folder in _folders_in(SHIPPED)]


def installed_models(settings: Settings) -> Mapping[str, InstalledModel]:
    """Name → model, of those that may be used. Asked for another one by ``[]``, it says why that one may not be."""
    return _Usable(packages(settings))


class _Usable(dict[str, InstalledModel]):
    def __init__(self, found: Sequence[Package]) -> None:
        self._reasons = {package.name: package.reason for package in found}
        super().__init__({each.name: each.model for each in found if each.model and each.state in USABLE})

    def __missing__(self, name: str) -> NoReturn:
        if reason := self._reasons.get(name):
            raise UnknownModel(f"there is no model called {name} that may be used: {reason}")
        raise KeyError(name)


def find_model(name: str, models: Mapping[str, InstalledModel]) -> InstalledModel:
    """The model called ``name``. Raises UnknownModel, which says why it may not be used, or lists the names that there
    are.
    """
    try:
        return models[name]
    except KeyError:
        known = ", ".join(sorted(models)) or "none"
        raise UnknownModel(
            f"there is no model called {name} that may be used; there are: {known}; see `coread models list`"
        ) from None


def check_routes(settings: Settings, models: Mapping[str, InstalledModel]) -> None:
    """Raises UnknownModel if a route, or a code of ``[ups]``, names a model that is not installed; ConfigurationError
    if an alert asks for what its model never finds.
    """
    for name in (*(name for route in settings.route for name in route.models), *settings.ups.models.values()):
        find_model(name, models)
    check_alerts(settings.alert, {name: model.manifest for name, model in models.items()})


def load_model(folder: Path, *, allowed: AllowList | None) -> InstalledModel:
    """The package in a folder.

    Raises ConfigurationError if its manifest or metadata cannot be used, or it is of a kind that does not read studies.
    """
    manifest = load_manifest(folder)
    metadata = find_metadata(folder)
    if not metadata.get("version"):
        raise ConfigurationError(f"{folder}: expected MONAI bundle metadata with a version, found none")
    reason = refusal_of(metadata)
    if reason and manifest.task is None:
        raise ConfigurationError(f"{folder}: {reason}; if the metadata are wrong, say the `task` in {MANIFEST_NAME}")
    _check_labels(metadata, manifest, folder)
    return InstalledModel(folder=folder, manifest=manifest, version=str(metadata["version"]), allowed=allowed)


def _folders(settings: Settings) -> Iterator[tuple[Path, bool]]:
    for home in (SHIPPED, settings.models_home, *settings.models.folders):
        for folder in _folders_in(home):
            yield folder, home == SHIPPED


def _folders_in(home: Path) -> list[Path]:
    return [path.parent for path in sorted(home.glob(f"*/{MANIFEST_NAME}"))]


def _package(folder: Path, allowed: AllowList | None, approved: Mapping[str, str]) -> Package:
    try:
        model = load_model(folder, allowed=allowed)
    except ConfigurationError as error:
        return Package(name=folder.name, folder=folder, state=State.BROKEN, reason=str(error))
    if allowed is None:
        return Package(name=model.name, folder=folder, state=State.SHIPPED, model=model)
    if model.name in approved:
        # What was approved anew is another model: it makes new jobs, and only workers that have it do them.
        exact = replace(model, version=f"{model.version}+{approved[model.name][:DIGEST_SHOWN]}")
        return Package(name=model.name, folder=folder, state=State.ENABLED, model=exact)
    reason = f"nobody has approved it; look at it and say `coread models enable {model.name}`"
    return Package(name=model.name, folder=folder, state=State.DISABLED, reason=reason, model=model)


def _restricted(package: Package, approved: Mapping[str, str], settings: Settings) -> Package:
    """The package, if it is among those that the settings allow; else one that says that it is not.

    Of an approved one the files are not looked at here, only when it is to run.
    """
    if settings.models.allowed is None or package.model is None or package.state not in USABLE:
        return package
    model = replace(package.model, digests=settings.models.allowed)
    found = approved[package.name] if model.allowed else model.digest_now()
    refusal = refusal_by_digest(package.name, found, settings.models.allowed)
    state, reason = (State.NOT_ALLOWED, refusal) if refusal else (package.state, "")
    return replace(package, model=model, state=state, reason=reason)


def _hashes(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not NOT_PART_OF_THE_MODEL.intersection(relative.parts):
            yield relative.as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()


def _check_labels(metadata: Mapping[str, object], manifest: Manifest, folder: Path) -> None:
    """Raises ConfigurationError if the bundle's metadata name a label of which the manifest gives no coded meaning:
    there is no code that would do for any label.

    A manifest that knows labels which the metadata do not has its own numbering, and is taken at its word; what the
    model gives is checked whenever it runs.
    """
    named = next((channels_of(output) for output in outputs_of(metadata).values()), {})
    if not manifest.labels or not set(manifest.labels) <= set(named):
        return
    unknown = {
        value: name for value, name in named.items() if value not in manifest.labels and not _is_background(name)
    }
    if unknown:
        listed = ", ".join(f"{value} ({name})" for value, name in sorted(unknown.items()))
        raise ConfigurationError(
            f"{folder / MANIFEST_NAME}: expected a coded meaning of every label of the bundle, found none of {listed}; "
            "add it under `labels`"
        )


def _is_background(name: str) -> bool:
    return name.strip().casefold() in ("background", "bg")
