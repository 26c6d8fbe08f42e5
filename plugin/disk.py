"""Back-pressure: with little room left, Orthanc asks senders to keep their images and send them again.

The room that is kept free is for what was taken in already: results, the ledger, logs.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coread.logs import logger

OUT_OF_RESOURCES = 0xA700
"""C-STORE status "Refused: Out of Resources" (PS3.4 B.2.3): the sender keeps the image."""
ACCEPTED = 0x0000
BYTES_PER_GB = 1e9


class DiskWatch:
    """Looks at the room on a folder's disk at each step, so that the C-STORE hook itself need not."""

    def __init__(self, folder: Path, *, min_free_gb: float) -> None:
        self._folder = folder
        self._min_free_gb = min_free_gb
        self.is_short = False
        self.refused = 0
        """How many images were refused since the start."""

    def step(self) -> None:
        """Look again; say so in the log when it has changed."""
        free_gb = shutil.disk_usage(self._folder).free / BYTES_PER_GB
        was_short, self.is_short = self.is_short, free_gb < self._min_free_gb
        if self.is_short and not was_short:
            logger().error("little room: images are refused", free_gb=round(free_gb, 3), needed_gb=self._min_free_gb)
        elif was_short and not self.is_short:
            logger().info("room again: images are taken", free_gb=round(free_gb, 3))

    def register(self, orthanc: Any, *, refuses: Callable[[Any], bool] | None = None) -> None:
        """Have Orthanc ask before it takes an image by C-STORE. ``refuses``: whether somebody else will not have it."""

        def status(instance: Any) -> int:
            if self.is_short:
                self.refused += 1
                return OUT_OF_RESOURCES
            return OUT_OF_RESOURCES if refuses is not None and refuses(instance) else ACCEPTED

        if self._min_free_gb > 0 or refuses is not None:
            orthanc.RegisterIncomingCStoreInstanceFilter(status)
