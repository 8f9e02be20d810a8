"""The table of recorded curves: nothing lost on disk, and lookups by the space's own distance."""

from pathlib import Path

import numpy as np
import pytest

from coralx.errors import ConfigError, DataError
from coralx.executors.replay_table import (
    ReplayTable,
    TableFacts,
    as_row,
    distances,
    places,
    read_table,
    write_rows,
)
from coralx.records import Cost, Genome, Stop, TrainingResult
from coralx.search import space
from coralx.search.space import Space
from coralx.settings.genes import DEFAULT_SPACE, Choice, Float, Gene, Integer
from coralx.settings.sections import DEFAULT_STAGES

WIDE: dict[str, Gene] = {
    **DEFAULT_SPACE,
    "batches": Integer(low=1, high=9),
    "beta": Float(low=0.1, high=0.9, when={"use_rslora": (True,)}),
    "mixed": Choice(values=(1, "two", None)),
}
FACTS = TableFacts(space=DEFAULT_SPACE, stages=DEFAULT_STAGES, seed=3)


def draw(where: Space, count: int, seed: int = 0) -> tuple[Genome, ...]:
    return space.sample_distinct(where, count, np.random.default_rng(seed))


def distance(where: Space, a: Genome, b: Genome) -> float:
    return space.diversity(where, [a, b])


def curve(genome: Genome, breaks_down: bool = False) -> list[TrainingResult]:
    """Made-up results of all stages; one that breaks down does so in the second."""
    stop = Stop(gate="non_finite", value=None, limit=None, reason="loss at step 3 is nan")
    return [
        TrainingResult(
            job="j",
            genome=genome,
            generation=0,
            stage=stage.name,
            stage_index=index,
            lora_cfg=genome.lora_cfg,
            objectives={} if breaks_down and index else {"task_skill": genome.learning_rate},
            details={"auroc": 0.5 + index / 10, "threshold": 0.3},
            stopped=stop if breaks_down and index else None,
            left_early=index == 3,
            cost=Cost(steps=10 * index, train_seconds=0.1 * index, eval_seconds=0.2),
        )
        for index, stage in enumerate(DEFAULT_STAGES[: 2 if breaks_down else 4])
    ]


def test_a_genome_is_as_far_from_another_as_the_space_says() -> None:
    strangers = [
        Genome.model_validate({"lora_cfg": {"r": 3, "target_modules": ["key"]}}),
        Genome(learning_rate=1.0, extra={"mixed": "three"}),
    ]
    known = draw(WIDE, 40)
    ordered = np.array([name not in ("target_modules", "use_rslora", "mixed") for name in WIDE])
    many = np.array([places(WIDE, genome) for genome in known])
    for genome in (*known[:10], *draw(WIDE, 10, seed=1), *strangers):
        found = distances(many, np.array(places(WIDE, genome)), ordered)
        wanted = [distance(WIDE, genome, other) for other in known]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


def test_a_recorded_genome_finds_itself_and_another_its_nearest() -> None:
    known = draw(DEFAULT_SPACE, 30)
    table = ReplayTable(DEFAULT_SPACE, DEFAULT_STAGES, [curve(genome) for genome in known])
    for genome in (*known, *draw(DEFAULT_SPACE, 30, seed=1)):
        found = table.look_up(genome, DEFAULT_STAGES[2])
        least = min(distance(DEFAULT_SPACE, genome, other) for other in known)
        assert found.details["replay_distance"] == pytest.approx(least, abs=1e-12)
        assert distance(DEFAULT_SPACE, genome, found.genome) == pytest.approx(least)
        assert found.stage == "S2_serious"


def test_curves_come_back_from_disk_as_they_were_recorded(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    first, second, doomed = draw(DEFAULT_SPACE, 3)
    stages = dict(zip((stage.name for stage in DEFAULT_STAGES), DEFAULT_STAGES, strict=True))
    rows = [
        as_row(task, result, DEFAULT_SPACE, stages[result.stage])
        for task, genome in (("a", first), ("b", second), ("a", doomed))
        for result in curve(genome, breaks_down=genome is doomed)
    ]
    write_rows(path, FACTS, rows)
    table = read_table(path, "a")
    assert (table.space, table.stages) == (dict(DEFAULT_SPACE), DEFAULT_STAGES)
    assert {known[0].genome.id for known in table.curves} == {first.id, doomed.id}
    for stage, wanted in zip(DEFAULT_STAGES, curve(first), strict=True):
        found = table.look_up(first, stage)
        for name in ("genome", "stage", "stage_index", "objectives", "cost", "left_early"):
            assert getattr(found, name) == getattr(wanted, name)
        assert found.details == {"auroc": wanted.details["auroc"], "replay_distance": 0.0}
    # AUROC 0.5 and 0.6: the first stage has no such gate, so it stops nobody and is no stop.
    assert [row["gate"] for row in rows[:4]] == [None, None, None, None]
    late = table.look_up(doomed, DEFAULT_STAGES[3])
    assert late.stopped == curve(doomed, breaks_down=True)[1].stopped


def test_what_is_no_table_or_not_in_it_is_said(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    with pytest.raises(DataError, match=r"record_curves\.py"):
        read_table(path, "a")
    path.write_text("nothing", encoding="utf-8")
    with pytest.raises(DataError, match=r"record_curves\.py"):
        read_table(path, "a")
    (genome,) = draw(DEFAULT_SPACE, 1)
    rows = [as_row("a", r, DEFAULT_SPACE, DEFAULT_STAGES[r.stage_index]) for r in curve(genome)]
    write_rows(path, FACTS, rows)
    with pytest.raises(DataError, match="one of a, got 'b'"):
        read_table(path, "b")
    longer = DEFAULT_STAGES[2].model_copy(update={"epoch_budget": 1.5})
    with pytest.raises(
        ConfigError, match=r"S2_serious \(1 epoch of 100 %\).*got S2_serious \(1\.5"
    ):
        read_table(path, "a").look_up(genome, longer)
