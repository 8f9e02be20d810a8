"""AdamW, clipping and the learning-rate schedule, each per genome, on whole packs at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from coralx.train.adapters import PackedAdapters


@dataclass(frozen=True)
class Schedule:
    """Warm-up, then constant or, in a stage that anneals, linear from its first step to zero at its
    last: restarts by the stage (SGDR, Loshchilov and Hutter 2017, arXiv:1608.03983; linear for
    cosine), so that what a stage leaves behind is a finished model of its budget.

    `warmup` and `position` count the genome's own steps over all stages; `decay_from` and `end`
    are the stage's, None where it does not anneal.
    """

    peak: float
    warmup: int
    decay_from: int | None = None
    end: int | None = None

    def rate(self, position: int) -> float:
        """The learning rate of step `position` (the first is 0)."""
        rate = self.peak * min(1.0, (position + 1) / max(1, self.warmup))
        if self.decay_from is not None and self.end is not None and position >= self.decay_from:
            rate *= (self.end - position) / (self.end - self.decay_from)
        return rate


class PackOptimizer:
    """torch.optim.AdamW with one parameter group per genome over rows of the pack.

    Args:
        weight_decays: of each genome.
        steps: that each genome has taken before; moments start at zero, to be put into `first` and
            `second` where it took any.
    """

    def __init__(
        self,
        pack: PackedAdapters,
        schedules: Sequence[Schedule],
        weight_decays: Sequence[float],
        steps: Sequence[int],
    ) -> None:
        self._pack = pack
        self._schedules = tuple(schedules)
        self._rows = [pack.values[k].detach().requires_grad_() for k in range(pack.size)]
        self.first = torch.zeros_like(pack.values)
        self.second = torch.zeros_like(pack.values)
        groups = []
        for row, gradient, decay in zip(self._rows, pack.gradients, weight_decays, strict=True):
            row.grad = gradient
            groups.append({"params": [row], "lr": 0.0, "weight_decay": decay})
        self._adamw = torch.optim.AdamW(groups, fused=True)
        for k, row in enumerate(self._rows):
            self._adamw.state[row] = {
                "step": torch.tensor(float(steps[k]), device=row.device),
                "exp_avg": self.first[k],
                "exp_avg_sq": self.second[k],
            }

    def clip(self, limit: float | None) -> Tensor:
        """Scale each genome's gradient to norm `limit` at most; the norms before it, (K,)."""
        norms: Tensor = self._pack.gradients.norm(dim=1)
        if limit is not None:
            factor = (limit / (norms + 1e-6)).clamp(max=1.0)  # as clip_grad_norm_
            self._pack.gradients.mul_(factor[:, None])
        return norms

    def step(self, positions: Sequence[int], active: Sequence[bool]) -> None:
        """One update of every active genome; the weights of the others stay as they are."""
        for k, group in enumerate(self._adamw.param_groups):
            group["lr"] = self._schedules[k].rate(positions[k])
            self._rows[k].grad = self._pack.gradients[k] if active[k] else None
        self._adamw.step()

    def count(self, k: int) -> int:
        """Updates that genome k has had, over all stages."""
        return int(self._adamw.state[self._rows[k]]["step"].item())
