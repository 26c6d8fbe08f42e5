"""A release is refused, with the reason, where something in it does not fit. That all is well is tested slowly."""

import importlib.util
import io
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from coread import __version__

ROOT = Path(__file__).parents[2]
CHANGELOG = "# Changelog\n\nWhat changes.\n\n## {newest}\n\n- New.\n\n## 0.0.1 (2020-01-01)\n"
VERSIONED = ("src/coread/__init__.py", "docker/Dockerfile", "docker/compose.yaml")


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", ROOT / "scripts" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


release = load_script()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The files that name the version, and a changelog for it, committed."""
    for name in (*VERSIONED, "scripts/version"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG.format(newest=f"{__version__} (2026-01-02)"))
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    return tmp_path


def git(folder: Path, *words: str) -> None:
    name = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *name, *words], check=True, capture_output=True)


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "x")


def check(tree: Path) -> None:
    version = release.version_of(tree)
    release.check_version(tree, version)
    release.check_changelog(tree, version)
    release.check_committed(tree, version)


def test_what_fits_is_not_refused(tree: Path) -> None:
    check(tree)
    git(tree, "tag", f"v{__version__}")
    check(tree)


def test_a_version_is_written_to_each_place_at_once(tree: Path) -> None:
    subprocess.run([str(tree / "scripts" / "version"), "12.34.5"], check=True)
    assert release.version_of(tree) == "12.34.5"
    release.check_version(tree, "12.34.5")
    changed = [name for name in VERSIONED if (tree / name).read_text() != (ROOT / name).read_text()]
    assert changed == list(VERSIONED)
    for name in VERSIONED:
        assert (tree / name).read_text().replace("12.34.5", __version__) == (ROOT / name).read_text()
    wrong = subprocess.run([str(tree / "scripts" / "version"), "next"], check=False, capture_output=True, text=True)
    assert wrong.returncode == 1
    assert "found next" in wrong.stderr


@pytest.mark.parametrize("newest", ["Unreleased", "9.9.9 (2026-01-02)", "{v}", "{v} (2026-02-30)", "{v} (2999-01-01)"])
def test_a_changelog_without_this_version_is_refused(tree: Path, newest: str) -> None:
    newest = newest.replace("{v}", __version__)
    (tree / "CHANGELOG.md").write_text(CHANGELOG.format(newest=newest))
    with pytest.raises(release.Refused, match=re.escape(newest.partition("(")[2].strip(")") or newest)):
        check(tree)


def another_version(tree: Path) -> None:
    path = tree / "docker" / "compose.yaml"
    path.write_text(path.read_text().replace(f"VERSION:-{__version__}", "VERSION:-0.0.0", 1))


def a_change(tree: Path) -> None:
    (tree / "CHANGELOG.md").write_text((tree / "CHANGELOG.md").read_text() + "\n")


def a_file(tree: Path) -> None:
    (tree / "notes.txt").write_text("")


def a_tag_of_another_commit(tree: Path) -> None:
    git(tree, "tag", f"v{__version__}")
    commit(tree)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (another_version, r"compose.yaml: expected the version .*, found 0.0.0"),
        (a_change, r"M CHANGELOG.md"),
        (a_file, r"notes.txt"),
        (a_tag_of_another_commit, r"choose another version"),
    ],
)
def test_what_does_not_fit_is_named(tree: Path, harm: Callable[[Path], None], said: str) -> None:
    harm(tree)
    with pytest.raises(release.Refused, match=said):
        check(tree)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"a": b"1"}, "missing: b"),
        ({"a": b"1", "b": b"3"}, "another one than in the repository: b"),
        ({"a": b"1", "b": b"2", "tests/t.py": b""}, "not expected: tests/t.py"),
        ({"a": b"1", "b": b"2"}, "missing beside the package: LICENSE"),
    ],
)
def test_each_file_that_is_missing_or_too_many_is_named(found: dict[str, bytes], said: str) -> None:
    expected = {"a": b"1", "b": b"2"}
    release.check_contents("x.whl", {**expected, "LICENSE": b""}, expected, {"LICENSE"})
    others = {} if "LICENSE" in said else {"LICENSE": b""}
    with pytest.raises(release.Refused, match=said):
        release.check_contents("x.whl", {**found, **others}, expected, {"LICENSE"})


def test_a_model_without_weights_or_card_is_refused() -> None:
    names = ("coread.yaml", "configs/metadata.json", "configs/inference.json", "docs/README.md", "docs/report.json")
    model = {f"coread/models/m/{name}": b"" for name in names}
    weights = "coread/models/m/models/model.pt"
    release.check_models({**model, weights: bytes(20_000)})
    for wrong in (model, {**model, weights: b"version https://git-lfs"}, {}):
        with pytest.raises(release.Refused, match="expected"):
            release.check_models(wrong)
    for name in names[1:]:
        there = {key: value for key, value in model.items() if not key.endswith(name)}
        with pytest.raises(release.Refused, match=name):
            release.check_models({**there, weights: bytes(20_000)})


def test_the_package_is_all_that_is_committed_of_it_but_what_was_measured() -> None:
    files = release.package_files(ROOT)
    folder = ROOT / "src" / "coread"
    assert files["models/ecg_12_lead/models/model.pt"].stat().st_size > release.SMALLEST_WEIGHTS
    assert {"plugin/web/vendor/preact.mjs", "migrations/env.py", "workers/pipeline.py", "py.typed"} <= files.keys()
    assert all((folder / name).samefile(path) for name, path in files.items())
    assert [name for name in files if "results" in name or "/test" in name] == []


def test_an_sdist_is_settled_whoever_made_it(tmp_path: Path) -> None:
    made = []
    for number, names in enumerate((["a/1", "a/2"], ["a/2", "a/1"])):
        path = tmp_path / f"{number}.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size, member.mtime, member.uid, member.mode = 1, 1000 + number, number, 0o600 + number
                archive.addfile(member, io.BytesIO(name[-1:].encode()))
        release.settle(path, epoch=1_700_000_000)
        made.append(path.read_bytes())
    assert made[0] == made[1]
    with tarfile.open(tmp_path / "0.tar.gz") as archive:
        assert [(each.name, each.mode, each.mtime) for each in archive] == [
            ("a/1", 0o644, 1_700_000_000),
            ("a/2", 0o644, 1_700_000_000),
        ]


def test_the_command_says_why_it_refuses_and_builds_nothing(tree: Path) -> None:
    (tree / "CHANGELOG.md").write_text(CHANGELOG.format(newest="Unreleased"))
    shutil.copy(ROOT / "scripts" / "release.py", tree / "scripts" / "release.py")
    command = [sys.executable, str(tree / "scripts" / "release.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "[release] refused: CHANGELOG.md: expected" in done.stderr
    assert "found `## Unreleased`" in done.stderr
    assert not (tree / "dist").exists()
