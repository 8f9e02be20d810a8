"""What may be exported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coralx.config import Config, load_config
from coralx.errors import StoreError
from coralx.records import Genome, LoRAConfig, TrainingResult
from coralx.train.backbone import Backbone
from coralx.train.checkpoint import SIDECAR, Checkpoint, save_checkpoint
from coralx.train.export import export_result
from coralx.train.resize import Moments


def test_a_genome_without_a_threshold_is_refused_by_name(
    tmp_path: Path, genome: Callable[..., Genome], tiny_model: Callable[[str], Backbone]
) -> None:
    result = TrainingResult(
        job="j",
        genome=genome(),
        generation=0,
        stage="S0_sanity",
        stage_index=0,
        lora_cfg=LoRAConfig(),
        checkpoint="any",
    )
    with pytest.raises(StoreError, match=r"no further than S0_sanity.*a later stage"):
        export_result(Config(), tiny_model("bert"), tmp_path, result, False, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


@pytest.fixture
def base(tiny_model: Callable[[str], Backbone]) -> Backbone:
    return tiny_model("bert")


@pytest.fixture
def trained(
    tmp_path: Path, base: Backbone, genome: Callable[..., Genome], draw_weights: Any
) -> TrainingResult:
    """With its checkpoint in `tmp_path`."""
    own = genome(r=2, layers=1, use_rslora=True)
    weights = draw_weights(base, own)
    moments = Moments(draw_weights(base, own), draw_weights(base, own), 1)
    known = Checkpoint(own.id, "S2", own.lora_cfg, weights, moments)
    return TrainingResult(
        job="j",
        genome=own,
        generation=0,
        stage="S2",
        stage_index=2,
        lora_cfg=own.lora_cfg,
        checkpoint=save_checkpoint(tmp_path, known),
        details={"threshold": 0.5},
    )


@pytest.mark.parametrize("images", [True, False])
def test_what_serving_must_know_is_kept(
    images: bool, tmp_path: Path, base: Backbone, trained: TrainingResult
) -> None:
    settings = {"training": {"dtype": "bfloat16"}, "data": {"max_tokens": 48}}
    config = load_config(None, settings)
    export_result(config, base, tmp_path, trained, images, tmp_path / "adapter")
    facts, stock = (
        json.loads((tmp_path / "adapter" / name).read_text(encoding="utf-8"))
        for name in (SIDECAR, "adapter_config.json")
    )
    assert (facts["dtype"], facts["max_tokens"]) == ("bfloat16", 48)
    assert facts["vision_tower"] == (config.vision_tower if images else None)
    assert config.vision_tower
    assert stock["use_rslora"] is True
