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


def test_the_format_of_the_base_is_kept(
    tmp_path: Path,
    genome: Callable[..., Genome],
    tiny_model: Callable[[str], Backbone],
    draw_weights: Any,
) -> None:
    own, base = genome(r=2, layers=1), tiny_model("bert")
    weights = draw_weights(base, own)
    moments = Moments(draw_weights(base, own), draw_weights(base, own), 1)
    known = Checkpoint(own.id, "S2", own.lora_cfg, weights, moments)
    result = TrainingResult(
        job="j",
        genome=own,
        generation=0,
        stage="S2",
        stage_index=2,
        lora_cfg=own.lora_cfg,
        checkpoint=save_checkpoint(tmp_path, known),
        details={"threshold": 0.5},
    )
    config = load_config(None, {"training": {"dtype": "bfloat16"}})
    export_result(config, base, tmp_path, result, False, tmp_path / "adapter")
    facts = json.loads((tmp_path / "adapter" / SIDECAR).read_text(encoding="utf-8"))
    assert facts["dtype"] == "bfloat16"
