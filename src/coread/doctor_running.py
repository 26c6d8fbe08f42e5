"""``coread doctor``, of a Coread that runs: each neighbour is asked in the way in which Coread itself asks it."""

import shutil
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from coread import __version__
from coread.broker import make_app, try_broker
from coread.check import Check, Verdict
from coread.errors import ConfigurationError, CoreadError
from coread.ledger.desk import JobDesk
from coread.ledger.remote import open_desk
from coread.models.catalogue import installed_models
from coread.process_report import ProcessKind, ProcessSeen
from coread.settings import Settings, StowDestination
from coread.settings_sources import DicomwebSource

TIMEOUT_S = 10.0
"""A person waits for the answer."""
ECHO_TIMEOUT_S = 5
CLOCKS_DIFFER_S, CLOCKS_DISAGREE_S = 2.0, 30.0
"""By more than the first, times in histories look odd; by more than the second, leases of workers that write to
PostgreSQL themselves are given away or kept too long."""
RENEW_BEFORE = timedelta(days=30)
"""A certificate that ends sooner should be renewed."""

Names = Mapping[str, str]


def examine_running(settings: Settings, *, must_run: bool = False) -> list[Check]:
    """Look at what runs. If Orthanc does not answer, that is wrong if it ``must_run``, and else worth a look."""
    with httpx.Client(
        base_url=settings.orthanc_url, auth=settings.orthanc_login, timeout=TIMEOUT_S, trust_env=False
    ) as orthanc:
        up, checks = _orthanc(orthanc, must_run=must_run)
        checks += _certificates(settings)
        if not up:
            return checks
        looks: Sequence[Callable[[], Iterator[Check]]] = (
            lambda: _plugin(orthanc),
            lambda: _dicomweb(orthanc),
            lambda: _modalities(orthanc, settings),
            lambda: _broker(settings),
            lambda: _ledger(settings),
            lambda: _disk(settings),
        )
        return checks + list(chain.from_iterable(look() for look in looks))


# Orthanc and the plugin ----------------------------------------------------------------------------------------------


def _orthanc(orthanc: httpx.Client, *, must_run: bool) -> tuple[bool, list[Check]]:
    """Whether it answers and lets us in, and what was found."""
    expected = f"answers at {orthanc.base_url}"
    try:
        answer = orthanc.get("/system")
    except httpx.TransportError as error:
        verdict = Verdict.WRONG if must_run else Verdict.OPTIONAL
        remedy = "coread up, if it is to run; what runs is looked at then" if not must_run else "start it"
        found = f"no answer ({type(error).__name__})"
        return False, [Check(what="Orthanc runs", verdict=verdict, expected=expected, found=found, remedy=remedy)]
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        remedy = "set orthanc.password to what that Orthanc has, best as COREAD_ORTHANC__PASSWORD"
        found = f"{answer.status_code}: it does not let us in"
        return False, [Check(what="Orthanc runs", verdict=Verdict.WRONG, expected=expected, found=found, remedy=remedy)]
    version = answer.json().get("Version", "?") if answer.is_success else f"status {answer.status_code}"
    checks = [
        Check(
            what="Orthanc runs",
            verdict=Verdict.OK if answer.is_success else Verdict.WRONG,
            expected=expected,
            found=str(version),
            remedy="" if answer.is_success else "see Orthanc's log",
        )
    ]
    if dated := answer.headers.get("Date"):
        there = parsedate_to_datetime(dated)
        checks.append(_clock("Orthanc's machine", there, resolution_s=1.0))
    return answer.is_success, checks


def _plugin(orthanc: httpx.Client) -> Iterator[Check]:
    answer = _asked(orthanc, "GET", "/coread/health")
    if answer is None or answer.status_code == httpx.codes.NOT_FOUND:
        found = "no answer" if answer is None else "an Orthanc without the plugin"
        remedy = "see Orthanc's log; is another Orthanc at this port?"
        yield Check(what="plugin", verdict=Verdict.WRONG, expected=__version__, found=found, remedy=remedy)
        return
    said = answer.json()
    is_same = said.get("version") == __version__
    yield Check(
        what="plugin",
        verdict=Verdict.OK if is_same else Verdict.WRONG,
        expected=f"Coread {__version__}, as here",
        found=f"Coread {said.get('version')}, intake {said.get('intake')}",
        remedy="" if is_same else "bring plugin, workers and this command to the same version",
    )
    for problem in said.get("problems", ()):
        yield Check(
            what=f"health: {problem['what']}",
            verdict=Verdict.WRONG if problem["blocks"] else Verdict.OPTIONAL,
            expected="nothing the matter",
            found=problem["found"],
            remedy=problem["do"],
        )


def _dicomweb(orthanc: httpx.Client) -> Iterator[Check]:
    answer = _asked(orthanc, "GET", "/dicom-web/studies?limit=1", headers={"Accept": "application/dicom+json"})
    is_well = answer is not None and answer.is_success
    yield Check(
        what="DICOMweb",
        verdict=Verdict.OK if is_well else Verdict.WRONG,
        expected="answers a query for studies",
        found="answers" if is_well else f"status {answer.status_code}" if answer is not None else "no answer",
        remedy="" if is_well else "is Orthanc's DICOMweb plugin loaded under /dicom-web/?",
    )


def _modalities(orthanc: httpx.Client, settings: Settings) -> Iterator[Check]:
    """Each PACS and worklist, asked by Orthanc: it is whom they must know and let in."""
    for pacs in settings.pacs:
        yield _echo(orthanc, f"pacs {pacs.name}", pacs.name, finds=True)
    for worklist in settings.worklist:
        yield _echo(orthanc, f"worklist {worklist.name}", worklist.name, finds=False)


def _echo(orthanc: httpx.Client, what: str, name: str, *, finds: bool) -> Check:
    expected = "answers Orthanc's C-ECHO" + (" and C-FIND" if finds else "")
    body = {"CheckFind": finds, "Timeout": ECHO_TIMEOUT_S}
    answer = _asked(orthanc, "POST", f"/modalities/{name}/echo", json=body)
    if answer is not None and answer.is_success:
        return Check(what=what, verdict=Verdict.OK, expected=expected, found="answers")
    if answer is not None and answer.status_code == httpx.codes.NOT_FOUND:
        found, remedy = "Orthanc does not know it", "restart Coread, or add it to Orthanc's DicomModalities"
    else:
        found = "no answer, or a refusal"
        remedy = "is it up, are address and titles right, and does it know Orthanc's title as one that may query?"
    return Check(what=what, verdict=Verdict.WRONG, expected=expected, found=found, remedy=remedy)


def _asked(orthanc: httpx.Client, method: str, path: str, **more: object) -> httpx.Response | None:
    try:
        return orthanc.request(method, path, **more)  # type: ignore[arg-type]  # httpx's own keywords
    except httpx.TransportError:
        return None


# Broker, ledger, workers ---------------------------------------------------------------------------------------------


def _broker(settings: Settings) -> Iterator[Check]:
    what, expected = "broker", "takes a connection"
    try:
        try_broker(make_app(settings))
    except CoreadError as error:
        remedy = "start it, or correct broker.url; jobs start up to ten seconds later meanwhile"
        yield Check(what=what, verdict=Verdict.WRONG, expected=expected, found=str(error), remedy=remedy)
    else:
        where = "files in the data folder" if settings.broker.url is None else "takes a connection"
        yield Check(what=what, verdict=Verdict.OK, expected=expected, found=where)


def _ledger(settings: Settings) -> Iterator[Check]:
    desk = open_desk(settings.ledger_url, login=settings.orthanc_login)
    try:
        yield from _desk(desk, settings)
    except CoreadError as error:
        expected = "answers, has this version's tables, and can be written"
        remedy = "start its database or make room for it; its version is brought up to date when the plugin starts"
        yield Check(what="ledger", verdict=Verdict.WRONG, expected=expected, found=str(error), remedy=remedy)
    finally:
        desk.close()


def _desk(desk: JobDesk, settings: Settings) -> Iterator[Check]:
    desk.check_version()
    there = desk.check_writing()
    how = "by the plugin" if settings.ledger_url.startswith("http") else urlsplit(settings.ledger_url).scheme
    yield Check(what="ledger", verdict=Verdict.OK, expected="right version, can be written", found=how)
    yield _clock("the ledger", there, resolution_s=0.0)
    processes = desk.processes(at=datetime.now(UTC))
    yield from _workers([each for each in processes if each.report.kind is ProcessKind.WORKER], settings)
    if settings.destination:
        yield _one_alive(ProcessKind.COURIER, processes, since="there are destinations", verdict=Verdict.WRONG)
    if settings.source:
        yield _one_alive(ProcessKind.ARCHIVIST, processes, since="there are sources", verdict=Verdict.OPTIONAL)


def _one_alive(kind: ProcessKind, processes: Sequence[ProcessSeen], *, since: str, verdict: Verdict) -> Check:
    """Whether there is a process of a kind. ``verdict``: if there is none."""
    alive = sum(each.is_alive for each in processes if each.report.kind is kind)
    return Check(
        what=kind,
        verdict=Verdict.OK if alive else verdict,
        expected=f"one that lives, since {since}",
        found=f"{alive} alive",
        remedy="" if alive else f"coread {kind}, or see logs/{kind}.log",
    )


def _workers(workers: Sequence[ProcessSeen], settings: Settings) -> Iterator[Check]:
    alive = [worker for worker in workers if worker.is_alive]
    for queue in sorted(settings.queues):
        number = sum(queue in worker.report.queues for worker in alive)
        yield Check(
            what=f"workers of queue {queue}",
            verdict=Verdict.OK if number else Verdict.WRONG,
            expected="one or more, heard of within a minute",
            found=f"{number} alive",
            remedy="" if number else "coread worker, or see logs/worker.log; one that starts loads its models first",
        )
    approved = _digests(settings)
    for worker in workers:
        yield from _worker(worker, approved=approved)


def _digests(settings: Settings) -> Names | None:
    """Name → digest of the models as they are approved here; None if the models here cannot be used: that is said
    where this machine is looked at, with the reason.
    """
    try:
        return {name: model.digest() for name, model in installed_models(settings).items()}
    except ConfigurationError:
        return None


def _worker(worker: ProcessSeen, *, approved: Names | None) -> Iterator[Check]:
    report, what = worker.report, f"worker on {worker.report.host}"
    if not worker.is_alive:
        found = f"last heard of at {worker.seen_at:%Y-%m-%d %H:%M} UTC"
        remedy = "if it is to run, see its log; it is forgotten a day after"
        yield Check(what=what, verdict=Verdict.OPTIONAL, expected="lives, or said goodbye", found=found, remedy=remedy)
        return
    if report.version != __version__:
        remedy = "bring plugin and workers to the same version"
        yield Check(what=what, verdict=Verdict.WRONG, expected=__version__, found=report.version, remedy=remedy)
    if abs(worker.clock_offset_s) > CLOCKS_DIFFER_S:
        yield _offset(f"the {what}", worker.clock_offset_s)
    if approved is None:
        return
    for name, said in sorted(report.models.items()):
        is_approved = approved.get(name) == said.get("digest")
        yield Check(
            what=f"{what}: {name}",
            verdict=Verdict.OK if is_approved else Verdict.WRONG,
            expected=f"sha256 {approved[name][:16]}…, as approved here"
            if name in approved
            else "a model approved here",
            found=f"{said.get('version')}, sha256 {said.get('digest', '')[:16]}…, {said.get('device')}",
            remedy="" if is_approved else "install the same files on both machines, and start the worker again",
        )


# Clocks, disk, certificates ------------------------------------------------------------------------------------------


def _clock(whose: str, there: datetime, *, resolution_s: float) -> Check:
    ahead_s = (there - datetime.now(UTC)).total_seconds()
    return _offset(f"clock of {whose}", 0.0 if -resolution_s <= ahead_s <= 0 else ahead_s)


def _offset(what: str, ahead_s: float) -> Check:
    is_off = abs(ahead_s) > CLOCKS_DIFFER_S
    verdict = Verdict.WRONG if abs(ahead_s) > CLOCKS_DISAGREE_S else Verdict.OPTIONAL if is_off else Verdict.OK
    return Check(
        what=what,
        verdict=verdict,
        expected=f"within {CLOCKS_DIFFER_S:g} s of ours",
        found=f"{abs(ahead_s):.1f} s {'ahead' if ahead_s > 0 else 'behind'}",
        remedy="keep the machines' clocks together (NTP)" if is_off else "",
    )


def _disk(settings: Settings) -> Iterator[Check]:
    folder: Path = settings.data_folder
    if not folder.exists():
        return  # a worker's machine
    free_gb, needed_gb = shutil.disk_usage(folder).free / 1e9, settings.intake.min_free_gb
    verdict = Verdict.WRONG if free_gb < needed_gb else Verdict.OPTIONAL if free_gb < 10 * needed_gb else Verdict.OK
    remedies = {
        Verdict.WRONG: "make room: images are refused (A700H) until then",
        Verdict.OPTIONAL: "make room soon: below intake.min_free_gb images are refused",
    }
    yield Check(
        what="disk",
        verdict=verdict,
        expected=f"ten times intake.min_free_gb ({needed_gb:g} GB) free",
        found=f"{free_gb:.1f} GB free in {folder}",
        remedy=remedies.get(verdict, ""),
    )


def servers_with_tls(settings: Settings) -> dict[tuple[str, int], str]:
    """(host, port) → what it is of the servers that the settings name with TLS."""
    urls = {"orthanc.url": settings.orthanc_url, "ledger.url": settings.ledger_url}
    urls |= {f"destination {each.name}": each.url for each in settings.destination if isinstance(each, StowDestination)}
    urls |= {f"source {each.name}": each.url for each in settings.source if isinstance(each, DicomwebSource)}
    urls |= {f"webhook {each.name}": each.url for each in settings.webhook}
    parts = {what: urlsplit(url) for what, url in urls.items()}
    found = {(str(url.hostname), url.port or 443): what for what, url in parts.items() if url.scheme == "https"}
    if (audit := settings.audit.address) is not None and audit.scheme == "tls":
        found[audit.host, audit.port] = "audit.syslog"
    return found


def _certificates(settings: Settings) -> list[Check]:
    authorities = settings.audit.ca_file
    of_audit = ssl.create_default_context(cafile=None if authorities is None else str(authorities))
    return [
        certificate_check(what, host, port, of_audit if what == "audit.syslog" else httpx.create_ssl_context())
        for (host, port), what in servers_with_tls(settings).items()
    ]


def certificate_check(what: str, host: str, port: int, context: ssl.SSLContext) -> Check:
    """Whether a server's certificate is good, and for how long."""
    name, expected = f"certificate of {what}", f"trusted, for {RENEW_BEFORE.days} days or more"
    try:
        with (
            socket.create_connection((host, port), timeout=TIMEOUT_S) as connection,
            context.wrap_socket(connection, server_hostname=host) as secured,
        ):
            certificate = secured.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        remedy = "renew it, or have this machine trust who signed it"
        return Check(what=name, verdict=Verdict.WRONG, expected=expected, found=error.verify_message, remedy=remedy)
    except OSError as error:
        found = f"no TLS connection to {host}:{port} ({type(error).__name__})"
        return Check(
            what=name, verdict=Verdict.WRONG, expected=expected, found=found, remedy="is it up, and is that its port?"
        )
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
    is_soon = ends - datetime.now(UTC) < RENEW_BEFORE
    return Check(
        what=name,
        verdict=Verdict.OPTIONAL if is_soon else Verdict.OK,
        expected=expected,
        found=f"ends {ends:%Y-%m-%d}",
        remedy="renew it" if is_soon else "",
    )
