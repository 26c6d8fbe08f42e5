"""Prints what an image needs of PyPI, for pip: ``requirements.py plugin`` or ``requirements.py worker``."""

import sys
import tomllib
from pathlib import Path

described = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
extras = described["project"]["optional-dependencies"]
needed = {
    "plugin": described["dependency-groups"]["plugin"],
    "worker": [*described["project"]["dependencies"], *extras["postgresql"], *extras["redis"]],
}
print(*needed[sys.argv[1]], sep="\n")  # noqa: T201  # for pip
