"""The settings, read once from ``coread.toml`` and the environment into a frozen value.

An environment variable ``COREAD_SECTION__KEY`` overrides ``key`` of ``[section]``. Relative folders are taken from
the folder that holds the file.
"""

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from coread.errors import ConfigurationError
from coread.job import Priority
from coread.objects import Profile

FILE_VARIABLE = "COREAD_CONFIG"
"""The environment variable that names the settings file for the parts that ``coread up`` starts."""
ENVIRONMENT_PREFIX = "COREAD_"
ENVIRONMENT_SEPARATOR = "__"

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]


ROUTABLE = frozenset(
    {
        "AccessionNumber",
        "BodyPartExamined",
        "ImageOrientationPatient",
        "InstitutionName",
        "Manufacturer",
        "Modality",
        "PerformedProcedureStepDescription",
        "ProtocolName",
        "RequestedProcedureDescription",
        "SequenceName",
        "SeriesDescription",
        "SeriesNumber",
        "StationName",
        "StudyDescription",
        "StudyID",
    }
)
"""Keywords that a route can match: what Orthanc keeps at hand for a study and its series, less personal data."""


class Section(BaseModel):
    """A table of the settings file: frozen, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class OrthancSettings(Section):
    """``[orthanc]``: the Orthanc that ``coread up`` starts."""

    aet: Annotated[str, Field(pattern=r"^[\x21-\x5b\x5d-\x7e ]{1,16}$")] = "COREAD"
    """Application entity title of the DICOM server."""
    http_port: Port = 8042
    """Port of the REST interface and DICOMweb on the loopback interface; 0 chooses a free one."""
    dicom_port: Port = 4242
    """Port of the DICOM server; 0 chooses a free one."""
    executable: str = "Orthanc"
    """The Orthanc program, looked up on the PATH."""
    plugin_folder: Path = Path("/usr/share/orthanc/plugins")
    """Where Orthanc's Python and DICOMweb plugins are installed."""


class IntakeSettings(Section):
    """``[intake]``: when a study counts as complete."""

    quiet_s: Seconds = 10.0
    """A study is complete when no instance of it has arrived for this long."""
    poll_s: Seconds = 0.5
    """How often Orthanc's change log is read."""


class LedgerSettings(Section):
    """``[ledger]``: the database of studies seen and jobs."""

    url: str | None = None
    """SQLAlchemy URL; by default a SQLite file in the data folder."""


class BrokerSettings(Section):
    """``[broker]``: the Celery broker."""

    url: SecretStr | None = None
    """Celery broker URL; by default files in the data folder."""


class WorkerSettings(Section):
    """``[worker]``: how jobs are done."""

    lease_s: Seconds = 60.0
    """A job whose worker has not been heard of for this long is given to another one."""
    attempts: Annotated[int, Field(ge=1)] = 10
    """How often a job is tried before it is `failed`."""
    retry_delay_s: Seconds = 5.0
    """The wait before the second attempt; it doubles with each further one, up to five minutes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models run; `auto` takes the GPU if there is one."""


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
    """``[models]``: where models are found."""

    home: Path | None = None
    """Where added models live, and the list of those that are approved; by default `models` in the data folder."""
    folders: tuple[Path, ...] = ()
    """Folders with further model packages, beside those that Coread ships and those that `coread models add` took."""


class Route(Section):
    """``[[route]]``: which models read a study."""

    name: str
    """The route's name, for people."""
    match: dict[str, str | list[str]] = Field(default_factory=dict)
    """DICOM keywords of a series, each with a pattern or a list of patterns (`*` and `?`, case ignored). A route
    matches a study if one of its series matches every keyword; no keyword matches every study."""
    models: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of the models that read the study."""
    priority: Priority = Priority.ROUTINE
    """`stat`, `routine` or `batch`."""

    @field_validator("match")
    @classmethod
    def _can_be_matched(cls, match: dict[str, str | list[str]]) -> dict[str, str | list[str]]:
        for keyword in match:
            if keyword not in ROUTABLE:
                raise ValueError(f"{keyword} cannot be matched; expected one of {', '.join(sorted(ROUTABLE))}")
        return match


class Settings(Section):
    """Everything that can be set. Every key has a default, so that a missing file is a valid one."""

    data_folder: Path = Path("coread-data")
    """Where Orthanc's storage, the ledger, the broker's files and the logs live."""
    orthanc: OrthancSettings = OrthancSettings()
    intake: IntakeSettings = IntakeSettings()
    ledger: LedgerSettings = LedgerSettings()
    broker: BrokerSettings = BrokerSettings()
    worker: WorkerSettings = WorkerSettings()
    models: ModelSettings = ModelSettings()
    results: ResultSettings = ResultSettings()
    route: tuple[Route, ...] = (Route(name="everything", models=("left_ventricle_sax",)),)

    @field_validator("route")
    @classmethod
    def _names_differ(cls, routes: tuple[Route, ...]) -> tuple[Route, ...]:
        names = [route.name for route in routes]
        if len(set(names)) != len(names):
            raise ValueError("two routes have the same name")
        return routes

    @property
    def ledger_url(self) -> str:
        """The ledger's SQLAlchemy URL."""
        return self.ledger.url or f"sqlite:///{self.data_folder / 'ledger.sqlite'}"

    @property
    def models_home(self) -> Path:
        """Where added models live, and the list of those that are approved."""
        return self.models.home or self.data_folder / "models"

    @property
    def log_folder(self) -> Path:
        """Where each process writes its log."""
        return self.data_folder / "logs"


def load_settings(file: Path | None = None) -> Settings:
    """The settings of ``file``, else of ``$COREAD_CONFIG``, else of ``coread.toml`` here if it exists, else defaults.

    Raises ConfigurationError, which names the file and each key that is wrong.
    """
    named = file or (Path(os.environ[FILE_VARIABLE]) if FILE_VARIABLE in os.environ else None)
    path = named or Path("coread.toml")
    values: dict[str, Any] = {}
    if named is not None or path.exists():
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigurationError(f"the settings file {path} does not exist; name one that does") from error
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"the settings file {path} cannot be read: {error}") from error
        except tomllib.TOMLDecodeError as error:
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
    base = path.resolve().parent
    return settings.model_copy(
        update={
            "data_folder": base / settings.data_folder.expanduser(),
            "models": ModelSettings(
                home=base / settings.models.home.expanduser() if settings.models.home else None,
                folders=tuple(base / folder.expanduser() for folder in settings.models.folders),
            ),
        }
    )


def _override_from_environment(values: dict[str, Any]) -> None:
    for name, text in os.environ.items():
        section, separator, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition(ENVIRONMENT_SEPARATOR)
        if name.startswith(ENVIRONMENT_PREFIX) and separator:
            table = values.setdefault(section, {})
            if not isinstance(table, dict):
                raise ConfigurationError(f"{name} is set, but {section} is not a section of the settings")
            table[key] = text
