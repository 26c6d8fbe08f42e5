"""The plugin's REST routes for reviews: what persons say of results.

POST /coread/jobs/{job id}/review    {"verdict": "accept" or "reject", "reason", "comment", "name"}: 201 and the review,
                                     200 if the same person has just said the same
GET /coread/jobs/{job id}/reviews    what was said of a job's result, the newest first
GET /coread/reviews                  the newest reviews; ?study=UID, ?model=NAME, ?since=TIME, ?limit=N
GET /coread/rejection-reasons        the codes that a rejection may give
"""

import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from coread.audit.event import printable
from coread.job import JobState
from coread.ledger import Ledger
from coread.plugin.answers import answer, asked_newest
from coread.plugin.explained import TEXT, Body, Listed, Record, choice, explained, limit, param, says
from coread.plugin.gate import Gate, Person, Role
from coread.plugin.json_input import read_json
from coread.review import LONGEST_COMMENT, LONGEST_NAME, REASONS, Review, Verdict, counting

LISTED = 1000
"""How many reviews are listed if nobody says otherwise."""

VERDICTS = {"accept": Verdict.ACCEPTED, "reject": Verdict.REJECTED}
KEYS = frozenset({"verdict", "reason", "comment", "name"})
LARGEST = 100_000
"""Bytes of a review."""
LONGEST_GROUPS = 5
"""Components of a person's name (PS3.5 6.2.1.1)."""

REVIEW = Record(
    fields={
        "review_id": TEXT,
        "job_id": TEXT,
        "verdict": choice("what was said", Verdict),
        "at": TEXT,
        "reader": TEXT,
        "state": TEXT,
        "sop_instance_uid": {"type": ["string", "null"]},
    }
)
SAID = Record(
    fields={
        "verdict": choice("what is said of the result", VERDICTS),
        "reason": choice("of a rejection, and needed there", REASONS),
        "comment": {**TEXT, "maxLength": LONGEST_COMMENT, "description": "free text that does not name the patient"},
        "name": {
            **TEXT,
            "maxLength": LONGEST_NAME,
            "description": "the reader's, such as Curie^Marie, if none is known",
        },
    },
    optional=frozenset({"reason", "comment", "name"}),
    closed=True,
)

PatientWords = Callable[[str], Collection[str]]
"""Orthanc's id of a study → words that would name its patient: names, identifiers, the birth date."""


def register_reviews(gate: Gate, ledger: Ledger, *, patient_words: PatientWords, stops_delivery: bool) -> None:
    """Register the routes. ``stops_delivery``: whether a rejection withdraws what is not delivered yet."""

    @explained(
        path={"job": "the job's id"},
        body=Body(shape=SAID),
        answers={
            200: says("the review that the same person has just given", REVIEW),
            201: says("the review", REVIEW),
            400: "it is no review, or its comment names the patient",
            404: "there is no such job",
            409: "the job has no result that could be reviewed",
        },
    )
    def review(output: Any, _url: str, **request: Any) -> None:
        """Say that a job's result is right, or what is wrong with it."""
        (job_id,) = request["groups"]
        record = ledger.job(job_id)
        if record is None:
            answer(output, {"error": f"no job {job_id}; GET /coread/jobs lists them"}, status=404)
            return
        try:
            said = _said(request.get("body", b""), request["person"])
            _check_comment(said["comment"], patient_words(record.job.orthanc_id) if said["comment"] else ())
        except ValueError as error:
            answer(output, {"error": str(error)}, status=400)
            return
        who, now = request["person"].user, datetime.now(UTC)
        found = ledger.review(job_id, **said, who=who, stops_delivery=stops_delivery, at=now)
        if found is None:
            what = "left no object" if record.state is JobState.DONE else f"is {record.state}"
            wrong = f"expected a job that is done and has a result in the archive, found one that {what}"
            answer(output, {"error": f"{wrong}; what was not read cannot be reviewed"}, status=409)
        else:
            answer(output, found.as_json(), status=201 if found.at == now else 200)

    @explained(
        path={"job": "the job's id"},
        answers={200: says("reviews, the newest first", Listed(of=REVIEW)), 404: "there is no such job"},
    )
    def reviews_of_job(output: Any, _url: str, **request: Any) -> None:
        """What was said of a job's result."""
        (job_id,) = request["groups"]
        if ledger.job(job_id) is None:
            answer(output, {"error": f"no job {job_id}; GET /coread/jobs lists them"}, status=404)
        else:
            answer(output, described(ledger.reviews(job_ids=[job_id])))

    @explained(
        query={
            "study": param("StudyInstanceUID of the study that they are of"),
            "model": param("the model's name"),
            "since": param("no older ones than this time, such as 2026-01-31T12:00Z"),
            "limit": limit(LISTED),
        },
        answers={200: says("reviews, the newest first", Listed(of=REVIEW)), 400: "a time or a limit is none"},
    )
    def reviews(output: Any, _url: str, **request: Any) -> None:
        """The newest reviews."""
        asked = request["get"]
        try:
            since, limit = asked_newest(asked, default=LISTED)
        except ValueError as error:
            answer(output, {"error": str(error)}, status=400)
            return
        found = ledger.reviews(
            study_instance_uid=asked.get("study"), model=asked.get("model"), since=since, limit=limit
        )
        answer(output, [each.as_json() for each in found])

    @explained(answers={200: says("codes", Listed(of=Record(fields={"code": TEXT, "scheme": TEXT, "meaning": TEXT})))})
    def reasons(output: Any, _url: str, **_request: Any) -> None:
        """The codes that a rejection may give."""
        answer(output, [reason._asdict() for reason in REASONS.values()])

    gate.route("/coread/jobs/([0-9a-f]+)/review", POST=(Role.REVIEWER, review))
    gate.route("/coread/jobs/([0-9a-f]+)/reviews", GET=(Role.READER, reviews_of_job))
    gate.route("/coread/reviews", GET=(Role.READER, reviews))
    gate.route("/coread/rejection-reasons", GET=(Role.READER, reasons))


def described(reviews: list[Review]) -> list[dict[str, Any]]:
    """A job's reviews, the newest first, each with whether it is the one that counts."""
    counts = counting(reviews)
    return [{**each.as_json(), "counts": each is counts} for each in reviews]


def _said(body: bytes | str, person: Person) -> dict[str, Any]:
    """What a request says. Raises ValueError, which says what was expected."""
    try:
        asked = read_json(body, largest=LARGEST)
    except ValueError as error:
        raise ValueError(f'expected JSON such as {{"verdict": "accept"}}: {error}') from error
    if not isinstance(asked, dict) or not asked.keys() <= KEYS:
        raise ValueError(f"expected an object with the keys {', '.join(sorted(KEYS))}, found others")
    if not all(isinstance(value, str) for value in asked.values()):
        raise ValueError("expected texts as values, found something else")
    verdict = VERDICTS.get(asked.get("verdict", ""))
    if verdict is None:
        raise ValueError('expected "accept" or "reject" as verdict')
    reason = _reason(asked.get("reason"), verdict)
    comment = printable(asked.get("comment", "").strip())
    if len(comment) > LONGEST_COMMENT:
        raise ValueError(f"expected a comment of up to {LONGEST_COMMENT} characters, found {len(comment)}")
    reader = _name(person.name or asked.get("name", ""))
    if verdict is Verdict.ACCEPTED and not reader:
        raise ValueError(
            "an accepted report says who verified it: expected the reader's name as name, such as Curie^Marie, found "
            "none; a reverse proxy or the settings can give each user's"
        )
    return {"verdict": verdict, "reason": reason, "comment": comment, "reader": reader}


def _reason(code: str | None, verdict: Verdict) -> tuple[str, str, str] | None:
    if verdict is Verdict.ACCEPTED:
        if code is not None:
            raise ValueError("expected a reason with a rejection only, found one with an acceptance")
        return None
    known = REASONS.get(code or "")
    if known is None:
        raise ValueError(
            f"a rejection says why: expected one of {', '.join(REASONS)} as reason; GET /coread/rejection-reasons "
            "says what they mean"
        )
    return known.code, known.scheme, known.meaning


def _name(text: str) -> str:
    """A value of PN (PS3.5 6.2.1) with one component group. Raises ValueError if the text cannot be one."""
    name = text.strip()
    if name != printable(name) or re.search(r"[\\=]", name) or (name and not name.strip(" ^")):
        raise ValueError("expected a name such as Curie^Marie, found characters that a name in DICOM cannot have")
    if len(name) > LONGEST_NAME or name.count("^") >= LONGEST_GROUPS:
        raise ValueError(f"expected a name of up to {LONGEST_NAME} characters and {LONGEST_GROUPS} parts between ^")
    return name


def _check_comment(comment: str, words: Collection[str]) -> None:
    """Raises ValueError if a comment names the patient: the ledger, where it stands, holds no patient's data."""
    text = comment.casefold()
    if any(re.search(rf"(?<!\w){re.escape(word.casefold())}(?!\w)", text) for word in words):
        raise ValueError(
            "expected a comment that does not name the patient, found a name, identifier or birth date of theirs; "
            "leave it out: the study says whose it is"
        )


def words_that_name(tags: Mapping[str, Any]) -> frozenset[str]:
    """Words that would name a patient, from the header's patient and study: parts of the name of three letters and
    more, identifiers, the birth date as it may be written.
    """
    words = {part for part in re.split(r"[\^=\s]+", str(tags.get("PatientName") or "")) if len(part) > 2}
    words |= {str(tags.get(keyword) or "").strip() for keyword in ("PatientID", "OtherPatientIDs", "AccessionNumber")}
    born = str(tags.get("PatientBirthDate") or "")
    if re.fullmatch(r"[0-9]{8}", born):
        year, month, day = born[:4], born[4:6], born[6:]
        words |= {
            born,
            f"{year}-{month}-{day}",
            f"{day}.{month}.{year}",
            f"{day}/{month}/{year}",
            f"{month}/{day}/{year}",
        }
    return frozenset(word for word in words if len(word) > 2)
