"""A base model's shape, read from its config.json."""

from __future__ import annotations

import json
from pathlib import Path

from coralx.models import read_shape
from coralx.records import ModelShape
from coralx.search.footprint import block_parameters


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
