"""The tutorial, done as it says: each file is written, and each command run, in the order in which they stand."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from coread.orthanc_process import free_port
from tests.support import program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]*)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
IN_BACKGROUND, UNTIL_DONE = "runs until Ctrl-C", "until both are done"
TIMEOUT_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """A block of the tutorial: a file of that title, or commands."""

    language: str
    title: str
    text: str

    @property
    def commands(self) -> list[str]:
        return [line.removeprefix("$ ") for line in self.text.splitlines() if line.startswith("$ ")]


def steps(page: str) -> list[Step]:
    return [Step(language=found[1], title=found[2] or "", text=found[3]) for found in BLOCK.finditer(page)]


class Reader:
    """Does what the tutorial says, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        bin_folder = Path(sys.executable).parent
        self.environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "COLUMNS": "200"}
        self.environment.pop("COREAD_CONFIG", None)

    def run(self, command: str) -> str:
        done = subprocess.run(
            ["/bin/bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def running(self, command: str) -> Iterator[None]:
        with (self.folder / "up.log").open("w") as log:
            process = subprocess.Popen(
                command.split(), cwd=self.folder, env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )
            try:
                yield
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(TIMEOUT_S)

    def jobs(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = json.loads(self.run("coread jobs list --json"))
        return found

    def own_job(self) -> str:
        """The id that a reader takes from the list."""
        (own,) = [job["job_id"] for job in self.jobs() if job["model"] == "bright_tissue"]
        return own

    def wait_until_done(self, command: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            self.run(command)
            states = [job["state"] for job in self.jobs()]
            if states == ["done", "done"]:
                return
            assert time.monotonic() < deadline, f"{states}\n{(self.folder / 'up.log').read_text()}"
            assert not {"failed", "refused"} & set(states), self.jobs()
            time.sleep(0.5)

    def wait_for(self, url: str) -> None:
        probe = f"python -c \"import httpx; httpx.get('{url}', trust_env=False)\""
        deadline = time.monotonic() + TIMEOUT_S
        while subprocess.run(
            ["/bin/bash", "-c", probe], env=self.environment, check=False, stderr=subprocess.DEVNULL
        ).returncode:
            assert time.monotonic() < deadline, (self.folder / "up.log").read_text()


def test_the_tutorial_leads_to_an_own_model_in_orthanc(tmp_path: Path) -> None:
    program("Orthanc")
    http_port, dicom_port = free_port(), free_port()
    page = PAGE.read_text(encoding="utf-8").replace("8042", str(http_port)).replace("4242", str(dicom_port))
    reader = Reader(tmp_path)
    said = ""
    with ExitStack() as stack:
        for step in steps(page):
            if step.language != "console":
                (tmp_path / step.title).write_text(step.text, encoding="utf-8")
            elif step.title == IN_BACKGROUND:
                (command,) = step.commands
                stack.enter_context(reader.running(command))
                reader.wait_for(f"http://127.0.0.1:{http_port}/coread/health")
            elif step.title == UNTIL_DONE:
                (command,) = step.commands
                reader.wait_until_done(command)
            else:
                for command in step.commands:
                    said = reader.run(command.replace("JOB", reader.own_job()) if "JOB" in command else command)
    results = list((tmp_path / "second").rglob("SEG.dcm"))
    assert len(results) == 1
    assert "Bright tissue" in said, "the last command lists the series of the study"
