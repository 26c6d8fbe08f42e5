"""A database of PostgreSQL's, by its own program."""

import os
import subprocess
from pathlib import Path
from shutil import which

import sqlalchemy as sa

from coread.errors import ConfigurationError, LedgerUnavailable

PROGRAM = "pg_dump"


def dump(url: str, target: Path) -> None:
    """Write a database, as it is at one moment, into a file that ``pg_restore`` reads.

    Raises ConfigurationError without pg_dump, LedgerUnavailable if it fails.
    """
    program = which(PROGRAM)
    if program is None:
        raise ConfigurationError(
            f"expected {PROGRAM} on the PATH, found none; install Debian's postgresql-client, of the server's version"
        )
    address = sa.make_url(url)
    password = {} if address.password is None else {"PGPASSWORD": str(address.password)}
    plain = address.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.part")
    partial.touch(mode=0o600)
    done = subprocess.run(
        [program, "--format=custom", f"--file={partial}", f"--dbname={plain}"],
        env={**os.environ, **password},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        partial.unlink(missing_ok=True)
        said = done.stderr.strip()[:500]
        raise LedgerUnavailable(f"{PROGRAM} ended with {done.returncode}: {said}; is the server up, and no newer?")
    partial.replace(target)
