"""The settings, read once from ``coread.toml`` and the environment into a frozen value.

An environment variable ``COREAD_SECTION__KEY`` overrides ``key`` of ``[section]``. Relative folders are taken from
the folder that holds the file.
"""

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator

from coread.audit.syslog import Credentials, SyslogAddress, parse_address
from coread.errors import ConfigurationError
from coread.job import ANY_QUEUE
from coread.objects import Profile
from coread.routes import Route as Route
from coread.routes import check_destinations
from coread.settings_access import AccessSettings
from coread.settings_alerts import AlertSettings, NotifySettings, WebhookSettings, check_notified
from coread.settings_dicom import DicomTlsSettings, SenderSettings, check_senders
from coread.settings_section import ORTHANC_USER as ORTHANC_USER
from coread.settings_section import ApplicationEntityTitle, DicomwebAddress, EntryName, Seconds
from coread.settings_section import Section as Section
from coread.settings_sources import DimseSource, Source, check_sources
from coread.settings_ups import UpsSettings
from coread.settings_worklist import WorklistSettings, check_worklists
from coread.viewer_links import ViewerLink

FILE_VARIABLE = "COREAD_CONFIG"
"""The environment variable that names the settings file for the parts that ``coread up`` starts."""
SECRETS_VARIABLE = "COREAD_SECRETS"
"""The environment variable that names a folder of files, each named like a variable and holding its value."""
ENVIRONMENT_PREFIX = "COREAD_"
ENVIRONMENT_SEPARATOR = "__"

Port = Annotated[int, Field(ge=0, le=65535)]


class OrthancSettings(Section):
    """``[orthanc]``: the Orthanc that ``coread up`` starts."""

    aet: ApplicationEntityTitle = "COREAD"
    """Application entity title of the DICOM server."""
    http_port: Port = 8042
    """Port of the REST interface and DICOMweb on the loopback interface; 0 chooses a free one."""
    dicom_port: Port = 4242
    """Port of the DICOM server; 0 chooses a free one."""
    executable: str = "Orthanc"
    """The Orthanc program, looked up on the PATH."""
    plugin_folder: Path = Path("/usr/share/orthanc/plugins")
    """Where Orthanc's Python and DICOMweb plugins are installed."""
    url: str | None = None
    """Where a worker on another machine finds Orthanc; by default on this one, at `http_port`."""
    remote_access: bool = False
    """Whether Orthanc answers HTTP from other machines; this needs a `password`, and TLS in front of it."""
    password: SecretStr | None = None
    """What the user `coread` must say to Orthanc's HTTP interface; by default nobody is asked."""
    index_url: SecretStr | None = None
    """PostgreSQL URL of Orthanc's index; by default SQLite files in the data folder."""
    check_called_aet: bool = False
    """Whether the DICOM server refuses who calls it by another title than `aet`."""
    check_sender_host: bool = False
    """Whether it refuses who calls under a known title from another address; needs `[[sender]]`."""
    restart_silent_s: Annotated[float, Field(ge=0)] = 120.0
    """An Orthanc that runs and answers no more for this long is killed and started again; 0: never."""

    @model_validator(mode="after")
    def _others_are_asked(self) -> Self:
        if self.remote_access and self.password is None:
            raise ValueError("remote_access needs a password: everybody could read and delete studies; set one")
        return self


class IntakeSettings(Section):
    """``[intake]``: when a study counts as complete."""

    settle_s: Seconds = 1.5
    """A study of which nothing seems to be missing is complete when no instance has arrived for this long."""
    quiet_s: Seconds = 60.0
    """Any study is complete when no instance has arrived for this long, unless its PACS says that there are more."""
    stalled_s: Seconds = 600.0
    """A study of which its PACS says that there is more is stalled when no instance has arrived for this long."""
    poll_s: Seconds = 0.5
    """How often Orthanc's change log is read."""
    min_free_gb: Annotated[float, Field(ge=0)] = 1.0
    """With less room than this on the data folder's disk, a C-STORE is answered A700H (out of resources): the sender
    keeps the images and sends them again."""


class PacsSettings(Section):
    """``[[pacs]]``: a PACS that sends studies and can be asked what belongs to them (C-FIND)."""

    name: EntryName
    """What Orthanc calls it."""
    aet: ApplicationEntityTitle
    """Its application entity title, under which it sends and is asked."""
    host: Annotated[str, Field(min_length=1)]
    """Its host name or IP address."""
    port: Annotated[int, Field(ge=1, le=65535)] = 104
    """The port of its DICOM server."""
    tls: bool = False
    """Whether it speaks TLS, with the certificates of `[dicom_tls]`."""


class LedgerSettings(Section):
    """``[ledger]``: the database of studies seen and jobs."""

    url: SecretStr | None = None
    """SQLAlchemy URL; by default a SQLite file in the data folder. For a worker on another machine, the http or https
    URL of the Orthanc whose plugin keeps the ledger."""


class BrokerSettings(Section):
    """``[broker]``: the Celery broker."""

    url: SecretStr | None = None
    """Celery broker URL; by default files in the data folder."""


class WorkerSettings(Section):
    """``[worker]``: how jobs are done."""

    lease_s: Seconds = 60.0
    """A job whose worker has not been heard of for this long is given to another one."""
    attempts: Annotated[int, Field(ge=1)] = 10
    """How often a worker may fall silent over a job before the job is `failed`."""
    processes: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """How many workers `coread up` starts; `auto` is one for each GPU, or one; 0 leaves them to other machines."""
    queues: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The queues that workers take jobs from; by default all."""
    time_limit_s: Seconds = 3600.0
    """A job that takes longer than this is given up, and its worker starts anew."""
    retry_delay_s: Seconds = 5.0
    """The wait before the second attempt; it doubles with each further one, up to five minutes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models run; `auto` takes the GPU if there is one."""
    model_memory_gb: Annotated[float, Field(gt=0)] | None = None
    """How much memory (10⁹ bytes) models may take up between two studies; by default a quarter of the GPU's, or of the
    machine's or container's."""
    overlap: bool = True
    """Whether a study is fetched, and another one stored, while one is in the model."""


class ResultSettings(Section):
    """``[results]``: what is written into a study."""

    profiles: Annotated[tuple[Profile, ...], Field(min_length=1)] = (Profile.OHIF,)
    """What the destinations of results can show: `ohif`, `slicer`, `legacy`. Everything that one of them wants is
    written; what that is, a model's package may say."""
    say_not_evaluated: bool = True
    """Whether a series of a model's kind that cannot be evaluated gets a report that says so, and why."""

    @field_validator("profiles", mode="before")
    @classmethod
    def _may_be_a_list_in_words(cls, profiles: object) -> object:
        return [word.strip() for word in profiles.split(",")] if isinstance(profiles, str) else profiles


class ModelSettings(Section):
    """``[models]``: where models are found, and which may run."""

    home: Path | None = None
    """Where added models live, and the list of those that are approved; by default `models` in the data folder."""
    folders: tuple[Path, ...] = ()
    """Folders with further model packages, beside those that Coread ships and those that `coread models add` took."""
    queues: dict[str, Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,32}$")]] = Field(default_factory=dict)
    """Model → the queue of its jobs; by default `gpu`, which a worker without a GPU takes from as well."""
    allowed: frozenset[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] | None = None
    """Digests (SHA-256) of the models that may run, whoever has approved them and whether or not Coread ships them; by
    default every model that it ships or that was approved."""


class ArchivistSettings(Section):
    """``[archivist]``: how archive runs deal with studies that do not come."""

    attempts: Annotated[int, Field(ge=1)] = 6
    """How often a study is retrieved that did not come whole, before it has failed."""
    retry_delay_s: Seconds = 30.0
    """The wait after the first attempt; each further one is four times as long, up to six hours."""


class AuditSettings(Section):
    """``[audit]``: where the audit trail goes, besides the ledger."""

    syslog: str | None = None
    """`udp://HOST:514`, `tcp://HOST:514`, `tls://HOST:6514` or `file:/PATH`; by default audit messages are not sent."""
    source: str | None = None
    """Our name in the messages (AuditSourceID); by default Orthanc's AE title."""
    site: str | None = None
    """The hospital's or department's name in the messages (AuditEnterpriseSiteID)."""
    ca_file: Path | None = None
    """Certificates that sign the TLS server's, PEM; by default the system's."""
    certificate_file: Path | None = None
    """Our own certificate, PEM, for a TLS server that asks for one."""
    key_file: Path | None = None
    """The key of `certificate_file`, if it is not in the same file."""

    @field_validator("syslog")
    @classmethod
    def _is_an_address(cls, syslog: str | None) -> str | None:
        if syslog is not None:
            parse_address(syslog)
        return syslog

    @property
    def address(self) -> SyslogAddress | None:
        """Where messages go; None if they are not sent."""
        return parse_address(self.syslog) if self.syslog else None

    def credentials(self) -> Credentials:
        """What a TLS connection is made with."""
        return Credentials(ca_file=self.ca_file, certificate_file=self.certificate_file, key_file=self.key_file)

    def based_on(self, base: Path) -> Self:
        """The same, with relative files taken from a folder."""
        named = {name: getattr(self, name) for name in ("ca_file", "certificate_file", "key_file")}
        return self.model_copy(update={name: file and base / file.expanduser() for name, file in named.items()})


class DimseDestination(Section):
    """``[[destination]]`` with ``protocol = "dimse"``: results go there by C-STORE."""

    name: EntryName
    """The destination's name, for routes and people."""
    protocol: Literal["dimse"]
    """C-STORE, with storage commitment."""
    host: Annotated[str, Field(min_length=1)]
    """Its address."""
    port: Annotated[int, Field(ge=1, le=65535)]
    """The port of its DICOM server."""
    aet: ApplicationEntityTitle
    """Its application entity title."""
    tls: bool = False
    """Whether it speaks TLS, with the certificates of `[dicom_tls]`."""
    calling_aet: ApplicationEntityTitle | None = None
    """The title by which we call it; by default `delivery.aet`."""
    storage_commitment: bool = True
    """Whether it is asked to say that it keeps what it took; without this, its answer to the C-STORE is its word."""


class StowDestination(DicomwebAddress):
    """``[[destination]]`` with ``protocol = "stow"``: results go there by STOW-RS."""

    name: EntryName
    """The destination's name, for routes and people."""
    protocol: Literal["stow"]
    """STOW-RS."""


Destination = Annotated[DimseDestination | StowDestination, Field(discriminator="protocol")]


class DeliverySettings(Section):
    """``[delivery]``: how results get to their destinations."""

    aet: ApplicationEntityTitle = "COREAD-OUT"
    """Our application entity title when we deliver. It is not Orthanc's: a destination answers to the address that it
    knows for it."""
    port: Port = 0
    """Where destinations report what they keep (N-EVENT-REPORT of storage commitment), when they do not report it in
    the association in which they were asked; 0: nowhere."""
    timeout_s: Seconds = 60.0
    """How long a destination may take to answer."""
    commitment_timeout_s: Seconds = 600.0
    """How long a destination may take to say that it keeps what it took; then it is asked again."""
    retry_delay_s: Seconds = 5.0
    """The wait before the second attempt; it doubles with each further one, up to five minutes."""
    lease_s: Seconds = 60.0
    """A delivery whose courier has not been heard of for this long is taken up by another one."""


class ReviewSettings(Section):
    """``[review]``: what becomes of a person's word about a result."""

    stop_delivery_on_reject: bool = True
    """Whether a rejection withdraws what was not delivered of the result yet; what a destination has stays there, and
    gets the rejection note."""
    organization: Annotated[str, Field(pattern=r"^[^\\\x00-\x1f]{1,64}$")] = "not stated"
    """The readers' organization, for verified reports (VerifyingOrganization)."""


class Settings(Section):
    """Everything that can be set. Every key has a default, so that a missing file is a valid one."""

    data_folder: Path = Path("coread-data")
    """Where Orthanc's storage, the ledger, the broker's files and the logs live."""
    viewer_folder: Path | None = None
    """Where the OHIF viewer is installed; by default `viewer` in the data folder."""
    orthanc: OrthancSettings = OrthancSettings()
    access: AccessSettings = AccessSettings()
    intake: IntakeSettings = IntakeSettings()
    ledger: LedgerSettings = LedgerSettings()
    broker: BrokerSettings = BrokerSettings()
    worker: WorkerSettings = WorkerSettings()
    models: ModelSettings = ModelSettings()
    results: ResultSettings = ResultSettings()
    pacs: tuple[PacsSettings, ...] = ()
    sender: tuple[SenderSettings, ...] = ()
    dicom_tls: DicomTlsSettings = DicomTlsSettings()
    delivery: DeliverySettings = DeliverySettings()
    destination: tuple[Destination, ...] = ()
    source: tuple[Source, ...] = ()
    archivist: ArchivistSettings = ArchivistSettings()
    audit: AuditSettings = AuditSettings()
    alert: tuple[AlertSettings, ...] = ()
    webhook: tuple[WebhookSettings, ...] = ()
    notify: NotifySettings = NotifySettings()
    review: ReviewSettings = ReviewSettings()
    viewer: tuple[ViewerLink, ...] = ()
    ups: UpsSettings = UpsSettings()
    worklist: tuple[WorklistSettings, ...] = ()
    route: tuple[Route, ...] = (Route(name="everything", models=("left_ventricle_sax",)),)

    @field_validator("route")
    @classmethod
    def _names_differ(cls, routes: tuple[Route, ...]) -> tuple[Route, ...]:
        names = [route.name for route in routes]
        if len(set(names)) != len(names):
            raise ValueError("two routes have the same name")
        return routes

    @field_validator("pacs")
    @classmethod
    def _pacs_differ(cls, pacs: tuple[PacsSettings, ...]) -> tuple[PacsSettings, ...]:
        if len({one.name for one in pacs}) != len(pacs) or len({one.aet for one in pacs}) != len(pacs):
            raise ValueError("two PACS have the same name or the same aet")
        return pacs

    @field_validator("destination")
    @classmethod
    def _destinations_differ(cls, destinations: tuple[Destination, ...]) -> tuple[Destination, ...]:
        # Names that the environment cannot tell apart would share a password.
        names = [_in_environment(destination.name) for destination in destinations]
        if len(set(names)) != len(names):
            raise ValueError("two destinations have the same name, or differ only in case, - and _")
        return destinations

    @field_validator("source")
    @classmethod
    def _sources_differ(cls, sources: tuple[Source, ...]) -> tuple[Source, ...]:
        check_sources(sources, as_one=_in_environment)
        return sources

    @model_validator(mode="after")
    def _routes_lead_somewhere(self) -> Self:
        check_destinations(self.route, {destination.name for destination in self.destination})
        return self

    @model_validator(mode="after")
    def _alerts_are_heard(self) -> Self:
        if len({_in_environment(webhook.name) for webhook in self.webhook}) != len(self.webhook):
            raise ValueError("two webhooks have the same name, or differ only in case, - and _")
        check_notified(self.alert, self.webhook, mails=self.notify.smtp_host is not None)
        return self

    @model_validator(mode="after")
    def _who_has_a_role_is_asked(self) -> Self:
        if self.access.uses_roles and self.orthanc.password is None:
            raise ValueError(
                "access tells people apart, and orthanc.password is not set: Orthanc would ask nobody; set it"
            )
        return self

    @model_validator(mode="after")
    def _worklists_can_be_asked(self) -> Self:
        check_worklists(self.worklist, pacs={pacs.name for pacs in self.pacs}, routes=self.route)
        return self

    @model_validator(mode="after")
    def _dicom_is_spoken_with_known_ones(self) -> Self:
        others: list[SenderSettings | PacsSettings | WorklistSettings] = [*self.sender, *self.pacs, *self.worklist]
        check_senders(
            [(each.name, each.aet, each.host) for each in others],
            check_host=self.orthanc.check_sender_host,
            has_senders=bool(self.sender),
        )
        dimse = [each for each in self.destination if isinstance(each, DimseDestination)]
        sources = [each for each in self.source if isinstance(each, DimseSource)]
        wanting = [each.name for each in (*others, *dimse, *sources) if each.tls]
        if wanting and not self.dicom_tls.is_set:
            raise ValueError(f"{wanting[0]} wants TLS; expected dicom_tls.certificate_file, key_file and ca_file")
        return self

    @property
    def ledger_url(self) -> str:
        """The ledger's SQLAlchemy URL."""
        url = self.ledger.url
        return url.get_secret_value() if url else f"sqlite:///{self.data_folder / 'ledger.sqlite'}"

    @property
    def orthanc_url(self) -> str:
        """Where Orthanc answers HTTP."""
        return self.orthanc.url or f"http://127.0.0.1:{self.orthanc.http_port}"

    @property
    def orthanc_login(self) -> tuple[str, str] | None:
        """User and password of Orthanc's HTTP interface, if it asks for them."""
        password = self.orthanc.password
        return (ORTHANC_USER, password.get_secret_value()) if password else None

    @property
    def queues(self) -> frozenset[str]:
        """Every queue that there is."""
        return frozenset({ANY_QUEUE, *self.models.queues.values()})

    @property
    def models_home(self) -> Path:
        """Where added models live, and the list of those that are approved."""
        return self.models.home or self.data_folder / "models"

    @property
    def viewer_home(self) -> Path:
        """Where the OHIF viewer is installed."""
        return self.viewer_folder or self.data_folder / "viewer"

    @property
    def prepared_home(self) -> Path:
        """Where `coread models prepare` writes what it found out."""
        return self.data_folder / "prepared"

    @property
    def log_folder(self) -> Path:
        """Where each process writes its log."""
        return self.data_folder / "logs"


def settings_file(file: Path | None = None) -> Path:
    """Where the settings are read from: ``file``, else ``$COREAD_CONFIG``, else ``coread.toml`` here."""
    return file or Path(os.environ.get(FILE_VARIABLE, "coread.toml"))


def load_settings(file: Path | None = None) -> Settings:
    """The settings of ``file``, else of ``$COREAD_CONFIG``, else of ``coread.toml`` here if it exists, else defaults.

    Raises ConfigurationError, which names the file and each key that is wrong.
    """
    path = settings_file(file)
    values: dict[str, Any] = {}
    if path.exists() or file is not None or FILE_VARIABLE in os.environ:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigurationError(f"the settings file {path} does not exist; name one that does") from error
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"the settings file {path} cannot be read: {error}") from error
        except (ValueError, RecursionError) as error:  # TOMLDecodeError, or a number of thousands of digits
            raise ConfigurationError(f"{path} is not valid TOML: {error}; correct that line") from error
    _override_from_environment(values)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False)
        )
        raise ConfigurationError(f"{path}: {problems}; see docs/settings.md") from error
    except RecursionError as error:
        raise ConfigurationError(f"{path}: tables are nested too deeply; see docs/settings.md") from error
    base = path.resolve().parent
    return settings.model_copy(
        update={
            "data_folder": base / settings.data_folder.expanduser(),
            "viewer_folder": base / settings.viewer_folder.expanduser() if settings.viewer_folder else None,
            "audit": settings.audit.based_on(base),
            "dicom_tls": settings.dicom_tls.based_on(base),
            "models": settings.models.model_copy(
                update={
                    "home": base / settings.models.home.expanduser() if settings.models.home else None,
                    "folders": tuple(base / folder.expanduser() for folder in settings.models.folders),
                }
            ),
        }
    )


def secrets() -> dict[str, str]:
    """What the files in ``$COREAD_SECRETS`` set, as container runtimes hand them out, without a line feed at the end.
    Other files may lie there, too.

    Raises ConfigurationError if the folder or such a file cannot be read, or the environment sets the same.
    """
    named = os.environ.get(SECRETS_VARIABLE)
    if named is None:
        return {}
    try:
        files = sorted(each for each in Path(named).iterdir() if _is_setting(each.name))
        found = {file.name: file.read_text(encoding="utf-8").removesuffix("\n") for file in files}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{SECRETS_VARIABLE}: a secret in {named} cannot be read: {error}") from error
    if twice := sorted(set(found) & set(os.environ)):
        raise ConfigurationError(
            f"{twice[0]} is set in the environment and by a file in {named}; take one of them away"
        )
    return found


def _is_setting(name: str) -> bool:
    return name.startswith(ENVIRONMENT_PREFIX) and ENVIRONMENT_SEPARATOR in name


def _override_from_environment(values: dict[str, Any]) -> None:
    for name, text in {**secrets(), **os.environ}.items():
        section, separator, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition(ENVIRONMENT_SEPARATOR)
        if name.startswith(ENVIRONMENT_PREFIX) and separator and section in ("destination", "source", "webhook"):
            _override_entry(values, section, key, text, variable=name)
        elif name.startswith(ENVIRONMENT_PREFIX) and separator and section == "access" and key.startswith("users__"):
            _override_user(values, key.removeprefix("users__"), text, variable=name)
        elif name.startswith(ENVIRONMENT_PREFIX) and separator:
            table = values.setdefault(section, {})
            if not isinstance(table, dict):
                raise ConfigurationError(f"{name} is set, but {section} is not a section of the settings")
            table[key] = text


def _override_entry(values: dict[str, Any], kind: str, key: str, text: str, *, variable: str) -> None:
    """``COREAD_DESTINATION__NAME__KEY``: a key of a destination of the file, and so of its sources and webhooks."""
    wanted, _, key = key.partition(ENVIRONMENT_SEPARATOR)
    entries = values.get(kind, [])
    named = [
        each
        for each in (entries if isinstance(entries, list) else [])
        if isinstance(each, dict) and _in_environment(str(each.get("name", ""))) == wanted
    ]
    if not named or not key:
        raise ConfigurationError(
            f"{variable} is set, but no {kind} of the settings has that name; expected "
            f"COREAD_{kind.upper()}__NAME__KEY with NAME in capitals and _ for -"
        )
    for each in named:
        each[key] = text


def _override_user(values: dict[str, Any], key: str, text: str, *, variable: str) -> None:
    """``COREAD_ACCESS__USERS__NAME__KEY``: a key of one of the people of the file."""
    wanted, _, key = key.partition(ENVIRONMENT_SEPARATOR)
    access = values.get("access", {})
    users = access.get("users", {}) if isinstance(access, dict) else {}
    named = [each for name, each in users.items() if _in_environment(name) == wanted and isinstance(each, dict)]
    if len(named) != 1 or not key:
        raise ConfigurationError(
            f"{variable} is set, but not exactly one user of the settings has that name; expected "
            "COREAD_ACCESS__USERS__NAME__KEY with NAME in capitals and _ for what is no letter or digit"
        )
    named[0][key] = text


def _in_environment(name: str) -> str:
    """A destination's or user's name as it stands in the environment, in small letters."""
    return re.sub(r"[^a-z0-9]", "_", name.lower())
