"""The reports against the templates, row by row, as the IHE Connectathon's tool checks them."""

import os
from pathlib import Path

import pytest

from tests.integration.test_result_objects import encoded, written
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
"""The tool's templates of 2022 do not know the algorithm's identification in a group."""


@pytest.mark.slow
@pytest.mark.parametrize("labels", [(1, 2), ()], ids=["measured", "absent"])
def test_pixelmed_finds_no_error_in_the_report(labels: tuple[int, ...], tmp_path: Path) -> None:
    if not (JARS / "pixelmed.jar").exists():
        message = "libpixelmed-java is not installed; `make test-slow` installs it"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    for kind, path in written(encoded(labels=labels)[2], tmp_path).items():
        if kind == "SEG":
            continue
        status, said = output_of("java", *JAVA, path)
        assert status == 0, said
        assert "Root Template Validation Complete" in said
        lines = said.splitlines()
        assert [line for line in lines if line.startswith("Error")] == []
        assert [line for line in lines if line.startswith("Warning") and NOT_IN_TEMPLATE not in line] == []
