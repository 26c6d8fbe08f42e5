"""Studies that archive runs retrieve and remove, as the hook of each C-STORE must know them.

While a copy is being removed, whoever sends of the study is asked to keep the images and send them again: what arrived
between the look whether the copy is nobody else's and its deletion would be lost.

While a run retrieves a study, it is noted who else sends of it: an image that comes from the source after it takes its
place, and Orthanc then knows only of the later one.

POST /coread/archive/held {"studies": [UID…], "seconds": N}   take nothing of these for so long; 0: take it again
POST /coread/archive/watched {"study": UID, "aet": T}         note whether anybody but T sends of it
POST /coread/archive/alone {"study": UID}                     {"alone": whether nobody did, as far as is known}
POST /coread/archive/unwatched {"study": UID}                 it is watched no more
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coread.plugin.answers import answer
from coread.plugin.explained import TEXT, UID, WHOLE_NUMBER, Body, Listed, Record, Shape, explained, says
from coread.plugin.gate import Gate, Role
from coread.plugin.json_input import read_json

LONGEST_S = 120.0
MOST = 1000
WATCHED = Record(fields={"study": UID, "aet": TEXT}, optional=frozenset({"aet"}))
ALONE: Shape = Record(fields={"alone": {"type": "boolean"}})


class Held:
    """The studies that nothing is taken of, and those that are watched. The hook of each C-STORE looks."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[bytes, float] = {}
        self._watched: dict[bytes, _Watch] = {}
        self._lock = threading.Lock()

    def hold(self, studies: list[str], *, seconds: float) -> None:
        """Take nothing of these studies (StudyInstanceUID) for so long, or take it again."""
        now = self._clock()
        until = {uid: at for uid, at in self._until.items() if at > now}
        named = [uid.encode() for uid in studies]
        # A new mapping in one step: the hook may be looking at the old one.
        self._until = {
            **{uid: at for uid, at in until.items() if uid not in named},
            **(dict.fromkeys(named, now + seconds) if seconds > 0 else {}),
        }

    def watch(self, study: str, *, aet: str) -> None:
        """Note from now on whether anybody but the source with that title sends of a study; what was noted stays."""
        with self._lock:
            known = self._watched.get(study.encode())
            watch = _Watch(aet=aet, is_joined=known is not None and known.is_joined)
            self._watched = {**self._watched, study.encode(): watch}

    def is_alone(self, study: str) -> bool:
        """Whether nobody else has sent of it since it is watched; False if it is not, as after a restart."""
        watch = self._watched.get(study.encode())
        return watch is not None and not watch.is_joined

    def unwatch(self, study: str) -> None:
        """Watch a study no more."""
        with self._lock:
            self._watched = {uid: each for uid, each in self._watched.items() if uid != study.encode()}

    def refuses(self, instance: Any) -> bool:
        """Whether an instance that arrives belongs to a study that is held, or speaks of it, which is seldom enough.

        Nothing is asked of an instance while there is nothing to hold or to watch.
        """
        until, watched = self._until, self._watched
        if watched:
            aet = instance.GetInstanceRemoteAet()
            watched = {uid: each for uid, each in watched.items() if each.aet != aet and not each.is_joined}
        if not until and not watched:
            return False
        now = self._clock()
        content: bytes = instance.GetInstanceData()
        for uid, each in watched.items():
            if uid in content:
                each.is_joined = True
        return any(at > now and uid in content for uid, at in until.items())

    def register(self, gate: Gate) -> None:
        """Register the route."""

        @explained(
            body=Body(
                shape=Record(
                    fields={
                        "studies": Listed(of=UID),
                        "seconds": {"type": "number", "minimum": 0, "maximum": LONGEST_S},
                    }
                )
            ),
            answers={200: says("how many", Record(fields={"held": WHOLE_NUMBER})), 400: "these are no studies"},
        )
        def hold(output: Any, _url: str, **request: Any) -> None:
            """For archive runs: take no instances of some studies for a while, as their copies are being removed."""
            said = _said(request)
            studies, seconds = said.get("studies", []), said.get("seconds")
            are_studies = isinstance(studies, list) and 0 < len(studies) <= MOST and all(map(_is_uid, studies))
            if not are_studies or not isinstance(seconds, int | float) or not 0 <= seconds <= LONGEST_S:
                problem = f"expected studies, {MOST} UIDs at most, and seconds, {LONGEST_S:g} at most"
                answer(output, {"error": problem}, status=400)
                return
            self.hold(studies, seconds=seconds)
            answer(output, {"held": len(studies)})

        @explained(
            path={"what": "watch it, say whether nobody else sends of it, or watch it no more"},
            body=Body(shape=WATCHED),
            answers={200: says("whether nobody but the source sends of it", ALONE), 400: "it is no study"},
        )
        def watch(output: Any, _url: str, **request: Any) -> None:
            """For archive runs: note who sends of a study while it is retrieved."""
            said = _said(request)
            study, aet = said.get("study"), said.get("aet", "")
            if not isinstance(study, str) or not _is_uid(study) or not isinstance(aet, str):
                answer(output, {"error": "expected study, a UID, and aet, a title"}, status=400)
                return
            is_alone = self.is_alone(study)
            (what,) = request["groups"]
            if what == "watched":
                self.watch(study, aet=aet)
            elif what == "unwatched":
                self.unwatch(study)
            answer(output, {"alone": is_alone})

        gate.route("/coread/archive/held", POST=(Role.ADMIN, hold))
        gate.route("/coread/archive/(watched|alone|unwatched)", POST=(Role.ADMIN, watch))


@dataclass
class _Watch:
    """A study that is being retrieved."""

    aet: str
    is_joined: bool = False
    """Whether somebody else has sent of it."""


def _said(request: dict[str, Any]) -> dict[str, Any]:
    """The object that a request's body is; empty if it is none."""
    try:
        said = read_json(request.get("body") or b"")
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _is_uid(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text) <= 64 and set(text) <= set("0123456789.")
