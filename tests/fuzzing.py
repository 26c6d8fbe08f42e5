"""How long tests search for input that nobody foresaw: a moment, with the same input each time, or for hours."""

import os
from typing import Any

from hypothesis import HealthCheck, Phase, settings

EXAMPLES = int(os.environ.get("COREAD_FUZZ_EXAMPLES", "0"))
"""How many inputs each search tries; 0: as many as a test says by itself, and the same ones each time."""


def searching(examples: int, **more: Any) -> settings:
    """How long a search takes: ``examples`` inputs, or as many as COREAD_FUZZ_EXAMPLES says, which differ each time."""
    return settings(
        max_examples=EXAMPLES or examples,
        derandomize=EXAMPLES == 0,
        database=None,
        deadline=None,
        print_blob=True,
        phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if EXAMPLES else [])],
        suppress_health_check=list(HealthCheck),
        **more,
    )
