"""The page, served under ``/coread/ui``: files that are read once at the start, and answered by their name alone.

No path of a request is ever looked up in the file system. Whatever is no file of the page, but a place in it (such as
``/coread/ui/study/…``), is answered with the page itself, which then shows that place. Orthanc takes ``/coread/ui/``
for ``/coread/ui``, so the page names its files by their whole path.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coread.plugin.explained import TEXT, explained, says
from coread.plugin.gate import Gate, Role
from coread.plugin.headers import page_headers

ROOT = "/coread/ui"
WEB = Path(__file__).parent / "web"
INDEX = "index.html"
TYPES: Mapping[str, str] = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
PLACE = re.compile(r"(study/[0-9a-f-]+|archives(/[0-9a-f]+)?/?)?")
"""Every place in the page, below its root."""
FIRST_ROWS = "</coread/worklist?limit=100>; rel=preload; as=fetch; crossorigin"
"""What the list asks for first if nothing else is asked: the browser fetches it while it loads the page's files."""
NOT_MODIFIED, NOT_FOUND = 304, 404


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of the page."""

    content: bytes
    kind: str
    etag: str


def files_of(folder: Path) -> dict[str, File]:
    """The files that a browser is given, by their path in the folder."""
    return {
        path.relative_to(folder).as_posix(): File(
            content=content,
            kind=TYPES[path.suffix],
            etag=f'"{hashlib.sha256(content).hexdigest()[:32]}"',
        )
        for path in sorted(folder.rglob("*"))
        if path.suffix in TYPES
        for content in [path.read_bytes()]
    }


def register_page(gate: Gate, *, folder: Path = WEB) -> None:
    """Register the routes."""
    files = files_of(folder)

    @explained(
        path={"file": "a file's name, or a place in the page such as study/…"},
        answers={
            200: says("the page or the file", TEXT, kind="*/*"),
            304: says("the file that the request's If-None-Match names", kind=None),
            404: says("there is no such file", kind=None),
        },
    )
    def page(output: Any, _url: str, **request: Any) -> None:
        """The worklist's page, a place in it, or a file of it."""
        path = "".join(request.get("groups", ()))
        file = files.get(path) or (files[INDEX] if PLACE.fullmatch(path) else None)
        for name, value in page_headers().items():
            output.SetHttpHeader(name, value)
        if file is None:
            output.SendHttpStatusCode(NOT_FOUND)
            return
        output.SetHttpHeader("ETag", file.etag)
        if not path and not request.get("get"):
            output.SetHttpHeader("Link", FIRST_ROWS)
        if file.etag in request.get("headers", {}).get("if-none-match", ""):
            output.SendHttpStatusCode(NOT_MODIFIED)
        else:
            output.AnswerBuffer(file.content, file.kind)

    gate.route(ROOT, GET=(Role.READER, page))
    gate.route(f"{ROOT}/(.*)", GET=(Role.READER, page))
