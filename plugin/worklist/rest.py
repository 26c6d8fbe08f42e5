"""The worklist's REST routes.

GET /coread/worklist                 the list: a page of rows, how many there are, and what may be chosen from
GET /coread/worklist/{orthanc id}    all of one study

Of the list can be asked: ``search=`` words that stand in name, ids, description or finding; ``state=``, ``model=``,
``priority=``, ``modality=``, ``review=`` (each one or several with commas between them), ``flag=raised``;
``archive=hide|show|only`` the copies that archive runs have brought (hidden); ``sort=``
with ``order=asc|desc``; ``limit=``; ``after=`` what the page before gave as ``next``, ``through=`` the same for a page
that is asked for again; ``revision=`` that of an earlier answer, which is answered shortly while nothing has changed.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from coread.archive import Archive
from coread.job import Priority
from coread.ledger import Ledger
from coread.plugin.answers import answer
from coread.plugin.explained import OBJECT, TEXT, WHOLE_NUMBER, Listed, Record, Schema, choice, explained, param, says
from coread.plugin.gate import Gate, Role
from coread.plugin.worklist.detail import detail_of
from coread.plugin.worklist.index import Index
from coread.plugin.worklist.joined import Joined
from coread.plugin.worklist.query import LISTED, LONGEST, MOST_LISTED, NO_REVIEW, SORTS, parse_query, place_as_text
from coread.plugin.worklist.rows import REVIEWS, StudyState, as_json

ASKED: Mapping[str, Schema] = {
    "search": param("words that stand in name, ids, description or finding", {**TEXT, "maxLength": LONGEST}),
    "state": choice("only studies in a state", StudyState, several=True),
    "model": param("only studies that a model has read; several with commas"),
    "priority": choice("only studies of a priority", Priority, several=True),
    "modality": param("only studies with a modality; several with commas"),
    "review": choice("only studies of which this was said", (*REVIEWS, NO_REVIEW), several=True),
    "flag": choice("only studies that a finding has raised", ("raised",), several=True),
    "sort": choice("what the list is sorted by", SORTS),
    "order": choice("the last first, or the first", ("desc", "asc")),
    "limit": {**WHOLE_NUMBER, "minimum": 1, "maximum": MOST_LISTED, "default": LISTED, "description": "rows of a page"},
    "after": param("what the page before gave as `next`"),
    "through": param("the same, for a page that is asked for again"),
    "revision": param("that of an earlier answer, which is answered shortly while nothing has changed"),
}
STATE_OF_LIST = {"building": {"type": ["integer", "null"]}, "problem": {"type": ["string", "null"]}}
PAGE = Record(
    fields={
        **STATE_OF_LIST,
        "revision": TEXT,
        "unchanged": {"type": "boolean"},
        "total": WHOLE_NUMBER,
        "counts": OBJECT,
        "next": {"type": ["string", "null"]},
        "rows": Listed(of=OBJECT),
    },
    optional=frozenset({"unchanged", "total", "counts", "next", "rows"}),
)


def register_worklist(
    gate: Gate,
    *,
    index: Index,
    ledger: Ledger,
    archive: Callable[[], Archive],
    left: Callable[[], int | None],
    problem: Callable[[], str | None],
    joined: Joined,
) -> None:
    """Register the routes. ``left``: how many studies have no row yet; ``problem``: why rows may be out of date."""

    def state_of_list() -> dict[str, Any]:
        return {"building": left(), "problem": problem()}

    @explained(query=ASKED, answers={200: says("a page", PAGE), 400: "a parameter is none, or has another value"})
    def worklist(output: Any, _url: str, **request: Any) -> None:
        """The list of studies: a page of rows, how many there are, and what may be chosen from."""
        asked = request["get"]
        revision = asked.pop("revision", None)
        try:
            query = parse_query(asked)
        except ValueError as error:
            answer(output, {"error": str(error)}, status=400)
            return
        if revision is not None and revision == index.revision():
            answer(output, {"revision": revision, "unchanged": True, **state_of_list()})
            return
        page = index.page(query)
        body = {
            "revision": page.revision,
            "total": page.total,
            "counts": page.counts,
            "next": page.next and place_as_text(page.next),
            "rows": [as_json(row) for row in page.rows],
            **state_of_list(),
        }
        if query.after is None:
            body |= index.choices()
        answer(output, body)

    @explained(
        path={"study": "Orthanc's id of the study"},
        answers={200: says("the study", Record(fields=STATE_OF_LIST)), 404: "there is no such study in the list"},
    )
    def study(output: Any, _url: str, **request: Any) -> None:
        """All of one study: what was found, what happened, what was said, where it went."""
        (orthanc_id,) = request["groups"]
        row = index.rows([orthanc_id]).get(orthanc_id)
        if row is None:
            error = f"no study {orthanc_id} in the list; GET /coread/worklist gives those that are"
            answer(output, {"error": error}, status=404)
            return
        detail = detail_of(row, archive=archive(), ledger=ledger, joined=joined, at=datetime.now(UTC))
        answer(output, {**detail, **state_of_list()})

    gate.route("/coread/worklist", GET=(Role.READER, worklist))
    gate.route("/coread/worklist/([0-9a-f-]+)", GET=(Role.READER, study))
