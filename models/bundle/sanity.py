"""Whether a saliency map says anything of the model (Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018).

A map that stays the same when the network's weights are made random shows the image's edges, not what the network has
learnt. So weights are made random from the output inwards, and each time the map is compared with that of the model.
"""

import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import nn

from coread.models.bundle.saliency import Call, NoMap, class_map, scaled
from coread.models.manifest import Saliency

SAME_MAP = 0.5
"""Rank correlation above which two maps are the same map. Of unrelated maps it is about 0; of maps that show the same
edges, as Adebayo et al. find with methods that fail, above 0.9."""
SEEDS = 5
"""One random network may agree by chance."""
SPREAD = 0.02
"""Standard deviation of weights that have no way of their own to start."""


def likeness_by_depth(call: Call, key: int, saliency: Saliency, *, parts: int = 3) -> list[float]:
    """Rank correlation of a class's map with those of networks of which the last part, the last two and so on, and at
    the end all layers are random; each the mean over several. A random network that gives no map counts as unlike.

    Raises NoMap if the network itself gives none.
    """
    own = scaled(class_map(call, key, saliency))
    by_depth = []
    for part in range(1, parts + 1):
        found = [_likeness(own, call, key, saliency, part / parts, seed) for seed in range(SEEDS)]
        by_depth.append(float(np.mean(found)))
    return by_depth


def _likeness(own: NDArray[np.float32], call: Call, key: int, saliency: Saliency, part: float, seed: int) -> float:
    network = randomised(call.network, part=part, seed=seed)
    with torch.no_grad():
        asked = replace(call, network=network, answer=network(*call.inputs))
    try:
        other = scaled(class_map(asked, key, saliency))
    except NoMap:
        return 0.0
    return float(spearmanr(own.ravel(), other.ravel()).statistic)


def randomised(network: nn.Module, *, part: float, seed: int) -> nn.Module:
    """A copy of which this part of the layers with weights (0 to 1), counted from the output, starts anew."""
    copied = copy.deepcopy(network).eval()
    layers = list(_with_weights(copied))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in layers[len(layers) - round(part * len(layers)) :]:
            reset = getattr(layer, "reset_parameters", None)
            if reset is not None:
                reset()
            else:
                for weight in layer.parameters(recurse=False):
                    nn.init.normal_(weight, std=SPREAD)
    return copied


def _with_weights(network: nn.Module) -> Iterator[nn.Module]:
    """Layers that have weights of their own, in the order in which they are defined."""
    for layer in network.modules():
        if any(True for _ in layer.parameters(recurse=False)):
            yield layer
