"""One Job in, TrainingResults out; and the front's final figures on the test split."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from coralx.config import Config
from coralx.records import (
    Cost,
    Genome,
    Job,
    Progress,
    TestResult,
    TrainingResult,
)
from coralx.steps import stage_steps, trained_steps
from coralx.train.adapters import PackedAdapters
from coralx.train.checkpoint import Checkpoint, save_checkpoint
from coralx.train.data import batches, subset
from coralx.train.evaluate import EvaluationSet
from coralx.train.export import export_result
from coralx.train.hook import apply_hook
from coralx.train.measuring import Figures, Measurer, load_own_objectives
from coralx.train.member import LONG_STAGE, Member, StageWork
from coralx.train.outcome import (
    Clock,
    add_lost,
    cost_of,
    describe_training,
    peak_memory,
    stop_if_not_finite,
)
from coralx.train.own_function import load_function
from coralx.train.own_modes import own_modes
from coralx.train.parting import BrokenDown, train_parted
from coralx.train.trainer import StageTrainer, examination_points
from coralx.train.workbench import Workbench, count_threads

SKILL_SHARE = 25.0  # per cent of the validation rows examined within a stage

Observe = Callable[[Progress], None]


class Worker:
    """Trains packs on one workbench, whose arguments it takes. A genome stopped by what it did is
    a result, not an error."""

    def __init__(
        self,
        config: Config,
        checkpoints: Path,
        say: Callable[[str], None] = lambda _: None,
        prefix: Path | None = None,
    ) -> None:
        own = load_own_objectives(config)
        hook = config.training.hook
        self._hook = load_function("training.hook", hook) if hook else None
        self.config = config
        with self.at_work(), torch.random.fork_rng(devices=[]):  # loading draws what is not used
            self.bench = Workbench(config, checkpoints, say, prefix)
        self._measurer = Measurer(self.bench, own)
        self._trainer = StageTrainer(self.bench.ground)

    def train(self, job: Job, observe: Observe = lambda _: None) -> list[TrainingResult]:
        """Train the job's pack for its stage, measure it and save its checkpoints.

        The results of a genome do not depend on one that broke down beside it; where memory does
        not suffice the pack is parted.
        """
        with self.at_work(), warnings.catch_warnings():
            # Gradients are views of one matrix by design; torch warns that they are not compact.
            warnings.filterwarnings("ignore", message="grad and param do not obey")
            return train_parted(
                job, lambda part, members: self._train_together(part, members, observe)
            )

    def _train_together(
        self, job: Job, members: list[Member], observe: Observe
    ) -> list[TrainingResult]:
        """One result for each genome or, if some of them broke down, for those alone.

        Args:
            members: empty; the genomes in training are put into it.
        """
        clock = Clock()
        pairs = zip(job.genomes, job.starts, strict=True)
        members += [self.bench.member(self._prepare(g, job), start) for g, start in pairs]
        begun = [
            self._measurer.compare_merged(*pair) for pair in zip(members, job.starts, strict=True)
        ]
        plan, planned = self._plan(job)
        images = self.bench.has_images and not job.text_only
        before = clock.seconds()
        rows = self.bench.validation(job.stage.data_percentage)
        for member in members:  # rows are encoded once; the first to need them pays for it
            member.eval_seconds += (clock.seconds() - before) / len(members)
        self._train_stage(job, members, plan, rows, images, observe)
        broken = [k for k, member in enumerate(members) if member.stop is not None]
        kept = broken or list(range(len(members)))
        figures: list[Figures] = [({}, {})] * len(broken)
        if not broken:
            figures = self._measurer.measure(members, rows, job, images)
        busy, peak = clock.busy_share(), peak_memory(self.bench.device)
        results = []
        for k, (objectives, details) in zip(kept, figures, strict=True):
            found = objectives, details | begun[k]
            cost = cost_of(members[k], planned, busy, peak)
            results.append(self._result(job, k, members[k], found, cost))
        lost = [cost_of(m) for k, m in enumerate(members) if k not in kept]
        others = sum(r.cost.train_seconds + r.cost.eval_seconds for r in results[1:])
        cost = add_lost(results[0].cost, lost, clock.seconds() - others)
        results[0] = results[0].model_copy(update={"cost": cost})
        return results

    def _train_stage(
        self,
        job: Job,
        members: list[Member],
        plan: StageWork,
        rows: EvaluationSet,
        images: bool,
        observe: Observe,
    ) -> None:
        """Train the members until the stage ends, or some of them, not all, break down.

        Args:
            rows: those of which P1 is looked at along the way, with their `images` or without.
        """
        batch = self.config.training.evaluation_batch
        best: list[float] = []

        def examine(pack: PackedAdapters) -> Sequence[float]:
            found: list[float] = rows.skill(pack, batch, SKILL_SHARE, images).tolist()
            # Of a genome that diverged it is not a number.
            best[:] = sorted(filter(math.isfinite, best + found))[-1:]
            return found

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

    def test(self, result: TrainingResult) -> TestResult:
        """Final figures of a trained genome: see `Measurer.test`."""
        with self.at_work():
            return self._measurer.test(result)

    def export(self, result: TrainingResult, folder: Path) -> None:
        """Write a trained genome as a PEFT adapter."""
        bench = self.bench
        with self.at_work():
            export_result(
                self.config, bench.backbone, bench.checkpoints, result, bench.has_images, folder
            )

    def at_work(self) -> AbstractContextManager[None]:
        """Torch set up as this worker computes: entered by its own methods, and for whatever else
        is computed on its bench."""
        return own_modes(count_threads(self.config.training))

    def numerics(self) -> dict[str, str | int]:
        """What the last bits of results depend on, beside the versions of packages."""
        device = self.bench.device
        on_gpu = device.type == "cuda"
        with self.at_work():
            threads = torch.get_num_threads()
        return {
            "device": torch.cuda.get_device_name(device) if on_gpu else device.type,
            "products": str(self.bench.backbone.products.dtype).removeprefix("torch."),
            "threads": threads,
            "instructions": torch.backends.cpu.get_cpu_capability(),
        }

    def _prepare(self, genome: Genome, job: Job) -> Genome:
        """The genome as the user's hook, if any, wants it trained."""
        return apply_hook(self._hook, genome, job.stage.name) if self._hook else genome

    def _plan(self, job: Job) -> tuple[StageWork, float]:
        """The stage's batches, the same for every genome of the run, and its unrounded steps."""
        bench, stage = self.bench, job.stage
        size = self.config.training.batch_size
        chosen = subset(bench.splits.train, stage.data_percentage, bench.seed)
        steps = trained_steps(stage, len(chosen), size)
        key = [bench.seed, job.stage_index]
        plan = StageWork(
            batches=batches(chosen, bench.rows.lengths, size, steps, key),
            examine_at=_examinations(job, steps, self.config),
            index=job.stage_index,
            warmup_epoch=bench.steps_per_epoch,
            last=job.stage_index == len(self.config.hyperband.stages) - 1,
            patience=self.config.training.patience,
            least_gain=self.config.training.least_gain,
        )
        return plan, float(stage_steps(stage, bench.steps_per_epoch))

    def _result(
        self,
        job: Job,
        place: int,
        member: Member,
        measured: Figures,
        cost: Cost,
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
        return job.result(
            place,
            lora_cfg=member.lora_cfg,
            objectives=objectives,
            details={**details, **describe_training(member)},
            stopped=member.stop,
            left_early=member.left_early,
            checkpoint=saved,
            curve=member.curve(job.starts[place].steps),
            cost=cost,
        )


def _examinations(job: Job, steps: int, config: Config) -> list[int]:
    """When P1 is looked at. A stage that selects is measured as a whole at its end, where a look
    at P1 would tell nothing more; a short one at its end alone."""
    if not config.measures_all(job.stage):
        return [steps]
    if steps < LONG_STAGE:
        return []
    points = examination_points(steps, config.training.evaluations_per_stage)[:-1]
    return points if job.stage_index == 0 else [0, *points]
