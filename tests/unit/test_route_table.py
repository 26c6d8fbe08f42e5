import os
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from coread.errors import ConfigurationError
from coread.models.catalogue import packages
from coread.plugin import route_table
from coread.plugin.route_table import RACY_S, RouteTable
from coread.settings import settings_file
from coread.workers.route_facts import pydicom_dictionary
from coread.workers.warm import warm_models
from tests.support import MANIFEST, approve, write_bundle


def text(name: str, *, model: str = "left_ventricle_sax", match: str = "", more: str = "") -> str:
    return f'data_folder = "data"\n{more}\n[[route]]\nname = "{name}"\nmodels = ["{model}"]\nmatch = {{{match}}}\n'


class Scene:
    """A settings file, and a table that watches it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "coread.toml"
        self.write(text("first"))
        self.now = self.file.stat().st_mtime + 100
        self.table = RouteTable(self.file, dictionary=pydicom_dictionary, wall_clock=lambda: self.now)

    def write(self, content: str) -> None:
        self.file.write_text(content, encoding="utf-8")

    def poll(self, times: int = 2) -> list[Any]:
        """What is logged meanwhile."""
        with capture_logs() as logged:
            for _ in range(times):
                self.table.refresh()
        return logged

    @property
    def names(self) -> list[str]:
        return [route.name for route in self.table.in_force.routes]

    @property
    def problem(self) -> str | None:
        return self.table.problem


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_changed_file_is_in_force_after_two_polls_and_not_before(scene: Scene) -> None:
    scene.write(text("second", match="MagneticFieldStrength = {min = 1}"))
    scene.poll(1)
    assert scene.names == ["first"], "it may be half written"
    scene.poll(1)
    assert scene.names == ["second"]
    assert scene.table.in_force.keywords == {"MagneticFieldStrength"}
    assert scene.problem is None


def test_a_file_that_goes_on_changing_is_waited_for(scene: Scene) -> None:
    for number in range(5):
        scene.write(text("second")[: 10 * number])
        scene.poll(1)
        assert scene.names == ["first"]
    scene.write(text("second"))
    scene.poll()
    assert scene.names == ["second"]


def test_a_change_within_one_time_stamp_is_seen(scene: Scene) -> None:
    stamp = scene.file.stat()
    scene.poll()
    scene.write(text("other"))
    os.utime(scene.file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    scene.now = stamp.st_mtime + RACY_S / 2
    scene.poll()
    assert scene.names == ["other"]


def test_a_file_that_nobody_touches_is_not_read(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.poll()
    reads: list[Path] = []
    monkeypatch.setattr(Path, "read_bytes", reads.append)
    scene.poll(100)
    assert reads == []


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("this is no TOML", "not valid TOML"),
        (text("second", match='SeriesDescripton = "x"'), "expected a DICOM keyword, found SeriesDescripton"),
        (text("second", match='SeriesDescription = {regex = "("}'), "is not a regular expression"),
        (text("second", match='PatientName = "x"'), "it says who somebody is"),
        (text("second", model="nobody"), "there is no model called nobody"),
        (text("second", more="colour = 1"), "colour: Extra inputs are not permitted"),
        (text("second") + text("second").partition("\n\n")[2], "two routes have the same name"),
        ("\udcff", "cannot be read"),
        ("x = " + "[" * 5000, "not valid TOML"),
        ("x = " + "1" * 5000, "not valid TOML"),
        (text("second").replace("match = {}\n", "match.Modality" + ".not" * 2000 + ".min = 1\n"), "nested too deeply"),
        ("", "expected [[route]] entries as before, found none"),
        ("[intake]\n", "expected [[route]] entries as before, found none"),
    ],
    ids=lambda value: value[-40:],
)
def test_a_broken_file_leaves_the_routes_in_force_and_is_said_once_until_it_is_mended(
    scene: Scene, broken: str, said: str
) -> None:
    before = scene.table.in_force
    scene.file.write_bytes(broken.encode("utf-8", "surrogateescape"))
    logged = scene.poll(6)
    assert scene.table.in_force == before
    assert scene.problem is not None
    assert said in scene.problem
    assert "stay in force" in scene.problem
    assert [line["event"] for line in logged] == ["settings problem"]
    scene.write(text("third"))
    logged = scene.poll(6)
    assert [line["event"] for line in logged] == ["routes in force", "settings are in order again"]
    assert scene.names == ["third"]
    assert scene.problem is None


def test_a_surprise_while_the_file_is_read_is_raised_once_and_said_until_it_is_mended(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def surprise(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    scene.write(text("second"))
    scene.poll(1)
    with monkeypatch.context() as patched:
        patched.setattr(route_table, "load_settings", surprise)
        with pytest.raises(ZeroDivisionError):
            scene.poll(1)
        scene.poll(5)
    assert scene.names == ["first"]
    assert "the log says why" in (scene.problem or "")
    scene.write(text("third"))
    scene.poll()
    assert scene.names == ["third"]
    assert scene.problem is None


def test_a_file_that_is_taken_away_is_a_problem_until_it_is_back(scene: Scene) -> None:
    content = scene.file.read_text()
    scene.file.unlink()
    scene.poll()
    assert "does not exist" in (scene.problem or "")
    assert scene.names == ["first"]
    scene.write(content)
    scene.poll()
    assert scene.problem is None


def test_a_file_that_was_not_there_at_the_start_counts_once_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table = RouteTable(settings_file(), dictionary=pydicom_dictionary)
    table.refresh()
    assert [route.name for route in table.in_force.routes] == ["everything"]
    (tmp_path / "coread.toml").write_text(text("own").replace('"data"', '"coread-data"'))
    monkeypatch.chdir("/")
    for _ in range(2):
        table.refresh()
    assert [route.name for route in table.in_force.routes] == ["own"]
    assert table.problem is None


def test_the_routes_count_and_other_keys_wait_for_a_restart(scene: Scene) -> None:
    scene.write(text("second", more='[intake]\nquiet_s = 77\n[broker]\nurl = "redis://:hush@host"\n'))
    logged = scene.poll(5)
    assert scene.names == ["second"]
    assert scene.problem == (
        "broker.url, intake.quiet_s: changed in the settings file; restart Coread to put it in force"
    )
    assert "hush" not in repr(logged)
    assert scene.table.settings.intake.quiet_s != 77
    scene.write(text("third"))
    scene.poll()
    assert scene.names == ["third"]
    assert scene.problem is None


def test_a_model_that_was_approved_since_is_found_by_routes_and_worker(scene: Scene) -> None:
    scene.write(text("second", model="test_model"))
    scene.poll()
    assert "there is no model called test_model" in (scene.problem or "")
    settings = scene.table.settings
    warm = warm_models(settings, {})
    transform = [{"_target_": "EnsureTyped"}]
    folder = settings.models_home / "test_model"
    write_bundle(folder, manifest=MANIFEST, inference={"preprocessing": transform, "postprocessing": transform})
    (package,) = (package for package in packages(settings) if package.name == "test_model")
    assert package.model is not None
    approve(package.model, settings)
    scene.poll()
    assert scene.names == ["second"]
    assert scene.problem is None
    with pytest.raises(ConfigurationError, match=r"there are: .*test_model"):
        warm("nobody")
    assert scene.table.in_force.model_versions["test_model"].startswith("1.2.3+")


def test_what_is_broken_at_the_start_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "coread.toml").write_text(text("first", match='SeriesDescripton = "x"'))
    with pytest.raises(ConfigurationError, match="expected a DICOM keyword"):
        RouteTable(tmp_path / "coread.toml", dictionary=pydicom_dictionary)
