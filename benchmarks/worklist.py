"""How quick the worklist is with many studies: what the server takes for a page of the list, how soon a browser shows
the first rows, and how evenly it scrolls.

``python -m coread.benchmarks.worklist --studies 10000`` fills an Orthanc with studies of one small image and a ledger
with their jobs, has the plugin make the index, and measures in Debian's Chromium; ``--rows 100000`` fills an index
alone, and measures it without Orthanc.
"""

import io
import itertools
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import which
from typing import Any

import click
import httpx
import sqlalchemy as sa
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from coread.errors import ConfigurationError
from coread.job import Job, JobState, Priority
from coread.ledger.tables import ARRIVING, EVENT, JOB
from coread.objects import Profile
from coread.plugin.worklist.index import Index
from coread.plugin.worklist.query import parse_query
from coread.plugin.worklist.rows import Facts, Progress, Row
from coread.settings import load_settings
from coread.supervisor import Supervisor

SETTINGS = """
data_folder = "data"
[orthanc]
http_port = 0
dicom_port = 0
[intake]
settle_s = 100000
quiet_s = 100000
[worker]
processes = 0
"""
"""Nothing is settled, and no worker reads: the jobs are written into the ledger here."""
NAMES = ("Curie", "Noether", "Meitner", "Hodgkin", "Franklin", "Yalow", "Lovelace", "Hopper", "Müller", "Goeppert")
STATES: Mapping[JobState, float] = {
    JobState.DONE: 0.8,
    JobState.WAITING: 0.1,
    JobState.REFUSED: 0.06,
    JobState.FAILED: 0.03,
    JobState.CANCELLED: 0.01,
}
QUESTIONS: Mapping[str, Mapping[str, str]] = {
    "newest first": {},
    "failed": {"state": "failed"},
    "by patient": {"sort": "patient", "order": "asc"},
    "by key finding": {"sort": "finding", "order": "asc"},
    "search for one word": {"search": "mull"},
    "search for a patient's ID": {"search": "BENCH-004242"},
    "search for what is not there": {"search": "xyzzy"},
}
SENDERS = 4
REPEATS = 30
VISITS = 7
"""Of a browser that has never seen the page."""
SCROLLED_S = 5.0
INDEX_TIMEOUT_S = 1200.0
FIRST_ROWS = """
new MutationObserver((_, observer) => {
    if (!document.querySelector(".row")) return;
    observer.disconnect();
    requestAnimationFrame(() => { window.firstRows = performance.now(); });
}).observe(document, { subtree: true, childList: true });
"""
WAIT_FOR_ROWS = """async () => {
    while (!window.firstRows) await new Promise(requestAnimationFrame);
    return window.firstRows;
}"""
SCROLL = """async (seconds) => {
    const box = document.querySelector(".box");
    const times = [];
    const until = performance.now() + 1000 * seconds;
    let before = performance.now();
    while (before < until) {
        box.scrollTop += 120;
        const now = await new Promise(requestAnimationFrame);
        times.push(now - before);
        before = now;
    }
    return { times: times.slice(1), rows: box.scrollTop / 56, shown: document.querySelectorAll(".row").length };
}"""


def measure(folder: Path, *, studies: int) -> dict[str, Any]:
    """All of it, over a running Coread."""
    settings_file = folder / "coread.toml"
    settings_file.write_text(SETTINGS, encoding="utf-8")
    settings = load_settings(settings_file)
    with Supervisor(settings, settings_file=settings_file) as running:
        _store(running.http_url, studies)
        _wait_for_rows(running.http_url, studies)
        ids = httpx.get(f"{running.http_url}/studies", trust_env=False, timeout=60).json()
    _fill_ledger(settings.ledger_url, ids)
    for file in settings.data_folder.glob("worklist.sqlite*"):
        file.unlink()
    with Supervisor(settings, settings_file=settings_file) as running:
        started = time.perf_counter()
        _wait_for_rows(running.http_url, studies)
        made_s = time.perf_counter() - started
        return {
            "studies": studies,
            "index_made_s": round(made_s, 1),
            "server_ms": _server(running.http_url),
            "browser": _browser(f"{running.http_url}/coread/ui"),
        }


def measure_index(folder: Path, *, rows: int) -> dict[str, Any]:
    """An index alone."""
    index = Index(folder / "worklist.sqlite")
    index.prepare()
    made = list(itertools.islice(_rows(), rows))
    started = time.perf_counter()
    for part in range(0, rows, 5000):
        index.write(made[part : part + 5000])
    written_s = time.perf_counter() - started
    times = {
        name: _median_ms(lambda asked=asked: index.page(parse_query(asked)), repeats=9)  # type: ignore[misc]
        for name, asked in QUESTIONS.items()
    }
    return {"rows": rows, "written_s": round(written_s, 1), "index_ms": times}


def _server(url: str) -> dict[str, float]:
    """Milliseconds for a page of 100 rows, by what is asked; over HTTP, as a browser has it."""
    with httpx.Client(base_url=url, trust_env=False) as http:
        revision = http.get("/coread/worklist").json()["revision"]
        questions = {**QUESTIONS, "nothing new": {"revision": revision}}
        return {
            name: _median_ms(lambda asked=asked: http.get("/coread/worklist", params=asked), repeats=REPEATS)  # type: ignore[misc]
            for name, asked in questions.items()
        }


def _browser(url: str) -> dict[str, Any]:
    from playwright.sync_api import sync_playwright

    executable = which("chromium")
    if executable is None:
        raise ConfigurationError("expected chromium on the PATH, found none; install Debian's chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        first_rows = []
        for _ in range(VISITS):
            with browser.new_context(viewport={"width": 1280, "height": 800}) as profile:
                page = profile.new_page()
                page.add_init_script(FIRST_ROWS)
                page.goto(url)
                first_rows.append(page.evaluate(WAIT_FOR_ROWS))
        with browser.new_context(viewport={"width": 1280, "height": 800}) as profile:
            page = profile.new_page()
            page.goto(url)
            page.wait_for_selector(".row")
            scrolled = page.evaluate(SCROLL, SCROLLED_S)
        browser.close()
    times = sorted(scrolled["times"])
    return {
        "first_rows_ms": {"median": round(statistics.median(first_rows)), "most": round(max(first_rows))},
        "frame_ms": {
            "median": round(statistics.median(times), 1),
            "p95": round(times[int(0.95 * len(times))], 1),
            "most": round(times[-1], 1),
        },
        "frames": len(times),
        "frames_over_50_ms": sum(each > 50 for each in times),
        "rows_scrolled": round(scrolled["rows"]),
        "rows_drawn": scrolled["shown"],
    }


def _median_ms(do: Callable[[], object], *, repeats: int) -> float:
    do()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        do()
        times.append(time.perf_counter() - started)
    return round(1000 * statistics.median(times), 1)


# What is listed ------------------------------------------------------------------------------------------------------


def _store(url: str, studies: int) -> None:
    """Store studies of one small image each."""
    with (
        httpx.Client(base_url=url, trust_env=False, timeout=60) as http,
        ThreadPoolExecutor(SENDERS) as senders,
    ):
        for answer in senders.map(lambda number: http.post("/instances", content=_image(number)), range(studies)):
            answer.raise_for_status()


def _image(number: int) -> bytes:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = MRImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = UID(f"2.25.9{number}3")
    image.StudyInstanceUID, image.SeriesInstanceUID = f"2.25.9{number}1", f"2.25.9{number}2"
    image.SpecificCharacterSet = "ISO_IR 192"
    image.PatientName, image.PatientID = _name(number), f"BENCH-{number:06}"
    image.PatientBirthDate, image.PatientSex = f"{1930 + number % 80}0412", "FMO"[number % 3]
    image.StudyDate, image.StudyTime = f"2026{1 + number % 12:02}{1 + number % 28:02}", "120000"
    image.StudyDescription, image.AccessionNumber = "Cardiac MR, short axis", f"A{number}"
    image.Modality, image.SeriesNumber, image.InstanceNumber = "MR", 1, 1
    image.Rows = image.Columns = 2
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit, image.PixelRepresentation, image.SamplesPerPixel = 7, 0, 1
    image.PhotometricInterpretation, image.PixelData = "MONOCHROME2", b"\0\1\2\3"
    file = io.BytesIO()
    image.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _name(number: int) -> str:
    return f"{NAMES[number % len(NAMES)]}^Benchmark {number}"


def _state(number: int) -> JobState:
    chooser = random.Random(number)  # noqa: S311  # the same at each run
    return chooser.choices(list(STATES), weights=list(STATES.values()))[0]


def _fill_ledger(url: str, studies: Sequence[str]) -> None:
    """Let all studies be settled, with a job each."""
    now = datetime.now(UTC)
    jobs, events = [], []
    for number, study in enumerate(studies):
        at = now - timedelta(minutes=number)
        job = Job(
            job_id=f"{number:032x}",
            study_instance_uid=f"2.25.9{number}1",
            orthanc_id=study,
            model="left_ventricle_sax",
            model_version="1",
            fingerprint=f"{number}",
            revision=f"{number}",
            profiles=(Profile.OHIF,),
            priority=list(Priority)[number % 3],
            created_at=at,
        )
        state = _state(number)
        values = {name: getattr(job, name) for name in Job.__dataclass_fields__}
        fresh = {"state": state, "reason": "", "attempts": 1, "silences": 0, "not_before": now + timedelta(days=1)}
        jobs.append({**values, **fresh, "result": _result(number) if state is JobState.DONE else None})
        events.append({"job_id": job.job_id, "at": at, "from_state": None, "to_state": state, "reason": ""})
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.delete(ARRIVING))
        connection.execute(sa.insert(JOB), jobs)
        connection.execute(sa.insert(EVENT), events)
    engine.dispose()


def _result(number: int) -> dict[str, Any]:
    fraction = {"name": "left ventricular ejection fraction", "value": 30 + number % 45, "unit": "%", "code": []}
    return {"engine": "torch", "numbers": [fraction], "sop_instance_uids": [f"2.25.9{number}4"]}


def _wait_for_rows(url: str, studies: int) -> None:
    deadline = time.monotonic() + INDEX_TIMEOUT_S
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as http:
        while time.monotonic() < deadline:
            answer = http.get("/coread/worklist", params={"limit": "1"}).json()
            if answer.get("total") == studies and answer["building"] == 0:
                return
            time.sleep(0.2)
    raise ConfigurationError(f"expected {studies} rows in the list, found {answer.get('total')}; see Orthanc's log")


def _rows() -> Iterator[Row]:
    models = json.dumps([{"model": "left_ventricle_sax", "state": "done"}])
    now = datetime.now(UTC)
    for number in itertools.count():
        yield Row(
            facts=Facts(
                orthanc_id=f"{number:040x}",
                study_instance_uid=f"2.25.9{number}1",
                patient_name=_name(number),
                patient_id=f"BENCH-{number:06}",
                study_description="Cardiac MR, short axis",
                study_date=f"2026{1 + number % 12:02}{1 + number % 28:02}",
                accession_number=f"A{number}",
                modalities="MR",
                images=300,
                arrived_at=(now - timedelta(minutes=number)).isoformat(),
            ),
            progress=Progress(
                state=_state(number),
                models=models,
                priority=list(Priority)[number % 3],
                key_finding=f"Left ventricular ejection fraction {30 + number % 45} %",
            ),
        )


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="coread-worklist-") as name:
        yield Path(name)


@click.command()
@click.option("--studies", type=click.IntRange(1), default=10_000, show_default=True, help="In Orthanc.")
@click.option("--rows", type=click.IntRange(1), default=100_000, show_default=True, help="In an index alone.")
def main(studies: int, rows: int) -> None:
    """Measure the worklist, and print JSON."""
    with _folder() as folder:
        index = measure_index(folder, rows=rows)
    with _folder() as folder:
        found = {"worklist": measure(folder, studies=studies), "index alone": index}
    found["machine"] = {"cores": os.cpu_count(), "load": [round(each, 1) for each in os.getloadavg()]}
    click.echo(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
