"""Jobs: what to train next, in which packs, and from which weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

from coralx.config import Config
from coralx.records import Genome, Job, LoRAConfig, ModelShape, Start, TrainingResult
from coralx.search.footprint import added_bytes
from coralx.search.packing import pack

# The results of each genome so far, by its id, in order of stage.
Past = Mapping[str, Sequence[TrainingResult]]

LARGEST_RANK = 1024  # the bound of LoRAConfig.r


def plan_jobs(
    config: Config,
    generation: int,
    stage_index: int,
    genomes: Sequence[Genome],
    past: Past,
    image_task: bool = False,
    shape: ModelShape | None = None,
) -> tuple[Job, ...]:
    """One job per pack of the stage. Ids are stable: generation, stage, place of the pack.

    Without `shape` packs are bounded by `training.pack_size` alone, else also by memory.
    """
    stages = config.hyperband.stages
    stage = stages[stage_index]
    starts = {
        genome.id: _start(config, generation, stage_index, genome, past) for genome in genomes
    }
    adapters = {genome.id: _adapter(genome, starts[genome.id], past) for genome in genomes}
    return tuple(
        Job(
            id=f"g{generation}-{stage.name}-{index}",
            generation=generation,
            stage=stage,
            stage_index=stage_index,
            genomes=members,
            starts=tuple(starts[genome.id] for genome in members),
            text_only=config.hyperband.is_proxy(stage_index, image_task),
        )
        for index, members in enumerate(make_packs(config, genomes, adapters, shape))
    )


def make_packs(
    config: Config,
    genomes: Sequence[Genome],
    adapters: Mapping[str, LoRAConfig],
    shape: ModelShape | None,
) -> list[tuple[Genome, ...]]:
    """The packs that the run trains these genomes in, with their adapters as they are by now."""
    cost = pack_cost(config, shape) if shape else None
    budget = config.training.memory_budget_gb * 1e9
    return pack(genomes, config.training.pack_size, cost, budget, adapters)


def measured_in_full(config: Config, image_task: bool) -> int:
    """The stage from which on all are measured alike: as a whole, on the rows of the last, and
    by no proxy."""
    stages = config.hyperband.stages
    full = len(stages) - 1
    while full and (
        config.measures_all(stages[full - 1])
        and stages[full - 1].data_percentage == stages[-1].data_percentage
        and not config.hyperband.is_proxy(full - 1, image_task)
    ):
        full -= 1
    return full


def grown_rank(config: Config, stage_index: int, rank: int) -> int | None:
    """What a rank has grown to by a stage, that one included; None if it has not."""
    hyperband, growth = config.hyperband, config.hyperband.growth_stage
    if growth is None or stage_index < growth or rank >= hyperband.grow_below_rank:
        return None
    return min(2 * rank, LARGEST_RANK)


def pack_cost(config: Config, shape: ModelShape) -> Callable[[Sequence[LoRAConfig]], int]:
    """The bytes that a pack of the run adds to the base, in training or in evaluation."""
    return functools.partial(
        added_bytes,
        shape=shape,
        rows=config.training.batch_size,
        tokens=config.data.max_tokens,
        evaluated=config.training.evaluation_batch,
    )


def _start(config: Config, generation: int, stage_index: int, genome: Genome, past: Past) -> Start:
    """Founders start fresh, also where one given is another's child: else what it starts from
    would depend on who is trained first."""
    if stage_index == 0:
        return _first_start(config, genome, past) if generation else Start(kind="fresh")
    if not past.get(genome.id):
        return _copied_start(config, stage_index, genome, past)
    before = past[genome.id][-1]
    grows = stage_index == config.hyperband.growth_stage
    return Start(
        kind="continue",
        checkpoint=before.checkpoint,
        grow_to=grown_rank(config, stage_index, before.lora_cfg.r) if grows else None,
        steps=sum(result.cost.kept_steps for result in past[genome.id]),
    )


def _first_start(config: Config, genome: Genome, past: Past) -> Start:
    """A child takes over the weights its better parent left at the highest stage it reached or,
    with `evolution.crossover_weights`, those of both parents merged.

    The child keeps the rank of its own gene, even if the parent has grown: it is the gene that is
    under selection.
    """
    left = [_last_checkpoint(name, past) for name in genome.parents]
    if not left or left[0] is None or not config.evolution.warm_start:
        return Start(kind="fresh")
    if config.evolution.crossover_weights == "inherit" or None in left or len(left) < 2:
        return Start(kind="inherit", checkpoint=left[0])
    return Start(kind="merge", checkpoint=left[0], second=left[1])


def _copied_start(config: Config, stage_index: int, genome: Genome, past: Past) -> Start:
    """A copy made by exploit takes over what its model left in the stage before; its rank is its
    own gene's, grown as it would have by now."""
    (model,) = (r for r in past[genome.parents[0]] if r.stage_index == stage_index - 1)
    grown = grown_rank(config, stage_index, genome.lora_cfg.r)
    return Start(kind="inherit", checkpoint=model.checkpoint, grow_to=grown)


def _last_checkpoint(genome: str, past: Past) -> str | None:
    left = [result.checkpoint for result in past.get(genome, ()) if result.checkpoint is not None]
    return left[-1] if left else None


def _adapter(genome: Genome, start: Start, past: Past) -> LoRAConfig:
    """The adapter as this job will train it."""
    before = past.get(genome.id, ())
    adapter = before[-1].lora_cfg if before else genome.lora_cfg
    return adapter.model_copy(update={"r": start.grow_to or adapter.r})
