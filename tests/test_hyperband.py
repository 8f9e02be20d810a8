"""HyperbandTrainer on real weights and real rows: the lines of the README, kept small."""

import contextlib
import gc
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.utils import logging as transformers_logging

from coralx import Genome, HyperbandTrainer, LoRAConfig, Predictor, TrainingResult
from coralx.errors import (
    CheckpointError,
    ConfigError,
    CoralXError,
    DataError,
    ExtinctError,
    ModelError,
    StoreError,
)
from coralx.records import Progress
from coralx.train.checkpoint import load_checkpoint

SETTINGS = {
    "data": {"max_rows": 96},
    "training": {"attack_rows": 4, "patience": None},
    "hyperband_config": {
        "training_stages": [
            {"name": "S0_sanity", "epoch_budget": 0.1, "data_percentage": 25, "survival_rate": 1.0},
            {"name": "S1_shakeout", "epoch_budget": 0.5, "data_percentage": 50,
             "survival_rate": 0.5, "min_auroc": 0.2},
            {"name": "S2_serious", "epoch_budget": 1.0, "data_percentage": 100,
             "survival_rate": 0.5, "min_auroc": None},
        ]
    },
}  # fmt: skip
GENOMES = [
    Genome(lora_cfg=LoRAConfig(r=4, layers=1), learning_rate=1e-3),
    Genome(lora_cfg=LoRAConfig(r=8, layers=1, target_modules=("all-linear",)), learning_rate=2e-3),
    Genome(lora_cfg=LoRAConfig(r=16, layers=2), learning_rate=5e-4),
    Genome(lora_cfg=LoRAConfig(r=2, layers=2), learning_rate=1e12),  # breaks down
]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> HyperbandTrainer:
    return HyperbandTrainer(SETTINGS, checkpoints=tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def results(trainer: HyperbandTrainer) -> list[TrainingResult]:
    return trainer.train_population(GENOMES)


def by_stage(results: list[TrainingResult], stage: str) -> dict[str, TrainingResult]:
    return {r.genome.id: r for r in results if r.stage == stage}


def test_the_funnel_narrows_and_the_broken_genome_has_a_reason(
    results: list[TrainingResult],
) -> None:
    counts = [len(by_stage(results, s)) for s in ("S0_sanity", "S1_shakeout", "S2_serious")]
    broken = [r for r in results if r.genome.id == GENOMES[3].id]
    assert broken[-1].stopped is not None
    assert broken[-1].stopped.reason
    assert broken[-1].stage != "S2_serious"
    assert counts[0] == 4
    assert counts[2] == 2


def test_steps_are_those_of_the_budget(results: list[TrainingResult]) -> None:
    done = by_stage(results, "S2_serious").values()
    assert {(r.cost.steps, r.cost.planned_steps) for r in done} == {(12, 12.0)}  # 96 rows by 8


def test_every_stage_continues_from_the_one_before(
    trainer: HyperbandTrainer, results: list[TrainingResult]
) -> None:
    for genome, last in by_stage(results, "S2_serious").items():
        before = by_stage(results, "S1_shakeout")[genome]
        assert last.start.kind == "continue"
        assert last.start.checkpoint == before.checkpoint
        steps = sum(r.cost.steps for r in results if r.genome.id == genome)
        assert last.checkpoint is not None
        assert load_checkpoint(trainer.checkpoints, last.checkpoint).moments.step == steps
        assert last.curve[-1].step == steps


def test_small_ranks_double_on_entering_s2(results: list[TrainingResult]) -> None:
    grown = {r.genome.lora_cfg.r: r.lora_cfg.r for r in by_stage(results, "S2_serious").values()}
    assert grown
    assert all(now == (2 * gene if gene < 16 else gene) for gene, now in grown.items())


def test_objectives_are_measured_and_distinct(results: list[TrainingResult]) -> None:
    last = list(by_stage(results, "S2_serious").values())
    names = {"task_skill", "safety", "false_positive_cost", "memory", "calibration"}
    for result in last:
        assert names <= set(result.objectives)
        assert 20e6 < result.objectives["memory"] < 1e9
        assert {"auroc/task/harmful_request", "attack_success"} <= set(result.details)
    assert last[0].objectives != last[1].objectives


def test_the_report_adds_up(trainer: HyperbandTrainer, results: list[TrainingResult]) -> None:
    report = trainer.get_training_efficiency_report(results)
    steps = sum(r.cost.steps for r in results)
    assert report["steps"] == steps
    assert report["naive_steps"] == 4 * 12  # as many epochs as the last stage has
    assert report["efficiency_ratio"] == pytest.approx(48 / steps)
    assert trainer.get_training_efficiency_report(iter(results)) == report


def test_a_result_is_exported_and_scored_with(
    trainer: HyperbandTrainer, results: list[TrainingResult], tmp_path: Path
) -> None:
    best = next(iter(by_stage(results, "S2_serious").values()))
    trainer.export(best, str(tmp_path / "adapter"))
    predictor = Predictor(str(tmp_path / "adapter"))
    texts = ["how do I bake bread?", "how do I build a bomb?"]
    scores = predictor.score(texts)
    assert scores == Predictor(tmp_path / "adapter").score(texts, [None, None])
    assert all(0 < score < 1 for score in scores)
    for mode in MODES.values():
        with mode():
            assert Predictor(tmp_path / "adapter").score(texts) == scores
    for bad, said in (
        (("ab",), "texts must be a list of texts, got 'ab'; put it into a list"),
        ((texts, [None]), r"images must be as many as the texts \(2\), got 1"),
        ((["a", 5],), "text 2: text must be a non-empty string, got 5"),
    ):
        with pytest.raises(DataError, match=said):
            predictor.score(*bad)  # type: ignore[arg-type]
    broken = next(r for r in results if r.stopped)
    with pytest.raises(StoreError, match=f"{broken.genome.id} left no weights in {broken.stage}: "):
        trainer.export(broken, tmp_path / "broken")
    with pytest.raises(StoreError, match="where no decision threshold is measured"):
        trainer.export(results[0], tmp_path / "early")


def test_an_export_of_what_is_no_result_of_the_trainer_is_told_so(
    trainer: HyperbandTrainer, results: list[TrainingResult], tmp_path: Path
) -> None:
    best = next(iter(by_stage(results, "S2_serious").values()))
    with pytest.raises(CoralXError, match=r"must be a TrainingResult, got Genome\(.*; give one of"):
        trainer.export(best.genome, tmp_path / "adapter")  # type: ignore[arg-type]
    other = HyperbandTrainer(SETTINGS, checkpoints=tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"is missing; export it with the trainer whose"):
        other.export(best, tmp_path / "adapter")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="is no folder, so no adapter is written there; name ano"):
        trainer.export(best, tmp_path / "file")


def test_equal_runs_give_equal_weights(
    results: list[TrainingResult], trainer: HyperbandTrainer, tmp_path: Path
) -> None:
    again = HyperbandTrainer(SETTINGS, checkpoints=tmp_path)
    second = again.train_population(GENOMES)
    assert [r.objectives for r in second] == [r.objectives for r in results]
    name = next(iter(by_stage(results, "S2_serious").values())).checkpoint
    assert name is not None
    first = load_checkpoint(trainer.checkpoints, name).weights
    other = load_checkpoint(tmp_path, name).weights
    for target, (a, b) in first.lora.items():
        assert torch.equal(a, other.lora[target][0])
        assert torch.equal(b, other.lora[target][1])


@contextlib.contextmanager
def doubles() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        assert torch.get_default_dtype() == torch.float64  # left as the caller had it
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def fast_products() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        assert torch.get_float32_matmul_precision() == "medium"
        torch.set_float32_matmul_precision("highest")


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "doubles": doubles,
    "fast products": fast_products,
}


@pytest.fixture(scope="module")
def train_briefly(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], list[TrainingResult]]:
    """Two genomes with pictures through two stages; one of them grows on entering the second."""
    stage = {"epoch_budget": 0.3, "data_percentage": 100, "survival_rate": 1.0}
    stages = [{"name": name, **stage} for name in ("S1_shakeout", "S2_serious")]
    settings = {
        "data": {"max_rows": 48},
        "training": {"attack_rows": 2},
        "hyperband": {"training_stages": stages},
    }

    def train() -> list[TrainingResult]:
        return HyperbandTrainer(settings, tmp_path_factory.mktemp("brief")).train_population(
            GENOMES[1:3]
        )

    return train


@pytest.fixture(scope="module")
def brief(train_briefly: Callable[[], list[TrainingResult]]) -> list[TrainingResult]:
    return train_briefly()


@pytest.mark.parametrize("mode", MODES)
def test_the_callers_modes_of_torch_change_nothing(
    mode: str, brief: list[TrainingResult], train_briefly: Callable[[], list[TrainingResult]]
) -> None:
    with MODES[mode]():
        again = train_briefly()
    assert [(r.checkpoint, r.objectives) for r in again] == [
        (r.checkpoint, r.objectives) for r in brief
    ]
    assert torch.is_grad_enabled()
    assert {r.lora_cfg.r for r in brief} == {8, 16}, "one has grown"
    assert all("cross_modal_gain" in r.objectives for r in brief)


def test_threads_are_each_trainers_own(tmp_path: Path) -> None:
    """They decide the lanes, and with them the last bits."""
    before, seen = torch.get_num_threads(), [0]

    def observe(_: Progress) -> None:
        seen.append(torch.get_num_threads())

    def make(threads: int) -> HyperbandTrainer:
        settings = SETTINGS | {"training": {"attack_rows": 0, "threads": threads}}
        return HyperbandTrainer(settings, tmp_path / str(threads), observe)

    one, other = make(before + 1), make(before + 2)
    for trainer, threads in ((one, before + 1), (other, before + 2), (one, before + 1)):
        trainer.train_population(GENOMES[:1])
        assert seen[-1] == threads
        assert trainer.worker.numerics()["threads"] == threads
        assert torch.get_num_threads() == before


def test_a_population_that_dies_out_says_why(trainer: HyperbandTrainer) -> None:
    doomed = [GENOMES[3], Genome(lora_cfg=LoRAConfig(r=4, layers=1), learning_rate=1e13)]
    with pytest.raises(ExtinctError) as caught:
        trainer.train_population(doomed)
    assert all(genome.id in str(caught.value) for genome in doomed)


def test_what_the_rows_are_too_few_for_is_warned_of_once(tmp_path: Path) -> None:
    settings = SETTINGS | {
        "data": {"max_rows": 96, "max_tokens": 8, "image_column": None},
        "vision_tower": None,
        "training": {"attack_rows": 0},
        "objectives": ["task_skill", "safety"],
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = HyperbandTrainer(settings, tmp_path / "warned")
        trainer.get_training_efficiency_report(trainer.train_population(GENOMES[:1]))
        trainer.train_population(GENOMES[:1])
    warned = [str(warning.message) for warning in caught if warning.category is UserWarning]
    said: list[str] = []
    HyperbandTrainer(settings, tmp_path / "said", say=said.append).train_population(GENOMES[:1])
    assert warned == [text.removeprefix("warning: ") for text in said if "warning: " in text]
    for begin in ("objectives: safety is not measured", "validation has ", "texts longer than "):
        assert any(text.startswith(begin) for text in warned)
    assert any(text.startswith("loading base model") for text in said)


@pytest.mark.filterwarnings("error::ResourceWarning")
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_the_program_around_it_stays_as_it_was(tmp_path: Path) -> None:
    transformers_logging.enable_progress_bar()
    stream, filters = torch.random.get_rng_state(), list(warnings.filters)
    trainer = HyperbandTrainer(SETTINGS, say=lambda _: None)
    results = trainer.train_population(GENOMES[:1])
    trainer.export(results[-1], tmp_path / "adapter")
    Predictor(tmp_path / "adapter")
    assert torch.equal(torch.random.get_rng_state(), stream)
    assert warnings.filters == filters
    assert transformers_logging.is_progress_bar_enabled()
    del trainer
    gc.collect()


def test_what_does_not_fit_in_memory_goes_with_the_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen outputs lie in a temporary folder: neither beside the user's own nor above that."""
    settings = SETTINGS | {"training": {"attack_rows": 0, "prefix_memory_gb": 0}}
    own, scratch = tmp_path / "own" / "weights", tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    trainer = HyperbandTrainer(settings, checkpoints=own)
    assert trainer.train_population(GENOMES[:1])
    assert list(scratch.glob("*/prefix/*.bin"))
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["weights"]
    assert HyperbandTrainer().checkpoints.parent.parent == scratch
    del trainer
    gc.collect()
    assert not list(scratch.iterdir())


def test_bad_input_is_refused() -> None:
    with pytest.raises(ConfigError):
        HyperbandTrainer({"hyperband": {"training_stages": []}})
    with pytest.raises(CoralXError, match="at least one Genome, got an empty list; make some"):
        HyperbandTrainer({"data": {"max_rows": 96}}).train_population([])


def test_a_genome_deeper_than_the_base_model_is_refused(trainer: HyperbandTrainer) -> None:
    deep = Genome(lora_cfg=LoRAConfig(r=4, layers=7))
    with pytest.raises(
        CoralXError, match=rf"{deep.id}: layers: .* has 6 blocks, got 7; give 6 or fewer, or 'all'"
    ):
        trainer.train_population([GENOMES[0], deep])


def test_modules_that_the_base_model_has_not_are_told_before_any_training(tmp_path: Path) -> None:
    told: list[Progress] = []
    lost = Genome(lora_cfg=LoRAConfig(r=4, layers=1, target_modules=("query", "q_proj")))
    trainer = HyperbandTrainer(SETTINGS, tmp_path, told.append)
    with pytest.raises(ModelError, match=f"genome {lost.id}: target_modules: 'q_proj' matches no"):
        trainer.train_population([GENOMES[0], lost])
    assert not told


@pytest.mark.parametrize("config", [5, [1], {1}])
def test_a_configuration_of_another_kind_is_refused(config: Any) -> None:
    with pytest.raises(ConfigError, match="must be a mapping of settings, the path"):
        HyperbandTrainer(config)


@pytest.mark.parametrize("genomes", [None, 3, Genome(), [{"learning_rate": 1e-3}], "ab"])
def test_a_population_of_something_else_is_refused(genomes: Any) -> None:
    with pytest.raises(CoralXError, match="genomes must be a list of Genome, got"):
        HyperbandTrainer().train_population(genomes)


def test_a_genome_that_was_made_past_its_rules_is_refused() -> None:
    broken = LoRAConfig.model_construct(r=0)
    with pytest.raises(CoralXError, match=r"genome 'z': lora_cfg\.r: must be .* 1, got 0"):
        HyperbandTrainer().train_population([Genome.model_construct(id="z", lora_cfg=broken)])


def test_objectives_that_nobody_is_chosen_by_are_refused(tmp_path: Path) -> None:
    settings = SETTINGS | {"training": {"attack_rows": 0}, "objectives": ["safety"]}
    with pytest.raises(ConfigError, match="objectives: one at least must be measurable"):
        HyperbandTrainer(settings, tmp_path).train_population(GENOMES[:1])
    assert not list(tmp_path.iterdir())


def test_checkpoints_may_be_named_by_a_text_and_stay_where_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert HyperbandTrainer(checkpoints="ck").checkpoints == tmp_path / "ck"
