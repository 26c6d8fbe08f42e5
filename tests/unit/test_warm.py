"""Models are kept within a budget; the one not used for longest goes first."""

import weakref
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import pytest
import structlog

from coread.errors import ConfigurationError
from coread.models.catalogue import InstalledModel
from coread.models.runner import BundleRunner
from coread.settings import Settings
from coread.workers.warm import WarmModels, warm_models


@dataclass
class Loaded:
    name: str
    held_bytes: int
    digest: str
    closed: list[str] = field(repr=False)
    device: str = "cpu"
    engine: str = "torch"

    @property
    def model(self) -> SimpleNamespace:
        return SimpleNamespace(version="1")

    def close(self) -> None:
        self.closed.append(self.name)


class Scene:
    """Models of a size each, in bytes."""

    def __init__(self, *, budget: int, **sizes: int) -> None:
        self.built: list[str] = []
        self.closed: list[str] = []
        self.sizes = sizes
        self.files = "1"
        self.warm = WarmModels(self.build, self.installed, budget=budget)

    def installed(self, name: str) -> InstalledModel:
        return cast("InstalledModel", SimpleNamespace(name=name))

    def build(self, model: InstalledModel) -> BundleRunner:
        self.built.append(model.name)
        size = self.sizes[model.name]
        loaded = Loaded(name=model.name, held_bytes=size, digest=self.files, closed=self.closed)
        return cast("BundleRunner", loaded)


def test_a_model_is_built_once_as_long_as_there_is_room() -> None:
    scene = Scene(budget=10, a=4, b=6)
    assert scene.warm("a") is scene.warm("a")
    scene.warm("b")
    scene.warm("a")
    assert scene.built == ["a", "b"]
    assert scene.closed == []


def test_the_model_not_used_for_longest_is_unloaded() -> None:
    scene = Scene(budget=10, a=4, b=4, c=4)
    for name in "abac":
        scene.warm(name)
    assert scene.closed == ["b"]
    assert scene.warm.names == ["a", "c"]


def test_what_is_loaded_can_be_told_by_another_thread() -> None:
    scene = Scene(budget=10, a=4, b=4, c=4)
    for name in "ab":
        scene.warm(name)
    told = scene.warm.loaded
    said = {"version": "1", "digest": "1", "device": "cpu", "engine": "torch"}
    assert told == {"a": said, "b": said}
    scene.warm("c")
    assert set(told) == {"a", "b"}, "it is replaced, and never changed"
    assert set(scene.warm.loaded) == {"b", "c"}


def test_a_model_larger_than_the_budget_is_kept_alone_until_another_is_wanted() -> None:
    scene = Scene(budget=10, a=4, large=11)
    for name in ("a", "large", "large"):
        scene.warm(name)
    assert scene.built == ["a", "large"]
    assert scene.warm.names == ["large"]
    scene.warm("a")
    assert scene.warm.names == ["a"]


def test_room_is_made_before_a_model_that_was_loaded_before_is_loaded_again() -> None:
    scene = Scene(budget=10, a=6, b=6)
    scene.warm("a")
    scene.warm("b")
    closed_before: list[str] = []
    build = scene.build

    def watched(model: InstalledModel) -> BundleRunner:
        closed_before.extend(scene.closed)
        return build(model)

    scene.warm._build = watched
    scene.warm("a")
    assert closed_before == ["a", "b"]


def test_a_model_whose_files_were_replaced_since_it_was_loaded_does_not_answer_in_its_name() -> None:
    scene = Scene(budget=4, a=4, b=4)
    scene.warm("a")
    scene.warm("b")
    scene.files = "2"
    with pytest.raises(ConfigurationError, match="start the worker again"):
        scene.warm("a")
    assert scene.closed == ["a", "b", "a"]
    scene.files = "1"
    scene.warm("a")
    assert scene.warm.names == ["a"]


def test_what_a_model_needs_is_measured_and_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.model_validate({"worker": {"device": "cpu"}})
    warm = warm_models(settings, {})
    with structlog.testing.capture_logs() as logged:
        runner = warm("left_ventricle_sax")
    parameters = sum(each.nbytes for network in runner.networks for each in network.parameters())
    assert runner.held_bytes >= parameters > 0
    assert [line["event"] for line in logged] == ["model loaded"]
    network = weakref.ref(runner.networks[0])
    monkeypatch.setattr(warm, "_budget", 0)
    warm("chest_xray_pneumonia")
    assert warm.names == ["chest_xray_pneumonia"]
    assert runner.networks == []
    assert network() is None
