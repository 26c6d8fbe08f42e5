"""The least that anybody could do from files to files: the floors of the stages, one after the other."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from coread.benchmarks import invert, load, measure, resample
from coread.benchmarks.processes import Done
from coread.benchmarks.samples import Shape, labels_of
from coread.benchmarks.seg_write import packed_bits
from coread.objects import ObjectKind
from coread.volume import count_by_slice


def chain_floor(*, series: Path, output: Path, labels: int, shape: Shape) -> Callable[[], Done]:
    """What the network says is at hand: few labels as scores, many as labels, so nothing of theirs is added up. The
    report's bytes are those that ours has left in ``output``.
    """
    said = invert.what_a_network_says(labels_of(labels, shape), labels)
    report = (output / f"coread-{ObjectKind.SR}.dcm").read_bytes()

    def run() -> Done:
        values = load.floor(series)
        resample.floor(values)
        found = invert.floor(said, shape)
        measure.floor(found, values)
        planes, segments = np.nonzero(count_by_slice(found)[:, 1:])
        (output / "floor-seg.dcm").write_bytes(packed_bits(found, planes, segments + 1).data)
        (output / "floor-sr.dcm").write_bytes(report)
        return Done()

    return run
