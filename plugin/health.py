"""Whether the plugin lives, whether it may be sent studies, and what is the matter if not.

Alive and ready are two questions. A plugin that is not alive is mended by a restart of Orthanc, and by nothing else;
one that is not ready, because the ledger's database is away or the disk is full, would not be helped by one, and takes
what comes as soon as that is mended.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from coread import __version__
from coread.access import Role
from coread.plugin.answers import answer
from coread.plugin.explained import TEXT, Listed, Record, Shape, choice, explained, says
from coread.plugin.gate import Gate

WORDS = ("ok", "not ok")
PROBLEMS = Listed(of=Record(fields={"what": TEXT, "found": TEXT, "do": TEXT, "blocks": {"type": "boolean"}}))
STATUS: Shape = Record(
    fields={"status": choice("whether all is well", WORDS), "problems": PROBLEMS}, optional=frozenset({"problems"})
)
OVERVIEW_FIELDS: dict[str, Shape] = {
    "status": choice("whether it lives; all that who may only watch is told", WORDS),
    "version": TEXT,
    "intake": choice("whether studies are taken in", ("running", "stopped")),
    "live": {"type": "boolean"},
    "ready": {"type": "boolean"},
    "problems": PROBLEMS,
    "settings_problem": TEXT,
}
OVERVIEW = Record(fields=OVERVIEW_FIELDS, optional=frozenset(OVERVIEW_FIELDS))

STUCK_S = 1800.0
"""An intake that has not come around for this long hangs: what it asks of others gives up sooner. It may have thousands
of studies to settle in one round, after a restore, and a restart would only interrupt it.
"""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is not as it should be."""

    what: str
    found: str
    do: str
    blocks: bool = False
    """Whether no studies should be sent because of it."""

    def as_json(self) -> dict[str, Any]:
        """The problem as JSON's types."""
        return {"what": self.what, "found": self.found, "do": self.do, "blocks": self.blocks}


class Rounds:
    """The signs of life of a thread that does the same steps over and over."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._last = clock()
        self._failures: tuple[str, ...] = ()
        self.has_begun = False
        """Whether all that the steps need was there once."""

    def note(self, failures: tuple[str, ...] = ()) -> None:
        """The thread has come around. ``failures``: what steps have met, in words without a patient's data."""
        with self._lock:
            self._last, self._failures = self._clock(), failures

    @property
    def failures(self) -> tuple[str, ...]:
        return self._failures

    @property
    def silent_s(self) -> float:
        """For how long nothing was heard of it."""
        with self._lock:
            return self._clock() - self._last


@dataclass(frozen=True, kw_only=True)
class Health:
    """How the plugin is. ``problems``: those that block first."""

    is_live: bool
    problems: tuple[Problem, ...]

    @property
    def is_ready(self) -> bool:
        return self.is_live and not any(problem.blocks for problem in self.problems)


def register_health(gate: Gate, *, health: Callable[[], Health], settings_problem: Callable[[], str | None]) -> None:
    """Register GET /coread/health, /live and /ready. Who may only watch learns whether all is well; a reader, what is
    the matter.
    """

    @explained(answers={200: says("it lives", OVERVIEW), 503: says("it does not", OVERVIEW)})
    def overview(output: Any, _url: str, **request: Any) -> None:
        """How Coread is: whether it lives, whether it may be sent studies, and what is the matter if not."""
        found = health()
        if not _may_know(request):
            _say(output, is_well=found.is_live)
            return
        body: dict[str, Any] = {
            "version": __version__,
            "intake": "running" if found.is_live else "stopped",
            "live": found.is_live,
            "ready": found.is_ready,
            "problems": [problem.as_json() for problem in found.problems],
        }
        if problem := settings_problem():
            body["settings_problem"] = problem
        answer(output, body, status=200 if found.is_live else 503)

    @explained(answers={200: says("it lives", STATUS), 503: says("it does not: restart Orthanc", STATUS)})
    def live(output: Any, _url: str, **_request: Any) -> None:
        """Whether the intake lives."""
        _say(output, is_well=health().is_live)

    @explained(answers={200: says("it may be sent studies", STATUS), 503: says("it should not", STATUS)})
    def ready(output: Any, _url: str, **request: Any) -> None:
        """Whether Coread may be sent studies."""
        found = health()
        if not _may_know(request):
            _say(output, is_well=found.is_ready)
            return
        problems = [problem.as_json() for problem in found.problems]
        body = {"status": _word(is_well=found.is_ready), "problems": problems}
        answer(output, body, status=200 if found.is_ready else 503)

    gate.route("/coread/health", GET=(Role.MONITOR, overview))
    gate.route("/coread/health/live", GET=(Role.MONITOR, live))
    gate.route("/coread/health/ready", GET=(Role.MONITOR, ready))


def _may_know(request: dict[str, Any]) -> bool:
    role: Role = request["person"].role
    return role.includes(Role.READER)


def _say(output: Any, *, is_well: bool) -> None:
    answer(output, {"status": _word(is_well=is_well)}, status=200 if is_well else 503)


def _word(*, is_well: bool) -> str:
    return "ok" if is_well else "not ok"


def found_by(
    rounds: Rounds,
    *,
    is_alive: bool,
    is_ledger_up: bool,
    is_broker_up: bool,
    is_disk_short: bool,
    idle_queues: tuple[str, ...],
    settings_problem: str | None,
) -> Health:
    """How the plugin is, from what is known of its parts. ``idle_queues``: queues with jobs that no worker takes."""
    is_stuck = rounds.silent_s > STUCK_S
    problems = [
        *_of_the_intake(rounds, is_alive=is_alive, is_stuck=is_stuck),
        *_of_neighbours(
            is_ledger_up=is_ledger_up,
            is_broker_up=is_broker_up,
            is_disk_short=is_disk_short,
            idle_queues=idle_queues,
        ),
    ]
    if settings_problem:
        problems.append(Problem(what="settings", found=settings_problem, do="correct the file, or restart Coread"))
    problems.sort(key=lambda problem: not problem.blocks)
    return Health(is_live=is_alive and not is_stuck, problems=tuple(problems))


def _of_the_intake(rounds: Rounds, *, is_alive: bool, is_stuck: bool) -> Iterator[Problem]:
    if not is_alive:
        yield Problem(what="intake", found="its thread does not run", do="restart Orthanc; see its log", blocks=True)
    elif is_stuck:
        found = f"it has not come around for {rounds.silent_s:.0f} s"
        yield Problem(what="intake", found=found, do="restart Orthanc; see its log", blocks=True)
    elif not rounds.has_begun:
        found = "it has not begun: " + ("; ".join(rounds.failures) or "it is starting")
        yield Problem(what="intake", found=found, do="wait, or see to what it names", blocks=True)
    for failure in rounds.failures if rounds.has_begun else ():
        yield Problem(what="intake", found=failure, do="see to what it names; it is tried again every 2 s")


def _of_neighbours(
    *, is_ledger_up: bool, is_broker_up: bool, is_disk_short: bool, idle_queues: tuple[str, ...]
) -> Iterator[Problem]:
    if not is_ledger_up:
        do = "start the ledger's database; Orthanc keeps what arrives meanwhile"
        yield Problem(what="ledger", found="its database does not answer", do=do, blocks=True)
    if is_disk_short:
        do = "make room on the data folder's disk; senders keep their images (A700H) until then"
        yield Problem(what="disk", found="there is less room than intake.min_free_gb", do=do, blocks=True)
    if not is_broker_up:
        do = "start the broker; workers look for jobs every ten seconds meanwhile"
        yield Problem(what="broker", found="it takes no connection", do=do)
    for queue in idle_queues:
        do = "start a worker for this queue"
        yield Problem(what="workers", found=f"jobs wait in the queue {queue}, and no worker alive takes from it", do=do)
