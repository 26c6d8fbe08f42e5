"""What a person may say of an archive run when it is begun, and what becomes of it: the run's terms and its name."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, ValidationError

from coread.archive_hours import Hours
from coread.archive_run import HERE, Terms
from coread.errors import ConfigurationError
from coread.models.catalogue import find_model, installed_models
from coread.objects import Profile
from coread.settings import Settings
from coread.settings_section import Section

Kind = TypeVar("Kind", bound=Section)

LONGEST_NAME = 100
RUN_ID_DIGITS = 16


def _hours(text: str | None) -> str | None:
    if text is not None:
        try:
            Hours.parse(text)
        except ConfigurationError as error:
            raise ValueError(str(error)) from error
    return text


def _printable(text: str | None) -> str | None:
    if text is not None and (not text.isprintable() or not text.strip()):
        raise ValueError("expected a name of printable characters")
    return text


class Pace(Section):
    """How fast a run goes. A key that is left out is left as it is."""

    hours: Annotated[str | None, AfterValidator(_hours)] = None
    """The hours of the day at which studies are begun, local time, such as `19:00-07:00`; by default all day."""
    studies_per_minute: Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)] | None = None
    """How many studies are begun in a minute at most; by default as many as there is room for."""
    associations: Annotated[int, Field(ge=1, le=64)] = 1
    """How many studies are retrieved at once."""
    in_flight: Annotated[int, Field(ge=1, le=10_000)] = 8
    """How many studies may be anywhere between retrieved and ended; this bounds the room on the disk."""


class Wishes(Pace):
    """All that may be said of a run."""

    name: Annotated[str | None, Field(max_length=LONGEST_NAME), AfterValidator(_printable)] = None
    """What people call it; by default as the plan is called. The same plan under another name is another run."""
    models: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Who reads the studies; by default the models that the plan names."""
    profiles: Annotated[tuple[Profile, ...], Field(min_length=1)] | None = None
    """What the results are written for; by default what the settings say."""
    destinations: tuple[str, ...] = ()
    """Where the results are delivered to; by default nowhere."""
    keep_copies: bool = False
    """Whether studies that are retrieved stay in Orthanc."""
    objects: bool = True
    """Whether the result objects are written to the run's folder."""
    pictures: bool = True
    """Whether the key images are written there."""


def checked(kind: type[Kind], said: Mapping[str, Any]) -> Kind:
    """What a person has said. Raises ConfigurationError, which names each key that is wrong and quotes no value."""
    try:
        return kind.model_validate(dict(said))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False)
        )
        raise ConfigurationError(problems) from error


def run_id_of(plan_digest: str, name: str) -> str:
    """The run's identity: the same plan under the same name is the same run, however often it is begun."""
    return hashlib.sha256(f"{plan_digest}\n{name}".encode()).hexdigest()[:RUN_ID_DIGITS]


def folder_of(settings: Settings, run_id: str) -> Path:
    """Where a run's rows, pictures, objects and report go if nobody says otherwise."""
    return settings.data_folder.absolute() / "archive" / run_id


def terms_of(
    wishes: Wishes,
    *,
    source: str,
    models: tuple[str, ...],
    settings: Settings,
    folder: Path,
    key_file: Path | None = None,
) -> Terms:
    """The terms of a run of a plan that names the source and the models.

    Raises ConfigurationError if one of them, or a destination, is not known to the settings, or if there is no model.
    """
    models = wishes.models or models
    if not models:
        raise ConfigurationError("expected a model, found none in the plan; name one for the run")
    known = installed_models(settings)
    for model in models:
        find_model(model, known)
    _check_known("source", [source], {HERE, *(each.name for each in settings.source)})
    _check_known("destination", wishes.destinations, {each.name for each in settings.destination})
    return Terms(
        source=source,
        models=models,
        profiles=wishes.profiles or settings.results.profiles,
        destinations=wishes.destinations,
        keep_copies=wishes.keep_copies,
        hours=wishes.hours,
        studies_per_minute=wishes.studies_per_minute,
        associations=wishes.associations,
        in_flight=wishes.in_flight,
        folder=str(folder.absolute()),
        objects=wishes.objects,
        pictures=wishes.pictures,
        key_file=str(key_file.absolute()) if key_file else None,
    )


def paced(terms: Terms, said: Mapping[str, Any]) -> Terms:
    """The terms with another pace; what is not said stays. Raises ConfigurationError, as ``checked`` does."""
    wanted = checked(Pace, said)
    return replace(terms, **{name: getattr(wanted, name) for name in wanted.model_fields_set})


def _check_known(what: str, named: Collection[str], known: Collection[str]) -> None:
    if unknown := sorted(set(named) - set(known)):
        raise ConfigurationError(
            f"expected a {what} of the settings ({', '.join(sorted(known)) or 'there is none'}), found "
            f"{', '.join(unknown)}"
        )
