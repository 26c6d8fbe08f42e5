"""The routes that are in force, and how a changed settings file takes their place without a restart.

A file that cannot be used changes nothing: the routes before it stay in force, and the problem is said until it is
mended. Only what belongs to routes is read again; any other key waits for a restart, which is said, too.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from coread.errors import ConfigurationError
from coread.logs import logger
from coread.models.catalogue import allow_list, check_routes, installed_models
from coread.routes import Dictionary, Route, check_keywords
from coread.settings import Settings, load_settings
from coread.study_facts import keywords_of

RELOADED = frozenset({"route"})
"""The keys of the settings that belong to routes."""

RACY_S = 2.0
"""A file that changed less than this ago may change again within the same time stamp: its content is looked at."""


@dataclass(frozen=True, kw_only=True)
class RoutesInForce:
    """What a study is routed by. ``model_versions``: name → version of every model that may be used."""

    routes: tuple[Route, ...]
    model_versions: Mapping[str, str]
    keywords: frozenset[str]
    """What the routes look at."""


def routes_in_force(settings: Settings, dictionary: Dictionary, *, running: Mapping[str, str]) -> RoutesInForce:
    """The routes of the settings. ``running``: versions of models that are in use already; they stay as they are.

    Raises ConfigurationError if a keyword or a model does not exist.
    """
    models = installed_models(settings)
    check_routes(settings, models)
    check_keywords(settings.route, dictionary)
    found = {name: model.version for name, model in models.items()}
    return RoutesInForce(
        routes=settings.route, model_versions={**found, **running}, keywords=keywords_of(settings.route)
    )


class RouteTable:
    """Watches the settings file and the list of approved models. Only the intake's thread refreshes it; what it
    says may be asked from any.
    """

    def __init__(self, file: Path, *, dictionary: Dictionary, wall_clock: Callable[[], float] = time.time) -> None:
        """``file``: where the settings are read from, as ``settings_file`` says, whether or not it exists.

        Raises ConfigurationError if the settings cannot be used: at the start there is nothing else to go on with.
        """
        self._file = file.absolute()  # the working folder may change
        self._must_exist = self._file.exists()
        self._dictionary = dictionary
        self._wall_clock = wall_clock
        self._stats: tuple[object, ...] = ()
        settings_digest = _digest(self._file)  # before the file is read: what comes after it is a change
        self.settings = self._load()
        """The settings as they were at the start; but for the routes, they stay in force."""
        self._had_routes = "route" in self.settings.model_fields_set
        self._approved = allow_list(self.settings).path
        self._seen = self._taken = (settings_digest, _digest(self._approved))
        self._in_force = routes_in_force(self.settings, dictionary, running={})
        self._problem: str | None = None

    @property
    def in_force(self) -> RoutesInForce:
        return self._in_force

    @property
    def problem(self) -> str | None:
        """What is wrong with the file as it is now; None: nothing."""
        return self._problem

    def refresh(self) -> None:
        """Take up a change of the file once two calls have found it the same: it may be half written."""
        stats = (_stat(self._file), _stat(self._approved))
        if stats == self._stats and self._seen == self._taken and not self._may_change_unseen(stats):
            return
        self._stats = stats
        before, self._seen = self._seen, (_digest(self._file), _digest(self._approved))
        if self._seen == before and self._seen != self._taken:
            self._taken = self._seen
            self._take_up()

    def _may_change_unseen(self, stats: tuple["_Stat | None", ...]) -> bool:
        now = self._wall_clock()
        return any(stat is not None and abs(now - stat.changed_s) < RACY_S for stat in stats)

    def _take_up(self) -> None:
        try:
            problem = self._read()
        except BaseException:  # nobody expects it, and yet it must not look as if the file were in force
            self._problem = f"{self._file}: cannot be read, the log says why; the routes from before stay in force"
            raise
        if problem and problem != self._problem:
            logger().warning("settings problem", problem=problem)
        elif self._problem and not problem:
            logger().info("settings are in order again")
        self._problem = problem

    def _read(self) -> str | None:
        """Put the file's routes in force. Returns what is wrong with it."""
        try:
            settings = self._load()
            self._require_routes(settings)
            new = routes_in_force(
                self.settings.model_copy(update={key: getattr(settings, key) for key in RELOADED}),
                self._dictionary,
                running=self._in_force.model_versions,
            )
        except (ConfigurationError, OSError) as error:
            return f"{error}; the routes from before stay in force"
        if new != self._in_force:
            logger().info("routes in force", routes=[route.name for route in new.routes])
        self._in_force = new
        return restart_needed(self.settings, settings)

    def _require_routes(self, settings: Settings) -> None:
        """A file that was cut short, on a full disk or by an editor, must not send every study to the default model."""
        if "route" not in settings.model_fields_set and self._had_routes:
            raise ConfigurationError(f"{self._file}: expected [[route]] entries as before, found none; put them back")
        self._had_routes = "route" in settings.model_fields_set

    def _load(self) -> Settings:
        return load_settings(self._file if self._must_exist or self._file.exists() else None)


def restart_needed(running: Settings, new: Settings) -> str | None:
    """Which keys differ that only a restart puts in force; None: none. It names keys and no values."""
    keys = sorted(_differing(running, new))
    return f"{', '.join(keys)}: changed in the settings file; restart Coread to put it in force" if keys else None


def _differing(running: BaseModel, new: BaseModel, prefix: str = "") -> Iterator[str]:
    for key in type(running).model_fields:
        old_value, new_value = getattr(running, key), getattr(new, key)
        if f"{prefix}{key}" in RELOADED or old_value == new_value:
            continue
        if isinstance(old_value, BaseModel) and isinstance(new_value, BaseModel):
            yield from _differing(old_value, new_value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


@dataclass(frozen=True)
class _Stat:
    changed_s: float
    size: int
    inode: int


def _stat(path: Path) -> _Stat | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return _Stat(changed_s=stat.st_mtime_ns / 1e9, size=stat.st_size, inode=stat.st_ino)


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
