"""What training costs in steps: stages, promotion counts, brackets, and the saving measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from coralx.errors import ConfigError
from coralx.records import Record, TrainingResult, TrainingStage
from coralx.steps import exact, stage_steps

# Adaptive budgets: the share of a generation's steps that each of four stages gets.
EXPLORE_ABOVE = 0.8  # diversity
EXPLORE = (0.1, 0.4, 0.3, 0.2)
EXPLOIT = (0.05, 0.2, 0.35, 0.4)
MOST_EPOCHS = 1000.0  # the bound of TrainingStage.epoch_budget
ROUNDING = 1e-12  # of a rate that is computed, as 1 - 0.9


class StagePlan(Record):
    """One stage of a plan: `steps` = genomes x steps_per_genome."""

    name: str
    genomes: int
    steps_per_genome: float
    steps: float


class Plan(Record):
    """What a generation costs if every genome passes its gates and none leaves a stage early.

    Steps are unrounded: training rounds a genome's steps in a stage up to a whole number.
    `speedup` is naive_steps / hyperband_steps.
    """

    naive_steps: float
    hyperband_steps: float
    speedup: float
    stages: tuple[StagePlan, ...]


class Round(NamedTuple):
    """`genomes` are trained to a total of `budget` units each."""

    genomes: int
    budget: float


def survivors(entered: int, rate: float) -> int:
    """How many of the genomes that entered a stage go on: floor(entered x rate), at least one.

    Exact for rates that are short fractions: 10 x 0.3 is 3 and 9 x (1/3) is 3. 0 of 0.
    """
    return max(1, share_of(entered, rate)) if entered > 0 else 0


def share_of(count: int, rate: float) -> int:
    """floor(count x rate), exact for rates that are short fractions but for rounding."""
    short = Fraction(rate).limit_denominator(10**6)
    return math.floor(count * (short if abs(short - Fraction(rate)) < ROUNDING else Fraction(rate)))


def adapt(
    stages: Sequence[TrainingStage], population: int, diversity: float
) -> tuple[TrainingStage, ...]:
    """The four stages with epoch budgets that share out the same steps anew, by diversity (0..1, a
    share of the largest there can be).

    A generation of `population` genomes spends as much as before, of it the shares of `EXPLORE`
    in each stage if it is more diverse than `EXPLORE_ABOVE`, else those of `EXPLOIT`. What would
    take a stage beyond `MOST_EPOCHS` goes to the others, by their shares.
    """
    shares = EXPLORE if diversity > EXPLORE_ABOVE else EXPLOIT
    lines = plan(stages, population, 1, 1).stages
    steps = [line.steps / s.epoch_budget for s, line in zip(stages, lines, strict=True)]
    epochs = _share_out(sum(line.steps for line in lines), shares, steps)
    return tuple(
        stage.model_copy(update={"epoch_budget": each})
        for stage, each in zip(stages, epochs, strict=True)
    )


def plan(
    stages: Sequence[TrainingStage],
    population: int,
    steps_per_epoch: float,
    full_epochs: float,
) -> Plan:
    """A generation's cost against naive full training of its genomes for `full_epochs` each."""
    naive = population * exact(full_epochs) * exact(steps_per_epoch)
    lines, total, genomes = [], Fraction(0), population
    for stage in stages:
        each = stage_steps(stage, steps_per_epoch)
        total += genomes * each
        lines.append(
            StagePlan(
                name=stage.name,
                genomes=genomes,
                steps_per_genome=float(each),
                steps=float(genomes * each),
            )
        )
        genomes = survivors(genomes, stage.survival_rate)
    return Plan(
        naive_steps=float(naive),
        hyperband_steps=float(total),
        speedup=float(naive / total) if total else 0.0,
        stages=tuple(lines),
    )


def brackets(most: float, eta: int = 3) -> tuple[tuple[Round, ...], ...]:
    """The brackets of Hyperband, most exploratory first: each a list of rounds.

    For writing stages by hand. No run calls it: the stages of a run are one bracket, which is
    successive halving.

    Li et al., JMLR 18(185), 2018, with R = `most` (the largest budget of one genome, in units of
    the smallest) and eta = `eta`: bracket s = s_max..0 starts n genomes with R eta^-s each and
    keeps one in eta after each round. As in the paper's table for R = 81, eta = 3, with
    B = (s_max + 1) R: n = floor(B / R / (s + 1)) x eta^s. Algorithm 1 as printed there has
    n = ceil(B / R x eta^s / (s + 1)) instead and would start its brackets s = 3, 2, 1 with
    34, 15 and 8 genomes where the table has 27, 9 and 6.

    Raises:
        ConfigError: `most` is below 1 or `eta` below 2.
    """
    if most < 1 or eta < 2:
        rule = "the largest budget must be at least 1 and eta at least 2"
        raise ConfigError("brackets", [f"{rule}, got {most} and {eta}"])
    largest = exact(most)
    deepest = 0
    while eta ** (deepest + 1) <= largest:
        deepest += 1
    return tuple(_bracket(largest, eta, s, deepest) for s in range(deepest, -1, -1))


def efficiency(
    results: Sequence[TrainingResult],
    stages: Sequence[TrainingStage],
    steps_per_epoch: float,
    full_epochs: float,
) -> dict[str, Any]:
    """What was spent, in all and per stage, against naive full training of the same genomes.

    `efficiency_ratio` = naive_steps / steps, 0 where no step was trained; `naive_steps` = distinct
    genomes x full_epochs x steps_per_epoch, where copies that exploit made are not counted: they
    go on with another's training, in the place of a genome that is. Seconds are those of training
    and evaluation, `busy_share` is their time-weighted mean, `peak_memory` (bytes) the largest.
    `saved_by_leaving_early` counts the planned steps that genomes which left a stage early did not
    train. `stages` are in the order given, whether or not a genome reached them.
    """
    copies = {r.genome.id for r in results if r.stage_index and r.start.kind == "inherit"}
    genomes = len({result.genome.id for result in results} - copies)
    naive = float(genomes * exact(full_epochs) * exact(steps_per_epoch))
    spent = _spent(results)
    early = (result.cost for result in results if result.left_early)
    return {
        "efficiency_ratio": naive / spent["steps"] if spent["steps"] else 0.0,
        "naive_steps": naive,
        **spent,
        "saved_by_leaving_early": sum(max(0.0, c.planned_steps - c.steps) for c in early),
        "stages": [
            {"name": stage.name, **_spent([r for r in results if r.stage == stage.name])}
            for stage in stages
        ],
    }


def _spent(results: Sequence[TrainingResult]) -> dict[str, Any]:
    # Sums are exact, so that the order in which results arrived cannot show in the last digit.
    costs = [result.cost for result in results]
    seconds = [cost.train_seconds + cost.eval_seconds for cost in costs]
    busy = math.fsum(s * cost.busy_share for s, cost in zip(seconds, costs, strict=True))
    return {
        "genomes": len({result.genome.id for result in results}),
        "steps": sum(cost.steps for cost in costs),
        "planned_steps": math.fsum(cost.planned_steps for cost in costs),
        "tokens": sum(cost.tokens for cost in costs),
        "computed_tokens": sum(cost.computed_tokens for cost in costs),
        "flops": math.fsum(cost.flops for cost in costs),
        "seconds": math.fsum(seconds),
        "busy_share": busy / math.fsum(seconds) if any(seconds) else 0.0,
        "peak_memory": max((cost.peak_memory for cost in costs), default=0),
        "stopped": sum(result.stopped is not None for result in results),
    }


def _share_out(total: float, shares: Sequence[float], steps: Sequence[float]) -> list[float]:
    """Epochs of each stage that together take `total` steps, at `steps` an epoch."""
    epochs = [MOST_EPOCHS] * len(shares)
    left = dict(enumerate(shares))
    while left:
        weight = math.fsum(left.values())
        wanted = {i: share / weight * total / steps[i] for i, share in left.items()}
        full = [i for i, each in wanted.items() if each > MOST_EPOCHS]
        if not full:
            for i, each in wanted.items():
                epochs[i] = each
            break
        for i in full:
            total -= MOST_EPOCHS * steps[i]
            del left[i]
    return epochs


def _bracket(largest: Fraction, eta: int, s: int, deepest: int) -> tuple[Round, ...]:
    start = (deepest + 1) // (s + 1) * eta**s
    return tuple(
        Round(start // eta**i, float(largest * Fraction(eta) ** (i - s))) for i in range(s + 1)
    )
