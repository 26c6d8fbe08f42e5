"""Archive runs at the command line: begun, followed, looked at and steered."""

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from coread import cli_archive_run
from coread.archive_progress import Pace
from coread.archive_run import RunState, RunStudyState
from coread.audit.person import who_asks
from coread.cli import coread
from coread.cli_archive_run import DETACHED, picture_of, words_of
from coread.errors import LedgerUnavailable
from coread.ledger import Ledger
from tests.archive_runs import attend, begin, end, run_of, write_a_plan
from tests.support import uid_of

WAIT_S = 60.0


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """The ledger that the command finds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli_archive_run, "LOOK_S", 0.02)
    (tmp_path / "coread.toml").write_text("[orthanc]\nhttp_port = 1\n")  # nobody answers there
    ledger = Ledger(f"sqlite:///{tmp_path / 'coread-data' / 'ledger.sqlite'}")
    ledger.migrate()
    return ledger


def command(*arguments: str) -> Result:
    return CliRunner().invoke(coread, ["archive", *arguments])


def test_a_plan_is_begun_with_its_terms_and_left_alone(ledger: Ledger, tmp_path: Path) -> None:
    write_a_plan(tmp_path / "plan.jsonl", studies=2500)
    said = ["--hours", "19:00-07:00", "--studies-per-minute", "12", "--in-flight", "4", "--no-pictures"]
    done = command(
        "run", "plan.jsonl", "--detach", *said, "--folder", "out", "--key-file", "key", "--profile", "slicer"
    )
    assert done.exit_code == 0, done.output
    (run,) = ledger.runs()
    assert (run.state, run.studies, run.created_by) == (RunState.RUNNING, 2500, who_asks())
    terms = run.terms
    assert (terms.hours, terms.studies_per_minute, terms.in_flight, terms.associations) == ("19:00-07:00", 12.0, 4, 1)
    assert (terms.pictures, terms.objects, terms.profiles) == (False, True, ("slicer",))
    assert (terms.folder, terms.key_file) == (str(tmp_path / "out"), str(tmp_path / "key"))
    assert f"run {run.run_id} (hearts): 2500 studies from here" in done.output
    assert "no archivist runs" in done.output
    assert "Orthanc does not answer" in done.output


def test_the_same_command_follows_the_same_run(ledger: Ledger, tmp_path: Path) -> None:
    write_a_plan(tmp_path / "plan.jsonl", studies=3)
    command("run", "plan.jsonl", "--detach")
    (run,) = ledger.runs()
    attend(ledger)
    for _ in range(3):
        end(ledger, run.run_id)
    again = command("run", "plan.jsonl", "--hours", "19:00-07:00")
    assert again.exit_code == 0, again.output
    assert "is finished: 3 done" in again.output
    assert len(ledger.runs()) == 1
    other = CliRunner().invoke(coread, ["archive", "run", "plan.jsonl", "--keep-copies"])
    assert "other terms: keep_copies" in str(other.exception)
    assert command("run", "plan.jsonl", "--detach", "--keep-copies", "--name", "again").exit_code == 0


def test_a_run_that_is_followed_is_told_in_lines_until_it_ends(ledger: Ledger, tmp_path: Path) -> None:
    run_id = begin(ledger, tmp_path, studies=3)

    def carry_out() -> None:
        ledger.note_waits(run_id, waits_for="outside its hours")
        seen.wait(WAIT_S)
        ledger.note_waits(run_id, waits_for="")
        end(ledger, run_id)
        end(ledger, run_id, RunStudyState.FAILED, reason="gone")
        end(ledger, run_id, RunStudyState.REFUSED)

    lines: list[str] = []
    seen = threading.Event()

    def said(line: object = "", **_more: Any) -> None:
        lines.append(str(line))
        if "waits: outside its hours" in lines[-1]:
            seen.set()

    archivist = threading.Thread(target=carry_out)
    archivist.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("click.echo", said)
        done = command("status", run_id, "--follow")
    archivist.join()
    assert done.exit_code == 1
    assert seen.is_set()
    assert "is finished: 1 done, 1 refused, 1 failed" in lines[-2]
    assert f"coread archive retry {run_id}" in lines[-1]


def test_a_terminal_shows_a_bar_and_ctrl_c_leaves_the_run_going_on(ledger: Ledger, tmp_path: Path) -> None:
    run_id = begin(ledger, tmp_path, studies=4)
    end(ledger, run_id)
    shown = at_a_terminal(tmp_path, "status", run_id, "--follow", until="1 done")
    assert shown.status == DETACHED
    assert re.search(r"25 %\s+1 of 4", shown.text)
    assert "The run goes on" in shown.text
    assert run_of(ledger, run_id).state is RunState.RUNNING


class Shown:
    def __init__(self, text: str, status: int) -> None:
        self.text, self.status = text, status


def at_a_terminal(folder: Path, *arguments: str, until: str) -> Shown:
    """What the command shows at a terminal until a text is there, and after a Ctrl-C."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "100", "LINES": "30", "TERM": "xterm"}
    # Whoever runs the tests in the background may have Ctrl-C ignored by all that they start.
    process = subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-m", "coread", "archive", *arguments],
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
    )
    os.close(theirs)
    text, is_asked = "", False
    while True:
        try:
            text += os.read(ours, 4096).decode(errors="replace")
        except OSError:  # the other end is closed
            break
        if not is_asked and until in text[text.find("%") :]:
            process.send_signal(signal.SIGINT)
            is_asked = True
    os.close(ours)
    return Shown(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text), process.wait(WAIT_S))


def test_a_narrow_terminal_shows_the_progress_and_what_it_waits_for(ledger: Ledger, tmp_path: Path) -> None:
    run_id = begin(ledger, tmp_path, studies=8)
    end(ledger, run_id)
    ledger.note_waits(run_id, waits_for="the source pacs does not answer")
    out = io.StringIO()
    console = Console(file=out, width=60, force_terminal=True, color_system=None)
    console.print(picture_of(run_of(ledger, run_id), Pace(per_hour=12.3, left_s=7200)))
    console.print(picture_of(run_of(ledger, run_id), Pace(per_hour=None, left_s=None), trouble="the ledger is away"))
    said = re.sub(r"\s+", " ", out.getvalue())
    for words in (
        "12 % 1 of 8 12.3 an hour",
        "about 2 hours left",
        "7 due, 1 done",
        "waits: the source pacs",
        "is away",
    ):
        assert words in said


def test_a_status_has_the_reasons_with_counts_and_the_first_uids(ledger: Ledger, tmp_path: Path) -> None:
    run_id = begin(ledger, tmp_path, name="hearts of 2024")
    for number in range(4):
        end(ledger, run_id, RunStudyState.FAILED, reason=f"the source gave {number} of 12 instances")
    end(ledger, run_id, RunStudyState.REFUSED, reason="a CT", permanent=True)
    told = command("status", "hearts of 2024")
    assert told.exit_code == 0, told.output
    assert "5 of 10 have ended" in told.output
    assert "the source gave … of 12 instances" in told.output
    assert uid_of(f"{run_id} 0") in told.output.replace("\n", "")
    found = json.loads(CliRunner().invoke(coread, ["archive", "status", run_id[:2], "--json"]).stdout)
    assert [(each["count"], each["is_permanent"]) for each in found["reasons"]] == [(4, False), (1, True)]
    assert found["counts"]["failed"] == 4
    assert found["warnings"]


def test_runs_are_listed(ledger: Ledger, tmp_path: Path) -> None:
    assert json.loads(command("list", "--json").output) == []
    begin(ledger, tmp_path)
    end(ledger, "abc1")
    assert re.search(r"abc1.*running.*hearts.*1 of 10", command("list").output)
    assert json.loads(command("list", "--json").output)[0]["run_id"] == "abc1"


def test_a_run_is_steered_in_the_name_of_who_asks(ledger: Ledger, tmp_path: Path) -> None:
    begin(ledger, tmp_path, studies=2)
    assert command("pause", "abc1", "--reason", "service").output == "run abc1 (hearts) is paused\n"
    assert run_of(ledger, "abc1").reason == "service"
    assert command("pause", "abc1").exit_code == 1
    assert command("resume", "hearts").exit_code == 0
    assert command("pace", "abc1", "--hours", "19:00-07:00", "--studies-per-minute", "3").exit_code == 0
    assert command("pace", "abc1", "--hours", "all").exit_code == 0
    terms = run_of(ledger, "abc1").terms
    assert (terms.hours, terms.studies_per_minute) == (None, 3.0)
    end(ledger, "abc1", RunStudyState.FAILED)
    end(ledger, "abc1", RunStudyState.REFUSED)
    assert command("retry", "abc1").output == "run abc1: 1 studies are due again\n"
    assert command("retry", "abc1", "--refused").exit_code == 0
    assert command("retry", "abc1").exit_code == 1
    assert command("cancel", "abc1").output == "run abc1 (hearts) is cancelled\n"
    assert "another name" in command("retry", "abc1").output
    assert {row.who for row in ledger.audit() if row.kind.value.startswith("run ")} <= {"ada", who_asks(), ""}


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("status", "dead"), "no run dead"),
        (("pace", "dead"), "say what is to change"),
        (("run", "none.jsonl"), "does not exist"),
    ],
)
def test_what_is_not_there_is_named(arguments: tuple[str, ...], words: str) -> None:
    done = command(*arguments)
    assert (done.exit_code, words in done.output) == (2, True), done.output


@pytest.mark.usefixtures("ledger")
def test_a_plan_that_is_none_or_wishes_that_are_odd_are_named(tmp_path: Path) -> None:
    (tmp_path / "plan.jsonl").write_text("{}\n")
    assert "expected a plan" in str(command("run", "plan.jsonl").exception)
    write_a_plan(tmp_path / "plan.jsonl", models=())
    assert "expected a model" in str(command("run", "plan.jsonl").exception)
    assert "expected hours" in str(command("run", "plan.jsonl", "--hours", "nights").exception)
    assert command("run", "plan.jsonl", "--detach", "--model", "left_ventricle_sax").exit_code == 0


def test_a_remote_ledger_is_refused_with_another_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "coread.toml").write_text('[ledger]\nurl = "http://orthanc.example:8042"\n')
    assert "/coread/ui/archives" in str(command("list").exception)


def test_a_line_says_all_of_a_run(ledger: Ledger, tmp_path: Path) -> None:
    begin(ledger, tmp_path, studies=8)
    end(ledger, "abc1")
    line = words_of(run_of(ledger, "abc1"), Pace(per_hour=60, left_s=420))
    assert line == "running: 12 %, 1 of 8 studies; 7 due, 1 done; 60 an hour; about 7 min left"


def test_while_the_ledger_is_away_the_following_goes_on(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = begin(ledger, tmp_path, studies=1)
    asked = 0
    know: Callable[..., Any] = Ledger.run

    def away_once(self: Ledger, run_id: str) -> Any:
        nonlocal asked
        asked += 1
        if asked == 4:
            raise LedgerUnavailable("the ledger's database does not answer")
        if asked == 6:
            end(ledger, run_id)
        return know(self, run_id)

    monkeypatch.setattr(Ledger, "run", away_once)
    done = command("status", run_id, "--follow")
    assert done.exit_code == 0
    assert "does not answer" in done.output
