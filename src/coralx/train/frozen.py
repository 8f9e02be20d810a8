"""The matrix products of frozen linear layers, and the number format they are taken in.

A frozen weight gets no gradient and never changes, so it can be multiplied in bfloat16 while
everything that learns, and all that is no matrix product, stays in float32 (mixed precision,
Micikevicius et al. 2018, arXiv:1710.03740). Inputs are rounded to 8 bits of mantissa, sums are
kept in float32 by the hardware and rounded once: about 0.4% of the largest output.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NATIVE = ("avx512_bf16", "amx_bf16")  # processors that multiply bfloat16 faster than float32


class FrozenProducts:
    """How the frozen layers of one base model multiply; shared by all threads.

    Args:
        dtype: of the products; inputs of another are rounded to it.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._rounded: dict[nn.Linear, Tensor] = {}

    def apply(self, layer: nn.Linear, x: Tensor) -> Tensor:
        """The layer's output, (..., in) -> (..., out), in the dtype of the input."""
        if x.dtype == self.dtype or self.dtype == torch.float32:
            return layer(x)  # type: ignore[no-any-return]
        if layer not in self._rounded:
            self._rounded[layer] = layer.weight.detach().to(self.dtype)
        out = (x.to(self.dtype) @ self._rounded[layer].t()).to(x.dtype)
        return out if layer.bias is None else out.add_(layer.bias)

    @contextlib.contextmanager
    def exact(self) -> Iterator[None]:
        """Products in float32, as an exported adapter is served."""
        chosen, self.dtype = self.dtype, torch.float32
        try:
            yield
        finally:
            self.dtype = chosen


def choose_products(name: str, base: torch.dtype, device: torch.device) -> torch.dtype:
    """The format of frozen products: auto is bfloat16 where the hardware multiplies it natively.

    Args:
        base: of the frozen weights; if it is not float32, products are in it whatever was asked.
    """
    if base != torch.float32:
        return base
    if name != "auto":
        return FORMATS[name]
    return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    known: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # not in every torch
    return any(known.get(name, False) for name in NATIVE)
