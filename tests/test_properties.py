"""Properties that hold whatever genomes do and in whatever order results come.

Beside tests/search (each part by itself) and tests/test_loop.py (every record of one journal):
here stages, stops, order and the place of a cut are all drawn.
"""

from __future__ import annotations

import hashlib
import math
import random
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from coralx.config import Config, load_config
from coralx.errors import ExtinctError
from coralx.loop import run
from coralx.records import Job, TrainingResult, TrainingStage
from coralx.search import budget
from coralx.search.evolution import Evolution
from coralx.steps import count_batches, stage_steps
from coralx.store import JOURNAL, Store, read_history

Told = list[tuple[str, str]]


def _number(*words: object) -> float:
    """0..1, a function of the words alone."""
    digest = hashlib.sha256(repr(words).encode()).digest()
    return int.from_bytes(digest[:4]) / 2**32


class Rule:
    """What training finds, by genome and stage alone: some fail a gate, some are NaN, some lack an
    objective.

    Args:
        trouble: the share of results with something wrong.
    """

    def __init__(self, seed: int, trouble: float) -> None:
        self.seed, self.trouble = seed, trouble

    def results(self, job: Job) -> list[TrainingResult]:
        return [self._result(job, place) for place in range(len(job.genomes))]

    def _result(self, job: Job, place: int) -> TrainingResult:
        genome = job.genomes[place]
        key = (self.seed, genome.id, job.stage.name)
        skill = 0.6 + 0.4 * _number(*key)
        objectives = {"task_skill": skill, "memory": 1 + _number(*key, "bytes")}
        details = {"auroc": skill, "grad_norm": 1.0}
        if _number(*key, "trouble") < self.trouble:
            kind = int(4 * _number(*key, "kind"))
            details |= ({"auroc": 0.1}, {"grad_norm": 1e9}, {"auroc": math.nan}, {})[kind]
            objectives.pop("memory" if kind == 3 else "none", None)
        return job.result(
            place,
            objectives=objectives,
            details=details,
            checkpoint=f"{genome.id}/{job.stage.name}",
        )


@st.composite
def configurations(draw: st.DrawFn) -> Config:
    """Small runs of one to four stages with gates."""
    count = draw(st.integers(1, 4))
    shares = sorted(draw(st.lists(st.integers(1, 100), min_size=count, max_size=count)))
    rates = st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 0.9, 1.0])
    stages = [
        {
            "name": f"S{index}",
            "epoch_budget": draw(st.sampled_from([0.05, 0.3, 1, 2.5])),
            "data_percentage": share,
            "survival_rate": draw(rates),
            "min_auroc": draw(st.sampled_from([None, 0.55])),
            "max_grad_norm": draw(st.sampled_from([None, 5.0])),
        }
        for index, share in enumerate(shares)
    ]
    return load_config(
        {
            "objectives": ["task_skill", "memory"],
            "evolution": {
                "population": draw(st.integers(1, 9)),
                "generations": draw(st.integers(1, 3)),
                "seed": draw(st.integers(0, 99)),
            },
            "training": {"pack_size": draw(st.integers(1, 4))},
            "hyperband": {"training_stages": stages},
        }
    )


rules = st.builds(Rule, st.integers(0, 999), st.sampled_from([0.0, 0.1, 0.4]))


def _finish(evolution: Evolution, rule: Rule, rng: random.Random | None) -> str:
    """Tell everything, in drawn order and some of it again; what the end was."""
    try:
        while not evolution.finished:
            results = [r for job in evolution.ask(1000) for r in rule.results(job)]
            if rng is not None:
                results += rng.sample(results, rng.randint(0, len(results)))
                rng.shuffle(results)
            known = {(r.genome.id, r.stage) for r in evolution.results}
            for result in results:
                again = (result.genome.id, result.stage) in known
                other = result.model_copy(update={"objectives": {}, "details": {"auroc": 0.0}})
                kept = evolution.tell(other if again else result)
                assert (kept is None) is again, "told twice is ignored, whatever it says"
                known.add((result.genome.id, result.stage))
                if evolution.finished:
                    break
    except ExtinctError as error:
        return str(error)
    return "finished"


@settings(max_examples=60)
@given(configurations(), rules, st.randoms(use_true_random=False))
def test_the_end_is_a_function_of_what_was_found_not_of_its_order(
    config: Config, rule: Rule, rng: random.Random
) -> None:
    one, two = Evolution(config), Evolution(config)
    assert _finish(one, rule, None) == _finish(two, rule, rng)
    assert one.closed == two.closed
    assert [r.genome.id for r in one.front()] == [r.genome.id for r in two.front()]
    assert Counter(map(_name, one.results)) == Counter(map(_name, two.results))


@settings(max_examples=60)
@given(configurations(), rules, st.randoms(use_true_random=False))
def test_no_more_genomes_than_the_population_and_none_trained_twice(
    funnel, config: Config, rule: Rule, rng: random.Random
) -> None:
    evolution = Evolution(config)
    most = config.evolution.population
    end = _finish(evolution, rule, rng)
    assert max(Counter(map(_name, evolution.results)).values()) == 1
    for generation in range(evolution.generation + 1):
        born = {r.genome.id for r in evolution.results if r.generation == generation}
        assert 1 <= len(born) <= most
    for row in funnel(evolution):
        counts = [row[stage.name] for stage in config.hyperband.stages]
        assert counts == sorted(counts, reverse=True)
        for entered, went_on, stage in zip(
            counts, counts[1:], config.hyperband.stages, strict=False
        ):
            assert went_on <= budget.survivors(entered, stage.survival_rate)
    stopped = {r.genome.id for r in evolution.results if r.stopped}
    passed = {_name(r) for r in evolution.results if not r.stopped}
    for closed in evolution.closed:
        assert len(closed.population) <= most
        assert not stopped & set(closed.population)
        assert set(zip(closed.front, closed.front_stages, strict=True)) <= passed
    assert len(evolution.closed) <= config.evolution.generations
    assert end == "finished" or not evolution.closed


@settings(max_examples=80)
@given(configurations(), st.integers(1, 500))
def test_the_plan_is_what_a_run_without_trouble_does(funnel, config: Config, steps: int) -> None:
    evolution = Evolution(config)
    _finish(evolution, Rule(0, 0.0), None)
    size, epochs = config.evolution.population, config.hyperband.full_epochs
    plan = budget.plan(config.hyperband.stages, size, steps, epochs)
    first = funnel(evolution)[0]
    assert [first[stage.name] for stage in plan.stages] == [stage.genomes for stage in plan.stages]
    assert plan.stages[0].genomes == size
    assert math.isclose(sum(stage.steps for stage in plan.stages), plan.hyperband_steps)
    assert math.isclose(plan.naive_steps, size * steps * epochs)
    assert math.isclose(plan.speedup * plan.hyperband_steps, plan.naive_steps)


@given(st.integers(0, 10_000), st.floats(0.001, 1))
def test_at_least_one_survives_and_never_more_than_entered(entered: int, rate: float) -> None:
    kept = budget.survivors(entered, rate)
    assert min(entered, 1) <= kept <= entered
    assert kept <= max(1, entered * rate * (1 + 1e-6) + 1e-6)
    assert kept == entered or rate < 1
    assert budget.survivors(entered + 1, rate) >= kept


@given(st.floats(0.01, 10), st.floats(0.1, 100), st.integers(1, 100_000), st.integers(1, 512))
def test_a_stages_steps_grow_with_all_that_makes_it_larger(
    epochs: float, share: float, rows: int, batch: int
) -> None:
    stage = TrainingStage(name="s", epoch_budget=epochs, data_percentage=share, survival_rate=1)
    steps = stage_steps(stage, rows)
    assert steps > 0
    assert stage_steps(stage, rows + 1) >= steps
    whole = count_batches(rows, batch)
    assert whole == -(-rows // batch)
    assert count_batches(rows + 1, batch) >= whole >= count_batches(rows, batch + 1)


class RuleExecutor:
    """Answers jobs by a rule, in drawn order, and is stopped after some of them."""

    def __init__(self, rule: Rule, rng: random.Random, jobs: int | None = None) -> None:
        self.slots = rng.randint(1, 4)
        self.trained: Told = []
        self._rule, self._rng, self._left = rule, rng, jobs
        self._waiting: list[Job] = []

    def submit(self, job: Job) -> bool:
        if job.id in {known.id for known in self._waiting}:
            return False
        self._waiting.append(job)
        return True

    def completed(self) -> Iterable[Sequence[TrainingResult]]:
        self._rng.shuffle(self._waiting)
        while self._waiting:
            if self._left == 0:
                raise KeyboardInterrupt
            self._left = None if self._left is None else self._left - 1
            results = self._rule.results(self._waiting.pop())
            self._rng.shuffle(results)
            self.trained += map(_name, results)
            yield results


def _name(result: TrainingResult) -> tuple[str, str]:
    return result.genome.id, result.stage


def _evolve(folder: Path, config: Config, executor: RuleExecutor) -> str:
    store = Store(folder)
    try:
        if not (folder / JOURNAL).stat().st_size:
            store.append("run_started", {"config": config.model_dump(mode="json")})
        front = run(Evolution(config), executor, store, read_history(folder))
        return " ".join(result.genome.id for result in front)
    except KeyboardInterrupt:
        return "stopped"
    except ExtinctError as error:
        return str(error)
    finally:
        store.close()


@settings(max_examples=25)
@given(configurations(), rules, st.randoms(use_true_random=False), st.integers(1, 4))
def test_a_run_stopped_anywhere_any_number_of_times_ends_as_if_it_never_was(
    config: Config, rule: Rule, rng: random.Random, stops: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder) / "whole", Path(folder) / "cut"
        end = _evolve(whole, config, RuleExecutor(rule, rng))
        trained: Told = []
        for _ in range(stops):
            executor = RuleExecutor(rule, rng, rng.randint(0, 5))
            _evolve(cut, config, executor)
            trained += executor.trained
        executor = RuleExecutor(rule, rng)
        assert _evolve(cut, config, executor) == end
        trained += executor.trained
        assert max(Counter(trained).values()) == 1, "nothing is trained again"
        one, two = read_history(whole), read_history(cut)
        assert one.generations == two.generations
        assert sorted(map(_name, one.results)) == sorted(map(_name, two.results))


@settings(max_examples=25)
@given(configurations(), rules, st.randoms(use_true_random=False), st.floats(0, 1))
def test_a_journal_cut_at_any_byte_replays_to_the_same_end(
    config: Config, rule: Rule, rng: random.Random, share: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder) / "whole", Path(folder) / "cut"
        end = _evolve(whole, config, RuleExecutor(rule, rng))
        data = (whole / JOURNAL).read_bytes()
        first = data.index(b"\n") + 1
        assume(first < len(data))
        cut.mkdir()
        (cut / JOURNAL).write_bytes(data[: first + int(share * (len(data) - first))])
        known = list(map(_name, read_history(cut).results))
        assert known == list(map(_name, read_history(whole).results))[: len(known)]
        executor = RuleExecutor(rule, rng)
        assert _evolve(cut, config, executor) == end
        assert not set(known) & set(executor.trained)
        assert read_history(cut).generations == read_history(whole).generations
