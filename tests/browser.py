"""Chromium without a window, for tests of what a person sees; and what a page did that it should not.

Debian's Chromium, driven by Playwright. A page asks nobody but the server under test: a request to another host is cut
off and told of, so that a page that needs the internet fails here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, Route, sync_playwright

from tests.support import program

FLAGS = (
    "--no-sandbox",  # CI runs as root
    "--disable-dev-shm-usage",
    "--use-gl=angle",  # WebGL without a graphics card
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
)
TIMEOUT_S = 30.0
"""For what the page is to show at once. Wait for a reading with a longer one."""
WCAG = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa")
NOT_LOADED = "Failed to load resource"
"""What Chromium logs of each answer that is an error, whether or not the page expects it."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium. Where it is missing, a laptop skips and CI fails."""
    executable = program("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@dataclass(kw_only=True)
class Watched:
    """A page, and what went wrong in it: errors, violations of its security policy, requests to other hosts."""

    page: Page
    problems: list[str] = field(default_factory=list)


@contextmanager
def opened(browser: Browser, url: str, **context: Any) -> Iterator[Watched]:
    """A page of its own at ``url``; ``context``: what Playwright's ``new_context`` takes, such as ``viewport``."""
    origin = "/".join(url.split("/", 3)[:3])
    with browser.new_context(**context) as profile:
        profile.set_default_timeout(TIMEOUT_S * 1000)
        page = profile.new_page()
        watched = Watched(page=page)

        def note(message: ConsoleMessage) -> None:
            if message.type == "error" and not message.text.startswith(NOT_LOADED):
                watched.problems.append(message.text)

        def cut_off(route: Route) -> None:
            watched.problems.append(f"a request to {route.request.url}")
            route.abort()

        page.on("console", note)
        page.on("pageerror", lambda error: watched.problems.append(str(error)))
        profile.route(lambda asked: asked.startswith("http") and not asked.startswith(f"{origin}/"), cut_off)
        page.goto(url)
        yield watched


def accessibility_problems(page: Page) -> list[str]:
    """What axe-core finds against WCAG, levels A and AA, each as rule and element."""
    page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    found: dict[str, Any] = page.evaluate("rules => axe.run({ runOnly: rules })", list(WCAG))
    return [
        f"{violation['id']}: {node['html']} ({node['failureSummary']})"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]
