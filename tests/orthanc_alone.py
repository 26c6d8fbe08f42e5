"""An Orthanc without plugins, for tests of what speaks with one."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coread.archive import Archive
from coread.errors import ArchiveUnavailable
from coread.orthanc_process import free_port
from tests.support import program

START_TIMEOUT_S = 60.0


@contextmanager
def plain_orthanc(folder: Path, *, login: tuple[str, str] | None = None, **more: object) -> Iterator[str]:
    """An Orthanc without plugins, at its URL, once it answers; ``more``: settings besides the usual ones."""
    port = free_port()
    configuration = {
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "AuthenticationEnabled": login is not None,
        "RegisteredUsers": dict([login]) if login else {},
        "OverwriteInstances": True,
        **more,
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    url = f"http://127.0.0.1:{port}"
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program("Orthanc"), folder / "orthanc.json"], stdout=log, stderr=log)
        try:
            with Archive(url, auth=login) as archive:
                _wait_for(archive, folder / "orthanc.log")
            yield url
        finally:
            process.terminate()
            process.wait()


def _wait_for(archive: Archive, log: Path) -> None:
    """Until Orthanc answers."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            archive.last_change()
        except ArchiveUnavailable:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        else:
            return
