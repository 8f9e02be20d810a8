"""Prediction against the uncut forward pass of a pack, whatever the order, batch or file."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from typer.testing import CliRunner

from coralx.adapter_files import ADAPTER, PROJECTOR, SIDECAR, read_facts, seal_adapter
from coralx.cli import app
from coralx.errors import DataError, ModelError
from coralx.records import Genome
from coralx.rows.file import iterate_rows, parse_lines
from coralx.train import predict as module
from coralx.train.backbone import Backbone
from coralx.train.export import export_adapter
from coralx.train.network import score
from coralx.train.predict import Predictor, write_lines
from coralx.train.prefix import EncodedRows
from coralx.train.rows import Rows
from coralx.train.vision import VisionTower

FACTS: dict[str, object] = {
    "base_model": "all-minilm-l6-v2",
    "vision_tower": "efficientnet-lite0",
    "image_tokens": 2,
    "max_tokens": 24,
    "threshold": 0.5,
    "stage": "S2",
}


@pytest.fixture(scope="module")
def adapted(
    backbone: Backbone, tower: VisionTower, genome: Callable[..., Genome], draw_weights: Any
) -> tuple[Genome, Any]:
    own = genome(r=4, alpha=16, target_modules=("all-linear",), layers=2)
    return own, draw_weights(backbone, own, vision=tower.width, spread=0.05)


@pytest.fixture(scope="module")
def folder(
    adapted: tuple[Genome, Any], backbone: Backbone, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    own, weights = adapted
    path = tmp_path_factory.mktemp("adapter")
    export_adapter(path, backbone, own, own.lora_cfg, weights, FACTS)
    return path


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    return Predictor(folder, "cpu")


@pytest.fixture(scope="module")
def wanted(
    adapted: tuple[Genome, Any],
    backbone: Backbone,
    tower: VisionTower,
    mixed_rows: Rows,
    build_pack: Any,
) -> list[float]:
    """Scores of the rows one by one, from the weights in memory."""
    own, weights = adapted
    pack = build_pack([own], [weights], [0])
    encoded = EncodedRows(mixed_rows, backbone, tower, 24)
    with torch.no_grad():
        logits = [score(backbone, pack, encoded.batch([i]))[0, 0] for i in range(len(mixed_rows))]
    return torch.sigmoid(torch.stack(logits).double()).tolist()  # type: ignore[no-any-return]


def test_scores_are_those_of_training(
    predictor: Predictor, mixed_rows: Rows, wanted: list[float]
) -> None:
    assert predictor.score(mixed_rows.texts, mixed_rows.images) == pytest.approx(wanted, abs=1e-6)
    assert np.ptp(wanted) > 1e-3


def test_order_and_chunks_make_no_difference(
    predictor: Predictor,
    mixed_rows: Rows,
    wanted: list[float],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(module, "CHUNK", 3)
    monkeypatch.setattr(module, "BATCH", 2)
    rows = [
        {"text": text, "image": image, "place": place}
        for place, (text, image) in enumerate(zip(mixed_rows.texts, mixed_rows.images, strict=True))
    ]
    scored = list(predictor.predict(reversed(rows), tmp_path, "text", "image"))
    assert [line["place"] for line in scored] == list(range(len(rows)))[::-1]
    assert [line["score"] for line in scored] == pytest.approx(wanted[::-1], abs=1e-6)
    for line in scored:
        assert "image" not in line or line["image"] is None
        assert line["unsafe"] == (line["score"] >= predictor.threshold)


def test_what_is_not_read_is_counted_over_all_chunks(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 2)
    own = Predictor(folder)
    rows = [{"text": "word " * 600}, {"text": "\U0001f52a"}] * 2 + [{"text": "short"}]
    assert len(list(own.predict(rows, tmp_path))) == 5
    assert (own.cut, own.unknown) == (2, 2)


def test_pictures_come_from_beside_the_rows(
    predictor: Predictor, mixed_rows: Rows, tmp_path: Path
) -> None:
    place = next(i for i, image in enumerate(mixed_rows.images) if image)
    text, image = mixed_rows.texts[place], mixed_rows.images[place]
    assert image is not None
    (tmp_path / "picture.webp").write_bytes(image)
    rows = [{"body": text, "shot": "picture.webp"}, {"body": text, "shot": ""}]
    found = list(predictor.predict(rows, tmp_path, "body", "shot"))
    assert [line["score"] for line in found] == pytest.approx(
        predictor.score([text, text], [image, None]), abs=1e-6
    )
    assert found[0]["score"] != pytest.approx(found[1]["score"], abs=1e-4)
    assert found[0]["shot"] == "picture.webp"


def test_large_pictures_are_scored_as_rows_of_files_are(
    predictor: Predictor, tmp_path: Path
) -> None:
    """A threshold that was found on pictures as files' are kept is no other picture's."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 900, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    image = buffer.getvalue()
    (found,) = predictor.predict([{"text": "hello", "image": image}], tmp_path, "text", "image")
    assert predictor.score(["hello"], [image]) == pytest.approx([found["score"]], abs=1e-6)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": " "}, "row 2: text must be a non-empty string"),
        ({"text": None}, "row 2: text must be a non-empty string"),
        ({"body": "x"}, "row 2: no column 'text'; there are 'body'"),
        ({"text": "x", "image": "nowhere.png"}, "row 2: image 'nowhere.png': no such file"),
        ({"text": "x", "image": "../s.png"}, "row 2: image .* lies outside.*allow-outside-images"),
        ({"text": "x", "image": b"no picture"}, "row 2: unreadable image"),
    ],
)
def test_bad_rows_are_named(
    predictor: Predictor, tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    scored = predictor.predict([{"text": "fine"}, row, {"text": "x"}], tmp_path, "text", "image")
    assert next(scored)["text"] == "fine"  # of the same chunk
    with pytest.raises(DataError, match=message + ".*--on-bad-rows skip"):
        next(scored)


def test_a_row_of_commas_comes_back_at_its_place(predictor: Predictor, tmp_path: Path) -> None:
    """But for those that a spreadsheet leaves at the end."""
    (tmp_path / "rows.csv").write_text("text,note\nfine,\n,\nfine,\n,\n")
    rows = iterate_rows(tmp_path / "rows.csv")
    found = list(predictor.predict(rows, tmp_path, skip=True))
    assert ["error" in row for row in found] == [False, True, False]


def test_bad_rows_that_shall_pass_come_out_with_an_error(
    predictor: Predictor, tmp_path: Path
) -> None:
    rows = [{"text": ""}, {"text": "fine"}, {"text": "x", "image": "nowhere.png"}, {"body": "x"}]
    before = predictor.bad
    found = list(predictor.predict(rows, tmp_path, skip=True))
    assert [set(line) - set(row) for line, row in zip(found, rows, strict=True)] == [
        {"error"},
        {"score", "unsafe"},
        {"error"},
        {"error"},
    ]
    assert found[0]["error"].startswith("row 1: text must be")
    assert predictor.bad - before == 3
    assert len(list(predictor.predict(rows[:1], tmp_path, skip=True))) == 1


def test_a_text_that_the_base_has_no_token_for_is_a_bad_row(
    tiny_model: Callable[..., Backbone],
    genome: Callable[..., Genome],
    draw_weights: Any,
    tmp_path: Path,
) -> None:
    """Its number is named, the rows before it are scored, and --on-bad-rows skip passes it by."""
    base, folder = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(tiny_model("llama").path, base)
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.add_special_tokens([f"<{i}>" for i in range(40)])
    tokenizer.save(str(base / "tokenizer.json"))
    backbone = Backbone(str(base), torch.device("cpu"), torch.float32)
    own = genome(r=2, target_modules=("query",), layers=1)
    facts = {**FACTS, "base_model": str(base), "vision_tower": None, "max_tokens": 8}
    weights = draw_weights(backbone, own)
    export_adapter(folder, backbone, own, own.lora_cfg, weights, facts)
    predictor = Predictor(folder, "cpu")
    rows = [{"text": text} for text in ("bake", "bake <39>", "", "bake " * 9 + "<39>")]
    found = list(predictor.predict(rows, tmp_path, skip=True))
    assert [sorted(row.keys() - {"text"}) for row in found] == [
        ["score", "unsafe"], ["error"], ["error"], ["score", "unsafe"]
    ]  # fmt: skip
    assert found[1]["error"].startswith("row 2: text 'bake <39>' has token ")
    given = predictor.predict(rows, tmp_path)
    assert next(given)["text"] == "bake"
    with pytest.raises(DataError, match=r"row 2: text 'bake <39>' .* --on-bad-rows skip"):
        next(given)
    with pytest.raises(DataError, match=r"text 2: text 'bake <39>' has token"):
        predictor.score(["bake", "bake <39>"])


@pytest.mark.parametrize("skip", [False, True])
def test_a_row_that_could_not_be_written_again_is_named(
    skip: bool, predictor: Predictor, tmp_path: Path
) -> None:
    deep = [json.loads('{"a": [' * depth + "]}" * depth) for depth in (50, 51)]
    rows = [{"text": "fine", "note": deep[0]}, {"text": "fine", "note": deep[1]}]
    scored = predictor.predict(rows, tmp_path, skip=skip)
    assert write_lines([next(scored)], io.StringIO()) == 1
    with pytest.raises(DataError, match="row 2: column 'note' is nested more than 100 deep"):
        next(scored)


@pytest.mark.parametrize("text", ["fine", ""])
def test_bytes_do_not_come_back_however_deep_they_lie(
    text: str, predictor: Predictor, tmp_path: Path
) -> None:
    """As in a Parquet column of several pictures a row; JSON would hold their Python source."""
    picture = {"bytes": b"\x89PNG", "path": "a.png"}
    row = {"text": text, "all": [picture, picture], "bare": [b"\x89PNG", "b"], "one": b"\x89PNG"}
    row |= {"pairs": [("key", bytearray(b"1"))], "struct": {"in": picture, "n": 1}}
    (found,) = predictor.predict([row], tmp_path, skip=True)
    file = io.StringIO()
    write_lines([{name: found.get(name) for name in row}], file)
    assert json.loads(file.getvalue()) == {
        "text": text,
        "all": [{"path": "a.png"}, {"path": "a.png"}],
        "bare": [None, "b"],
        "one": None,  # as `get` says of what is not there
        "pairs": [["key", None]],
        "struct": {"in": {"path": "a.png"}, "n": 1},
    }
    assert "one" not in found


@pytest.mark.parametrize(("name", "skip"), [("score", False), ("unsafe", True), ("error", True)])
def test_columns_of_the_users_are_not_replaced(
    predictor: Predictor, tmp_path: Path, name: str, skip: bool
) -> None:
    with pytest.raises(DataError, match=f"row 1: .* column '{name}' already; rename"):
        list(predictor.predict([{"text": "x", name: 1}], tmp_path, skip=skip))
    (line,) = predictor.predict([{"text": "x", "error": 1}], tmp_path)
    assert line["error"] == 1


def test_pictures_outside_are_read_where_that_is_allowed(
    predictor: Predictor, mixed_rows: Rows, tmp_path: Path
) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "picture.webp").write_bytes(next(filter(None, mixed_rows.images)))
    rows = [{"text": "x", "image": "../picture.webp"}, {"text": "x"}]
    found = list(predictor.predict(rows, tmp_path / "rows", allow_outside=True))
    assert found[0]["score"] != pytest.approx(found[1]["score"], abs=1e-4)


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    rows = [{"text": "one,\ntwo", "task": "a"}, {"text": "öäü", "task": "b"}]
    with (tmp_path / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "rows.jsonl").write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    for name in ("rows.csv", "rows.jsonl", "rows.parquet"):
        assert [dict(row) for row in iterate_rows(tmp_path / name)] == rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.txt", "", "must be one of"),
        ("rows.jsonl", "{", "line 1: Expecting property name"),
        ("rows.jsonl", "[1]", "row 1 must be an object"),
        ("rows.parquet", "x", "cannot be read as parquet"),
    ],
)
def test_files_that_cannot_be_read_are_explained(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        list(iterate_rows(tmp_path / name))
    with pytest.raises(DataError, match="no such file"):
        list(iterate_rows(tmp_path / "nowhere.csv"))


def test_lines_are_parsed_and_written_as_they_are() -> None:
    file = io.StringIO()
    lines = ['\ufeff{"text": "ö"}\n', "\n", '{"a": [1]}', '{"half": "\\ud800"}']
    assert write_lines(parse_lines([line.encode() for line in lines], "standard input"), file) == 3
    assert file.getvalue() == '{"text": "ö"}\n{"a": [1]}\n{"half": "\\ud800"}\n'
    file = io.StringIO()
    assert write_lines([{"a": float("nan"), "b": [float("inf"), 1.5]}], file) == 1
    assert file.getvalue() == '{"a": null, "b": [null, 1.5]}\n'
    with pytest.raises(DataError, match="standard input: line 1 is not UTF-8 text"):
        list(parse_lines([b"\xff\n"], "standard input"))


def test_a_folder_without_or_with_half_a_sidecar_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not an adapter exported by CoralX"):
        Predictor(tmp_path)
    (tmp_path / ADAPTER).touch()
    seal_adapter(tmp_path, [ADAPTER], {"threshold": 0.5})
    with pytest.raises(ModelError, match="incomplete or damaged"):
        Predictor(tmp_path)


@pytest.mark.parametrize("change", [{"threshold": 0.886}, {"text_column": "body"}, {"sha256": ""}])
def test_a_sidecar_that_was_changed_decides_nothing(
    folder: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    written = json.loads((tmp_path / SIDECAR).read_text(encoding="utf-8"))
    (tmp_path / SIDECAR).write_text(json.dumps(written | change), encoding="utf-8")
    with pytest.raises(ModelError, match=r"coralx\.json is damaged or was changed.*export"):
        Predictor(tmp_path, "cpu")


@pytest.fixture
def own_base(
    tiny_model: Callable[[str], Backbone],
    genome: Callable[..., Genome],
    draw_weights: Any,
    tmp_path: Path,
) -> tuple[Path, Path]:
    """A base model, and an adapter on it."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(tiny_model("bert").path, base)
    own, backbone = genome(r=2, layers=1), Backbone(str(base), torch.device("cpu"), torch.float32)
    facts = {**FACTS, "vision_tower": None, "base_model": str(base)}
    export_adapter(adapter, backbone, own, own.lora_cfg, draw_weights(backbone, own), facts)
    return base, adapter


def change_weights(base: Path) -> None:
    path = base / "model.safetensors"
    tensors = {name: value * 1.1 for name, value in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})


def test_a_base_that_was_changed_is_warned_of(own_base: tuple[Path, Path]) -> None:
    base, adapter = own_base
    said: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        Predictor(adapter, "cpu")
        Predictor(adapter, "cpu", say=said.append)
    change_weights(base)
    with pytest.warns(UserWarning, match=r"^the base model .*base is not the one that this"):
        Predictor(adapter, "cpu")
    Predictor(adapter, "cpu", say=said.append)
    assert said == [
        f"warning: the base model {base} is not the one that this adapter was trained on (its "
        "files are not the same): scores and the threshold mean little"
    ]


def test_a_base_that_has_moved_is_named(own_base: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = own_base
    wanted = Predictor(adapter, "cpu").score(["bake"])
    base.rename(tmp_path / "moved")
    with pytest.raises(ModelError, match=r"base: no such folder; .* with --base-model, in Python"):
        Predictor(adapter, "cpu")
    said: list[str] = []
    moved = Predictor(adapter, "cpu", say=said.append, base_model=tmp_path / "moved")
    assert moved.score(["bake"]) == wanted
    assert not said
    change_weights(tmp_path / "moved")
    Predictor(adapter, "cpu", say=said.append, base_model=str(tmp_path / "moved"))
    assert f"warning: the base model {tmp_path / 'moved'} is not the one" in said[0]


def test_predict_reads_a_base_that_has_moved_and_tells_if_it_changed(
    own_base: tuple[Path, Path], tmp_path: Path
) -> None:
    base, adapter = own_base
    base.rename(tmp_path / "moved")
    change_weights(tmp_path / "moved")
    (tmp_path / "rows.jsonl").write_text('{"text": "bake"}\n', encoding="utf-8")
    arguments = ["predict", str(adapter), str(tmp_path / "rows.jsonl")]
    assert CliRunner().invoke(app, arguments).exit_code == 2
    done = CliRunner().invoke(app, [*arguments, "--base-model", str(tmp_path / "moved")])
    assert done.exit_code == 0, done.output
    assert 0 < json.loads(done.stdout)["score"] < 1
    assert f"warning: the base model {tmp_path / 'moved'} is not the one" in done.stderr


def test_nothing_is_said_of_the_base_of_an_adapter_that_does_not_know_it(
    own_base: tuple[Path, Path],
) -> None:
    base, adapter = own_base
    facts = read_facts(adapter)
    del facts["base_digest"]
    seal_adapter(adapter, facts["files"], facts)
    change_weights(base)
    said: list[str] = []
    Predictor(adapter, "cpu", say=said.append)
    assert not said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"threshold": float("nan")}, "threshold: "),
        ({"threshold": "high"}, "threshold: "),
        ({"image_tokens": 10**9}, "image_tokens: .*less than or equal to 64, got 1000000000"),
        ({"max_tokens": 0}, "max_tokens: "),
        ({"lora_cfg": {"r": -1}}, "lora_cfg.r: "),
        ({"vision_tower": "resnet"}, "'resnet' is not known"),
        ({"base_model": "nowhere"}, "'nowhere' is no local folder"),
    ],
)
def test_a_spoiled_sidecar_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    facts = read_facts(folder)
    seal_adapter(tmp_path, facts["files"], facts | change)
    with pytest.raises(ModelError, match=said):
        Predictor(tmp_path, "cpu")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda name, value: value[..., :-1] if "lora_A" in name else value, "does not fit"),
        (lambda name, value: value[:-1] if "lora_A" in name else value, "does not fit"),
        (lambda name, value: None if "classifier.weight" in name else value, "does not fit"),
        (lambda name, value: value * torch.nan, "holds NaN or infinity"),
        (lambda name, value: value[0, 0] if "lora_A" in name else value, "does not fit"),
        (lambda name, value: value[None] if "lora_B" in name else value, "does not fit"),
        (lambda name, value: None if "lora_B" in name else value, "does not fit"),
        (lambda name, value: value.to(torch.float8_e4m3fn), "does not fit"),
        (lambda name, value: value.to(torch.complex64), "does not fit"),
        (lambda name, value: value.to(torch.int32), "does not fit"),
    ],
    ids=[
        "other width",
        "two ranks",
        "no head",
        "NaN",
        "number",
        "cube",
        "halves",
        "too few bits",
        "complex",
        "whole",
    ],
)
def test_weights_that_are_not_those_exported_are_refused(
    folder: Path, tmp_path: Path, spoil: Callable[[str, Any], Any], said: str
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "adapter_model.safetensors"
    spoiled = {name: spoil(name, value) for name, value in load_file(path).items()}
    save_file({k: v.contiguous() for k, v in spoiled.items() if v is not None}, path)
    facts = read_facts(folder)
    seal_adapter(tmp_path, facts["files"], facts)
    with pytest.raises(ModelError, match=said):
        Predictor(tmp_path, "cpu")


@pytest.mark.parametrize("mark", [b"lora_B", b"classifier.weight", b'"F32"', b'"data_offsets"'])
def test_weights_that_were_changed_are_refused_whatever_byte_it_is(
    mark: bytes, folder: Path, tmp_path: Path
) -> None:
    """Before anything is made of them."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    data = (tmp_path / ADAPTER).read_bytes()
    changed = data.replace(mark, mark[:-2] + bytes([mark[-2] ^ 1]) + mark[-1:], 1)
    (tmp_path / ADAPTER).write_bytes(changed)
    with pytest.raises(ModelError, match=f"{ADAPTER} is not as it was exported"):
        Predictor(tmp_path, "cpu")
    (tmp_path / ADAPTER).unlink()
    with pytest.raises(ModelError, match="the adapter cannot be read"):
        Predictor(tmp_path, "cpu")


def test_a_projector_that_was_not_exported_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    facts = read_facts(folder)
    seal_adapter(tmp_path, [ADAPTER], facts)
    with pytest.raises(ModelError, match=f"{PROJECTOR} is not as it was exported"):
        Predictor(tmp_path, "cpu")


def test_columns_are_those_of_training_unless_named(
    adapted: tuple[Genome, Any], backbone: Backbone, predictor: Predictor, tmp_path: Path
) -> None:
    own, weights = adapted
    facts = {**FACTS, "text_column": "body", "image_column": "shot"}
    export_adapter(tmp_path, backbone, own, own.lora_cfg, weights, facts)
    named = Predictor(tmp_path, "cpu")
    assert (named.text_column, named.image_column) == ("body", "shot")
    assert (predictor.text_column, predictor.image_column) == ("text", "image")
    (line,) = named.predict([{"body": "bake"}], tmp_path)
    assert [line["score"]] == pytest.approx(named.score(["bake"], [None]))
    (line,) = named.predict([{"words": "bake"}], tmp_path, "words")
    assert [line["score"]] == pytest.approx(named.score(["bake"], [None]))


def test_an_adapter_without_a_tower_says_once_that_pictures_are_not_looked_at(
    adapted: tuple[Genome, Any], backbone: Backbone, tmp_path: Path
) -> None:
    own, weights = adapted
    facts = {**FACTS, "vision_tower": None}
    export_adapter(tmp_path, backbone, own, own.lora_cfg, weights, facts)
    said: list[str] = []
    # How files say that there is none: a CSV cell, pandas, and what `datasets` writes.
    missing = [None, "", math.nan, {"bytes": None, "path": None}]
    rows = [{"text": "a", "image": image} for image in (*missing, "x.png", 1)]
    assert len(list(Predictor(tmp_path, "cpu", say=said.append).predict(rows, tmp_path))) == 6
    assert len(said) == 1
    assert "row 5 has a picture ('image')" in said[0]


def test_pictures_in_a_column_of_another_name_are_missed(folder: Path, tmp_path: Path) -> None:
    """Rows are scored on their text alone, which may be what was meant."""
    said: list[str] = []
    predictor = Predictor(folder, "cpu", say=said.append)
    assert predictor.reads_pictures
    list(predictor.predict([{"text": "a"}, {"text": "b", "image": None}], tmp_path))
    list(predictor.predict([], tmp_path))
    assert not said
    list(predictor.predict([{"text": "a", "pic": "x.png"}, {"text": "b"}], tmp_path))
    (line,) = said
    assert "no row has a column 'image', so all were scored on their text alone" in line


@pytest.mark.parametrize("trusted", [False, True])
def test_code_of_the_base_is_trusted_only_where_the_caller_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    asked: list[Any] = []

    def refuse(*arguments: Any) -> None:
        asked.append(arguments[-1])
        raise ModelError("seen")

    monkeypatch.setattr(module, "Backbone", refuse)
    with pytest.raises(ModelError, match="seen"):
        Predictor(folder, "cpu", trusted)
    assert asked == [trusted]


def test_the_base_is_loaded_in_the_format_that_it_was_trained_in(
    adapted: tuple[Genome, Any],
    backbone: Backbone,
    predictor: Predictor,
    build_pack: Any,
    tmp_path: Path,
) -> None:
    own, weights = adapted
    export_adapter(tmp_path, backbone, own, own.lora_cfg, weights, {**FACTS, "dtype": "bfloat16"})
    texts = ["how do i bake bread", "how do i break into a house"]
    found = Predictor(tmp_path, "cpu").score(texts, [None, None])
    rounded = Backbone("all-minilm-l6-v2", backbone.device, torch.bfloat16)
    rows = Rows(tuple(texts), np.zeros(2, np.int8), ("all", "all"), (None, None))
    batch = EncodedRows(rows, rounded, None, 24).batch([0, 1])
    with torch.no_grad():
        logits = score(rounded, build_pack([own], [weights], [0]), batch)[0]
    assert found == pytest.approx(torch.sigmoid(logits.double()).tolist(), abs=1e-3)
    assert found != pytest.approx(predictor.score(texts, [None, None]), abs=1e-5)


def test_features_of_pictures_are_not_kept_beyond_a_chunk(
    predictor: Predictor, mixed_rows: Rows
) -> None:
    for _ in range(2):
        predictor.score(mixed_rows.texts, mixed_rows.images)
    assert predictor._tower is not None
    assert not predictor._tower._known


def test_a_score_at_the_threshold_is_unsafe(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the figures count it that an export was chosen by."""
    (limit,) = predictor.score(["how to bake bread"], [None])
    monkeypatch.setattr(predictor, "threshold", limit)
    (line,) = predictor.predict([{"text": "how to bake bread"}], tmp_path, "text", "image")
    assert (line["score"], line["unsafe"]) == (limit, True)


def test_an_adapter_of_rslora_is_scored_at_its_own_scale(
    backbone: Backbone,
    genome: Callable[..., Genome],
    draw_weights: Any,
    build_pack: Any,
    text_rows: Rows,
    tmp_path: Path,
) -> None:
    own = genome(r=4, alpha=16, target_modules=("all-linear",), layers=2, use_rslora=True)
    weights = draw_weights(backbone, own, spread=0.05)
    facts = FACTS | {"vision_tower": None}
    export_adapter(tmp_path, backbone, own, own.lora_cfg, weights, facts)
    pack, batch = build_pack([own], [weights], [0]), EncodedRows(text_rows, backbone, None, 24)
    with torch.no_grad():
        logits = score(backbone, pack, batch.batch(range(16)))[0]
    found = Predictor(tmp_path, "cpu").score(text_rows.texts, text_rows.images)
    assert found == pytest.approx(torch.sigmoid(logits.double()).tolist(), abs=1e-5)
