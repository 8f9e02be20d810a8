"""What a stage is said to have cost a genome and what the gates are told of its training."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Sequence

import numpy as np
import torch

from coralx.records import Cost, Stop
from coralx.steps import LEAST_LOSSES, LEAST_NORMS
from coralx.train.adapters import all_finite
from coralx.train.member import Member


class Clock:
    """Wall and processor seconds since it was made."""

    def __init__(self) -> None:
        self._wall, self._processor = time.perf_counter(), time.process_time()

    def seconds(self) -> float:
        return time.perf_counter() - self._wall

    def busy_share(self) -> float:
        """Share of the threads' time that was worked in: of the processor, on CUDA too, where it
        does not say how busy the device was."""
        wall = time.perf_counter() - self._wall
        used = time.process_time() - self._processor
        return min(1.0, used / (wall * torch.get_num_threads()))


def cost_of(member: Member, planned: float = 0.0, busy: float = 0.0, peak: int = 0) -> Cost:
    """What the stage cost one genome.

    Args:
        planned: its unrounded steps.
        busy, peak: `busy_share` and `peak_memory` of its pack.
    """
    return Cost(
        steps=len(member.losses),
        planned_steps=planned,
        tokens=member.tokens,
        computed_tokens=member.computed_tokens,
        flops=member.flops,
        train_seconds=member.seconds,
        eval_seconds=member.eval_seconds,
        busy_share=busy,
        peak_memory=peak,
    )


def add_lost(cost: Cost, others: Sequence[Cost], seconds: float) -> Cost:
    """The cost with that of others added, whose training was for nothing.

    Args:
        seconds: of all of them; members that broke off have not shared out the last of theirs.
    """
    if not others:
        return cost
    names = ("steps", "tokens", "computed_tokens", "flops", "eval_seconds")
    total = {n: getattr(cost, n) + sum(getattr(other, n) for other in others) for n in names}
    total["lost_steps"] = cost.lost_steps + sum(other.steps for other in others)
    total["train_seconds"] = max(0.0, seconds - total["eval_seconds"])
    return cost.model_copy(update=total)


def stop_if_not_finite(member: Member) -> None:
    """Weights can overflow in the very last step, after loss and gradient were looked at."""
    if member.stop is None and not all_finite(member.weights):
        reason = "weights hold NaN or infinity after the stage's last step"
        member.stop = Stop(gate="non_finite", value=None, limit=None, reason=reason)


def describe_training(member: Member) -> dict[str, float]:
    """What the gates look at: the median gradient norm and how surely the loss rises."""
    figures = {}
    if len(member.norms) >= LEAST_NORMS:
        figures["grad_norm"] = float(np.median(member.norms))
    if len(member.losses) >= LEAST_LOSSES:
        figures["loss_slope_t"] = slope_t(member.losses)
    return figures


def slope_t(losses: Sequence[float]) -> float:
    """t statistic of the least-squares slope of the loss on the step; positive when it rises."""
    steps = np.arange(len(losses)) - (len(losses) - 1) / 2
    values = np.asarray(losses)
    spread = float((steps**2).sum())
    slope = float((steps * values).sum()) / spread
    rest = values - values.mean() - slope * steps
    error = math.sqrt(float((rest**2).sum()) / (len(losses) - 2) / spread)
    if error == 0:
        return math.copysign(math.inf, slope) if slope else 0.0
    return slope / error


def peak_memory(device: torch.device) -> int:
    """Bytes: of a CUDA device where that is what trains, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
