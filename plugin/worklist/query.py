"""What may be asked of the list: the query string of ``GET /coread/worklist``, checked."""

import base64
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from coread.job import Priority
from coread.plugin.json_input import read_json
from coread.plugin.worklist.rows import REVIEWS, StudyState, folded

SORTS: Mapping[str, str] = {
    "arrived": "arrived_at",
    "ended": "ended_at",
    "patient": "patient_sort",
    "study": "study_date",
    "state": "state_rank",
    "model": "model_sort",
    "priority": "priority_rank",
    "finding": "finding_sort",
}
"""What the list may be sorted by → the column of the index."""
NUMBERS = frozenset({"state_rank", "priority_rank"})
"""The columns that hold numbers; the others hold text."""
LISTED, MOST_LISTED = 100, 1000
LONGEST = 200
"""Of a search, in characters."""
MOST_TERMS = 8
NO_REVIEW = "none"
ARCHIVE_HIDDEN, ARCHIVE_SHOWN, ARCHIVE_ONLY = "hide", "show", "only"
KNOWN = frozenset(
    {"search", "state", "model", "priority", "modality", "flag", "review", "archive"}
    | {"sort", "order", "after", "through", "limit", "revision"}
)

Place = tuple[str | int, str]
"""Where a row stands in the order: the value that the list is sorted by, and the Orthanc id."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """A checked question. Empty collections ask for all."""

    terms: tuple[str, ...] = ()
    """Each must stand somewhere in the row."""
    states: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    priorities: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    reviews: tuple[str, ...] = ()
    raised: bool = False
    """Only those that a finding has raised."""
    archive: str = ARCHIVE_HIDDEN
    """Whether those are listed that an archive run alone has brought: nobody waits for them."""
    sort: str = "arrived"
    descending: bool = True
    after: Place | None = None
    """Only rows behind this one."""
    through: Place | None = None
    """Only rows up to this one: a page that was shown before is asked for again as it is now, however many came in."""
    limit: int = LISTED


def parse_query(asked: Mapping[str, str]) -> Query:
    """The question of a query string. Raises ValueError, which says what was expected."""
    if unknown := sorted(set(asked) - KNOWN):
        # What was sent is not repeated: it may be a name.
        raise ValueError(f"expected parameters among {', '.join(sorted(KNOWN))}, found {len(unknown)} others")
    search = asked.get("search", "")
    if len(search) > LONGEST:
        raise ValueError(f"expected a search of at most {LONGEST} characters, found {len(search)}")
    terms = tuple(folded(search).split())
    if len(terms) > MOST_TERMS:
        raise ValueError(f"expected a search of at most {MOST_TERMS} words, found {len(terms)}")
    sort = _one(asked, "sort", SORTS, default="arrived")
    order = _one(asked, "order", ("asc", "desc"), default="desc")
    return Query(
        terms=terms,
        states=_several(asked, "state", list(StudyState)),
        models=_words(asked, "model"),
        priorities=_several(asked, "priority", list(Priority)),
        modalities=_words(asked, "modality"),
        reviews=_several(asked, "review", (*REVIEWS, NO_REVIEW)),
        raised=bool(_several(asked, "flag", ("raised",))),
        archive=_one(asked, "archive", (ARCHIVE_HIDDEN, ARCHIVE_SHOWN, ARCHIVE_ONLY), default=ARCHIVE_HIDDEN),
        sort=sort,
        descending=order == "desc",
        after=_place(asked, "after", sort=sort),
        through=_place(asked, "through", sort=sort),
        limit=_limit(asked),
    )


def place_as_text(place: Place) -> str:
    """A place as ``after`` and ``through`` take it."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def _place(asked: Mapping[str, str], name: str, *, sort: str) -> Place | None:
    text = asked.get(name, "")
    if not text:
        return None
    is_number = SORTS[sort] in NUMBERS
    try:
        value, orthanc_id = read_json(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (ValueError, TypeError):
        value, orthanc_id = None, None
    fits = type(value) is int and abs(value) < LONGEST if is_number else isinstance(value, str)
    if not fits or not isinstance(orthanc_id, str):
        raise ValueError(f"expected as {name} what an answer to the same sort gave as next")
    return value, orthanc_id


def _limit(asked: Mapping[str, str]) -> int:
    text = asked.get("limit", str(LISTED))
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MOST_LISTED)) and 1 <= int(text) <= MOST_LISTED):
        raise ValueError(f"expected a limit from 1 to {MOST_LISTED}")
    return int(text)


def _one(asked: Mapping[str, str], name: str, known: Collection[str], *, default: str) -> str:
    value = asked.get(name) or default
    if value not in known:
        raise ValueError(f"expected {name} among {', '.join(known)}")
    return value


def _several(asked: Mapping[str, str], name: str, known: Collection[str]) -> tuple[str, ...]:
    values = _words(asked, name)
    if any(value not in known for value in values):
        raise ValueError(f"expected {name} among {', '.join(known)}, separated by commas")
    return values


def _words(asked: Mapping[str, str], name: str) -> tuple[str, ...]:
    text = asked.get(name, "")
    if len(text) > LONGEST:
        raise ValueError(f"expected {name} of at most {LONGEST} characters")
    return tuple(filter(None, text.split(",")))
