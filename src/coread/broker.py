"""The Celery application that the plugin rings with and the workers listen with.

A message is a bell: it calls a worker of a queue, which then takes the most urgent job of the ledger. It carries the id
of the job that it was sent for, and nothing else.
"""

from collections.abc import Callable
from pathlib import Path

from celery import Celery
from kombu.exceptions import OperationalError

from coread.errors import BrokerUnavailable
from coread.job import ANY_QUEUE
from coread.settings import Settings

WORK = "coread.work"
"""The task's name: the plugin publishes by name and never imports the worker."""

FILE_POLL_S = 0.1
"""How often a worker looks into the folder of the filesystem transport."""
PUBLISH_TIMEOUT_S = 2.0
"""A broker that hangs must not hold up the intake; workers look for jobs by themselves, too."""


def make_app(settings: Settings) -> Celery:
    """An application for the configured broker; by default files in the data folder."""
    app = Celery("coread", set_as_current=False)
    app.conf.update(
        broker_url=settings.broker.url.get_secret_value() if settings.broker.url else "filesystem://localhost",
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # a worker outlives a broker's long absence
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_default_queue=queue_name(ANY_QUEUE),
        task_acks_late=True,
        task_reject_on_worker_lost=False,  # the ledger's lease brings the job back, once
        task_publish_retry=False,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
    )
    if settings.broker.url is None:
        app.conf.broker_transport_options = _file_options(settings.data_folder / "broker")
    else:
        app.conf.broker_transport_options = {
            "socket_timeout": PUBLISH_TIMEOUT_S,
            "socket_connect_timeout": PUBLISH_TIMEOUT_S,
            "max_retries": 1,  # within one message; the intake and the workers' own looking are what tries again
            "interval_start": 0,
            "interval_step": 0,
        }
    return app


def queue_name(queue: str) -> str:
    """What the broker calls a queue: several programs may share a broker."""
    return f"coread.{queue}"


def bell(app: Celery) -> Callable[[str, str], None]:
    """``ring(queue, job_id)``: call a worker. Raises BrokerUnavailable if the broker does not take the message."""

    def ring(queue: str, job_id: str) -> None:
        try:
            app.send_task(WORK, args=[job_id], queue=queue_name(queue))
        except (OperationalError, OSError) as error:
            raise BrokerUnavailable(
                f"the broker does not take messages ({type(error).__name__}); jobs start later, when a worker looks by "
                "itself; is the broker running?"
            ) from error

    return ring


def try_broker(app: Celery) -> None:
    """Raises BrokerUnavailable if the broker takes no connection."""
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=PUBLISH_TIMEOUT_S)
    except (OperationalError, OSError) as error:
        raise BrokerUnavailable(f"the broker takes no connection ({type(error).__name__}); is it running?") from error


def _file_options(folder: Path) -> dict[str, object]:
    queue, control = folder / "queue", folder / "control"
    for each in (queue, control):
        each.mkdir(parents=True, exist_ok=True)
    return {
        "data_folder_in": str(queue),
        "data_folder_out": str(queue),
        "control_folder": str(control),
        "polling_interval": FILE_POLL_S,
    }
