"""A base model's shape, read from its config.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coralx.errors import ModelError
from coralx.models import adapted_heights, check_kind, check_layers, read_shape
from coralx.records import ModelShape
from coralx.search.footprint import adapted_linears, block_parameters
from coralx.settings.genes import DEFAULT_SPACE, Choice, Integer


def test_a_decoders_shape_has_its_gate_and_shared_keys(tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 10}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": None}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "llama", **sizes, **heads}), encoding="utf-8")
    shape = read_shape(str(tmp_path))
    assert shape == ModelShape(2, 64, 96, 10, decoder=True, queries=64, keys=32)
    assert shape is not None
    assert block_parameters(shape) == 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96
    wide = {"model_type": "qwen3", **sizes, **heads, "head_dim": 32}
    path.write_text(json.dumps(wide), encoding="utf-8")
    assert read_shape(str(tmp_path)) == ModelShape(2, 64, 96, 10, 4, 0, True, 128, 64)
    path.write_text(json.dumps({"model_type": "bert", **sizes, **heads}), encoding="utf-8")
    assert read_shape(str(tmp_path)) == ModelShape(2, 64, 96, 10)


def test_a_distilberts_sizes_have_names_of_their_own(tmp_path: Path) -> None:
    sizes = {"n_layers": 2, "dim": 64, "hidden_dim": 96, "n_heads": 4, "vocab_size": 10}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "distilbert", **sizes}), encoding="utf-8")
    assert read_shape(str(tmp_path)) == ModelShape(2, 64, 96, 10, deep_head=True)
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "hidden_dim": 96, "vocab_size": 10}
    path.write_text(json.dumps({"model_type": "distilbert", **sizes}), encoding="utf-8")
    assert read_shape(str(tmp_path)) == ModelShape(2, 64, 96, 10, deep_head=True)


def test_a_modernberts_linears_are_fused(tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 10}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "modernbert", **sizes}), encoding="utf-8")
    shape = read_shape(str(tmp_path))
    assert shape == ModelShape(2, 64, 96, 10, fused=True)
    assert shape is not None
    assert block_parameters(shape) == 4 * 64 * 64 + 3 * 64 * 96
    assert adapted_linears(("value", "query", "gate"), shape) == ("qkv", "up")


def test_a_debertas_heads_and_layer_before_the_last_count(tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 10}
    path = tmp_path / "config.json"
    config = {"model_type": "deberta-v2", "num_attention_heads": 4, **sizes}
    path.write_text(json.dumps(config), encoding="utf-8")
    assert read_shape(str(tmp_path)) == ModelShape(2, 64, 96, 10, deep_head=True, apart=4)


def test_a_gemmas_blocks_are_sandwiched_and_look_back_alone(tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 10}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 32}
    config = {"model_type": "gemma3_text", **sizes, **heads, "max_position_embeddings": 99}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    assert read_shape(str(tmp_path)) == ModelShape(
        2, 64, 96, 10, decoder=True, queries=128, keys=32, sandwiched=True
    )
    check_kind(str(tmp_path), 64)
    for both, told in ((True, "true"), ("vision", '"vision"')):
        path.write_text(json.dumps(config | {"use_bidirectional_attention": both}))
        with pytest.raises(ModelError, match=f"has use_bidirectional_attention: {told}, with"):
            check_kind(str(tmp_path), 64)


def test_layers_reach_no_further_than_the_base_but_for_the_defaults() -> None:
    check_layers("tiny", {}, 2)
    check_layers("tiny", {"layers": Choice(values=(1, 2, "all"))}, 2)
    check_layers("tiny", DEFAULT_SPACE, 2)
    with pytest.raises(ModelError, match="layers: tiny has 2 blocks, got 4, 99; name 2 or fewer"):
        check_layers("tiny", {"layers": Choice(values=(1, 4, 99))}, 2)


@pytest.mark.parametrize(
    ("gene", "heights"),
    [
        (Choice(values=(1, 2, "all")), {1, 2, 4}),
        (Choice(values=(3, 9)), {3, 4}),
        (Integer(low=2, high=2**53), {2, 3, 4}),
        (Integer(low=7, high=9), {4}),
        (None, {4}),
    ],
)
def test_genomes_adapt_as_many_blocks_as_their_gene_says_and_there_are(gene, heights) -> None:
    assert adapted_heights({"layers": gene} if gene else {}, 4) == heights
