"""What a run will cost, before it starts and without torch: steps from the rows that there are, the
rest estimated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coralx.cautions import cautions
from coralx.config import Config
from coralx.errors import DataError
from coralx.flops import training_flops
from coralx.models import adapted_heights, check_kind, check_layers, read_shape
from coralx.records import Genome, LoRAConfig, ModelShape, TrainingStage
from coralx.rows.tokens import estimate_lengths
from coralx.search import budget
from coralx.search.breeding import draw_founders
from coralx.search.footprint import (
    adapted_blocks,
    adapted_linears,
    base_bytes,
    block_linears,
)
from coralx.search.jobs import grown_rank, make_packs, pack_cost
from coralx.search.space import relative_diversity
from coralx.steps import (
    LEAST_LOSSES,
    LEAST_NORMS,
    count_batches,
    stage_steps,
    trained_steps,
    whole_steps,
)
from coralx.train.data import subset
from coralx.train.rows import Rows
from coralx.train.splits import Splits, count_for_stages, load_splits

DRAWN = 256  # genomes that FLOPs and memory are estimated from, at most

Plan = dict[str, Any]


@dataclass(frozen=True)
class _Data:
    """What is known of the rows. `rows`, and `subsets` by the percentage of them that stages train
    on, are None where steps were given instead, `tokens_per_row` where the rows cannot be seen from
    here. `pictured`: some training rows have pictures; `measured`: so have validation rows of both
    classes. `exact`: no picture that cannot be opened will leave out a row."""

    rows: int | None
    subsets: Mapping[float, int] | None
    steps_per_epoch: float
    tokens_per_row: float | None
    pictured: bool
    measured: bool
    cut: Plan
    warnings: tuple[str, ...] = ()
    exact: bool = True


def plan_run(config: Config, steps_per_epoch: float | None = None) -> Plan:
    """The cost of one generation, stage by stage, and of the run, as plain JSON values.

    Top-level figures and `stages` are of one generation, unrounded; `run` holds the totals over all
    generations. `whole` and what begins so are the steps that are trained: a genome's in a stage
    are rounded up, as is what a stage has of the rows. `idle_gates` are a stage's gates that so few
    steps leave without effect, with the steps that each needs. `unmeasured` says of which
    objectives that were asked for nothing will be known. Without `steps_per_epoch` the rows of the
    configured data are counted. `cut` has, by split, its `texts` and how many of them seem longer
    than `max_tokens`. `warnings` are those that the run gives of its rows, as far as they show
    without pictures and tokenizer, or why it would refuse the rows. `tokens`, `flops`, `memory`
    (bytes) and `frozen_outputs` are estimates, None where the data or the model's shape cannot be
    seen from here. `rows` and with them all steps are the most there can be where `estimated` names
    `rows`.

    Raises:
        ConfigError, DataError, ModelError: what the configuration names cannot be used.
    """
    shape = read_shape(config.base_model, 4 if config.training.dtype == "float32" else 2)
    check_kind(config.base_model, config.data.max_tokens)
    if shape:
        check_layers(config.base_model, config.space, shape.layers)
    data = _look_at_rows(config, steps_per_epoch, shape.vocab if shape else 0)
    config.check_measured(data.measured)
    population, epochs = config.evolution.population, config.hyperband.full_epochs
    trained = _first_stages(config)
    one = budget.plan(trained, population, data.steps_per_epoch, epochs)
    stages = _plan_stages(config, trained, one, data, shape)
    totals = {
        "naive_steps": one.naive_steps,
        "hyperband_steps": one.hyperband_steps,
        "speedup": one.speedup,
        "tokens": _over(stages, "tokens", sum),
        "flops": _over(stages, "flops", sum),
    }
    return {
        **totals,
        "whole": _count_whole(stages, population * whole_steps(epochs * data.steps_per_epoch)),
        "population": population,
        "rows": data.rows,
        "batch_size": config.training.batch_size,
        "steps_per_epoch": data.steps_per_epoch,
        "naive_epochs": epochs,
        "stages": stages,
        "memory": _over(stages, "memory", max),
        "frozen_outputs": _measure_frozen(config, data, shape),
        "run": _over_generations(config, totals),
        "warnings": list(data.warnings),
        "unmeasured": config.unmeasured(data.measured, data.pictured),
        "max_tokens": config.data.max_tokens,
        "cut": data.cut,
        "estimated": [
            *([] if data.exact else ["rows"]),
            *("tokens", "flops", "memory", "frozen_outputs", "cut"),
        ],
    }


def _look_at_rows(config: Config, steps_per_epoch: float | None, vocabulary: int) -> _Data:
    """As the run will read them, pictures unopened. Where steps are given the data only serves
    estimates and may be missing."""
    said: list[str] = []
    try:
        splits = load_splits(config.data, config.evolution.seed, said.append, pictures=False)
    except DataError as error:
        if steps_per_epoch is None:
            raise
        tower = config.vision_tower is not None
        refused = f"a run would refuse the rows: {error}"
        return _Data(None, None, steps_per_epoch, None, tower, tower, {}, (refused,))
    rows = len(splits.train)
    texts = {name: getattr(splits, name).texts for name in ("train", "validation", "test")}
    most = config.data.max_tokens
    lengths = {name: estimate_lengths(own, most, vocabulary) for name, own in texts.items()}
    return _Data(
        rows=rows if steps_per_epoch is None else None,
        subsets=_count_subsets(config, splits.train) if steps_per_epoch is None else None,
        steps_per_epoch=steps_per_epoch or count_batches(rows, config.training.batch_size),
        tokens_per_row=lengths["train"].tokens,
        pictured=config.choose_tower(any(splits.train.images)) is not None,
        measured=splits.measures_pictures,
        cut={name: {"texts": len(texts[name]), "cut": own.cut} for name, own in lengths.items()},
        warnings=(*(text.removeprefix("warning: ") for text in said), *_caution(config, splits)),
        exact=config.data.on_bad_rows != "skip" or not _has_pictures(splits),
    )


def _count_subsets(config: Config, rows: Rows) -> dict[float, int]:
    """The rows that stages train on, by their percentage."""
    shares = {stage.data_percentage for stage in config.hyperband.stages}
    return {share: len(subset(rows, share, config.evolution.seed)) for share in shares}


def _has_pictures(splits: Splits) -> bool:
    return any(any(rows.images) for rows in (splits.train, splits.validation, splits.test))


def _caution(config: Config, splits: Splits) -> list[str]:
    """What the run will warn of. Pictures are unopened and texts are no tokens yet: of both nothing
    is known."""
    known = {
        "classes": splits.classes,
        "task_classes": splits.task_classes,
        "missing_classes": splits.missing_classes,
        "stage_classes": count_for_stages(config, splits.validation),
        "picture_classes": {},
        "reading": {},
    }
    return cautions(known, config.objectives, config.base_model)


def _plan_stages(
    config: Config,
    trained: Sequence[TrainingStage],
    plan: budget.Plan,
    data: _Data,
    shape: ModelShape | None,
) -> list[Plan]:
    size, lines = config.training.batch_size, []
    estimates = _estimate(config, plan, data, shape)
    for stage, line, estimate in zip(trained, plan.stages, estimates, strict=True):
        if data.subsets:
            steps = trained_steps(stage, data.subsets[stage.data_percentage], size)
        else:
            steps = whole_steps(float(stage_steps(stage, data.steps_per_epoch)))
        whole = {"whole_steps_per_genome": steps, "whole_steps": steps * line.genomes}
        idle = {"idle_gates": _idle_gates(stage, steps)}
        lines.append({**line.model_dump(), **whole, **idle, **estimate})
    return lines


def _idle_gates(stage: TrainingStage, steps: int) -> dict[str, int]:
    """The stage's gates that act from more steps on than it has, and those steps."""
    gates = {}
    if stage.max_grad_norm is not None and steps < LEAST_NORMS:
        gates["max_grad_norm"] = LEAST_NORMS
    if stage.stop_if_loss_rises and steps < LEAST_LOSSES:
        gates["stop_if_loss_rises"] = LEAST_LOSSES
    return gates


def _count_whole(stages: Sequence[Plan], naive: int) -> Plan:
    staged = sum(stage["whole_steps"] for stage in stages)
    return {
        "naive_steps": naive,
        "hyperband_steps": staged,
        "speedup": naive / staged if staged else 0.0,
    }


def _over_generations(config: Config, one: Plan) -> Plan:
    """The totals of one generation times all of them; the speed-up stays."""
    count = config.evolution.generations
    sums = {n: None if value is None else value * count for n, value in one.items()}
    genomes = config.evolution.population * count
    return {"generations": count, "genomes": genomes, **sums, "speedup": one["speedup"]}


def _measure_frozen(config: Config, data: _Data, shape: ModelShape | None) -> Plan | None:
    """Bytes of what the frozen blocks give for the training rows at each block where genomes
    enter, and what of it is kept in memory: blocks as a whole, while `prefix_memory_gb` lasts."""
    if data.tokens_per_row is None or shape is None:
        return None
    rows = data.rows or data.steps_per_epoch * config.training.batch_size
    each = round(rows * data.tokens_per_row) * shape.hidden * shape.value_bytes
    heights = adapted_heights(config.space, shape.layers) if config.training.prefix_cache else ()
    fit = int(config.training.prefix_memory_gb * 1e9 // max(1, each))
    return {"bytes": len(heights) * each, "in_memory": min(len(heights), fit) * each}


def _first_stages(config: Config) -> tuple[TrainingStage, ...]:
    """The stages as the first generation will train them."""
    stages = config.hyperband.stages
    if not config.hyperband.adaptive_budgets:
        return stages
    founders = draw_founders(config.space, config.evolution)
    return budget.adapt(stages, len(founders), relative_diversity(config.space, founders))


def _estimate(
    config: Config, plan: budget.Plan, data: _Data, shape: ModelShape | None
) -> list[Plan]:
    """Tokens, FLOPs and peak bytes of each stage, from genomes drawn as the run would draw them."""
    drawn = min(config.evolution.population, DRAWN)
    settings = config.evolution.model_copy(update={"population": drawn})
    genomes, lines = draw_founders(config.space, settings), []
    for place, line in enumerate(plan.stages):
        trained = [_adapter(genome, config, place) for genome in genomes]
        seen = line.steps * config.training.batch_size
        per_row = data.tokens_per_row
        flops = None
        if per_row and shape:
            flops = seen * _flops_per_row(trained, shape, per_row, data.pictured)
        lines.append(
            {
                "tokens": round(seen * per_row) if per_row else None,
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


def _flops_per_row(
    adapters: Sequence[LoRAConfig], shape: ModelShape, tokens: float, pictured: bool
) -> float:
    """Mean over the adapters of training on a row of so many tokens, counted as training does.
    Module names that are no roles count as the MLP's way up."""
    block, total = block_linears(shape), 0.0
    for adapter in adapters:
        names = adapted_linears(adapter.target_modules, shape)
        ranks = {name if name in block else "up": adapter.r for name in names}
        height = adapted_blocks(adapter, shape)
        total += training_flops(block, ranks, height, 1, tokens, pictured, shape.fused)
    return total / len(adapters)


def _peak(
    config: Config,
    genomes: Sequence[Genome],
    adapters: Sequence[LoRAConfig],
    shape: ModelShape,
    count: int,
) -> int:
    """Of the base with the largest pack, were the `count` most costly genomes the ones that get
    this far."""
    cost = pack_cost(config, shape)
    own = {genome.id: adapter for genome, adapter in zip(genomes, adapters, strict=True)}
    costly = sorted(genomes, key=lambda genome: -cost([own[genome.id]]))[:count]
    packs = make_packs(config, costly, own, shape)
    largest = max(cost([own[genome.id] for genome in members]) for members in packs)
    return base_bytes(shape) + largest


def _over(
    stages: Sequence[Plan], name: str, combine: Callable[[Iterable[float]], float]
) -> float | None:
    values = [stage[name] for stage in stages]
    return None if None in values else combine(values)
