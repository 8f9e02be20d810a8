"""The gates of a stage: rules that stop a genome on what the stage measured, with a reason."""

from __future__ import annotations

import math

from coralx.records import Stop, TrainingResult, TrainingStage

# A slope this many standard errors above zero is no noise: one in 700 for many steps of pure noise.
RISING_T = 3.0


def check(stage: TrainingStage, result: TrainingResult) -> Stop | None:
    """Why the genome goes no further, or None if it passes.

    A stop that training reported stands. Otherwise the first rule broken counts, in this order:
    a non-finite number, the gradient norm, a rising loss, AUROC. A rule whose measurement is
    absent is not applied.
    """
    return (
        result.stopped
        or _check_finite(stage, result)
        or _check_gradient(stage, result)
        or _check_loss(stage, result)
        or _check_quality(stage, result)
    )


def _check_finite(stage: TrainingStage, result: TrainingResult) -> Stop | None:
    """Losses, gradient norm and skill must be finite numbers; the first that is not is named."""
    losses = [(f"loss at step {point.step}", point.loss) for point in result.curve]
    norm = ("gradient norm", result.details.get("grad_norm", 0.0))
    skill = ("task_skill", result.objectives.get("task_skill", 0.0))
    for name, value in (*losses, norm, skill):
        if not math.isfinite(value):
            reason = f"{name} is {value} in {stage.name}: not a finite number"
            return Stop(gate="non_finite", value=None, limit=None, reason=reason)
    return None


def _check_gradient(stage: TrainingStage, result: TrainingResult) -> Stop | None:
    """`details["grad_norm"]`: median over the stage's steps of the norm before clipping.

    Training leaves it out for fewer than 3 steps, where it would speak of the batches alone.
    """
    norm, limit = result.details.get("grad_norm"), stage.max_grad_norm
    if norm is None or limit is None or norm <= limit:
        return None
    reason = f"gradient norm {norm:.6g} > {limit} (median over {stage.name}, before clipping)"
    return Stop(gate="gradient_norm", value=norm, limit=limit, reason=reason)


def _check_loss(stage: TrainingStage, result: TrainingResult) -> Stop | None:
    """`details["loss_slope_t"]`: slope of loss on step, least squares, over its standard error.

    Training leaves it out for fewer than 8 steps, where it would say nothing.
    """
    t = result.details.get("loss_slope_t")
    if t is None or not stage.stop_if_loss_rises or not t > RISING_T:
        return None
    reason = f"loss rising over {stage.name}: t statistic of its slope {t:.6g} > {RISING_T}"
    value = t if math.isfinite(t) else None
    return Stop(gate="loss_rising", value=value, limit=RISING_T, reason=reason)


def _check_quality(stage: TrainingStage, result: TrainingResult) -> Stop | None:
    """AUROC on validation rows, not the discounted skill of the cross-modal proxy, which must not
    stop a genome that is above the limit."""
    auroc, limit = result.auroc, stage.min_auroc
    if auroc is None or limit is None or auroc >= limit:
        return None
    reason = f"AUROC {auroc:.6g} < {limit} (validation rows, after {stage.name})"
    return Stop(gate="auroc", value=auroc, limit=limit, reason=reason)
