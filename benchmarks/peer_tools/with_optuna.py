"""Optuna: TPE with Hyperband pruning on skill, and NSGA-II on all objectives."""

from __future__ import annotations

import contextlib
from typing import Any

import optuna

from coralx.objectives import minimised
from coralx.records import Genome
from coralx.settings.genes import Choice, Gene, Integer
from peer_tools.trial import ETA, FULL, RUNGS, OutOfTime, Task, decode, labels


def hyperband(task: Task) -> None:
    """The default sampler (TPE) with `HyperbandPruner`; a pruned trial is lost to the search.

    Pruning and multi-objective search exclude each other in Optuna, so skill alone is its goal.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name=f"hyperband-{task.seed}",  # its hash spreads trials over brackets
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=task.seed),
        pruner=optuna.pruners.HyperbandPruner(1, FULL, ETA),
    )

    def objective(trial: Any) -> float:
        adapter = task.begin(draw(task, trial))
        skill = 0.0
        for budget in RUNGS:
            skill = task.skill_at(trial.number, adapter, budget)
            trial.report(skill, budget)
            if trial.should_prune():
                raise optuna.TrialPruned
        return skill

    with contextlib.suppress(OutOfTime):
        study.optimize(objective)


def nsga2(task: Task) -> None:
    """`NSGAIISampler` with CoralX's population size; every trial is trained in full."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    size = max(2, task.config.evolution.population)
    study = optuna.create_study(
        directions=["minimize" if minimised(n) else "maximize" for n in task.names],
        sampler=optuna.samplers.NSGAIISampler(population_size=size, seed=task.seed),
    )

    def objective(trial: Any) -> list[float]:
        adapter = task.begin(draw(task, trial))
        found = task.objectives_at(trial.number, adapter, FULL)
        return [found[name] for name in task.names]

    with contextlib.suppress(OutOfTime):
        study.optimize(objective)


def draw(task: Task, trial: Any) -> Genome:
    genes = task.config.space
    return decode(genes, {name: suggest(trial, name, genes[name]) for name in sorted(genes)})


def suggest(trial: Any, name: str, gene: Gene) -> Any:
    if isinstance(gene, Choice):
        return trial.suggest_categorical(name, list(labels(gene)))
    if isinstance(gene, Integer):
        return trial.suggest_int(name, gene.low, gene.high)
    return trial.suggest_float(name, gene.low, gene.high, log=gene.log)
