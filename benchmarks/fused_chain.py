"""The benchmark's transforms as a recognised bundle runs them, without the network between."""

from collections.abc import Sequence
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from coread.benchmarks.ct_bundle import preprocessing
from coread.models.bundle.fusion import fuse
from coread.models.bundle.grid import ModelGrid
from coread.models.bundle.in_memory import Feed, TakeImaged
from coread.volume import Volume


class FusedChain:
    """Preprocessing, and ``postprocessing`` as a configuration has it, by Coread's kernels."""

    def __init__(self, postprocessing: Sequence[dict[str, Any]]) -> None:
        """Raises RuntimeError if something of it is not recognised."""
        self._feed = Feed([None], image_keys=["image"])
        load = {"_target_": f"{TakeImaged.__module__}.{TakeImaged.__name__}", "keys": "image", "feed": self._feed}
        content = {
            "preprocessing": {"_target_": "Compose", "transforms": [load, *preprocessing()]},
            "postprocessing": {"_target_": "Compose", "transforms": list(postprocessing)},
        }
        parser = ConfigParser(content)
        self._before, self._after = (parser.get_parsed_content(key) for key in content)
        self._fusion = fuse(self._before, self._after)
        if self._fusion.not_fused or not self._fusion.is_complete:
            raise RuntimeError(f"expected transforms that are recognised, found: {self._fusion.sentences()}")

    def prepare(self, volume: Volume) -> dict[Any, Any]:
        """What the network sees, under "image"."""
        self._feed.start([ModelGrid.of(volume, None, projection=False).image(volume)], {})
        data: dict[Any, Any] = self._before({})
        self._check()
        return data

    def finish(self, data: dict[Any, Any], scores: torch.Tensor) -> Any:
        """Labels on the images' grid of what the network gave for ``data``."""
        found = self._after({**data, "pred": MetaTensor(scores, meta=data["image"].meta)})["pred"]
        self._check()
        return found

    def _check(self) -> None:
        """Raises RuntimeError if MONAI's transforms have run: then the time says nothing of ours."""
        if self._fusion.run.other_case:
            raise RuntimeError(f"expected a case that runs fused, found: {self._fusion.run.other_case}")
