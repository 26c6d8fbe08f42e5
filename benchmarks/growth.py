"""How the chain's cost grows with slices and labels."""

import statistics
from dataclasses import dataclass
from pathlib import Path

from coread.benchmarks.chain import approved, ours
from coread.benchmarks.ct_bundle import write_ct_model
from coread.benchmarks.processes import WayInProcess
from coread.benchmarks.samples import SHAPE, SMALL, write_ct

SLICES, LABELS = (100, 300, 1000), (1, 20, 104)
FEW_SLICES, FEW_LABELS = (12, 24), (1, 5)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of a series: the median of the seconds around the network, those in it, and the memory of the process at its
    peak, with all that it imports.
    """

    slices: int
    labels: int
    seconds: float
    network_s: float
    peak_mb: float


def growth(folder: Path, *, repeats: int, small: bool) -> list[Cost]:
    """Each combination in a process of its own."""
    size = SMALL if small else SHAPE
    found = []
    for labels in FEW_LABELS if small else LABELS:
        for slices in FEW_SLICES if small else SLICES:
            room = folder / f"{labels}-{slices}"
            series = write_ct(room / "series", labels, shape=(slices, *size[1:]))
            write_ct_model(room / "models", labels, with_unet=False)
            with WayInProcess(ours, series=series, output=room, settings_file=approved(room)) as way:
                way.run()
                runs = [way.run_for_memory() for _ in range(repeats)]
            found.append(
                Cost(
                    slices=slices,
                    labels=labels,
                    seconds=statistics.median(lap.around_s for lap, _ in runs),
                    network_s=statistics.median(lap.network_s for lap, _ in runs),
                    peak_mb=runs[-1][1],
                )
            )
    return found
