"""Syne Tune: multi-objective ASHA on all objectives."""

from __future__ import annotations

import contextlib
import datetime
import itertools
from typing import Any

import numpy as np
from syne_tune.backend.trial_status import Trial
from syne_tune.config_space import choice, loguniform, randint, uniform
from syne_tune.optimizer.scheduler import SchedulerDecision
from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

from coralx.objectives import minimised
from coralx.settings.genes import Choice, Gene, Integer
from peer_tools.trial import ETA, FULL, RUNGS, OutOfTime, Task, decode, labels


def moasha(task: Task) -> None:
    """`MOASHA` with its defaults: random draws, and at each rung the better third goes on by
    non-dominated order over all objectives.

    Its scheduler is called in this process. Syne Tune's local backend would start one for each
    trial, which would have to load base model and rows again.
    """
    np.random.seed(task.seed % 2**32)  # it draws from numpy's global stream
    scheduler = MOASHA(
        {name: domain(gene) for name, gene in sorted(task.config.space.items())},
        metrics=list(task.names),
        time_attr="budget",
        max_t=FULL,
        grace_period=RUNGS[0],
        reduction_factor=ETA,
        random_seed=task.seed % 2**32,
    )
    with contextlib.suppress(OutOfTime):
        for number in itertools.count():
            config = scheduler.suggest().config
            follow(task, scheduler, Trial(number, config, datetime.datetime.now()))


def follow(task: Task, scheduler: Any, trial: Trial) -> None:
    """Train one trial for as long as the scheduler lets it."""
    scheduler.on_trial_add(trial)
    adapter = task.begin(decode(task.config.space, trial.config))
    for budget in RUNGS:
        found = task.objectives_at(trial.trial_id, adapter, budget)
        costs = {n: found[n] if minimised(n) else -found[n] for n in task.names}
        decision = scheduler.on_trial_result(trial, {"budget": budget, **costs})
        if decision == SchedulerDecision.STOP:  # at the last rung always
            break
    scheduler.on_trial_remove(trial)


def domain(gene: Gene) -> Any:
    if isinstance(gene, Choice):
        return choice(list(labels(gene)))
    if isinstance(gene, Integer):
        return randint(gene.low, gene.high)
    return loguniform(gene.low, gene.high) if gene.log else uniform(gene.low, gene.high)
