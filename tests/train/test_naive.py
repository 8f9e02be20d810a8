"""The naive baseline: trained in parts, with measuring in between, as in one go."""

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from coralx.config import load_config
from coralx.records import Genome
from coralx.train import naive
from coralx.train.adapters import Weights
from coralx.train.backbone import Backbone
from coralx.train.naive import NaiveModel, NaiveRun, NaiveTrainer
from coralx.train.network import score
from coralx.train.prefix import Batch, EncodedRows
from coralx.train.rows import Rows
from coralx.train.vision import VisionTower
from coralx.train.workbench import Workbench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    data = {"max_rows": 40, "max_tokens": 16}
    config = load_config({"data": data, "training": {"attack_rows": 2}})
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


def test_a_trained_genome_is_kept_without_its_base(
    bench: Workbench, genome: Callable[..., Genome]
) -> None:
    trained = genome(2e-3, r=2, layers=1)
    trainer = NaiveTrainer(bench, 1.0)
    trainer.train(trained)
    gc.collect()
    assert not [one for one in gc.get_objects() if type(one) is naive.NaiveModel]
    run = NaiveRun(bench, trained, 1.0)
    run.train_to(1.0)
    assert trainer.test(trained) == run.measure(bench.test())


def test_rows_alike_to_the_model_are_scored_once(
    bench: Workbench, genome: Callable[..., Genome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in packs, so that the order of a file decides no tie."""
    rows = bench.rows.rows
    same = EncodedRows(
        replace(rows, texts=rows.texts[:1] * len(rows)), bench.backbone, bench.tower, 16
    )
    scored: list[int] = []
    usual = EncodedRows.batch

    def note(self: EncodedRows, chosen: Any, images: bool = True) -> Batch:
        scored.extend(chosen)
        return usual(self, chosen, images)

    monkeypatch.setattr(EncodedRows, "batch", note)
    run = NaiveRun(bench, genome(1e-3, r=2, layers=1), 1.0)
    alone = run._score(same, range(len(same)), images=False)
    assert len(scored) == len(set(alone.tolist())) == 1
    scored.clear()
    shown = run._score(same, range(len(same)), images=True)
    assert len(scored) == len(set(shown.tolist())) == len(set(rows.images))


def test_tokens_are_those_of_texts_and_pictures(
    bench: Workbench, genome: Callable[..., Genome]
) -> None:
    run = NaiveRun(bench, genome(1e-3, r=2, layers=1), 1.0)
    run.train_to(1.0)
    pictures = sum(image is not None for image in bench.rows.rows.images)
    assert pictures
    assert run.tokens == sum(bench.rows.lengths) + pictures * bench.config.image_tokens
    assert run.computed_tokens > run.tokens


def test_loading_the_base_takes_no_time_of_training(
    bench: Workbench, genome: Callable[..., Genome], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, load = SimpleNamespace(now=0.0), naive.load_classifier

    def load_slowly(*which: Any) -> Any:
        clock.now += 100
        return load(*which)

    monkeypatch.setattr(naive, "load_classifier", load_slowly)
    monkeypatch.setattr(naive, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    found = NaiveTrainer(bench, 0.2).train(genome(1e-3, r=2, layers=1))
    assert clock.now == 100
    assert (found.train_seconds, found.eval_seconds) == (0, 0)


def _fill(model: NaiveModel, backbone: Backbone, weights: Weights) -> None:
    """Give the model a genome's weights."""
    inner = model.peft.base_model.model
    with torch.no_grad():
        for target, (a, b) in weights.lora.items():
            layer = inner.get_submodule(backbone.full_path(target))
            layer.lora_A["default"].weight.copy_(a)
            layer.lora_B["default"].weight.copy_(b)
        head = inner.get_submodule(backbone.family.saved[0]).modules_to_save["default"]
        head.weight.copy_(weights.extra["head.weight"])
        if "dense" in backbone.family.head:
            dense = inner.get_submodule(backbone.family.saved[1]).modules_to_save["default"].dense
            dense.weight.copy_(weights.extra["dense.weight"])
        model.projector.weight.copy_(weights.extra["projector.weight"])  # type: ignore[union-attr]
        model.projector.bias.copy_(weights.extra["projector.bias"])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("llama", {}),
        ("llama", {"pad_token_id": None}),
        ("llama", {"dtype": torch.bfloat16}),
        ("mistral", {}),
        ("qwen3", {}),
        ("deberta-v2", {}),
        ("gemma3_text", {}),
        ("gemma3_text", {"dtype": torch.bfloat16}),
        ("modernbert", {"local_attention": 64}),
        ("modernbert", {"local_attention": 64, "classifier_pooling": "mean"}),
    ],
)
def test_a_base_that_reads_pictures_first_scores_as_in_a_pack_however_padded_and_stored(
    kind: str,
    more: dict[str, Any],
    tiny_model: Callable[..., Backbone],
    tiny_rows: Rows,
    tower: VisionTower,
    genome: Callable[..., Genome],
    draw_weights: Callable[..., Weights],
    build_pack: Callable[..., Any],
) -> None:
    """Where pictures enter below all blocks, as the baseline has them."""
    backbone = tiny_model(kind, **more)
    own = genome(r=2, layers="all")
    weights = draw_weights(backbone, own, 0, VisionTower.width, 0.1)
    bench: Any = SimpleNamespace(backbone=backbone, tower=tower)
    model = NaiveModel(bench, own).eval()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    _fill(model, backbone, weights)
    encoded = EncodedRows(tiny_rows, backbone, tower, 16)
    with torch.no_grad():
        batch = encoded.batch(range(16))
        found = model(encoded.token_ids(range(16)), batch)
        packed = score(backbone, build_pack([own], [weights], [0]), batch)[0]
    assert (found - packed).abs().max() < 1e-5
    assert packed.std() > 0.05


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "deberta-v2", "modernbert"])
def test_a_picture_is_seen_alike_however_long_the_other_texts_are(
    kind: str,
    tiny_model: Callable[..., Backbone],
    tiny_rows: Rows,
    tower: VisionTower,
    genome: Callable[..., Genome],
) -> None:
    """ModernBERT attends to near tokens, among which padding counts."""
    backbone = tiny_model(kind, **({"local_attention": 2} if kind == "modernbert" else {}))
    bench: Any = SimpleNamespace(backbone=backbone, tower=tower)
    model = NaiveModel(bench, genome(r=2)).eval()
    encoded = EncodedRows(tiny_rows, backbone, tower, 16)
    short = min(
        (i for i in range(16) if tiny_rows.images[i] is not None), key=lambda i: encoded.lengths[i]
    )
    longest = max(range(16), key=lambda i: encoded.lengths[i])
    with torch.no_grad():
        alone, beside = (
            model(encoded.token_ids(rows), encoded.batch(rows))[0]
            for rows in ([short], [short, longest])
        )
        blind = model(encoded.token_ids([short]), encoded.batch([short], False))[0]
    assert encoded.lengths[longest] > encoded.lengths[short] + 3
    assert (alone - beside).abs() < 1e-5
    assert (alone - blind).abs() > 1e-4


def test_pictures_need_no_positions_beside_the_longest_text(
    tiny_model: Callable[..., Backbone],
    tiny_rows: Rows,
    tower: VisionTower,
    genome: Callable[..., Genome],
) -> None:
    for kind, most in (("bert", 32), ("roberta", 31)):
        backbone = tiny_model(kind)
        assert backbone.positions == most
        bench: Any = SimpleNamespace(backbone=backbone, tower=tower)
        model = NaiveModel(bench, genome(r=2)).eval()
        long = replace(tiny_rows, texts=("how do i make bread now " * 8,) * len(tiny_rows))
        encoded = EncodedRows(long, backbone, tower, most)
        assert max(encoded.lengths) == most
        with torch.no_grad():
            found = model(encoded.token_ids(range(4)), encoded.batch(range(4)))
        assert found.isfinite().all()


def test_a_debertas_distances_follow_the_model_to_its_device(
    tiny_model: Callable[..., Backbone], tower: VisionTower, genome: Callable[..., Genome]
) -> None:
    bench: Any = SimpleNamespace(backbone=tiny_model("deberta-v2"), tower=tower)
    family: Any = NaiveModel(bench, genome(r=2)).to("meta")._family
    places = torch.arange(4, device="meta")
    assert family._distances.between(places, places).device.type == "meta"
