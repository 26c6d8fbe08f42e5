"""The deployment of ``docker/`` with podman, from nothing: images, compose file, secrets, certificates."""

import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom.dataset import Dataset

from coread import __version__
from coread.dicom_files import write_files
from coread.phantom import short_axis_volume
from tests.containers import ROOT, Deployment, build_images, deployment, own_network, skip_without_podman
from tests.support import images_of, output_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SERVICES = ("postgresql", "redis", "orthanc", "worker", "proxy", "prometheus")
DICOM_PORT, HTTPS_PORT, HTTP_PORT, PROMETHEUS_PORT = 4242, 8443, 8080, 9090
TIMEOUT_S = 180.0
LOOK_AGAIN_S = 0.3
ENDED = ("done", "failed", "refused", "cancelled", "superseded")


@dataclass(frozen=True)
class Hospital:
    """What a modality and a radiologist see of a deployment."""

    stack: Deployment
    folder: Path

    def client(self, *, user: str = "admin") -> httpx.Client:
        """A browser that trusts our authority."""
        trusted = ssl.create_default_context(cafile=self.stack.folder / "secrets" / "own-ca.crt")
        password = self.stack.secret(f"COREAD_ACCESS__USERS__{user.upper()}__PASSWORD").strip()
        url = f"https://localhost:{HTTPS_PORT}"
        return httpx.Client(base_url=url, auth=(user, password), verify=trusted, trust_env=False, timeout=30)

    def storescu(self, images: list[Dataset], *, name: str, client: str = "MR1", called: str = "COREAD") -> int:
        """Send images over TLS with DCMTK; the exit status."""
        files = write_files(images, self.folder / name)
        secrets = self.stack.folder / "secrets"
        key, certificate = (secrets / "clients" / f"{client}.{kind}" for kind in ("key", "crt"))
        tls = ["+tls", key, certificate, "+cf", secrets / "own-ca.crt"]
        status, _ = output_of("storescu", *tls, "-aet", client, "-aec", called, "localhost", DICOM_PORT, *files)
        return status

    def send(self, name: str) -> str:
        """Send a phantom's study; returns its StudyInstanceUID."""
        images = a_study(name)
        assert self.storescu(images, name=name) == 0
        return str(images[0].StudyInstanceUID)

    def jobs(self, study: str) -> list[dict[str, Any]]:
        with self.client() as http:
            found: list[dict[str, Any]] = http.get("/coread/jobs", params={"study": study}).raise_for_status().json()
        return found

    def wait_until_read(self, study: str) -> None:
        (job,) = self.wait(lambda: [job for job in self.jobs(study) if job["state"] in ENDED])
        assert job["state"] == "done", job

    def results(self, study: str) -> list[tuple[str, str]]:
        """Modality and SOPInstanceUID of each result, over DICOMweb."""
        with self.client() as http:
            found = http.get("/dicom-web/instances", params={"StudyInstanceUID": study, "includefield": "00080060"})
        listed = [(each["00080060"]["Value"][0], each["00080018"]["Value"][0]) for each in found.json()]
        return sorted(each for each in listed if each[0] != "MR")

    def wait(self, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + TIMEOUT_S
        while not (found := condition()):
            logs = "\n".join(self.stack.logs(name) for name in self.stack.containers("worker"))
            assert time.monotonic() < deadline, f"timed out; logs:\n{logs}"
            time.sleep(LOOK_AGAIN_S)
        return found


def a_study(name: str) -> list[Dataset]:
    return images_of(short_axis_volume(), name=name)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    """Everything built and started, from nothing."""
    skip_without_podman()
    build_images(version=__version__)
    with own_network(), deployment(tmp_path_factory.mktemp("stack"), version=__version__) as stack:
        stack.prepare("localhost", "127.0.0.1")
        stack.prepare("--client", "MR1")
        stack.up(SERVICES)
        yield Hospital(stack, tmp_path_factory.mktemp("sent"))


@pytest.fixture(scope="module")
def read_study(hospital: Hospital) -> str:
    """A study that came by C-STORE over TLS, and was read."""
    study = hospital.send("first")
    hospital.wait_until_read(study)
    return study


def test_a_study_sent_over_tls_gets_its_results(hospital: Hospital, read_study: str) -> None:
    assert {modality for modality, _ in hospital.results(read_study)} == {"SEG", "SR"}


def test_the_page_and_the_viewer_are_there_over_https(hospital: Hospital) -> None:
    with hospital.client() as http:
        pages = [http.get(path, follow_redirects=True) for path in ("/coread/ui", "/ohif/", "/coread/me")]
        assert [page.status_code for page in pages] == [200, 200, 200]
        assert all("max-age" in page.headers["strict-transport-security"] for page in pages)
    in_the_clear = httpx.get(f"http://localhost:{HTTP_PORT}/coread/ui", trust_env=False)
    assert in_the_clear.status_code == 308
    assert in_the_clear.headers["location"] == "https://localhost/coread/ui"


def test_addresses_in_answers_are_those_of_the_proxy(hospital: Hospital, read_study: str) -> None:
    with hospital.client() as http:
        (found,) = http.get("/dicom-web/studies", params={"StudyInstanceUID": read_study}).json()
    assert found["00081190"]["Value"] == [f"https://localhost:{HTTPS_PORT}/dicom-web/studies/{read_study}"]


def test_nobody_gets_in_without_a_password(hospital: Hospital) -> None:
    with hospital.client() as http:
        for path in ("/coread/ui", "/coread/jobs", "/studies", "/dicom-web/studies"):
            assert http.get(path, auth=None).status_code == 401 or http.get(path, auth=("", "")).status_code == 401
    with hospital.client(user="prometheus") as http:
        assert http.get("/coread/metrics").status_code == 200
        assert http.get("/coread/jobs").status_code == 403


def test_who_shows_no_certificate_of_ours_cannot_send(hospital: Hospital) -> None:
    images = a_study("stranger")
    files = write_files(images, hospital.folder / "stranger")
    plain, _ = output_of("storescu", "-aec", "COREAD", "localhost", DICOM_PORT, *files)
    anonymous, _ = output_of("storescu", "+tla", "-ic", "-aec", "COREAD", "localhost", DICOM_PORT, *files)
    assert 0 not in (plain, anonymous)
    assert hospital.storescu(images, name="stranger", called="ANOTHER") != 0
    assert hospital.jobs(str(images[0].StudyInstanceUID)) == []


def test_prometheus_scrapes_what_was_done(hospital: Hospital, read_study: str) -> None:
    def value(query: str) -> float:
        url = f"http://localhost:{PROMETHEUS_PORT}/api/v1/query"
        found = httpx.get(url, params={"query": query}, trust_env=False).json()["data"]["result"]
        return float(found[0]["value"][1]) if found else 0.0

    assert hospital.jobs(read_study)
    hospital.wait(lambda: value('sum(coread_jobs_ended_total{state="done"})') >= 1)
    assert value("coread_broker_up") == value("coread_ledger_up") == value("coread_ready") == 1


def test_no_container_runs_as_root_or_may_write_to_its_image(hospital: Hospital) -> None:
    for service in SERVICES:
        (name,) = hospital.stack.containers(service)
        assert hospital.stack.podman("exec", name, "id", "-u").stdout.strip() != "0"
        assert hospital.stack.podman("exec", name, "touch", "/usr/here", check=False).returncode != 0


def test_no_secret_stands_in_an_image(hospital: Hospital) -> None:
    for service in SERVICES:
        (name,) = hospital.stack.containers(service)
        image = hospital.stack.podman("inspect", "--format", "{{.ImageName}}", name).stdout.strip()
        history = hospital.stack.podman("history", "--no-trunc", image).stdout
        environment = hospital.stack.podman("inspect", "--format", "{{.Config.Env}}", name).stdout
        mounted = Path(hospital.stack.podman("image", "mount", image).stdout.strip())
        found = {each.name: list(each.glob("secrets/*")) for each in mounted.glob("run")}
        hospital.stack.podman("image", "umount", image)
        assert found == {"run": []}
        for secret in ("COREAD_ORTHANC__PASSWORD", "postgresql-coread", "broker-password"):
            assert hospital.stack.secret(secret).strip() not in history + environment


@pytest.mark.parametrize("database", ["coread", "orthanc"])
def test_a_database_can_be_dumped_as_documented(hospital: Hospital, database: str) -> None:
    (name,) = hospital.stack.containers("postgresql")
    command = f"pg_dump --host /tmp --username postgres --format custom {database}"
    assert command in (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    said = hospital.stack.podman("exec", name, "sh", "-c", f"{command} | pg_restore --list").stdout
    assert "TABLE DATA" in said


def times_ready(hospital: Hospital, worker: str) -> int:
    return hospital.stack.whole_log(worker).count("worker ready")


def has_become_ready(hospital: Hospital, worker: str, *, before: int) -> bool:
    return times_ready(hospital, worker) > before


def test_workers_restarted_in_turn_lose_nothing(hospital: Hospital, read_study: str) -> None:
    assert read_study
    hospital.stack.up(["worker"], scale={"worker": 2})
    workers = hospital.stack.containers("worker")
    assert len(workers) == 2
    studies = [hospital.send("rolling 0"), hospital.send("rolling 1")]
    for number, worker in enumerate(workers):
        before = times_ready(hospital, worker)
        hospital.stack.podman("restart", "--time", "60", worker)
        studies.append(hospital.send(f"rolling {number + 2}"))
        hospital.wait(partial(has_become_ready, hospital, worker, before=before))
    for study in studies:
        hospital.wait_until_read(study)
        assert [modality for modality, _ in hospital.results(study)] == ["SEG", "SR", "SR"]


def test_down_and_up_again_loses_nothing(hospital: Hospital, read_study: str) -> None:
    before = (hospital.jobs(read_study), hospital.results(read_study))
    late = hospital.send("just before the end")
    hospital.stack.down()
    assert [hospital.stack.containers(service) for service in SERVICES] == [[]] * len(SERVICES)
    hospital.stack.up(SERVICES)
    assert (hospital.jobs(read_study), hospital.results(read_study)) == before
    hospital.wait_until_read(late)
