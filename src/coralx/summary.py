"""The content of `summary.json`: a run's outcome as plain JSON values, drawn from its journal."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from coralx.durable import write_whole
from coralx.json_values import plain
from coralx.objectives import OBJECTIVES, describe, loss
from coralx.records import Generation, Interval, TestResult, TrainingResult, jsonable
from coralx.search.budget import efficiency
from coralx.search.correlation import stage_correlations
from coralx.search.selection import front
from coralx.store import History

Summary = dict[str, Any]
# What the journal says of the rows; journals of before it did say less.
OF_ROWS = (
    *("rows", "classes", "missing_classes", "stage_classes", "task_classes", "picture_classes"),
    *("left_out", "reading"),
)


def summarize(history: History) -> Summary:
    """What a run found and what it cost, as values that JSON can hold (NaN and infinity: None).

    The front is that of the last closed generation, each genome with the result that is on it
    and, where it was measured, its test figures; best validation value of the first objective
    first. `funnel` has one mapping of stage name to genomes trained per generation.
    """
    facts, names = history.facts, history.config.objectives
    last = history.generations[-1] if history.generations else None
    summary = {
        "base_model": history.config.base_model,
        "seed": facts.get("seed", history.config.evolution.seed),
        "versions": facts.get("versions", {}),
        "machine": facts.get("machine", ""),
        "started": facts.get("started"),
        "finished": history.finished,
        "wall_seconds": history.seconds,
        "tasks": facts.get("tasks", []),
        **{name: facts.get(name, {}) for name in OF_ROWS},
        "objectives": {name: describe(name).direction for name in names},
        "space": list(history.config.space),
        "genomes": len({result.genome.id for result in history.results}),
        "front": _front(history),
        "hypervolume": last.hypervolume if last else None,
        "generations": _generations(history),
        "funnel": _funnel(history),
        "stage_correlation": [asdict(c) for c in stage_correlations(history.results, names)],
        "stopped": _stopped(history),
        "merge": count_merged(history.results),
        "stand_ins": [repair.checkpoint for repair in history.repairs if not repair.identical],
        "efficiency": _efficiency(history),
    }
    return {key: plain(value) for key, value in summary.items()}


def write_summary(history: History, path: Path) -> None:
    """Write `summary.json`. The file is replaced whole or not at all."""
    text = json.dumps(summarize(history), indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(path, text + "\n")


def by_generation(results: Iterable[TrainingResult]) -> defaultdict[int, list[TrainingResult]]:
    """The results of each generation, in their order."""
    found: defaultdict[int, list[TrainingResult]] = defaultdict(list)
    for result in results:
        found[result.generation].append(result)
    return found


def front_results(
    history: History, generations: Iterable[Generation]
) -> list[list[TrainingResult]]:
    """The results on each generation's front; not always those of their genomes' highest stages."""
    known = {(result.genome.id, result.stage): result for result in history.results}
    return [
        [known[place] for place in zip(own.front, own.front_stages, strict=True) if place in known]
        for own in generations
    ]


def current_front(history: History) -> list[TrainingResult]:
    """The results on the front of a run as it stands; none before its first generation ended."""
    found = front_results(history, history.generations[-1:])
    return found[0] if found else []


def scored_by_text(history: History, result: TrainingResult) -> bool:
    """Whether the cross-modal proxy left out the pictures when it was scored: its threshold and
    scaling know nothing of them, so it is no adapter to serve."""
    pictured = bool(history.facts.get("images"))
    return history.config.hyperband.is_proxy(result.stage_index, pictured)


def count_merged(results: Iterable[TrainingResult]) -> dict[str, int]:
    """Children of merged weights, and how many had a higher P1 before their first step than
    either parent, on the same rows."""
    pairs = [
        (result.details["auroc_at_start"], result.details["auroc_of_better_parent"])
        for result in results
        if "auroc_at_start" in result.details
    ]
    return {"children": len(pairs), "beat_better_parent": sum(own > best for own, best in pairs)}


def _front(history: History) -> list[dict[str, Any]]:
    members = current_front(history)
    tests = {(test.genome, test.stage): test for test in history.tests}
    first = history.config.objectives[0]
    members.sort(key=lambda result: loss(first, result.objectives.get(first)))
    return [
        _member(
            result, tests.get((result.genome.id, result.stage)), scored_by_text(history, result)
        )
        for result in members
    ]


def _member(result: TrainingResult, test: TestResult | None, by_text: bool) -> dict[str, Any]:
    """With neither test figures nor adapter if it was scored by text alone, though rows have
    pictures."""
    genome, test = result.genome, None if by_text else test
    return {
        "genome": genome.id,
        "generation": genome.generation,
        "parents": genome.parents,
        "stage": result.stage,
        "genes": genome.genes(),
        "trained_rank": result.lora_cfg.r,
        "objectives": result.objectives,
        "details": result.details,
        "test": _without_own(_intervals(test.objectives if test else {})),
        "test_details": _intervals(test.details if test else {}),
        "adapter": None if by_text else f"adapters/{genome.id}",
    }


def _intervals(figures: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: jsonable(interval) for name, interval in figures.items()}


def _without_own(intervals: dict[str, Any]) -> dict[str, Any]:
    """A user's own objective is measured once: its interval, of no width, would pass for one."""
    none = {"low": None, "high": None}
    return {
        name: value if name in OBJECTIVES else {**value, **none}
        for name, value in intervals.items()
    }


def _generations(history: History) -> list[dict[str, Any]]:
    results = by_generation(history.results)
    return [
        {
            "index": generation.index,
            "hypervolume": generation.hypervolume,
            "diversity": generation.diversity,
            "first_front_share": generation.first_front_share,
            "non_dominated": _non_dominated(results[generation.index], history.config.objectives),
            "front_size": len(generation.front),
        }
        for generation in history.generations
    ]


def _non_dominated(results: Iterable[TrainingResult], names: Sequence[str]) -> dict[str, float]:
    """Per stage, the share of the genomes that passed it that no other of them dominates."""
    passed: dict[str, list[TrainingResult]] = defaultdict(list)
    for result in results:
        if result.stopped is None:
            passed[result.stage].append(result)
    return {stage: len(front(found, names)) / len(found) for stage, found in passed.items()}


def _funnel(history: History) -> list[dict[str, int]]:
    """Stages in their order; a stage that a generation never reached has no entry."""
    order = sorted({(result.stage_index, result.stage) for result in history.results})
    counts: dict[int, Counter[str]] = {}
    for result in history.results:
        counts.setdefault(result.generation, Counter())[result.stage] += 1
    return [
        {stage: counts[index][stage] for _, stage in order if counts[index][stage]}
        for index in sorted(counts)
    ]


def _stopped(history: History) -> list[dict[str, Any]]:
    return [
        {
            "genome": result.genome.id,
            "generation": result.generation,
            "stage": result.stage,
            **jsonable(result.stopped),
        }
        for result in history.results
        if result.stopped
    ]


def _efficiency(history: History) -> dict[str, Any]:
    hyperband = history.config.hyperband
    steps_per_epoch = float(history.facts.get("steps_per_epoch", 0.0))
    return efficiency(history.results, hyperband.stages, steps_per_epoch, hyperband.full_epochs)
