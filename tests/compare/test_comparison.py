"""`coralx compare`: one small real comparison, and what is left of one that was interrupted."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from rich.console import Console

from coralx.compare.comparison import MODES, Comparison, forecast, small_version
from coralx.compare.simulation import NOTE
from coralx.compare.table import render_comparison
from coralx.compare.ways import as_result, naive_side, run_naive, run_simulation
from coralx.config import Config, load_config
from coralx.errors import ConfigError, ModelError
from coralx.interrupts import stoppable
from coralx.records import Genome
from coralx.runs.watcher import Watcher
from coralx.search.breeding import draw_founders
from coralx.train.naive import NaiveResult
from coralx.train.worker import Worker

CONFIG = load_config(
    {
        "vision_tower": None,
        "data": {"image_column": None, "max_rows": 48},
        "training": {"attack_rows": 4, "bootstrap_draws": 0, "patience": None, "threads": 1},
        "hyperband": {
            "training_stages": [
                {
                    "name": "short",
                    "epoch_budget": 0.4,
                    "data_percentage": 100,
                    "survival_rate": 0.5,
                },
                {"name": "long", "epoch_budget": 2, "data_percentage": 100, "survival_rate": 1},
            ]
        },
    }
)


class Listener(Watcher):
    """Keeps what it is told; raises like Ctrl-C at a message that begins with `stop_at`."""

    def __init__(self, stop_at: str = "-") -> None:
        self.said: list[str] = []
        self.shown: list[str] = []
        self._stop_at = stop_at

    def say(self, message: str) -> None:
        self.said.append(message)
        if message.startswith(self._stop_at):
            raise KeyboardInterrupt

    def show(self, message: str) -> None:
        self.shown.append(message)


@pytest.fixture(scope="module")
def measured() -> tuple[Comparison, Listener]:
    comparison, listener = Comparison(*small_version(CONFIG, 2, 1000)), Listener()
    comparison.measure(listener)
    return comparison, listener


@pytest.fixture(scope="module")
def lines(measured: tuple[Comparison, Listener]) -> dict[str, dict[str, Any]]:
    return {line["mode"]: line for line in measured[0].document()["modes"]}


def test_all_three_are_measured_on_the_same_genomes(
    measured: tuple[Comparison, Listener], lines: dict[str, dict[str, Any]]
) -> None:
    assert tuple(lines) == MODES
    ids = [genome.id for genome in draw_founders(CONFIG.space, CONFIG.evolution)[:2]]
    assert measured[0].document()["genomes"] == ids
    assert [sorted(g.id for g in measured[0].sides[m]["genomes"]) for m in MODES] == [
        sorted(ids)
    ] * 3
    assert measured[0].complete


def test_steps_are_those_of_the_budget(lines: dict[str, dict[str, Any]]) -> None:
    assert lines["naive"]["steps"] == 2 * 2 * 6  # 48 rows by 8, two epochs, two genomes
    # 2.4 steps are 3 for each of two genomes; one of them goes on
    assert lines["hyperband"]["steps"] == 2 * 3 + 12
    assert lines["simulation"]["steps"] == lines["simulation"]["tokens"] == 0
    assert lines["naive"]["tokens"] > lines["hyperband"]["tokens"] > 0


def test_speed_up_is_wall_clock_against_naive(lines: dict[str, dict[str, Any]]) -> None:
    for line in lines.values():
        assert line["speedup"] == pytest.approx(lines["naive"]["seconds"] / line["seconds"])


def test_only_real_training_counts_as_real(lines: dict[str, dict[str, Any]]) -> None:
    assert {mode: line["real_gradients"] for mode, line in lines.items()} == {
        "simulation": False,
        "naive": True,
        "hyperband": True,
    }
    assert lines["simulation"]["note"] == NOTE
    assert lines["naive"]["test_auroc_best"] != lines["hyperband"]["test_auroc_best"]
    assert all(0 < line["test_hypervolume"] < 1 for line in lines.values())


def test_hypervolume_is_over_what_was_really_measured(
    measured: tuple[Comparison, Listener],
) -> None:
    assert "cross_modal_gain" not in measured[0].document()["objectives"]  # text alone
    assert "safety" in measured[0].document()["objectives"]


def test_every_auroc_says_which_rows_it_is_of(measured: tuple[Comparison, Listener]) -> None:
    told = [text for text in measured[1].said if "AUROC" in text]
    assert any("on the front, test AUROC" in text for text in told)
    assert all("test AUROC" in text or "validation AUROC" in text for text in told)


def test_the_cost_is_told_before_training(measured: tuple[Comparison, Listener]) -> None:
    said, shown = measured[1].said, measured[1].shown
    cost = next(i for i, line in enumerate(said) if "24 naive steps" in line)
    assert "at most about 18 through the stages" in said[cost]  # as trained
    assert "on this machine" in said[cost]
    assert cost < next(i for i, line in enumerate(said) if line.startswith("hyperband:"))
    assert "naive 2/2: step 12/12" in shown


def test_the_seconds_of_naive_genomes_are_those_of_the_table() -> None:
    """Training and its one evaluation."""
    config, genomes = small_version(CONFIG, 1, 48)
    listener = Listener()

    class Trainer:
        def __init__(self, *_: Any) -> None: ...

        def train(self, genome: Genome, _: Any) -> NaiveResult:
            return NaiveResult(genome.id, {"task_skill": 0.5}, 3, 9, 9, 2.0, 31.0)

        def test(self, _: Any) -> dict[str, float]:
            return {"task_skill": 0.5}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coralx.train.naive.NaiveTrainer", Trainer)
        side = run_naive(config, Mock(), genomes, listener)
    assert side["seconds"] == 33.0
    assert listener.said == ["naive 1/1: 33.0 s, validation AUROC 0.500"]


def test_few_rows_of_a_class_are_told_before_training(
    measured: tuple[Comparison, Listener],
) -> None:
    said = measured[1].said
    warned = [i for i, line in enumerate(said) if line.startswith("warning: validation has ")]
    assert len(warned) == 1
    assert warned[0] < said.index(NOTE)


def test_an_interrupted_comparison_keeps_what_was_measured() -> None:
    comparison = Comparison(*small_version(CONFIG, 2, 1000))
    with pytest.raises(KeyboardInterrupt):
        comparison.measure(Listener(stop_at="naive 1/2"))
    document = comparison.document()
    lines = {line["mode"]: line for line in document["modes"]}
    assert not document["complete"]
    assert lines["naive"]["genomes"] == 1
    assert lines["naive"]["steps"] == 12
    assert lines["naive"]["test_auroc_best"] is None
    assert lines["hyperband"]["test_auroc_best"] > 0
    assert {line["speedup"] for line in lines.values()} == {None}
    assert "naive 1/2" in _rendered(document)


def test_a_document_is_strict_json_whatever_came_out() -> None:
    config, genomes = small_version(CONFIG, 2, 1000)
    comparison = Comparison(config, genomes)
    assert json.loads(json.dumps(comparison.document(), allow_nan=False))["modes"] == []
    comparison.sides["simulation"] = run_simulation(config, genomes, ("task_skill",))
    broken = NaiveResult(genomes[0].id, {"task_skill": math.nan}, 3, 9, 9, 1.0, 1.0)
    comparison.sides["naive"] = naive_side(genomes, [broken])
    document = json.loads(json.dumps(comparison.document(), allow_nan=False))
    assert [line["test_auroc_best"] is None for line in document["modes"]] == [False, True]


def test_the_table_marks_what_is_invented(measured: tuple[Comparison, Listener]) -> None:
    shown = _rendered(measured[0].document())
    assert NOTE in shown
    simulation = next(line for line in shown.splitlines() if line.startswith("simulation "))
    assert simulation.count("~") == 2
    assert simulation.endswith("no")
    assert "…" not in shown
    assert "hyperband against naive: " in shown


def test_more_steps_than_naive_are_not_called_fewer(
    measured: tuple[Comparison, Listener],
) -> None:
    document = measured[0].document()
    assert "1.33x fewer steps" in _rendered(document)
    naive = next(line for line in document["modes"] if line["mode"] == "naive")
    naive["steps"] //= 2
    assert "1.50x more steps" in _rendered(document)


def test_the_small_version_is_the_beginning_of_generation_0() -> None:
    config, genomes = small_version(CONFIG, 3, 40)
    assert genomes == draw_founders(CONFIG.space, CONFIG.evolution)[:3]
    assert (config.evolution.population, config.evolution.generations) == (3, 1)
    assert config.data.max_rows == 40
    assert len(small_version(CONFIG, 20, 1000)[1]) == 20  # more than the population
    assert small_version(CONFIG, 2, 1000)[0].data.max_rows == 48


def test_a_space_that_is_too_small_is_refused() -> None:
    space = {"r": {"kind": "choice", "values": [2, 4]}}
    with pytest.raises(ConfigError, match="the space holds 2"):
        small_version(Config.model_validate({"space": space}), 3, 100)


def test_layers_beyond_the_base_are_refused_before_anything_is_trained() -> None:
    layers = {"layers": {"kind": "choice", "values": [6, 7]}}
    config, genomes = small_version(load_config(CONFIG, {"space": layers}), 2, 48)
    comparison = Comparison(config, genomes)
    with pytest.raises(ModelError, match="has 6 blocks, got 7"):
        comparison.measure(Watcher())
    assert comparison.sides == {}


def test_objectives_that_nobody_is_chosen_by_are_refused_before_anything_is_trained() -> None:
    config, genomes = small_version(CONFIG, 2, 48)
    comparison = Comparison(
        config.model_copy(update={"objectives": ("cross_modal_gain",)}), genomes
    )
    with pytest.raises(ConfigError, match="objectives: one at least must be measurable"):
        comparison.measure(Watcher())
    assert comparison.sides == {}


def test_what_is_measured_is_kept_where_coralx_stops_every_genome() -> None:
    stage = {"name": "only", "epoch_budget": 0.4, "data_percentage": 100, "survival_rate": 1}
    doomed = {"training_stages": [{**stage, "min_auroc": 1.0}]}
    config = load_config(CONFIG.model_dump() | {"hyperband": doomed})
    comparison, listener = Comparison(*small_version(config, 2, 1000)), Listener()
    comparison.measure(listener)
    document = comparison.document()
    assert [line["mode"] for line in document["modes"]] == ["simulation", "naive"]
    assert not document["complete"]
    assert {line["speedup"] for line in document["modes"]} == {None}
    assert document["modes"][1]["genomes"] == 2
    assert document["modes"][1]["test_auroc_best"] > 0
    reasons = [f"- {genome.id}: AUROC " for genome in comparison.genomes]
    shown = _rendered(document)
    assert "no hyperband: only: no genome passed its gates" in shown
    for reason in reasons:
        assert reason in document["extinct"]
        assert reason in shown
        assert any(reason in line for line in listener.said)


def test_a_front_that_was_scored_by_text_alone_is_not_measured() -> None:
    """`coralx run` writes no adapters of it."""
    stage = {"name": "blind", "epoch_budget": 0.4, "data_percentage": 50, "survival_rate": 0.5}
    stages = [
        {**stage, "survival_rate": 1},
        {**stage, "name": "blind_too"},
        {**stage, "name": "seeing", "data_percentage": 100, "min_auroc": 1.0},
    ]
    own = {
        "vision_tower": "efficientnet-lite0",
        "data": {"image_column": "image", "max_rows": 40, "max_tokens": 8},
        "hyperband": {"training_stages": stages, "cross_modal_proxy": True},
    }
    comparison = Comparison(*small_version(load_config(CONFIG.model_dump() | own), 2, 40))
    comparison.measure(Listener())
    assert "hyperband" not in comparison.sides
    assert comparison.extinct is not None
    assert comparison.extinct.startswith(
        "no genome passed a stage after blind_too, which scores by text"
    )
    assert comparison.sides["naive"]["best"] > 0


def test_steps_are_forecast_of_each_stages_own_rows() -> None:
    stage = {"name": "a", "epoch_budget": 1, "data_percentage": 50, "survival_rate": 0.5}
    stages = [stage, {**stage, "name": "b", "data_percentage": 100}]
    config = load_config(CONFIG, {"hyperband": {"training_stages": stages}})
    config, genomes = small_version(config, 2, 48)
    worker = Worker(config, Path("unused"))
    # 25 rows by 8 of two genomes (of each class a half, rounded up), then 48 of one
    assert "at most about 14 through the stages" in forecast(config, worker, genomes[0])


def _rendered(document: dict[str, Any]) -> str:
    console = Console(width=80, file=io.StringIO())
    render_comparison(document, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())


def test_it_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    remove = shutil.rmtree

    def interrupted(*args: Any, **kwargs: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)  # the second Ctrl-C
        remove(*args, **kwargs)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt), stoppable():
        Comparison(*small_version(CONFIG, 2, 1000)).measure(Listener(stop_at=NOTE))
    assert list(tmp_path.iterdir()) == []


def test_aurocs_of_sides_that_were_chosen_by_different_things_are_not_subtracted(
    measured: tuple[Comparison, Listener],
) -> None:
    document = measured[0].document()
    assert "best test AUROC" in _sentence(document)
    with_skill = {**document, "left_out": ["mine:f"]}
    assert "best test AUROC" in _sentence(with_skill)
    alone = {**document, "objectives": [], "left_out": ["mine:f"]}
    assert "best test AUROC" not in _sentence(alone)
    assert "as fast" in _sentence(alone)


def _sentence(document: dict[str, Any]) -> str:
    return " ".join(_rendered(document).partition("hyperband against naive")[2].split())


def test_an_own_objective_is_said_to_be_left_out() -> None:
    """Naive training does not measure it."""
    config, genomes = small_version(CONFIG, 2, 1000)
    objectives = ("task_skill", "mine:f")
    comparison = Comparison(config.model_copy(update={"objectives": objectives}), genomes)
    for mode, measured in (("naive", objectives[:1]), ("hyperband", objectives)):
        comparison.sides[mode] = run_simulation(comparison.config, genomes, ("task_skill",))
        comparison.sides[mode]["front"] = [
            as_result("naive", genome, dict.fromkeys(measured, 0.5)) for genome in genomes
        ]
    document = comparison.document()
    assert (document["objectives"], document["left_out"]) == (["task_skill"], ["mine:f"])
    assert "leave out mine:f" in " ".join(_rendered({**document, "complete": False}).split())
