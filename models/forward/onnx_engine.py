"""A network run by onnxruntime: exported from torch once, and kept as a file. For who has installed it."""

import io
import warnings
from collections.abc import Sequence

import onnxruntime
import torch
from monai.data import MetaTensor
from torch import nn

OPSET = 17
INPUT, OUTPUT = "image", "scores"


def converted(network: nn.Module, example: torch.Tensor, *, shape: Sequence[int]) -> bytes:
    """The network as ONNX. ``shape``: of its input, -1 where any size may come.

    Raises what tracing and ONNX raise for a network that they cannot take.
    """
    free = {axis: f"size{axis}" for axis, size in enumerate(shape) if size == -1}
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of tracing; what it gets wrong, the comparison with torch shows
        torch.onnx.export(
            network,
            (example,),
            file,  # type: ignore[arg-type]  # it may be an open file
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: free, OUTPUT: free} if free else None,
            opset_version=OPSET,
            dynamo=False,
        )
    return file.getvalue()


class OnnxNetwork(nn.Module):
    """In the place of a torch network: the same call."""

    def __init__(self, model: bytes) -> None:
        """``model``: from ``converted``. Raises RuntimeError if onnxruntime cannot take it."""
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # workers share the cores
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.held_bytes = len(model)
        """What it takes up, as far as can be told from outside."""
        self.takes_one = self._session.get_inputs()[0].shape[0] == 1
        """Whether a batch is answered one by one."""
        self.eval()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        pieces = plain.split(1) if self.takes_one else [plain]
        answers = [self._answer(piece) for piece in pieces]
        answer = answers[0] if len(answers) == 1 else torch.cat(answers)
        return MetaTensor(answer).copy_meta_from(image) if isinstance(image, MetaTensor) else answer

    def _answer(self, image: torch.Tensor) -> torch.Tensor:
        seen = image.detach().to(device="cpu", dtype=torch.float32).contiguous().numpy()
        return torch.from_numpy(self._session.run([OUTPUT], {INPUT: seen})[0])
