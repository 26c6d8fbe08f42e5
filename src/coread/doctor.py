"""``coread doctor``, of this machine: what is missing on it, and how to get it. What runs: `coread.doctor_running`."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator

from coread import ohif
from coread.check import Check, Verdict
from coread.errors import ConfigurationError, CoreadError
from coread.models.catalogue import InstalledModel, State, check_routes, installed_models, packages
from coread.orthanc_process import find_plugin, plugins
from coread.routes import check_keywords
from coread.settings import Settings
from coread.settings_doubts import doubts
from coread.workers.route_facts import pydicom_dictionary

MINIMUM_FREE_GB = 2.0
VALIDATORS = {"dciodvfy": "dicom3tools", "dsrdump": "dcmtk"}
"""Programs that only the tests need, and Debian's packages that hold them."""


def examine(settings: Settings) -> list[Check]:
    """Look at everything that ``coread up`` and the models need."""
    of_machine = (_python, _orthanc, _plugins, _libraries, _models, _folder, _ports)
    checks = (*of_machine, _destinations, _sources, _viewer, _validators)
    return [*(check for examine_one in checks for check in examine_one(settings)), *doubts(settings)]


def _python(_settings: Settings) -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    system = _output("/usr/bin/python3", "--version").removeprefix("Python ")
    same = version.split(".")[:2] == system.split(".")[:2]
    yield Check(
        what="Python",
        verdict=Verdict.OK if same else Verdict.MISSING,
        found=f"{version}; the system's, which Orthanc embeds, is {system or 'not found'}",
        remedy="" if same else "make the virtual environment with /usr/bin/python3",
    )


def _orthanc(settings: Settings) -> Iterator[Check]:
    path = shutil.which(settings.orthanc.executable)
    if path is None:
        yield Check(what="Orthanc", verdict=Verdict.MISSING, found="not on the PATH", remedy="apt-get install orthanc")
    else:
        first_line = _output(path, "--version").partition("\n")[0]
        yield Check(what="Orthanc", verdict=Verdict.OK, found=first_line or path)


def _plugins(settings: Settings) -> Iterator[Check]:
    for name in plugins(settings):
        try:
            yield Check(what=name, verdict=Verdict.OK, found=str(find_plugin(settings, name)))
        except ConfigurationError:
            yield Check(
                what=name,
                verdict=Verdict.MISSING,
                found=f"not in {settings.orthanc.plugin_folder}",
                remedy="apt-get install orthanc-python orthanc-dicomweb",
            )


def _libraries(_settings: Settings) -> Iterator[Check]:
    for name in ("torch", "monai", "highdicom", "pynetdicom", "celery"):
        present = importlib.util.find_spec(name) is not None
        yield Check(
            what=name,
            verdict=Verdict.OK if present else Verdict.MISSING,
            found="installed" if present else "not installed",
            remedy="" if present else "run scripts/setup demo in the checkout",
        )


def _models(settings: Settings) -> Iterator[Check]:
    try:
        for package in packages(settings):
            if package.state is State.NOT_ALLOWED:
                remedy = 'nothing, if it is not to run here; docs/models.md, "Only certain models"'
                yield Check(what=f"model {package.name}", verdict=Verdict.OPTIONAL, found=package.reason, remedy=remedy)
        models = installed_models(settings)
        check_routes(settings, models)
        check_keywords(settings.route, pydicom_dictionary)
    except ConfigurationError as error:
        yield Check(
            what="models", verdict=Verdict.MISSING, found=str(error), remedy="correct the settings or the package"
        )
    else:
        for model in models.values():
            yield _model(model)


def _model(model: InstalledModel) -> Check:
    what = f"model {model.name}"
    try:
        return Check(what=what, verdict=Verdict.OK, found=f"{model.version}, sha256 {model.digest()[:16]}…")
    except ConfigurationError as error:
        remedy = f"coread models show {model.name}"
        return Check(what=what, verdict=Verdict.MISSING, found=str(error), remedy=remedy)


def _folder(settings: Settings) -> Iterator[Check]:
    folder = settings.data_folder
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    writable = os.access(existing, os.W_OK)
    free_gb = shutil.disk_usage(existing).free / 1e9
    enough = free_gb >= MINIMUM_FREE_GB
    yield Check(
        what="data folder",
        verdict=Verdict.OK if writable and enough else Verdict.MISSING,
        found=f"{folder}: {'writable' if writable else 'not writable'}, {free_gb:.0f} GB free",
        remedy=""
        if writable and enough
        else f"set data_folder to a folder of yours with {MINIMUM_FREE_GB:g} GB or more",
    )


def _ports(settings: Settings) -> Iterator[Check]:
    for key, port in (("http_port", settings.orthanc.http_port), ("dicom_port", settings.orthanc.dicom_port)):
        with socket.socket() as probe:
            taken = bool(port) and probe.connect_ex(("127.0.0.1", port)) == 0
        yield Check(
            what=f"port {port or 'chosen at start'}",
            verdict=Verdict.OPTIONAL if taken else Verdict.OK,
            found="in use: Coread runs already, or another program has it" if taken else "free",
            remedy=f"stop the other program, or set orthanc.{key}" if taken else "",
        )


def _destinations(settings: Settings) -> Iterator[Check]:
    if not settings.destination:
        return
    from coread.courier.probe import probe  # pynetdicom may be what is missing

    for destination in settings.destination:
        what = f"destination {destination.name}"
        try:
            probe(destination, settings.delivery, tls=settings.dicom_tls)
        except CoreadError as error:
            remedy = "results wait until it answers; see docs/delivery.md"
            yield Check(what=what, verdict=Verdict.OPTIONAL, found=str(error), remedy=remedy)
        else:
            yield Check(what=what, verdict=Verdict.OK, found="answers")


def _sources(settings: Settings) -> Iterator[Check]:
    if not settings.source:
        return
    from coread.retrieval.probe import probe_source  # pynetdicom may be what is missing

    for source in settings.source:
        what = f"source {source.name}"
        try:
            probe_source(source, settings)
        except CoreadError as error:
            remedy = "archive runs wait until it answers; see docs/archives.md"
            yield Check(what=what, verdict=Verdict.OPTIONAL, found=str(error), remedy=remedy)
        else:
            yield Check(what=what, verdict=Verdict.OK, found="answers a query, and offers retrieval")


def _viewer(settings: Settings) -> Iterator[Check]:
    is_there = ohif.is_up_to_date(settings.viewer_home)
    yield Check(
        what="viewer",
        verdict=Verdict.OK if is_there else Verdict.OPTIONAL,
        found=f"OHIF {ohif.VERSION} {'is' if is_there else 'is not'} in {settings.viewer_home}",
        remedy="" if is_there else "coread viewer install, unless studies are opened in another viewer",
    )


def _validators(_settings: Settings) -> Iterator[Check]:
    for program, package in VALIDATORS.items():
        path = shutil.which(program)
        yield Check(
            what=program,
            verdict=Verdict.OK if path else Verdict.OPTIONAL,
            found=path or "not installed; only the tests need it",
            remedy="" if path else f"apt-get install {package}",
        )


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
    except OSError:
        return ""
