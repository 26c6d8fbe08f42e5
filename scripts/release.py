"""Builds what a version is handed out as, into ``dist``: the sdist, the wheel made from it, and their digests.

``python scripts/release.py`` refuses, and says why, unless the version is the same everywhere, has its section in the
changelog, and all of it is committed; and unless both files hold every file that they should and nothing else, and come
out the same, byte by byte, when they are built again elsewhere. ``--rehearse`` asks for all of this but the changelog
and the commit. Nothing is uploaded or tagged: docs/howto-release.md says what comes before and after.
"""

import argparse
import ast
import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from datetime import date
from email.parser import BytesParser
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]
PACKAGE = "src/coread"
NOT_SHIPPED = ("benchmarks/README.md", "benchmarks/results/")
"""What was measured once, and how to read it: for who has the repository."""
OF_THE_SDIST = {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg"}
OF_THE_WHEEL = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}
SMALLEST_WEIGHTS = 10_000
"""Bytes: fewer are no network, but a pointer to where one is kept."""
RIGHTS, UMASK = 0o644, 0o022
"""Of what is built, whatever those of the checkout and of who builds are."""
GIT = shutil.which("git") or "git"


class Refused(Exception):
    """Why nothing is to be handed out."""


# What is to be released -----------------------------------------------------------------------------------------------


def version_of(root: Path) -> str:
    """The version, from the one place where it is written for Python."""
    tree = ast.parse((root / PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            return str(ast.literal_eval(node.value))
    raise Refused(f"expected __version__ in {PACKAGE}/__init__.py, found none; write it there")


def check_version(root: Path, version: str) -> None:
    """Raises Refused if the containers' files name another version."""
    for file, pattern in (
        ("docker/compose.yaml", r"COREAD_VERSION:-([^}]*)"),
        ("docker/Dockerfile", r"^ARG VERSION=(.*)$"),
    ):
        found = set(re.findall(pattern, (root / file).read_text(encoding="utf-8"), flags=re.MULTILINE))
        if found != {version}:
            named = ", ".join(sorted(found)) or "none"
            raise Refused(f"{file}: expected the version {version}, found {named}; say `scripts/version {version}`")


def check_changelog(root: Path, version: str) -> None:
    """Raises Refused unless the newest section of the changelog is this version's, with a day that was."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = next(iter(re.findall(r"^## (.*)$", text, flags=re.MULTILINE)), "none")
    said = re.fullmatch(rf"{re.escape(version)} \((\d{{4}}-\d\d-\d\d)\)", newest)
    if said is None:
        raise Refused(
            f"CHANGELOG.md: expected the newest section to be `## {version} (YYYY-MM-DD)`, found `## {newest}`; "
            "name it so"
        )
    try:
        is_past = date.fromisoformat(said[1]) <= date.today()  # noqa: DTZ011  # a day where the release is made
    except ValueError:
        is_past = False
    if not is_past:
        raise Refused(f"CHANGELOG.md: expected a day until today, found {said[1]}; correct it")


def check_committed(root: Path, version: str) -> None:
    """Raises Refused if something is not committed, or the version is already that of another commit."""
    if changed := _git(root, "status", "--porcelain"):
        raise Refused(f"expected everything to be committed, found changes:\n{changed}\ncommit them, or take them away")
    tagged = _git(root, "rev-parse", "--quiet", "--verify", f"v{version}^{{commit}}", check=False)
    if tagged and tagged != _git(root, "rev-parse", "HEAD"):
        raise Refused(f"expected a new version, found v{version} as the tag of {tagged[:12]}; choose another version")


def tracked_files(root: Path) -> list[str]:
    """The files of the repository, from its root, as they lie in the working tree."""
    listed = _git(root, "ls-files", "-z").split("\0")
    return [name for name in listed if name and (root / name).is_symlink() | (root / name).is_file()]


def _git(root: Path, *words: str, check: bool = True) -> str:
    done = subprocess.run([GIT, "-C", str(root), *words], capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise Refused(f"expected a git repository in {root}, found: {done.stderr.strip()}")
    return done.stdout.strip()


# Building -------------------------------------------------------------------------------------------------------------


def build(root: Path, work: Path, *, epoch: int, rights: int, zone: str) -> tuple[Path, Path]:
    """The sdist, and the wheel built from it, out of a copy of the repository's files in ``work``. What those may be
    (``rights``) and the clock's ``zone`` must not matter. ``epoch``: the time of all files in both, in seconds.
    """
    source, made = work / "source", work / "made"
    for name in tracked_files(root):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, source / name, follow_symlinks=False)
        if not (source / name).is_symlink():
            (source / name).chmod(rights)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch), "TZ": zone}
    pinned = ["--dependency-constraints-txt", str(root / "constraints.txt")]
    for what, of in (("--sdist", source), ("--wheel", None)):
        given = of or _only(made, "*.tar.gz")
        done = subprocess.run(
            [sys.executable, "-m", "build", what, *pinned, "--outdir", str(made), str(given)],
            env=environment,
            umask=UMASK,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise Refused(f"expected build {what} to succeed, found:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        if of:
            settle(_only(made, "*.tar.gz"), epoch=epoch)
    return _only(made, "*.tar.gz"), _only(made, "*.whl")


def settle(sdist: Path, *, epoch: int) -> None:
    """Take out of an sdist what differs each time that it is made: times, order, owners and rights."""
    with tarfile.open(sdist) as archive:
        files = {member.name: _content(archive, member) for member in archive if not member.isdir()}
    with (
        sdist.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=epoch) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, content in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(content), epoch, RIGHTS
            archive.addfile(member, io.BytesIO(content))


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    if file is None or not member.isreg():
        raise Refused(f"expected files in the sdist, found something else: {member.name}")
    return file.read()


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise Refused(f"expected one {pattern}, found {', '.join(path.name for path in found) or 'none'}")
    return found[0]


# Looking at it --------------------------------------------------------------------------------------------------------


def package_files(root: Path) -> dict[str, Path]:
    """Name within the package, as ``models/catalogue.py`` → where it lies. Folders at the root are parts of it if the
    package links to them.
    """
    tracked = tracked_files(root)
    links = {PurePosixPath(name).name for name in tracked if (root / name).is_symlink() and name.startswith(PACKAGE)}
    inside = {name.removeprefix(f"{PACKAGE}/"): root / name for name in tracked if name.startswith(f"{PACKAGE}/")}
    linked = {name: root / name for name in tracked if name.partition("/")[0] in links}
    return {
        name: path
        for name, path in {**inside, **linked}.items()
        if not path.is_symlink() and not name.startswith(NOT_SHIPPED)
    }


def check_contents(what: str, found: Mapping[str, bytes], expected: Mapping[str, bytes], others: set[str]) -> None:
    """Raises Refused if a file of the package is missing in what was built, or another one, or there is one more.
    ``others``: what there is besides.
    """
    wrong = {
        "missing": expected.keys() - found.keys(),
        "not expected": found.keys() - expected.keys() - others,
        "another one than in the repository": {
            name for name in expected.keys() & found.keys() if expected[name] != found[name]
        },
        "missing beside the package": others - found.keys(),
    }
    if any(wrong.values()):
        lines = [f"  {how}: {name}" for how, names in wrong.items() for name in sorted(names)]
        raise Refused(
            "\n".join([f"{what}: expected the package's files and nothing else, found", *lines])
            + "\nsee `tool.setuptools` in pyproject.toml, and whether each is committed"
        )


def check_models(found: Mapping[str, bytes]) -> None:
    """Raises Refused unless every model of a wheel has weights, a licence to be used, and its card with figures."""
    folders = {name.rpartition("/")[0] for name in found if name.endswith("/coread.yaml")}
    if not folders:
        raise Refused("expected models in the wheel, found none")
    for folder in sorted(folders):
        weights = [len(found[name]) for name in found if re.fullmatch(rf"{folder}/models/[^/]+\.pt", name)]
        if not weights or min(weights) < SMALLEST_WEIGHTS:
            raise Refused(f"{folder}: expected weights in the wheel, found {weights or 'none'} bytes; fetch them")
        for name in ("configs/metadata.json", "configs/inference.json", "docs/README.md", "docs/report.json"):
            if f"{folder}/{name}" not in found:
                raise Refused(f"{folder}: expected {name} in the wheel, found none; add it")


def check_metadata(metadata: bytes, version: str) -> None:
    """Raises Refused if what pip shows of a file is not this version of Coread."""
    said = BytesParser().parsebytes(metadata)
    named = (said["Name"], said["Version"])
    if named != ("coread", version):
        raise Refused(f"expected the metadata of coread {version}, found {' '.join(named)}; build anew")


def look_at(sdist: Path, wheel: Path, *, root: Path, version: str) -> None:
    """Raises Refused if one of both is not what it should be."""
    names = (sdist.name, wheel.name)
    expected = (f"coread-{version}.tar.gz", f"coread-{version}-py3-none-any.whl")
    if names != expected:
        raise Refused(f"expected {' and '.join(expected)}, found {' and '.join(names)}")
    package = {name: path.read_bytes() for name, path in package_files(root).items()}
    with zipfile.ZipFile(wheel) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    about = f"coread-{version}.dist-info/"
    check_contents(
        wheel.name, found, {f"coread/{name}": each for name, each in package.items()}, {about + n for n in OF_THE_WHEEL}
    )
    check_models(found)
    check_metadata(found[f"{about}METADATA"], version)
    with tarfile.open(sdist) as archive:
        unpacked = {member.name.partition("/")[2]: _content(archive, member) for member in archive}
    listed = {name for name in unpacked if name.startswith("src/coread.egg-info/")}
    sources = {f"{PACKAGE}/{name}": each for name, each in package.items()}
    check_contents(sdist.name, unpacked, sources, OF_THE_SDIST | listed)
    check_metadata(unpacked["PKG-INFO"], version)


def check_description(*files: Path) -> None:
    """Raises Refused if PyPI could not show what the files say of themselves."""
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Refused(f"expected `twine check` to pass, found:\n{done.stdout}{done.stderr}")


# All of it ------------------------------------------------------------------------------------------------------------


def release(root: Path, output: Path, *, is_rehearsal: bool) -> Iterator[str]:
    """Do it, and say each step. Raises Refused."""
    version = version_of(root)
    check_version(root, version)
    if not is_rehearsal:
        check_changelog(root, version)
        check_committed(root, version)
    commit = _git(root, "rev-parse", "HEAD")
    epoch = int(_git(root, "log", "-1", "--format=%ct"))
    yield f"Coread {version}, commit {commit[:12]}"
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        files = build(root, Path(first), epoch=epoch, rights=RIGHTS, zone="UTC")
        again = build(root, Path(second), epoch=epoch, rights=0o600, zone="Asia/Tokyo")
        for one, other in zip(files, again, strict=True):
            if one.read_bytes() != other.read_bytes():
                raise Refused(f"{one.name}: expected the same bytes when it is built again, found others")
        yield "built twice, with the same bytes"
        look_at(*files, root=root, version=version)
        check_description(*files)
        yield "both hold what they should and nothing else"
        output.mkdir(parents=True, exist_ok=True)
        digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        for path in files:
            shutil.copyfile(path, output / path.name)
    (output / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in digests.items()))
    yield from (f"{output / name}  sha256 {digest}" for name, digest in digests.items())


def main() -> None:
    """The command line. Exit status 1 if there is nothing to hand out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rehearse", action="store_true", help="ask neither for the changelog nor for a commit")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist", help="by default dist")
    given = parser.parse_args()
    try:
        for line in release(ROOT, given.output, is_rehearsal=given.rehearse):
            sys.stdout.write(f"[release] {line}\n")
            sys.stdout.flush()
    except Refused as reason:
        sys.exit(f"[release] refused: {reason}")


if __name__ == "__main__":
    main()
