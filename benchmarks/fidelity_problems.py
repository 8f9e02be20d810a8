"""Test problems with a known front, and a fidelity axis: cheap results are biased and noisy.

ZDT1 and ZDT3 (Zitzler, Deb & Thiele, Evol. Comput. 8(2), 2000) and DTLZ2 (Deb et al., 2005) over
genes 0..1, trained, so to speak, through the default stages: with b the share of all steps taken,
each objective is off by 1 - b^0.3, as a learning curve is, times a bias that misleads (a wave over
the genes) and noise. The last stage tells the truth. Each problem is a source of results for
`coralx.executors.replay.ReplayExecutor`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from coralx.records import Cost, Genome, TrainingResult, TrainingStage
from coralx.search.space import build
from coralx.settings.genes import Float
from coralx.settings.sections import DEFAULT_STAGES
from coralx.steps import stage_steps

Vector = NDArray[np.float64]
Function = Callable[[Vector], Vector]

STEPS_PER_EPOCH = 1000
LEARNING_EXPONENT = 0.3
BIAS = 0.3  # of an objective's range, at the very beginning
NOISE = 0.05


class FidelityProblem:
    """Minimises `function` of `genes` genes; objectives are maximised, so they are its negatives.

    Args:
        worst: of each objective of the function, what counts as worst; with `best` its bounds.
        resting: value of all genes but the first `free` on the front.
    """

    stages = DEFAULT_STAGES
    full_from = len(DEFAULT_STAGES) - 1

    def __init__(
        self,
        name: str,
        function: Function,
        genes: int,
        best: tuple[float, ...],
        worst: tuple[float, ...],
        free: int,
        resting: float,
    ) -> None:
        self.name, self._function = name, function
        self.space = {f"x{place}": Float(low=0.0, high=1.0) for place in range(genes)}
        self.objectives = tuple(f"{name}:f{place + 1}" for place in range(len(best)))
        limits = zip(self.objectives, worst, best, strict=True)
        self.bounds = {objective: (-high, -low) for objective, high, low in limits}
        self._range = np.array(worst) - np.array(best)
        self._free, self._resting = free, resting
        steps = [float(stage_steps(stage, STEPS_PER_EPOCH)) for stage in self.stages]
        self._steps = dict(zip((stage.name for stage in self.stages), steps, strict=True))
        shares = [done / sum(steps) for done in accumulate(steps)]
        self._shares = dict(zip(self._steps, shares, strict=True))

    def look_up(self, genome: Genome, stage: TrainingStage) -> TrainingResult:
        """What this genome comes to in the stage; half to one and a half seconds a step."""
        point = np.array([genome.extra[name] for name in self.space], dtype=np.float64)
        key = [zlib.crc32(point.tobytes()), list(self._steps).index(stage.name)]
        rng = np.random.default_rng(key)
        left = 1 - self._shares[stage.name] ** LEARNING_EXPONENT
        waves = np.sin(2 * np.pi * (3 * point.mean() + np.arange(len(self._range)) / 3))
        off = BIAS * (1 + waves) / 2 + NOISE * rng.standard_normal(len(self._range))
        values = self._function(point) + left * off * self._range
        steps = self._steps[stage.name]
        speed = np.random.default_rng(key[:1]).uniform(0.5, 1.5)
        return TrainingResult(
            job="made up",
            genome=genome,
            generation=0,
            stage=stage.name,
            stage_index=key[1],
            lora_cfg=genome.lora_cfg,
            objectives=dict(zip(self.objectives, (-values).tolist(), strict=True)),
            cost=Cost(steps=round(steps), train_seconds=steps * speed),
        )

    def best_known(self) -> list[TrainingResult]:
        """Results at the last stage of genomes spread over the true front."""
        places = np.linspace(0, 1, 1001 if self._free == 1 else 33)
        grid = np.stack(np.meshgrid(*[places] * self._free), axis=-1).reshape(-1, self._free)
        rest = dict.fromkeys(list(self.space)[self._free :], self._resting)
        names = list(self.space)[: self._free]
        points = ({**dict(zip(names, row.tolist(), strict=True)), **rest} for row in grid)
        return [self.look_up(build(genes), self.stages[-1]) for genes in points]


def zdt1(x: Vector) -> Vector:
    g = 1 + 9 * x[1:].mean()
    return np.array([x[0], g * (1 - np.sqrt(x[0] / g))])


def zdt3(x: Vector) -> Vector:
    g = 1 + 9 * x[1:].mean()
    ratio = x[0] / g
    return np.array([x[0], g * (1 - np.sqrt(ratio) - ratio * np.sin(10 * np.pi * x[0]))])


def dtlz2(x: Vector) -> Vector:
    """Of three objectives."""
    scale = 1 + ((x[2:] - 0.5) ** 2).sum()
    a, b = x[:2] * np.pi / 2
    return np.asarray(scale * np.array([np.cos(a) * np.cos(b), np.cos(a) * np.sin(b), np.sin(a)]))


PROBLEMS = {
    "zdt1": FidelityProblem("zdt1", zdt1, 8, (0.0, 0.0), (1.0, 6.0), free=1, resting=0.0),
    "zdt3": FidelityProblem("zdt3", zdt3, 8, (0.0, -0.8), (1.0, 6.0), free=1, resting=0.0),
    "dtlz2": FidelityProblem("dtlz2", dtlz2, 7, (0.0,) * 3, (2.0,) * 3, free=2, resting=0.5),
}
