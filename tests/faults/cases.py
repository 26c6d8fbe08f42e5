"""The studies of the fault suite, the model that reads them, and the PACS that sends them."""

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from coread.dicom_files import write_files
from coread.errors import ArchiveUnavailable
from coread.send import c_store
from coread.volume import Volume
from tests.support import images_of, volume_in_plane, write_bundle

MODEL = "test_model"
SHAPE = (5, 24, 20)
DIM, BRIGHT = 100, 200
"""What the model's threshold lies at: of its first structure, and of its second."""
EVERY_UNFIT, EVERY_GAP = (20, 7), (20, 13)
"""Of so many studies, the one of this number is a CT, which no route's model reads, or has a slice missing."""
RESENT = 0.05
"""How often an object that was stored is sent once more, as a PACS does that lost the answer."""
RETRY_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Case:
    """A study that is sent, and how its job must end."""

    name: str
    study_instance_uid: str
    sop_instance_uids: frozenset[str]
    folder: Path
    files: Sequence[Path]
    end: str
    """``done`` or ``refused``."""


def write_model(folder: Path) -> Path:
    """A bundle that takes no time: two thresholds. What it finds is different in each study."""
    load = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
    ]
    answer = [
        {"_target_": "Lambdad", "keys": "pred", "func": f"$lambda x: (x > {DIM}) * 1 + (x > {BRIGHT}) * 1"},
        {"_target_": "SaveImaged", "keys": "pred", "output_dir": "/nonexistent"},
    ]
    inference = {"preprocessing": load, "postprocessing": answer}
    return write_bundle(folder / "bundle", manifest={}, inference=inference)


def write_cases(folder: Path, count: int, *, seed: int) -> list[Case]:
    """So many studies of a handful of slices, no two with the same pixels."""
    return [_write_case(folder / f"{number:04}", number, seed=seed) for number in range(count)]


def _write_case(folder: Path, number: int, *, seed: int) -> Case:
    unfit, gap = (number % every == which for every, which in (EVERY_UNFIT, EVERY_GAP))
    name = f"fault {seed} {number}"
    modality = "CT" if unfit else "MR"
    images = images_of(_volume(np.random.default_rng((seed, number))), name=name, modality=modality)
    if gap:
        del images[2]
    return Case(
        name=name,
        study_instance_uid=str(images[0].StudyInstanceUID),
        sop_instance_uids=frozenset(str(image.SOPInstanceUID) for image in images),
        folder=folder,
        files=write_files(images, folder),
        end="refused" if unfit or gap else "done",
    )


def _volume(generator: np.random.Generator) -> Volume:
    """Noise with a dim box and a bright one in it, away from the edges."""
    array = generator.integers(0, DIM // 2, SHAPE).astype(np.int16)
    row, column = generator.integers(3, 8, 2)
    array[1:4, row : row + 10, column : column + 8] = DIM + generator.integers(1, 50)
    array[1:4, row + 2 : row + 6, column + 2 : column + 5] = BRIGHT + generator.integers(1, 50)
    return volume_in_plane("oblique", shape=SHAPE, array=array)


@dataclass
class Pacs:
    """Sends studies from several threads, spread over ``seconds``, and each object again until it is stored."""

    cases: Sequence[Case]
    port: int
    seconds: float
    seed: int
    senders: int = 4
    refused: int = 0
    """How often an object was not taken."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _broken: list[BaseException] = field(default_factory=list)

    def start(self) -> None:
        started = time.monotonic()
        for number in range(self.senders):
            thread = threading.Thread(target=self._send_all, args=(number, started), name=f"pacs-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Send nothing more. Raises what a sender broke of."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._broken:
            raise self._broken[0]

    @property
    def is_done(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def _send_all(self, number: int, started: float) -> None:
        rng = random.Random(f"{self.seed} sender {number}")
        try:
            for index in range(number, len(self.cases), self.senders):
                self._stop.wait(started + index * self.seconds / len(self.cases) - time.monotonic())
                for file in self.cases[index].files:
                    self._send(file, rng)
        except BaseException as error:  # noqa: BLE001  # a thread's end must not be silent
            self._broken.append(error)

    def _send(self, file: Path, rng: random.Random) -> None:
        """One object in an association of its own; now and then once more, and never given up."""
        times = 2 if rng.random() < RESENT else 1
        while times and not self._stop.is_set():
            try:
                c_store([file], host="127.0.0.1", port=self.port, called_aet="COREAD")
            except ArchiveUnavailable:
                with self._lock:
                    self.refused += 1
                self._stop.wait(RETRY_S)
            else:
                times -= 1
