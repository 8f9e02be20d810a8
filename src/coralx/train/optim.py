"""AdamW, clipping and the learning-rate schedule, each per genome, on whole packs at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from coralx.train.adapters import PackedAdapters
from coralx.train.transfer import send


@dataclass(frozen=True)
class Schedule:
    """Warm-up, then constant or, in a stage that anneals, linear from its first step to zero after
    its last: restarts by the stage (SGDR, Loshchilov and Hutter 2017, arXiv:1608.03983; linear for
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


@dataclass(frozen=True)
class PackState:
    """What an update works on: `values`, `gradients` and the moments `first` and `second` (K, P),
    changed in place; `decays` and `steps` taken before, of each genome."""

    values: Tensor
    gradients: Tensor
    first: Tensor
    second: Tensor
    decays: Sequence[float]
    steps: Sequence[int]


class PackOptimizer:
    """AdamW over the rows of a pack, each genome with its own rate, decay and count of steps.

    Args:
        weight_decays: of each genome.
        steps: that each genome has taken before, over all stages; moments start at zero, to be put
            into `first` and `second` where it took any.
    """

    def __init__(
        self,
        pack: PackedAdapters,
        schedules: Sequence[Schedule],
        weight_decays: Sequence[float],
        steps: Sequence[int],
    ) -> None:
        self._pack = pack
        self._schedules, self._steps = tuple(schedules), list(steps)
        self.first = torch.zeros_like(pack.values)
        self.second = torch.zeros_like(pack.values)
        update = RowByRow if pack.values.device.type == "cpu" else AllAtOnce
        self._update: RowByRow | AllAtOnce = update(
            PackState(pack.values, pack.gradients, self.first, self.second, weight_decays, steps)
        )

    def begin_step(self) -> None:
        """Set the rates of the step that comes."""
        pairs = zip(self._schedules, self._steps, strict=True)
        self._update.set_rates([schedule.rate(step) for schedule, step in pairs])
        self._steps = [step + 1 for step in self._steps]

    def clip(self, limit: float | None) -> Tensor:
        """Scale each genome's gradient to norm `limit` at most; the norms before it, (K,)."""
        norms: Tensor = self._pack.gradients.norm(dim=1)
        if limit is not None:
            factor = (limit / (norms + 1e-6)).clamp(max=1.0)  # as clip_grad_norm_
            self._pack.gradients.mul_(factor[:, None])
        return norms

    def step(self) -> None:
        """One update of every genome."""
        self._update.step()

    def count(self, k: int) -> int:
        """Updates that genome k has had, over all stages."""
        return self._steps[k]


class RowByRow:
    """torch.optim.AdamW with one parameter group per genome: on a CPU the fastest."""

    def __init__(self, state: PackState) -> None:
        groups = []
        leaves = [row.detach().requires_grad_() for row in state.values]
        for leaf, gradient, decay in zip(leaves, state.gradients, state.decays, strict=True):
            leaf.grad = gradient
            groups.append({"params": [leaf], "lr": 0.0, "weight_decay": decay})
        self._adamw = torch.optim.AdamW(groups, fused=True)
        for k, leaf in enumerate(leaves):
            self._adamw.state[leaf] = {
                "step": torch.tensor(float(state.steps[k])),
                "exp_avg": state.first[k],
                "exp_avg_sq": state.second[k],
            }

    def set_rates(self, rates: Sequence[float]) -> None:
        for group, rate in zip(self._adamw.param_groups, rates, strict=True):
            group["lr"] = rate

    def step(self) -> None:
        self._adamw.step()


class AllAtOnce:
    """The same update (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2) of all rows in
    operations that do not grow in number with them: on a GPU torch's own takes 50 us a row. Rates
    and counts are kept in tensors, so that a step can be recorded once and replayed.
    """

    BETAS, EPSILON = (0.9, 0.999), 1e-8  # torch's defaults

    def __init__(self, state: PackState) -> None:
        self._values, self._gradients = state.values, state.gradients
        self._first, self._second = state.first, state.second
        self._decays = _column(state.decays, state.values.device)
        self._steps = _column(state.steps, state.values.device)
        self._rates = torch.zeros_like(self._steps)

    def set_rates(self, rates: Sequence[float]) -> None:
        self._rates.copy_(_column(rates, self._rates.device))

    @torch.no_grad()
    def step(self) -> None:
        for_first, for_second = self.BETAS
        self._steps.add_(1)
        # 1 - beta^step, which loses digits where it is taken as it reads.
        whole, whole_square = (-(self._steps * math.log(b)).expm1() for b in self.BETAS)
        self._first.lerp_(self._gradients, 1 - for_first)
        self._second.mul_(for_second)
        self._second.addcmul_(self._gradients, self._gradients, value=1 - for_second)
        spread = (self._second.sqrt() / whole_square.sqrt()).add_(self.EPSILON)
        self._values.mul_(1 - self._rates * self._decays)
        self._values.addcdiv_(self._first * (self._rates / whole), spread, value=-1)


def _column(numbers: Sequence[float], device: torch.device) -> Tensor:
    """(K, 1), one for each row."""
    return send([float(number) for number in numbers], device)[:, None]
