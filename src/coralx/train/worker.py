"""One Job in, TrainingResults out; and the front's final figures on the test split."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from coralx.config import OBJECTIVES, Config
from coralx.records import (
    Genome,
    Job,
    Progress,
    Start,
    TestResult,
    TrainingResult,
)
from coralx.train.adapters import PackedAdapters
from coralx.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from coralx.train.data import batches, subset
from coralx.train.evaluate import EvaluationSet, Measures, apply_objective
from coralx.train.export import export_result
from coralx.train.hook import apply_hook
from coralx.train.member import LONG, Member, StagePlan
from coralx.train.objectives import Floats, interval
from coralx.train.outcome import (
    Clock,
    add_lost,
    cost_of,
    describe_training,
    stop_if_not_finite,
)
from coralx.train.own_function import load_function
from coralx.train.parting import BrokenDown, train_parted
from coralx.train.trainer import StageTrainer, examination_points
from coralx.train.workbench import Workbench

PROXY_FACTOR = 0.9  # of P1 when multi-modal genomes are scored on text alone
SKILL_SHARE = 25.0  # per cent of the validation rows examined within a stage

Observe = Callable[[Progress], None]


class Worker:
    """Trains packs on one workbench. A genome stopped by what it did is a result, not an error."""

    def __init__(
        self, config: Config, checkpoints: Path, say: Callable[[str], None] = lambda _: None
    ) -> None:
        # Gradients are views of one matrix by design; torch warns that they are not compact.
        warnings.filterwarnings("ignore", message="grad and param do not obey")
        self._custom = {
            name: load_function("objectives", name)
            for name in config.objectives
            if name not in OBJECTIVES
        }
        hook = config.training.hook
        self._hook = load_function("training.hook", hook) if hook else None
        self.bench = Workbench(config, checkpoints, say)
        self.config = config
        self._parents: dict[str, float] = {}  # P1 of checkpoints that children were merged of
        self._trainer = StageTrainer(
            self.bench.backbone,
            self.bench.rows,
            self.bench.labels,
            config.training,
            self.bench.seed,
        )

    def train(self, job: Job, observe: Observe = lambda _: None) -> list[TrainingResult]:
        """Train the job's pack for its stage, measure it and save its checkpoints.

        The results of a genome do not depend on one that broke down beside it; where memory does
        not suffice the pack is parted.
        """
        return train_parted(job, lambda part: self._train_together(part, observe))

    def _train_together(self, job: Job, observe: Observe) -> list[TrainingResult]:
        """One result for each genome or, if some of them broke down, for those alone."""
        pairs = zip(job.genomes, job.starts, strict=True)
        members = [self.bench.member(self._prepare(g, job), start) for g, start in pairs]
        begun = [self._compare_merged(*pair) for pair in zip(members, job.starts, strict=True)]
        before = [member.moments.step for member in members]
        plan, planned = self._plan(job)
        images = self.bench.has_images and not job.text_only
        batch = self.config.training.evaluation_batch
        clock = Clock()
        rows = self.bench.validation(job.stage.data_percentage)
        for member in members:  # rows are encoded once; the first to need them pays for it
            member.eval_seconds += clock.seconds() / len(members)
        best: list[float] = []

        def examine(pack: PackedAdapters, entries: Sequence[int]) -> Sequence[float]:
            found = rows.skill(pack, entries, batch, SKILL_SHARE, images).tolist()
            best[:] = [max(best + found)]
            return found  # type: ignore[no-any-return]

        def tell(step: int, alive: int) -> None:
            skill = best[0] if best else None
            steps = len(plan.batches)
            observe(Progress(job=job, step=step, steps=steps, alive=alive, skill=skill))
            if 0 < sum(member.stop is not None for member in members) < len(members):
                raise BrokenDown

        with contextlib.suppress(BrokenDown):
            self._trainer.train(members, plan, examine, tell)
        for member in members:
            stop_if_not_finite(member)
        broken = {k for k, member in enumerate(members) if member.stop is not None}
        kept = broken or set(range(len(members)))
        measured = self._measure([members[k] for k in sorted(kept)], rows, job, images)
        busy = clock.busy_share()
        results = []
        for i, k in enumerate(sorted(kept)):
            objectives, details = measured.get(i, ({}, {}))
            found = objectives, details | begun[k]
            results.append(self._result(job, k, members[k], before[k], planned, found, busy))
        lost = [cost_of(m, planned, busy) for k, m in enumerate(members) if k not in kept]
        cost = add_lost(results[0].cost, lost, clock.seconds())
        results[0] = results[0].model_copy(update={"cost": cost})
        return results

    def test(self, result: TrainingResult) -> TestResult:
        """Final figures of a trained genome: the test split, with bootstrap intervals, computed
        as an exported adapter is served."""
        with self.bench.backbone.products.exact():
            return self._test(result)

    def _test(self, result: TrainingResult) -> TestResult:
        rows = self.bench.test()
        assert result.checkpoint is not None  # noqa: S101 - front members were trained
        member = self._restore(result.genome, result.checkpoint)
        pack, entries = self.bench.pack([member]), [member.entry]
        batch = self.config.training.evaluation_batch
        scores, alone = rows.score_all(pack, entries, batch, self.bench.has_images)
        text = None if alone is None else alone[0]
        draws = self.config.training.bootstrap_draws
        objectives, details = rows.measure(scores[0], text, draws)
        self._add_custom(objectives, rows, scores[0], result.genome.id)
        objectives["memory"] = np.array([float(self.bench.served_bytes(member, pack))])
        return TestResult(
            genome=result.genome.id,
            stage=result.stage,
            objectives={name: interval(objectives[name]) for name in self._names(objectives)},
            details={name: interval(values) for name, values in details.items()},
            attack_threshold=float(details["threshold"][0]),
        )

    def export(self, result: TrainingResult, folder: Path) -> None:
        """Write a trained genome as a PEFT adapter."""
        bench = self.bench
        export_result(
            self.config, bench.backbone, bench.checkpoints, result, bench.has_images, folder
        )

    def numerics(self) -> dict[str, str | int]:
        """What the last bits of results depend on, beside the versions of packages."""
        return {
            "device": self.bench.device.type,
            "products": str(self.bench.backbone.products.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
        }

    def _prepare(self, genome: Genome, job: Job) -> Genome:
        """The genome as the user's hook, if any, wants it trained."""
        return apply_hook(self._hook, genome, job.stage.name) if self._hook else genome

    def _plan(self, job: Job) -> tuple[StagePlan, float]:
        """The stage's batches, the same for every genome of the run, and its unrounded steps."""
        bench, stage = self.bench, job.stage
        size = self.config.training.batch_size
        chosen = subset(bench.splits.train, stage.data_percentage, bench.seed)
        planned = stage.epoch_budget * math.ceil(len(chosen) / size)
        steps = math.ceil(planned - 1e-9)
        key = [bench.seed, job.stage_index]
        plan = StagePlan(
            batches=batches(chosen, bench.rows.lengths, size, steps, key),
            examine_at=_examinations(job, steps, self.config),
            index=job.stage_index,
            warmup_epoch=bench.steps_per_epoch,
            last=job.stage_index == len(self.config.hyperband.stages) - 1,
            patience=self.config.training.patience,
            least_gain=self.config.training.least_gain,
        )
        return plan, planned

    def _measure(
        self, members: Sequence[Member], rows: EvaluationSet, job: Job, images: bool
    ) -> dict[int, tuple[dict[str, float], dict[str, float]]]:
        """Objectives and details of the members still in, by their place in the pack.

        A stage that lets everyone go on selects nobody, so P1 alone is measured there.
        """
        going = {k: member for k, member in enumerate(members) if member.stop is None}
        if not going:
            return {}
        began = time.perf_counter()
        found = {}
        if not _measures_all(job, self.config):
            for k, member in going.items():
                skill = member.skills[max(member.skills)]
                found[k] = ({"task_skill": skill}, {"auroc": skill})
        else:
            pack = self.bench.pack(list(going.values()))
            entries = [member.entry for member in going.values()]
            batch = self.config.training.evaluation_batch
            scores, alone = rows.score_all(pack, entries, batch, images)
            for place, (k, member) in enumerate(going.items()):
                text = None if alone is None else alone[place]
                found[k] = self._measure_one(member, rows, scores[place], text)
                member.skills.setdefault(len(member.losses), found[k][1]["auroc"])
        for objectives, _ in found.values():
            if job.text_only and self.bench.has_images:
                objectives["task_skill"] *= PROXY_FACTOR
        for member in going.values():
            member.eval_seconds += (time.perf_counter() - began) / len(going)
        return found

    def _measure_one(
        self, member: Member, rows: EvaluationSet, scores: Floats, alone: Floats | None
    ) -> tuple[dict[str, float], dict[str, float]]:
        objectives, details = rows.measure(scores, alone)
        self._add_custom(objectives, rows, scores, member.genome.id)
        solo = self.bench.pack([member])
        objectives["memory"] = np.array([float(self.bench.served_bytes(member, solo))])
        plain = {name: float(objectives[name][0]) for name in self._names(objectives)}
        figures = {name: float(values[0]) for name, values in details.items()}
        return plain, {**figures, "auroc": float(objectives["task_skill"][0])}

    def _add_custom(
        self, objectives: Measures, rows: EvaluationSet, scores: Floats, genome: str
    ) -> None:
        for name, function in self._custom.items():
            value = apply_objective(name, function, rows.scored(scores), genome)
            objectives[name] = np.array([value])

    def _names(self, objectives: Measures) -> list[str]:
        """P1 always, and those of the configuration that could be measured."""
        wanted = dict.fromkeys(("task_skill", *self.config.objectives))
        return [name for name in wanted if name in objectives]

    def _result(
        self,
        job: Job,
        place: int,
        member: Member,
        before: int,
        planned: float,
        measured: tuple[dict[str, float], dict[str, float]],
        busy: float,
    ) -> TrainingResult:
        objectives, details = measured
        saved = None
        if member.stop is None:
            saved = save_checkpoint(
                self.bench.checkpoints,
                Checkpoint(
                    member.genome.id,
                    job.stage.name,
                    member.lora_cfg,
                    member.weights,
                    member.moments,
                ),
            )
        return TrainingResult(
            job=job.id,
            genome=job.genomes[place],
            generation=job.generation,
            stage=job.stage.name,
            stage_index=job.stage_index,
            lora_cfg=member.lora_cfg,
            objectives=objectives,
            details={**details, **describe_training(member)},
            stopped=member.stop,
            left_early=member.left_early,
            start=job.starts[place],
            checkpoint=saved,
            curve=member.curve(before),
            cost=cost_of(member, planned, busy),
        )

    def _compare_merged(self, member: Member, start: Start) -> dict[str, float]:
        """P1 of a child of merged weights before its first step, and the higher one of its
        parents': on the same rows, all of validation. Nothing for other starts."""
        if start.kind != "merge":
            return {}
        began = time.perf_counter()
        for name in start.sources:
            if name not in self._parents:
                self._parents[name] = self._skill(self._restore(member.genome, name))
        figures = {
            "auroc_at_start": self._skill(member),
            "auroc_of_better_parent": max(self._parents[name] for name in start.sources),
        }
        member.eval_seconds += time.perf_counter() - began
        return figures

    def _skill(self, member: Member) -> float:
        rows, batch = self.bench.validation(100), self.config.training.evaluation_batch
        pack = self.bench.pack([member])
        return float(rows.skill(pack, [member.entry], batch, 100, self.bench.has_images)[0])

    def _restore(self, genome: Genome, checkpoint: str) -> Member:
        known = load_checkpoint(self.bench.checkpoints, checkpoint)
        entry = self.bench.entry(known.lora_cfg.layers)
        return Member(genome, known.lora_cfg, known.weights, known.moments, entry)


def _examinations(job: Job, steps: int, config: Config) -> list[int]:
    """When P1 is looked at. A short stage is measured at its end alone: as a whole where it
    selects, else by P1."""
    if not _measures_all(job, config):
        return [steps]
    if steps < LONG:
        return []
    points = examination_points(steps, config.training.evaluations_per_stage)
    return points if job.stage_index == 0 else [0, *points]


def _measures_all(job: Job, config: Config) -> bool:
    """Whether all objectives are measured after the stage, or P1 alone."""
    return job.stage.selects or job.stage_index == len(config.hyperband.stages) - 1
