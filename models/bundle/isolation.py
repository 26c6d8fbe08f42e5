"""A bundle in a process of its own: for bundles with Python code, whose packages are all called ``scripts``, and whose
code is better kept away from the worker's memory, network and files.

Parent and child speak over pipes: a length, then an archive of plain arrays with a JSON header. No pickles, so that a
bundle's code cannot run anything in the worker by what it answers.
"""

import contextlib
import io
import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
import traceback
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from coread import errors
from coread.allocation import give_back_freed_memory
from coread.errors import CoreadError, ModelError, OutOfMemory
from coread.logs import quiet_libraries
from coread.models.bundle import child
from coread.models.bundle.adapters import restore_numpy_names
from coread.models.bundle.engine import private_folder
from coread.models.bundle.trust import NO_TRUST, Trust
from coread.models.forward.engines import EAGER
from coread.models.manifest import Manifest
from coread.models.prediction import Box, Point, Prediction
from coread.scratch import sweep
from coread.volume import Volume
from coread.waveform import Waveform

_LENGTH = struct.Struct("<Q")
LARGEST_MESSAGE = 2**36
"""Bytes: more than any study with its probabilities takes."""
LARGEST_READ = 2**24
BUILD_TIME_S = 600.0
"""How long a bundle may take to be built: its libraries are loaded, and its weights."""
LOOK_EVERY_S = 1.0
"""How often it is looked whether the process still lives."""

KEPT = frozenset({"PATH", "LANG", "TZ", "TMPDIR", "VIRTUAL_ENV"})
KEPT_PREFIXES = ("LC_", "LD_", "OMP_", "MKL_", "THP_", "CUDA_", "NVIDIA_", "NUMBA_")
"""Of the worker's environment."""


def has_python(folder: Path) -> bool:
    """Whether a bundle brings code of its own."""
    return any(path.suffix in (".py", ".so") for path in folder.rglob("*"))


class IsolatedReader:
    """A bundle in a process of its own, built and kept warm; the process is started again when it has died."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        device: torch.device,
        trust: Trust = NO_TRUST,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        """Raises ModelError if the bundle cannot be built."""
        self._manifest, self._check = manifest, check
        self._start = {
            "folder": str(folder),
            "manifest": manifest.model_dump(mode="json"),
            "device": str(device),
            "trust": asdict(trust),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._home, self._cleanup = private_folder(self)
        self._ready()

    def predict(self, channels: Sequence[Volume] | Waveform) -> Prediction:
        """See ``BundleReader.predict``."""
        self._ready()
        header, answer = self._ask(*_message_of(channels), time_s=self._manifest.resources.time_s)
        return _prediction_of(header, answer)

    @property
    def networks(self) -> Sequence[torch.nn.Module]:
        """None in this process."""
        return ()

    @property
    def rounds(self) -> bool:
        """Not known in this process."""
        return False

    @property
    def has_one_size(self) -> bool:
        """Not known in this process."""
        return False

    @property
    def engine(self) -> str:
        """By what the network runs: no other is tried in the bundle's process."""
        return EAGER.label

    @property
    def process_bytes(self) -> int:
        """The memory of its process."""
        if self._process is None:
            return 0
        pages = Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def close(self) -> None:
        """End the process, and delete what it left."""
        self._end()
        self._cleanup()

    def _end(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # with what it has started
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe:
                    pipe.close()
            self._process = None
            sweep()  # it had no time to remove its own folders

    def _ready(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._end()
        self._check()
        folder = Path(str(self._start["folder"]))
        self._process = subprocess.Popen(
            [sys.executable, "-B", "-P", "-m", child.__name__, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd=str(self._home),
            env={**_harmless(os.environ), "HOME": str(self._home)},
            start_new_session=True,
        )
        self._ask(self._start, {}, time_s=BUILD_TIME_S)

    def _ask(
        self, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], *, time_s: float
    ) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise ModelError(f"the bundle {self._manifest.name} has no process; please report it")
        try:
            _send(process.stdin, header, arrays)
            answer, found = _receive(_Watched(process, time_s))
        except (BrokenPipeError, EOFError) as error:
            process.kill()  # if only its pipe has ended
            status = process.wait()
            self._end()
            raise _death(self._manifest.name, status) from error
        except TimeoutError as error:
            self._end()
            raise ModelError(f"the bundle {self._manifest.name}: {error}; it was ended") from error
        except (ValueError, KeyError, OSError, OverflowError, zipfile.BadZipFile) as error:
            self._end()
            raise ModelError(
                f"the bundle {self._manifest.name} answered what cannot be read ({type(error).__name__}); it was ended"
            ) from error
        except BaseException:  # half an answer in the pipe would be taken for the next study's
            self._end()
            raise
        if "error" in answer:
            self._end()  # what is built anew is looked at anew
            raise _error_of(answer)
        return answer, found


class _Watched:
    """The answers of a process, which may die without closing its pipe, or never answer."""

    def __init__(self, process: subprocess.Popen[bytes], time_s: float) -> None:
        self._process = process
        self._time_s = time_s
        self._until = time.monotonic() + time_s

    def read(self, size: int) -> bytes:
        """Exactly as many bytes. Raises EOFError if the process has ended before, TimeoutError if it takes too long."""
        assert self._process.stdout is not None  # noqa: S101  # it was started with one
        pipe = self._process.stdout.fileno()
        parts: list[bytes] = []
        missing = size
        while missing:
            ended = self._process.poll() is not None
            ready, _, _ = select.select([pipe], [], [], 0 if ended else LOOK_EVERY_S)
            part = os.read(pipe, min(missing, LARGEST_READ)) if ready else b""
            if (ready or ended) and not part:
                raise EOFError
            if not part and time.monotonic() > self._until:
                raise TimeoutError(f"expected an answer within {self._time_s:g} s, found none")
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)


def _death(name: str, status: int) -> CoreadError:
    """Why a process that has died may have done so."""
    if status in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT):
        return OutOfMemory(f"the bundle {name} was ended from outside, most likely out of memory; give the worker more")
    return ModelError(f"the bundle {name} ended its own process with status {status}; the log says what it was doing")


def _error_of(answer: Mapping[str, Any]) -> CoreadError:
    kind = getattr(errors, str(answer["error"]), ModelError)
    known = isinstance(kind, type) and issubclass(kind, CoreadError)
    return kind(str(answer["message"])) if known else ModelError(str(answer["message"]))


def _harmless(environment: Mapping[str, str]) -> dict[str, str]:
    """What a bundle's process may know of the worker's environment: no passwords, no addresses."""
    return {name: value for name, value in environment.items() if name in KEPT or name.startswith(KEPT_PREFIXES)}


def _send(pipe: IO[bytes], header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)  # type: ignore[arg-type]
    for part in (memoryview(_LENGTH.pack(buffer.tell())), buffer.getbuffer()):
        rest = part
        while rest:  # one call writes 2 GiB at most
            rest = rest[pipe.write(rest) :]
    pipe.flush()


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _receive(pipe: _Readable) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Raises EOFError if the other side has ended."""
    start = pipe.read(_LENGTH.size)
    if len(start) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(start)
    if length > LARGEST_MESSAGE:
        raise ValueError(f"expected a message of at most {LARGEST_MESSAGE} bytes, found {length}")
    content = pipe.read(length)
    if len(content) < length:
        raise EOFError
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files if name != "header"}
        return json.loads(archive["header"].tobytes()), arrays


def _message_of(channels: Sequence[Volume] | Waveform) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What the child gets of an input."""
    if isinstance(channels, Waveform):
        return {"leads": channels.leads, "sampling_rate_hz": channels.sampling_rate_hz}, {"samples": channels.samples}
    arrays = {f"channel{index}": np.asarray(each.array) for index, each in enumerate(channels)}
    arrays |= {f"affine{index}": each.affine for index, each in enumerate(channels)}
    return {"channels": len(channels)}, arrays


def _input_of(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Sequence[Volume] | Waveform:
    if "leads" in header:
        return Waveform(
            samples=arrays["samples"], leads=tuple(header["leads"]), sampling_rate_hz=header["sampling_rate_hz"]
        )
    return [
        Volume(array=arrays[f"channel{index}"], affine=arrays[f"affine{index}"]) for index in range(header["channels"])
    ]


def _arrays_of(prediction: Prediction) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    header = {
        "layers": len(prediction.layers),
        "probabilities": list(prediction.probabilities),
        "classes": {str(key): value for key, value in prediction.classes.items()},
        "chosen": prediction.chosen,
        "saliency": list(prediction.saliency),
        "unexplained": {str(key): reason for key, reason in prediction.unexplained.items()},
        "boxes": [[box.label, box.probability, *box.low, *box.high] for box in prediction.boxes],
        "points": [[point.label, *point.place] for point in prediction.points],
        "numbers": {str(key): value for key, value in prediction.numbers.items()},
        "device": prediction.device,
        "engine": prediction.engine,
        "way": prediction.way,
        "adapted": list(prediction.adapted),
    }
    arrays: dict[str, NDArray[Any]] = {f"layer{index}": layer for index, layer in enumerate(prediction.layers)}
    arrays |= {f"probability{label}": values for label, values in prediction.probabilities.items()}
    arrays |= {f"saliency{key}": values for key, values in prediction.saliency.items()}
    return header, arrays


def _prediction_of(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Prediction:
    return Prediction(
        layers=tuple(arrays[f"layer{index}"] for index in range(header["layers"])),
        probabilities={label: arrays[f"probability{label}"] for label in header["probabilities"]},
        classes={int(key): value for key, value in header["classes"].items()},
        chosen=header["chosen"],
        saliency={key: arrays[f"saliency{key}"] for key in header["saliency"]},
        unexplained={int(key): reason for key, reason in header["unexplained"].items()},
        boxes=tuple(
            Box(label=int(label), probability=probability, low=np.array(places[:3]), high=np.array(places[3:]))
            for label, probability, *places in header["boxes"]
        ),
        points=tuple(Point(label=int(label), place=np.array(place)) for label, *place in header["points"]),
        numbers={int(key): value for key, value in header["numbers"].items()},
        device=header["device"],
        engine=header["engine"],
        way=header["way"],
        adapted=tuple(header["adapted"]),
    )


def serve() -> None:
    """The child's part: build the bundle that the first message names, then answer each further one by a prediction."""
    from coread.models.bundle.reader import BundleReader

    pipe_in = os.fdopen(os.dup(0), "rb")
    pipe_out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the bundle prints goes into the log, not between the messages
    quiet_libraries()
    renamed: Sequence[str] = ()
    reader: BundleReader | None = None
    while True:
        try:
            header, arrays = _receive(pipe_in)
        except EOFError:
            return
        try:
            if reader is None:
                folder = Path(header["folder"])
                renamed = restore_numpy_names(path.read_text(errors="replace") for path in folder.rglob("*.py"))
                reader = BundleReader(
                    folder,
                    Manifest.model_validate(header["manifest"]),
                    device=torch.device(header["device"]),
                    trust=Trust(**header["trust"]),
                )
                _send(pipe_out, {}, {})
                continue
            prediction = reader.predict(_input_of(header, arrays))
            if renamed:
                names = f"numpy_names: numpy has {', '.join(renamed)} again for the bundle's code"
                prediction = replace(prediction, adapted=(*prediction.adapted, names))
            _send(pipe_out, *_arrays_of(prediction))
            del header, arrays, prediction
            give_back_freed_memory()
        except CoreadError as error:
            traceback.print_exc()
            _send(pipe_out, {"error": type(error).__name__, "message": str(error)}, {})
        except Exception as error:  # noqa: BLE001  # a bundle is foreign code
            traceback.print_exc()
            _send(pipe_out, {"error": "ModelError", "message": f"the bundle failed: {type(error).__name__}"}, {})
