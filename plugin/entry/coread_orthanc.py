"""The script that Orthanc's Python plugin loads (``"PythonScript"`` in its configuration).

Orthanc embeds the system's interpreter, which does not see Coread's virtual environment: this file adds it. The
script lies in a folder of its own because Orthanc puts that folder first on ``sys.path``.
"""

import os
import site
import sys
from pathlib import Path

here = Path(__file__)
installed_in = next((str(folder) for folder in here.parents if folder.name == "site-packages"), None)
before = list(sys.path)
site.addsitedir(os.environ.get("COREAD_SITE_PACKAGES") or installed_in or "")
# In front of Debian's own packages, which may be older than what Coread is pinned to.
sys.path[:] = [path for path in sys.path if path not in before] + before

import orthanc  # noqa: E402  # pyright: ignore[reportMissingImports]

from coread.plugin.service import start  # noqa: E402

start(orthanc)
