"""The Celery application of a worker: one task, which does the most urgent job of the worker's queues.

Celery runs it in a thread, so that the broker hears from a worker that is busy for long. What would be a time limit of
Celery's is one of ours (`worker.time_limit_s`): only ending the process ends a thread that is stuck.
"""

import os
import socket
import uuid
from contextlib import ExitStack
from functools import partial

import numba
from celery import Celery
from celery.signals import setup_logging, worker_ready, worker_shutting_down

from coread.archive import Archive
from coread.broker import WORK, make_app, queue_name
from coread.collection import uncollected
from coread.dicom_sr import encode as encoding
from coread.errors import ConfigurationError
from coread.job import ANY_QUEUE
from coread.kernels import warm as kernels
from coread.ledger.remote import open_desk
from coread.logs import logger
from coread.models.catalogue import check_routes, installed_models
from coread.models.runner import choose_device
from coread.process_report import ProcessKind
from coread.pulse import Pulse
from coread.scratch import sweep
from coread.settings import Settings
from coread.workers import volume
from coread.workers.clerk import Clerk
from coread.workers.duty import Duty
from coread.workers.gpu import gpus_of
from coread.workers.hold import utc_now
from coread.workers.jobs import JobRunner
from coread.workers.overlap import Overlap, scout_of
from coread.workers.retry import RetryPolicy
from coread.workers.warm import said_of, warm_models

POOL = ("--pool=threads", "--concurrency=1")


def run_worker(settings: Settings) -> None:
    """Work until told to stop (SIGTERM lets the jobs in hand end first)."""
    models = installed_models(settings)
    check_routes(settings, models)
    ledger = open_desk(settings.ledger_url, login=settings.orthanc_login)
    ledger.check_version()
    sweep()
    warm = warm_models(settings, models)
    with uncollected():
        # Each is described when it is loaded: it may be unloaded for the next one.
        loaded = {name: said_of(warm(name)) for name in models_of_queues(settings)}
        warm_up_kernels()
    # Two containers may share a host's name and a number: each process has a name of its own.
    worker = f"{socket.gethostname()[:32]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    ledger.note_worker_started(worker=worker, models=loaded, at=utc_now())
    with Archive(settings.orthanc_url, auth=settings.orthanc_login) as archive:
        jobs = JobRunner(
            archive=archive,
            ledger=ledger,
            models=warm,
            settings=settings.worker,
            results=settings.results,
            worker=worker,
        )
        clerk = Clerk(
            archive=archive,
            ledger=ledger,
            settings=settings.review,
            worker=worker,
            retries=RetryPolicy(first_delay_s=settings.worker.retry_delay_s),
        )
        with ExitStack() as stack:
            stack.enter_context(clerk)
            device = choose_device(settings.worker.device)
            stack.enter_context(
                Pulse(
                    ledger,
                    name=worker,
                    kind=ProcessKind.WORKER,
                    queues=settings.worker.queues or sorted(settings.queues),
                    models=lambda: warm.loaded,
                    gpus=partial(gpus_of, device),
                )
            )
            if settings.worker.overlap:
                scout = scout_of(
                    archive=archive,
                    ledger=ledger,
                    installed=warm.installed,
                    worker=worker,
                    queues=settings.worker.queues,
                )
                duty = stack.enter_context(Duty(stack.enter_context(Overlap(jobs, scout))))
            else:
                duty = stack.enter_context(Duty(jobs))
            _listen(settings, duty)


def warm_up_kernels() -> None:
    """Load the compiled loops, such that several threads may run them at once: numba would else end the process."""
    numba.config.THREADING_LAYER = "threadsafe"  # type: ignore[attr-defined]  # it is made when numba is loaded
    try:
        encoding.warm_up()
        kernels.warm_up()
        volume.warm_up()
    except ValueError as error:
        if "threading layer" not in str(error):
            raise
        raise ConfigurationError(
            "expected OpenMP or TBB for numba, found neither; install Debian's libgomp1"
        ) from error


def _listen(settings: Settings, duty: Duty) -> None:
    """Answer the broker's messages until told to stop."""
    app = worker_app(settings, duty)

    @setup_logging.connect(weak=False)  # type: ignore[untyped-decorator]  # Celery has no types
    def on_setup_logging(**_signal: object) -> None:
        """Logging is configured already; that somebody listens keeps Celery from doing it its own way."""

    @worker_ready.connect(weak=False)  # type: ignore[untyped-decorator]
    def on_ready(**_signal: object) -> None:
        logger().info("worker ready")

    @worker_shutting_down.connect(weak=False)  # type: ignore[untyped-decorator]
    def on_shutting_down(**_signal: object) -> None:
        duty.end()

    queues = ",".join(queue_name(queue) for queue in settings.worker.queues or sorted(settings.queues))
    app.worker_main(["--quiet", "worker", *POOL, "--queues", queues, "--without-gossip", "--without-mingle"])


def models_of_queues(settings: Settings) -> list[str]:
    """The models whose jobs this worker may get: those that it loads before it says that it is ready."""
    routed = {name for route in settings.route for name in route.models}
    queues = settings.worker.queues or settings.queues
    return sorted(name for name in routed if settings.models.queues.get(name, ANY_QUEUE) in queues)


def worker_app(settings: Settings, duty: Duty) -> Celery:
    """The application with its one task."""
    app = make_app(settings)

    @app.task(name=WORK)  # type: ignore[untyped-decorator]  # Celery has no types
    def work(_job_id: str) -> None:
        duty.answer()

    return app
