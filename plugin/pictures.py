"""The pictures of a job's result, which its worker has drawn and left with the result in Orthanc.

GET /coread/jobs/{job id}/pictures/{number}   the PNG; the first is number 1, as the job's result lists them
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coread.archive import Archive
from coread.errors import SourceGone
from coread.ledger import JobRecord, Ledger
from coread.plugin.answers import answer
from coread.plugin.explained import TEXT, explained, says
from coread.plugin.gate import Gate, Role
from coread.plugin.headers import data_headers


def register_pictures(gate: Gate, ledger: Ledger, *, connect: Callable[[], Archive]) -> None:
    """Register the route. ``connect``: makes a client of Orthanc; it is asked over HTTP, which other threads of Orthanc
    answer meanwhile.
    """
    archives: list[Archive] = []

    def archive() -> Archive:
        """One for all requests, made at the first: Orthanc does not answer HTTP yet when it loads the plugin."""
        if not archives:
            archives.append(connect())
        return archives[0]

    @explained(
        path={"job": "the job's id", "number": "from 1, as `result.pictures` of the job lists them"},
        answers={
            200: says("the picture", TEXT, kind="image/png"),
            304: says("the picture that the request's If-None-Match names", kind=None),
            404: "there is no such job, or no such picture",
        },
    )
    def picture(output: Any, _url: str, **request: Any) -> None:
        """A key image of a job's result."""
        job_id, number = request["groups"]
        record = ledger.job(job_id)
        pictures = record.result.get("pictures", ()) if record else ()
        if record is None:
            answer(output, {"error": f"no job {job_id}; GET /coread/jobs lists them"}, status=404)
            return
        if not 1 <= int(number) <= len(pictures):
            error = f"expected a number from 1 to {len(pictures)}, found {number}" if pictures else "it has no pictures"
            answer(output, {"error": f"job {job_id}: {error}"}, status=404)
            return
        kept = pictures[int(number) - 1]
        try:
            png = archive().attachment(kept["instance"], int(kept["attachment"]))
        except SourceGone:
            error = f"job {job_id}: the result that the picture was kept with is no longer in Orthanc"
            answer(output, {"error": error}, status=404)
            return
        tag = f'"{hashlib.sha256(png).hexdigest()[:32]}"'
        # A second attempt may draw another one.
        headers = {**data_headers(), "Cache-Control": "private, no-cache", "ETag": tag}
        for name, value in headers.items():
            output.SetHttpHeader(name, value)
        if request.get("headers", {}).get("if-none-match") == tag:
            output.SendHttpStatusCode(304)
        else:
            output.AnswerBuffer(png, "image/png")

    gate.route("/coread/jobs/([0-9a-f]+)/pictures/([0-9]{1,4})", GET=(Role.READER, picture))


def pictures_of(records: Sequence[JobRecord]) -> Mapping[str, Mapping[str, Any]]:
    """Job → its pictures for a study's page, each with its caption and URL."""
    return {
        record.job.job_id: {
            "pictures": [
                {
                    "caption": str(picture.get("caption", "")),
                    "url": f"/coread/jobs/{record.job.job_id}/pictures/{number}",
                }
                for number, picture in enumerate(record.result.get("pictures", ()), start=1)
            ]
        }
        for record in records
    }
