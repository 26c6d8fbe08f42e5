"""The Celery application that the plugin publishes with and the workers consume with. It carries job ids only."""

from pathlib import Path

from celery import Celery

from coread.settings import Settings

RUN_JOB = "coread.run_job"
"""The task's name: the plugin publishes by name and never imports the worker."""

QUEUE = "coread"
FILE_POLL_S = 0.1
"""How often a worker looks into the folder of the filesystem transport."""
PUBLISH_TIMEOUT_S = 2.0
"""A broker that hangs must not hold up the intake; the job stays due and is published again."""


def make_app(settings: Settings) -> Celery:
    """An application for the configured broker; by default files in the data folder."""
    app = Celery("coread", set_as_current=False)
    app.conf.update(
        broker_url=settings.broker.url.get_secret_value() if settings.broker.url else "filesystem://localhost",
        broker_connection_retry_on_startup=True,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_default_queue=QUEUE,
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
        }
    return app


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
