"""A pack trains each genome as stock peft would train it alone, with text and with pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

from coralx.records import Genome
from coralx.train.adapters import Weights
from coralx.train.backbone import Backbone
from coralx.train.network import score
from coralx.train.prefix import EncodedRows
from coralx.train.vision import VisionTower

# Gradients are views of one matrix by design; torch warns that they are not compact.
pytestmark = pytest.mark.filterwarnings("ignore:grad and param do not obey")
Plan = list[list[int]]


def _wrap_in_peft(backbone: Backbone, genome: Genome, start: Weights) -> nn.Module:
    """Stock peft around a fresh copy of the base, with the genome's starting weights."""
    base = AutoModelForSequenceClassification.from_pretrained(backbone.path, num_labels=1)
    config = peft.LoraConfig(
        r=genome.lora_cfg.r,
        lora_alpha=genome.lora_cfg.alpha,
        use_rslora=genome.lora_cfg.use_rslora,
        target_modules=[backbone.full_path(target) for target in start.lora],
        modules_to_save=list(backbone.family.saved),
        lora_dropout=0.0,
    )
    model = peft.get_peft_model(base, config).eval()
    inner = model.base_model.model
    with torch.no_grad():
        for target, (a, b) in start.lora.items():
            layer = inner.get_submodule(backbone.full_path(target))
            layer.lora_A["default"].weight.copy_(a)
            layer.lora_B["default"].weight.copy_(b)
        for part, path in backbone.family.head.items():
            module, _, within = path.partition(".")
            layer = inner.get_submodule(f"{module}.modules_to_save.default").get_submodule(within)
            layer.weight.copy_(start.extra[f"{part}.weight"])
            if layer.bias is not None:
                layer.bias.copy_(start.extra[f"{part}.bias"])
    return model


def _train_in_peft(
    backbone: Backbone, encoded: EncodedRows, genome: Genome, start: Weights, plan: Plan
) -> list[float]:
    """The loss of each step with torch's own AdamW and clipping, warm-up of five steps."""
    model = _wrap_in_peft(backbone, genome, start)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=genome.weight_decay)
    losses = []
    for position, chosen in enumerate(plan):
        optimizer.param_groups[0]["lr"] = genome.learning_rate * min(1, (position + 1) / 5)
        tokens = backbone.tokenizer(
            [encoded.rows.texts[i] for i in chosen],
            truncation=True, max_length=16, padding=True, return_tensors="pt",
        )  # fmt: skip
        truth = torch.from_numpy(encoded.rows.labels[chosen]).float()
        logits = model(**tokens).logits[:, 0]
        loss = functional.binary_cross_entropy_with_logits(logits, truth)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def starts(
    backbone: Backbone, mixed_genomes: list[Genome], draw_weights: Callable[..., Weights]
) -> list[Weights]:
    return [draw_weights(backbone, g, seed) for seed, g in enumerate(mixed_genomes)]


@pytest.fixture(scope="module")
def packed(
    backbone: Backbone,
    encoded_text: EncodedRows,
    mixed_genomes: list[Genome],
    starts: list[Weights],
    plan: Plan,
    train: Callable[..., Any],
) -> Any:
    return train(backbone, encoded_text, mixed_genomes, starts, plan)


@pytest.mark.parametrize("k", range(4))
def test_a_packed_genome_has_the_loss_curve_of_stock_peft(
    k: int,
    backbone: Backbone,
    encoded_text: EncodedRows,
    mixed_genomes: list[Genome],
    starts: list[Weights],
    packed: Any,
    plan: Plan,
) -> None:
    alone = _train_in_peft(backbone, encoded_text, mixed_genomes[k], starts[k], plan)
    assert np.abs(packed.losses[:, k] - alone).max() < 1e-4
    assert abs(alone[-1] - alone[0]) > 0.01  # it did learn something


@pytest.mark.parametrize(
    "kind",
    ["bert", "xlm-roberta", "distilbert", "deberta-v2", "modernbert", "llama", "gemma3_text"],
)
def test_a_base_of_each_family_trains_as_stock_peft_does(
    kind: str,
    tiny_model: Callable[[str], Backbone],
    tiny_rows: Any,
    genome: Callable[..., Genome],
    draw_weights: Callable[..., Weights],
    train: Callable[..., Any],
    plan: Plan,
) -> None:
    model = tiny_model(kind)
    genomes = [
        genome(3e-3, 0.1, r=2, target_modules=("query", "value"), layers=1),
        genome(1e-3, r=6, target_modules=("all-linear",), layers="all"),
    ]
    starts = [draw_weights(model, g, k) for k, g in enumerate(genomes)]
    encoded = EncodedRows(tiny_rows, model, None, 16)
    packed = train(model, encoded, genomes, starts, plan)
    for k, own in enumerate(genomes):
        alone = _train_in_peft(model, encoded, own, starts[k], plan)
        assert np.abs(packed.losses[:, k] - alone).max() < 1e-4
        assert abs(alone[-1] - alone[0]) > 0.01
        for name in starts[k].extra:  # all layers of its head
            moved = packed.weights[k].extra[name] - starts[k].extra[name]
            assert moved.abs().max() > 5e-3


@pytest.fixture(scope="module")
def pictured_genomes(genome: Callable[..., Genome]) -> list[Genome]:
    """Three depths, three ranks, with and without dropout."""
    return [
        genome(3e-3, r=2, target_modules=("query", "value"), layers=1, dropout=0.2),
        genome(1e-3, r=6, target_modules=("up", "down"), layers="all"),
        genome(5e-4, 0.1, r=4, target_modules=("all-linear",), layers=2, dropout=0.1),
    ]


def _differences(one: Weights, two: Weights) -> Tensor:
    pairs = [(x, y) for t in one.lora for x, y in zip(one.lora[t], two.lora[t], strict=True)]
    pairs += [(one.extra[name], two.extra[name]) for name in one.extra]
    return torch.cat([(x - y).abs().flatten() for x, y in pairs])


@pytest.mark.parametrize(
    "kind", ["all-minilm-l6-v2", "roberta", "distilbert", "deberta-v2", "modernbert", "qwen3"]
)
def test_pack_size_and_depth_of_the_others_change_no_genome(
    kind: str,
    request: pytest.FixtureRequest,
    pictured_genomes: list[Genome],
    draw_weights: Callable[..., Weights],
    plan: Plan,
    train: Callable[..., Any],
    distance: Callable[..., float],
) -> None:
    model, encoded = request.getfixturevalue("pictured")(kind)
    starts = [draw_weights(model, g, k, VisionTower.width) for k, g in enumerate(pictured_genomes)]
    packed = train(model, encoded, pictured_genomes, starts, plan)
    for k, own in enumerate(pictured_genomes):
        alone = train(model, encoded, [own], [starts[k]], plan, seeds=[k])
        # Of some 1e-2 moved: where a gradient is nearly zero AdamW makes much of its last bits.
        assert distance(alone.weights[0], packed.weights[k]) < 3e-4
        assert _differences(alone.weights[0], packed.weights[k]).quantile(0.99) < 1e-5
        assert np.abs(alone.losses[:, 0] - packed.losses[:, k]).mean() < 1e-5
        moved = packed.weights[k].extra["projector.weight"] - starts[k].extra["projector.weight"]
        assert moved.abs().max() > 5e-3


@pytest.mark.parametrize("index", [0, 1, 5])
def test_an_encoder_norms_what_joins_it_as_its_own_tokens_are(
    backbone: Backbone, encoded_text: EncodedRows, index: int
) -> None:
    tokens = torch.randn(3, 1, backbone.hidden, generator=torch.Generator().manual_seed(0))
    small, large = (backbone.norm_input(size * tokens, index) for size in (1, 100))
    assert (small - large).abs().max() < 1e-3
    own = encoded_text.batch(np.arange(3)).at(index)
    assert 0.5 < small.norm(dim=-1).mean() / own.norm(dim=-1).mean() < 2


def test_a_decoder_is_left_to_norm_its_input(tiny_model: Callable[[str], Backbone]) -> None:
    model = tiny_model("qwen3")
    tokens = torch.ones(2, 1, model.hidden)
    assert model.norm_input(tokens, 1) is tokens


@pytest.fixture(scope="module")
def pictured(
    backbone: Backbone,
    encoded_mixed: EncodedRows,
    tiny_model: Callable[[str], Backbone],
    tiny_rows: Any,
    tower: VisionTower,
) -> Callable[[str], tuple[Backbone, EncodedRows]]:
    """A base model by name with rows of which half bear a picture."""

    def load(kind: str) -> tuple[Backbone, EncodedRows]:
        if kind == backbone.name:
            return backbone, encoded_mixed
        return tiny_model(kind), EncodedRows(tiny_rows, tiny_model(kind), tower, 16)

    return load


@dataclass(frozen=True)
class Setting:
    """A tiny model, its rows, three genomes and where they start."""

    model: Backbone
    encoded: EncodedRows
    genomes: list[Genome]
    starts: list[Weights]


@pytest.fixture(scope="module")
def tiny(
    pictured: Callable[[str], tuple[Backbone, EncodedRows]],
    pictured_genomes: list[Genome],
    draw_weights: Callable[..., Weights],
) -> Setting:
    model, encoded = pictured("bert")
    starts = [draw_weights(model, g, k, VisionTower.width) for k, g in enumerate(pictured_genomes)]
    return Setting(model, encoded, pictured_genomes, starts)


def _break(weights: Weights) -> Weights:
    """The same with a NaN in every tensor of every adapter."""
    lora = {t: (a.clone(), b.clone()) for t, (a, b) in weights.lora.items()}
    for a, b in lora.values():
        a[0, 0] = b[0, 0] = float("nan")
    return replace(weights, lora=lora)


@pytest.mark.parametrize("sick", range(3))
def test_nan_in_one_genome_leaves_the_others_as_they_were(
    sick: int, tiny: Setting, plan: Plan, train: Callable[..., Any], distance: Callable[..., float]
) -> None:
    starts = [_break(w) if k == sick else w for k, w in enumerate(tiny.starts)]
    broken = train(tiny.model, tiny.encoded, tiny.genomes, starts, plan)
    healthy = train(tiny.model, tiny.encoded, tiny.genomes, tiny.starts, plan)
    assert np.isnan(broken.losses[:, sick]).all()
    others = [k for k in range(3) if k != sick]
    assert np.array_equal(broken.losses[:, others], healthy.losses[:, others])
    assert all(distance(broken.weights[k], healthy.weights[k]) == 0 for k in others)
    assert np.isfinite(healthy.losses).all()


def test_a_genome_is_the_same_beside_a_sick_one_and_without_it(
    tiny: Setting, plan: Plan, train: Callable[..., Any], distance: Callable[..., float]
) -> None:
    starts = [_break(tiny.starts[0]), *tiny.starts[1:]]
    broken = train(tiny.model, tiny.encoded, tiny.genomes, starts, plan)
    absent = train(tiny.model, tiny.encoded, tiny.genomes[1:], tiny.starts[1:], plan, seeds=[1, 2])
    for k in (1, 2):
        assert distance(broken.weights[k], absent.weights[k - 1]) < 2e-5


def test_padded_ranks_and_layers_not_adapted_stay_zero(
    tiny: Setting, plan: Plan, train: Callable[..., Any]
) -> None:
    trained = train(tiny.model, tiny.encoded, tiny.genomes, tiny.starts, plan)
    for target, (a, b) in trained.pack.lora.items():
        ranks = [len(s.lora[target][0]) if target in s.lora else 0 for s in tiny.starts]
        assert a.shape[1] == b.shape[1] == max(ranks)
        for k, rank in enumerate(ranks):
            assert not a[k, rank:].any()
            assert not b[k, rank:].any()
            assert rank == 0 or b[k, :rank].any()


def _logits(setting: Setting, build_pack: Callable[..., Any], rows: list[int], **kw: Any) -> Tensor:
    pack = build_pack(setting.genomes, setting.starts, range(3))
    with torch.no_grad():
        return score(setting.model, pack, setting.encoded.batch(rows, **kw))


@pytest.mark.parametrize("kind", ["bert", "roberta", "llama"])
def test_a_row_scores_the_same_alone_and_among_others(
    kind: str,
    pictured: Callable[[str], tuple[Backbone, EncodedRows]],
    pictured_genomes: list[Genome],
    draw_weights: Callable[..., Weights],
    build_pack: Callable[..., Any],
) -> None:
    model, encoded = pictured(kind)
    starts = [draw_weights(model, g, 3, VisionTower.width, 0.1) for g in pictured_genomes]
    setting = Setting(model, encoded, pictured_genomes, starts)
    together = _logits(setting, build_pack, list(range(8)))
    for row in range(8):  # of them, the even ones have no picture, so theirs is a batch without
        alone = _logits(setting, build_pack, [row])[:, 0]
        assert (together[:, row] - alone).abs().max() < 1e-5
    assert together.std() > 0.01


def test_pictures_count_unless_they_are_left_out(
    tiny: Setting, build_pack: Callable[..., Any]
) -> None:
    shown = _logits(tiny, build_pack, [0, 1, 2, 3])
    hidden = _logits(tiny, build_pack, [0, 1, 2, 3], images=False)
    change = (shown - hidden).abs()
    assert change[:, [0, 2]].max() < 1e-6  # rows without a picture
    assert change[:, [1, 3]].min() > 1e-4


def test_a_picture_enters_at_the_genomes_own_lowest_block(
    tiny: Setting, build_pack: Callable[..., Any]
) -> None:
    """With B = 0 the function depends on where the picture enters alone."""
    pair, extra = next(iter(tiny.starts[0].lora.values())), tiny.starts[0].extra
    starts = [Weights({f"{block}.attention.self.query": pair}, extra) for block in range(3)]
    batch = tiny.encoded.batch([1, 3])
    with torch.no_grad():
        logits = score(tiny.model, build_pack([tiny.genomes[0]] * 3, starts, range(3)), batch)
        late = score(tiny.model, build_pack([tiny.genomes[0]], starts[2:], [0]), batch)
    assert (logits[2] - late[0]).abs().max() < 1e-5
    assert (logits[0] - logits[1]).abs().max() > 1e-4
    assert (logits[1] - logits[2]).abs().max() > 1e-4


def test_image_tokens_are_normed_as_the_block_that_they_enter_expects(
    backbone: Backbone,
    encoded_mixed: EncodedRows,
    pictured_genomes: list[Genome],
    draw_weights: Callable[..., Weights],
    build_pack: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entered: list[int] = []
    norm = Backbone.norm_input

    def note(own: Backbone, tokens: Tensor, index: int) -> Tensor:
        entered.append(index)
        return norm(own, tokens, index)

    monkeypatch.setattr(Backbone, "norm_input", note)
    weights = [
        draw_weights(backbone, g, k, VisionTower.width) for k, g in enumerate(pictured_genomes)
    ]
    pack = build_pack(pictured_genomes, weights, range(3))
    with torch.no_grad():
        score(backbone, pack, encoded_mixed.batch(range(4)))
    assert entered == [0, 4, 5]
