"""What a run will cost, before it starts and without torch: steps from the rows that there are, the
rest estimated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from coralx.config import Config
from coralx.errors import DataError
from coralx.models import check_kind, read_shape
from coralx.records import Genome, LoRAConfig, ModelShape, TrainingStage
from coralx.rows.count import RowCount, check_measured, count_rows
from coralx.search import budget
from coralx.search.breeding import draw_founders
from coralx.search.jobs import grown_rank
from coralx.search.packing import (
    adapted_blocks,
    added_bytes,
    base_bytes,
    block_parameters,
    pack,
    trained_parameters,
)
from coralx.search.space import relative_diversity
from coralx.settings.sections import DataSettings

DRAWN = 256  # genomes that FLOPs and memory are estimated from, at most
CHARACTERS_PER_TOKEN = 4.5  # of English in word pieces
SPECIAL_TOKENS = 2

Plan = dict[str, Any]


def plan_run(config: Config, steps_per_epoch: float | None = None) -> Plan:
    """The cost of one generation, stage by stage, and of the run, as plain JSON values.

    Top-level figures and `stages` are of one generation, the arithmetic of the specification,
    unrounded; `run` holds the totals over all generations. `whole` and what begins so are the
    steps that are trained: a genome's in a stage are rounded up, as is what a stage has of the
    rows. Without `steps_per_epoch` the rows of the configured data are counted. `tokens`, `flops`
    and `memory` (bytes) are estimates, None where the data or the model's shape cannot be seen
    from here; so are `rows` and with them all steps where `estimated` names `rows`.

    Raises:
        ConfigError, DataError, ModelError: what the configuration names cannot be used.
    """
    size = config.training.batch_size
    counted = _count_if_needed(config, needed=steps_per_epoch is None)
    rows = counted.rows if counted and steps_per_epoch is None else None
    if rows is not None:
        steps_per_epoch = math.ceil(rows / size)
    assert steps_per_epoch is not None  # noqa: S101 - counted where not given
    hyperband, evolution = config.hyperband, config.evolution
    epochs, trained = hyperband.full_epochs, _first_stages(config)
    one = budget.plan(trained, evolution.population, steps_per_epoch, epochs)
    each = [
        _whole(stage, rows, size) if rows else _round_up(budget.stage_steps(stage, steps_per_epoch))
        for stage in trained
    ]
    per_row = _tokens_per_row(counted.characters, config.data) if counted else None
    unsure = ["rows"] if rows is not None and counted and not counted.exact else []
    estimates = _estimate(config, one, per_row)
    stages = [
        {
            **line.model_dump(),
            "whole_steps_per_genome": steps,
            "whole_steps": steps * line.genomes,
            **estimate,
        }
        for line, steps, estimate in zip(one.stages, each, estimates, strict=True)
    ]
    naive = evolution.population * _round_up(epochs * steps_per_epoch)
    staged = _over(stages, "whole_steps", sum)
    check_kind(config.base_model, config.data.max_tokens)
    tokens, flops = (_over(stages, name, sum) for name in ("tokens", "flops"))
    return {
        "naive_steps": one.naive_steps,
        "hyperband_steps": one.hyperband_steps,
        "speedup": one.speedup,
        "whole": {
            "naive_steps": naive,
            "hyperband_steps": staged,
            "speedup": naive / staged if staged else 0.0,
        },
        "population": evolution.population,
        "rows": rows,
        "batch_size": size,
        "steps_per_epoch": steps_per_epoch,
        "naive_epochs": epochs,
        "stages": stages,
        "tokens": tokens,
        "flops": flops,
        "memory": _over(stages, "memory", max),
        "run": {
            "generations": evolution.generations,
            "genomes": evolution.population * evolution.generations,
            "naive_steps": one.naive_steps * evolution.generations,
            "hyperband_steps": one.hyperband_steps * evolution.generations,
            "speedup": one.speedup,
            "tokens": _times(tokens, evolution.generations),
            "flops": _times(flops, evolution.generations),
        },
        "estimated": [*unsure, "tokens", "flops", "memory"],
    }


def whole_steps(config: Config) -> dict[str, int]:
    """Steps that one genome trains in each stage at most, rounded up as training does.

    Subsets are stratified in training, which can add a row per stratum: a forecast, not a bound.

    Raises:
        DataError: the rows cannot be counted.
    """
    rows, size = count_rows(config.data).rows, config.training.batch_size
    return {stage.name: _whole(stage, rows, size) for stage in config.hyperband.stages}


def _first_stages(config: Config) -> tuple[TrainingStage, ...]:
    """The stages as the first generation will train them."""
    stages = config.hyperband.stages
    if not config.hyperband.adaptive_budgets:
        return stages
    founders = draw_founders(config.space, config.evolution)
    return budget.adapt(stages, len(founders), relative_diversity(config.space, founders))


def _count_if_needed(config: Config, needed: bool) -> RowCount | None:
    """Where steps are given the data only serves estimates and may be missing."""
    try:
        counted = count_rows(config.data)
        if needed:
            check_measured(config.data)
        return counted
    except DataError:
        if needed:
            raise
        return None


def _whole(stage: TrainingStage, rows: int, batch_size: int) -> int:
    each = budget.batches(rows, stage.data_percentage, batch_size)
    return _round_up(stage.epoch_budget * each)


def _round_up(steps: float) -> int:
    """As training does."""
    return math.ceil(steps - 1e-9)


def _tokens_per_row(characters: float, settings: DataSettings) -> float:
    return min(settings.max_tokens, characters / CHARACTERS_PER_TOKEN + SPECIAL_TOKENS)


def _estimate(config: Config, plan: budget.Plan, tokens_per_row: float | None) -> list[Plan]:
    """Tokens, FLOPs and peak bytes of each stage, from genomes drawn as the run would draw them."""
    shape = read_shape(config.base_model, 4 if config.training.dtype == "float32" else 2)
    drawn = min(config.evolution.population, DRAWN)
    settings = config.evolution.model_copy(update={"population": drawn})
    genomes, lines = draw_founders(config.space, settings), []
    for place, line in enumerate(plan.stages):
        trained = [_adapter(genome, config, place) for genome in genomes]
        seen = line.steps * config.training.batch_size
        tokens = round(seen * tokens_per_row) if tokens_per_row else None
        flops = None
        if tokens and tokens_per_row and shape:
            flops = tokens * _flops_per_token(trained, shape, tokens_per_row)
        lines.append(
            {
                "tokens": tokens,
                "flops": flops,
                "memory": _peak(config, genomes, trained, shape, line.genomes) if shape else None,
            }
        )
    return lines


def _adapter(genome: Genome, config: Config, stage_index: int) -> LoRAConfig:
    """As the stage trains it."""
    adapter = genome.lora_cfg
    grown = grown_rank(config, stage_index, adapter.r)
    return adapter.model_copy(update={"r": grown or adapter.r})


def _flops_per_token(
    adapters: Sequence[LoRAConfig], shape: ModelShape, tokens_per_row: float
) -> float:
    """Mean over the adapters: forward and backward of activations through the frozen linears from
    the lowest adapted block up, 2 FLOPs per multiply-add, and of the adapters with their
    gradients. The last block is computed for one token a row, but for its keys and values."""
    block, seen = block_parameters(shape), block_parameters(shape, ("key", "value"))
    last = seen + (block - seen) / tokens_per_row
    frozen = sum(4.0 * (block * (adapted_blocks(a, shape) - 1) + last) for a in adapters)
    own = sum(6.0 * trained_parameters(adapter, shape) for adapter in adapters)
    return (frozen + own) / len(adapters)


def _peak(
    config: Config,
    genomes: Sequence[Genome],
    adapters: Sequence[LoRAConfig],
    shape: ModelShape,
    count: int,
) -> int:
    """Of the base with the largest pack, were the `count` most costly genomes the ones that get
    this far."""
    rows, tokens = config.training.batch_size, config.data.max_tokens

    def cost(members: Sequence[LoRAConfig]) -> int:
        return added_bytes(members, shape, rows, tokens)

    own = {genome.id: adapter for genome, adapter in zip(genomes, adapters, strict=True)}
    costly = sorted(genomes, key=lambda genome: -cost([own[genome.id]]))[:count]
    limit = config.training.memory_budget_gb * 1e9
    packs = pack(costly, config.training.pack_size, cost, limit, own)
    largest = max(cost([own[genome.id] for genome in members]) for members in packs)
    return base_bytes(shape) + largest


def _over(
    stages: Sequence[Plan], name: str, combine: Callable[[Iterable[float]], float]
) -> float | None:
    values = [stage[name] for stage in stages]
    return None if None in values else combine(values)


def _times(value: float | None, factor: int) -> float | None:
    return None if value is None else value * factor
