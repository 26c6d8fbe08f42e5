import json
import subprocess
import sys

SECRET = "Brown^Ophelia"


def logged_by(code: str) -> str:
    """Standard error of a process of its own that configures its logs as ours do."""
    program = f"from coread.logs import configure_logs, logger\nconfigure_logs()\n{code}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stderr


def test_a_foreign_exceptions_text_is_not_logged() -> None:
    said = logged_by(
        f"try:\n    raise ValueError('cannot decode {SECRET}')\nexcept ValueError:\n    logger().exception('job broke')"
    )
    line = json.loads(said)
    assert line["error"] == "ValueError"
    assert line["traceback"]
    assert SECRET not in said


def test_our_own_errors_text_is_logged() -> None:
    said = logged_by(
        "from coread.errors import GeometryError\n"
        "try:\n    raise GeometryError('found 1')\nexcept GeometryError:\n    logger().exception('job failed')"
    )
    assert json.loads(said)["error"] == "GeometryError: found 1"


def test_a_librarys_warning_about_a_value_is_not_logged() -> None:
    harm = f"import pydicom\npydicom.Dataset().PatientBirthDate = 'not a date {SECRET}'"
    assert SECRET not in logged_by(harm)
    unprotected = subprocess.run([sys.executable, "-c", harm], capture_output=True, text=True, check=True).stderr
    assert SECRET in unprotected, "the library warns no more: this test proves nothing"
