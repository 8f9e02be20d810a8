"""What the machine's matrix unit gives at best: the roof that training is held against."""

from __future__ import annotations

import time

import numpy as np
import torch

REPEATS = 3
LEAST_SECONDS = 0.02  # that one timing lasts

# (m, k, n): square ones, and those of a small transformer's linears on a tall matrix.
CPU_SHAPES = (
    (512, 512, 512),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (2048, 384, 1536),
    (2048, 1536, 384),
)
CUDA_SHAPES = ((4096, 4096, 4096), (8192, 8192, 8192), (16384, 1024, 4096))


def measure_matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest shape, by the median of its timings."""
    shapes = CUDA_SHAPES if device.type == "cuda" else CPU_SHAPES
    return max(_measure(shape, device, dtype) for shape in shapes)


def synchronise(device: torch.device) -> None:
    """Wait for what the device was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _measure(shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype) -> float:
    m, k, n = shape
    a = torch.randn(m, k, device=device).to(dtype)
    b = torch.randn(k, n, device=device).to(dtype)
    out = torch.empty(m, n, device=device, dtype=dtype)
    seconds = _time(a, b, out, 1)  # the first call also sets the library up
    times = max(1, round(LEAST_SECONDS / seconds))
    found = [_time(a, b, out, times) / times for _ in range(REPEATS)]
    return 2.0 * m * k * n / float(np.median(found))


def _time(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, times: int) -> float:
    synchronise(a.device)
    began = time.perf_counter()
    for _ in range(times):
        torch.mm(a, b, out=out)
    synchronise(a.device)
    return time.perf_counter() - began
