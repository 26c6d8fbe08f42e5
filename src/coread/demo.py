"""``coread demo``: the main job for everybody to see. A study goes in, a segmentation and a report come back."""

import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pydicom
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from coread.archive import Archive
from coread.errors import ArchiveUnavailable, CoreadError
from coread.job import ENDED
from coread.phantom import TRUTH_NAME, write_short_axis_study, write_unfit_study
from coread.send import c_store
from coread.settings import Settings, load_settings
from coread.supervisor import Supervisor
from coread.workers.picture import montage
from coread.workers.study import studies_in_folder

QUIET_S = 2.0
"""The demonstration's sender does not pause, so its studies count as complete sooner than at a site."""
TIMEOUT_S = 240.0
POLL_S = 0.3


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A study that was sent: its files and, for the phantom, what is known to be in it."""

    study_instance_uid: str
    files: Sequence[Path]
    truth: Mapping[str, Mapping[str, float]]


def run_demo(settings: Settings, *, output: Path, input_folder: Path | None, console: Console) -> bool:
    """Run it; True if every study was read or refused, and at least one was read or the input was the user's own.

    Of the settings, the models and the device are taken. The server's files go to a temporary folder, which is kept if
    something went wrong.
    """
    output = output.resolve()
    console.print("[bold]1[/] Preparing the studies")
    folders = [input_folder] if input_folder else _sample_studies(output / "studies")
    sent = [one for folder in folders for one in _studies(folder)]
    console.print(f"  {len(sent)} studies, {sum(len(one.files) for one in sent)} images")
    server = Path(tempfile.mkdtemp(prefix="coread-demo-"))
    states = _send_and_show(sent, _write_settings(settings, server), output=output, console=console)
    counts = {state: states.count(state) for state in ("done", "refused")}
    failed = len(states) - sum(counts.values())
    summary = f"{len(sent)} studies sent; {counts['done']} read, {counts['refused']} refused, {failed} failed"
    console.print(f"[bold]Summary[/]: {summary}")
    if failed:
        console.print(f"The server's files and logs are in {server}")
        return False
    shutil.rmtree(server)
    return counts["done"] > 0 or input_folder is not None


def _send_and_show(sent: Sequence[Sent], settings_file: Path, *, output: Path, console: Console) -> list[str]:
    """Start everything, send the studies, show what comes back, stop; the states that the jobs ended in."""
    settings = load_settings(settings_file)
    console.print("[bold]2[/] Starting Orthanc with the plugin, and a worker")
    with Supervisor(settings, settings_file=settings_file) as running, Archive(running.http_url) as archive:
        port = running.settings.orthanc.dicom_port
        console.print(f"  {running.http_url}, DICOM port {port}, logs in {settings.log_folder}")
        console.print(f"  The worklist, as long as this runs: {running.page_url}")
        console.print("[bold]3[/] Sending by C-STORE, as a PACS would")
        for one in sent:
            c_store(one.files, host="127.0.0.1", port=port, called_aet=settings.orthanc.aet)
        console.print("[bold]4[/] Waiting for the results")
        with console.status("waiting"):
            jobs = [_wait(running, one) for one in sent]
        console.print("[bold]5[/] What came back")
        for one, found in zip(sent, jobs, strict=True):
            for job in found:
                _show(console, archive, one, job, output)
    return [job["state"] for found in jobs for job in found]


def _sample_studies(folder: Path) -> list[Path]:
    write_short_axis_study(folder / "phantom")
    write_unfit_study(folder / "unfit")
    return [folder / "phantom", folder / "unfit"]


def _studies(folder: Path) -> list[Sent]:
    truth_file = folder / TRUTH_NAME
    truth = json.loads(truth_file.read_text(encoding="utf-8")) if truth_file.exists() else {}
    return [
        Sent(study_instance_uid=study.study_instance_uid, files=study.files, truth=truth)
        for study in studies_in_folder(folder)
    ]


def _write_settings(settings: Settings, server: Path) -> Path:
    """The settings that Orthanc and the worker read: every model of the routes reads every study."""
    models = sorted({model for route in settings.route for model in route.models})
    folders = [str(folder) for folder in settings.models.folders]
    path = server / "coread.toml"
    path.write_text(
        f"""data_folder = "data"
viewer_folder = {json.dumps(str(settings.viewer_home))}
[orthanc]
executable = {json.dumps(settings.orthanc.executable)}
plugin_folder = {json.dumps(str(settings.orthanc.plugin_folder))}
http_port = 0
dicom_port = 0
[intake]
quiet_s = {QUIET_S}
[results]
profiles = {json.dumps([profile.value for profile in settings.results.profiles])}
[worker]
device = {json.dumps(settings.worker.device)}
[models]
home = {json.dumps(str(settings.models_home.resolve()))}
folders = {json.dumps(folders)}
[[route]]
name = "demonstration"
models = {json.dumps(models)}
""",
        encoding="utf-8",
    )
    return path


def _wait(running: Supervisor, sent: Sent) -> list[dict[str, Any]]:
    """The study's jobs, once all have ended."""
    deadline = time.monotonic() + TIMEOUT_S
    found: list[dict[str, Any]] = []

    def ended() -> bool:
        nonlocal found
        if time.monotonic() > deadline:
            states = ", ".join(job["state"] for job in found) or "no job yet"
            logs = running.settings.log_folder
            raise CoreadError(f"expected a result within {TIMEOUT_S:g} s, found {states}; the logs are in {logs}")
        try:
            answer = httpx.get(
                f"{running.http_url}/coread/jobs", params={"study": sent.study_instance_uid}, trust_env=False
            )
        except httpx.TransportError:
            return False  # Orthanc is being restarted
        found = answer.json() if answer.is_success else []
        return bool(found) and all(job["state"] in ENDED for job in found)

    running.watch(ended, pause_s=POLL_S)
    return found


def _show(console: Console, archive: Archive, sent: Sent, job: dict[str, Any], output: Path) -> None:
    console.print(f"\nStudy [cyan]{job['study_instance_uid']}[/], {job['model']} {job['model_version']}: ", end="")
    if job["state"] != "done":
        console.print(f"[yellow]{job['state']}[/]: {job['reason']}", highlight=False)
        return
    console.print("[green]done[/]")
    console.print(_table(job["result"], sent.truth))
    seconds = ", ".join(f"{stage} {value:.2f}" for stage, value in job["result"]["seconds"].items())
    console.print(f"Seconds: {seconds}", highlight=False)
    for path in _fetch_results(archive, job, sent, output / "results" / job["study_instance_uid"]):
        console.print(f"  {path}", highlight=False, soft_wrap=True)


def _table(result: Mapping[str, Any], truth: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table("Finding", "Code")
    for heading in ("Value", "Unit", "Known truth", "Difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    for finding in result["findings"]:
        known = truth.get(finding["structure"], {})
        table.add_section()
        table.add_row(
            f"[bold]{finding['structure']}[/]{_at(finding)}",
            _code(finding["code"]),
            "" if finding["present"] else "absent",
        )
        for measurement in finding["measurements"]:
            value, expected = measurement["value"], known.get(measurement["name"])
            table.add_row(
                f"  {measurement['name']}",
                _code(measurement["code"]),
                f"{value:.1f}",
                escape(measurement["unit"]),
                "" if expected is None else f"{expected:.1f}",
                "" if expected is None else f"{100 * (value / expected - 1):+.1f} %",
            )
    for each in result["classes"]:
        table.add_row(f"{each['name']}: {each['value'][2]}", _code(each["finding"]), *_percent(each["probability"]))
    for each in result["numbers"]:
        table.add_row(each["name"], _code(each["code"]), f"{each['value']:.1f}", escape(each["unit"]))
    for each in result["marks"]:
        table.add_row(f"{each['name']}, slice {each['slice']}", _code(each["code"]), *_percent(each["probability"]))
    return table


def _percent(probability: float | None) -> tuple[str, str]:
    """Value and unit."""
    return ("", "") if probability is None else (f"{100 * probability:.1f}", "%")


def _at(finding: Mapping[str, Any]) -> str:
    """In which phase, where there were several."""
    return f" at {finding['phase']}" if "phase" in finding else ""


def _code(code: Sequence[str]) -> str:
    value, scheme = code[:2]
    return f"{scheme} {value}"


def _fetch_results(archive: Archive, job: dict[str, Any], sent: Sent, folder: Path) -> list[Path]:
    """Fetch the result objects from Orthanc, as any client would, and draw the picture from the segmentation."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for uid in job["result"]["sop_instance_uids"]:
        orthanc_id = archive.find_instance(uid)
        if orthanc_id is None:
            raise ArchiveUnavailable(f"expected the result {uid} in Orthanc, found none; see the worker's log")
        (file,) = archive.files([orthanc_id])
        path = folder / f"{uid}.dcm"
        path.write_bytes(file)
        dataset = pydicom.dcmread(path)
        path = path.rename(folder / f"{dataset.Modality}-{uid[-6:]}.dcm")
        paths.append(path)
        if dataset.Modality == "SEG" and dataset.SegmentationType == "BINARY":
            listed = {
                image.ReferencedSOPInstanceUID
                for series in dataset.ReferencedSeriesSequence
                for image in series.ReferencedInstanceSequence
            }
            images = [image for image in map(pydicom.dcmread, sent.files) if image.SOPInstanceUID in listed]
            title = f"{job['model']} {job['model_version']} (RESEARCH)"
            phase = f"-{uid[-6:]}" if "phases" in job["result"] else ""
            picture = folder / f"montage{phase}.png"
            picture.write_bytes(montage(images, dataset, title=title))
            paths.append(picture)
    return paths
