"""Writes what a deployment is made of, as CycloneDX: ``sbom.py FOLDER``, a file for each of the images.

The Python packages are those that `docker/requirements.py` names and all that they need, as they are installed here,
which must be as `constraints.txt` pins them: nothing of the tools of developers. Besides there are the Debian packages
that the Dockerfile names (not what Debian installs with them), the OHIF viewer, what of others is in the page, and the
models.
"""

import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import metadata, requires
from pathlib import Path
from typing import Any

import click
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from coread import __version__, ohif
from coread.models.catalogue import installed_models
from coread.models.metadata import find_metadata
from coread.settings import Settings

ROOT = Path(__file__).parents[1]
IMAGES = {"orthanc": "plugin", "worker": "worker"}
"""Target of the Dockerfile → what `docker/requirements.py` calls its packages."""

Component = dict[str, Any]


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    installed = environment()
    for image, group in IMAGES.items():
        path = folder / f"{image}.cdx.json"
        path.write_text(json.dumps(bill_of(image, group, installed), indent=2) + "\n", encoding="utf-8")
        click.echo(f"[sbom] {path}")


def environment() -> dict[str, Any]:
    """The bill of everything that is installed beside this Python."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--pyproject", "pyproject.toml", sys.executable]
    options = ["--short-PURLs", "--output-reproducible", "--no-validate"]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=True)
    bill: dict[str, Any] = json.loads(done.stdout)
    for each in (*bill["components"], *bill["metadata"]["tools"]["components"]):
        each.pop("externalReferences", None)  # a purl leads there, and each takes 0.1 s to be validated
    return bill


def bill_of(image: str, group: str, installed: dict[str, Any]) -> dict[str, Any]:
    """An image's bill. Raises SystemExit if a package is missing, or not the one that is pinned."""
    asked = subprocess.run(
        [sys.executable, "docker/requirements.py", group], cwd=ROOT, capture_output=True, text=True, check=True
    )
    direct = {canonicalize_name(each.name) for each in map(Requirement, asked.stdout.split("\n")[:-1]) if counts(each)}
    packages = sorted(python_packages(asked.stdout.split("\n")[:-1], installed), key=lambda each: str(each["bom-ref"]))
    refs = {each["bom-ref"] for each in packages}
    web = (*viewer(), *page()) if image == "orthanc" else ()
    others = [*debian_packages(image), *web, *models()]
    root = {**installed["metadata"]["component"], "name": f"coread-{image}", "version": __version__}
    of_root = [each["bom-ref"] for each in packages if canonicalize_name(each["name"]) in direct]
    edges = [
        {"ref": each["ref"], "dependsOn": sorted(refs & set(each.get("dependsOn", ())))}
        for each in installed["dependencies"]
        if each["ref"] in refs
    ]
    bill = {
        **installed,
        "metadata": {**installed["metadata"], "component": root},
        "components": [*packages, *others],
        "dependencies": [
            {"ref": root["bom-ref"], "dependsOn": [*of_root, *(each["bom-ref"] for each in others)]},
            *edges,
        ],
    }
    if wrong := JsonStrictValidator(SchemaVersion.from_version(bill["specVersion"])).validate_str(json.dumps(bill)):
        raise SystemExit(f"[sbom] the bill of {image} is no CycloneDX: {wrong}")
    return bill


def python_packages(requirements: Iterable[str], installed: dict[str, Any]) -> Iterator[Component]:
    """The components of these requirements and of all that they need."""
    components = {canonicalize_name(each["name"]): each for each in installed["components"]}
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").split())
    pins = {canonicalize_name(name): version for name, version in pinned.items()}
    for name in sorted(needed(requirements)):
        if name not in components:
            raise SystemExit(f"[sbom] expected {name} to be installed, found that it is not; run `make test` once")
        found, component = Version(components[name]["version"]).public, components[name]
        if found != pins.get(name):
            raise SystemExit(f"[sbom] expected {name} {pins.get(name)} as pinned, found {found}; run `make test` once")
        stated = metadata(name).get("License", "")
        if not component.get("licenses") and 0 < len(stated) < 100:
            component["licenses"] = [{"license": {"name": stated, "acknowledgement": "declared"}}]
        yield component


def needed(requirements: Iterable[str]) -> set[str]:
    """The names of these distributions and of all that they need here."""
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [each for each in map(Requirement, requirements) if counts(each)]
    while waiting:
        asked = waiting.pop()
        if str(asked) in seen:
            continue
        seen.add(str(asked))
        found.add(canonicalize_name(asked.name))
        further = map(Requirement, requires(asked.name) or ())
        waiting += [each for each in further if any(counts(each, extra=extra) for extra in ("", *asked.extras))]
    return found


def counts(requirement: Requirement, *, extra: str = "") -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def debian_packages(image: str) -> Iterator[Component]:
    """Those that the image's stages of the Dockerfile install, with their versions where they are installed here."""
    stages = {}
    for text in re.split(r"^FROM ", (ROOT / "docker/Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        base, _, name = text.partition("\n")[0].partition(" AS ")
        stages[name] = (base, text)
    names: set[str] = set()
    stage = image
    while stage in stages:
        stage, text = stages[stage]
        names |= {name for line in re.findall(r"--no-install-recommends (.*) \\", text) for name in line.split()}
    for name in sorted(names):
        asked = ["dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Version}", name]
        said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
        version = said.removeprefix("installed ") if said.startswith("installed ") else ""
        purl = f"pkg:deb/debian/{name}" + (f"@{version.replace('+', '%2B')}" if version else "")
        component = {"type": "library", "bom-ref": purl, "name": name, "purl": purl}
        yield {**component, "version": version} if version else component


def viewer() -> Iterator[Component]:
    """OHIF, by the digest that the registry has of it."""
    group, _, name = ohif.PACKAGE.partition("/")
    algorithm, _, digest = ohif.INTEGRITY.partition("-")
    purl = f"pkg:npm/{group.replace('@', '%40')}/{name}@{ohif.VERSION}"
    yield {
        "type": "application",
        "bom-ref": purl,
        "group": group,
        "name": name,
        "version": ohif.VERSION,
        "purl": purl,
        "hashes": [{"alg": algorithm.upper().replace("SHA", "SHA-"), "content": base64.b64decode(digest).hex()}],
        "licenses": [{"license": {"id": "MIT"}}],
    }


def page() -> Iterator[Component]:
    """What of other people the page is made with, as the list beside it says; a test compares it with the files."""
    listed = (ROOT / "plugin/web/vendor/README.md").read_text(encoding="utf-8")
    row = r"\| `(\S+)` \| npm `(\S+)` ([\d.]+), \S+ \| (\S+) .*? \| `([0-9a-f]{64})` \|"
    for file, name, version, licence, digest in re.findall(row, listed):
        yield {
            "type": "library",
            "bom-ref": f"page:{file}",
            "name": name,
            "version": version,
            "purl": f"pkg:npm/{name}@{version}",
            "hashes": [{"alg": "SHA-256", "content": digest}],
            "licenses": [{"license": {"id": licence}}],
        }


def models() -> Iterator[Component]:
    """The models that Coread ships, by the digests that `models.allowed` and results name."""
    for name, model in sorted(installed_models(Settings()).items()):
        yield {
            "type": "machine-learning-model",
            "bom-ref": f"model:{name}@{model.version}",
            "name": name,
            "version": model.version,
            "copyright": str(find_metadata(model.folder)["copyright"]),
            "properties": [{"name": "coread:digest", "value": model.digest()}],
        }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
