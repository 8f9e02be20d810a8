"""What `export` prints: code that loads the adapter as it was trained, and what it leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from typer.testing import CliRunner

from coralx import store
from coralx.cli import app
from coralx.cli.use import say_loading
from coralx.config import Config
from coralx.models import resolve_model
from coralx.records import Genome, TrainingResult
from coralx.runs import exporting
from coralx.store import History


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_base_is_loaded_in_the_format_that_was_trained_on(dtype: str, tmp_path: Path) -> None:
    """Transformers takes that of the files, if it is not told."""
    path = resolve_model("all-minilm-l6-v2")
    stored = torch.bfloat16 if dtype == "float32" else torch.float32
    load = transformers.AutoModelForSequenceClassification.from_pretrained
    load(path, num_labels=1, dtype=stored).save_pretrained(tmp_path)
    assert load(str(tmp_path), num_labels=1).dtype == stored
    told = say_loading(str(tmp_path), False, dtype)
    assert eval(told, {"torch": torch} | vars(transformers)).dtype == getattr(torch, dtype)  # noqa: S307


@pytest.mark.parametrize("kind", ["SequenceClassification", "TokenClassification"])
def test_a_base_with_a_head_for_several_labels_is_loaded_without_it(
    kind: str, tmp_path: Path
) -> None:
    load = getattr(transformers, f"AutoModelFor{kind}").from_pretrained
    load(resolve_model("all-minilm-l6-v2"), num_labels=3).save_pretrained(tmp_path)
    told = say_loading(str(tmp_path), False)
    model = eval(told, {"torch": torch} | vars(transformers))  # noqa: S307
    assert model.classifier.out_features == 1


@pytest.mark.parametrize("projector", [True, False])
def test_export_says_where_stock_peft_would_score_text_alone(
    projector: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = TrainingResult(
        job="j",
        genome=Genome(),
        generation=0,
        stage="S2",
        stage_index=2,
        lora_cfg=Genome().lora_cfg,
        checkpoint="any",
        details={"served_threshold": 0.25},
    )

    def write(_folder: Path, _genome: str, target: Path, *_: object) -> TrainingResult:
        target.mkdir()
        if projector:
            (target / "projector.safetensors").touch()
        return result

    monkeypatch.setattr(store, "read_start", lambda _: History(config=Config(), facts={}))
    monkeypatch.setattr(exporting, "export_genome", write)
    target = tmp_path / "adapter"
    done = CliRunner().invoke(app, ["export", str(tmp_path), result.genome.id, str(target)])
    assert done.exit_code == 0, done.output
    assert (f"`coralx predict {target} ROWS`" in done.stdout) == projector
    first = done.stdout.index("import torch")
    assert "score >= 0.25" in done.stdout
    compile(done.stdout[first:].split("\n\n")[0], "shown", "exec")
