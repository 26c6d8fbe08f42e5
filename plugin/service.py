"""The plugin's life inside Orthanc: start and stop of the intake's thread, and the REST routes.

Calls back into Orthanc go over HTTP, never through ``orthanc.RestApi*``, which holds the interpreter lock while it
waits. The hooks that run inside a C-STORE are not used at all.
"""

import json
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from kombu.exceptions import OperationalError

from coread.archive import Archive, withdraw
from coread.broker import QUEUE, RUN_JOB, make_app
from coread.errors import BrokerUnavailable, TransientError
from coread.job import Job
from coread.ledger import Ledger
from coread.logs import configure_logs, logger
from coread.models.catalogue import check_routes, installed_models
from coread.plugin.intake import Intake
from coread.plugin.rest import register_routes
from coread.settings import Settings, load_settings

BACK_OFF_S = 2.0
"""The wait after a step that failed because a neighbour was away."""
STOP_TIMEOUT_S = 10.0
IDENTITY_PROPERTY = 4711
"""The number of our property in Orthanc's database; numbers from 1024 are left to plugins."""


def start(orthanc: Any) -> None:
    """Read the settings and register with Orthanc. A mistake in them raises, and Orthanc then stops with the reason."""
    configure_logs()
    settings = load_settings()
    models = installed_models(settings)
    check_routes(settings, models)
    ledger = Ledger(settings.ledger_url)
    ledger.migrate()
    stop = threading.Event()
    configuration = json.loads(orthanc.GetConfiguration())

    def run() -> None:
        archive = Archive(
            f"http://127.0.0.1:{configuration.get('HttpPort', 8042)}",
            token=orthanc.GenerateRestApiAuthorizationToken(),
        )
        with archive:
            intake = Intake(
                archive=archive,
                archive_identity=_identity_of_database(orthanc),
                ledger=ledger,
                settings=settings,
                model_versions={name: model.version for name, model in models.items()},
                publish=_publisher(settings),
                clock=lambda: datetime.now(UTC),
            )
            sweeper = Sweeper(archive=archive, ledger=ledger)

            def step() -> None:
                sweeper.step()
                intake.step()

            _repeat(step, stop=stop, pause_s=settings.intake.poll_s)

    # A daemon thread, because Orthanc would wait for any other one without limit.
    thread = threading.Thread(target=run, name="coread-intake", daemon=True)

    def on_change(change: int, _level: int, _resource: str) -> None:
        if change == orthanc.ChangeType.ORTHANC_STARTED:
            thread.start()
        elif change == orthanc.ChangeType.ORTHANC_STOPPED:
            stop.set()
            thread.join(STOP_TIMEOUT_S)

    orthanc.RegisterOnChangeCallback(on_change)
    register_routes(orthanc, ledger, is_alive=thread.is_alive)


def _identity_of_database(orthanc: Any) -> str:
    """What tells this database of Orthanc's from any other: a name that we give it once, kept in it."""
    identity = str(orthanc.GetGlobalProperty(IDENTITY_PROPERTY, ""))
    if not identity:
        identity = uuid.uuid4().hex
        orthanc.SetGlobalProperty(IDENTITY_PROPERTY, identity)
    return identity


class Sweeper:
    """Takes away results from before a study changed where the job in their place failed or was withdrawn.

    A worker does it when a job ends. But it may have died of the job, or Orthanc may not have answered it at the last
    attempt. It runs in the intake's thread, which alone lets a superseded job run again.
    """

    def __init__(self, *, archive: Archive, ledger: Ledger) -> None:
        self._archive = archive
        self._ledger = ledger
        self._swept: frozenset[str] = frozenset()
        """Ids of the jobs that were seen to; a plugin that starts looks once at each again."""

    def step(self) -> None:
        """See to the jobs that were given up since the last step, and to those for which Orthanc did not answer."""
        given_up = {job.job_id: job for job in self._ledger.given_up()}
        swept = self._swept & given_up.keys()
        for job in given_up.values():
            if job.job_id not in swept and self._withdrew(job):
                swept |= {job.job_id}
        self._swept = swept

    def _withdrew(self, job: Job) -> bool:
        try:
            withdraw(self._archive, job.orthanc_id, self._ledger.outdated_uids(job))
        except TransientError as error:  # one study that Orthanc cannot show must not hold up the others
            logger().warning("outdated results not withdrawn yet", job_id=job.job_id, reason=str(error))
            return False
        return True


def _repeat(step: Callable[[], None], *, stop: threading.Event, pause_s: float) -> None:
    while not stop.is_set():
        wait_s = pause_s
        try:
            step()
        except TransientError as error:
            logger().warning("intake waits", reason=str(error))
            wait_s = BACK_OFF_S
        except Exception:  # noqa: BLE001  # the thread must outlive every surprise: a dead intake loses studies
            logger().exception("intake step failed")
            wait_s = BACK_OFF_S
        stop.wait(wait_s)


def _publisher(settings: Settings) -> Callable[[Job], None]:
    app = make_app(settings)

    def publish(job: Job) -> None:
        try:
            app.send_task(RUN_JOB, args=[job.job_id], task_id=job.job_id, queue=QUEUE)
        except (OperationalError, OSError) as error:
            raise BrokerUnavailable(
                f"the broker does not take messages ({type(error).__name__}); the job stays due; is the broker running?"
            ) from error

    return publish
