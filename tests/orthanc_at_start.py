"""Orthanc's Python module as the plugin meets it when it is loaded."""

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class OrthancAtStart:
    """Takes what the plugin registers, counts what it is asked for, and never starts."""

    HttpMethod = SimpleNamespace(GET=1, POST=2, PUT=3, DELETE=4)

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.registered: list[tuple[str, Callable[..., None]]] = []
        """The REST routes, path and callback."""

    def RegisterRestCallback(self, path: str, callback: Callable[..., None]) -> None:  # noqa: N802  # Orthanc's name
        self.registered.append((path, callback))

    def GetConfiguration(self) -> str:  # noqa: N802
        return "{}"

    def __getattr__(self, name: str) -> Callable[..., str]:
        def service(*_arguments: Any, **_more: Any) -> str:
            self.asked[name] += 1
            return f"{name} {self.asked[name]}"

        return service
