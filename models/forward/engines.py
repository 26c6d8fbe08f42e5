"""By what a network can be run: which engines there are, and one of them in the place of a torch network.

Light: a library is imported when its engine is asked for.
"""

from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from torch import nn

Precision = Literal["f32", "bf16", "f16"]


class Library(StrEnum):
    """Who multiplies."""

    OPENVINO = "openvino"
    ONNXRUNTIME = "onnxruntime"
    TORCH = "torch"


class Engine(BaseModel):
    """One way to run a network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    library: Library
    precision: Precision = "f32"
    """Of the multiplications. What goes in and comes out is float32."""
    is_tuned: bool = True
    """Of torch: with the channels of a voxel side by side in memory. Without, the network runs as it comes."""
    is_compiled: bool = False
    """Of torch: by torch.compile."""

    @property
    def label(self) -> str:
        """For people: "openvino 2026.4.1 f32"."""
        ways = {"channels-last": self.library is Library.TORCH and self.is_tuned, "compiled": self.is_compiled}
        return " ".join([self.library, version_of(self.library), self.precision, *(way for way in ways if ways[way])])

    @property
    def has_file(self) -> bool:
        """Whether it runs what was converted once."""
        return self.library is not Library.TORCH


EAGER = Engine(library=Library.TORCH, is_tuned=False)
"""As the bundle builds it. What every other engine is compared with."""


def candidates(device: str, *, has_one_size: bool, may_round: bool) -> list[Engine]:
    """The engines that are worth a try on "cpu" or "cuda", of those that are installed.

    ``has_one_size``: whether all that the network sees is of one size; else compiling anew would cost more than it
    gives. ``may_round``: whether numbers of 16 bits are allowed.
    """
    tuned = Engine(library=Library.TORCH)
    if device == "cuda":
        ways = (False, True) if has_one_size else (False,)
        rounded = [Engine(library=Library.TORCH, precision=each) for each in ("bf16", "f16")] if may_round else []
        return [each.model_copy(update={"is_compiled": way}) for each in (tuned, *rounded) for way in ways]
    rounded = [Engine(library=library, precision="bf16") for library in (Library.OPENVINO, Library.TORCH)]
    found = [Engine(library=Library.OPENVINO), Engine(library=Library.ONNXRUNTIME), tuned]
    return [each for each in [*found, *(rounded if may_round else [])] if version_of(each.library)]


def version_of(package: str) -> str:
    """The installed version; nothing if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def network_of(engine: Engine, network: "nn.Module", converted: bytes) -> "nn.Module":
    """What is called in the place of ``network``. ``converted``: the content of its file, if it has one.

    Raises RuntimeError if the engine cannot take what was converted.
    """
    if engine.library is Library.OPENVINO:
        from coread.models.forward.openvino_engine import OpenVinoNetwork

        return OpenVinoNetwork(converted, precision=engine.precision)
    if engine.library is Library.ONNXRUNTIME:
        from coread.models.forward.onnx_engine import OnnxNetwork

        return OnnxNetwork(converted)
    if engine == EAGER:
        return network
    from coread.models.forward.torch_engine import TorchNetwork

    return TorchNetwork(network, precision=engine.precision, is_compiled=engine.is_compiled)
