"""How full and how busy the GPU is that a worker uses; nothing where it uses none."""

from collections.abc import Sequence

import torch
from pynvml import NVMLError

from coread.process_report import Gpu

PERCENT = 100


def gpus_of(device: torch.device) -> Sequence[Gpu]:
    """The GPU that models run on. Only its memory is known where the driver's library (NVML) does not say how busy it
    is, as in some containers.
    """
    if device.type != "cuda":
        return ()
    free, total = torch.cuda.mem_get_info(device)
    name = torch.cuda.get_device_name(device)
    return (Gpu(name=name, memory_used_bytes=total - free, memory_total_bytes=total, utilisation=_busy(device)),)


def _busy(device: torch.device) -> float | None:
    try:
        return torch.cuda.utilization(device) / PERCENT
    except (NVMLError, RuntimeError):
        return None
