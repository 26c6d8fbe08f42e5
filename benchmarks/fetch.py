"""From a series in Orthanc to a volume in memory, over HTTP."""

import io
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
from numpy.typing import NDArray

from coread.archive import Archive
from coread.benchmarks.comparison import FLOOR, OURS, Absent, Result, Way, compare
from coread.benchmarks.intake import orthanc, url_of
from coread.benchmarks.load import ORGANS, nothing, same_or_error, stacked
from coread.benchmarks.samples import Shape, files_in, write_ct
from coread.workers.study import study_in_archive
from coread.workers.volume import build_volume

CONNECTIONS = 4
BOUNDARY = b"boundary="


def fetch(folder: Path, *, shape: Shape, syntax: str, repeats: int) -> Result:
    """The floor gets the pixels alone, by four connections; of compressed ones the bytes, which it does not decode."""
    series = write_ct(folder / "series", ORGANS, shape=shape, syntax=syntax)
    with orthanc(folder / "orthanc", plugin=False) as settings:
        url = url_of(settings)
        with httpx.Client(base_url=url, timeout=600, trust_env=False) as http, Archive(url) as archive:
            for path in files_in(series):
                http.post("/instances", content=path.read_bytes()).raise_for_status()
            (study,), (series_id,) = http.get("/studies").json(), http.get("/series").json()
            ids = _in_order(http, series_id)
            is_native = syntax == "native"
            same_or_error(_ours(archive, study), _files(http, ids), *([_floor(url, ids, shape)] if is_native else []))
            dicom_web = _dicom_web(http, series_id)
            ways: dict[str, Way | Absent] = {
                FLOOR: Way(
                    run=nothing(lambda: _floor(url, ids, shape) if is_native else _bytes(url, ids)),
                    note="frames/0/raw, four connections" + ("" if is_native else "; not decoded"),
                ),
                OURS: Way(run=nothing(lambda: _ours(archive, study)), note="from the study's identifier; all checked"),
                "file by file, pydicom": Way(run=nothing(lambda: _files(http, ids)), note="/instances/ID/file"),
                "DICOMweb, pydicom": Way(run=nothing(lambda: _wado(http, dicom_web)), note="WADO-RS, one series"),
                "archive, pydicom": Way(run=nothing(lambda: _archive(http, series_id)), note="/series/ID/archive, zip"),
            }
            return compare(ways, repeats=repeats)


def _in_order(http: httpx.Client, series_id: str) -> list[str]:
    instances = http.get(f"/series/{series_id}/instances").json()
    instances.sort(key=lambda instance: int(instance["MainDicomTags"]["InstanceNumber"]))
    return [str(instance["ID"]) for instance in instances]


def _ours(archive: Archive, study: str) -> NDArray[Any]:
    """As a worker does."""
    (series,) = study_in_archive(archive, study).series
    return build_volume(series.load()).volume.array


def _floor(url: str, ids: Sequence[str], shape: Shape) -> NDArray[np.int16]:
    volume = np.empty(shape, np.int16)

    def get(part: int) -> None:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            for index in range(part, len(ids), CONNECTIONS):
                raw = http.get(f"/instances/{ids[index]}/frames/0/raw").content
                volume[index] = np.frombuffer(raw, np.int16).reshape(shape[1:])

    with ThreadPoolExecutor(CONNECTIONS) as threads:
        list(threads.map(get, range(CONNECTIONS)))
    return volume


def _bytes(url: str, ids: Sequence[str]) -> None:
    def get(part: int) -> None:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            for index in range(part, len(ids), CONNECTIONS):
                http.get(f"/instances/{ids[index]}/frames/0/raw").raise_for_status()

    with ThreadPoolExecutor(CONNECTIONS) as threads:
        list(threads.map(get, range(CONNECTIONS)))


def _files(http: httpx.Client, ids: Sequence[str]) -> NDArray[Any]:
    return _parsed(http.get(f"/instances/{orthanc_id}/file").content for orthanc_id in ids)


def _archive(http: httpx.Client, series_id: str) -> NDArray[Any]:
    with zipfile.ZipFile(io.BytesIO(http.get(f"/series/{series_id}/archive").content)) as packed:
        return _parsed(packed.read(name) for name in packed.namelist())


def _dicom_web(http: httpx.Client, series_id: str) -> str:
    series, study = (http.get(f"/series/{series_id}{of}").json()["MainDicomTags"] for of in ("", "/study"))
    return f"/dicom-web/studies/{study['StudyInstanceUID']}/series/{series['SeriesInstanceUID']}"


def _wado(http: httpx.Client, path: str) -> NDArray[Any]:
    accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
    answer = http.get(path, headers={"Accept": accept}).raise_for_status()
    boundary = answer.headers["content-type"].encode().split(BOUNDARY)[1].split(b";")[0].strip(b'"')
    parts = answer.content.split(b"--" + boundary)[1:-1]
    return _parsed(part.split(b"\r\n\r\n", 1)[1] for part in parts)


def _parsed(files: Iterable[bytes]) -> NDArray[Any]:
    return stacked([pydicom.dcmread(io.BytesIO(file)) for file in files])
