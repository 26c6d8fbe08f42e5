"""What `coread models prepare` found out about a model on this machine: by which engine its network runs, and how near
that comes to torch.

A record counts for one model, down to its files, on one kind of processor and with these versions of the libraries. One
that does not fit, or is damaged, is not used: torch runs the network then. Light: no torch here.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from coread.models.forward.agreement import Agreement
from coread.models.forward.engines import Engine, version_of

RECORD = "record.json"
LIBRARIES = ("coread", "torch", "monai", "numba", "openvino", "onnxruntime")
"""Of which each may change what a network answers, or how what was converted is read."""
CPU_INFORMATION = Path("/proc/cpuinfo")
CPU_SAYS = ("model name", "flags")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class NotPrepared(Exception):
    """There is no record that counts; the message says why."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Attempt(_Frozen):
    """An engine that was tried."""

    label: str
    ratio: float | None
    """How many times sooner than torch as it comes; None: it is not used, and was not timed."""
    reason: str
    """Why it is not used; nothing if it could be."""


class Forward(_Frozen):
    """By what the network runs."""

    engine: Engine
    ratio: float
    """How many times sooner than torch as it comes it answered, on this machine."""
    agreement: Agreement
    sha256: Sha256 | None = None
    """Of what was converted, if anything was."""
    tried: tuple[Attempt, ...] = ()
    reason: str = ""
    """Why torch runs it as it comes, where no other engine was even tried."""


class FusedChain(_Frozen):
    """Whether the bundle's transforms give the same by Coread's kernels as by MONAI."""

    agrees: bool
    """Whether they may run fused."""
    reason: str
    """In words: what agreed, or what did not."""
    fused: tuple[str, ...]
    """What would run fused, and what not and why, a sentence each."""
    same_labels: float | None
    """Part of the voxels with the same label; None where there are none."""
    input_difference: float | None
    """Largest difference of what the network sees, in parts of its range."""


class Record(_Frozen):
    """What was found out about a model."""

    format: Literal[1] = 1
    model: str
    digest: Sha256
    versions: Mapping[str, str]
    device: str
    """Name of the processor that the network runs on."""
    at: AwareDatetime
    forward: Forward
    fusion: FusedChain | None = None
    """None: there is nothing to be tried."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A record that counts, and where what was converted lies."""

    record: Record
    folder: Path

    def converted(self) -> bytes:
        """What the engine runs; nothing if it runs the network itself.

        Raises NotPrepared if it is not there any more, or is not what was prepared.
        """
        sha256 = self.record.forward.sha256
        if sha256 is None:
            return b""
        path = _network_file(self.folder, sha256)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise NotPrepared(f"the network {path} cannot be read ({error.strerror})") from error
        if sha256_of(content) != sha256:
            raise NotPrepared(f"the network {path} is not the one that was prepared")
        return content


def versions() -> dict[str, str]:
    """The installed versions of what a record depends on; nothing for what is not installed."""
    return {library: version_of(library) for library in LIBRARIES}


def cpu_name() -> str:
    """What this processor is called, and a mark of what it can do: a network is compiled for that."""
    said: dict[str, str] = {}
    for line in CPU_INFORMATION.read_text(encoding="utf-8").splitlines() if CPU_INFORMATION.exists() else ():
        key, _, value = line.partition(":")
        said.setdefault(key.strip(), value.strip())
    name, flags = (said.get(key, "") for key in CPU_SAYS)
    return f"{name or 'CPU'} ({sha256_of(flags.encode())[:8]})"


def save(home: Path, record: Record, converted: bytes) -> None:
    """Put a record in the place of the one there was. A reader finds the old one or the new one, never half of one."""
    folder = home / record.model
    folder.mkdir(parents=True, exist_ok=True)
    if record.forward.sha256:
        _put(_network_file(folder, record.forward.sha256), converted)
    _put(folder / RECORD, record.model_dump_json(indent=2).encode())
    for path in folder.glob("network-*"):
        if path != _network_file(folder, record.forward.sha256):
            path.unlink(missing_ok=True)


def load(home: Path, model: str, *, digest: str, device: str) -> Prepared:
    """What counts for a model with this digest on a processor of this name. Raises NotPrepared if there is nothing."""
    found = Prepared(record=read(home, model, digest=digest, device=device), folder=home / model)
    found.converted()
    return found


def read(home: Path, model: str, *, digest: str, device: str | None) -> Record:
    """The record alone. ``device``: name of the processor; None if that is not to be asked.

    Raises NotPrepared if there is none that counts.
    """
    path = home / model / RECORD
    try:
        record = Record.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise NotPrepared("it was never prepared on this machine") from error
    except (OSError, ValidationError) as error:
        raise NotPrepared(f"the record {path} cannot be read") from error
    now = versions()
    changed = [name for name in LIBRARIES if record.versions.get(name) != now[name]]
    if record.digest != digest:
        raise NotPrepared("the model has changed since it was prepared")
    if changed:
        raise NotPrepared(f"it was prepared with another version of {', '.join(changed)}")
    if device is not None and record.device != device:
        raise NotPrepared(f"it was prepared on another processor ({record.device})")
    return record


def sha256_of(content: bytes) -> str:
    """In hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _network_file(folder: Path, sha256: str | None) -> Path:
    return folder / f"network-{(sha256 or '')[:16]}"


def _put(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
