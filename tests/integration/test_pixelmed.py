"""The reports against the templates, row by row, as the IHE Connectathon's tool checks them."""

import os
from pathlib import Path

import pytest

from coread.dicom_sr.encode import encode_findings
from coread.findings import Findings
from coread.objects import ObjectKind
from coread.workers.volume import build_volume
from coread.workers.waveform import SourceWaveform
from tests import ecg
from tests.integration.test_object_kinds import SOURCES, every_object, everything_in
from tests.support import identity, output_of

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


NO_IMAGING_PROCEDURE = 'Code (268400002,SCT,"12-Lead ECG") not found in context group 100'
"""The group is extensible (PS3.16 CID 100), and has no code for an ECG."""


@pytest.mark.slow
def test_pixelmed_finds_no_error_in_the_report_of_an_ecg(tmp_path: Path) -> None:
    source = SourceWaveform(
        waveform=ecg.waveform(), recorded=ecg.waveform(), instance=ecg.ecg(), channels=((1, 1), (1, 2))
    )
    answers = everything_in(build_volume(SOURCES["axial"]()), 1).classifications
    path = tmp_path / "report.dcm"
    (result,) = encode_findings(Findings(classifications=answers), source=source.as_source, identity=identity())
    path.write_bytes(result.file())
    said = judged(path)
    assert [line for line in said if line.startswith("Error") and NO_IMAGING_PROCEDURE not in line] == []
    assert [line for line in said if line.startswith("Warning") and NOT_IN_TEMPLATE not in line] == []
    assert not any("WAVEFORM" in line for line in said), "the template has a row for it"


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in ObjectKind if kind.startswith("SR")])
@pytest.mark.parametrize("plane", ["oblique", "tilted"])
def test_pixelmed_finds_no_error_in_the_report(kind: ObjectKind, plane: str, tmp_path: Path) -> None:
    path = tmp_path / "report.dcm"
    path.write_bytes(every_object(build_volume(SOURCES[plane]()))[kind].file())
    lines = judged(path)
    assert [line for line in lines if line.startswith("Error")] == []
    assert [line for line in lines if line.startswith("Warning") and NOT_IN_TEMPLATE not in line] == []


def judged(path: Path) -> list[str]:
    """What the tool says of a report, line by line."""
    if not (JARS / "pixelmed.jar").exists():
        message = "libpixelmed-java is not installed; `make test-slow` installs it"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    status, said = output_of("java", *JAVA, path)
    assert status == 0, said
    assert "Root Template Validation Complete" in said
    return said.splitlines()
