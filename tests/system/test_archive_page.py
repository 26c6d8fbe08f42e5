"""The page of archive runs in Chromium, over a real Orthanc; the ledger's rows are moved as the archivist does it."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from coread.archive_run import RunState, RunStudyState
from coread.ledger import Ledger
from coread.settings import load_settings
from coread.supervisor import Supervisor
from tests.archive_runs import attend, begin, end, finish, run_of, take
from tests.browser import accessibility_problems, chromium, opened
from tests.support import program, uid_of
from tests.system.test_page import PHONE, overflows

SETTINGS = """
data_folder = "data"
[orthanc]
http_port = 0
dicom_port = 0
password = "coread-secret"
[worker]
processes = 0
[access.users.ruth]
password = "ruth-secret"
[access.users.adam]
role = "admin"
password = "adam-secret"
"""
READER = {"username": "ruth", "password": "ruth-secret"}
ADMIN = {"username": "adam", "password": "adam-secret"}
GAVE = "the source pacs gave {} of 12 instances of study {}; look whether it is being moved"
STUDIES = 120


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """An Orthanc with people, and no worker."""
    program("Orthanc")
    folder = tmp_path_factory.mktemp("archives")
    (folder / "coread.toml").write_text(SETTINGS)
    with Supervisor(load_settings(folder / "coread.toml"), settings_file=folder / "coread.toml") as running:
        yield running


@pytest.fixture(scope="module")
def ledger(running: Supervisor) -> Iterator[Ledger]:
    ledger = Ledger(running.settings.ledger_url)
    yield ledger
    ledger.close()


@pytest.fixture(scope="module")
def a_run(running: Supervisor, ledger: Ledger) -> str:
    """A run some way along, as one is met: done, refused, failed for two reasons, under way, due."""
    folder = running.settings.data_folder / "out"
    run_id = begin(ledger, folder, run_id="beef", name="Cardiac MR, 2015 to 2024", studies=STUDIES, hours="00:00-24:00")
    for _ in range(60):
        end(ledger, run_id)
    for _ in range(7):
        reason = "expected a short-axis cardiac MR series, found none among 4 series"
        end(ledger, run_id, RunStudyState.REFUSED, reason=reason, permanent=True)
    for number in range(4):
        end(ledger, run_id, RunStudyState.FAILED, reason=GAVE.format(number + 3, uid_of(f"lost {number}")))
    take(ledger, run_id)
    return run_id


def url_of(running: Supervisor, *parts: str) -> str:
    return "/".join((running.page_url, "archives", *parts))


def badge(place: Page | Locator) -> Locator:
    return place.locator(".badge").first


def keep(page: Page, name: str) -> None:
    """Keep a screenshot in the folder that COREAD_SCREENSHOTS names, if it names one."""
    if folder := os.environ.get("COREAD_SCREENSHOTS"):
        page.evaluate("document.activeElement.blur()")
        page.screenshot(path=Path(folder) / f"{name}.png")


def test_without_runs_the_page_says_how_one_is_begun(running: Supervisor, ledger: Ledger, browser: Browser) -> None:
    assert ledger.runs() == []
    with opened(browser, url_of(running), http_credentials=READER) as watched:
        page = watched.page
        expect(page.locator(".nothing")).to_contain_text("No archive runs yet")
        expect(page.locator(".nothing")).to_contain_text("coread archive plan")
        expect(page.locator("h1")).to_be_focused()
        page.goto(url_of(running, "dead"))
        expect(page.locator("h1")).to_have_text("This run is not here")
        assert watched.problems == []


def test_a_run_progresses_on_the_page_without_a_reload(running: Supervisor, ledger: Ledger, browser: Browser) -> None:
    run_id = begin(ledger, running.settings.data_folder, run_id="f00d", name="Short", studies=4)
    with opened(browser, url_of(running), http_credentials=READER) as watched:
        page = watched.page
        page.evaluate("window.isTheSame = true")
        card = page.locator(f"[data-run='{run_id}']")
        expect(card.locator(".counts")).to_have_text("4 due")
        study = take(ledger, run_id)
        expect(card.locator(".counts")).to_have_text("1 under way · 3 due")
        page.click("text=Short")
        expect(page).to_have_url(url_of(running, run_id))
        expect(page.locator("h1")).to_be_focused()
        row = page.locator(".studies tbody tr").first
        expect(row).to_contain_text(study.study_instance_uid)
        expect(badge(row)).to_have_text("Being retrieved")
        end(ledger, run_id)
        expect(page.locator(".figures")).to_contain_text("1 of 4 studies")
        expect(page.locator(".rate")).to_have_text(re.compile("an hour"))
        expect(page.locator(".left")).to_have_text(re.compile("about .* left"))
        ledger.note_waits(run_id, waits_for="the source pacs does not answer")
        expect(page.locator(".waits")).to_have_text("Waits: The source pacs does not answer.")
        end(ledger, run_id, RunStudyState.FAILED, reason="the source does not know it", permanent=True)
        expect(page.locator(".reasons")).to_contain_text("The source does not know it.")
        end(ledger, run_id)
        finish(ledger, study, RunStudyState.FAILED, reason="gone")
        expect(badge(page.locator(".study-head"))).to_have_text("Finished")
        expect(page.locator("[role=progressbar]")).to_have_attribute("aria-valuenow", "100")
        expect(page.locator("[role=status]").last).to_have_text("Now: Finished")
        assert page.evaluate("window.isTheSame")
        assert watched.problems == []


def test_a_failure_s_reason_is_read_and_its_studies_are_found(
    running: Supervisor, browser: Browser, a_run: str
) -> None:
    with opened(browser, url_of(running, a_run), http_credentials=READER) as watched:
        page = watched.page
        failed = page.locator(".reasons > li", has_text="4 failed")
        expect(failed).to_contain_text(
            "The source pacs gave … of 12 instances of study …; look whether it is being moved."
        )
        expect(failed).to_contain_text("another attempt may help")
        refused = page.locator(".reasons > li", has_text="7 refused")
        expect(refused).to_contain_text("another attempt would end the same")
        refused.locator("summary").click()
        expect(refused.locator("li.code").first).to_have_text(uid_of(f"{a_run} 60"))
        page.locator(".chip", has_text="Failed").click()
        expect(page.locator(".studies tbody tr")).to_have_count(4)
        expect(page.locator(".studies tbody tr").first).to_contain_text("gave 3 of 12 instances")
        page.locator(".chip", has_text="All").click()
        expect(page.locator(".studies tbody tr")).to_have_count(50)
        for first in ("51", "101"):
            page.click("text=Next")
            expect(page.locator(".studies .number").nth(1)).to_have_text(first)
        expect(page.locator("button", has_text="Next")).to_be_disabled()
        page.click("text=Previous")
        expect(page.locator(".studies .number").nth(1)).to_have_text("51")
        assert watched.problems == []


def test_a_reader_may_only_look(running: Supervisor, browser: Browser, a_run: str) -> None:
    with opened(browser, url_of(running, a_run), http_credentials=READER) as watched:
        expect(watched.page.locator(".who")).to_contain_text("ruth")
        expect(watched.page.locator(".studies")).to_be_visible()
        expect(watched.page.locator("main button", has_text=re.compile("Pause|Cancel|Retry|Pace"))).to_have_count(0)
    path = f"{running.http_url}/coread/archive/runs/{a_run}/pause"
    assert httpx.post(path, json={}, auth=("ruth", "ruth-secret"), trust_env=False).status_code == 403


def test_an_admin_pauses_resumes_paces_retries_and_cancels(
    running: Supervisor, ledger: Ledger, browser: Browser
) -> None:
    run_id = begin(ledger, running.settings.data_folder, run_id="cafe", name="Steered", studies=5)
    end(ledger, run_id, RunStudyState.FAILED, reason="the source does not answer")
    end(ledger, run_id, RunStudyState.REFUSED, reason="a CT")
    with opened(browser, url_of(running, run_id), http_credentials=ADMIN) as watched:
        page = watched.page
        state = badge(page.locator(".study-head"))
        page.click("text=Pause")
        expect(state).to_have_text("Paused")
        assert run_of(ledger, run_id).state is RunState.PAUSED
        page.click("text=Pace …")
        expect(page.locator("dialog [name=hours]")).to_be_focused()
        page.keyboard.type("at night")
        page.keyboard.press("Enter")
        expect(page.locator("dialog [name=hours]:invalid")).to_be_visible()
        page.locator("dialog [name=hours]").fill("19:00-07:00")
        page.locator("dialog [name=studies_per_minute]").fill("2.5")
        page.keyboard.press("Enter")
        expect(page.locator(".facts")).to_contain_text("19:00-07:00")
        terms = run_of(ledger, run_id).terms
        assert (terms.hours, terms.studies_per_minute, terms.in_flight) == ("19:00-07:00", 2.5, 8)
        page.click("text=Resume")
        expect(state).to_have_text("Running")
        page.click("text=Retry 1 failed")
        expect(page.locator(".counts").first).to_have_text("1 refused · 4 due")
        page.click("text=Retry 1 refused")
        page.locator("dialog button", has_text="Retry").click()
        expect(page.locator(".counts").first).to_have_text("5 due")
        page.click("text=Cancel …")
        page.keyboard.press("Escape")
        expect(page.locator("dialog")).to_have_count(0)
        expect(page.locator("text=Cancel …")).to_be_focused()
        page.click("text=Cancel …")
        page.locator("dialog button", has_text="Cancel the run").click()
        expect(state).to_have_text("Cancelled")
        expect(page.locator("main button", has_text=re.compile("Pause|Resume|Cancel|Pace"))).to_have_count(0)
        assert watched.problems == []
    assert {row.who for row in ledger.audit() if row.details.get("run_id") == run_id} >= {"adam"}


def test_the_report_opens_from_the_run(running: Supervisor, browser: Browser, a_run: str) -> None:
    folder = running.settings.data_folder / "out" / "report"
    folder.mkdir(parents=True)
    style = "<style>h1 { color: rgb(1, 2, 3); }</style>"
    (folder / "report.html").write_text(f"<!doctype html>{style}<h1>Found</h1><script>document.title = 'run'</script>")
    with opened(browser, url_of(running, a_run), http_credentials=READER) as watched:
        with watched.page.expect_popup() as shown:
            watched.page.click("text=Open the report")
        heading = shown.value.locator("h1")
        expect(heading).to_have_text("Found")
        expect(heading).to_have_css("color", "rgb(1, 2, 3)")
        assert shown.value.title() != "run"


WIDE = {"width": 1280, "height": 800}


@pytest.mark.parametrize(
    ("viewport", "scheme"),
    [
        pytest.param(WIDE, "light", id="wide, light"),
        pytest.param(PHONE, "dark", id="phone, dark"),
        pytest.param(WIDE, "dark", id="wide, dark", marks=pytest.mark.slow),
        pytest.param(PHONE, "light", id="phone, light", marks=pytest.mark.slow),
    ],
)
def test_nobody_is_kept_out_and_nothing_is_cut_off(
    running: Supervisor, ledger: Ledger, browser: Browser, a_run: str, viewport: dict[str, int], scheme: str
) -> None:
    attend(ledger)
    said = {"color_scheme": scheme, "viewport": viewport, "http_credentials": ADMIN}
    with opened(browser, url_of(running), **said) as watched:
        page = watched.page
        expect(page.locator(f"[data-run='{a_run}']")).to_be_visible()
        assert accessibility_problems(page) == []
        assert not overflows(page)
        page.goto(url_of(running, a_run))
        expect(page.locator(".studies tbody tr")).to_have_count(50)
        expect(page.locator(".reasons > li")).to_have_count(2)
        keep(page, f"archive-{scheme}-{viewport['width']}")
        page.locator(".reasons summary").first.click()
        assert accessibility_problems(page) == []
        assert not overflows(page)
        page.click("text=Pace …")
        expect(page.locator("dialog")).to_be_visible()
        assert accessibility_problems(page) == []
        assert not overflows(page)
        assert watched.problems == []


def test_the_keyboard_alone_leads_from_the_worklist_to_a_run_and_back(
    running: Supervisor, browser: Browser, a_run: str
) -> None:
    with opened(browser, running.page_url, http_credentials=READER) as watched:
        page = watched.page
        expect(page.locator(".parts [aria-current=page]")).to_have_text("Worklist")
        page.locator(".parts a", has_text="Archives").focus()
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_be_focused()
        expect(page.locator(".parts [aria-current=page]")).to_have_text("Archives")
        page.locator(f"[data-run='{a_run}'] a").focus()
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_have_text("Cardiac MR, 2015 to 2024")
        page.go_back()
        expect(page.locator("h1")).to_have_text("Archives")
        page.go_back()
        expect(page.locator("input[type=search]")).to_be_visible()
        assert watched.problems == []


@pytest.mark.slow
def test_while_orthanc_is_away_the_run_stays_and_the_page_says_so(
    running: Supervisor, browser: Browser, a_run: str
) -> None:
    with opened(browser, url_of(running, a_run), http_credentials=READER) as watched:
        page = watched.page
        expect(page.locator(".studies tbody tr")).to_have_count(50)
        (orthanc,) = (child for child in running._children if child.name == "orthanc")
        assert orthanc.process is not None
        orthanc.process.kill()
        orthanc.process.wait()
        expect(page.locator(".notice.bad")).to_contain_text("Orthanc does not answer")
        expect(page.locator(".studies tbody tr")).to_have_count(50)
        running.watch(lambda: page.locator(".notice.bad").count() == 0, pause_s=0.2)
        assert watched.problems == []
