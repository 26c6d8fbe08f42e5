"""``coread routes`` and ``coread check-config``: what the settings say, and what would become of a study."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coread.cli_alerts import described
from coread.errors import ConfigurationError, SourceGone, WorklistUnavailable
from coread.job import Priority
from coread.objects import Profile
from coread.routes import check_keywords
from coread.settings import Settings, load_settings, settings_file

if TYPE_CHECKING:
    from coread.archive import Archive
    from coread.plugin.orders import Ordered
    from coread.plugin.routing import Assignment, Decision
    from coread.study_facts import StudyFacts


@click.group()
def routes() -> None:
    """Say which routes there are, and which of them a study would take."""


@routes.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the routes as JSON.")
@click.pass_context
def list_routes(context: click.Context, as_json: bool) -> None:  # noqa: FBT001  # click hands flags over by name
    """Say which routes the settings file has, whether or not Coread runs."""
    settings = _checked(context)
    if as_json:
        click.echo(json.dumps([route.model_dump(mode="json") for route in settings.route], indent=2))
    else:
        _show_routes(settings)


@routes.command("test")
@click.argument("studies", nargs=-1, required=True)
@click.option("--source-aet", help="The AE title that would send the files; by default what the files say.")
@click.option(
    "--worklist",
    "of_worklist",
    multiple=True,
    metavar="KEYWORD=VALUE",
    help="What the modality worklist would say of files; of a study in Orthanc it is asked.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the explanations as JSON.")
@click.pass_context
def test_routes(
    context: click.Context,
    studies: Sequence[str],
    source_aet: str | None,
    of_worklist: Sequence[str],
    as_json: bool,  # noqa: FBT001  # as above
) -> None:
    """Say for each route whether it takes a study, and why or why not; and who would read it.

    STUDIES: DICOM files, folders of them, or the StudyInstanceUIDs of studies in the running Orthanc.
    """
    from coread.plugin.routing import explain

    settings = _checked(context)
    said = [
        (facts, explain(facts, settings.route), _assigned(facts, settings, order), order)
        for facts, order in _facts(studies, settings, source_aet, _stated_order(of_worklist, settings))
    ]
    if as_json:
        click.echo(json.dumps([_as_json(*each) for each in said], indent=2))
        return
    for each in said:
        _show(*each)


@click.command("check-config")
@click.pass_context
def check_config(context: click.Context) -> None:
    """Say whether the settings file is in order, and what is in force with it."""
    settings = _checked(context)
    file = settings_file(context.obj)
    click.echo(f"{file if file.exists() else 'without a settings file, the defaults'}: in order")
    for key, value in _flat(settings.model_dump(mode="json", exclude={"route", "alert"})):
        click.echo(f"  {key} = {value}")
    click.echo("Routes:")
    _show_routes(settings)
    for number, line in enumerate(described(settings)):
        click.echo(line if number else f"Alerts:\n{line}")


def _checked(context: click.Context) -> Settings:
    """The settings. Raises ConfigurationError unless the routes' keywords and models exist, and what alerts ask for."""
    from coread.models.catalogue import check_routes, installed_models
    from coread.workers.route_facts import pydicom_dictionary

    settings = load_settings(context.obj)
    check_routes(settings, installed_models(settings))
    check_keywords(settings.route, pydicom_dictionary)
    return settings


def _assigned(facts: "StudyFacts", settings: Settings, order: "Ordered") -> "dict[str, Assignment]":
    """Who would read a study, as the plugin would have it."""
    from coread.plugin.planning import assigned_by_routes

    return assigned_by_routes(facts, settings.route, order=order, default_profiles=settings.results.profiles)


def _stated_order(said: Sequence[str], settings: Settings) -> "Ordered":
    """What ``--worklist`` says. Raises UsageError if a keyword is none that a worklist is asked for."""
    from coread.plugin.orders import NOTHING, Ordered, is_urgent
    from coread.routes import OF_WORKLIST

    values: dict[str, tuple[str, ...]] = {}
    for each in said:
        keyword, equals, value = each.partition("=")
        if keyword not in OF_WORKLIST or not equals:
            raise click.UsageError(f"--worklist: expected KEYWORD=VALUE with one of {', '.join(sorted(OF_WORKLIST))}")
        values[keyword] = (*values.get(keyword, ()), value)
    raises = any(worklist.raises_priority for worklist in settings.worklist)
    if not values:
        return NOTHING
    return Ordered(said="the modality worklist as told", values=values, is_urgent=raises and is_urgent(values))


def _facts(
    studies: Sequence[str], settings: Settings, source_aet: str | None, order: "Ordered"
) -> "list[tuple[StudyFacts, Ordered]]":
    from coread.study_facts import keywords_of
    from coread.workers.route_facts import facts_in_files

    if "" in studies:
        raise click.UsageError("expected a file, a folder or a StudyInstanceUID, found an empty text")
    keywords = keywords_of(settings.route)
    files = [Path(study) for study in studies if Path(study).exists()]
    uids = [study for study in studies if not Path(study).exists()]
    if uids and source_aet is not None:
        raise click.UsageError(f"who sent {uids[0]}, Orthanc knows; --source-aet is for files")
    if uids and order.values:
        raise click.UsageError(f"what was ordered of {uids[0]}, the worklist is asked; --worklist is for files")
    found = facts_in_files(files, keywords, source_aet=source_aet, of_worklist=order.values) if files else []
    return [*((facts, order) for facts in found), *_facts_in_orthanc(uids, settings)]


def _facts_in_orthanc(uids: Sequence[str], settings: Settings) -> "list[tuple[StudyFacts, Ordered]]":
    from coread.archive import Archive
    from coread.plugin.facts import facts_in_orthanc
    from coread.study_facts import keywords_of

    for uid in uids:
        if not re.fullmatch(r"[0-9.]{1,64}", uid):
            raise click.UsageError(f"there is no file or folder {uid}, and it is no StudyInstanceUID")
    if uids and settings.orthanc.url is None and not settings.orthanc.http_port:
        raise ConfigurationError("orthanc.http_port is 0, and which port was chosen is not known here; set it")
    with Archive(settings.orthanc_url, auth=settings.orthanc_login) as archive:
        found = []
        for uid in uids:
            orthanc_id = archive.find_study(uid)
            if orthanc_id is None:
                raise SourceGone(f"expected study {uid} in Orthanc, found none; send it, or name files")
            order = _order_of(archive, orthanc_id, settings)
            keywords = keywords_of(settings.route)
            facts = facts_in_orthanc(archive, archive.study(orthanc_id), keywords, of_worklist=order.values)
            found.append((facts, order))
        return found


def _order_of(archive: "Archive", orthanc_id: str, settings: Settings) -> "Ordered":
    """What the modality worklist says of a study, asked now."""
    from functools import partial

    from coread.plugin.orders import NOTHING, Ordered, find_entries, ordered

    if not settings.worklist:
        return NOTHING
    try:
        return ordered(archive.patient_and_study(orthanc_id), settings.worklist, partial(find_entries, archive))
    except WorklistUnavailable as error:
        return Ordered(said=str(error))


def _as_json(
    study: "StudyFacts", decisions: "Iterable[Decision]", assigned: "dict[str, Assignment]", order: "Ordered"
) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "study_instance_uid": study.study_instance_uid,
        "source_series": len(study.series),
        "worklist": order.said,
        "routes": [
            {
                "name": decision.route.name,
                "matched": decision.matched,
                "matched_by": decision.matched_by,
                "nearest": decision.nearest,
                "failures": [asdict(failure) for failure in decision.failures],
            }
            for decision in decisions
        ],
        "models": [asdict(assignment) for assignment in assigned.values()],
    }


def _show(
    study: "StudyFacts", decisions: "Iterable[Decision]", assigned: "dict[str, Assignment]", order: "Ordered"
) -> None:
    click.echo(f"Study {study.study_instance_uid}: {len(study.series)} source series")
    if order.said:
        click.echo(f"  {order.said}")
    for decision in decisions:
        click.echo(f"  {'yes' if decision.matched else 'no '} {decision.route.name}")
        for line in _why(decision):
            click.echo(f"        {line}")
    if not assigned:
        click.echo("  No model reads it.")
    for each in assigned.values():
        click.echo(f"  {each.model} reads it: {_how(each.priority, each.profiles, each.destinations)}")


def _why(decision: "Decision") -> Iterator[str]:
    if decision.matched and not decision.route.match:
        yield "it takes every study"
    elif decision.matched:
        yield from (f"by series {uid}" for uid in decision.matched_by)
    elif decision.nearest is None:
        yield "no series of the study is one that a model may read"
    else:
        yield f"series {decision.nearest} comes nearest"
        for each in decision.failures:
            yield f"{each.keyword}: expected {each.expected}, found {each.found}"


def _show_routes(settings: Settings) -> None:
    for route in settings.route:
        how = _how(route.priority, route.profiles or settings.results.profiles, route.destinations)
        click.echo(f"{route.name}: {', '.join(route.models)}; {how}")
        for keyword, condition in route.match.items():
            click.echo(f"  {keyword}: {condition.describe()}")
        if not route.match:
            click.echo("  every study")


def _how(priority: Priority, profiles: Iterable[Profile], destinations: Sequence[str]) -> str:
    said = f"{priority}, for {', '.join(profiles)}"
    return f"{said}, to {', '.join(destinations)}" if destinations else said


def _flat(value: object, prefix: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _flat(each, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list):
        yield prefix, ", ".join(map(str, value))
    else:
        yield prefix, "" if value is None else str(value)
