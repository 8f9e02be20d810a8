"""Between the host and where the base lies, without waiting for what is still computed there."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def send(values: NDArray[Any] | list[float] | Tensor, device: torch.device) -> Tensor:
    """The values on the device. A copy from memory that the system may move waits until the
    device has nothing left to do, which then has to wait for its next orders in turn: so it is
    made from pinned memory."""
    here = torch.from_numpy(values) if isinstance(values, np.ndarray) else torch.as_tensor(values)
    if device.type == "cpu":
        return here
    here = here.pin_memory() if torch.cuda.is_available() else here
    return here.to(device, non_blocking=True)


class Reading:
    """Values on their way to the host; the device goes on with what it is told next.

    Args:
        values: may be overwritten by what is computed next.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values
        self._arrived: torch.cuda.Event | None = None
        if values.is_cuda and torch.cuda.is_available():
            self._values = torch.empty_like(values, device="cpu", pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def tolist(self) -> list[Any]:
        """The values, waited for if need be."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values.tolist()
