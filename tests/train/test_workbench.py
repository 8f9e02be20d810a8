"""Where a genome's weights come from, and which rows are measured for what."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from coralx.cautions import scarce
from coralx.config import load_config
from coralx.records import Genome, LoRAConfig, Start
from coralx.settings.sections import DataSettings, TrainingSettings
from coralx.train import workbench as workbench_module
from coralx.train.adapters import Weights
from coralx.train.checkpoint import Checkpoint, save_checkpoint
from coralx.train.data import subset
from coralx.train.merge import merge
from coralx.train.prefix import EncodedRows
from coralx.train.resize import Moments
from coralx.train.splits import LEAST_SHARE, load_splits
from coralx.train.workbench import (
    LEAST_ATTACKS,
    TEST_ATTACKS,
    Workbench,
    choose_device,
    count_threads,
)

TEXT: dict[str, Any] = {
    "vision_tower": None,
    "objectives": ["task_skill"],
    "data": {"image_column": None, "max_rows": 64, "max_tokens": 16},
    "space": {"layers": {"kind": "integer", "low": 1, "high": 3}},
    "evolution": {"crossover_weights": "average", "merge_shares": "rank"},
    "training": {"device": "cpu", "threads": 1, "attack_rows": 3, "evaluation_batch": 4},
}
PICTURED = {
    **TEXT,
    "vision_tower": "efficientnet-lite0",
    "image_tokens": 3,
    "data": {"max_rows": 60, "max_tokens": 64},
    "training": {**TEXT["training"], "evaluation_batch": 2},  # the two widest have no picture
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    return Workbench(load_config(TEXT), tmp_path_factory.mktemp("text") / "checkpoints")


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    return Workbench(load_config(PICTURED), tmp_path_factory.mktemp("pictured") / "checkpoints")


def _make_genome(name: str, **lora: Any) -> Genome:
    return Genome(id=name, lora_cfg=LoRAConfig(**{"r": 2, "layers": 1, **lora}))


def _save(bench: Workbench, genome: Genome, draw: Callable[..., Weights], seed: int) -> Checkpoint:
    """A checkpoint of random weights and moments, on disk under the name in its `stage`."""
    first, second, weights = (
        draw(bench.backbone, genome, seed=3 * seed + part, spread=0.1) for part in range(3)
    )
    lora = genome.lora_cfg
    made = Checkpoint(genome.id, "S", lora, weights, Moments(first, second, 7))
    return Checkpoint(save_checkpoint(bench.checkpoints, made), "S", lora, weights, made.moments)


def _update(lora: LoRAConfig, weights: Weights, target: str) -> torch.Tensor:
    a, b = weights.lora[target]
    return lora.scale * (b @ a)


def test_growth_takes_moments_and_the_hooks_dropout_along(
    bench: Workbench, draw_weights: Callable[..., Weights]
) -> None:
    genome = _make_genome("grown")
    known = _save(bench, genome, draw_weights, 0)
    hooked = genome.model_copy(
        update={
            "id": genome.id,
            "lora_cfg": genome.lora_cfg.model_copy(update={"dropout": 0.3}),
        }
    )
    start = Start(kind="continue", checkpoint=known.genome, grow_to=4)
    member = bench.member(hooked, start)
    assert (member.lora_cfg.r, member.lora_cfg.dropout) == (4, 0.3)
    assert member.moments.step == 7
    ratio = member.lora_cfg.scale / known.lora_cfg.scale  # of B's gradient, by the chain rule
    for target, (a, b) in member.moments.second.lora.items():
        old_a, old_b = known.moments.second.lora[target]
        torch.testing.assert_close(a[:2], old_a)
        torch.testing.assert_close(b[:, :2], old_b * ratio**2)
    head = member.moments.first.extra["head.weight"]
    torch.testing.assert_close(head, known.moments.first.extra["head.weight"])


def test_an_heir_has_its_parents_function_whatever_the_scales(
    bench: Workbench, draw_weights: Callable[..., Weights]
) -> None:
    known = _save(bench, _make_genome("parent"), draw_weights, 1)
    child = _make_genome("heir", r=4, alpha=64)
    heir = bench.member(child, Start(kind="inherit", checkpoint=known.genome))
    assert heir.lora_cfg.scale != known.lora_cfg.scale
    for target in heir.weights.lora:
        own = _update(heir.lora_cfg, heir.weights, target)
        torch.testing.assert_close(own, _update(known.lora_cfg, known.weights, target))


def test_a_copy_has_the_rank_to_which_it_would_have_grown(
    bench: Workbench, draw_weights: Callable[..., Weights]
) -> None:
    known = _save(bench, _make_genome("source"), draw_weights, 4)
    start = Start(kind="inherit", checkpoint=known.genome, grow_to=8)
    copy = bench.member(_make_genome("copy"), start)
    assert copy.lora_cfg.r == 8
    assert {len(a) for a, _ in copy.weights.lora.values()} == {8}


def test_a_merged_child_has_its_parents_shares(
    bench: Workbench, draw_weights: Callable[..., Weights]
) -> None:
    """`merge_shares: rank` gives the better parent two thirds, whatever the scales of the three."""
    one = _save(bench, _make_genome("better", alpha=4), draw_weights, 2)
    two = _save(bench, _make_genome("other", alpha=32), draw_weights, 3)
    start = Start(kind="merge", checkpoint=one.genome, second=two.genome)
    child = bench.member(_make_genome("child", r=4, alpha=8), start)
    for target in child.weights.lora:
        first, second = (_update(p.lora_cfg, p.weights, target) for p in (one, two))
        own = _update(child.lora_cfg, child.weights, target)
        torch.testing.assert_close(own, first * 2 / 3 + second / 3, atol=1e-5, rtol=1e-5)
        assert (first - second).abs().max() > 0.1


def test_parents_are_merged_as_the_run_is_configured(
    bench: Workbench, draw_weights: Callable[..., Weights], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    settings = bench.config.evolution.model_copy(
        update={"crossover_weights": "dare", "merge_density": 0.3}
    )
    monkeypatch.setattr(bench, "config", bench.config.model_copy(update={"evolution": settings}))
    monkeypatch.setattr(workbench_module, "merge", lambda *of: told.extend(of[3:5]) or merge(*of))
    one, two = (_save(bench, _make_genome(name), draw_weights, 5) for name in ("one", "two"))
    start = Start(kind="merge", checkpoint=one.genome, second=two.genome)
    bench.member(_make_genome("merged"), start)
    assert told == ["dare", 0.3]


def test_new_weights_are_the_genomes_own_and_the_runs(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(name: str) -> torch.Tensor:
        return bench.member(_make_genome(name), Start()).weights.extra["head.weight"]

    first, again, other = draw("new"), draw("new"), draw("other")
    monkeypatch.setattr(bench, "seed", bench.seed + 1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, draw("new")), "the same in a run of another seed"


def test_genomes_enter_where_the_genes_of_the_space_say(bench: Workbench) -> None:
    """An integer gene of 1 to 3 of the last blocks, of six."""
    assert bench.depths == [3, 4, 5]


def test_final_figures_are_of_rows_that_chose_nothing(bench: Workbench) -> None:
    test, splits = bench.test(), bench.splits
    assert test.rows.keys() == splits.test.keys()
    assert test.clean.keys() == splits.clean_test.keys()
    assert bench.validation(100).clean.keys() == splits.clean_validation.keys()
    for part in (splits.validation, splits.clean_validation):
        assert not set(part.keys()) & {*test.rows.keys(), *test.clean.keys()}
    most = TEST_ATTACKS * bench.config.training.attack_rows
    assert max(len(attacked.rows) for attacked in test.attacked.values()) == 2 * most
    assert TEST_ATTACKS > 1


def test_early_stages_are_measured_on_a_share_that_says_something(bench: Workbench) -> None:
    whole = bench.splits.validation
    for share, least in ((5, LEAST_SHARE), (50, 50), (100, 100)):
        kept = subset(whole, least, bench.seed)
        assert bench.validation(share).rows.keys() == whole.take(kept).keys()
    assert len(subset(whole, LEAST_SHARE, bench.seed)) > len(subset(whole, 5, bench.seed))


def test_early_stages_are_attacked_often_enough_to_say_something(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fifth of the three rows of a kind and class would be one."""
    monkeypatch.setattr(bench, "_parts", {})
    for least, kept in ((2, 2), (LEAST_ATTACKS, 3)):
        monkeypatch.setattr(workbench_module, "LEAST_ATTACKS", least)
        bench._parts.clear()
        attacked = bench.validation(20).attacked.values()
        assert {int((own.rows.labels == 1).sum()) for own in attacked} == {kept}


def test_rows_that_stages_choose_by_are_counted(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those alone that choose by a share: the first of the default stages measures P1 and
    leaves nobody behind."""
    unsafe, safe = (int((bench.validation(20).labels == label).sum()) for label in (1, 0))
    share = {"unsafe": unsafe, "safe": safe}
    assert bench.stage_classes == {"S1_shakeout": share}
    monkeypatch.setattr(bench, "config", load_config(TEXT, {"evolution": {"exploit_below": 0.5}}))
    assert bench.stage_classes == {"S0_sanity": share, "S1_shakeout": share}
    monkeypatch.setattr(
        bench, "config", load_config(TEXT, {"hyperband": {"enable_hyperband": False}})
    )
    assert bench.stage_classes == {}


def test_the_early_stages_of_the_built_in_job_have_rows_enough(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = load_splits(DataSettings(), bench.seed)
    monkeypatch.setattr(bench, "splits", splits)
    assert bench.stage_classes["S1_shakeout"]["unsafe"] < splits.classes["validation"]["unsafe"]
    known = {"classes": splits.classes, "stage_classes": bench.stage_classes}
    assert scarce(known | {"task_classes": {}, "picture_classes": {}}, ()) == []


@pytest.mark.parametrize(
    ("settings", "threads"),
    [({"workers": 3}, 2), ({"workers": 16}, 1), ({"workers": 1}, None),
     ({"workers": 3, "threads": 5}, 5)],
)  # fmt: skip
def test_workers_share_the_cores(
    settings: dict[str, int], threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert count_threads(TrainingSettings(**settings)) == threads


@pytest.mark.parametrize("available", [True, False])
def test_a_cuda_device_is_used_where_there_is_one(
    available: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert choose_device("auto").type == ("cuda" if available else "cpu")
    assert choose_device("cpu").type == "cpu"


def test_pictures_are_seen_as_so_many_tokens(pictured: Workbench) -> None:
    shown = next(i for i, image in enumerate(pictured.splits.train.images) if image)
    images = pictured.rows.batch([shown]).images
    assert images is not None
    assert images.shape[1] == 3


@pytest.mark.parametrize(
    ("settings", "on_disk"),
    [({"prefix_memory_gb": 0.1}, False), ({"prefix_memory_gb": 1e-4}, True),
     ({"prefix_memory_gb": 1e-4, "prefix_cache": False}, False)],
)  # fmt: skip
def test_frozen_outputs_are_kept_as_configured(
    settings: dict[str, Any], on_disk: bool, tmp_path: Path
) -> None:
    """About 1.5 MB a depth, in the folder that the worker is given."""
    config = load_config(TEXT, {"training": settings})
    own = Workbench(config, tmp_path / "checkpoints", prefix=tmp_path / "own")
    own.rows.prepare(own.depths[0])
    assert any(path.is_file() for path in (tmp_path / "own").rglob("*")) is on_disk


def test_packs_are_sized_by_the_format_and_the_tower_in_use(
    pictured: Workbench, bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [(own.shape.vision, own.shape.value_bytes) for own in (bench, pictured)] == [
        (0, 4),
        (pictured.tower.width, 4),
    ]
    monkeypatch.setattr(bench.backbone, "dtype", torch.bfloat16)
    assert bench.shape.value_bytes == 2


class Noted:
    """Takes the place of ServedMemory: says which rows P4 is measured on."""

    def __init__(self, _: Any, __: Any, rows: EncodedRows, images: Sequence[bytes]) -> None:
        self.rows, self.images = rows, images

    def measure(self, *_: Any) -> int:
        return 1


def test_an_objective_that_cannot_be_measured_is_told(bench: Workbench) -> None:
    said: list[str] = []
    config = load_config({**TEXT, "objectives": ["task_skill", "cross_modal_gain"]})
    bench.config, before = config, bench.config
    bench._warn_of_unmeasured(said.append)
    bench.config = before
    bench._warn_of_unmeasured(said.append)  # skill alone
    assert [line.partition(" and ")[0] for line in said] == [
        "warning: objectives: cross_modal_gain is not measured"
    ]


def test_rows_of_one_text_and_other_pictures_are_not_the_same_to_the_model(
    pictured: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = pictured.splits.train
    images = tuple(None if image is None else b"other" for image in train.images)
    monkeypatch.setattr(
        pictured, "splits", replace(pictured.splits, validation=replace(train, images=images))
    )
    alike = sum(image is None for image in train.images)
    assert 0 < alike < len(train)
    assert pictured.reading()["trained_on"]["validation"] == alike


def test_memory_is_measured_on_the_widest_rows_with_a_picture_among_them(
    pictured: Workbench, bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By tokens, not characters; one picture makes room for image tokens in the whole batch."""
    monkeypatch.setattr(workbench_module, "ServedMemory", Noted)
    for own, shown in ((pictured, True), (bench, False)):
        member = own.member(_make_genome("any"), Start())
        monkeypatch.setattr(own, "_served", None)
        assert own.served_bytes(member) == 1
        rows = own._served.rows
        every = own.encode(own.splits.validation).lengths
        assert len(rows) == own.config.training.evaluation_batch
        assert len(own._served.images) == (len(rows) if shown else 0), (
            "as many as are scored at once"
        )
        assert sorted(rows.lengths)[1:] == sorted(every)[-len(rows) :][1:]
        assert (rows.batch(range(len(rows))).images is not None) is shown


@pytest.mark.parametrize(("column", "told"), [("image", 1), (None, 0)])
def test_rows_without_any_picture_are_said_to_be_read_as_text(
    column: str | None, told: int, tmp_path: Path
) -> None:
    """Their column may only be called otherwise."""
    rows = [{"text": f"text {i}", "label": i % 2, "pic": "a.png"} for i in range(30)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = {"train": path, "image_column": column, "max_tokens": 16}
    said: list[str] = []
    Workbench(load_config({"data": data}), tmp_path / "checkpoints", said.append)
    found = [line for line in said if "no training row has a picture in column 'image'" in line]
    assert len(found) == told
