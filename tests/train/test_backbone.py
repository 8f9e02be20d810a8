"""The base cut into parts is the uncut model, and targets are found by role, suffix or all."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, processors
from torch.nn import functional
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    RobertaConfig,
    RobertaModel,
)

from coralx.cli.use import say_loading
from coralx.errors import DataError, ModelError
from coralx.models import check_kind, resolve_model
from coralx.records import Genome, LoRAConfig
from coralx.supported import SUPPORTED
from coralx.train import backbone as backbone_module
from coralx.train.adapters import Weights
from coralx.train.backbone import Backbone
from coralx.train.families import FAMILIES
from coralx.train.network import score
from coralx.train.prefix import EncodedRows
from coralx.train.rows import Rows

ENCODER_PATHS = [
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
]


def _uncut_logits(model: Backbone, rows: Rows) -> torch.Tensor:
    """Of the classifier as transformers runs it, rows padded to one length."""
    ids, _ = model.tokenize(rows.texts, 16)
    length = max(len(row) for row in ids)
    padded = torch.tensor([row + [0] * (length - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in ids])
    with torch.no_grad():
        return model.classifier(input_ids=padded, attention_mask=mask).logits[:, 0]


def _cut_logits(
    model: Backbone, rows: Rows, build_pack: Callable[..., object], depth: int
) -> torch.Tensor:
    """Of our parts with the classifier's own head, the prefix ending at `depth`."""
    extra = {
        name: value
        for part, path in model.family.head.items()
        for name, value in model.classifier.get_submodule(path).named_parameters(prefix=part)
    }
    nothing = {f"{depth}.none": (torch.zeros(1, 1), torch.zeros(1, 1))}
    pack = build_pack([Genome(lora_cfg=LoRAConfig())], [Weights(nothing, extra)], [0])
    batch = EncodedRows(rows, model, None, 16).batch(range(len(rows)), depth)
    with torch.no_grad():
        return score(model, pack, batch)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("kind", SUPPORTED)
def test_tiny_models_score_as_transformers_does(
    kind: str,
    depth: int,
    tiny_model: Callable[[str], Backbone],
    tiny_rows: Rows,
    build_pack: Callable[..., object],
) -> None:
    model = tiny_model(kind)
    uncut = _uncut_logits(model, tiny_rows)
    cut = _cut_logits(model, tiny_rows, build_pack, depth)
    assert (cut - uncut).abs().max() < 1e-5
    assert uncut.std() > 0.05
    ids, _ = model.tokenize(tiny_rows.texts, 16)
    assert len({i for own in ids for i in own}) > 10
    assert min(map(len, ids)) > 1


def test_each_type_that_is_supported_has_a_family() -> None:
    assert set(FAMILIES) == set(SUPPORTED)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("reach", [2, 128])
def test_a_modernbert_pools_and_attends_as_its_settings_say(
    pooling: str,
    reach: int,
    tiny_model: Callable[..., Backbone],
    tiny_rows: Rows,
    build_pack: Callable[..., object],
) -> None:
    settings = {"classifier_pooling": pooling, "local_attention": reach}
    model = tiny_model("modernbert", **settings)
    uncut = _uncut_logits(model, tiny_rows)
    assert (_cut_logits(model, tiny_rows, build_pack, 1) - uncut).abs().max() < 1e-5
    other = tiny_model("modernbert", classifier_pooling=pooling, local_attention=130 - reach)
    assert (_uncut_logits(other, tiny_rows) - uncut).abs().max() > 1e-3


@pytest.mark.parametrize(
    "kind",
    ["bert", "roberta", "distilbert", "deberta-v2", "modernbert", "llama", "qwen3", "gemma3_text"],
)
def test_each_norm_stands_where_transformers_has_it(
    kind: str,
    tiny_model: Callable[[str], Backbone],
    tiny_rows: Rows,
    build_pack: Callable[..., object],
    tmp_path: Path,
) -> None:
    """Fresh models have norms that are all alike; here each has weights of its own."""
    shutil.copytree(tiny_model(kind).path, tmp_path, dirs_exist_ok=True)
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=1)
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weights in stock.named_parameters():
            if "norm" in name.lower():
                weights.uniform_(0.2, 2, generator=stream)
    stock.save_pretrained(tmp_path)
    model = Backbone(str(tmp_path), torch.device("cpu"), torch.float32)
    uncut = _uncut_logits(model, tiny_rows)
    assert (_cut_logits(model, tiny_rows, build_pack, 2) - uncut).abs().max() < 1e-5


@pytest.mark.parametrize(
    "kind", ["bert", "roberta", "deberta-v2", "modernbert", "llama", "gemma3_text"]
)
def test_in_bfloat16_a_model_is_that_of_transformers(
    kind: str, tiny_model: Callable[..., Backbone]
) -> None:
    """Buffers as well: rotary frequencies stay float32."""
    path = tiny_model(kind).path
    ours = Backbone(path, torch.device("cpu"), torch.bfloat16).classifier
    stock = AutoModelForSequenceClassification.from_pretrained(
        path, num_labels=1, dtype=torch.bfloat16
    )
    theirs = dict(itertools.chain(stock.named_parameters(), stock.named_buffers()))
    for name, own in itertools.chain(ours.named_parameters(), ours.named_buffers()):
        other = theirs.pop(name.replace(".base.", "."))
        assert own.dtype == other.dtype
        assert torch.equal(own, other)
    assert not theirs


@pytest.mark.parametrize("depth", [0, 5])
def test_the_real_model_scores_as_transformers_does(
    depth: int, backbone: Backbone, text_rows: Rows, build_pack: Callable[..., object]
) -> None:
    uncut = _uncut_logits(backbone, text_rows)
    cut = _cut_logits(backbone, text_rows, build_pack, depth)
    assert (cut - uncut).abs().max() < 1e-5
    assert uncut.std() > 1e-3


@pytest.mark.parametrize(
    "kind", ["bert", "roberta", "distilbert", "deberta-v2", "modernbert", "llama"]
)
def test_a_classifier_of_several_labels_is_a_base_without_its_head(
    kind: str, tiny_model: Callable[..., Backbone]
) -> None:
    one, three = (tiny_model(kind, num_labels=count) for count in (1, 3))
    head = three.classifier.get_submodule(three.family.head["head"]).state_dict()
    assert len(head["weight"]) == 1
    assert all(tensor.isfinite().all() for tensor in head.values())
    others = three.family.base.state_dict()
    assert all(torch.equal(own, others[name]) for name, own in one.family.base.state_dict().items())
    told = ["ignore_mismatched_sizes" in say_loading(model.path, False) for model in (one, three)]
    assert told == [False, True]


def test_pretrained_weights_give_a_roberta_the_same_outputs_as_a_bert(
    backbone: Backbone, text_rows: Rows, tmp_path: Path
) -> None:
    """Those of the real model: the two differ in where positions begin, token types and pooling."""
    bert = backbone.classifier.config
    same = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
            "intermediate_size", "layer_norm_eps", "pad_token_id")  # fmt: skip
    sizes = {name: getattr(bert, name) for name in same}
    places = bert.max_position_embeddings + 1
    model = RobertaModel(
        RobertaConfig(**sizes, max_position_embeddings=places, type_vocab_size=1),
        add_pooling_layer=False,
    )
    source = AutoModel.from_pretrained(backbone.path).state_dict()
    known = {name: source[name] for name in model.state_dict()}
    positions = known["embeddings.position_embeddings.weight"]
    known["embeddings.position_embeddings.weight"] = functional.pad(positions, (0, 0, 1, 0))
    known["embeddings.token_type_embeddings.weight"] = source[
        "embeddings.token_type_embeddings.weight"
    ][:1]
    model.load_state_dict(known)
    model.save_pretrained(tmp_path)
    backbone.tokenizer.save_pretrained(tmp_path)
    other = Backbone(str(tmp_path), torch.device("cpu"), torch.float32)
    assert other.positions == backbone.positions
    ours, theirs = (
        EncodedRows(text_rows, own, None, 32).batch(range(8), 5) for own in (backbone, other)
    )
    with torch.no_grad():
        pooled = backbone.finish(ours.at(5), ours.mask)
        again = backbone.family.base.pooler(other.finish(theirs.at(5), theirs.mask)[:, None])
    assert (pooled - again).abs().max() < 1e-6
    assert pooled.std() > 0.01


@pytest.mark.parametrize("kind", ["roberta", "distilbert", "deberta-v2"])
def test_a_layer_before_the_last_starts_as_it_was_trained(
    kind: str, tiny_model: Callable[..., Backbone], tmp_path: Path
) -> None:
    """As that of a base that was fine-tuned; of a bare one, always the same."""
    tuned = tiny_model(kind, num_labels=3)
    stored = load_file(Path(tuned.path) / "model.safetensors")
    assert torch.equal(tuned.given["dense.weight"], stored[f"{tuned.family.head['dense']}.weight"])
    assert tuned.given.keys() == {"head.bias", "dense.weight", "dense.bias"}
    shutil.copytree(tuned.path, tmp_path, dirs_exist_ok=True)
    AutoModel.from_pretrained(tmp_path).save_pretrained(tmp_path)
    bare, again = (Backbone(str(tmp_path), torch.device("cpu"), torch.float32) for _ in range(2))
    assert torch.equal(bare.given["dense.weight"], again.given["dense.weight"])
    assert bare.given["dense.weight"].std().item() == pytest.approx(0.3, rel=0.1)
    assert not torch.equal(bare.given["dense.weight"], tuned.given["dense.weight"])
    assert not bare.given["dense.bias"].any()


def test_the_base_is_frozen_and_has_one_logit(backbone: Backbone) -> None:
    assert not any(p.requires_grad for p in backbone.classifier.parameters())
    assert not backbone.classifier.training
    assert backbone.classifier.config.num_labels == 1
    assert (backbone.depth, backbone.hidden, backbone.family.causal) == (6, 384, False)


@pytest.mark.parametrize(
    ("targets", "paths"),
    [
        (["query"], ["attention.self.query"]),
        (["value", "query"], ["attention.self.query", "attention.self.value"]),
        (["output"], ["attention.output.dense"]),
        (["down"], ["output.dense"]),
        (["up", "up"], ["intermediate.dense"]),
        (["output.dense"], ["attention.output.dense", "output.dense"]),
        (["self.key"], ["attention.self.key"]),
        (["dense"], ["attention.output.dense", "intermediate.dense", "output.dense"]),
        (["all-linear"], ENCODER_PATHS),
    ],
)
def test_targets_of_an_encoder(targets: list[str], paths: list[str], backbone: Backbone) -> None:
    assert backbone.find_targets(targets, 1) == [f"5.{path}" for path in paths]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("query", "self_attn.q_proj"),
        ("output", "self_attn.o_proj"),
        ("gate", "mlp.gate_proj"),
        ("down", "mlp.down_proj"),
        ("v_proj", "self_attn.v_proj"),
    ],
)
def test_targets_of_a_decoder(
    target: str, path: str, tiny_model: Callable[[str], Backbone]
) -> None:
    assert tiny_model("llama").find_targets([target], 2) == [f"1.{path}", f"2.{path}"]
    assert len(tiny_model("llama").find_targets(["all-linear"], "all")) == 21


@pytest.mark.parametrize(
    ("targets", "paths"),
    [
        (("query", "value"), ["attn.Wqkv"]),
        (("qkv", "output"), ["attn.Wqkv", "attn.Wo"]),
        (("gate", "down"), ["mlp.Wi", "mlp.Wo"]),
        (("Wo",), ["attn.Wo", "mlp.Wo"]),
    ],
)
def test_targets_of_fused_linears(
    targets: tuple[str, ...], paths: list[str], tiny_model: Callable[[str], Backbone]
) -> None:
    assert tiny_model("modernbert").find_targets(targets, 1) == [f"2.{path}" for path in paths]


@pytest.mark.parametrize(
    ("layers", "blocks"), [(1, "5"), (3, "345"), ("all", "012345"), (99, "012345")]
)
def test_layers_count_from_the_last_block(
    layers: int | str, blocks: str, backbone: Backbone
) -> None:
    found = backbone.find_targets(["query"], layers)
    assert found == [f"{block}.attention.self.query" for block in blocks]


@pytest.mark.parametrize("unknown", ["q_proj", "uery", "gate"])
def test_an_unknown_target_is_refused_with_what_there_is(unknown: str, backbone: Backbone) -> None:
    with pytest.raises(ModelError, match=f"'{unknown}' matches no linear layer") as caught:
        backbone.find_targets(["query", unknown], "all")
    for name in ("all-linear", "query, key, value, output, up, down", "attention.self.query"):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    "kind", ["bert", "xlm-roberta", "distilbert", "deberta-v2", "modernbert", "qwen3"]
)
def test_full_paths_name_layers_of_the_uncut_model(
    kind: str, tiny_model: Callable[[str], Backbone]
) -> None:
    model = tiny_model(kind)
    for target in model.find_targets(["all-linear"], "all"):
        assert model.classifier.get_submodule(model.full_path(target)) is model.linear(target)


def test_weights_are_four_bytes_each(backbone: Backbone) -> None:
    assert backbone.weight_bytes() == 4 * 22_713_216  # parameters of all-MiniLM-L6-v2


def test_a_model_of_another_type_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ModelError, match="type 'gpt2'; supported are bert, distilbert, roberta"):
        Backbone(str(tmp_path), torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("text", ["{", '{"model_type": "none such"}', "{}"])
def test_a_config_that_cannot_be_read_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match="cannot be loaded by transformers"):
        Backbone(str(tmp_path), torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (
            "modernbert",
            {"classifier_pooling": "max"},
            "'classifier_pooling'.*max",
        ),
        ("modernbert", {"local_attention": -2}, "local_attention must be 0 or more, got -2"),
        ("modernbert", {"head_dim": 6}, "loads .* and cannot run it: RuntimeError"),
        ("deberta-v2", {"relative_attention": False}, "has no relative_attention: true, which"),
        ("deberta-v2", {"share_att_key": False}, "lacks the weights .*pos_key_proj"),
        ("deberta-v2", {"conv_kernel_size": 3}, "lacks the weights .*conv"),
        ("roberta", {"pad_token_id": None}, "loads .* and cannot run it: TypeError"),
        ("modernbert", {"classifier_activation": "none such"}, "unknown 'none such'"),
        (
            "gemma3_text",
            {"use_bidirectional_attention": True},
            "has use_bidirectional_attention: true, .* name a model without it",
        ),
        ("gemma3_text", {"use_bidirectional_attention": "all"}, "use_bidirectional_attention.*all"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "has attn_logit_softcapping: 50.0, "),
    ],
)
def test_settings_that_do_not_fit_are_told(
    kind: str,
    settings: dict[str, Any],
    message: str,
    tiny_model: Callable[..., Backbone],
    tmp_path: Path,
) -> None:
    shutil.copytree(tiny_model(kind).path, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    with pytest.raises(ModelError, match=message):
        Backbone(str(tmp_path), torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    ("settings", "told", "held"),
    [
        (
            {"share_att_key": False},
            "has no share_att_key: true, .* a model with it",
            "pos_key_proj",
        ),
        ({"conv_kernel_size": 3}, "conv_kernel_size: 3, .* a model without it", r"encoder\.conv"),
    ],
)
def test_a_deberta_of_another_build_is_refused(
    settings: dict[str, Any],
    told: str,
    held: str,
    tiny_model: Callable[..., Backbone],
    save_tiny: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """And is not made one of this by a config.json that says so: weights would be left out."""
    folder = save_tiny(tmp_path, "deberta-v2", **settings)
    for look in (
        lambda: check_kind(str(folder), 16),
        lambda: Backbone(str(folder), torch.device("cpu"), torch.float32),
    ):
        with pytest.raises(ModelError, match=told):
            look()
    usual = Path(tiny_model("deberta-v2").path) / "config.json"
    shutil.copy(usual, folder / "config.json")
    check_kind(str(folder), 16)
    with pytest.raises(ModelError, match=f"has .*{held}.*its config.json says nothing"):
        Backbone(str(folder), torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("kinds", [[], ["c2p"], ["p2c"]])
@pytest.mark.parametrize("buckets", [-1, 4])
def test_a_deberta_attends_as_its_settings_say(
    kinds: list[str],
    buckets: int,
    tiny_model: Callable[..., Backbone],
    tiny_rows: Rows,
    build_pack: Callable[..., object],
) -> None:
    more = {"norm_rel_ebd": "none", "position_biased_input": True}  # as older ones have them
    model = tiny_model("deberta-v2", pos_att_type=kinds, position_buckets=buckets, **more)
    uncut = _uncut_logits(model, tiny_rows)
    assert (_cut_logits(model, tiny_rows, build_pack, 1) - uncut).abs().max() < 1e-5


def test_a_pickled_model_is_told_how_to_become_a_safe_one(
    tiny_model: Callable[..., Backbone], tmp_path: Path
) -> None:
    """As some on the hub are still."""
    shutil.copytree(tiny_model("bert").path, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"never pickle\); load .* save_pretrained that and its"):
        Backbone(str(tmp_path), torch.device("cpu"), torch.float32)


def test_a_tokenizer_that_needs_another_package_is_told(
    tiny_model: Callable[..., Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a DeBERTa on the hub, where transformers asks for what would not help."""
    shutil.copytree(tiny_model("deberta-v2").path, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "spm.model").write_bytes(b"\n\x0b")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ModelError, match="not here: pip install sentencepiece protobuf"):
        Backbone(str(tmp_path), torch.device("cpu"), torch.float32)


def test_a_modernbert_without_its_head_is_told_how_to_get_one(
    tiny_model: Callable[..., Backbone], tmp_path: Path
) -> None:
    shutil.copytree(tiny_model("modernbert").path, tmp_path, dirs_exist_ok=True)
    AutoModel.from_pretrained(tmp_path).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"lacks the weights head\..*AutoModelForSequenceClass"):
        Backbone(str(tmp_path), torch.device("cpu"), torch.float32)
    whole = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=1)
    whole.save_pretrained(tmp_path)
    assert Backbone(str(tmp_path), torch.device("cpu"), torch.float32).depth == 3


def test_a_model_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match="cannot be loaded by transformers"):
        Backbone(str(tmp_path), torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("kind", ["bert", "llama", "qwen2"])
def test_a_model_without_tokenizer_is_refused(
    kind: str, tiny_model: Callable[[str], Backbone], tmp_path: Path
) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((Path(tiny_model(kind).path) / name).read_bytes())
    with pytest.raises(ModelError, match="has no tokenizer that transformers can read"):
        Backbone(str(tmp_path), torch.device("cpu"), torch.float32)


def test_image_tokens_share_one_place(tiny_model: Callable[[str], Backbone]) -> None:
    """Swapped, they change nothing for the text; text tokens swapped do."""
    model = tiny_model("llama")
    hidden = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 6, dtype=torch.bool)
    images_swapped, text_swapped = hidden[:, [1, 0, 2, 3, 4, 5]], hidden[:, [0, 1, 3, 2, 4, 5]]
    with torch.no_grad():
        plain, images, text = (
            model.run(x, mask, 0, slots=2)[:, 4:] for x in (hidden, images_swapped, text_swapped)
        )
    assert (plain - images).abs().max() < 1e-5
    assert (plain - text).abs().max() > 1e-3


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"folder without config\.json"):
        resolve_model(str(tmp_path))


def test_an_unknown_name_is_refused_with_all_three_kinds() -> None:
    with pytest.raises(ModelError) as caught:
        resolve_model("no-such-model")
    for part in ("'no-such-model'", "local folder", "all-minilm-l6-v2", "hub id (owner/name)"):
        assert part in str(caught.value)


def test_hub_ids_and_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert resolve_model("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert resolve_model(str(tmp_path)) == str(tmp_path)


def test_more_tokens_than_the_model_has_positions_are_refused(
    tiny_model: Callable[[str], Backbone],
) -> None:
    with pytest.raises(ModelError, match=r"max_tokens: .* has 32 positions, got 33"):
        tiny_model("bert").tokenize(["bake"], 33)
    ids, cut = tiny_model("bert").tokenize(["bake " * count for count in (50, 32, 33, 2)], 32)
    assert [len(own) for own in ids] == [32, 32, 32, 2]
    assert cut == 2


@pytest.mark.parametrize("padding", [0, 1])
def test_a_roberta_counts_positions_from_behind_that_of_padding(
    padding: int, tiny_model: Callable[..., Backbone]
) -> None:
    model = tiny_model("roberta", pad_token_id=padding)
    most = 32 - padding - 1
    ids, _ = model.tokenize(["bake " * 40], most)
    assert model.embed(torch.tensor(ids)).shape == (1, most, 32)
    with pytest.raises(ModelError, match=rf"has {most} positions, got {most + 1}"):
        model.tokenize(["bake"], most + 1)
    check_kind(model.path, most)
    with pytest.raises(ModelError, match=rf"has {most} positions, got {most + 1}"):
        check_kind(model.path, most + 1)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_tokenizer_that_ends_texts_with_padding_pools_as_transformers_does(
    kind: str,
    tiny_model: Callable[..., Backbone],
    tiny_rows: Rows,
    build_pack: Callable[..., object],
    tmp_path: Path,
) -> None:
    shutil.copytree(tiny_model(kind).path, tmp_path, dirs_exist_ok=True)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [PAD]", special_tokens=[("[PAD]", 0)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    model = Backbone(str(tmp_path), torch.device("cpu"), torch.float32)
    stock = model.tokenizer(list(tiny_rows.texts), padding=True, return_tensors="pt")
    assert stock["input_ids"][:, -1].eq(0).all()
    with torch.no_grad():
        uncut = model.classifier(**stock).logits[:, 0]
    assert (_cut_logits(model, tiny_rows, build_pack, 0) - uncut).abs().max() < 1e-5
    ids, cut = model.tokenize(["", "bake " * 9], 8)
    assert (len(ids[0]), len(ids[1]), cut) == (1, 7 if model.family.causal else 8, 1)


def test_a_tokenizer_of_more_ids_than_there_are_embeddings_is_refused(
    tiny_model: Callable[..., Backbone],
) -> None:
    with pytest.raises(ModelError, match=r"embeddings of 18 tokens, .* gives ids up to 18; save"):
        tiny_model("bert", vocab_size=18)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_text_without_a_token_or_its_embedding_is_refused(
    kind: str, tiny_model: Callable[..., Backbone], tmp_path: Path
) -> None:
    shutil.copytree(tiny_model(kind).path, tmp_path, dirs_exist_ok=True)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.add_special_tokens([f"<{i}>" for i in range(40)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    model = Backbone(str(tmp_path), torch.device("cpu"), torch.float32)
    with pytest.raises(DataError, match=r"text ' ' is no token at all .* take such rows out"):
        model.tokenize(["bake", " "], 8)
    with pytest.raises(DataError, match=r"text 'bake <39>' has token \d+, .* embeddings of 40;"):
        model.tokenize(["bake <0>", "bake <39>"], 8)


SLIDING = {"use_sliding_window": True, "sliding_window": 4}


@pytest.mark.parametrize(
    ("kind", "settings", "window"),
    [
        ("mistral", {"sliding_window": 4}, 4),
        ("qwen2", {**SLIDING, "max_window_layers": 1}, 4),
        ("qwen3", {**SLIDING, "layer_types": ["full_attention"] * 2 + ["sliding_attention"]}, 4),
        ("gemma3_text", {"sliding_window": 4}, 4),
        ("mistral", {"sliding_window": None}, None),
        ("qwen2", {**SLIDING, "use_sliding_window": False}, None),
        ("qwen3", {**SLIDING, "max_window_layers": 3}, None),
        ("llama", SLIDING, None),
        ("gemma3_text", {"sliding_window": 4, "layer_types": ["full_attention"] * 3}, None),
    ],
)
def test_texts_longer_than_a_sliding_window_are_refused(
    kind: str,
    settings: dict[str, Any],
    window: int | None,
    tiny_model: Callable[..., Backbone],
    tiny_rows: Rows,
    build_pack: Callable[..., object],
) -> None:
    """Where a model's attention slides, and only there: else the uncut model computes the same.
    `plan`, which reads the config.json alone, says the same."""
    model = tiny_model(kind, **settings)
    assert model.window == window
    if window is None:
        check_kind(model.path, 8)
        apart = _cut_logits(model, tiny_rows, build_pack, 0) - _uncut_logits(model, tiny_rows)
        assert apart.abs().max() < 1e-5
        return
    model.check_length(window)
    with pytest.raises(ModelError, match=r"max_tokens: .* over 4 tokens.* got 5; set 4 or fewer"):
        model.tokenize(["bake"], 5)
    check_kind(model.path, window)
    with pytest.raises(ModelError, match=r"max_tokens: .* over 4 tokens.* got 5; set 4 or fewer"):
        check_kind(model.path, 5)


def test_texts_are_tokenized_a_few_at_a_time(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tokenizer holds on to what it cuts off: of 200,000 long texts, many gigabytes."""
    texts = [f"how do i bake {'bread ' * (index % 9)}" for index in range(20)]
    whole = backbone.tokenize(texts, 8)
    assert whole[1] == sum(index % 9 > 1 for index in range(20))
    given: list[int] = []
    tokenizer = backbone.tokenizer

    class Noting:
        def __call__(self, part: list[str], **more: Any) -> Any:
            given.append(len(part))
            return tokenizer(part, **more)

    monkeypatch.setattr(backbone, "tokenizer", Noting())
    monkeypatch.setattr(backbone_module, "TOKENIZED", 6)
    assert backbone.tokenize(texts, 8) == whole
    assert max(given) == 6
