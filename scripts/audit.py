"""Asks whether vulnerabilities are known of the pinned Python packages: ``audit.py [FILE] [options of pip-audit]``.

One that is found is an error (exit status 1). Where the vulnerability service cannot be asked, or does not know a
package, that is said and is no error: a build without a network goes on.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

PINNED = Path(__file__).parents[1] / "constraints.txt"
TIME_S = 300
UNREACHABLE = (
    "Could not connect to",
    "PyPI is not redirecting",
    "_service.interface.ServiceError",
    "requests.exceptions.",
)
"""What pip-audit says where its service does not answer, or with an error."""

ACCEPTED: dict[str, str] = {}
"""Identifier of a vulnerability → why it does not concern Coread. Take it out with the package's next version."""


def main(arguments: list[str]) -> int:
    file, options = (arguments[0], arguments[1:]) if arguments[:1] and arguments[0][0] != "-" else (PINNED, arguments)
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(file), "--no-deps", "--disable-pip"]
    quiet = ["--format", "json", "--progress-spinner", "off", *(f"--ignore-vuln={known}" for known in ACCEPTED)]
    try:
        done = subprocess.run([*command, *quiet, *options], capture_output=True, text=True, check=False, timeout=TIME_S)
    except subprocess.TimeoutExpired:
        click.echo(not_done(f"it did not answer within {TIME_S} s"))
        return 0
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last_words = done.stderr.strip().rpartition("\n")[2]
        if any(each in done.stderr for each in UNREACHABLE):
            click.echo(not_done(last_words))
            return 0
        click.echo(f"[audit] pip-audit failed: {last_words}", err=True)
        return 2
    lines, status = verdict_of(found)
    click.echo("\n".join(lines))
    return status


def verdict_of(dependencies: list[dict[str, Any]]) -> tuple[list[str], int]:
    """What is said of pip-audit's findings, line by line, and the exit status."""
    asked = [each for each in dependencies if "skip_reason" not in each]
    unknown = [each["name"] for each in dependencies if "skip_reason" in each]
    lines = [
        f"[audit] {each['name']} {each['version']}: {known['id']} ({', '.join(known['aliases']) or 'no other name'}), "
        f"mended in {', '.join(known['fix_versions']) or 'no version yet'}"
        for each in asked
        for known in each["vulns"]
    ]
    if lines:
        remedy = (
            "take the mended version into constraints.txt, or say in scripts/audit.py why it does not concern Coread"
        )
        return [*lines, f"[audit] expected no known vulnerabilities, found {len(lines)}; {remedy}"], 1
    if not asked:
        return [not_done(f"it knows none of the {len(unknown)} packages")], 0
    lines.append(f"[audit] no vulnerabilities are known of {len(asked)} packages")
    if unknown:
        lines.append(f"[audit] NOT asked about {len(unknown)}, which the service does not know: {', '.join(unknown)}")
    return lines, 0


def not_done(why: str) -> str:
    """What is said where nothing was found out."""
    return (
        f"[audit] NOT DONE: expected an answer of the vulnerability service, found none ({why}). Nothing is known of "
        "the packages; run `make audit` where it can be reached"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
