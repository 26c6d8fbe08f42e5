"""The numbers as text, in Prometheus' form: a pure function of what was found."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from coread.archive_run import RunState
from coread.delivery import DeliveryState
from coread.job import ENDED, Priority
from coread.ledger.watching import IN_QUEUE, OPEN_DELIVERIES, Standings
from coread.metrics import catalogue
from coread.metrics.catalogue import Kind, Metric
from coread.metrics.tally import Key, cumulated
from coread.process_report import ProcessKind, ProcessSeen
from coread.review import ReviewSource, Verdict

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
WAITS = ("arriving", "waiting", "stalled")
LONGEST_LABEL = 128
"""Characters: a host's or GPU's name is no longer."""

Sample = tuple[tuple[str, ...], float]


@dataclass(frozen=True, kw_only=True)
class Disk:
    """The room on the data folder's disk, in bytes."""

    free: int
    size: int
    needed: int


@dataclass(frozen=True, kw_only=True)
class Scene:
    """All that was found at one moment."""

    at: datetime
    started_at: datetime
    version: str
    orthanc: str
    models: Mapping[str, str]
    """Name → version."""
    destinations: Collection[str] = ()
    totals: Mapping[Key, float] = field(default_factory=dict)
    is_behind: bool = False
    standings: Standings | None = None
    """None: the ledger does not answer."""
    query_s: float = 0.0
    processes: Sequence[ProcessSeen] = ()
    is_broker_up: bool | None = None
    """None: it has not been tried yet."""
    is_intake_up: bool = True
    is_ready: bool = True
    are_settings_in_force: bool = True
    disk: Disk | None = None
    stores_refused: int = 0
    sends_audit: bool = False


def expose(scene: Scene, *more: Collector) -> bytes:
    """The text of a scene, and of what other collectors tell."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(scene))
    for collector in more:
        registry.register(collector)
    return generate_latest(registry)


class _Collector(Collector):
    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def collect(self) -> Iterable[Family]:
        scene = self._scene
        samples: dict[Metric, list[Sample]] = {}
        for metric, labels, value in _all(scene):
            samples.setdefault(metric, []).append((labels, value))
        for metric in catalogue.METRICS:
            if metric.kind is Kind.HISTOGRAM:
                yield _histogram(metric, scene.totals)
            else:  # with no samples, too: so its name is known where nothing of it has happened yet
                yield _family(metric, samples.get(metric, ()))


def _all(scene: Scene) -> Iterator[tuple[Metric, tuple[str, ...], float]]:
    yield from _counters(scene)
    yield from _plugin(scene)
    yield from _processes(scene)
    if scene.standings is not None:
        yield from _standings(scene.standings, scene)


def _counters(scene: Scene) -> Iterator[tuple[Metric, tuple[str, ...], float]]:
    """The totals; and 0 of what is yet to happen, since a counter that appears with 1 has not risen for Prometheus."""
    found = {(name, labels): number for (name, labels, part), number in scene.totals.items() if not part}
    priorities, models = tuple(Priority), tuple(scene.models)
    expected: dict[Metric, list[tuple[str, ...]]] = {
        catalogue.STUDIES_RECEIVED: [()],
        catalogue.REQUESTS_DENIED: [()],
        catalogue.JOBS_RECORDED: [(model, priority) for model in models for priority in priorities],
        catalogue.JOBS_ENDED: [
            (model, priority, state) for model in models for priority in priorities for state in sorted(ENDED)
        ],
        catalogue.REVIEWS: [
            (model, verdict, source) for model in models for verdict in Verdict for source in ReviewSource
        ],
        catalogue.DELIVERIES_ENDED: [
            (destination, state)
            for destination in scene.destinations
            for state in (DeliveryState.CONFIRMED, DeliveryState.FAILED, DeliveryState.CANCELLED)
        ],
    }
    for metric in catalogue.METRICS:
        if metric.kind is Kind.COUNTER and metric is not catalogue.STORES_REFUSED:
            told = {labels: number for (name, labels), number in found.items() if name == metric.name}
            nothing = dict.fromkeys(expected.get(metric, ()), 0.0)
            for labels, number in sorted({**nothing, **told}.items()):
                yield metric, labels, number


def _plugin(scene: Scene) -> Iterator[tuple[Metric, tuple[str, ...], float]]:
    yield catalogue.BUILD_INFO, (scene.version, scene.orthanc), 1
    yield catalogue.START_TIME, (), scene.started_at.timestamp()
    for model, version in scene.models.items():
        yield catalogue.MODEL_INFO, (model, version), 1
    yield catalogue.LEDGER_UP, (), scene.standings is not None
    if scene.is_broker_up is not None:
        yield catalogue.BROKER_UP, (), scene.is_broker_up
    yield catalogue.INTAKE_UP, (), scene.is_intake_up
    yield catalogue.READY, (), scene.is_ready
    yield catalogue.SETTINGS_UP_TO_DATE, (), scene.are_settings_in_force
    yield catalogue.STORES_REFUSED, (), scene.stores_refused
    yield catalogue.COUNTING_BEHIND, (), scene.is_behind
    yield catalogue.SCRAPE_SECONDS, (), scene.query_s
    if scene.disk is not None:
        yield catalogue.DISK_FREE, (), scene.disk.free
        yield catalogue.DISK_SIZE, (), scene.disk.size
        yield catalogue.DISK_NEEDED, (), scene.disk.needed


def _standings(found: Standings, scene: Scene) -> Iterator[tuple[Metric, tuple[str, ...], float]]:
    yield from _waiting(found, scene)
    yield from _deliveries(found, scene)
    for metric, numbers in (
        (catalogue.RAISED, found.raised),
        (catalogue.REVIEWS_TO_WRITE, found.reviews_to_write),
        (catalogue.WORKITEMS, found.workitems),
    ):
        for label, number in sorted(numbers.items()):
            yield metric, (label,), number
    for state in RunState:
        yield catalogue.ARCHIVE_RUNS, (state,), found.runs.get(state, 0)
    for place, number in sorted(found.run_studies.items()):
        yield catalogue.ARCHIVE_STUDIES, place, number
    yield catalogue.ARCHIVE_OLDEST_SECONDS, (), _age_s(scene, found.oldest_run_since)
    for pair, number in sorted(found.notices.items()):
        yield catalogue.NOTICES, pair, number
    yield catalogue.AUDIT_UNSENT, (), found.audit_unsent if scene.sends_audit else 0
    for queue in found.queues:
        yield catalogue.QUEUE_WORKERS, (queue,), workers_of(queue, scene.processes)


def _age_s(scene: Scene, since: datetime | None) -> float:
    return max(0.0, (scene.at - since).total_seconds()) if since else 0.0


def _waiting(found: Standings, scene: Scene) -> Iterator[tuple[Metric, tuple[str, ...], float]]:
    by_model: Counter[tuple[str, ...]] = Counter()
    waiting = Counter({(queue, priority.value): 0 for queue in found.queues for priority in Priority})
    for state, queue, priority, model, number in found.jobs:
        by_model[state, model, priority] += number
        if state in IN_QUEUE:
            waiting[queue, priority] += number
    for labels, number in sorted(by_model.items()):
        yield catalogue.JOBS, labels, number
    for place, number in sorted(waiting.items()):
        yield catalogue.QUEUE_JOBS, place, number
        yield catalogue.QUEUE_OLDEST_SECONDS, place, _age_s(scene, found.waiting_since.get(place))
    for wait in WAITS:
        studies, since = found.studies.get(wait, (0, None))
        yield catalogue.STUDIES_WAITING, (wait,), studies
        yield catalogue.STUDIES_OLDEST_SECONDS, (wait,), _age_s(scene, since)


def _deliveries(found: Standings, scene: Scene) -> Iterator[tuple[Metric, tuple[str, ...], float]]:
    destinations = sorted({*scene.destinations, *(destination for destination, _state in found.deliveries)})
    for destination in destinations:
        for state in OPEN_DELIVERIES:
            yield catalogue.DELIVERIES, (destination, state), found.deliveries.get((destination, state), 0)
        yield catalogue.DELIVERY_OLDEST_SECONDS, (destination,), _age_s(scene, found.undelivered_since.get(destination))


def workers_of(queue: str, processes: Iterable[ProcessSeen]) -> int:
    """How many workers alive take jobs from a queue."""
    return sum(each.is_alive and queue in each.report.queues for each in processes)


def _processes(scene: Scene) -> Iterator[tuple[Metric, tuple[str, ...], float]]:
    alive = [each for each in scene.processes if each.is_alive]
    for kind in ProcessKind:
        yield catalogue.PROCESSES, (kind,), sum(each.report.kind is kind for each in alive)
    for label, each in named(alive).items():
        report = each.report
        yield catalogue.PROCESS_INFO, (label, report.kind, report.version), 1
        yield catalogue.PROCESS_START, (label,), report.started_at.timestamp()
        yield catalogue.PROCESS_MEMORY, (label,), report.memory_bytes
        yield catalogue.PROCESS_CLOCK, (label,), each.clock_offset_s
        for model, said in sorted(report.models.items()):
            facts = (said.get(name, "") for name in ("version", "digest", "device", "engine"))
            yield catalogue.WORKER_MODEL, (label, model, *facts), 1
        for number, gpu in enumerate(report.gpus):
            place = (label, f"{number} {gpu.name}"[:LONGEST_LABEL])
            yield catalogue.GPU_MEMORY_USED, place, gpu.memory_used_bytes
            yield catalogue.GPU_MEMORY_TOTAL, place, gpu.memory_total_bytes
            if gpu.utilisation is not None:
                yield catalogue.GPU_UTILISATION, place, gpu.utilisation


def named(processes: Iterable[ProcessSeen]) -> dict[str, ProcessSeen]:
    """Processes by a label of few values: the host, the kind, and which of them there it is. A process's own name is
    new with each start, and each would be a series of its own for ever.
    """
    labels: dict[str, ProcessSeen] = {}
    for each in processes:
        place = f"{each.report.host[:LONGEST_LABEL]}/{each.report.kind}"
        number = next(number for number in range(1, len(labels) + 2) if f"{place}-{number}" not in labels)
        labels[f"{place}-{number}"] = each
    return labels


def _family(metric: Metric, samples: Iterable[Sample]) -> Family:
    family: Family
    if metric.kind is Kind.COUNTER:
        counter = CounterMetricFamily(metric.name.removesuffix("_total"), metric.help, labels=metric.labels)
        for labels, value in samples:
            counter.add_metric(labels, value)
        family = counter
    else:
        gauge = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, value in samples:
            gauge.add_metric(labels, value)
        family = gauge
    return family


def _histogram(metric: Metric, totals: Mapping[Key, float]) -> Family:
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, buckets, total in cumulated(metric, totals):
        family.add_metric(labels, buckets, total)
    return family
