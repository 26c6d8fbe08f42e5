from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coread.plugin.disk import DiskWatch

OUT_OF_RESOURCES, ACCEPTED = 0xA700, 0x0000


class Disk:
    """A disk whose free room is in the test's hands, and the hook that Orthanc was given."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, needed_gb: float = 1.0) -> None:
        self.free = 5e9
        self.hooks: list[Any] = []
        monkeypatch.setattr("shutil.disk_usage", lambda _folder: SimpleNamespace(free=self.free))
        self.watch = DiskWatch(folder, min_free_gb=needed_gb)
        self.watch.register(SimpleNamespace(RegisterIncomingCStoreInstanceFilter=self.hooks.append))

    @property
    def status(self) -> int:
        (hook,) = self.hooks
        status: int = hook(None)
        return status


def test_images_are_refused_while_there_is_little_room_and_taken_again_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(tmp_path, monkeypatch)
    for free, status in ((5e9, ACCEPTED), (1e9, ACCEPTED), (0.9e9, OUT_OF_RESOURCES), (2e9, ACCEPTED)):
        disk.free = free
        disk.watch.step()
        assert disk.status == status


def test_nothing_is_refused_where_no_room_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Disk(tmp_path, monkeypatch, needed_gb=0).hooks == []


def test_what_somebody_else_will_not_have_is_refused_whatever_room_there_is() -> None:
    hooks: list[Any] = []
    orthanc = SimpleNamespace(RegisterIncomingCStoreInstanceFilter=hooks.append)
    DiskWatch(Path("/"), min_free_gb=0).register(orthanc, refuses=lambda instance: instance == "unwanted")
    assert [hooks[0](each) for each in ("unwanted", "wanted")] == [OUT_OF_RESOURCES, ACCEPTED]
