"""What a person sees in OHIF of a study that was read: the segmentation, and the key findings."""

import base64
import io
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from pydicom.dataset import Dataset
from scipy import ndimage

from coread import ohif
from coread.dicom_sr.decode import frame_geometries, frames_of
from coread.phantom import short_axis_volume
from coread.settings import Settings, load_settings
from coread.supervisor import Supervisor
from tests.browser import chromium, opened
from tests.support import images_of, program
from tests.system.conftest import SETTINGS, System

ROOT = Path(__file__).parents[2]
VIEWER = Settings().viewer_home
"""Where `make test` installs OHIF: in the data folder of this checkout."""
pytestmark = pytest.mark.slow
SLOW_MS = 60_000
"""OHIF reads 10 MB of scripts, and draws without a graphics card."""
COLOURFUL = 60
"""Difference of the brightest and the darkest of red, green and blue: less is grey."""
EDGE = 1
"""Pixels of the image: OHIF draws a line along the edge of each segment."""
AROUND = ndimage.generate_binary_structure(2, 2)
NEARLY_ALL = 0.97
"""The line of a neighbour may hide a pixel of a thin wall."""
ROWS, COLUMNS = 239, 255
SEGMENTS = {1: "Left ventricular myocardium", 2: "Left ventricular cavity"}
REDDISH, BLUISH = 1, 2


@pytest.fixture(scope="module")
def viewed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system that serves OHIF. Where that is not installed, a laptop skips and CI fails."""
    program("Orthanc")
    if not ohif.is_up_to_date(ROOT / VIEWER):
        message = f"OHIF is not installed in {ROOT / VIEWER}; `make test` installs it"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    folder = tmp_path_factory.mktemp("viewed")
    settings_file = folder / "coread.toml"
    settings_file.write_text(f'viewer_folder = "{ROOT / VIEWER}"\n{SETTINGS}')
    with Supervisor(load_settings(settings_file), settings_file=settings_file) as running:
        system = System(running, folder)
        with system.archive:
            yield system


@pytest.fixture(scope="module")
def images() -> list[Dataset]:
    """Of a size at which the segmentation's pixels end with a padding byte, which not every OHIF can read."""
    whole = short_axis_volume()
    part = replace(whole, array=np.ascontiguousarray(whole.array[:, :ROWS, :COLUMNS]))
    return images_of(part, name="viewed", patient_name="<img src=x onerror=alert(1)>")


@pytest.fixture(scope="module")
def done(viewed: System, images: list[Dataset]) -> dict[str, Any]:
    job = viewed.job(viewed.send(images))
    assert job["state"] == "done", job["reason"]
    return job


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def test_ohif_shows_the_segmentation_where_it_is_and_jumps_to_the_key_findings(
    viewed: System, done: dict[str, Any], images: list[Dataset], browser: Browser
) -> None:
    url = f"{viewed.running.http_url}/coread/ui/study/{done['orthanc_id']}"
    with opened(browser, url, viewport={"width": 1280, "height": 800}) as watched:
        page = watched.page
        link = page.locator("a", has_text="Open in OHIF").get_attribute("href")
        page.goto(f"{viewed.running.http_url}{link}")
        page.set_default_timeout(SLOW_MS)
        expect(page.get_by_text("I:1 (1/9)")).to_be_visible(timeout=SLOW_MS)
        page.get_by_text("AI Left ventricle segmentation").first.dblclick()
        page.wait_for_function(COLOURED, timeout=SLOW_MS)
        page.locator("[data-cy='panelSegmentation-btn']").click()
        for label in SEGMENTS.values():
            expect(page.get_by_text(label)).to_be_visible()
        keep(page, "ohif-segmentation")
        masks = masks_in_image(viewed, done, str(images[0].SOPInstanceUID))
        shown = shown_segments(page, shape=(int(images[0].Rows), int(images[0].Columns)))
        for segment, mask in masks.items():
            is_shown = shown == segment
            assert is_shown[ndimage.binary_erosion(mask, iterations=EDGE)].mean() > NEARLY_ALL, SEGMENTS[segment]
            assert not is_shown[~ndimage.binary_dilation(mask, AROUND, iterations=EDGE)].any(), SEGMENTS[segment]
        page.locator("canvas").first.hover()
        page.mouse.wheel(0, 300)
        expect(page.get_by_text("I:1 (1/9)")).to_be_hidden()
        page.get_by_text("AI Left ventricle key findings").first.dblclick()
        expect(page.get_by_text("Diameter:").first).to_be_visible()
        expect(page.get_by_text("I:1 (1/9)")).to_be_visible()
        keep(page, "ohif-key-findings")
    assert watched.problems == []


def keep(page: Page, name: str) -> None:
    """Keep a screenshot in the folder that COREAD_SCREENSHOTS names, if it names one."""
    if folder := os.environ.get("COREAD_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


COLOURED = f"""() => {{
  const canvas = document.querySelector('canvas');
  if (!canvas) return false;
  const copy = document.createElement('canvas');
  [copy.width, copy.height] = [canvas.width, canvas.height];
  const context = copy.getContext('2d');
  context.drawImage(canvas, 0, 0);
  const pixels = context.getImageData(0, 0, copy.width, copy.height).data;
  for (let at = 0; at < pixels.length; at += 4) {{
    const colours = [pixels[at], pixels[at + 1], pixels[at + 2]];
    if (Math.max(...colours) - Math.min(...colours) > {COLOURFUL}) return true;
  }}
  return false;
}}"""
"""Whether there is any colour in the image, in the page's own words."""


def shown_segments(page: Page, *, shape: tuple[int, int]) -> NDArray[np.int64]:
    """Which segment OHIF shows at each pixel of the image, (row, column), by its colour; 0 where it shows none.

    OHIF fits the image into its canvas. The phantom's pixels are square.
    """
    _, _, encoded = page.evaluate("document.querySelector('canvas').toDataURL()").partition(",")
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"), np.int16)
    height, width = picture.shape[:2]
    rows, columns = shape
    scale = min(height / rows, width / columns)
    y = (height - rows * scale) / 2 + (np.arange(rows) + 0.5) * scale
    x = (width - columns * scale) / 2 + (np.arange(columns) + 0.5) * scale
    pixels = picture[np.clip(y.astype(int), 0, height - 1)][:, np.clip(x.astype(int), 0, width - 1)]
    is_colourful = pixels.max(axis=-1) - pixels.min(axis=-1) > COLOURFUL
    return np.where(is_colourful, np.where(pixels[..., 0] > pixels[..., 2], REDDISH, BLUISH), 0)


def masks_in_image(system: System, job: dict[str, Any], sop_instance_uid: str) -> dict[int, NDArray[np.bool_]]:
    """The segments that the SEG has on an image."""
    files = (pydicom.dcmread(io.BytesIO(file)) for file in system.results(job).values())
    (segmentation,) = (file for file in files if file.Modality == "SEG")
    assert (int(segmentation.NumberOfFrames) * segmentation.Rows * segmentation.Columns + 7) // 8 % 2 == 1
    found = {}
    groups = segmentation.PerFrameFunctionalGroupsSequence
    for group, geometry, frame in zip(groups, frame_geometries(segmentation), frames_of(segmentation), strict=True):
        source = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        if source == sop_instance_uid:
            found[geometry.segment] = frame > 0
    return found
