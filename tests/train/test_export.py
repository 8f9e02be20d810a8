"""What may be exported."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from safetensors import SafetensorError

from coralx.adapter_files import PROJECTOR, SIDECAR, is_whole
from coralx.config import Config, load_config
from coralx.errors import StoreError
from coralx.interrupts import stoppable
from coralx.records import Genome, LoRAConfig, TrainingResult
from coralx.train import export
from coralx.train.adapters import largest_difference
from coralx.train.backbone import Backbone
from coralx.train.checkpoint import Checkpoint, save_checkpoint, save_tensors
from coralx.train.export import check_weights, export_adapter, export_result, import_adapter
from coralx.train.network import score
from coralx.train.prefix import EncodedRows
from coralx.train.resize import Moments
from coralx.train.rows import Rows
from coralx.train.threshold import SERVED


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


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
    with pytest.raises(StoreError, match=r"no stage after S0_sanity.*a later stage"):
        export_result(Config(), tiny_model("bert"), tmp_path, result, False, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


@pytest.fixture
def base(tiny_model: Callable[[str], Backbone]) -> Backbone:
    return tiny_model("bert")


@pytest.fixture
def export_to(
    base: Backbone, genome: Callable[..., Genome], draw_weights: Any
) -> Callable[[Path], None]:
    """Write one adapter to a folder."""
    own = genome(r=2, layers=1)
    weights = draw_weights(base, own)
    return lambda folder: export_adapter(folder, base, own, own.lora_cfg, weights, {})


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
        details={SERVED: 0.5},
    )


def test_a_result_scored_by_text_alone_is_no_adapter_for_pictures(
    tmp_path: Path, base: Backbone, trained: TrainingResult
) -> None:
    """Whoever exports it: its threshold and scaling know nothing of pictures."""
    config = load_config(None, {"hyperband": {"cross_modal_proxy": True}})
    early = trained.model_copy(update={"stage_index": 1})
    for result, images, refused in (
        (early, True, True),
        (early, False, False),
        (trained, True, False),
    ):
        folder = tmp_path / f"{result.stage_index}-{images}"
        if refused:
            with pytest.raises(StoreError, match="scored by their text alone"):
                export_result(config, base, tmp_path, result, images, folder)
        else:
            export_result(config, base, tmp_path, result, images, folder)
        assert folder.exists() is not refused


@pytest.mark.parametrize("images", [True, False])
def test_what_serving_must_know_is_kept(
    images: bool, tmp_path: Path, base: Backbone, trained: TrainingResult
) -> None:
    data = {"max_tokens": 48, "image_column": "photo"}
    config = load_config(None, {"training": {"dtype": "bfloat16"}, "data": data})
    export_result(config, base, tmp_path, trained, images, tmp_path / "adapter")
    facts, stock = (read(tmp_path / "adapter" / name) for name in (SIDECAR, "adapter_config.json"))
    assert (facts["dtype"], facts["max_tokens"]) == ("bfloat16", 48)
    assert facts["vision_tower"] == (config.vision_tower if images else None)
    assert config.vision_tower
    assert facts["image_column"] == "photo"  # without a tower, too: predict tells of pictures
    assert stock["use_rslora"] is True


def test_stock_peft_finds_the_base_of_an_adapter_by_itself(
    tmp_path: Path,
    genome: Callable[..., Genome],
    draw_weights: Any,
    backbone: Backbone,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its settings name the folder, wherever one stands; those of CoralX the model's short name."""
    own = genome(r=2, layers=1)
    facts = {"base_model": backbone.name}
    export_adapter(tmp_path / "a", backbone, own, own.lora_cfg, draw_weights(backbone, own), facts)
    monkeypatch.chdir(tmp_path)
    folder = str(tmp_path / "a")
    model = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    assert model.num_labels == 1
    stock = read(tmp_path / "a" / "adapter_config.json")
    assert Path(stock["base_model_name_or_path"]).is_absolute()
    assert read(tmp_path / "a" / SIDECAR)["base_model"] == backbone.name == "all-minilm-l6-v2"


@pytest.mark.parametrize("kind", ["roberta", "distilbert", "deberta-v2", "gemma3_text"])
def test_stock_peft_scores_as_in_a_pack_with_all_layers_of_a_head(
    kind: str,
    tmp_path: Path,
    tiny_model: Callable[[str], Backbone],
    tiny_rows: Rows,
    genome: Callable[..., Genome],
    draw_weights: Any,
    build_pack: Callable[..., Any],
) -> None:
    base, own = tiny_model(kind), genome(r=2, layers=2, target_modules=("all-linear",))
    weights = draw_weights(base, own, spread=0.1)
    if "dense.bias" in weights.extra:
        weights.extra["dense.bias"][:] = torch.linspace(-1, 1, base.hidden)
    export_adapter(tmp_path / "a", base, own, own.lora_cfg, weights, {})
    stock = AutoPeftModelForSequenceClassification.from_pretrained(
        str(tmp_path / "a"), num_labels=1
    ).eval()
    texts = list(tiny_rows.texts)
    tokens = base.tokenizer(
        texts, padding=True, truncation=True, max_length=16, return_tensors="pt"
    )
    batch = EncodedRows(tiny_rows, base, None, 16).batch(range(len(texts)))
    with torch.no_grad():
        served = stock(**tokens).logits[:, 0]
        packed = score(base, build_pack([own], [weights], [0]), batch)[0]
    assert (served - packed).abs().max() < 1e-5
    assert packed.std() > 0.01
    assert largest_difference(import_adapter(tmp_path / "a", base), weights) == 0


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("owner/model", "owner/model"),
        ("./mine", "{here}/mine"),
        ("../{here.name}/mine", "{here}/mine"),
    ],
)
def test_a_base_is_named_so_that_others_find_it(
    name: str,
    named: str,
    tmp_path: Path,
    base: Backbone,
    genome: Callable[..., Genome],
    draw_weights: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "name", name.format(here=tmp_path))
    own = genome(r=2, layers=1)
    export_adapter(tmp_path / "a", base, own, own.lora_cfg, draw_weights(base, own), {})
    stock = read(tmp_path / "a" / "adapter_config.json")
    assert stock["base_model_name_or_path"] == named.format(here=tmp_path)


def test_equal_adapters_are_equal_files(
    tmp_path: Path, base: Backbone, genome: Callable[..., Genome], draw_weights: Any
) -> None:
    """PEFT keeps targets in a set, whose order is another in each process."""
    own = genome(r=2, layers=2, target_modules=("all-linear",))
    export_adapter(tmp_path / "a", base, own, own.lora_cfg, draw_weights(base, own), {})
    targets = read(tmp_path / "a" / "adapter_config.json")["target_modules"]
    assert len(targets) == 12
    assert targets == sorted(targets)


def test_an_adapter_is_written_whole_before_a_signal_stops_its_writer(
    tmp_path: Path,
    export_to: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def press(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        save_tensors(*arguments)

    monkeypatch.setattr("coralx.train.export.save_tensors", press)
    with pytest.raises(KeyboardInterrupt), stoppable():
        export_to(tmp_path / "a")
    assert is_whole(tmp_path / "a", {})


def test_a_new_folder_is_there_once_it_is_whole(
    tmp_path: Path,
    export_to: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that is killed leaves nothing in the way, and nothing that the next one keeps."""

    def die(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr("coralx.train.export.seal_adapter", die)
    with pytest.raises(SystemExit):
        export_to(tmp_path / "a")
    (left,) = tmp_path.iterdir()
    assert left.name == ".a.writing"
    (left / "projector.safetensors").touch()
    monkeypatch.undo()
    export_to(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert is_whole(tmp_path / "a", {})
    assert not (tmp_path / "a" / "projector.safetensors").exists()


def test_an_export_that_fails_over_an_older_one_leaves_no_sidecar_of_that(
    export_to: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    export_to(tmp_path)
    assert (tmp_path / SIDECAR).exists()

    def fail(*_: object) -> None:
        raise StoreError("full")

    monkeypatch.setattr("coralx.train.export.save_tensors", fail)
    with pytest.raises(StoreError, match="full"):
        export_to(tmp_path)
    assert not (tmp_path / SIDECAR).exists()


def test_what_links_in_an_adapters_folder_lead_to_is_left(
    export_to: Callable[[Path], None], tmp_path: Path
) -> None:
    folder, own = tmp_path / "a", tmp_path / "own"
    folder.mkdir()
    own.write_text("mine", encoding="utf-8")
    for name in (SIDECAR, "adapter_config.json", "adapter_model.safetensors"):
        (folder / name).symlink_to(own)
    export_to(folder)
    assert is_whole(folder, {})
    assert own.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("error", [StoreError("full"), OSError(28, "No space left on device")])
def test_an_export_that_fails_leaves_nothing_in_the_way_of_the_next(
    error: Exception,
    export_to: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("coralx.train.export.seal_adapter", fail)
    with pytest.raises(StoreError):
        export_to(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / ".mine").touch()
    with pytest.raises(StoreError):
        export_to(tmp_path / "b")
    assert [path.name for path in (tmp_path / "b").iterdir()] == [".mine"]


def test_no_projector_is_left_of_an_adapter_that_read_pictures(
    export_to: Callable[[Path], None],
    base: Backbone,
    genome: Callable[..., Genome],
    draw_weights: Any,
    tmp_path: Path,
) -> None:
    own = genome(r=2, layers=1)
    weights = draw_weights(base, own, vision=8)
    export_adapter(tmp_path, base, own, own.lora_cfg, weights, {})
    assert (tmp_path / PROJECTOR).exists()
    export_to(tmp_path)
    check_weights(tmp_path)
    assert not (tmp_path / PROJECTOR).exists()


@pytest.mark.parametrize("name", ["config.json", "notes.md"])
def test_no_adapter_is_written_beside_a_base_model_or_what_else_is_there(
    name: str, export_to: Callable[[Path], None], tmp_path: Path
) -> None:
    (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(
        StoreError, match=rf"holds {name}, which is no .* name a new folder, or one"
    ):
        export_to(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_in_an_adapters_place_is_left(
    export_to: Callable[[Path], None], tmp_path: Path
) -> None:
    (tmp_path / "a").write_text("mine", encoding="utf-8")
    with pytest.raises(StoreError, match=r"a: is no folder, .*; name another folder"):
        export_to(tmp_path / "a")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "mine"


def test_what_a_killed_writer_left_is_not_in_the_way_of_the_next(
    export_to: Callable[[Path], None], tmp_path: Path
) -> None:
    for name in (".coralx.json.0a1b2c3d", "adapter_model.writing", "projector.writing"):
        (tmp_path / name).touch()
    export_to(tmp_path)
    assert is_whole(tmp_path, {})


def test_a_signal_while_an_adapter_is_read_stops_and_damages_nothing(
    base: Backbone,
    export_to: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Raised inside safetensors, KeyboardInterrupt comes out as an error of it."""
    usual = export.load_file
    export_to(tmp_path / "a")

    def interrupted(path: Path) -> dict[str, torch.Tensor]:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise SafetensorError("could not determine the shape") from error
        return usual(path)

    monkeypatch.setattr(export, "load_file", interrupted)
    with pytest.raises(KeyboardInterrupt), stoppable():
        import_adapter(tmp_path / "a", base)
