import inspect
from pathlib import Path

import httpx
import pytest

from coread import errors
from coread.archive import Archive
from coread.errors import ArchiveUnavailable, CoreadError, SourceGone

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, CoreadError)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_stands_in_the_tree_that_is_drawn(kind: type[CoreadError]) -> None:
    assert errors.__doc__ is not None
    assert kind.__name__ in errors.__doc__


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (httpx.ConnectError("no"), ArchiveUnavailable),
        (httpx.ReadTimeout("no"), ArchiveUnavailable),
        (httpx.RemoteProtocolError("no"), ArchiveUnavailable),
        (httpx.Response(500), ArchiveUnavailable),
        (httpx.Response(401), ArchiveUnavailable),
        (httpx.Response(404), SourceGone),
    ],
)
def test_every_answer_of_orthanc_that_is_not_a_success_becomes_an_error_of_ours(
    answer: httpx.Response | Exception, expected: type[CoreadError]
) -> None:
    def respond(_request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    archive = Archive("http://nowhere")
    archive._http.close()
    archive._http = httpx.Client(transport=httpx.MockTransport(respond), base_url="http://nowhere")
    with archive, pytest.raises(expected):
        archive.last_change()


def test_no_module_catches_everything_but_where_a_job_ends_or_a_callback_returns() -> None:
    root = Path(errors.__file__).parent
    broad = [
        f"{path.relative_to(root)}: {line.strip()}"
        for folder in (root, *(each for each in root.iterdir() if each.is_symlink()))
        for path in folder.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip().startswith(("except Exception", "except:"))
    ]
    assert {where.partition(":")[0] for where in broad} == {
        "archivist/lane.py",
        "archivist/run.py",
        "archivist/windup.py",
        "audit/sender.py",
        "plugin/alerting.py",
        "plugin/metrics.py",
        "pulse.py",
        "benchmarks/processes.py",
        "plugin/stated.py",
        "workers/clerk.py",
        "courier/lane.py",
        "lease.py",
        "evaluation/run.py",
        "model_store.py",
        "models/bundle/engine.py",
        "models/bundle/isolation.py",
        "models/bundle/saliency.py",
        "models/forward/choice.py",
        "plugin/intake.py",
        "plugin/service.py",
        "plugin/gate.py",
        "plugin/orders.py",
        "plugin/worklist/follow.py",
        "plugin/worklist/start.py",
        "workers/duty.py",
        "workers/folder.py",
        "workers/jobs.py",
        "workers/overlap.py",
        "workers/verify_model.py",
    }
