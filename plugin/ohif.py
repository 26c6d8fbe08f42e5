"""Serves the OHIF viewer under ``/ohif/``, from the folder that `coread viewer install` fills.

GET /ohif           leads to Coread's own list of studies: the viewer's is off
GET /ohif/{file}    a file of the viewer
GET /ohif/{path}    any other path is one of the viewer's own, and gets its page

The images come from the same Orthanc (``/dicom-web``), with whatever the browser signed in with.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coread.ohif import PACKAGE, ROOT, installed
from coread.plugin.answers import answer
from coread.plugin.explained import TEXT, explained, says
from coread.plugin.gate import Gate, Role

PAGE = "index.html"
LIST = "/coread/ui"

CONTENT_TYPES: Mapping[str, str] = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".woff2": "font/woff2",
    ".xml": "application/xml",
}
"""By a file's ending; other files are not served."""

NAMED_BY_CONTENT = re.compile(r"[0-9a-f]{20}")
"""A digest in a file's name: under that name there is never another content."""
FOR_EVER, ASK_AGAIN = "private, max-age=31536000, immutable", "private, no-cache"

POLICY: Mapping[str, str] = {
    "default-src": "'none'",
    "script-src": "'self' 'unsafe-eval'",  # the codecs, and a library (ndarray) that writes functions for segmentations
    "style-src": "'self' 'unsafe-inline'",  # its layout is said in style attributes
    "img-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "connect-src": "'self' data: blob:",
    "worker-src": "'self' blob:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'self'",
}
"""What the viewer may do: nothing with another host."""


def viewer_headers() -> dict[str, str]:
    """The headers of every answer under ``/ohif/``: looser than those of Coread's own pages, as OHIF needs it."""
    return {
        "Content-Security-Policy": "; ".join(f"{what} {where}" for what, where in POLICY.items()),
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }


def register_ohif(gate: Gate, folder: Path) -> None:
    """Register the routes. ``folder``: where the viewer is or will be installed; it may come while Orthanc runs."""

    @explained(
        path={"file": "a file of the viewer, or a path of its own"},
        answers={
            200: says("the file, or the viewer's page", TEXT, kind="*/*"),
            301: says("the list of studies is elsewhere", kind=None),
            304: says("the file that the request's If-None-Match names", kind=None),
            404: "the viewer is not installed",
        },
    )
    def viewer(output: Any, url: str, **request: Any) -> None:
        """The OHIF viewer."""
        files = installed(folder)
        if files is None:
            error = f"the viewer is not installed in {folder}; `coread viewer install` installs it ({PACKAGE})"
            answer(output, {"error": error}, status=404)
            return
        asked = url.removeprefix(ROOT.rstrip("/")).strip("/")
        if not asked:
            output.Redirect(LIST)
            return
        path = file_of(files, asked)
        content = path.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        is_named = NAMED_BY_CONTENT.search(path.name) is not None
        headers = {**viewer_headers(), "Cache-Control": FOR_EVER if is_named else ASK_AGAIN, "ETag": tag}
        for name, value in headers.items():
            output.SetHttpHeader(name, value)
        if request.get("headers", {}).get("if-none-match") == tag:
            output.SendHttpStatusCode(304)
        else:
            output.AnswerBuffer(content, CONTENT_TYPES[path.suffix])

    gate.route("/ohif", GET=(Role.READER, viewer))
    gate.route("/ohif/(.*)", GET=(Role.READER, viewer))


def file_of(files: Path, asked: str) -> Path:
    """The file that is asked for; what is none, or not to be served, is a path of the viewer's own: its page."""
    base = files.resolve()
    try:
        path = (base / asked).resolve()
        is_served = path.is_relative_to(base) and path.suffix in CONTENT_TYPES and path.is_file()
    except (OSError, ValueError):  # too long for a name, or with a character that none has
        return base / PAGE
    return path if is_served else base / PAGE
