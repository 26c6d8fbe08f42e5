"""Alive and ready are two questions; and a neighbour that hangs holds up nobody who asks them."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from pynvml import NVMLError_NotSupported
from structlog.testing import capture_logs

from coread import __version__
from coread.cli import coread
from coread.errors import BrokerUnavailable, LedgerUnavailable
from coread.ledger import Ledger
from coread.ledger.watching import Standings
from coread.plugin.disk import OUT_OF_RESOURCES, DiskWatch
from coread.plugin.health import STUCK_S, Health, Rounds, found_by
from coread.plugin.metrics import IDLE_AFTER, Monitor
from coread.process_report import ALIVE, Gpu, ProcessKind
from coread.pulse import Pulse
from coread.workers.gpu import gpus_of
from tests.support import NOW
from tests.unit.test_metrics import a_report, samples, settle

WELL: dict[str, Any] = {
    "is_alive": True,
    "is_ledger_up": True,
    "is_broker_up": True,
    "is_disk_short": False,
    "idle_queues": (),
    "settings_problem": None,
}


def rounds(*failures: str, silent_s: float = 0.0, has_begun: bool = True) -> Rounds:
    now = [0.0]
    found = Rounds(clock=lambda: now[0])
    found.note(failures)
    found.has_begun = has_begun
    now[0] = silent_s
    return found


def test_nothing_is_the_matter_with_what_is_well() -> None:
    assert found_by(rounds(), **WELL) == Health(is_live=True, problems=())


@pytest.mark.parametrize(
    ("different", "is_live", "is_ready", "what"),
    [
        ({"is_alive": False}, False, False, "intake"),
        ({"is_ledger_up": False}, True, False, "ledger"),
        ({"is_disk_short": True}, True, False, "disk"),
        ({"is_broker_up": False}, True, True, "broker"),
        ({"idle_queues": ("gpu",)}, True, True, "workers"),
        ({"settings_problem": "route: no such model"}, True, True, "settings"),
    ],
)
def test_what_is_missing_decides_between_alive_and_ready(
    different: dict[str, Any], is_live: bool, is_ready: bool, what: str
) -> None:
    found = found_by(rounds(), **{**WELL, **different})
    assert (found.is_live, found.is_ready) == (is_live, is_ready)
    (problem,) = found.problems
    assert problem.what == what
    assert problem.do


def test_an_intake_that_does_not_come_around_is_not_alive() -> None:
    assert not found_by(rounds(silent_s=STUCK_S + 1), **WELL).is_live
    assert found_by(rounds(silent_s=STUCK_S - 1), **WELL).is_live


def test_an_intake_that_has_not_begun_is_alive_and_says_what_it_waits_for() -> None:
    found = found_by(rounds("the ledger's database does not answer", has_begun=False), **WELL)
    assert (found.is_live, found.is_ready) == (True, False)
    assert "does not answer" in found.problems[0].found


def test_what_blocks_is_said_first() -> None:
    found = found_by(rounds("a step met something"), **{**WELL, "is_broker_up": False, "is_disk_short": True})
    assert [problem.blocks for problem in found.problems] == [True, False, False]


class Broker:
    is_up = True

    def ask(self) -> None:
        if not self.is_up:
            raise BrokerUnavailable("x")


def monitor_of(ledger: Ledger, folder: Path, broker: Broker | None = None, **more: Any) -> Monitor:
    values: dict[str, Any] = {
        "clock": lambda: NOW,
        "data_folder": folder,
        "disk": DiskWatch(folder, min_free_gb=1),
        "min_free_gb": 1.0,
        "destinations": (),
        "sends_audit": False,
        "models": lambda: {"m": "1"},
        "rounds": rounds(),
        "is_alive": lambda: True,
        "settings_problem": lambda: None,
        "try_broker": (broker or Broker()).ask,
        "orthanc_version": lambda: "1.10.1",
    }
    return Monitor(ledger, **{**values, **more})


@pytest.fixture
def file_ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    ledger.migrate()
    return ledger


def test_the_monitor_tells_what_it_saw_and_that_a_neighbour_is_gone(
    file_ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(file_ledger, "a")
    broker = Broker()
    monitor = monitor_of(file_ledger, tmp_path, broker)
    assert samples(monitor.text().decode())["coread_ledger_up{}"] == 0, "it has not looked yet"
    monitor.step()
    found = samples(monitor.text().decode())
    assert found[f"coread_build_info{{orthanc=1.10.1,version={__version__}}}"] == 1
    assert found["coread_queue_jobs{priority=routine,queue=gpu}"] == 1
    assert found["coread_ledger_up{}"] == found["coread_broker_up{}"] == found["coread_ready{}"] == 1

    def is_away() -> Any:
        raise LedgerUnavailable("x")

    monkeypatch.setattr(file_ledger, "standings", is_away)
    monkeypatch.setattr("coread.plugin.metrics.BROKER_EVERY_S", 0)
    broker.is_up = False
    monitor.step()
    found = samples(monitor.text().decode())
    assert found["coread_ledger_up{}"] == found["coread_broker_up{}"] == found["coread_ready{}"] == 0
    assert found["coread_jobs_recorded_total{model=m,priority=routine}"] == 1, "a counter never falls"
    assert "coread_queue_jobs{priority=routine,queue=gpu}" not in found
    assert {problem.what for problem in monitor.health().problems} == {"ledger", "broker"}


@contextmanager
def running(monitor: Monitor) -> Iterator[None]:
    """The monitor in a thread, which still lives at the end of the block."""
    stop = threading.Event()
    thread = threading.Thread(target=monitor.run, args=(stop,))
    thread.start()
    try:
        yield
        assert thread.is_alive()
    finally:
        stop.set()
        thread.join(60)


def test_a_ledger_that_hangs_holds_up_nobody_who_asks(
    file_ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, goes_on = threading.Event(), threading.Event()

    def hang() -> Any:
        hangs.set()
        assert goes_on.wait(60)
        raise LedgerUnavailable("x")

    monitor, stop = monitor_of(file_ledger, tmp_path), threading.Event()
    monkeypatch.setattr(file_ledger, "standings", hang)
    thread = threading.Thread(target=monitor.run, args=(stop,))
    thread.start()
    assert hangs.wait(60)
    assert samples(monitor.text().decode())["coread_ledger_up{}"] == 0
    assert not monitor.health().is_ready
    stop.set()
    goes_on.set()
    thread.join(60)


def test_the_monitor_outlives_whatever_it_meets_and_says_it_once(
    file_ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each thing that it looks at may surprise it; the others are looked at all the same."""
    settle(file_ledger, "a")
    met: dict[str, Exception | None] = dict.fromkeys(("ledger", "broker", "orthanc"))
    asked = dict.fromkeys(met, 0)
    rounds_seen = threading.Semaphore(0)

    def surprise(what: str) -> None:
        asked[what] += 1
        if error := met[what]:
            raise error

    def orthanc_version() -> str:
        rounds_seen.release()
        surprise("orthanc")
        return ""

    look = file_ledger.standings

    def standings() -> Standings:
        surprise("ledger")
        return look()

    monkeypatch.setattr(file_ledger, "standings", standings)
    monkeypatch.setattr("coread.plugin.metrics.BROKER_EVERY_S", 0)
    monkeypatch.setattr("coread.plugin.metrics.LOOK_EVERY_S", 0.01)
    monitor = monitor_of(file_ledger, tmp_path, try_broker=lambda: surprise("broker"), orthanc_version=orthanc_version)

    def after_rounds(count: int, **meets: Exception | None) -> list[tuple[str, str]]:
        """What is logged from when it ``meets`` this: the step, and the kind of error."""
        already = len(logged)
        met.update(meets)
        while rounds_seen.acquire(blocking=False):
            pass
        before = dict(asked)
        for _ in range(count + 1):
            assert rounds_seen.acquire(timeout=60)
        assert min(asked[what] - before[what] for what in asked) >= count, "one was not looked at any more"
        return [(each["step"], type(each["exc_info"]).__name__) for each in logged[already:]]

    with capture_logs() as logged, running(monitor):
        assert after_rounds(1) == []
        once = [("see_broker", "RuntimeError"), ("see_ledger", "ValueError"), ("see_orthanc", "KeyError")]
        all_break = {"ledger": ValueError("x"), "broker": RuntimeError("x"), "orthanc": KeyError("x")}
        assert sorted(after_rounds(3, **all_break)) == once
        assert "coread_broker_up{}" not in samples(monitor.text().decode()), "it is not known"
        assert after_rounds(3, ledger=TypeError("x")) == [("see_ledger", "TypeError")], "another kind is told, too"
        assert after_rounds(3, **dict.fromkeys(met)) == []
        assert samples(monitor.text().decode())["coread_broker_up{}"] == 1
        assert after_rounds(3, broker=RuntimeError("x")) == [("see_broker", "RuntimeError")], "it had gone well"


def test_a_queue_where_jobs_wait_for_no_worker_is_named(file_ledger: Ledger, tmp_path: Path) -> None:
    settle(file_ledger, "a")
    later = NOW + 2 * IDLE_AFTER
    monitor = monitor_of(file_ledger, tmp_path, clock=lambda: later)
    monitor.step()
    assert "queue gpu" in monitor.health().problems[0].found
    assert monitor.health().is_ready
    file_ledger.note_alive(a_report(), at=later - timedelta(seconds=20))
    monitor.step()
    assert monitor.health().problems == ()


def test_images_that_were_refused_are_counted(tmp_path: Path) -> None:
    hooks: list[Any] = []
    watch = DiskWatch(tmp_path, min_free_gb=1)
    watch.register(SimpleNamespace(RegisterIncomingCStoreInstanceFilter=hooks.append))
    (hook,) = hooks
    hook(None)
    watch.is_short = True
    assert [hook(None), hook(None)] == [OUT_OF_RESOURCES] * 2
    assert watch.refused == 2


def test_a_process_tells_that_it_lives_and_that_it_ends(file_ledger: Ledger) -> None:
    told = threading.Event()

    class Told:
        def note_alive(self, report: Any, *, at: Any) -> None:
            file_ledger.note_alive(report, at=at)
            told.set()

        def forget_process(self, name: str) -> None:
            file_ledger.forget_process(name)

    with Pulse(Told(), name="reader:1", kind=ProcessKind.WORKER, queues=("gpu",), every_s=0.01):
        assert told.wait(60)
        (seen,) = file_ledger.processes(at=NOW)
        assert (seen.report.name, seen.report.queues, seen.report.memory_bytes > 10**6) == ("reader:1", ("gpu",), True)
    assert file_ledger.processes(at=NOW) == []


@pytest.mark.parametrize("kind", ProcessKind)
def test_a_container_asks_for_the_process_that_runs_in_it(
    file_ledger: Ledger, tmp_path: Path, kind: ProcessKind
) -> None:
    settings, now = tmp_path / "coread.toml", datetime.now(UTC)
    settings.write_text(f'[ledger]\nurl = "sqlite:///{tmp_path / "ledger.sqlite"}"\n')

    def asked() -> tuple[int, str]:
        found = CliRunner().invoke(coread, ["--config", str(settings), "health", kind.value])
        return found.exit_code, found.output.strip()

    nobody = (1, f"not ok: no {kind} of this machine was heard of within a minute")
    for other in set(ProcessKind) - {kind}:
        file_ledger.note_alive(a_report(other, host=socket.gethostname(), kind=other), at=now)
    file_ledger.note_alive(a_report("elsewhere", host="elsewhere", kind=kind), at=now)
    file_ledger.note_alive(a_report("gone", host=socket.gethostname(), kind=kind), at=now - 2 * ALIVE)
    assert asked() == nobody
    file_ledger.note_alive(a_report("here", host=socket.gethostname(), kind=kind), at=now)
    assert asked() == (0, "ok")


def test_a_ledger_that_is_away_does_not_end_a_process() -> None:
    tried = threading.Semaphore(0)

    class Away:
        def note_alive(self, *_report: Any, **_more: Any) -> None:
            tried.release()
            raise LedgerUnavailable("x")

        def forget_process(self, _name: str) -> None:
            raise LedgerUnavailable("x")

    with Pulse(Away(), name="reader:1", kind=ProcessKind.WORKER, every_s=0.01):
        assert tried.acquire(timeout=60)
        assert tried.acquire(timeout=60), "it tells again"


def test_a_gpu_is_told_of_as_far_as_its_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none where these tests run: torch's own functions are stood in for."""
    device = torch.device("cuda", 0)
    assert gpus_of(torch.device("cpu")) == ()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (3, 10))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "H200")
    monkeypatch.setattr(torch.cuda, "utilization", lambda _device: 50)
    known = Gpu(name="H200", memory_used_bytes=7, memory_total_bytes=10, utilisation=0.5)
    assert gpus_of(device) == (known,)

    def does_not_say(_device: torch.device) -> int:
        raise NVMLError_NotSupported

    monkeypatch.setattr(torch.cuda, "utilization", does_not_say)
    assert gpus_of(device) == (replace(known, utilisation=None),)
