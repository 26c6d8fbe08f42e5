"""The reports against the templates, row by row, as the IHE Connectathon's tool checks them."""

import os
from pathlib import Path

import pytest

from coread.objects import ObjectKind
from coread.workers.volume import build_volume
from tests.integration.test_object_kinds import SOURCES, every_object
from tests.support import output_of

JARS = Path("/usr/share/java")
JAVA = [
    "-Xmx2g",
    "-Xss64m",
    *(f"-Djdk.xml.xpath{limit}Limit=0" for limit in ("ExprOp", "TotalOp", "ExprGrp")),  # the rules are large
    "-cp",
    f"{JARS}/*",
    "com.pixelmed.validate.DicomSRValidator",
]
NOT_IN_TEMPLATE = "Content Item not in template"
"""The tool's templates of 2022 do not know the algorithm's identification, coded answers and comments in a group."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in ObjectKind if kind.startswith("SR")])
@pytest.mark.parametrize("plane", ["oblique", "tilted"])
def test_pixelmed_finds_no_error_in_the_report(kind: ObjectKind, plane: str, tmp_path: Path) -> None:
    if not (JARS / "pixelmed.jar").exists():
        message = "libpixelmed-java is not installed; `make test-slow` installs it"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    path = tmp_path / "report.dcm"
    path.write_bytes(every_object(build_volume(SOURCES[plane]()))[kind].file())
    status, said = output_of("java", *JAVA, path)
    assert status == 0, said
    assert "Root Template Validation Complete" in said
    lines = said.splitlines()
    assert [line for line in lines if line.startswith("Error")] == []
    assert [line for line in lines if line.startswith("Warning") and NOT_IN_TEMPLATE not in line] == []
