"""JSON that others send, measured before it is parsed.

Orthanc's HTTP threads have a stack of about 100 kB. Python's parser uses some of it for each level of nesting, and its
own limit, a thousand levels, comes too late there: Orthanc would die of a body, or a query string, of 600 brackets.
"""

import re
from collections.abc import Callable
from json import dumps, loads
from typing import Any

LARGEST = 1_000_000
"""Bytes, or characters; what people and schedulers send has a few thousand."""
DEEPEST = 64
"""Levels of objects and arrays; a workitem's dataset may need 49."""

_BRACKETS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)
"""A text, in which a bracket opens nothing, or a bracket."""


class TooLarge(ValueError):
    """There is more of it than is looked at."""


_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""U+0000 in written JSON: an escape that is not itself escaped."""


def read_json(
    sent: bytes | str,
    *,
    largest: int = LARGEST,
    deepest: int = DEEPEST,
    parse_constant: Callable[[str], Any] | None = None,
) -> Any:
    """What JSON in UTF-8 says. ``parse_constant``: as of `json.loads`.

    Raises ValueError if it is no JSON, and its TooLarge if it has more than ``largest`` bytes or ``deepest`` levels;
    neither quotes what was sent.
    """
    if len(sent) > largest:
        raise TooLarge(f"expected at most {largest} bytes of JSON, found {len(sent)}")
    try:
        text = sent.decode() if isinstance(sent, bytes) else sent
        _check_depth(text, deepest)
        found = loads(text, parse_constant=parse_constant)
        written = dumps(found, ensure_ascii=False)
        written.encode()  # half of a surrogate pair is no character, and cannot be stored
    except TooLarge:
        raise
    except ValueError as error:
        raise ValueError("expected JSON in UTF-8, found something else") from error
    if _NUL.search(written):
        raise ValueError("expected texts that a database can keep, found U+0000 in one")
    return found


def _check_depth(text: str, deepest: int) -> None:
    depth = 0
    for found in _BRACKETS.finditer(text):
        bracket = found[0]
        depth += (bracket in "[{") - (bracket in "]}")
        if depth > deepest:
            raise TooLarge(f"expected at most {deepest} levels of JSON, found more")
