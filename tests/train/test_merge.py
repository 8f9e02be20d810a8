"""Merging in dW space: identity is exact, each method does what its paper says, peft agrees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from coralx.config import load_config
from coralx.records import Genome, Job, LoRAConfig, Start, TrainingResult
from coralx.train.adapters import Weights, largest_difference
from coralx.train.backbone import Backbone
from coralx.train.export import export_adapter
from coralx.train.merge import SHARES, Parent, merge
from coralx.train.network import score
from coralx.train.prefix import EncodedRows
from coralx.train.worker import Worker

METHODS = ("average", "ties", "dare")
OUT, WIDTH = 5, 6


def draw(seed: int, rank: int, *targets: str, out: int = OUT, width: int = WIDTH) -> Weights:
    stream = torch.Generator().manual_seed(seed)
    lora = {}
    for target in targets:
        a = torch.randn(rank, width, generator=stream)
        lora[target] = (a, torch.randn(out, rank, generator=stream))
    return Weights(lora, {"head.weight": torch.randn(1, 3, generator=stream)})


def empty(rank: int, *targets: str, out: int = OUT, width: int = WIDTH) -> Weights:
    """Fresh weights: B is zero."""
    fresh = draw(99, rank, *targets, out=out, width=width)
    return Weights({t: (a, torch.zeros_like(b)) for t, (a, b) in fresh.lora.items()}, fresh.extra)


def mix(parents: list[Parent], fresh: Weights, method: str = "average", **more: Any) -> Weights:
    """A child of scale 2."""
    chance = torch.Generator().manual_seed(more.pop("seed", 0))
    return merge(parents, 2.0, fresh, method, more.pop("density", 0.5), chance)


def update(weights: Weights, target: str, scale: float = 2.0) -> Tensor:
    a, b = weights.lora[target]
    return scale * (b @ a).double()


def nearest(matrix: Tensor, rank: int) -> Tensor:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vh[:rank]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shares", [(1.0, 0.0), (0.5, 0.5), SHARES["rank"]])
@pytest.mark.parametrize(
    "child",
    [{"r": 4, "alpha": 16}, {"r": 4, "alpha": 8, "use_rslora": True}, {"r": 16, "alpha": 32}],
    ids=["as the parent", "rslora", "larger"],
)
def test_identity_leaves_the_logits_as_they_were(
    method: str,
    shares: tuple[float, float],
    child: dict[str, Any],
    backbone: Backbone,
    encoded_text: EncodedRows,
    draw_weights: Callable[..., Weights],
    build_pack: Callable[..., Any],
) -> None:
    """A parent with itself, or with the whole share beside another."""
    old, new, stranger = (
        Genome(lora_cfg=LoRAConfig(target_modules=("all-linear",), **lora))
        for lora in ({"r": 4, "alpha": 16}, child, {"r": 2, "alpha": 8})
    )
    weights = draw_weights(backbone, old, 1, spread=0.05)
    other = draw_weights(backbone, stranger, 3, spread=0.05) if 0 in shares else weights
    scale = stranger.lora_cfg.scale if 0 in shares else old.lora_cfg.scale
    parents = [
        Parent(weights, old.lora_cfg.scale, shares[0]),
        Parent(other, scale, shares[1]),
    ]
    fresh = draw_weights(backbone, new, 2)
    merged = merge(parents, new.lora_cfg.scale, fresh, method, 0.3, torch.Generator())
    batch = encoded_text.batch(range(4))
    with torch.no_grad():
        before, after, without = (
            score(backbone, build_pack([g], [w], [0]), batch)
            for g, w in ((old, weights), (new, merged), (new, fresh))
        )
    assert (before - after).abs().max() <= 1e-6
    assert (before - without).abs().max() > 1e-2  # the update does count


@pytest.mark.parametrize("use_rslora", [False, True])
def test_the_average_of_one_function_written_in_two_ways_is_that_function(
    use_rslora: bool,
    backbone: Backbone,
    encoded_text: EncodedRows,
    draw_weights: Callable[..., Weights],
    build_pack: Callable[..., Any],
) -> None:
    """Other alpha, B scaled to make up for it: no short cut, both truncated from rank 8 to 4."""
    lora = LoRAConfig(r=4, alpha=16, target_modules=("all-linear",), use_rslora=use_rslora)
    first, second = Genome(lora_cfg=lora), Genome(lora_cfg=lora.model_copy(update={"alpha": 4}))
    one = draw_weights(backbone, first, 1, spread=0.05)
    two = Weights({t: (a, 4 * b) for t, (a, b) in one.lora.items()}, one.extra)
    scales = first.lora_cfg.scale, second.lora_cfg.scale
    parents = [Parent(one, scales[0], 0.5), Parent(two, scales[1], 0.5)]
    fresh = draw_weights(backbone, second, 2)
    merged = merge(parents, scales[1], fresh, "average", 0.5, torch.Generator())
    assert largest_difference(merged, two) > 1e-2
    with torch.no_grad():
        before, after = (
            score(backbone, build_pack([g], [w], [0]), encoded_text.batch(range(4)))
            for g, w in ((first, one), (second, merged))
        )
    assert (before - after).abs().max() <= 1e-6


@pytest.mark.parametrize("rank", [1, 3, 5, 8])
def test_the_average_is_the_nearest_to_the_weighted_mean(rank: int) -> None:
    """Where the ranks add up to no more than the child's, it is the mean itself."""
    one, two = draw(0, 2, "0.q"), draw(1, 3, "0.q")
    parents = [Parent(one, 3.0, 2 / 3), Parent(two, 0.5, 1 / 3)]
    mean = update(one, "0.q", 3.0) * 2 / 3 + update(two, "0.q", 0.5) / 3
    child = mix(parents, empty(rank, "0.q"))
    assert [len(part) for part in child.lora["0.q"]] == [rank, OUT]
    torch.testing.assert_close(update(child, "0.q"), nearest(mean, rank), atol=1e-5, rtol=1e-5)
    wanted = one.extra["head.weight"] * 2 / 3 + two.extra["head.weight"] / 3
    torch.testing.assert_close(child.extra["head.weight"], wanted)


@pytest.mark.parametrize("method", METHODS)
def test_a_target_that_a_parent_lacks_counts_as_zero(method: str) -> None:
    one, two = draw(0, 2, "0.q", "0.k"), draw(1, 2, "0.k", "1.q", "2.q")
    parents = [Parent(one, 3.0, 0.5), Parent(two, 0.5, 0.5)]
    fresh = empty(8, "0.q", "0.k", "1.q", "9.q")
    child = mix(parents, fresh, method, density=0.999)
    assert set(child.lora) == set(fresh.lora)
    # ties leaves those out of the mean that say nothing about a value
    share = 1.0 if method == "ties" else 0.5
    own = update(one, "0.q", 3.0) * share, update(two, "1.q", 0.5) * share
    for target, wanted in zip(("0.q", "1.q"), own, strict=True):
        kept = update(child, target).abs() > 1e-4  # ties trims the least of all
        assert kept.sum() >= OUT * WIDTH - 1
        torch.testing.assert_close(update(child, target)[kept], wanted[kept], atol=1e-2, rtol=1e-2)
    assert torch.equal(child.lora["9.q"][0], fresh.lora["9.q"][0])
    assert not child.lora["9.q"][1].any()


def _merge_dense(
    method: str, updates: list[Tensor], shares: tuple[float, float], density: float, seed: int = 0
) -> Tensor:
    """Of whole matrices, without anything lost to rank."""
    out, width = updates[0].shape
    parents = [Parent(Weights({"0.q": (torch.eye(width), matrix)}, {}), 1.0, share)
               for matrix, share in zip(updates, shares, strict=True)]  # fmt: skip
    fresh = empty(width, "0.q", out=out, width=width)
    return update(mix(parents, fresh, method, density=density, seed=seed), "0.q")


@pytest.mark.parametrize(("shares", "mean"), [((0.5, 0.5), 4.0), (SHARES["rank"], 14 / 3)])
def test_ties_by_hand(shares: tuple[float, float], mean: float) -> None:
    """Half of the four values are kept: 6 and -4, 2 and 3. The signs of their sums, 8 and -1, are
    elected; 6 and 2 agree with theirs, so does -4, 3 does not."""
    one, two = torch.tensor([[6.0, 0.3, -4.0, 0.1]]), torch.tensor([[2.0, 0.2, 3.0, 0.1]])
    merged = _merge_dense("ties", [one, two], shares, 0.5)
    assert merged.flatten().tolist() == pytest.approx([mean, 0, -4, 0], abs=1e-5)


def test_dare_drops_at_random_and_keeps_the_mean() -> None:
    one, two = torch.full((40, 50), 1.0), torch.full((40, 50), 4.0)
    merged = _merge_dense("dare", [one, two], (0.5, 0.5), 0.25)
    values, counts = merged.round(decimals=3).unique(return_counts=True)
    assert values.tolist() == [0, 2, 8, 10]  # none, one, the other, both, each four times as large
    shares = counts / merged.numel()
    assert shares.tolist() == pytest.approx([9 / 16, 3 / 16, 3 / 16, 1 / 16], abs=0.03)
    assert merged.mean().item() == pytest.approx(2.5, abs=0.2)


def test_dare_draws_from_the_childs_own_stream_alone() -> None:
    updates = [torch.randn(8, 9), torch.randn(8, 9)]
    state = torch.random.get_rng_state()
    first, again, other = (_merge_dense("dare", updates, (0.5, 0.5), 0.5, s) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_a_dense_merge_is_truncated_to_the_nearest(method: str, shape: tuple[int, int]) -> None:
    updates = [torch.randn(*shape, generator=torch.Generator().manual_seed(s)) for s in (0, 1)]
    whole = _merge_dense(method, updates, (0.5, 0.5), 0.5)
    eye = torch.eye(shape[1])
    parents = [Parent(Weights({"0.q": (eye, matrix)}, {}), 1.0, 0.5) for matrix in updates]
    child = mix(parents, empty(3, "0.q", out=shape[0], width=shape[1]), method)
    torch.testing.assert_close(update(child, "0.q"), nearest(whole, 3), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_parents_and_fresh_stay_as_they_were(method: str) -> None:
    def made() -> list[Weights]:
        return [draw(0, 4, "0.q"), draw(1, 2, "0.q"), empty(2, "0.q")]

    one, two, fresh = used = made()
    mix([Parent(one, 3.0, 0.5), Parent(two, 0.5, 0.5)], fresh, method)
    assert all(largest_difference(x, y) == 0 for x, y in zip(used, made(), strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_an_exported_merge_has_the_same_logits_in_stock_peft(
    method: str,
    backbone: Backbone,
    encoded_text: EncodedRows,
    draw_weights: Callable[..., Weights],
    build_pack: Callable[..., Any],
    tmp_path: Path,
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    one, two, own = (
        Genome(lora_cfg=LoRAConfig(**lora))
        for lora in (
            {"r": 4, "target_modules": ("all-linear",)},
            {"r": 8, "target_modules": ("query", "up"), "use_rslora": True, "layers": 3},
            {"r": 4, "alpha": 8, "target_modules": ("query", "value", "up"), "use_rslora": True},
        )
    )
    parents = [Parent(draw_weights(backbone, g, k, spread=0.05), g.lora_cfg.scale, 0.5)
               for k, g in enumerate((one, two))]  # fmt: skip
    fresh = draw_weights(backbone, own, 2)
    merged = merge(parents, own.lora_cfg.scale, fresh, method, 0.5, torch.Generator())
    export_adapter(tmp_path / "adapter", backbone, own, own.lora_cfg, merged, {})
    base = AutoModelForSequenceClassification.from_pretrained(backbone.path, num_labels=1)
    model = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    texts = list(encoded_text.rows.texts[:4])
    tokens = AutoTokenizer.from_pretrained(backbone.path)(
        texts, padding=True, truncation=True, max_length=16, return_tensors="pt"
    )
    with torch.no_grad():
        wanted = model(**tokens).logits[:, 0]
        batch = encoded_text.batch(range(4))
        ours, without = (
            score(backbone, build_pack([own], [w], [0]), batch) for w in (merged, fresh)
        )
    assert (ours[0] - wanted).abs().max() <= 1e-5
    assert (ours - without).abs().max() > 1e-2


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    stage = {"name": "only", "epoch_budget": 1.0, "data_percentage": 100, "survival_rate": 1.0}
    config = {
        "vision_tower": None,
        "objectives": ["task_skill"],
        "data": {"image_column": None, "max_rows": 64, "max_tokens": 16},
        "evolution": {"crossover_weights": "average"},
        "training": {"threads": 1, "attack_rows": 0},
        "hyperband": {"training_stages": [stage]},
    }
    return Worker(load_config(config), tmp_path_factory.mktemp("merge") / "checkpoints")


def train(worker: Worker, name: str, start: Start, rate: float = 2e-3) -> TrainingResult:
    lora = LoRAConfig(r=4, layers=2)
    job = Job(
        id=name,
        generation=0,
        stage=worker.config.hyperband.stages[0],
        stage_index=0,
        genomes=(Genome(id=name, lora_cfg=lora, learning_rate=rate),),
        starts=(start,),
    )
    (result,) = worker.train(job)
    return result


def test_a_job_starts_from_both_parents_and_says_how_they_compare(worker: Worker) -> None:
    """A child of one parent twice is worth what the parent is, before its first step."""
    one, two = train(worker, "a", Start()), train(worker, "b", Start(), 8e-3)
    same, mixed = (
        train(worker, name, Start(kind="merge", checkpoint=one.checkpoint, second=second))
        for name, second in (("c", one.checkpoint), ("d", two.checkpoint))
    )
    skills = [result.objectives["task_skill"] for result in (one, two)]
    assert same.details["auroc_at_start"] == skills[0]
    assert same.details["auroc_of_better_parent"] == skills[0]
    assert mixed.details["auroc_of_better_parent"] == max(skills)
    assert mixed.details["auroc_at_start"] not in skills
    assert "auroc_at_start" not in one.details


@pytest.mark.parametrize("method", METHODS)
def test_equal_weights_at_other_scales_are_other_updates(method: str) -> None:
    weights, fresh = draw(1, 2, "0.q"), empty(2, "0.q")
    parents = [Parent(weights, 1.0, 0.5), Parent(weights, 3.0, 0.5)]
    child = mix(parents, fresh, method, density=1.0)
    assert update(child, "0.q") == pytest.approx(update(weights, "0.q"), abs=1e-5)  # of scale 2


def test_what_one_parent_alone_has_beside_the_adapters_is_taken_whole() -> None:
    one, other = draw(1, 2, "0.q"), draw(2, 2, "0.q")
    projector = torch.ones(4, 3)
    one = Weights(one.lora, one.extra | {"projector.weight": projector})
    for parents in ((one, other), (other, one)):
        given = [
            Parent(part, 1.0, share) for part, share in zip(parents, SHARES["rank"], strict=True)
        ]
        child = mix(given, empty(2, "0.q"))
        assert child.extra["projector.weight"] == pytest.approx(projector)
