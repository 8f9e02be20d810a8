"""One training step of a pack: forward, backward, clip, update, each genome on its own loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from coralx.train.adapters import PackedAdapters
from coralx.train.backbone import Backbone
from coralx.train.network import score
from coralx.train.optim import PackOptimizer
from coralx.train.prefix import Batch


class PackStep:
    """Steps of one pack on whatever batch they are given.

    Args:
        clip_norm: largest norm of a genome's gradient; None clips nothing.
    """

    def __init__(
        self,
        backbone: Backbone,
        pack: PackedAdapters,
        optimizer: PackOptimizer,
        clip_norm: float | None,
    ) -> None:
        self._backbone, self._pack = backbone, pack
        self._optimizer, self._clip_norm = optimizer, clip_norm

    def __call__(self, batch: Batch, targets: Tensor | None) -> Tensor:
        """Losses and gradients' norms before clipping: (2, K). Pack and optimiser must have begun
        the step. A genome whose loss or gradient is no number breaks down; no other does.

        Args:
            targets: (B,) 0.0 or 1.0.
        """
        assert targets is not None  # noqa: S101 - it trains
        logits = score(self._backbone, self._pack, batch)
        losses = functional.binary_cross_entropy_with_logits(
            logits, targets.expand_as(logits), reduction="none"
        ).mean(dim=1)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        norms = self._optimizer.clip(self._clip_norm)
        self._optimizer.step()
        return torch.stack([losses.detach(), norms])
