"""An HTTP server on a free port of this machine, as long as a block runs, to be a DICOMweb neighbour of a test."""

import threading
from abc import ABC, abstractmethod
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


class DicomwebServer(ABC):
    """Answers with what its handler does; running inside the block."""

    _server: Any = None

    @abstractmethod
    def handler(self) -> type[BaseHTTPRequestHandler]:
        """What each request is given to."""

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/dicom-web"
