"""What each tie-break keeps of a front that rank cannot divide, and what it costs.

    python benchmarks/tie_breaks.py

Half of `n` results that nothing dominates survive. Kept is their hypervolume as a share of that of
all, over seeds, for three shapes of front; `any` keeps those that were drawn first. It is measured
in two boxes: `fixed` is that of the objectives' bounds, as in a run's report; `own` is the front's,
with the reference point just beyond it. Far from the reference point the ends of a front count for
more. Time is of the processor, over all of survival, per result, its median over seeds and shapes.
Writes results/tie_breaks.json and .md.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from moocore import hypervolume
from results import between, describe_machine, spread, table, write_results

from coralx.compare.ways import as_result
from coralx.objectives import OBJECTIVES, minimised
from coralx.records import Genome
from coralx.search.selection import survive
from coralx.search.tiebreak import TIE_BREAKS, Matrix

SHAPES = {"convex": 0.5, "flat": 1.0, "concave": 2.0}  # sum of losses ** power = 1
SIZES = ((64, 3), (16, 6), (64, 6))
BOXES = ("fixed", "own")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    seeds = range(parser.parse_args().seeds)
    rows: list[dict[str, Any]] = []
    for n, m in SIZES:
        for shape, power in SHAPES.items():
            found = [measure(draw(n, m, power, seed)) for seed in seeds]
            for name in found[0]:
                *kept, took = zip(*(each[name] for each in found), strict=True)
                row = {"n": n, "m": m, "shape": shape, "tie_break": name}
                shares = dict(zip(BOXES, map(spread, kept), strict=True))
                rows.append(row | {"kept": shares, "ms_per_result": spread(took)})
    document = {"machine": describe_machine(), "seeds": len(seeds), "rows": rows}
    write_results("tie_breaks", document, describe(rows))


def draw(n: int, m: int, power: float, seed: int) -> Matrix:
    """(n, m) losses on one surface, so that none dominates another."""
    shares = np.random.default_rng(seed).dirichlet(np.ones(m), n)
    return np.asarray(shares ** (1 / power), dtype=np.float64)


def measure(losses: Matrix) -> dict[str, tuple[float, ...]]:
    """Share of the hypervolume kept in each box and milliseconds per result, by tie-break."""
    names = list(OBJECTIVES)[: losses.shape[1]]
    results = [
        as_result(
            "made",
            Genome(id=f"{place:03d}"),
            {name: worth(name, loss) for name, loss in zip(names, row.tolist(), strict=True)},
        )
        for place, row in enumerate(losses)
    ]
    half = len(results) // 2
    found: dict[str, tuple[float, ...]] = {"any": (*shares(losses, losses[:half]), 0.0)}
    for name in TIE_BREAKS:
        survive(results, half, names, name)  # loads what it needs
        began = time.process_time()
        survivors = survive(results, half, names, name)
        took = time.process_time() - began
        kept = losses[[int(result.genome.id) for result in survivors]]
        found[name] = (*shares(losses, kept), 1e3 * took / len(results))
    return found


def worth(name: str, loss: float) -> float:
    """The objective's value whose place between its best bound and its worst is `loss`."""
    low, high = OBJECTIVES[name].bounds or (0.0, 1.0)
    return loss if minimised(name) else high - (high - low) * loss


def shares(losses: Matrix, kept: Matrix) -> tuple[float, float]:
    """Hypervolume of the kept rows over that of all, in the fixed box and in the front's own."""
    best, span = losses.min(axis=0), np.ptp(losses, axis=0)
    own = hypervolume((kept - best) / span, ref=1.1) / hypervolume((losses - best) / span, ref=1.1)
    return hypervolume(kept, ref=1.1) / hypervolume(losses, ref=1.1), own


def describe(rows: list[dict[str, Any]]) -> list[str]:
    names = ["any", *TIE_BREAKS]
    by_place = {(r["n"], r["m"], r["shape"], r["tie_break"]): r for r in rows}

    def took(n: int, m: int, name: str) -> str:
        times = [by_place[n, m, shape, name]["ms_per_result"]["median"] for shape in SHAPES]
        return f"{np.median(times):.3f}"

    kept = [
        (n, m, shape, box, *(between(by_place[n, m, shape, t]["kept"][box], 2) for t in names))
        for n, m in SIZES
        for shape in SHAPES
        for box in BOXES
    ]
    times = [(f"n = {n}, {m} objectives", *(took(n, m, t) for t in TIE_BREAKS)) for n, m in SIZES]
    return [
        "Hypervolume kept by half of a front, median over seeds (lowest to highest):",
        "",
        *table(("n", "objectives", "shape", "box", *names), kept),
        "",
        *table(("ms per result", *TIE_BREAKS), times),
    ]


if __name__ == "__main__":
    main()
