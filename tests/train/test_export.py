"""What may be exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from coralx.config import Config
from coralx.errors import StoreError
from coralx.records import Genome, LoRAConfig, TrainingResult
from coralx.train.backbone import Backbone
from coralx.train.export import export_result


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
