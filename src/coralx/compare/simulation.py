"""The instant heuristic: a genome's quality guessed from its hyper-parameters, nothing trained.

What a search for LoRA settings shows when it skips the training: plausible and worth nothing.
`coralx compare` sets it beside real training to show the difference; nothing else uses it.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from coralx.objectives import minimised
from coralx.records import Genome

NOTE = "simulation: no training, figures invented"

# A guess at what usually works; no measurement is behind these.
BEST_RATE = 1e-3
BEST_RANK = 16
LEAST_SKILL, SKILL_SPAN = 0.5, 0.4
NOISE = 0.02
BASE_BYTES, BYTES_PER_RANK = 1e8, 1e6


def simulate(genome: Genome, names: Sequence[str], seed: int) -> dict[str, float]:
    """An invented value for each objective in `names`: a function of the genome, the names and the
    seed."""
    rng = np.random.default_rng([seed, zlib.crc32(genome.id.encode())])
    quality = _guess_quality(genome)
    return {name: _invent(name, genome, quality, rng) for name in names}


def _guess_quality(genome: Genome) -> float:
    """0..1: best at a middling learning rate and a high rank, a little less with dropout."""
    rate = math.exp(-((math.log10(genome.learning_rate / BEST_RATE)) ** 2))
    rank = 1 - math.exp(-4 * genome.lora_cfg.r / BEST_RANK)
    return rate * rank * (1 - genome.lora_cfg.dropout / 2)


def _invent(name: str, genome: Genome, quality: float, rng: Generator) -> float:
    if name == "memory":
        return BASE_BYTES + BYTES_PER_RANK * genome.lora_cfg.r
    noise = rng.normal(0, NOISE)
    if name == "cross_modal_gain":
        return float(np.clip(quality / 10 + noise, -1, 1))
    value = float(np.clip(LEAST_SKILL + SKILL_SPAN * quality + noise, 0, 1))
    return 1 - value if minimised(name) else value
