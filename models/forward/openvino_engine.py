"""A network run by OpenVINO: traced from torch, compiled for this CPU, and kept as a file."""

import importlib
import io
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from torch import nn

PRECISIONS = {"f32": "f32", "bf16": "bf16"}
"""Ours → OpenVINO's. It must always be said: on a CPU that can, OpenVINO would round to bfloat16 by itself."""

OUT_OF_MEMORY = "Failed to allocate"
"""What OpenVINO says when it finds no memory, in the midst of other text."""


class OtherShape(ValueError):
    """The network is asked for an image of another size than it was compiled for."""


def openvino() -> Any:
    """The library, kept from reporting its use: at its import it would tell its makers' analytics service.

    Raises ImportError if it is not installed.
    """
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it makes do without, if it is not found
    return importlib.import_module("openvino")


def converted(network: nn.Module, example: torch.Tensor, *, shape: Sequence[int], precision: str) -> bytes:
    """The network compiled for this CPU. ``shape``: of its input, -1 where any size may come.

    Raises what tracing and OpenVINO raise for a network that they cannot take.
    """
    ov = openvino()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of tracing; what it gets wrong, the comparison with torch shows
        model = ov.convert_model(network, example_input=(example,), input=list(shape))
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(f"expected one input and one output, found {len(model.inputs)} and {len(model.outputs)}")
    compiled = ov.Core().compile_model(model, "CPU", _options(precision))
    blob = compiled.export_model()
    return blob.getvalue() if isinstance(blob, io.BytesIO) else bytes(blob)


class OpenVinoNetwork(nn.Module):
    """In the place of a torch network: the same call."""

    def __init__(self, blob: bytes, *, precision: str) -> None:
        """``blob``: from ``converted``. Raises RuntimeError if this OpenVINO, or this CPU, cannot take it."""
        super().__init__()
        compiled = openvino().Core().import_model(blob, "CPU", _options(precision))
        self._request = compiled.create_infer_request()
        self._shape = tuple(-1 if size.is_dynamic else size.get_length() for size in compiled.input(0).partial_shape)
        self.held_bytes = len(blob)
        """What it takes up, as far as can be told from outside."""
        self.takes_one = self._shape[0] == 1
        """Whether a batch is answered one by one: then it is no sooner, and needs more memory."""
        self.eval()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Raises OtherShape if it was compiled for another size, MemoryError if there is too little memory."""
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        if not self._takes(plain.shape):
            raise OtherShape(f"expected an image of shape {self._shape}, found {tuple(plain.shape)}")
        pieces = plain.split(1) if self.takes_one else [plain]
        answers = [self._answer(piece) for piece in pieces]
        answer = answers[0] if len(answers) == 1 else torch.cat(answers)
        return MetaTensor(answer).copy_meta_from(image) if isinstance(image, MetaTensor) else answer

    def _takes(self, shape: Sequence[int]) -> bool:
        wanted = (-1 if self.takes_one else self._shape[0], *self._shape[1:])
        return len(shape) == len(wanted) and all(size in (-1, found) for size, found in zip(wanted, shape, strict=True))

    def _answer(self, image: torch.Tensor) -> torch.Tensor:
        seen = image.detach().to(device="cpu", dtype=torch.float32).contiguous().numpy()
        try:
            return torch.from_numpy(self._request.infer({0: seen}, share_inputs=True)[0])
        except RuntimeError as error:
            if OUT_OF_MEMORY in str(error):
                raise MemoryError(str(error)) from error
            raise


def _options(precision: str) -> dict[str, Any]:
    """One study at a time, by as many threads as torch would take; not pinned, because workers share the cores."""
    return {
        "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
