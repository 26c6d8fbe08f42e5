"""One window of 96³ through the CT UNet, on the CPU."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coread.benchmarks.comparison import OURS, Absent, Result, Way, compare, peer
from coread.benchmarks.ct_bundle import WINDOW, ct_unet
from coread.benchmarks.load import nothing
from coread.models.forward import openvino_engine
from coread.models.forward.choice import choose
from coread.models.forward.engines import network_of

CLASSES = 6
SMALL_WINDOW = (32, 32, 32)
TOLERANCE = 1e-3
"""Largest difference of scores of float32 engines."""


def forward(folder: Path, *, small: bool, repeats: int) -> Result:
    """Torch as most people call it, torch as it can be called, and other engines."""
    network = ct_unet(CLASSES)
    size = SMALL_WINDOW if small else WINDOW
    with torch.random.fork_rng():
        torch.manual_seed(2)
        window = torch.rand(1, 1, *size)
    choice = choose(network, [window], has_one_size=True, may_round=False)
    ours = network_of(choice.engine, network, choice.converted)
    quick: Any = ct_unet(CLASSES)
    quick = quick.to(memory_format=torch.channels_last_3d)  # torch's types forget that it may be so called
    ways: dict[str, Way | Absent] = {
        OURS: Way(
            run=nothing(lambda: _inference(ours, window)), note=f"as a prepared model runs: {choice.engine.label}"
        ),
        "torch": Way(run=nothing(lambda: network(window)), note="eager, float32, as it is called"),
        "torch, inference_mode, channels_last": Way(run=nothing(lambda: _inference(quick, window)), note="float32"),
        "torch, autocast bf16": Way(run=nothing(lambda: _autocast(quick, window)), note="channels_last"),
        "OpenVINO": peer("openvino", lambda: Way(run=nothing(_openvino(network, window)), note="float32, one stream")),
        "onnxruntime": peer("onnxruntime", lambda: Way(run=nothing(_onnx(network, window, folder)), note="float32")),
    }
    return compare(ways, repeats=repeats)


def _inference(network: torch.nn.Module, window: torch.Tensor) -> Any:
    with torch.inference_mode():
        return network(window)


def _autocast(network: torch.nn.Module, window: torch.Tensor) -> Any:
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        return network(window)


def _openvino(network: torch.nn.Module, window: torch.Tensor) -> Callable[[], object]:
    openvino = openvino_engine.openvino()
    with torch.no_grad():
        model = openvino.convert_model(network, example_input=window, input=[tuple(window.shape)])
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.compile_model(model, "CPU", options)

    def run() -> Any:
        return compiled([window.numpy()])[0]

    _check(network, window, run())
    return run


def _onnx(network: torch.nn.Module, window: torch.Tensor, folder: Path) -> Callable[[], object]:
    import onnxruntime

    path = folder / "network.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the new exporter needs more packages, for the same file
        torch.onnx.export(network, (window,), path, dynamo=False, opset_version=17)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it would go on in the next way's time
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run() -> Any:
        return session.run(None, {name: window.numpy()})[0]

    _check(network, window, run())
    return run


def _check(network: torch.nn.Module, window: torch.Tensor, scores: Any) -> None:
    """Raises RuntimeError unless an engine gives torch's scores: else its time says nothing."""
    apart = float(np.abs(_inference(network, window).numpy() - scores).max())
    if apart > TOLERANCE:
        raise RuntimeError(f"expected torch's scores, found others by up to {apart:g}")
