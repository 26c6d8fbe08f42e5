"""Every metric that Coread exports, with its labels. The documentation, rules and dashboard are held against it.

No label holds what differs from study to study, nor anything of a header: its values come from the settings, from the
models, or from a list in the code, so that there are few of them and none names a patient.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What kind of metric it is, in Prometheus' words."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric: ``name`` as it is exported, without the endings that Prometheus gives a histogram's parts."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Of a histogram: the upper bounds, in the unit of the name; the last, without bound, is left out."""


STAGES = ("fetch", "infer", "measure", "encode", "draw", "store")
"""The stages of a job that are timed, in their order."""

STAGE_BUCKETS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 300.0, 1200.0)
WAIT_BUCKETS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
SHARE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)


def _counter(name: str, words: str, *labels: str) -> Metric:
    return Metric(name=name, kind=Kind.COUNTER, help=words, labels=labels)


def _gauge(name: str, words: str, *labels: str) -> Metric:
    return Metric(name=name, kind=Kind.GAUGE, help=words, labels=labels)


def _histogram(name: str, words: str, *labels: str, buckets: tuple[float, ...]) -> Metric:
    return Metric(name=name, kind=Kind.HISTOGRAM, help=words, labels=labels, buckets=buckets)


# Counted from the ledger, row by row: what is in it counts once, whoever restarts.
STUDIES_RECEIVED = _counter("coread_studies_received_total", "Studies that were complete, once for each sender.")
JOBS_RECORDED = _counter("coread_jobs_recorded_total", "Jobs that were made.", "model", "priority")
JOBS_ENDED = _counter(
    "coread_jobs_ended_total",
    "Jobs that ended: done, refused, failed, cancelled or superseded; one that runs again may end again.",
    "model",
    "priority",
    "state",
)
JOB_REASONS = _counter(
    "coread_job_reasons_total", "The same by the kind of reason, where there is one.", "model", "state", "reason"
)
ATTEMPTS_FAILED = _counter(
    "coread_job_attempts_failed_total", "Attempts at a job after which it waits for another one.", "model", "reason"
)
STAGE_SECONDS = _histogram(
    "coread_job_stage_seconds", "How long a stage of a job took.", "model", "stage", buckets=STAGE_BUCKETS
)
JOB_WAIT_SECONDS = _histogram(
    "coread_job_wait_seconds", "From a job's making to its first begin.", "priority", buckets=WAIT_BUCKETS
)
TURNAROUND_SECONDS = _histogram(
    "coread_job_turnaround_seconds",
    "From a job's making, which is when its study is complete, to its results in the archive.",
    "model",
    "priority",
    buckets=WAIT_BUCKETS,
)
DELIVERIES_ENDED = _counter(
    "coread_deliveries_ended_total", "Deliveries that were confirmed, failed or were cancelled.", "destination", "state"
)
DELIVERY_SECONDS = _histogram(
    "coread_delivery_seconds", "From a delivery's opening to its confirmation.", "destination", buckets=WAIT_BUCKETS
)
REVIEWS = _counter(
    "coread_reviews_total", "What persons said of results: accepted, rejected, edited.", "model", "verdict", "source"
)
REVIEW_DICE = _histogram(
    "coread_review_dice",
    "Dice coefficient of a structure that a person edited with what the model drew.",
    "model",
    buckets=SHARE_BUCKETS,
)
RAISES = _counter("coread_raises_total", "Findings that raised their study.", "alert", "model")
REQUESTS_DENIED = _counter("coread_requests_denied_total", "HTTP requests that were not let through.")

# How it stands now.
JOBS = _gauge("coread_jobs", "Jobs that wait, run, or have failed and wait for a person.", "state", "model", "priority")
QUEUE_JOBS = _gauge("coread_queue_jobs", "Jobs that wait for a worker.", "queue", "priority")
QUEUE_OLDEST_SECONDS = _gauge(
    "coread_queue_oldest_seconds",
    "For how long the job has waited that waits longest; 0: none waits.",
    "queue",
    "priority",
)
QUEUE_WORKERS = _gauge("coread_queue_workers", "Workers alive that take jobs from a queue.", "queue")
STUDIES_WAITING = _gauge(
    "coread_studies_waiting",
    "Studies that are not complete: instances arrive, something is waited for, or more are missing (stalled).",
    "wait",
)
STUDIES_OLDEST_SECONDS = _gauge(
    "coread_studies_waiting_oldest_seconds", "Since the first of them began to arrive; 0: there is none.", "wait"
)
DELIVERIES = _gauge("coread_deliveries", "Deliveries that are not confirmed, by state.", "destination", "state")
DELIVERY_OLDEST_SECONDS = _gauge(
    "coread_delivery_oldest_seconds", "Age of the oldest that is waiting, sending or sent; 0: none is.", "destination"
)
RAISED = _gauge("coread_studies_raised", "Studies that a finding raises now.", "alert")
NOTICES = _gauge("coread_notices", "What webhooks and e-mails are told of findings.", "channel", "state")
REVIEWS_TO_WRITE = _gauge("coread_review_objects", "Objects that say in DICOM what persons said.", "state")
WORKITEMS = _gauge("coread_workitems", "Workitems that others have scheduled (UPS).", "state")
ARCHIVE_RUNS = _gauge("coread_archive_runs", "Archive runs, those that are over included.", "state")
ARCHIVE_STUDIES = _gauge(
    "coread_archive_studies",
    "Studies of the archive runs that are not over, of the 20 oldest of these.",
    "run",
    "state",
)
ARCHIVE_OLDEST_SECONDS = _gauge(
    "coread_archive_oldest_seconds", "Since the oldest archive run that is not over was begun; 0: there is none."
)
AUDIT_UNSENT = _gauge("coread_audit_unsent", "Rows of the audit trail that syslog has not taken; 0 where none is set.")

# Neighbours and the machine.
LEDGER_UP = _gauge("coread_ledger_up", "1: the ledger's database answers the plugin; the numbers from it are fresh.")
BROKER_UP = _gauge("coread_broker_up", "1: the broker takes a connection.")
INTAKE_UP = _gauge("coread_intake_up", "1: the plugin takes studies in: its thread lives, and has reached the ledger.")
READY = _gauge("coread_ready", "1: nothing stands against sending studies (GET /coread/health/ready).")
SETTINGS_UP_TO_DATE = _gauge("coread_settings_in_force", "0: the settings file has changed and is not in force.")
DISK_FREE = _gauge("coread_disk_free_bytes", "Room on the data folder's disk.")
DISK_SIZE = _gauge("coread_disk_size_bytes", "Size of the data folder's disk.")
DISK_NEEDED = _gauge("coread_disk_needed_bytes", "With less room than this, images are refused (intake.min_free_gb).")
STORES_REFUSED = _counter(
    "coread_cstore_refused_total", "Images that were refused for want of room, since the plugin's start."
)

# Who works.
BUILD_INFO = _gauge("coread_build_info", "Always 1.", "version", "orthanc")
MODEL_INFO = _gauge(
    "coread_model_info", "Always 1: models that routes may name, as the plugin knows them.", "model", "version"
)
START_TIME = _gauge("coread_start_time_seconds", "When the plugin started, in seconds since 1970.")
PROCESSES = _gauge("coread_processes", "Workers, couriers and archivists alive.", "kind")
PROCESS_START = _gauge("coread_process_start_time_seconds", "When it started, in seconds since 1970.", "process")
PROCESS_MEMORY = _gauge("coread_process_memory_bytes", "What it holds of the machine's memory.", "process")
PROCESS_CLOCK = _gauge(
    "coread_process_clock_offset_seconds", "By how much its clock is ahead of the ledger's.", "process"
)
PROCESS_INFO = _gauge("coread_process_info", "Always 1.", "process", "kind", "version")
WORKER_MODEL = _gauge(
    "coread_worker_model_info",
    "Always 1: models that a worker has loaded.",
    "process",
    "model",
    "version",
    "digest",
    "device",
    "engine",
)
GPU_MEMORY_USED = _gauge(
    "coread_gpu_memory_used_bytes", "Memory in use of a worker's GPU, whoever uses it.", "process", "gpu"
)
GPU_MEMORY_TOTAL = _gauge("coread_gpu_memory_total_bytes", "Memory of a worker's GPU.", "process", "gpu")
GPU_UTILISATION = _gauge("coread_gpu_utilisation_ratio", "How busy a worker's GPU is, 0 to 1.", "process", "gpu")

# What it costs to know.
COUNTING_BEHIND = _gauge(
    "coread_metrics_behind", "1: old rows of the ledger are still being counted (after an upgrade)."
)
SCRAPE_SECONDS = _gauge("coread_metrics_query_seconds", "How long the ledger took to answer for these numbers.")

METRICS: Sequence[Metric] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}

OF_ORTHANC = (
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
)
"""What prometheus_client tells besides of the process that answers: Orthanc's."""
