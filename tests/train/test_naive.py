"""The naive baseline: trained in parts, with measuring in between, as in one go."""

from collections.abc import Callable
from pathlib import Path

import pytest

from coralx.config import load_config
from coralx.records import Genome
from coralx.train.naive import NaiveRun, NaiveTrainer
from coralx.train.workbench import Workbench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    config = load_config({"data": {"max_rows": 40}, "training": {"attack_rows": 2}})
    return Workbench(config, Path(tmp_path_factory.mktemp("checkpoints")))


def test_training_in_parts_is_training_in_one_go(
    bench: Workbench, genome: Callable[..., Genome]
) -> None:
    trained = genome(2e-3, r=2, dropout=0.1, layers=1)
    rows = bench.validation(100)
    whole = NaiveTrainer(bench, 1.5).train(trained)
    run = NaiveRun(bench, trained, 1.5)
    skills = []
    for epochs in (0.3, 1.0, 1.5):
        run.train_to(epochs)
        skills.append(run.skill(rows))
    assert run.measure(rows) == whole.validation
    assert (run.steps, run.tokens) == (whole.steps, whole.tokens) == (8, whole.tokens)
    assert skills[-1] == pytest.approx(whole.validation["task_skill"], abs=1e-3)
    assert len(set(skills)) > 1


def test_mixed_precision_trains_alike_but_for_rounding(
    bench: Workbench, genome: Callable[..., Genome]
) -> None:
    rows = bench.validation(100)
    found = []
    for mixed in (False, True):
        run = NaiveRun(bench, genome(1e-3, r=2, layers=1), 1.0, mixed)
        run.train_to(1.0)
        found.append(run.measure(rows)["calibration"])
    assert found[0] != found[1]
    assert found[1] == pytest.approx(found[0], abs=0.02)
