"""Which jobs a complete study gives: who reads it, how urgently, for whom."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from coread.archive import Archive, ArchivedStudy
from coread.archive_run import RunStudyState
from coread.errors import SourceGone, StudyChanged
from coread.job import ANY_QUEUE, Job, Priority, fingerprint_of, job_id_of
from coread.ledger import Wanted
from coread.ledger.run_links import RunLink
from coread.objects import Profile
from coread.plugin.facts import facts_in_orthanc
from coread.plugin.orders import NOTHING, Ordered
from coread.plugin.route_table import RoutesInForce
from coread.plugin.routing import URGENCY, Assignment, assignments
from coread.routes import Route
from coread.settings import Settings
from coread.settings_worklist import keywords_of_worklist
from coread.study_facts import StudyFacts
from coread.workitem import priority_from

Scheduled = Callable[[str], Mapping[str, Sequence[str]]]
"""StudyInstanceUID → model → the priorities at which workitems want it to read the study."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The jobs of a study. ``for_workitems``: ids of those that no route gives, but workitems; ``for_runs``: of those
    that nobody but archive runs wants; ``links``: the runs' studies that follow the jobs.
    """

    jobs: Sequence[Job] = ()
    for_workitems: frozenset[str] = frozenset()
    for_runs: frozenset[str] = frozenset()
    links: Sequence[RunLink] = ()
    hangs_on_order: bool = False
    """Whether it has no job as far as is known, and might have if the modality worklist had answered."""


def assigned_by_runs(wanted: Sequence[Wanted]) -> dict[str, Assignment]:
    """Model → how it reads a study for archive runs. Where several want it, the first says what results are written."""
    assigned: dict[str, Assignment] = {}
    for each in wanted:
        for model in each.terms.models:
            known = assigned.get(model)
            destinations = (*(known.destinations if known else ()), *each.terms.destinations)
            assigned[model] = Assignment(
                model=model,
                priority=Priority.BATCH,
                profiles=known.profiles if known else each.terms.profiles,
                destinations=tuple(dict.fromkeys(destinations)),
            )
    return assigned


def links_of(wanted: Sequence[Wanted], versions: Collection[str]) -> list[RunLink]:
    """The runs' studies that follow a study's jobs. ``versions``: the models that are in force."""
    return [
        RunLink(
            run_id=each.run_id,
            position=each.position,
            models=each.terms.models,
            is_retry=each.is_retry,
            is_first=each.state is RunStudyState.HERE,
            are_there=not set(versions).isdisjoint(each.terms.models),
        )
        for each in wanted
    ]


def _joined(assigned: Mapping[str, Assignment], by_runs: Mapping[str, Assignment]) -> dict[str, Assignment]:
    """What others want, sent to where runs want it besides; and what runs alone want."""
    joined = dict(by_runs)
    for model, each in assigned.items():
        more = by_runs[model].destinations if model in by_runs else ()
        joined[model] = replace(each, destinations=tuple(dict.fromkeys((*each.destinations, *more))))
    return {model: joined[model] for model in (*assigned, *(set(by_runs) - set(assigned)))}


def assigned_by_routes(
    facts: StudyFacts, routes: Sequence[Route], *, order: Ordered, default_profiles: Sequence[Profile]
) -> dict[str, Assignment]:
    """Model → how it reads a study; the most urgent there is, if the modality worklist has it so.

    Raises ConfigurationError as ``assignments`` does.
    """
    routed = assignments(facts, routes, default_profiles=default_profiles)
    if not order.is_urgent:
        return routed
    return {model: replace(each, priority=URGENCY[0]) for model, each in routed.items()}


class Planner:
    """Makes the jobs of a study by the routes that are in force, and by the workitems that schedule its reading."""

    def __init__(
        self,
        *,
        archive: Archive,
        settings: Settings,
        routes: Callable[[], RoutesInForce],
        scheduled: Scheduled = lambda _study_instance_uid: {},
    ) -> None:
        self._archive = archive
        self._settings = settings
        self._routes = routes
        self._scheduled = scheduled

    def plan(
        self, study: ArchivedStudy, *, at: datetime, order: Ordered = NOTHING, wanted: Sequence[Wanted] = ()
    ) -> Plan:
        """The study's jobs, one for each model that reads it. ``order``: what the modality worklist says of it;
        ``wanted``: what archive runs want of it besides.

        Raises StudyChanged if it changes meanwhile.
        """
        in_force = self._routes()
        facts = facts_in_orthanc(self._archive, study, in_force.keywords, of_worklist=order.values)
        profiles = self._settings.results.profiles
        routed = assigned_by_routes(facts, in_force.routes, order=order, default_profiles=profiles)
        versions = in_force.model_versions
        scheduled = {
            model: priorities
            for model, priorities in self._scheduled(study.study_instance_uid).items()
            if model in versions
        }
        assigned = {
            **routed,
            **{model: self._raised(model, routed.get(model), scheduled[model]) for model in scheduled},
        }
        hangs_on_order = not assigned and order.is_missing and any(map(keywords_of_worklist, in_force.routes))
        by_runs = {model: each for model, each in assigned_by_runs(wanted).items() if model in versions}
        if hangs_on_order or not (assigned or by_runs):
            return Plan(hangs_on_order=hangs_on_order, links=links_of(wanted, versions))
        jobs = self._jobs(study, _joined(assigned, by_runs), versions, at)
        return Plan(
            jobs=jobs,
            for_workitems=frozenset(job.job_id for job in jobs if job.model in assigned and job.model not in routed),
            for_runs=frozenset(job.job_id for job in jobs if job.model not in assigned),
            links=links_of(wanted, versions),
        )

    def plan_for_runs(self, study: ArchivedStudy, *, at: datetime, wanted: Sequence[Wanted]) -> Plan:
        """The jobs that archive runs want of a study, which nobody has sent: no route is asked.

        Raises StudyChanged if it changes meanwhile.
        """
        versions = self._routes().model_versions
        by_runs = {model: each for model, each in assigned_by_runs(wanted).items() if model in versions}
        jobs = self._jobs(study, by_runs, versions, at)
        links = links_of(wanted, versions)
        return Plan(jobs=jobs, for_runs=frozenset(job.job_id for job in jobs), links=links)

    def _jobs(
        self, study: ArchivedStudy, assigned: Mapping[str, Assignment], versions: Mapping[str, str], at: datetime
    ) -> list[Job]:
        if not assigned:
            return []
        fingerprint = self.fingerprint(study)
        return [self._job(study, each, versions[each.model], fingerprint, at) for each in assigned.values()]

    def _raised(self, model: str, routed: Assignment | None, priorities: Sequence[str]) -> Assignment:
        """How a model reads a study that workitems schedule: as urgently as the most urgent of all says."""
        wanted = list(filter(None, map(priority_from, priorities)))
        if routed is not None:
            return replace(routed, priority=min([routed.priority, *wanted], key=URGENCY.index))
        return Assignment(
            model=model,
            priority=min(wanted, key=URGENCY.index),
            profiles=self._settings.results.profiles,
            destinations=(),
        )

    def _job(
        self, study: ArchivedStudy, assignment: Assignment, model_version: str, fingerprint: str, at: datetime
    ) -> Job:
        return Job(
            job_id=job_id_of(
                study=study.orthanc_id,
                model=assignment.model,
                model_version=model_version,
                profiles=assignment.profiles,
                fingerprint=fingerprint,
            ),
            study_instance_uid=study.study_instance_uid,
            orthanc_id=study.orthanc_id,
            model=assignment.model,
            model_version=model_version,
            fingerprint=fingerprint,
            revision=study.revision,
            profiles=assignment.profiles,
            destinations=assignment.destinations,
            priority=assignment.priority,
            queue=self._settings.models.queues.get(assignment.model, ANY_QUEUE),
            created_at=at,
        )

    def fingerprint(self, study: ArchivedStudy) -> str:
        """What the study's source instances are, and hold. Raises StudyChanged if it changes meanwhile."""
        uids = {orthanc_id: uid for series in study.sources for orthanc_id, uid in series.instances.items()}
        try:
            digests = self._archive.digests(uids)
        except SourceGone as error:
            raise StudyChanged("an instance was deleted meanwhile; the study is settled anew") from error
        return fingerprint_of(f"{uids[orthanc_id]} {digest}" for orthanc_id, digest in digests.items())
