"""Which bundles may run: those that a person approved, as long as every file is still the one that was approved.

Light, like the manifest: no torch here.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from coread.errors import ConfigurationError
from coread.models.inspection import regular_files

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Entry(BaseModel):
    """A bundle that was approved."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    digest: Sha256
    """Of the bundle as a whole, for people, for results and for ``models.allowed``; it is that of the files below."""
    files: Mapping[str, Sha256]
    """Path from the bundle's folder, with ``/`` → SHA-256. Every file of the bundle."""
    unsafe_weights: bool = False
    """Whether its weights may be read although they can hold code."""
    torchscript: bool = False
    """Whether its compiled models may be run."""
    at: AwareDatetime
    """When it was approved."""

    @model_validator(mode="after")
    def _digest_is_of_the_files(self) -> Self:
        """Results name the digest, and the settings may: an edited list must not make a bundle pass as another."""
        if self.digest != digest_of(self.files):
            raise ValueError("the digest is not that of the files")
        return self


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[Entry, ...] = ()


class AllowList:
    """The approved bundles, kept in one JSON file. Every call reads it anew; without a file, none is approved."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> tuple[Entry, ...]:
        """The approved bundles in alphabetical order. Raises ConfigurationError if the file is damaged."""
        try:
            return _File.model_validate_json(self.path.read_bytes()).models
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise ConfigurationError(
                f"{self.path}: expected the list of approved models, but it cannot be read ({error.strerror}); "
                "correct its rights"
            ) from error
        except ValidationError as error:
            problem = error.errors(include_input=False, include_url=False)[0]
            raise ConfigurationError(
                f"{self.path}: expected the list of approved models, found a damaged file "
                f"({'.'.join(map(str, problem['loc'])) or 'the whole'}: {problem['msg']}); "
                "restore it, or delete it and approve each model again with `coread models enable`"
            ) from error

    def allow(
        self,
        name: str,
        digest: str,
        *,
        files: Mapping[str, str],
        unsafe_weights: bool = False,
        torchscript: bool = False,
        at: AwareDatetime,
    ) -> None:
        """Approve a bundle with exactly these files (see ``files_of``), in place of what was approved of that name.

        Raises ConfigurationError if the list cannot be read or written.
        """
        entry = Entry(
            name=name, digest=digest, files=files, unsafe_weights=unsafe_weights, torchscript=torchscript, at=at
        )
        self._write((*self._all_but(name), entry))

    def forbid(self, name: str) -> None:
        """Take back the approval. Raises ConfigurationError if there is none, or the list cannot be read or written."""
        self._find(name)
        self._write(self._all_but(name))

    def check(self, name: str, folder: Path) -> Entry:
        """What was approved, if every file in ``folder`` is as it was then.

        Raises ConfigurationError that names the first file that was changed, added or removed since, or if the bundle
        was never approved.
        """
        entry = self._find(name)
        found = files_of(folder)
        for file in sorted({*entry.files, *found}):
            if found.get(file) != entry.files.get(file):
                what = "added" if file not in entry.files else "removed" if file not in found else "changed"
                raise ConfigurationError(
                    f"{name}: expected the files that were approved with `coread models add`, found {file} {what} "
                    f"since; look at it and approve it again with `coread models enable {name}`"
                )
        return entry

    def _find(self, name: str) -> Entry:
        entries = {entry.name: entry for entry in self.entries()}
        if name not in entries:
            raise ConfigurationError(
                f"{name}: expected a model that was approved, found {', '.join(entries) or 'none'} in {self.path}; "
                f"look at what it can execute and approve it with `coread models enable {name}`"
            )
        return entries[name]

    def _all_but(self, name: str) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries() if entry.name != name)

    def _write(self, entries: tuple[Entry, ...]) -> None:
        """Replace the file as a whole: who reads meanwhile sees the old list or the new one."""
        content = _File(models=tuple(sorted(entries, key=lambda entry: entry.name)))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.path.parent, encoding="utf-8", delete=False) as file:
                try:
                    file.write(content.model_dump_json(indent=2) + "\n")
                    file.flush()
                    os.fchmod(file.fileno(), 0o644)  # workers may be other users
                    os.fsync(file.fileno())
                    Path(file.name).replace(self.path)
                finally:
                    Path(file.name).unlink(missing_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"{self.path}: expected to write the list of approved models there, but it cannot be written "
                f"({error.strerror}); correct the folder's rights or make room"
            ) from error


def files_of(folder: Path) -> dict[str, str]:
    """Path from ``folder``, with ``/`` → SHA-256 of every file, in alphabetical order.

    Raises ConfigurationError if a file cannot be read, or for what ``regular_files`` refuses.
    """
    return {name: _sha256(path) for name, path in regular_files(folder).items()}


def digest_of(files: Mapping[str, str]) -> str:
    """SHA-256 over the names and hashes of files, whatever their order."""
    return hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigurationError(
            f"expected a file of a bundle, but {path} cannot be read ({error.strerror}); correct its rights"
        ) from error
