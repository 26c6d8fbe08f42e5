"""Archive runs over REST: what is told of them, how they are begun and steered, and what is refused."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coread.archive_run import RunState, RunStudyState
from coread.archive_terms import run_id_of
from coread.audit.event import AuditKind
from coread.cohort.plan import read_plan
from coread.ledger import Ledger
from coread.plugin import archive_runs
from coread.plugin.archive_runs import LARGEST, register_archive_runs
from coread.plugin.gate import Gate, Role
from coread.settings import Settings
from coread.settings_access import AccessSettings, UserSettings
from tests.archive_runs import begin, end, run_of, terms, write_a_plan
from tests.support import uid_of
from tests.unit.test_audit_rest import ADA

RUN = "/coread/archive/runs/([0-9a-f]+)"
RUNS = "/coread/archive/runs"


class Output:
    """What Orthanc hands to a handler."""

    def __init__(self) -> None:
        self.status = 200
        self.body: Any = None
        self.kind = ""
        self.headers: dict[str, str] = {}

    def SetHttpHeader(self, name: str, value: str) -> None:  # noqa: N802  # Orthanc's name
        self.headers[name] = value

    def AnswerBuffer(self, content: Any, kind: str) -> None:  # noqa: N802
        self.kind, self.body = kind, json.loads(content) if "json" in kind else content

    def SendHttpStatus(self, status: int, text: str, _length: int) -> None:  # noqa: N802
        self.status, self.body = status, json.loads(text)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    ledger.migrate()
    return ledger


@pytest.fixture
def ask(ledger: Ledger, tmp_path: Path) -> Callable[..., Output]:
    handlers: dict[str, Callable[..., None]] = {}
    orthanc = SimpleNamespace(RegisterRestCallback=handlers.__setitem__)
    register_archive_runs(Gate(orthanc, asks_users=True), ledger, settings=Settings(data_folder=tmp_path))

    def asked(path: str, *groups: str, method: str = "GET", get: Mapping[str, str] = {}, body: Any = None) -> Output:
        output = Output()
        sent = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        handlers[path](output, path, method=method, groups=groups, get=get, body=sent, **ADA)
        return output

    return asked


def post(ask: Callable[..., Output], wish: str, body: Any = None) -> Output:
    if wish in ("pause", "resume", "cancel"):
        return ask(f"{RUN}/(pause|resume|cancel)", "abc1", wish, method="POST", body=body)
    return ask(f"{RUN}/{wish}", "abc1", method="POST", body=body)


def test_a_run_is_told_with_its_counts_rate_and_time_left(
    ledger: Ledger, ask: Callable[..., Output], tmp_path: Path
) -> None:
    begin(ledger, tmp_path, studies=4)
    end(ledger, "abc1")
    end(ledger, "abc1", RunStudyState.FAILED, reason="gone")
    (listed,) = ask(RUNS).body["runs"]
    assert (listed["counts"]["done"], listed["counts"]["failed"], listed["counts"]["due"]) == (1, 1, 2)
    assert listed["left_s"] == pytest.approx(3600 * 2 / listed["per_hour"])
    assert listed["report"] is False
    told = ask(RUN, "abc1").body
    assert told["archivist_is_silent"] is False
    assert told["terms"] == listed["terms"]


def test_a_silent_archivist_is_told_of(ask: Callable[..., Output]) -> None:
    assert ask(RUNS).body == {"runs": [], "archivist_is_silent": True}


def test_where_files_lie_on_the_server_is_told_to_admins_alone(ledger: Ledger, tmp_path: Path) -> None:
    folder, key_file = tmp_path / "out", tmp_path / "out" / "secret.key"
    begin(ledger, folder, key_file=str(key_file))
    ledger.pause_run("abc1", by="test", reason=f"expected the key file {key_file} by which", at=datetime.now(UTC))
    handlers: dict[str, Callable[..., None]] = {}
    orthanc = SimpleNamespace(RegisterRestCallback=handlers.__setitem__)
    access = AccessSettings(users={"ada": UserSettings(role=Role.READER)})
    register_archive_runs(
        Gate(orthanc, asks_users=True, access=access), ledger, settings=Settings(data_folder=tmp_path)
    )
    for path, groups in ((RUNS, ()), (RUN, ("abc1",)), (f"{RUN}/report", ("abc1",))):
        told = Output()
        handlers[path](told, path, method="GET", groups=groups, get={}, body=b"", **ADA)
        assert str(tmp_path) not in json.dumps(told.body)
        assert path == f"{RUN}/report" or "expected the key file … by which" in json.dumps(
            told.body, ensure_ascii=False
        )


def test_an_admin_is_told_where_files_lie(ledger: Ledger, ask: Callable[..., Output], tmp_path: Path) -> None:
    begin(ledger, tmp_path / "out", key_file=str(tmp_path / "key"))
    terms = ask(RUN, "abc1").body["terms"]
    assert (terms["folder"], terms["key_file"]) == (str(tmp_path / "out"), str(tmp_path / "key"))


def test_studies_are_told_in_pages_and_by_state(ledger: Ledger, ask: Callable[..., Output], tmp_path: Path) -> None:
    begin(ledger, tmp_path, studies=5)
    end(ledger, "abc1", RunStudyState.REFUSED, reason="a CT", permanent=True)
    first = ask(f"{RUN}/studies", "abc1", get={"limit": "2"}).body
    second = ask(f"{RUN}/studies", "abc1", get={"limit": "2", "after": str(first[-1]["position"])}).body
    assert [study["position"] for study in (*first, *second)] == [0, 1, 2, 3]
    (refused,) = ask(f"{RUN}/studies", "abc1", get={"state": "refused,failed"}).body
    assert (refused["reason"], refused["study_instance_uid"]) == ("a CT", uid_of("abc1 0"))
    for odd in ({"state": "lost"}, {"limit": "many"}, {"after": "x"}, {"after": "-2"}, {"after": "1" * 30}):
        assert ask(f"{RUN}/studies", "abc1", get=odd).status == 400


def test_reasons_are_grouped(ledger: Ledger, ask: Callable[..., Output], tmp_path: Path) -> None:
    begin(ledger, tmp_path)
    for number in range(3):
        end(ledger, "abc1", RunStudyState.FAILED, reason=f"{number} of 9 instances")
    told = ask(f"{RUN}/reasons", "abc1").body
    assert told["looked_at"] == 3
    assert [(each["count"], each["reason"]) for each in told["reasons"]] == [(3, "… of 9 instances")]


def test_a_run_is_paused_resumed_and_cancelled_in_the_name_of_who_asks(
    ledger: Ledger, ask: Callable[..., Output], tmp_path: Path
) -> None:
    begin(ledger, tmp_path)
    assert post(ask, "pause", {"reason": "service"}).body["reason"] == "service"
    assert post(ask, "pause").status == 409
    assert post(ask, "resume").body["state"] == RunState.RUNNING
    assert post(ask, "cancel").body["state"] == RunState.CANCELLED
    kinds = (AuditKind.RUN_PAUSED, AuditKind.RUN_RESUMED, AuditKind.RUN_CANCELLED)
    assert {row.who for row in ledger.audit() if row.kind in kinds} == {"ada"}
    assert len([row for row in ledger.audit() if row.kind in kinds]) == 3


def test_what_failed_is_retried_and_what_was_refused_if_asked_for(
    ledger: Ledger, ask: Callable[..., Output], tmp_path: Path
) -> None:
    begin(ledger, tmp_path, studies=2)
    end(ledger, "abc1", RunStudyState.FAILED)
    end(ledger, "abc1", RunStudyState.REFUSED)
    assert run_of(ledger, "abc1").state is RunState.FINISHED
    assert post(ask, "retry").body["due_again"] == 1
    assert run_of(ledger, "abc1").state is RunState.RUNNING
    assert post(ask, "retry", {"refused": True}).body["due_again"] == 1
    assert post(ask, "retry", {"refused": "yes"}).status == 400
    post(ask, "cancel")
    assert post(ask, "retry").status == 409


def test_of_the_pace_only_what_is_said_changes(ledger: Ledger, ask: Callable[..., Output], tmp_path: Path) -> None:
    begin(ledger, tmp_path, hours="19:00-07:00", in_flight=4)
    changed = post(ask, "pace", {"studies_per_minute": 2.5}).body["terms"]
    assert (changed["hours"], changed["studies_per_minute"], changed["in_flight"]) == ("19:00-07:00", 2.5, 4)
    assert post(ask, "pace", {"hours": None}).body["terms"]["hours"] is None
    for odd in ({"hours": "always"}, {"in_flight": 0}, {"associations": "many"}, {"models": ["other"]}):
        refused = post(ask, "pace", odd)
        assert refused.status == 400, odd
        assert "always" not in refused.body["error"]


def test_what_is_no_run_or_no_wish_is_named(ledger: Ledger, ask: Callable[..., Output], tmp_path: Path) -> None:
    assert ask(RUN, "dead").status == 404
    begin(ledger, tmp_path)
    for odd, status in ((b"[", 400), ([], 400), ({"why": "?"}, 400), ({"reason": 3}, 400), (b"[" * 700, 413)):
        assert post(ask, "pause", odd).status == status, odd
    assert post(ask, "pause", {"reason": "x" * 20_000}).status == 413
    assert run_of(ledger, "abc1").state is RunState.RUNNING


def test_the_report_is_given_as_a_page_of_which_nothing_runs(
    ledger: Ledger, ask: Callable[..., Output], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(ledger, tmp_path / "out")
    missing = ask(f"{RUN}/report", "abc1")
    assert (missing.status, "coread archive report abc1" in missing.body["error"]) == (404, True)
    (tmp_path / "out" / "report").mkdir(parents=True)
    (tmp_path / "out" / "report" / "report.html").write_text("<p>found</p>")
    told = ask(f"{RUN}/report", "abc1")
    assert (told.body, told.kind) == (b"<p>found</p>", "text/html; charset=utf-8")
    assert "sandbox" in told.headers["Content-Security-Policy"]
    assert "script-src" not in told.headers["Content-Security-Policy"]
    assert ask(RUN, "abc1").body["report"] is True
    monkeypatch.setattr(archive_runs, "LARGEST_REPORT", 3)
    assert ask(f"{RUN}/report", "abc1").status == 413


# Beginning -----------------------------------------------------------------------------------------------------------


def body_of(plan: Path, **said: Any) -> bytes:
    return json.dumps({"coread_run": 1, **said}).encode() + b"\n" + plan.read_bytes()


def test_a_plan_is_begun_once_however_often_it_is_sent(
    ledger: Ledger, ask: Callable[..., Output], tmp_path: Path
) -> None:
    plan = write_a_plan(tmp_path / "plan.jsonl", studies=3)
    first = ask(RUNS, method="POST", body=body_of(plan, hours="19:00-07:00"))
    again = ask(RUNS, method="POST", body=body_of(plan))
    assert (first.status, again.status) == (201, 200)
    (run,) = ledger.runs()
    assert run.run_id == first.body["run_id"] == run_id_of(read_plan(plan).digest, "hearts")
    assert (run.studies, run.terms.hours, run.created_by) == (3, "19:00-07:00", "ada")
    assert run.terms.folder == str(tmp_path / "archive" / run.run_id)
    assert list(tmp_path.glob("plan-*")) == []
    assert ask(RUNS, method="POST", body=body_of(plan, name="once more")).status == 201
    assert len(ledger.runs()) == 2


def test_other_terms_of_the_same_run_are_refused_another_pace_apart(
    ledger: Ledger, ask: Callable[..., Output], tmp_path: Path
) -> None:
    plan = write_a_plan(tmp_path / "plan.jsonl")
    ask(RUNS, method="POST", body=body_of(plan))
    other = ask(RUNS, method="POST", body=body_of(plan, keep_copies=True))
    assert (other.status, "other terms: keep_copies" in other.body["error"]) == (400, True)
    assert ask(RUNS, method="POST", body=body_of(plan, in_flight=3)).status == 200
    assert ledger.runs()[0].terms.in_flight == 8


@pytest.mark.parametrize(
    "said",
    [
        {"folder": "/etc"},
        {"key_file": "/etc/passwd"},
        {"hours": "at night"},
        {"models": []},
        {"models": ["no_such"]},
        {"destinations": ["nowhere"]},
        {"profiles": ["paper"]},
        {"name": "a\nb"},
        {"name": "x" * 101},
        {"studies_per_minute": -1},
        {"coread_run": 2},
    ],
    ids=str,
)
def test_odd_terms_begin_nothing(
    ledger: Ledger, ask: Callable[..., Output], tmp_path: Path, said: dict[str, Any]
) -> None:
    plan = write_a_plan(tmp_path / "plan.jsonl")
    assert ask(RUNS, method="POST", body=body_of(plan, **said)).status == 400
    assert ledger.runs() == []


def test_a_body_that_is_no_plan_begins_nothing(ledger: Ledger, ask: Callable[..., Output], tmp_path: Path) -> None:
    whole = body_of(write_a_plan(tmp_path / "plan.jsonl", studies=3))
    lines = whole.splitlines(keepends=True)
    deep = b'{"coread_run": 1}\n' + b"[" * 700 + b"\n"
    for odd in (b"", b"{}", lines[0], b"".join(lines[1:]), b"".join(lines[:-1]), whole[:-1], deep, b"\xff\n"):
        refused = ask(RUNS, method="POST", body=odd)
        assert refused.status == 400
        assert str(tmp_path) not in refused.body["error"]
    assert ledger.runs() == []


def test_a_plan_that_is_too_large_for_orthanc_is_sent_to_the_command(ask: Callable[..., Output]) -> None:
    refused = ask(RUNS, method="POST", body=b" " * (LARGEST + 1))
    assert (refused.status, "coread archive run" in refused.body["error"]) == (413, True)


def test_a_run_whose_loading_broke_off_is_loaded_to_its_end(
    ledger: Ledger, ask: Callable[..., Output], tmp_path: Path
) -> None:
    plan = write_a_plan(tmp_path / "plan.jsonl", studies=3)
    run_id = run_id_of(read_plan(plan).digest, "hearts")

    def broken() -> Any:
        yield uid_of("plan 0"), 12
        raise InterruptedError

    with pytest.raises(InterruptedError):
        begin_with(ledger, run_id, plan, broken())
    assert run_of(ledger, run_id).state is RunState.LOADING
    assert ask(RUNS, method="POST", body=body_of(plan)).status == 200
    assert (run_of(ledger, run_id).state, run_of(ledger, run_id).studies) == (RunState.RUNNING, 3)


def begin_with(ledger: Ledger, run_id: str, plan: Path, studies: Any) -> None:
    said: Any = {"name": "hearts", "plan_digest": read_plan(plan).digest, "by": "", "at": datetime.now(UTC)}
    ledger.start_run(run_id, terms=terms(plan.parent), studies=studies, **said)
