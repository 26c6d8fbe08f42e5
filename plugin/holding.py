"""Studies that archive runs retrieve and remove, as the hook of each C-STORE must know them.

While a copy is being removed, whoever sends of the study is asked to keep the images and send them again: what arrived
between the look whether the copy is nobody else's and its deletion would be lost.

While a run retrieves a study, it is noted who else sends of it: an image that comes from the source after it takes its
place, and Orthanc then knows only of the later one. That is on disk before the image is taken, so that it outlives a
restart of Orthanc.

POST /coread/archive/held {"studies": [UID…], "seconds": N}   take nothing of these for so long; 0: take it again
POST /coread/archive/watched {"study": UID, "aet": T}         note whether anybody but T sends of it
POST /coread/archive/alone {"study": UID}                     {"alone": whether nobody did, as far as is known}
POST /coread/archive/unwatched {"study": UID}                 it is watched no more
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from coread.logs import logger
from coread.plugin.answers import answer
from coread.plugin.explained import TEXT, UID, WHOLE_NUMBER, Body, Listed, Record, Shape, explained, says
from coread.plugin.gate import Gate, Role
from coread.plugin.json_input import read_json
from coread.plugin.study_of import is_deflated, study_instance_uid_of
from coread.plugin.watch_file import Watch, WatchFile

LONGEST_S = 120.0
MOST = 1000
WATCHED = Record(fields={"study": UID, "aet": TEXT}, optional=frozenset({"aet"}))
ALONE: Shape = Record(fields={"alone": {"type": "boolean"}})


class Held:
    """The studies that nothing is taken of, and those that are watched. The hook of each C-STORE looks."""

    def __init__(self, *, file: WatchFile | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """``file``: where the watches outlive this process; None: nowhere. ``clock``: seconds, of which no two are set
        back; the watches' own times are UTC.
        """
        self._clock = clock
        self._file = file
        self._until: dict[str, float] = {}
        self._watched: dict[str, Watch] = {each.study: each for each in (file.read() if file else ())}
        self._lock = threading.Lock()
        """Held while the file is written."""
        self._holding = threading.Lock()

    def hold(self, studies: list[str], *, seconds: float) -> None:
        """Take nothing of these studies (StudyInstanceUID) for so long, or take it again."""
        now = self._clock()
        new = dict.fromkeys(studies, now + seconds) if seconds > 0 else {}
        with self._holding:  # of two runs that hold at once, neither may undo the other's
            # A new mapping in one step: the hook may be looking at the old one.
            self._until = {uid: at for uid, at in self._until.items() if at > now and uid not in studies} | new

    def watch(self, study: str, *, aet: str) -> None:
        """Note from now on whether anybody but the source with that title sends of a study; what was noted stays."""
        with self._lock:
            known = self._watched.get(study)
            is_joined = known is not None and known.is_joined
            watch = Watch(study=study, aet=aet, since=datetime.now(UTC), is_joined=is_joined)
            # The hook knows of it before the file does: what the file says of a study, the hook has seen all of.
            self._watched = {**self._watched, study: watch}
            self._write(self._watched)

    def is_alone(self, study: str) -> bool:
        """Whether nobody else has sent of it since it is watched; False if it is not."""
        watch = self._watched.get(study)
        return watch is not None and not watch.is_joined

    def unwatch(self, study: str) -> None:
        """Watch a study no more."""
        with self._lock:
            left = {uid: each for uid, each in self._watched.items() if uid != study}
            if left.keys() != self._watched.keys():
                self._write(left)
                self._watched = left

    def refuses(self, instance: Any) -> bool:
        """Whether an instance that arrives belongs to a study that is held, or one of which it cannot be written down
        that it came.

        Nothing is asked of an instance while there is nothing to hold or to watch.
        """
        until, watched = self._until, self._watched
        others: set[str] = set()
        if watched:
            aet = instance.GetInstanceRemoteAet()
            # An empty title is nobody's: it watches a study whose source does not send by itself.
            others = {uid for uid, each in watched.items() if not each.is_joined and (each.aet != aet or not aet)}
        if not until and not others:
            return False
        now = self._clock()
        held = {uid for uid, at in until.items() if at > now}
        of = _those_of(instance.GetInstanceData(), held | others) if held or others else set()
        try:
            for uid in of & others:
                self._join(uid)
        except OSError as error:
            logger().error("image refused: its arrival cannot be written down", reason=error.strerror)
            return True
        return not held.isdisjoint(of)

    def _join(self, study: str) -> None:
        """Somebody else sends of a study. It is on disk when this returns, for whoever is told so, too."""
        with self._lock:
            watch = self._watched.get(study)
            if watch is not None and not watch.is_joined:
                joined = {**self._watched, study: replace(watch, is_joined=True)}
                self._write(joined)
                self._watched = joined

    def _write(self, watched: Mapping[str, Watch]) -> None:
        if self._file is not None:
            self._file.write(watched.values())

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


def _those_of(content: bytes, studies: Collection[str]) -> set[str]:
    """Those of the studies that a file is of. Where its header cannot be followed, those that it names anywhere; all of
    them if nothing can be read in it.
    """
    study = study_instance_uid_of(content)
    if study is not None:
        return {study}.intersection(studies)
    if is_deflated(content):
        return set(studies)
    return {uid for uid in studies if uid.encode() in content}


def _said(request: dict[str, Any]) -> dict[str, Any]:
    """The object that a request's body is; empty if it is none."""
    try:
        said = read_json(request.get("body") or b"")
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _is_uid(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text) <= 64 and set(text) <= set("0123456789.")
