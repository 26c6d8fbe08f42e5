"""Settings that are each in order and do not go together: a pure function of them."""

import ipaddress
from collections.abc import Iterator
from itertools import chain
from urllib.parse import urlsplit

from coread.access import Role
from coread.check import Check, Verdict
from coread.job import ANY_QUEUE
from coread.settings import DimseDestination, Settings
from coread.settings_sources import DimseSource


def doubts(settings: Settings) -> list[Check]:
    """What a person should look at again; one check that says so if there is nothing."""
    of_coread = (_ports, _titles, _other_machine, _in_the_clear, _waits, _queues, _people, _room)
    looked_at = (*of_coread, _leads_nowhere, _sources)
    found = list(chain.from_iterable(look(settings) for look in looked_at))
    return found or [Check(what="settings", verdict=Verdict.OK, expected="they go together", found="they go together")]


def _doubt(what: str, expected: str, found: str, remedy: str, *, verdict: Verdict = Verdict.OPTIONAL) -> Check:
    return Check(what=f"settings: {what}", verdict=verdict, expected=expected, found=found, remedy=remedy)


def is_here(host: str) -> bool:
    """Whether a host's name or address is this machine's loopback interface."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _ports(settings: Settings) -> Iterator[Check]:
    ports = {
        "orthanc.http_port": settings.orthanc.http_port,
        "orthanc.dicom_port": settings.orthanc.dicom_port,
        "delivery.port": settings.delivery.port,
    }
    for number in sorted({port for port in ports.values() if port}):
        names = [name for name, port in ports.items() if port == number]
        if len(names) > 1:
            found = f"{' and '.join(names)} are both {number}"
            yield _doubt("ports", "each its own", found, "change one of them", verdict=Verdict.WRONG)


def _titles(settings: Settings) -> Iterator[Check]:
    if settings.destination and settings.delivery.aet == settings.orthanc.aet:
        remedy = "set delivery.aet to another title, and tell the destinations"
        found = f"both are {settings.delivery.aet}"
        expected = "delivery.aet is not orthanc.aet"
        yield _doubt("delivery.aet", expected, found, remedy, verdict=Verdict.WRONG)
    asked = [each for each in settings.destination if isinstance(each, DimseDestination) and each.storage_commitment]
    if asked and not settings.delivery.port:
        names = ", ".join(each.name for each in asked)
        yield _doubt(
            "delivery.port",
            "a port, where destinations are asked for storage commitment",
            f"0, and {names} may report in an association of its own",
            "set delivery.port, and tell the destinations; or storage_commitment = false for those that have none",
        )


def _other_machine(settings: Settings) -> Iterator[Check]:
    if is_here(_host(settings.orthanc_url)):
        return
    if settings.ledger_url.startswith("sqlite"):
        yield _doubt(
            "ledger.url",
            "the ledger of the plugin on the other machine",
            "a file of this machine's, which the plugin never sees",
            "set ledger.url to Orthanc's URL, or to the PostgreSQL database",
            verdict=Verdict.WRONG,
        )
    if settings.broker.url is None:
        yield _doubt(
            "broker.url",
            "a broker that both machines reach",
            "files of this machine's: workers find jobs only by looking every ten seconds",
            "set broker.url to a Redis or RabbitMQ",
        )


def _in_the_clear(settings: Settings) -> Iterator[Check]:
    urls = {"orthanc.url": settings.orthanc_url, "ledger.url": settings.ledger_url}
    for name, url in urls.items():
        if url.startswith("http://") and not is_here(_host(url)):
            yield _doubt(
                name, "https", "http to another machine: passwords and images can be read on the way", "use TLS"
            )
    others = {f"destination {each.name}": each for each in settings.destination}
    for what, each in (others | {f"source {each.name}": each for each in settings.source}).items():
        url = getattr(each, "url", "")
        if url.startswith("http://") and not is_here(_host(url)):
            yield _doubt(what, "https", "http to another machine", "use its https URL")
    yield from _told_in_the_clear(settings)
    broker = settings.broker.url.get_secret_value() if settings.broker.url else ""
    if broker.startswith(("redis://", "amqp://")) and not is_here(_host(broker)):
        remedy = "use rediss:// or amqps://, or a network of its own: who may write there can ring workers"
        yield _doubt("broker.url", "TLS", "none, to another machine", remedy)
    if settings.orthanc.remote_access:
        found = "orthanc.remote_access, and Orthanc cannot speak TLS"
        yield _doubt("orthanc.remote_access", "a proxy with TLS in front", found, "see docs/security.md")


def _told_in_the_clear(settings: Settings) -> Iterator[Check]:
    """Findings that leave for another machine such that they can be read, and changed, on the way."""
    for each in settings.webhook:
        if each.url.startswith("http://") and not is_here(_host(each.url)):
            yield _doubt(f"webhook {each.name}", "https", "http to another machine", "use its https URL")
    host = settings.notify.smtp_host
    if host is not None and settings.notify.smtp_security == "none" and not is_here(host):
        yield _doubt(
            "notify.smtp_security", "starttls or tls", "none, to another machine", "have the mail server take TLS"
        )


def _waits(settings: Settings) -> Iterator[Check]:
    intake = settings.intake
    if intake.quiet_s < intake.settle_s:
        found = f"{intake.quiet_s:g} s, less than intake.settle_s ({intake.settle_s:g} s)"
        yield _doubt("intake.quiet_s", "longer than intake.settle_s", found, "raise it, unless it is meant")
    if settings.pacs and intake.stalled_s < intake.quiet_s:
        found = f"{intake.stalled_s:g} s, less than intake.quiet_s ({intake.quiet_s:g} s)"
        yield _doubt("intake.stalled_s", "longer than intake.quiet_s", found, "raise it")


def _queues(settings: Settings) -> Iterator[Check]:
    routed = {model for route in settings.route for model in route.models}
    for model in sorted(set(settings.models.queues) - routed):
        yield _doubt("models.queues", "models of the routes", f"{model}, which no route names", "correct the name")
    used = {settings.models.queues.get(model, ANY_QUEUE) for model in routed}
    taken = set(settings.worker.queues or settings.queues)
    if unknown := sorted(taken - settings.queues):
        found = f"{', '.join(unknown)}, which no model is in"
        yield _doubt("worker.queues", "queues that there are", found, "correct the name", verdict=Verdict.WRONG)
    if idle := sorted(used - taken):
        found = f"the workers of these settings take nothing from {', '.join(idle)}"
        yield _doubt("worker.queues", "every queue has a worker", found, "unless a worker elsewhere does, add it")


def _people(settings: Settings) -> Iterator[Check]:
    for user, each in settings.access.users.items():
        if each.role.includes(Role.REVIEWER) and not each.name:
            remedy = f"set access.users.{user}.name, such as Doe^Anna"
            yield _doubt(f"access.users.{user}", "a name", "none: they cannot accept results", remedy)
    if settings.orthanc.password is not None and len(settings.orthanc.password.get_secret_value()) < 12:
        yield _doubt("orthanc.password", "12 characters or more", "a shorter one", "choose a longer one")


def _leads_nowhere(settings: Settings) -> Iterator[Check]:
    used = {name for route in settings.route for name in route.destinations}
    for destination in settings.destination:
        if destination.name not in used:
            remedy = "name it in a route's destinations"
            yield _doubt(f"destination {destination.name}", "a route leads there", "none does", remedy)


def _sources(settings: Settings) -> Iterator[Check]:
    """A source that answers a C-MOVE sends to our Orthanc as any other does."""
    if not settings.sender:
        return
    senders = {each.aet for each in settings.sender if "store" in each.may} | {each.aet for each in settings.pacs}
    for source in settings.source:
        if isinstance(source, DimseSource) and source.retrieve == "move" and source.aet not in senders:
            found = f"{source.aet}, from which Orthanc takes nothing"
            remedy = f'list it as [[sender]] with aet = "{source.aet}", or set retrieve = "get"'
            expected = "a title of one that may store, since there is a [[sender]]"
            yield _doubt(f"source {source.name}", expected, found, remedy, verdict=Verdict.WRONG)


def _room(settings: Settings) -> Iterator[Check]:
    if settings.intake.min_free_gb == 0:
        found = "0: a full disk is found out by an image that cannot be written"
        yield _doubt("intake.min_free_gb", "room for results and the ledger", found, "set it to 1 or more")
