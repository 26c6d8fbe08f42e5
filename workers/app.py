"""The Celery application of a worker: one task, which does the job whose id it is given."""

import os
import socket
from collections.abc import Callable, Mapping
from functools import cache

from celery import Celery
from celery.signals import setup_logging, worker_ready

from coread.archive import Archive
from coread.broker import QUEUE, RUN_JOB, make_app
from coread.dicom_sr.encode import warm_up
from coread.ledger import Ledger
from coread.logs import logger
from coread.models.catalogue import InstalledModel, check_routes, find_model, installed_models
from coread.models.runner import BundleRunner, choose_device
from coread.settings import Settings
from coread.workers.jobs import JobRunner, utc_now


def run_worker(settings: Settings) -> None:
    """Work until told to stop (SIGTERM lets the job in hand end first)."""
    models = installed_models(settings)
    check_routes(settings, models)
    ledger = Ledger(settings.ledger_url)
    ledger.check_version()
    warm = warm_models(settings, models)
    for name in {name for route in settings.route for name in route.models}:
        warm(name)
    warm_up()
    with Archive(f"http://127.0.0.1:{settings.orthanc.http_port}") as archive:
        runner = JobRunner(
            archive=archive,
            ledger=ledger,
            models=warm,
            settings=settings.worker,
            results=settings.results,
            worker=f"{socket.gethostname()}:{os.getpid()}",
        )
        app = worker_app(settings, runner)

        @setup_logging.connect(weak=False)  # type: ignore[untyped-decorator]  # Celery has no types
        def on_setup_logging(**_signal: object) -> None:
            """Logging is configured already; that somebody listens keeps Celery from doing it its own way."""

        @worker_ready.connect(weak=False)  # type: ignore[untyped-decorator]
        def on_ready(**_signal: object) -> None:
            # What the broker held for a worker that died is lost with it: let everything published be due again.
            ledger.requeue(at=utc_now())
            logger().info("worker ready")

        app.worker_main(["--quiet", "worker", "--pool=solo", "--queues", QUEUE, "--without-gossip", "--without-mingle"])


def warm_models(settings: Settings, models: Mapping[str, InstalledModel]) -> Callable[[str], BundleRunner]:
    """Name → model, loaded at its first use and kept."""
    device = choose_device(settings.worker.device)

    @cache
    def warm(name: str) -> BundleRunner:
        return BundleRunner(find_model(name, models), device=device)

    return warm


def worker_app(settings: Settings, runner: JobRunner) -> Celery:
    """The application with its one task."""
    app = make_app(settings)

    @app.task(name=RUN_JOB)  # type: ignore[untyped-decorator]  # Celery has no types
    def run_job(job_id: str) -> None:
        runner.run(job_id)

    return app
