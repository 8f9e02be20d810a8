"""Measure trained members: all objectives after a stage, the front's final figures on test rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from coralx.config import Config
from coralx.objectives import OBJECTIVES
from coralx.records import Genome, Job, Start, TestResult, TrainingResult
from coralx.train.checkpoint import load_checkpoint
from coralx.train.evaluate import EvaluationSet, Measures, Scored, apply_objective
from coralx.train.member import Member
from coralx.train.objectives import Floats, calibration, interval
from coralx.train.own_function import load_function
from coralx.train.scaling import Scaling, fit_scaling, scale_held_out
from coralx.train.threshold import ROUNDING, SAME, SERVED, find_threshold, share_alike
from coralx.train.workbench import Workbench

AS_TRAINED = "calibration/as_trained"  # P6 before the logits are scaled
PROXY_FACTOR = 0.9  # of P1 when multi-modal genomes are scored on text alone

# Objectives and details of one genome.
Figures = tuple[dict[str, float], dict[str, float]]
Own = Mapping[str, Callable[[Scored], float]]


def load_own_objectives(config: Config) -> Own:
    """The user's functions among the objectives, by the names that the configuration gives them.

    Raises:
        ConfigError: one cannot be imported.
    """
    return {
        name: load_function("objectives", name)
        for name in config.objectives
        if name not in OBJECTIVES
    }


class Measurer:
    """Measures members of one workbench.

    Args:
        own: the user's objectives by name.
    """

    def __init__(self, bench: Workbench, own: Own) -> None:
        self._bench, self._own = bench, own
        self._parents: dict[str, float] = {}  # P1 of checkpoints that children were merged of

    def measure(
        self, members: Sequence[Member], rows: EvaluationSet, job: Job, images: bool
    ) -> list[Figures]:
        """Objectives and details of each member. Where nobody is selected P1 alone is measured."""
        began = time.perf_counter()
        if self._bench.config.measures_all(job.stage):
            found = self._measure_all(members, rows, images)
        else:
            skills = [member.skills[max(member.skills)] for member in members]
            found = [({"task_skill": skill}, {"auroc": skill}) for skill in skills]
        if job.text_only and self._bench.has_images:
            for objectives, _ in found:
                objectives["task_skill"] *= PROXY_FACTOR
        for member in members:
            member.eval_seconds += (time.perf_counter() - began) / len(members)
        return found

    def test(self, result: TrainingResult) -> TestResult:
        """Final figures of a trained genome: the test split, with bootstrap intervals, computed
        as an exported adapter is served."""
        rows = self._bench.test()
        assert result.checkpoint is not None  # noqa: S101 - front members were trained
        member = self._restore(result.genome, result.checkpoint)
        pack = self._bench.pack([member])
        batch = self._bench.config.training.evaluation_batch
        with self._bench.backbone.products.exact():
            scores, alone = rows.score_all(pack, batch, self._bench.has_images)
        text = None if alone is None else alone[0]
        draws = self._bench.config.training.bootstrap_draws
        scaling = Scaling.of(result.details)
        scaled = scaling.apply(scores[0])
        objectives, details = rows.measure(scaled, text, draws)
        details |= rows.measure_decisions(scaled, result.details[SERVED], draws)
        if scaling != Scaling():
            details[AS_TRAINED] = rows.calibration(scores[0], draws)
        objectives = self._complete(objectives, member, rows, scaled)
        return TestResult(
            genome=result.genome.id,
            stage=result.stage,
            objectives={name: interval(values) for name, values in objectives.items()},
            details={name: interval(values) for name, values in details.items()},
            attack_threshold=float(details["threshold"][0]),
        )

    def compare_merged(self, member: Member, start: Start) -> dict[str, float]:
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

    def _measure_all(
        self, members: Sequence[Member], rows: EvaluationSet, images: bool
    ) -> list[Figures]:
        batch = self._bench.config.training.evaluation_batch
        scores, alone = rows.score_all(self._bench.pack(members), batch, images)
        found = []
        for k, member in enumerate(members):
            text = None if alone is None else alone[k]
            figures = self._measure_one(member, rows, scores[k], text)
            member.skills.setdefault(len(member.losses), figures[1]["auroc"])
            found.append(figures)
        return found

    def _measure_one(
        self, member: Member, rows: EvaluationSet, scores: Floats, alone: Floats | None
    ) -> Figures:
        known = rows.scored(scores)
        scaling, calibrated, more = self._calibrate(member, known)
        scores = scaling.apply(scores)
        objectives, details = rows.measure(scores, alone)
        objectives |= calibrated
        details |= more
        if "threshold" in details:  # not where scores are no numbers
            served = find_threshold(known.scores, known.labels, self._rounding)
            details[SERVED] = scaling.apply(np.array([served]))
            details[SAME] = np.array([share_alike(known.scores, self._rounding)])
        objectives = self._complete(objectives, member, rows, scores)
        plain = {name: float(values[0]) for name, values in objectives.items()}
        figures = {name: float(values[0]) for name, values in details.items()}
        return plain, {**figures, "auroc": plain["task_skill"]}

    @property
    def _rounding(self) -> float:
        """Between logits as computed now and as they will be by an exported adapter."""
        return ROUNDING[str(self._bench.backbone.products.dtype).removeprefix("torch.")]

    def _calibrate(self, member: Member, rows: Scored) -> tuple[Scaling, Measures, Measures]:
        """The scaling of the member's logits; P6, each row scaled without it; details."""
        if not self._bench.config.training.calibrate or not np.isfinite(rows.scores).all():
            return Scaling(), {}, {}
        scores, labels, shift = rows.scores, rows.labels, "head.bias" in member.weights.extra
        scaling = fit_scaling(scores, labels, shift)
        held_out = scale_held_out(scores, labels, shift, self._bench.seed)
        one = np.ones((1, len(labels)))
        details = {name: np.array([value]) for name, value in scaling.details.items()}
        details[AS_TRAINED] = calibration(scores, labels, one)
        return scaling, {"calibration": calibration(held_out, labels, one)}, details

    def _complete(
        self, objectives: Measures, member: Member, rows: EvaluationSet, scores: Floats
    ) -> Measures:
        """P1 always, and those of the configuration that could be measured: of what is given,
        memory and the user's own."""
        every = {**objectives, "memory": np.array([float(self._bench.served_bytes(member))])}
        # Where a score is no number the gates stop the genome, and a user's function need not know
        # what to say of it.
        if np.isfinite(rows.scored(scores).scores).all():
            for name, function in self._own.items():
                value = apply_objective(name, function, rows.scored(scores), member.genome.id)
                every[name] = np.array([value])
        wanted = dict.fromkeys(("task_skill", *self._bench.config.objectives))
        return {name: every[name] for name in wanted if name in every}

    def _skill(self, member: Member) -> float:
        rows, batch = self._bench.validation(100), self._bench.config.training.evaluation_batch
        pack = self._bench.pack([member])
        return float(rows.skill(pack, batch, 100, self._bench.has_images)[0])

    def _restore(self, genome: Genome, checkpoint: str) -> Member:
        known = load_checkpoint(self._bench.checkpoints, checkpoint)
        return Member(genome, known.lora_cfg, known.weights, known.moments)
