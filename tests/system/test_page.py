"""The worklist's page in Chromium, over a real Orthanc and a real worker."""

import base64
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pydicom
import pytest
from highdicom.color import CIELabColor
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Route, expect
from pydicom.dataset import Dataset

from coread.dicom_sr.validation.run import validate_files
from coread.phantom import write_unfit_study
from tests.browser import accessibility_problems, chromium, opened
from tests.system.conftest import System
from tests.system.test_main_job import phantom_images

EVIL = "<img src=x onerror=document.title='run'>"
READING_MS = 90_000
STORED_MS = 60_000
OUTLINED_PIXELS = 200
REJECTED = ("113001", "DCM")
PHONE = {"width": 360, "height": 740}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the page showed while a study was read."""

    empty: str
    states: list[str]
    was_loaded_again: bool
    problems: list[str]
    orthanc_id: str


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def row_of(page: Page, text: str) -> Locator:
    return page.locator(".row", has_text=text)


def badge(place: Locator) -> Locator:
    return place.locator(".badge").first


@pytest.fixture(scope="module")
def seen(system: System, browser: Browser) -> Seen:
    """A study that arrived, was read and is done, before the eyes of somebody who looks at the list."""
    with opened(browser, f"{system.running.http_url}/coread/ui") as watched:
        page = watched.page
        page.wait_for_selector(".nothing button, .nothing p.sub")
        empty = page.inner_text(".nothing")
        page.evaluate(
            """() => {
                window.isTheSame = true;
                window.states = [];
                const look = () => {
                    const text = document.querySelector(".row .badge")?.textContent;
                    if (text && text !== window.states.at(-1)) window.states.push(text);
                };
                const all = { subtree: true, childList: true, characterData: true };
                new MutationObserver(look).observe(document.body, all);
            }"""
        )
        images = phantom_images("evil", patient_name="Curie^<i>Marie</i>", patient_id=EVIL)
        for image in images:
            image.StudyDescription, image.AccessionNumber = EVIL, "<script>"
        study = system.send(images)
        expect(badge(row_of(page, "Curie"))).to_have_text("Done", timeout=READING_MS)
        return Seen(
            empty=empty,
            states=page.evaluate("window.states"),
            was_loaded_again=not page.evaluate("window.isTheSame"),
            problems=[*watched.problems, *(["it ran"] if page.title() == "run" else [])],
            orthanc_id=str(system.archive.find_study(study)),
        )


def test_a_study_arrives_and_turns_to_done_without_a_reload(seen: Seen) -> None:
    assert "No studies yet" in seen.empty
    assert seen.states[-1] == "Done"
    assert {"Arriving", "Queued", "Waiting", "Being read", "Storing"} & set(seen.states[:-1])
    assert not seen.was_loaded_again


def test_what_stands_in_a_header_is_text_and_nothing_of_it_runs(system: System, browser: Browser, seen: Seen) -> None:
    assert seen.problems == []
    with opened(browser, f"{system.running.http_url}/coread/ui") as watched:
        row = row_of(watched.page, "Curie")
        expect(row.locator(".patient")).to_contain_text(EVIL)
        expect(row.locator(".study")).to_contain_text(EVIL)
        expect(row.locator("a.name")).to_have_text("Curie, <i>Marie</i>")
        row.click()
        expect(watched.page.locator(".facts").first).to_contain_text(EVIL)
        assert watched.page.locator("img").count() == watched.page.locator(".pictures img").count()
        assert watched.problems == []


def test_nothing_is_offered_until_it_is_known_who_looks(system: System, browser: Browser, seen: Seen) -> None:
    with opened(browser, f"{system.running.http_url}/coread/ui") as watched:
        page = watched.page
        page.goto("about:blank")  # what the first page still asks is not held
        held: list[Route] = []
        page.route("**/coread/me", lambda route: held.append(route))  # Playwright takes no built-in
        page.goto(f"{system.running.http_url}/coread/ui/study/{seen.orthanc_id}")
        expect(page.locator(".job")).to_be_visible()
        assert page.locator(".job button").count() == 0
        held[0].continue_()
        expect(page.locator(".job button").first).to_be_visible()


def test_the_keyboard_alone_leads_to_the_findings_and_back(system: System, browser: Browser, seen: Seen) -> None:
    with opened(browser, f"{system.running.http_url}/coread/ui") as watched:
        page = watched.page
        expect(row_of(page, "Curie")).to_be_visible()
        page.keyboard.press("/")
        expect(page.locator("input[type=search]")).to_be_focused()
        page.keyboard.type("marie curie")
        expect(page).to_have_url(re.compile(r"search=marie\+curie"))
        for _ in range(30):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.classList.contains('row')"):
                break
        expect(row_of(page, "Curie")).to_be_focused()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        expect(page.locator("h1", has_text="Curie")).to_be_focused()
        expect(page).to_have_url(re.compile(f"/coread/ui/study/{seen.orthanc_id}$"))
        expect(page.locator(".findings li").first).to_contain_text("ml")
        page.go_back()
        expect(page.locator("input[type=search]")).to_have_value("marie curie")
        expect(page.locator(".row")).to_have_count(1)
        assert watched.problems == []


def test_a_study_s_page_has_findings_timings_history_and_the_dicom_results(
    system: System, browser: Browser, seen: Seen
) -> None:
    with opened(browser, f"{system.running.http_url}/coread/ui/study/{seen.orthanc_id}") as watched:
        page = watched.page
        job = page.locator(".job")
        expect(job.locator(".key-finding")).to_contain_text("ml")
        expect(job.locator(".tag.research")).to_have_text("RESEARCH")
        page.locator(".how summary").click()
        expect(job.locator(".timings tbody tr").first).to_be_visible()
        expect(job.locator(".history li")).to_have_count(5)
        links = [link.get_attribute("href") for link in job.locator(".results a").all()]
        assert len(links) == 3
        for link in links:
            file = httpx.get(f"{system.running.http_url}{link}", trust_env=False).content
            assert file[128:132] == b"DICM"


def test_the_outlines_are_on_the_picture_in_the_segments_colours(
    system: System, browser: Browser, seen: Seen, tmp_path: Path
) -> None:
    segmentation = next(each for each in study_files(system, seen, tmp_path).values() if each.Modality == "SEG")
    colours = {str(each.SegmentLabel): colour_of(each) for each in segmentation.SegmentSequence}
    with opened(browser, f"{system.running.http_url}/coread/ui/study/{seen.orthanc_id}") as watched:
        picture = watched.page.locator(".pictures img").first
        picture.scroll_into_view_if_needed()
        pixels = shown_pixels(picture)
        assert watched.problems == []
    above_legend = pixels[: int(0.9 * len(pixels))]
    cavity, myocardium = (
        np.argwhere((np.abs(above_legend - colours[f"Left ventricular {name}"]) <= 2).all(axis=-1))
        for name in ("cavity", "myocardium")
    )
    assert min(len(cavity), len(myocardium)) > OUTLINED_PIXELS
    assert (myocardium.min(axis=0) < cavity.min(axis=0)).all()
    assert (myocardium.max(axis=0) > cavity.max(axis=0)).all()
    row, column = cavity.mean(axis=0).astype(int)
    muscle = (cavity[:, 1].max() + myocardium[:, 1].max()) // 2
    assert pixels[row, column].mean() > pixels[row, muscle].mean() + 50, "blood is brighter than muscle"


def shown_pixels(picture: Locator) -> NDArray[np.int16]:
    """What the browser shows, at the size of the file: (row, column, channel)."""
    encoded = picture.evaluate(
        """async (image) => {
            await image.decode();
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            canvas.getContext("2d").drawImage(image, 0, 0);
            return canvas.toDataURL().split(",")[1];
        }"""
    )
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"), np.int16)


def colour_of(segment: Dataset) -> NDArray[np.int16]:
    """The segment's recommended display colour, RGB."""
    return np.round(CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue).to_rgb()).astype(np.int16)


def study_files(system: System, seen: Seen, folder: Path) -> dict[Path, Dataset]:
    """The study's objects as Orthanc gives them out, written into a folder."""
    found: dict[Path, Dataset] = {}
    for series in system.archive.study(seen.orthanc_id).series:
        for number, content in enumerate(system.archive.files(list(series.instances))):
            path = folder / f"{series.tags['Modality']}-{series.orthanc_id}-{number}.dcm"
            path.write_bytes(content)
            found[path] = pydicom.dcmread(path)
    return found


def test_an_acceptance_and_a_rejection_are_valid_dicom_in_the_study(
    system: System, browser: Browser, seen: Seen, tmp_path: Path
) -> None:
    with opened(browser, f"{system.running.http_url}/coread/ui/study/{seen.orthanc_id}") as watched:
        page = watched.page
        page.click("text=Accept …")
        expect(page.locator("dialog [name=family]")).to_be_focused()
        page.keyboard.type("Meitner")
        page.locator("dialog [name=given]").fill("Lise")
        page.keyboard.press("Enter")
        accepted = page.locator(".reviews li", has_text="Accepted by Meitner, Lise")
        expect(accepted).to_contain_text("stored in DICOM", timeout=STORED_MS)
        page.click("text=Reject …")
        expect(page.locator("dialog [type=radio]").first).to_be_focused()
        page.keyboard.press("Space")
        page.locator("dialog textarea").fill("the apex is missing")
        page.locator("dialog [type=submit]").click()
        rejected = page.locator(".reviews li", has_text="Rejected")
        expect(rejected).to_contain_text("the apex is missing")
        expect(rejected).to_contain_text("stored in DICOM", timeout=STORED_MS)
        page.click("text=Worklist")
        expect(row_of(page, "Curie").locator("[data-review]")).to_have_text("Rejected")
        assert watched.problems == []
    files = study_files(system, seen, tmp_path)
    verified = {path for path, each in files.items() if each.get("VerificationFlag") == "VERIFIED"}
    notes = {path for path, each in files.items() if is_rejection(each)}
    assert len(notes) == 1
    names = {str(files[path].VerifyingObserverSequence[0].VerifyingObserverName) for path in verified}
    assert names == {"Meitner^Lise"}
    source = tmp_path / "source"
    source.mkdir()
    for path in list(files):
        if path.name.startswith("MR-"):
            path.rename(source / path.name)
            del files[path]
    judged = {each.file: each for each in validate_files(list(files), source=source)}
    assert [each.problems for path, each in judged.items() if path in verified | notes and each.problems] == []


def is_rejection(dataset: Dataset) -> bool:
    """Whether it is a Key Object Selection of what is rejected for quality reasons."""
    if dataset.Modality != "KO":
        return False
    (title,) = dataset.ConceptNameCodeSequence
    return (title.CodeValue, title.CodingSchemeDesignator) == REJECTED


def test_a_search_that_nothing_matches_says_so_and_stands_in_the_address(
    system: System, browser: Browser, seen: Seen
) -> None:
    assert seen.orthanc_id
    with opened(browser, f"{system.running.http_url}/coread/ui?search=nobody&state=failed") as watched:
        page = watched.page
        expect(page.locator(".nothing")).to_contain_text("No study matches")
        expect(page.locator("input[type=search]")).to_have_value("nobody")
        page.click("text=Show all studies")
        expect(row_of(page, "Curie")).to_be_visible()
        assert "search" not in page.url


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 720}, PHONE], ids=["wide", "phone"])
def test_nobody_is_kept_out_and_nothing_is_cut_off(
    system: System, browser: Browser, seen: Seen, scheme: str, viewport: dict[str, int]
) -> None:
    with opened(browser, f"{system.running.http_url}/coread/ui", color_scheme=scheme, viewport=viewport) as watched:
        page = watched.page
        expect(row_of(page, "Curie")).to_be_visible()
        assert accessibility_problems(page) == []
        assert not overflows(page)
        if viewport == PHONE:
            page.click("text=Filter")
            assert not overflows(page)
        page.goto(f"{system.running.http_url}/coread/ui/study/{seen.orthanc_id}")
        page.locator(".how summary").click()
        assert accessibility_problems(page) == []
        assert not overflows(page)
        page.click("text=Accept …")
        expect(page.locator("dialog")).to_be_visible()
        assert accessibility_problems(page) == []
        assert not overflows(page)
        assert watched.problems == []


def overflows(page: Page) -> bool:
    """Whether anything stands out to the side, of the page or of what scrolls in it."""
    return bool(
        page.evaluate(
            """() => [document.documentElement, ...document.querySelectorAll("main, .box, dialog")]
                .some((each) => each.scrollWidth > each.clientWidth)"""
        )
    )


def test_a_dialog_keeps_the_focus_and_gives_it_back(system: System, browser: Browser, seen: Seen) -> None:
    with opened(browser, f"{system.running.http_url}/coread/ui/study/{seen.orthanc_id}") as watched:
        page = watched.page
        page.click("text=Accept …")
        expect(page.locator("dialog")).to_be_visible()
        for _ in range(12):
            page.keyboard.press("Tab")
            # After the last of the dialog comes the browser's own window, and nothing behind the dialog.
            behind = "document.activeElement.closest('main, header') && !document.activeElement.closest('dialog')"
            assert not page.evaluate(behind)
        page.keyboard.press("Escape")
        expect(page.locator("dialog")).to_have_count(0)
        expect(page.locator("text=Accept …")).to_be_focused()


def test_a_refusal_says_why_and_what_to_do(system: System, browser: Browser, seen: Seen, tmp_path: Path) -> None:
    assert seen.orthanc_id
    study = system.send([pydicom.dcmread(path) for path in write_unfit_study(tmp_path)])
    assert system.job(study)["state"] == "refused"
    with opened(browser, f"{system.running.http_url}/coread/ui?state=refused") as watched:
        row_of(watched.page, "PHANTOM").click()
        outcome = watched.page.locator(".outcome")
        expect(outcome).to_contain_text("it is not what the model was made for")
        expect(outcome).to_contain_text("expected a short-axis cardiac MR series", ignore_case=True)
        expect(outcome).to_contain_text("What to do")
        expect(watched.page.locator("button", has_text="Retry")).to_be_visible()


def test_while_orthanc_is_away_the_page_says_so_and_goes_on_when_it_is_back(
    system: System, browser: Browser, seen: Seen
) -> None:
    assert seen.orthanc_id
    with opened(browser, f"{system.running.http_url}/coread/ui") as watched:
        page = watched.page
        expect(row_of(page, "Curie")).to_be_visible()
        system.kill("orthanc")
        expect(page.locator(".notice.bad")).to_contain_text("Orthanc does not answer")
        expect(row_of(page, "Curie")).to_be_visible()
        health = f"{system.running.http_url}/coread/health"
        system.wait(lambda: httpx.get(health, trust_env=False).is_success)
        expect(page.locator(".notice")).to_have_count(0)
        assert watched.problems == []


def test_a_person_makes_a_reading_urgent_cancels_it_and_has_it_after_all(system: System, browser: Browser) -> None:
    system.kill("worker")  # so that it waits for the person
    with opened(browser, f"{system.running.http_url}/coread/ui") as watched:
        page = watched.page
        system.send(phantom_images("by hand", patient_name="Noether^Emmy", patient_id="by hand"))
        expect(badge(row_of(page, "Noether"))).to_have_text("Queued")
        row_of(page, "Noether").click()
        page.locator(".job select").select_option("stat")
        expect(page.locator(".study-head .tag.stat")).to_be_visible()
        page.click("text=Cancel …")
        page.locator("dialog button", has_text="Cancel the reading").click()
        expect(badge(page.locator(".job"))).to_have_text("Cancelled")
        expect(page.locator(".outcome")).to_contain_text("A person withdrew the reading")
        page.locator("button", has_text="Retry").click()
        expect(badge(page.locator(".job"))).to_have_text(re.compile("Waiting|Queued"))
        page.click("text=Worklist")
        expect(badge(row_of(page, "Noether"))).to_have_text("Queued")
        assert watched.problems == []
